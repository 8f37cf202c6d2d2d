//! `sls run`: the daemon.

mod alerts;
mod counters;
mod governor;
mod hold;
mod kernel_tier;
mod losses;
mod pin;
mod protection;
mod reload;
mod resolve;
mod trials;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use sls_actions::{CLOCK_TICK_NS, NOT_IN_HOST_PID_NAMESPACE, in_host_pid_namespace, own_ancestry};
use sls_core::{Engine, EngineStats, Event, EventKind, EventSource, GuardedPlanner, Guards, PolicySet, SourceStatus};
use sls_probe::{HostInfo, Probe};
use tracing_subscriber::EnvFilter;

use self::counters::Counters;
use self::governor::Governing;
use self::hold::Holding;
use self::kernel_tier::TierKeeper;
use self::losses::Losses;
use self::trials::Trials;
use super::check::{capabilities_of, default_format};
use crate::args::{Format, RunArgs};
use crate::config::Config;
use crate::exit::{Answer, UnusablePolicies};
use crate::guards;
use crate::output::Outputs;
use crate::policies::Documents;
use crate::privileges;
use crate::render;
use crate::responders::{ResponderSettings, supported};
use crate::service_manager::ServiceManager;

/// How long the sensor sleeps when nothing happens, before it looks for a reload or a signal to stop.
const IDLE_POLL: Duration = Duration::from_millis(400);

/// How long the sensor reads events without a pause after a tree was killed, or something that had escaped from it. The
/// circuit breaker keeps this from becoming the rule.
const PURSUIT_HASTE: Duration = Duration::from_millis(100);

/// How long the sensor goes on with what happened before it was told to stop. On a host that is busier than the sensor it
/// would otherwise never end.
const DRAIN_TIME: Duration = Duration::from_secs(2);

