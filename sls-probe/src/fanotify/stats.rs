//! What happened so far.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($( $name:ident $meaning:literal; )+) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters { $( pub(super) $name: AtomicU64, )+ }

        /// What a [`Fanotify`](super::Fanotify) has done so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct FanotifyStats {
            $( #[doc = $meaning] pub $name: u64, )+
            /// Operations that wait now.
            pub held: usize,
        }

        impl Counters {
            pub(super) fn read(&self, held: usize) -> FanotifyStats {
                FanotifyStats { $( $name: self.$name.load(Ordering::Relaxed), )+ held }
            }
        }
    };
}

counters! {
    questions "Times that the kernel asked.";
    own "Of them, those about this process and its children, which may do everything.";
    asked "Of them, those that somebody else than the first look had to decide.";
    allowed "Operations that went on.";
    denied "Operations that were refused.";
    late "Operations that nobody had decided in time, answered by their mode.";
    overflowed "Operations that found no room to wait, answered by the mode of the whole.";
    untaken "Answers that the kernel did not take.";
    unreadable "Questions that could not be read; the kernel refuses such an operation.";
    takeovers "Times that the keeper had to read for the reader, which was stuck.";
    marks_failed "Files and file systems that should be watched and could not.";
    namespaces_dropped "Processes whose mount namespaces were not looked into, because too many waited for that.";
    namespaces_forgotten "Mount namespaces that are no longer looked into, for want of room ([`MAX_MOUNT_NAMESPACES`](crate::MAX_MOUNT_NAMESPACES)).";
    namespaces_seen "Mount namespaces that were looked into because somebody told of them.";
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
