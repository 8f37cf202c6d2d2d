//! What matching costs, policy by policy.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Target;
use super::{CompiledMatcher, KindMatcher, Observer};
use crate::evaluate::{Decision, Matcher};
use crate::event::{Event, EventKind};
use crate::policy::PolicySet;

/// A [`CompiledMatcher`] that measures what each policy costs. It decides the same, and takes two readings of the clock
/// more for an event, two for a policy that is asked, and one for a response.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use sls_core::{Event, EventKind, Field, Matcher, PolicySet, ProfilingMatcher};
///
/// /// A monotonic clock, in nanoseconds.
/// fn clock() -> u64 {
///     static TICKS: AtomicU64 = AtomicU64::new(0);
///     TICKS.fetch_add(1, Ordering::Relaxed)
/// }
///
/// let policies = PolicySet::from_yaml("p.yaml",
///     "No wget: {policy: program, rules: ['match programName == \"*/wget\"', default ignore]}")?;
/// let matcher = ProfilingMatcher::new(Arc::new(policies), clock);
/// let costs = matcher.costs();
/// for program in [&b"/usr/bin/wget"[..], b"/usr/bin/true"] {
///     let mut event = Event::new(EventKind::Exec);
///     event.set_text(Field::ProgramName, program);
///     matcher.decide(&event, &mut |_| ());
/// }
/// let wget = &costs.snapshot().policies[0];
/// assert_eq!((wget.events, wget.asked, wget.responded), (2, 1, 1));
/// # Ok::<(), sls_core::Diagnostics>(())
/// ```
pub struct ProfilingMatcher {
    matcher: CompiledMatcher,
    costs: Arc<MatchCosts>,
    clock: fn() -> u64,
}

impl ProfilingMatcher {
    /// Compiles the enabled policies of a set. `clock` gives the nanoseconds since some moment; it should be monotonic and
    /// cheap.
    #[must_use]
    pub fn new(policies: Arc<PolicySet>, clock: fn() -> u64) -> Self {
        let matcher = CompiledMatcher::new(policies);
        let costs = Arc::new(MatchCosts::of(&matcher));
        Self { matcher, costs, clock }
    }

    /// What this matcher measures, from now on and while it goes on.
    #[must_use]
    pub fn costs(&self) -> Arc<MatchCosts> {
        self.costs.clone()
    }
}

impl Matcher for ProfilingMatcher {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        let kind = event.kind as usize;
        let (Some(matcher), Some(counters)) = (&self.matcher.kinds[kind], &self.costs.kinds[kind]) else { return };
        let mut stopwatch = Stopwatch { counters, clock: self.clock, since: (self.clock)(), finding: 0 };
        matcher.decide(event, &mut stopwatch, decided);
        stopwatch.finish();
    }
}

impl fmt::Debug for ProfilingMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfilingMatcher").field("matcher", &self.matcher).finish_non_exhaustive()
    }
}

/// What a [`ProfilingMatcher`] has measured so far. Any thread may read it while others match. The counts of one
/// [snapshot](Self::snapshot) are not taken at one moment.
#[derive(Debug)]
pub struct MatchCosts {
    /// By kind of event.
    kinds: [Option<KindCounters>; EventKind::ALL.len()],
}

impl MatchCosts {
    fn of(matcher: &CompiledMatcher) -> Self {
        Self { kinds: std::array::from_fn(|kind| matcher.kinds[kind].as_deref().map(KindCounters::new)) }
    }

