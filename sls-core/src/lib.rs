#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod action;
mod alert;
mod breaker;
mod bytes;
mod capabilities;
mod check;
mod condition;
mod delivery;
mod dependence;
mod diagnostic;
mod enforcement;
mod engine;
mod evaluate;
mod event;
mod event_clock;
mod event_json;
mod explain;
mod governor;
mod guard;
mod history;
mod hold;
mod hook;
mod interest;
#[cfg(feature = "json-schema")]
mod json_schema;
mod keys;
mod limits;
mod lint;
mod list;
mod loader;
mod loss;
mod lowering;
mod matcher;
mod pattern;
mod planner;
mod plugin;
mod policy;
mod policy_test;
mod probe_argument;
mod process_table;
mod pursuit;
mod responders;
mod restraint;
mod rule;
mod schema;
mod suppression;
mod syntax;
mod tiers;
mod trigger;
mod truth;
mod warm_up;

pub use action::{
    Action, ActionOutcome, ActionResult, ActionSet, CustomAction, MAX_CUSTOM_ACTIONS, Permission, PlannedAction,
    Refusal, Target, TargetType, Tier,
};
pub use alert::{
    Alert, FileInfo, Location, MAX_ALERT_LINEAGE, MAX_ANCESTOR_TEXT, MAX_PROCESS_TEXT, MessageFields, NOT_AVAILABLE,
    NetworkInfo, Notification, ProcessInfo, Scope,
};
pub use breaker::{BreakerLimits, CIRCUIT_BREAKER, MAX_BREAKER_TARGETS};
pub use capabilities::{Capabilities, ENGINE_FIELDS};
pub use condition::{
    AffectedPolicy, MAX_CONDITION_ATTEMPTS, MAX_CONDITION_POLICIES, SensorCondition, TamperingAttempt,
};
pub use delivery::{AlertTransport, Backoff, EncodedAlert};
pub use diagnostic::{Code, Diagnostic, Diagnostics, Severity, Span, Suggestion};
pub use enforcement::{Effect, Enforced, HeldDecision, HeldVerdict, MAX_HELD_RESPONSES};
pub use engine::{
    DryRunResponder, Engine, EngineBuilder, EngineStats, Host, LOSS_REPORT_INTERVAL, MatcherFactory, PendingAlert,
    REPAIR_INTERVAL,
};
pub use evaluate::{Decision, Matcher, TreeMatcher};
pub use event::{Event, EventKind, Items, MAX_ANCESTORS, MAX_ITEMS, ProcessKey, Value};
pub use event_json::{EventError, EventReadError, EventReader, MAX_EVENT_LINE, UnknownKeys};
pub use explain::{ActionExplanation, Explanation, RuleExplanation, TestExplanation};
pub use governor::{
    CALM_WINDOWS, DEFAULT_CPU_PPM, DEFAULT_GOVERNOR_WINDOW, DEFAULT_MEMORY_BYTES, Economy, Governor, GovernorLimits,
    MAX_CALM_WINDOWS, Retention, Usage,
};
pub use guard::{Guard, Guards, HOST_PID_NAMESPACE, Protected};
pub use history::{DEFAULT_CHANGED_FILE_LIMIT, MAX_CRASHING_PROGRAMS, MAX_REPORTED_FILES};
pub use hold::{HeldPath, HeldPaths, Hold, MAX_HELD_PATHS};
pub use hook::{
    Hook, KernelLimits, MAX_KERNEL_ENTRIES, MAX_KERNEL_PATH, MAX_KERNEL_POLICIES, MAX_KERNEL_RULES, MAX_KERNEL_TESTS,
    MAX_KERNEL_TOTAL_ENTRIES, Mechanism,
};
pub use interest::{Interest, MAX_INTEREST_PATHS, MAX_INTEREST_PORTS, PathInterest, ProbePoint};
#[cfg(feature = "json-schema")]
pub use json_schema::document_schema;
pub use keys::{KeyKind, KeySpec, LIST_KEYS, OVERRIDE_KEYS, POLICY_KEYS};
pub use limits::Limits;
pub use list::{HostName, List, ListType, MAX_HOST_ADDRESSES};
pub use loader::PolicyLoader;
pub use loss::{Lane, Loss, LossCause, Shedding};
pub use lowering::{KernelPolicy, KernelRule, KernelSet, KernelTest, KernelVerdict, Obstacle, PathSet};
pub use matcher::{
    CompiledMatcher, CostSnapshot, KindCost, MatchCosts, PolicyCost, ProfilingMatcher, ReloadableMatcher,
};
pub use planner::{ActionPlanner, GuardedPlanner, MAX_ACTIONS, MessageType, Plan, PlanContext};
pub use plugin::{
    ActionContext, AlertSink, BoxError, Confirmation, EventSource, Execution, Protection, Responder, SourceStatus,
};
pub use policy::{Confidence, OnDeadline, OnUnknown, Policy, PolicySet, PolicyType, Priority};
pub use policy_test::{Difference, Mismatch, PolicyTests, TestOutcome};
pub use probe_argument::{
    MAX_PROBE_ARGUMENTS, MAX_PROBE_STEPS, ProbeArgument, ProbeArgumentError, ProbeForm, ProbePlace, ProbeStep,
};
pub use process_table::{
    DEFAULT_PROCESS_LIMIT, LATE_EVENT_TIME, MAX_LINGERING, MAX_STORED_ARGUMENTS, MAX_STORED_BYTES, MAX_STORED_TEXT,
    MIN_PROCESS_LIMIT, ProcessRecord, ProcessRepair, ProcessTable, SPARE_STORED_TEXT,
};
pub use pursuit::{MAX_PURSUITS, PURSUIT_TIME};
pub use responders::Responders;
pub use rule::{Condition, Rule, Test};
pub use schema::{CONTAINER_FIELDS, Field, FieldKind, FieldSet, FieldSpec, Offered, SCHEMA};
pub use suppression::MAX_SUPPRESSION_WINDOWS;
pub use syntax::{
    Expr, Ident, Literal, LiteralValue, Operand, Operator, RuleSyntax, RuleVerdict, SyntaxError, TestSyntax, parse_rule,
};
pub use tiers::{PassedOver, TierCase, Tiers};
pub use trigger::{TypeOptions, raises};
pub use truth::Truth;
pub use uuid::Uuid;
pub use warm_up::WARM_UP;
