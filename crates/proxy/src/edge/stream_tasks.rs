//! Tasks for HTTP/2 streams, used again: the memory of an exchange is a few kilobytes, and moving that much into a new
//! task for every stream would be a good part of a stream's cost.
//!
//! Called by `h2_server.rs` for every stream. Which work a task does is the caller's.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::h2_server::{self, Job};
use crate::worker::Worker;

/// Tasks that a worker keeps while they have nothing to do.
const KEPT: usize = 128;

/// The tasks of one worker that wait for a stream.
#[derive(Default)]
pub(crate) struct StreamTasks {
    idle: RefCell<Vec<Rc<Slot>>>,
}

/// Where a waiting task finds its next stream.
#[derive(Default)]
struct Slot {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    async fn next(&self) -> Job {
        std::future::poll_fn(|cx| match self.job.borrow_mut().take() {
            Some(job) => Poll::Ready(job),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn give(&self, job: Job) {
        *self.job.borrow_mut() = Some(job);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Runs a stream on a task that waits, or on a new one.
pub(super) fn run(worker: &Rc<Worker>, job: Job) {
    let waiting = worker.stream_tasks.idle.borrow_mut().pop();
    match waiting {
        Some(slot) => slot.give(job),
        None => {
            tokio::task::spawn_local(serve(worker.clone(), job));
        }
    }
}

async fn serve(worker: Rc<Worker>, mut job: Job) {
    let slot = Rc::new(Slot::default());
    loop {
        h2_server::exchange(&worker, job).await;
        {
            let mut idle = worker.stream_tasks.idle.borrow_mut();
            if idle.len() >= KEPT {
                return;
            }
            idle.push(slot.clone());
        }
        job = slot.next().await;
    }
}
