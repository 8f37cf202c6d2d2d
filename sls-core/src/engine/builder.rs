//! How an engine is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::losses::LossLedger;
use super::repair::Repairs;
use super::{Engine, EngineStats, Host};
use crate::alert::AlertContext;
use crate::breaker::BreakerLimits;
use crate::enforcement::HeldResponses;
use crate::evaluate::Matcher;
use crate::history::{DEFAULT_CHANGED_FILE_LIMIT, History};
use crate::matcher::CompiledMatcher;
use crate::planner::{ActionPlanner, GuardedPlanner};
use crate::policy::PolicySet;
use crate::process_table::{DEFAULT_PROCESS_LIMIT, ProcessTable};
use crate::pursuit::Pursuits;
use crate::restraint::Restraints;
use crate::suppression::Suppression;

/// Makes the matcher of a set of policies.
pub type MatcherFactory = Box<dyn Fn(Arc<PolicySet>) -> Box<dyn Matcher> + Send>;

/// Builds an [`Engine`].
pub struct EngineBuilder {
    policies: Arc<PolicySet>,
    planner: Arc<dyn ActionPlanner>,
    factory: MatcherFactory,
    host: Host,
    dry_run: bool,
    process_limit: usize,
    changed_file_limit: usize,
    breaker: BreakerLimits,
    warm_up: Duration,
    suppress_duplicates: Duration,
}

impl EngineBuilder {
    pub(super) fn new(policies: Arc<PolicySet>) -> Self {
        Self {
            policies,
            planner: Arc::new(GuardedPlanner::default()),
            factory: Box::new(|policies| Box::new(CompiledMatcher::new(policies))),
            host: Host::default(),
            dry_run: false,
            process_limit: DEFAULT_PROCESS_LIMIT,
            changed_file_limit: DEFAULT_CHANGED_FILE_LIMIT,
            breaker: BreakerLimits::default(),
            warm_up: Duration::ZERO,
            suppress_duplicates: Duration::ZERO,
        }
    }

    /// Replaces the planner; the default is a [`GuardedPlanner`] with the default guards.
    #[must_use]
    pub fn planner(mut self, planner: impl ActionPlanner + 'static) -> Self {
        self.planner = Arc::new(planner);
        self
    }

    /// Replaces the matcher; the default is a [`CompiledMatcher`].
    #[must_use]
    pub fn matcher(mut self, factory: impl Fn(Arc<PolicySet>) -> Box<dyn Matcher> + Send + 'static) -> Self {
        self.factory = Box::new(factory);
        self
    }

    /// Says where the engine works.
    #[must_use]
    pub fn host(mut self, host: Host) -> Self {
        self.host = host;
        self
    }

    /// Puts the whole engine in dry run: actions are planned, guarded and reported, none is carried out.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// The most processes that the engine remembers. Default [`DEFAULT_PROCESS_LIMIT`].
    #[must_use]
    pub fn process_limit(mut self, limit: usize) -> Self {
        self.process_limit = limit;
        self
    }

    /// The most entries about changed files that the engine remembers for `newFileExec` policies; a file has up to two.
    /// Default [`DEFAULT_CHANGED_FILE_LIMIT`].
    #[must_use]
    pub fn changed_file_limit(mut self, limit: usize) -> Self {
        self.changed_file_limit = limit;
        self
    }

    /// When the circuit breaker trips. The default is that of [`BreakerLimits`].
    #[must_use]
    pub fn breaker(mut self, limits: BreakerLimits) -> Self {
        self.breaker = limits;
        self
    }

    /// How long a policy only dry-runs that is new, or that decides otherwise after a reload, from the first event after it
    /// was loaded. Default zero: it acts at once.
    #[must_use]
    pub fn warm_up(mut self, warm_up: Duration) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// For how long after an alert others of the same policy about the same execution, a process from one exec to the next, are
    /// counted instead of sent. They come as one alert with their number ([`Alert::repeated`](crate::Alert::repeated)), at the latest with
    /// [`Engine::tick`] or [`Engine::finish`], which have to be called then. Never counted are the first, and alerts with an
    /// action that was not a dry run or refused. Default zero: every alert is sent.
    ///
    /// Only the first of those that are counted is seen whole: what else the process did, such as to which other files, is not.
    #[must_use]
    pub fn suppress_duplicates(mut self, window: Duration) -> Self {
        self.suppress_duplicates = window;
        self
    }

    /// The engine.
    #[must_use]
    pub fn build(self) -> Engine {
        let matcher = (self.factory)(self.policies.clone());
        Engine {
            context: AlertContext::new(self.host, self.policies.hash()),
            history: History::new(&self.policies, self.changed_file_limit),
            restraints: Restraints::new(self.breaker, self.warm_up, &self.policies),
            losses: LossLedger::new(&self.policies),
            repairs: Repairs::default(),
            policies: self.policies,
            planner: self.planner,
            factory: self.factory,
            matcher,
            processes: ProcessTable::new(self.process_limit),
            held_responses: HeldResponses::default(),
            pursuits: Pursuits::default(),
            suppression: Suppression::new(self.suppress_duplicates),
            dry_run: self.dry_run,
            detections: Vec::new(),
            stats: EngineStats::default(),
        }
    }
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("planner", &self.planner)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}
