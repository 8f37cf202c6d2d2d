//! Steps up at once, steps down when it was calm for a while.

use super::{CALM_WINDOWS, MAX_CALM_WINDOWS};

/// How a window was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Low,
    /// Neither reason for a step up nor for one down.
    Fair,
    High,
}

/// A step between 0 and `top`.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    step: usize,
    top: usize,
    /// Calm windows in a row.
    calm: u32,
    /// As many are needed for a step down.
    needed: u32,
    /// Windows since the last step down; none if there was no such step yet, or it has proved right.
    since_down: Option<u32>,
}

impl Ladder {
    pub(super) fn new(top: usize) -> Self {
        Self { step: 0, top, calm: 0, needed: CALM_WINDOWS, since_down: None }
    }

    pub(super) fn step(&self) -> usize {
        self.step
    }

    pub(super) fn is_at_top(&self) -> bool {
        self.step == self.top
    }

    /// Takes in a window, and says whether that makes another step.
    pub(super) fn take(&mut self, load: Load) -> bool {
        self.since_down = self.since_down.map(|windows| windows.saturating_add(1));
        // What held as long as it took to dare it has proved right.
        if self.step == 0 && self.since_down.is_some_and(|windows| windows > self.needed) {
            self.since_down = None;
            self.needed = CALM_WINDOWS;
        }
        self.calm = if load == Load::Low { self.calm.saturating_add(1) } else { 0 };
        match load {
            Load::High if self.step < self.top => {
                if self.since_down.take().is_some() {
                    self.needed = (self.needed * 2).min(MAX_CALM_WINDOWS);
                }
                self.step += 1;
                true
            }
            Load::Low if self.step > 0 && self.calm >= self.needed => {
                self.step -= 1;
                self.calm = 0;
                self.since_down = Some(0);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows_until_down(ladder: &mut Ladder) -> u32 {
        (1..).find(|_| ladder.take(Load::Low)).unwrap()
    }

    #[test]
    fn a_step_down_that_was_too_early_takes_longer_the_next_time() {
        let mut ladder = Ladder::new(1);
        let mut waited = Vec::new();
        for _ in 0..6 {
            assert!(ladder.take(Load::High));
            waited.push(windows_until_down(&mut ladder));
        }
        assert_eq!(waited, [3, 6, 12, 24, 48, MAX_CALM_WINDOWS]);
    }

    #[test]
    fn a_step_down_that_held_is_forgiven() {
        let mut ladder = Ladder::new(1);
        for _ in 0..2 {
            assert!(ladder.take(Load::High));
            windows_until_down(&mut ladder);
        }
        for _ in 0..7 {
            assert!(!ladder.take(Load::Low));
        }
        assert!(ladder.take(Load::High));
        assert_eq!(windows_until_down(&mut ladder), CALM_WINDOWS);
    }

    #[test]
    fn a_window_that_is_only_fair_begins_the_calm_anew() {
        let mut ladder = Ladder::new(1);
        assert!(ladder.take(Load::High));
        assert!(!ladder.take(Load::Low) && !ladder.take(Load::Low) && !ladder.take(Load::Fair));
        assert_eq!(windows_until_down(&mut ladder), CALM_WINDOWS);
    }
}