pub(crate) fn run(args: RunArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    // Before any thread starts: afterwards the local time zone may not be read.
    let utc_offset = time::UtcOffset::current_local_offset().map_or(0, time::UtcOffset::whole_seconds);
    init_log();
    let stopped = stop_signals()?;
    let manager = ServiceManager::of_environment();
    let keep_capabilities = args.keep_capabilities;
    // `sls rearm` sends it.
    let rearm = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, rearm.clone())?;
    let settings = Settings::new(args)?;
    let unsafe_policies = settings.config.allow_unsafe_policies;
    let mut builder = Probe::builder().unsafe_probes(unsafe_policies).kernel_tier(true);
    builder = settings.config.lanes(builder);
    if settings.config.self_protection {
        builder = builder.self_protection(protection::settings(&settings.config));
    }
    if settings.config.pin {
        builder = builder.pin(settings.config.pin_path());
    }
    let capabilities = capabilities_of(&builder, supported()).unsafe_policies(unsafe_policies);
    // Before the policies are read, so that no change after that is missed, nor is SIGHUP deadly for even a moment.
    let watch = reload::Watch::new(settings.documents.clone(), capabilities.clone(), manager.clone())?;
    let policies = settings
        .documents
        .load_for_this_host(capabilities)
        .map_err(|diagnostics| UnusablePolicies::shown(&diagnostics))?;
    // What waits for the policies is marked with a capability that is given up otherwise.
    let holds = !policies.tiers().holds().is_empty();
    // Before any thread starts, each of which has capabilities of its own, and before anything is done with them: what
    // does not work without the others does not work from the start.
    if !keep_capabilities && let Err(error) = privileges::drop_unneeded(holds) {
        tracing::warn!(%error, "cannot give up the capabilities that are not needed");
    }
    let outputs = outputs(&settings.config, format)?;

    let host = HostInfo::read();
    let responders = ResponderSettings::new(&settings.config);
    let mut responder = responders.build()?;
    let can_act = in_host_pid_namespace()?;
    if !can_act {
        if settings.config.require_actions {
            bail!("{NOT_IN_HOST_PID_NAMESPACE}, where actions cannot work (--require-actions)");
        }
        tracing::warn!("{NOT_IN_HOST_PID_NAMESPACE}: it sees and alerts, but no action will be successful");
    }
    let mut trials = Trials::new(responders, can_act && !settings.dry_run);
    log_warnings(&policies);
    // Before the probe sees what they do.
    let inert = trials.of(&policies)?;
    if settings.config.require_actions && !inert.is_empty() {
        bail!("these actions do not work here (--require-actions): {}", inert.join("; "));
    }
    let builder = builder.interest(policies.interest()).refusals(policies.tiers());
    let guards = own_guards(&settings, &host)?;
    let mut engine = engine(policies, &settings, guards.clone(), &host, utc_offset);

    let mut probe = builder.load().context("cannot load the probe")?.attach().context("cannot attach the probe")?;
    let mut tier = TierKeeper::new(probe.kernel_tier(), guards, can_act);
    tier.load(&mut engine).context("cannot load the policies into the kernel")?;
    let mut holding = Holding::new(can_act);
    holding
        .set_policies(engine.policies(), &mut probe)
        .context("cannot hold what the policies have to decide about")?;
    let unattended = pin::take_over(&mut probe, settings.config.pin_path(), settings.config.pin)?;
    announce(&engine, &settings, &host);
    let reloads = watch.start(trials)?;
    let resolver = resolve::Resolver::start()?;
    resolver.resolve(engine.policies());
    let mut alerts = alerts::Deliverer::start(outputs, settings.dry_run)?;
    if let Some(condition) = unattended {
        alerts.send(engine.report_condition(condition, now()));
    }
    let mut watchdog = manager.watchdog();
    let rest = watchdog.longest_rest(IDLE_POLL);
    manager.ready(&status(&engine));

    let until = Until::new(stopped, settings.duration);
    let show_events = settings.show_events;
    let mut losses = Losses::default();
    let mut haste = Haste::default();
    let mut tampering = protection::Tampering::default();
    let mut governing = Governing::start(&settings.config);
    let mut counters = Counters::default();
    while let Some(wait) = until.wait(rest) {
        watchdog.turned(|| status(&engine));
        let wait = wait.min(haste.pause(engine.stats())).min(governing.pause());
        if let Ok(policies) = reloads.try_recv() {
            // What the new policies look at is watched before they decide anything.
            let policies = Arc::new(policies);
            let ready = tier.check(&policies).map_err(anyhow::Error::from);
            let ready = ready.and_then(|()| Ok(probe.set_policies(&policies)?));
            match ready.and_then(|()| holding.set_policies(&policies, &mut probe)) {
                Ok(()) => {
                    reload(&mut engine, policies, &resolver);
                    if let Err(error) = tier.load(&mut engine) {
                        tracing::error!(%error, "the kernel decides by the policies that were loaded before");
                    }
                }
                Err(error) => tracing::error!(
                    error = format_args!("{error:#}"),
                    "cannot watch what the new policies need: those loaded before stay in force"
                ),
            }
            manager.ready(&status(&engine));
        }
        if rearm.swap(false, Ordering::Relaxed) {
            engine.rearm();
            tracing::info!("the circuit breakers are closed: policies act again");
            tier.allow_now(&mut engine);
        }
        tier.allow(&mut engine);
        let status = poll(&mut probe, wait, |event| {
            engine.process(event, &mut responder, &mut |pending| alerts.send(pending));
            holding.see(event);
            if show_events && event.kind == EventKind::Exec {
                let _ = anstream::stderr().write_all(render::exec(event).as_bytes());
            }
        })?;
        holding.decide(&mut probe, &mut engine, &mut responder, &mut |pending| alerts.send(pending))?;
        losses.look(&mut probe, &mut engine, &alerts);
        alerts.report();
        engine.tick(now(), &mut |pending| alerts.send(pending));
        tampering.report(&mut probe, &mut engine, |pending| alerts.send(pending));
        governing.govern(&mut probe, &mut engine, |pending| alerts.send(pending));
        counters.log(&engine, &probe, &holding, &alerts);
        if status == SourceStatus::Ended || alerts.ended() {
            break;
        }
    }
    manager.stopping();
    // Nothing waits for a sensor that ends.
    let held = holding.stats();
    drop(holding);
    // What happened up to now is still reported.
    drain(&mut probe, &mut |event| {
        engine.process(event, &mut responder, &mut |pending| alerts.send(pending));
    })?;
    losses.finish(&mut probe, &mut engine, &alerts);
    tampering.finish(&mut probe, &mut engine, |pending| alerts.send(pending));
    Counters::log_at_end(&engine, &probe, held, alerts.lost());
    // Detaching takes the kernel some seconds, for which no alert has to wait.
    engine.finish(&mut |pending| alerts.send(pending));
    let lost = alerts.finish()?;
    losses.log_alerts(lost);
    drop(probe);
    let stats = engine.stats();
    tracing::info!(
        events = stats.events,
        lost = stats.lost,
        detections = stats.detections,
        actions = stats.actions,
        breaker_trips = stats.breaker_trips,
        breaker_held = stats.breaker_held,
        warm_up_held = stats.warm_up_held,
        pursued = stats.pursued,
        suppressed = stats.suppressed,
        tampering_refused = tampering.refused(),
        load_changes = governing.changes(),
        "stopped"
    );
    Ok(Answer::Yes)
}

