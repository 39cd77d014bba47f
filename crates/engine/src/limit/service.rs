//! What a rate limit service that is asked over the network has said of its limits, for the response.
//!
//! Written by `policies/rate_limit_service.rs`. Whether such a service answers is `services.rs`'s.

use std::time::Duration;

use transept_wire::head::{FieldName, Response};

use super::fields::{Label, Shown, clear, show, tells_of_limits};
use super::touched::Touched;

/// A limit as a service has told it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) label: Label,
    pub(crate) standing: super::Standing,
    /// When there is room again, of one that refused and says so.
    pub(crate) wait: Option<Duration>,
    /// Whether the service says when there is as much as at first.
    pub(crate) timed: bool,
}

/// What a service has said that the response tells.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) limits: Vec<Served>,
    pub(crate) fields: Vec<(FieldName, Vec<u8>)>,
    /// The fields that are to be there once.
    pub(crate) only: Vec<(FieldName, Vec<u8>)>,
}

impl Heard {
    /// Tells it. Where the service has fields of its own about limits, they are its word, and its numbers are not told beside them.
    pub(crate) fn tell(&self, touched: &mut Touched, response: &mut Response) {
        if self.fields.iter().any(|(name, _)| tells_of_limits(name)) {
            clear(touched, response);
        } else {
            show(self.limits.iter().map(Served::shown), touched, response);
        }
        // A value that no field can have is left out.
        for (name, value) in &self.fields {
            let _ = response.fields.push(name, value);
        }
        for (name, value) in &self.only {
            let _ = response.fields.set(name, value);
        }
    }
}

impl Served {
    fn shown(&self) -> Shown<'_> {
        Shown { label: &self.label, standing: self.standing, wait: self.wait, partition: None, timed: self.timed }
    }
}
