//! From the call to the signal nothing is allocated; afterwards one piece of memory, for the confirmation.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::alloc::System;

use sls_core::{Action, Permission, PlannedAction, Target};
use support::{Child, CountingAllocator, allocations, granted, responder, start, without_inode};

#[global_allocator]
static ALLOCATOR: CountingAllocator<System> = CountingAllocator(System);

#[test]
fn executing_allocates_the_confirmation_and_nothing_else() {
    let mut responder = responder();
    // What it is executed for is made at the first call.
    let _ = start(&mut responder, &PlannedAction::new(Action::Kill, Target::Unidentified, Permission::DryRun));
    for action in [Action::Stop, Action::Kill] {
        for identity in [|target| target, without_inode] {
            let child = Child::sleeping();
            let planned = granted(action, identity(child.target()));
            let before = allocations();
            let execution = start(&mut responder, &planned);
            assert_eq!(allocations() - before, 1, "{action} {:?}", planned.target);
            assert_eq!(execution.finish().result.name(), "successful");
        }
    }
}
