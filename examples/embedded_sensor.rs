//! A sensor in another program: kernel events, real responses, and a transport of one's own.
//!
//! Run it as root with a policy file and the seconds to run for; alerts come out of this program's own thread.

// An example shows what it does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use sls_actions::{CLOCK_TICK_NS, ProcessResponder, own_ancestry};
use sls_core::{Capabilities, Engine, EventSource, GuardedPlanner, PendingAlert, PolicyLoader};
use sls_probe::{HostInfo, Probe};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<_> = env::args().collect();
    let [_, file, seconds] = &arguments[..] else { return Err("usage: embedded-sensor POLICY SECONDS".into()) };

    // What watches and what acts; a policy that needs more than they can is refused.
    let mut probe = Probe::builder().load()?.attach()?;
    let mut responder = ProcessResponder::builder().build()?;
    let policies = PolicyLoader::new()
        .capabilities(Capabilities::of(&probe, &responder))
        .document(file, fs::read(file)?)
        .load()
        .inspect_err(|diagnostics| eprintln!("{diagnostics}"))?;
    // Files, connections and the rest are watched as the policies need them.
    probe.set_interest(policies.interest())?;
    let host = HostInfo::read();
    let own = own_ancestry()?;
    let guards = own.into_iter().fold(host.guards(), |guards, own| guards.protect_sensor(own, CLOCK_TICK_NS));
    let mut engine = Engine::builder(policies).planner(GuardedPlanner::new(guards)).host(host.to_host()).build();

    // The transport: bounded, so that a slow receiver never delays a response.
    let (queue, alerts) = crossbeam_channel::bounded::<PendingAlert>(1024);
    let transport = thread::spawn(move || {
        for pending in alerts {
            // Waits until the effect was seen. Without a message type the policy acts in silence.
            let alert = pending.complete();
            if alert.message_type.is_some() {
                println!("{}", alert.to_json());
            }
        }
    });

    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut dropped = 0;
    while Instant::now() < end {
        probe.poll(Duration::from_millis(100), &mut |event| {
            engine.process(event, &mut responder, &mut |alert| dropped += u32::from(queue.try_send(alert).is_err()));
        })?;
    }
    drop(queue);
    transport.join().map_err(|_| "the transport panicked")?;
    eprintln!("{:?}, {dropped} alerts dropped", engine.stats());
    Ok(())
}
