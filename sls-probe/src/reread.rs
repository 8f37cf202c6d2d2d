//! Another look at all processes, for whoever lost events that told of them.

use std::io;

use sls_core::Event;

use crate::error::ProbeError;
use crate::snapshot::Snapshot;

/// A pass over all processes beside the events that come meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Reread {
    pass: Option<Snapshot>,
    failure: Option<io::Error>,
}

impl Reread {
    pub(crate) fn begin(&mut self, pass: Snapshot) {
        *self = Self { pass: Some(pass), failure: None };
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.pass.is_some()
    }

    /// Gives the processes that the kernel hands out at once, which it does in parts of some 100.
    pub(crate) fn step(&mut self, event: &mut Event, handle: &mut dyn FnMut(&mut Event, Option<u64>)) {
        let Some(pass) = &mut self.pass else { return };
        match pass.step(event, handle) {
            Ok(true) => {}
            Ok(false) => self.pass = None,
            Err(error) => *self = Self { pass: None, failure: Some(error) },
        }
    }

    /// Whether every process was given. A failure is told once.
    pub(crate) fn done(&mut self) -> Result<bool, ProbeError> {
        match self.failure.take() {
            Some(source) => Err(ProbeError::Snapshot { source }),
            None => Ok(self.pass.is_none()),
        }
    }
}
