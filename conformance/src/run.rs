//! Runs one case from its scene to its report. Called by `main`, for several cases at once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;
use transept_testkit::launch::Launch;

use crate::addresses::Addresses;
use crate::case::{Case, NumberedStep};
use crate::certificates::CertificateStore;
use crate::report::{CaseReport, Outcome, StepReport};
use crate::scene::Scene;
use crate::scope::Decision;
use crate::steps::Stage;
use crate::suite::Suite;

/// The binary may take this long until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// So many of the last lines of the log go into the report of a failure.
const LOG_LINES: usize = 40;

/// What all cases of a run share.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The suite.
    pub suite: &'a Suite,
    /// Its certificates.
    pub certificates: &'a CertificateStore,
    /// The binary.
    pub binary: PathBuf,
    /// Where the worlds are written, one directory per case.
    pub directory: &'a Path,
    /// Worker threads of the binary.
    pub workers: usize,
    /// How long something may take to become right.
    pub patience: Duration,
    /// Also run the steps that are only meant for an API server.
    pub apiserver_steps: bool,
}

impl Run<'_> {
    /// Runs a case as decided. `number` gives it its addresses.
    pub(crate) async fn case(&self, number: u8, case: &Case, decision: Decision) -> CaseReport {
        let start = Instant::now();
        let mut report = CaseReport::new(case);
        match decision {
            Decision::NotInScope(why) => (report.outcome, report.reason) = (Outcome::NotInScope, Some(why)),
            Decision::NothingToDo(why) => (report.outcome, report.reason) = (Outcome::Passed, Some(why)),
            Decision::Replay(steps) => {
                if let Err(why) = self.replay(number, case, steps, &mut report).await {
                    report.outcome = Outcome::Failed;
                    report.reason = Some(format!("{why:#}"));
                }
            }
        }
        report.seconds = start.elapsed().as_secs_f64();
        report
    }

    async fn replay(&self, number: u8, case: &Case, steps: Vec<NumberedStep>, report: &mut CaseReport) -> Result<()> {
        let directory = self.directory.join(&case.name);
        let addresses = Addresses::of_case(number);
        let scene = Scene::set(self.suite, self.certificates, case, addresses, &directory)
            .await
            .context("the scene cannot be set")?;
        let gateway = Launch::run(&self.binary, [scene.world.directory()])
            .argument("--access-log=off")
            .argument("--workers")
            .argument(self.workers.to_string())
            .start(START_LIMIT)
            .await?;
        let mut stage = Stage {
            scene,
            gateway,
            certificates: self.certificates,
            patience: self.patience,
            generations: HashMap::new(),
        };
        for step in &steps {
            let done = self.step(&mut stage, step).await;
            let failed = done.outcome == Outcome::Failed;
            report.steps.push(done);
            if failed {
                report.outcome = Outcome::Failed;
                report.log = last_lines(&stage.gateway.log());
                return Ok(());
            }
        }
        let log = last_lines(&stage.gateway.log());
        match stage.gateway.stop(STOP_LIMIT).await {
            Ok(ended) if ended.success() => Ok(()),
            Ok(ended) => {
                report.log = log;
                anyhow::bail!("all steps passed, but the binary ended with {ended}")
            }
            Err(why) => {
                report.log = log;
                Err(why).context("all steps passed, but the binary did not stop")
            }
        }
    }

    async fn step(&self, stage: &mut Stage<'_>, step: &NumberedStep) -> StepReport {
        let start = Instant::now();
        let (outcome, complaints) = if step.only_apiserver && !self.apiserver_steps {
            (Outcome::NotInScope, Vec::new())
        } else {
            match stage.run(step).await {
                Ok(()) => (Outcome::Passed, Vec::new()),
                Err(complaints) => (Outcome::Failed, complaints),
            }
        };
        StepReport {
            number: step.number,
            kind: step.kind.clone(),
            outcome,
            seconds: start.elapsed().as_secs_f64(),
            complaints,
        }
    }
}

/// The end of a log.
pub(crate) fn last_lines(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().collect();
    let start = lines.len().saturating_sub(LOG_LINES);
    lines[start..].iter().map(|line| (*line).to_owned()).collect()
}
