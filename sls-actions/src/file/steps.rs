//! Where a process may be interrupted: tests look on, and end it there.

#[cfg(test)]
use std::sync::Arc;

/// Told of each step once it is done.
#[derive(Clone, Default)]
pub(super) struct Steps {
    #[cfg(test)]
    pub(super) observer: Option<Arc<dyn Fn(&'static str) + Send + Sync>>,
}

impl Steps {
    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    pub(super) fn done(&self, _: &'static str) {}

    #[cfg(test)]
    pub(super) fn done(&self, step: &'static str) {
        if let Some(observer) = &self.observer {
            observer(step);
        }
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Steps")
    }
}