/// The time of day in nanoseconds since the epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn outputs(config: &Config, format: Option<Format>) -> anyhow::Result<Outputs> {
    let spool = config.spool();
    Outputs::open(&config.outputs, format.unwrap_or(default_format()), &config.message_types, spool.as_ref())
}

/// A flag that SIGTERM and SIGINT raise. A second signal ends the process at once.
pub(crate) fn stop_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 2, stopped.clone())?;
        signal_hook::flag::register(signal, stopped.clone())?;
    }
    Ok(stopped)
}

/// When a command that watches ends: when it is told to, or when its time is over.
pub(crate) struct Until {
    stopped: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Until {
    /// From now on, for `duration` if there is one.
    pub(crate) fn new(stopped: Arc<AtomicBool>, duration: Option<Duration>) -> Self {
        Self { stopped, deadline: duration.map(|duration| Instant::now() + duration) }
    }

    /// How long to wait for events, at most `longest`; none if it is time to end.
    pub(crate) fn wait(&self, longest: Duration) -> Option<Duration> {
        let left = self.deadline.map_or(longest, |deadline| deadline.saturating_duration_since(Instant::now()));
        (!self.stopped.load(Ordering::Relaxed) && !left.is_zero()).then(|| left.min(longest))
    }
}

/// The configuration and the command line as one.
struct Settings {
    config: Config,
    config_file: Option<PathBuf>,
    documents: Documents,
    dry_run: bool,
    show_events: bool,
    duration: Option<Duration>,
}

impl Settings {
    fn new(args: RunArgs) -> anyhow::Result<Self> {
        let mut config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        if !args.policies.is_empty() {
            config.policies = args.policies;
        }
        if !args.message_types.is_empty() {
            config.message_types = args.message_types;
        }
        if !args.outputs.is_empty() {
            config.outputs = args.outputs;
        }
        config.require_actions |= args.require_actions;
        config.pin |= args.pin;
        config.allow_unsafe_policies |= args.allow_unsafe_policies;
        let content = !args.no_content && config.content.unwrap_or(true);
        if !content && config.policies.is_empty() {
            bail!("without the built-in content, --policy has to name one");
        }
        // Without policies of the operator's own, nothing may be acted upon.
        let dry_run = args.dry_run || config.dry_run || config.policies.is_empty();
        let documents = Documents { content, files: config.policies.clone() };
        Ok(Self {
            config,
            config_file: args.config,
            documents,
            dry_run,
            show_events: args.show_events,
            duration: args.duration,
        })
    }
}

/// What is never acted upon.
fn own_guards(settings: &Settings, host: &HostInfo) -> anyhow::Result<Guards> {
    let Settings { config, config_file, documents, .. } = settings;
    let mut guards = guards::of(config, config_file.as_deref(), &documents.files, host)?;
    for key in own_ancestry().context("cannot tell the sensor's own processes")? {
        guards = guards.protect_sensor(key, CLOCK_TICK_NS);
    }
    Ok(guards)
}

fn engine(policies: PolicySet, settings: &Settings, guards: Guards, host: &HostInfo, utc_offset: i32) -> Engine {
    let config = &settings.config;
    let mut engine_host = host.to_host();
    engine_host.utc_offset = utc_offset;
    let mut builder =
        Engine::builder(policies).planner(GuardedPlanner::new(guards)).host(engine_host).dry_run(settings.dry_run);
    builder = builder.suppress_duplicates(config.suppress_duplicates.unwrap_or_default());
    builder = builder.breaker(config.breaker.limits()).warm_up(config.warm_up.unwrap_or_default());
    if let Some(limit) = config.process_limit {
        builder = builder.process_limit(limit);
    }
    builder.build()
}

fn reload(engine: &mut Engine, policies: Arc<PolicySet>, resolver: &resolve::Resolver) {
    engine.reload(policies);
    resolver.resolve(engine.policies());
    tracing::info!(
        generation = engine.generation(),
        policies = engine.policies().active().count(),
        hash = engine.policies().hash(),
        "policies reloaded"
    );
}

/// How the sensor does, in a line for the service manager.
fn status(engine: &Engine) -> String {
    let EngineStats { events, lost, detections, .. } = engine.stats();
    let policies = engine.policies().active().count();
    format!("watching for {policies} policies; {events} events, {lost} lost, {detections} detections")
}

/// Says in one line what runs here.
fn announce(engine: &Engine, settings: &Settings, host: &HostInfo) {
    tracing::info!(
        policies = engine.policies().active().count(),
        hash = engine.policies().hash(),
        dry_run = settings.dry_run,
        kernel = host.kernel_release,
        "watching"
    );
}

/// Says what in the policies is probably not meant. `sls check` shows it in its place.
fn log_warnings(policies: &PolicySet) {
    let left_out = policies.left_out().as_slice();
    if !left_out.is_empty() {
        let reason = "this sensor does not see or do what they need: `sls check --content` names them";
        tracing::info!(policies = left_out.len(), "left out of the built-in content: {reason}");
    }
    let warnings = policies.warnings().as_slice();
    if warnings.is_empty() {
        return;
    }
    tracing::warn!(warnings = warnings.len(), "the policies load, but `sls check` warns of them");
    for warning in warnings {
        let (line, column) = warning.position();
        tracing::warn!(code = %warning.code, place = %format_args!("{}:{line}:{column}", warning.file()), "{}", warning.message);
    }
}

/// Hands over what the probe holds, which a single poll need not do, but not more than comes within [`DRAIN_TIME`].
pub(crate) fn drain(probe: &mut Probe, handle: &mut dyn FnMut(&mut Event)) -> anyhow::Result<()> {
    let deadline = Instant::now() + DRAIN_TIME;
    loop {
        let mut empty = true;
        poll(probe, Duration::ZERO, |event| {
            empty = false;
            handle(event);
        })?;
        if empty || Instant::now() >= deadline {
            return Ok(());
        }
    }
}

fn poll(probe: &mut Probe, timeout: Duration, mut handle: impl FnMut(&mut Event)) -> anyhow::Result<SourceStatus> {
    probe.poll(timeout, &mut handle).map_err(anyhow::Error::from_boxed).context("the probe failed")
}

/// When the sensor must not rest between its looks at the ring: what escapes from a killed tree may live for a millisecond, and
/// leave another behind.
#[derive(Default)]
struct Haste {
    seen: u64,
    until: Option<Instant>,
}

impl Haste {
    /// How long to wait for events at most.
    fn pause(&mut self, stats: EngineStats) -> Duration {
        let seen = stats.pursuits + stats.pursued;
        if seen > self.seen {
            self.seen = seen;
            self.until = Some(Instant::now() + PURSUIT_HASTE);
        }
        self.until.take_if(|until| Instant::now() >= *until);
        if self.until.is_some() { Duration::ZERO } else { IDLE_POLL }
    }
}

fn init_log() {
    let filter = EnvFilter::try_from_env("SLS_LOG").unwrap_or_else(|_| "info".into());
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        // It would report a closed standard error there, and panic.
        .log_internal_errors(false);
    // A second initialisation in one process fails, which only a test could bring about.
    let _ = log.with_target(false).try_init();
}
