//! The `mirror_distribution` step: how many requests were copied (section 3.5).

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::time::{sleep, timeout};
use transept_testkit::client::{self, Endpoint};

use super::http::{expecting_query, judge, prepare, with_query};
use super::{Stage, uuid};
use crate::case::{MirrorDistribution, Scheme};
use crate::converge::{Attempt, REQUEST_LIMIT};

impl Stage<'_> {
    pub(super) async fn mirror_distribution(&self, step: &MirrorDistribution) -> Result<(), String> {
        let endpoint = Endpoint::http1(self.dial(&step.gateway, step.port).await?);
        let log = self.scene.log(&step.mirror.namespace, &step.mirror.backend).map_err(|why| format!("{why:#}"))?;
        let mut last = "no try at all".to_owned();
        for number in 0..step.max_tries {
            if number > 0 {
                sleep(Duration::from_secs(step.pause_between_tries_s)).await;
            }
            let query = format!("{}={}", step.unique_query, uuid());
            let target = with_query(&step.request.path, Some(&query));
            self.send_all(&endpoint, step, &target, &query).await?;
            // At once: copies that are still on their way do not count.
            let copies = log.count(&target);
            if (step.min_count..=step.max_count).contains(&copies) {
                return Ok(());
            }
            last = format!("{copies} copies instead of {} to {}", step.min_count, step.max_count);
        }
        Err(last)
    }

    async fn send_all(
        &self,
        endpoint: &Endpoint,
        step: &MirrorDistribution,
        target: &str,
        query: &str,
    ) -> Result<(), String> {
        let expect = &expecting_query(&step.expect, query);
        futures_util::stream::iter(0..step.requests)
            .map(|_| async move {
                let mut last = String::new();
                let repeating = async {
                    loop {
                        let (request, sent) = prepare(endpoint.address, Scheme::Http, &step.request, target);
                        let exchange = client::exchange(endpoint, &request).await;
                        match judge(expect, &sent, &exchange, None) {
                            Attempt::Pass => return,
                            Attempt::Retry(why) | Attempt::Final(why) => last = why,
                        }
                    }
                };
                let passed = timeout(REQUEST_LIMIT, repeating).await;
                passed.map_err(|_| last)
            })
            .buffer_unordered(step.concurrency)
            .try_collect()
            .await
    }
}
