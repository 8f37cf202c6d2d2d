//! Alerts that reach a receiver of one's own at least once, also when the receiver, the disk or this program fails meanwhile.
//!
//! Run it with a directory for the spool. What it could not deliver it delivers first when it is run again.

// An example shows what it does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env;
use std::error::Error;
use std::time::Duration;

use sls_actions::{Delivery, Spool, SpoolLimits};
use sls_core::{
    AlertTransport, BoxError, DryRunResponder, EncodedAlert, Engine, Event, EventKind, Field, PolicySet, ProcessKey,
};

/// A receiver of one's own: HTTP, gRPC, a message queue. It may block, and it may see an alert twice, with the same uuid.
#[derive(Debug)]
struct Receiver {
    away: bool,
}

impl AlertTransport for Receiver {
    fn send(&mut self, alert: &EncodedAlert) -> Result<(), BoxError> {
        if self.away {
            return Err("the receiver is away".into());
        }
        println!("{}", alert.json);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().collect();
    let [_, directory, rest @ ..] = &arguments[..] else { return Err("usage: spooled-delivery SPOOL [away]".into()) };

    let spool = Spool::open(directory, SpoolLimits::default().max_bytes(16 << 20))?;
    let delivery = Delivery::builder(Receiver { away: !rest.is_empty() })
        .spool(spool)
        .on_spooled(|uuid| eprintln!("safe: {uuid}"))
        .start()?;

    let policies = PolicySet::from_yaml(
        "p.yaml",
        "Wget:\n  policy: program\n  rules: ['match programName == \"*/wget\"', default ignore]\n",
    )?;
    let mut engine = Engine::builder(policies).build();
    let mut event = Event::new(EventKind::Exec);
    event.process = ProcessKey { pid: 4242, start: 77 };
    event.set_text(Field::ProgramName, b"/usr/bin/wget");
    engine.process(&mut event, &mut DryRunResponder, &mut |pending| {
        // Never waits. Where actions have to be confirmed, this is done on a thread of its own.
        delivery.send(EncodedAlert::from(&pending.complete()));
    });

    let stats = delivery.finish(Duration::from_secs(5));
    eprintln!("{} delivered, {} wait in the spool", stats.delivered, stats.waiting());
    Ok(())
}
