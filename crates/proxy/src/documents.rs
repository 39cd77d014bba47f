//! Keeps the documents of identity providers fresh: their keys, and where what is.
//!
//! When a document is due, and what an answer means, is the engine's (`transept_engine::document`). Here it is fetched: by a task of the first
//! worker when its time comes, and by the worker whose request needs it when a policy asks. One fetch at a time over all workers; it belongs
//! to no request, so a client that goes away ends none, and everybody who waits is woken when it is over. Fetches go through the pools of a
//! worker, as callouts do. Nothing waits for them but requests that cannot be decided without; readiness does not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use transept_engine::document::{Document, DocumentState, Documents, Fetch, Occasion, Step};

use crate::callout::ask;
use crate::worker::Worker;

/// How long a request waits for a fetch.
const PATIENCE: Duration = Duration::from_secs(6);

/// When nothing is due, documents are looked at this often all the same.
const LOOK: Duration = Duration::from_secs(60);

/// Fetches every document when its time comes, for as long as the worker lives.
pub(crate) async fn keep_fresh(worker: Rc<Worker>) {
    loop {
        let (refreshed, fetched) = (worker.refreshed.notified(), worker.shared.fetched.notified());
        let documents = Documents::of(&worker.snapshot().keep);
        let mut next = LOOK;
        for document in documents.all() {
            let now = worker.clock.now().monotonic;
            if let Some(fetch) = document.begin(&Occasion::Due, now) {
                start(&worker, fetch);
            } else if !document.is_flying() {
                next = next.min(document.due().saturating_sub(now));
            }
        }
        tokio::select! {
            () = refreshed => {}
            () = fetched => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}

/// Fetches a document, or waits for the fetch that is under way.
pub(crate) async fn refresh(worker: &Rc<Worker>, document: &Arc<Document>, occasion: &Occasion) {
    if let Some(fetch) = document.begin(occasion, worker.clock.now().monotonic) {
        start(worker, fetch);
    }
    let over = async {
        loop {
            // Made before it is looked: a fetch that ends in between is not missed.
            let fetched = worker.shared.fetched.notified();
            if !document.is_flying() {
                return;
            }
            fetched.await;
        }
    };
    // Who waits no longer finds what there is.
    let _ = tokio::time::timeout(PATIENCE, over).await;
}

fn start(worker: &Rc<Worker>, fetch: Fetch) {
    tokio::task::spawn_local(fly(worker.clone(), fetch));
}

async fn fly(worker: Rc<Worker>, mut fetch: Fetch) {
    let was_failing = fetch.document().error().is_some();
    let label = fetch.document().label.clone();
    let mut step = fetch.first();
    let outcome = loop {
        match step {
            Step::Ask(call) => {
                let answer = ask(&worker, &call, None).await;
                step = fetch.take(answer, worker.clock.now().monotonic);
            }
            Step::Over(outcome) => break outcome,
        }
    };
    drop(fetch);
    worker.shared.fetched.notify_waiters();
    match outcome {
        Err(why) if !was_failing => {
            tracing::warn!(document = %label, %why, "a document of a provider could not be fetched; what was known stays in use for a day");
        }
        Ok(()) if was_failing => tracing::info!(document = %label, "the document is fetched again"),
        _ => {}
    }
}

/// Appends what is counted about documents, in the Prometheus text format.
pub(crate) fn write_metrics(documents: &[DocumentState], out: &mut String) {
    if documents.is_empty() {
        return;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# HELP transept_document_fetches_total Fetches of documents of identity providers, by what came of them.\n\
         # TYPE transept_document_fetches_total counter"
    );
    // What one URL says may be asked of several servers, or for several issuers: these are one series.
    let mut by_label: BTreeMap<&str, (u64, u64, Option<Duration>)> = BTreeMap::new();
    for one in documents {
        let (good, failed, oldest) = by_label.entry(&one.label).or_default();
        *good += one.fetched;
        *failed += one.failed;
        *oldest = (*oldest).max(one.age);
    }
    for (label, (good, failed, _)) in &by_label {
        let label = escape(label);
        for (result, count) in [("good", good), ("failed", failed)] {
            let _ =
                writeln!(out, "transept_document_fetches_total{{document=\"{label}\",result=\"{result}\"}} {count}");
        }
    }
    let _ = writeln!(
        out,
        "# HELP transept_document_age_seconds How long ago the document in use was fetched.\n\
         # TYPE transept_document_age_seconds gauge"
    );
    for (label, (_, _, oldest)) in &by_label {
        if let Some(age) = oldest {
            let _ = writeln!(out, "transept_document_age_seconds{{document=\"{}\"}} {}", escape(label), age.as_secs());
        }
    }
}

/// A text as the value of a label of the Prometheus text format.
pub(crate) fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_one_url_are_one_series() {
        let one = |label: &str, fetched, age| DocumentState {
            label: label.into(),
            age,
            keys: 1,
            fetched,
            failed: 1,
            error: None,
            remarks: Vec::new(),
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let mut out = String::new();
        write_metrics(
            &[one("https://a.test/k", 2, None), one("https://a.test/k", 3, seconds(7)), one("b", 1, None)],
            &mut out,
        );
        let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "transept_document_fetches_total{document=\"b\",result=\"good\"} 1",
                "transept_document_fetches_total{document=\"b\",result=\"failed\"} 1",
                "transept_document_fetches_total{document=\"https://a.test/k\",result=\"good\"} 5",
                "transept_document_fetches_total{document=\"https://a.test/k\",result=\"failed\"} 2",
                "transept_document_age_seconds{document=\"https://a.test/k\"} 7",
            ]
        );
    }
}
