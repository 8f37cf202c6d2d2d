//! Operations that wait for a verdict, on the real kernel. Needs root. Every test has a file system of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod bypass;
mod deadlock;
mod marks;
mod matcher;
mod support;
mod survival;
mod verdicts;
