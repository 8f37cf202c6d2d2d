//! Policies of every form with events made of their literals, and the comparison of what two matchers decide about them.
//! A case follows from a seed or from the bytes of a fuzzer.

mod choices;
mod compare;
mod events;
mod literals;
mod policies;

use std::net::IpAddr;

use serde_json::{Map, Value};
use sls_core::{Event, PolicyType};

pub(crate) use choices::Choices;
pub(crate) use compare::{Answer, Factory, answers, check, load};

use policies::Author;

/// A document, and the steps to take with what it loads to.
pub(crate) struct Case {
    pub(crate) document: Map<String, Value>,
    pub(crate) steps: Vec<Step>,
}

/// An event, after the domain names in lists were resolved.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) event: Event,
    /// What the names resolve to, one after the other, and again from the start.
    pub(crate) addresses: Vec<Vec<IpAddr>>,
    /// The policy that the event was made to match.
    pub(crate) target: String,
    /// What was changed in the step before that has no change.
    pub(crate) change: Option<&'static str>,
}

/// The types with the most to test.
const RICH: &[PolicyType] =
    &[PolicyType::Program, PolicyType::File, PolicyType::Connect, PolicyType::NetworkService, PolicyType::Container];

/// Events that are made to match, in each case.
const TARGETS: usize = 6;
/// Variants of each.
const VARIANTS: usize = 5;

/// A case of so many policies at most.
pub(crate) fn case(choices: &mut Choices<'_>, most: usize) -> Case {
    let mut author = Author::new(choices);
    let types: Vec<_> = match author.choices.below(4) {
        3 => PolicyType::ALL.to_vec(),
        more => {
            let one = |_| {
                let types = if author.choices.once_in(2) { RICH } else { PolicyType::ALL };
                *author.choices.pick(types)
            };
            (0..=more).map(one).collect()
        }
    };
    // Fewer and more than the matcher looks at one by one.
    let count = match author.choices.below(8) {
        0..=3 => 1 + author.choices.below(6),
        4..=6 => 8 + author.choices.below(40),
        _ => 60 + author.choices.below(140),
    };
    let plans: Vec<_> = (0..count.min(most))
        .map(|index| {
            let policy_type = *author.choices.pick(&types);
            author.policy(format!("P{index}"), policy_type)
        })
        .collect();
    let Author { choices, words, document, .. } = author;
    let mut steps = Vec::new();
    for _ in 0..TARGETS {
        let plan = choices.pick(&plans);
        let exact = events::matching(choices, &words, plan);
        for variant in 0..=VARIANTS {
            let mut event = exact.clone();
            let mut change = None;
            for _ in 0..variant.min(1 + choices.below(2)) {
                change = Some(events::change(choices, &words, &plans, &mut event));
            }
            let addresses = (0..choices.below(3)).map(|_| vec![events::resolved(choices, &event)]).collect();
            steps.push(Step { event, addresses, target: plan.name.clone(), change });
        }
    }
    Case { document, steps }
}