    /// What was measured so far, the dearest first.
    #[must_use]
    pub fn snapshot(&self) -> CostSnapshot {
        let mut policies: Vec<PolicyCost> = Vec::new();
        let mut kinds = Vec::new();
        // One policy can be raised by several kinds.
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (kind, counters) in EventKind::ALL.iter().zip(&self.kinds) {
            let Some(counters) = counters else { continue };
            let events = read(&counters.events);
            kinds.push(KindCost { kind: *kind, events, nanoseconds: read(&counters.finding) });
            for counters in &counters.policies {
                let place = *places.entry(&counters.policy).or_insert_with(|| {
                    policies.push(PolicyCost::none(counters.policy.clone()));
                    policies.len() - 1
                });
                let cost = &mut policies[place];
                cost.events += events;
                cost.asked += read(&counters.asked);
                cost.responded += read(&counters.responded);
                cost.nanoseconds += read(&counters.nanoseconds);
            }
        }
        // Stable, so that equals stay in the order of the documents.
        policies.sort_by_key(|cost| std::cmp::Reverse((cost.nanoseconds, cost.asked)));
        kinds.sort_by_key(|cost| std::cmp::Reverse((cost.nanoseconds, cost.events)));
        CostSnapshot { policies, kinds }
    }
}

/// What matching has cost up to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CostSnapshot {
    /// Every enabled policy, the dearest first.
    pub policies: Vec<PolicyCost>,
    /// Every kind of event that raises one of them, the dearest first.
    pub kinds: Vec<KindCost>,
}

impl CostSnapshot {
    /// The nanoseconds of all policies and kinds together.
    #[must_use]
    pub fn nanoseconds(&self) -> u64 {
        let policies = self.policies.iter().map(|cost| cost.nanoseconds);
        policies.chain(self.kinds.iter().map(|cost| cost.nanoseconds)).sum()
    }
}

/// What one policy has cost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyCost {
    /// Its name.
    pub policy: Arc<str>,
    /// How many events there were of the kinds that can raise it. A rename counts under each of its names.
    pub events: u64,
    /// For how many of them its rules were evaluated.
    pub asked: u64,
    /// To how many it responded, or might have.
    pub responded: u64,
    /// Nanoseconds that the evaluation of its rules took, without finding out that it was to be asked, and without what
    /// was done in response.
    pub nanoseconds: u64,
}

impl PolicyCost {
    fn none(policy: Arc<str>) -> Self {
        Self { policy, events: 0, asked: 0, responded: 0, nanoseconds: 0 }
    }
}

/// What events of one kind have cost, beside the rules of the policies that were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindCost {
    /// The kind.
    pub kind: EventKind,
    /// How many there were. A rename counts under each of its names.
    pub events: u64,
    /// Nanoseconds that it took to find the policies to ask.
    pub nanoseconds: u64,
}

#[derive(Debug)]
struct KindCounters {
    policies: Box<[PolicyCounters]>,
    events: AtomicU64,
    finding: AtomicU64,
}

impl KindCounters {
    fn new(matcher: &KindMatcher) -> Self {
        let policies = matcher.policies.iter().map(|policy| PolicyCounters {
            policy: policy.name.clone(),
            asked: AtomicU64::default(),
            responded: AtomicU64::default(),
            nanoseconds: AtomicU64::default(),
        });
        Self { policies: policies.collect(), events: AtomicU64::default(), finding: AtomicU64::default() }
    }
}

#[derive(Debug)]
struct PolicyCounters {
    policy: Arc<str>,
    asked: AtomicU64,
    responded: AtomicU64,
    nanoseconds: AtomicU64,
}

/// Measures one event.
struct Stopwatch<'a> {
    counters: &'a KindCounters,
    clock: fn() -> u64,
    since: u64,
    finding: u64,
}

impl Stopwatch<'_> {
    /// The nanoseconds since the last lap.
    fn lap(&mut self) -> u64 {
        let now = (self.clock)();
        let lap = now.saturating_sub(self.since);
        self.since = now;
        lap
    }

    fn finish(mut self) {
        self.finding += self.lap();
        add(&self.counters.finding, self.finding);
        add(&self.counters.events, 1);
    }
}

impl Observer for Stopwatch<'_> {
    fn asking(&mut self) {
        self.finding += self.lap();
    }

    fn asked(&mut self, policy: Target, responds: bool) {
        let lap = self.lap();
        if let Some(counters) = self.counters.policies.get(policy as usize) {
            add(&counters.asked, 1);
            add(&counters.responded, responds.into());
            add(&counters.nanoseconds, lap);
        }
    }

    fn responded(&mut self) {
        self.lap();
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
