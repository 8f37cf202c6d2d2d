//! `sls guards`: what is never acted upon.

use std::io::Write;

use serde_json::json;
use sls_core::{Guard, Guards};
use sls_probe::HostInfo;

use super::check::default_format;
use crate::args::{Format, GuardsArgs};
use crate::config::Config;
use crate::exit::Answer;
use crate::{guards, render};

/// The guard of which only a running sensor knows what it protects.
const SENSOR: [&str; 3] =
    ["sensor", "the sensor and its ancestors are never acted upon", "the process of `sls run` and its ancestors"];

pub(crate) fn run(args: &GuardsArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let guards = guards::of(&config, args.config.as_deref(), &config.policies, &HostInfo::read())?;
    let mut out = anstream::stdout();
    if format.unwrap_or(default_format()) == Format::Json {
        writeln!(out, "{}", render::json(&json_of(&guards, &config).to_string()))?;
    } else {
        write!(out, "{}", text_of(&guards, &config))?;
    }
    Ok(Answer::Yes)
}

fn json_of(guards: &Guards, config: &Config) -> serde_json::Value {
    let [name, reason, protects] = SENSOR;
    let sensor = json!({"name": name, "reason": reason, "protects": protects});
    let all: Vec<_> = std::iter::once(sensor).chain(guards.iter().map(|guard| json!(guard))).collect();
    let limits = config.breaker.limits();
    json!({
        "guards": all,
        "breaker": {
            "policyTargets": limits.policy_targets,
            "sensorTargets": limits.sensor_targets,
            "windowSeconds": limits.window.as_secs_f64(),
            "coolDownSeconds": limits.cool_down.as_secs_f64(),
        },
        "warmUpSeconds": config.warm_up.unwrap_or_default().as_secs_f64(),
    })
}

fn text_of(guards: &Guards, config: &Config) -> String {
    let [name, reason, protects] = SENSOR;
    let mut text = format!("{name}: {reason}\n  {protects}\n");
    let mut last: Option<&Guard> = None;
    for guard in guards.iter() {
        let same = last.is_some_and(|last| last.name == guard.name && last.reason == guard.reason);
        if !same {
            text += &format!("{}: {}\n", render::escape(&guard.name), render::escape(&guard.reason));
        }
        text += &format!("  {}\n", render::escape(&guard.protects.to_string()));
        last = Some(guard);
    }
    let limits = config.breaker.limits();
    let window = humantime::format_duration(limits.window);
    let most = |targets: usize| match targets {
        0 => "any number of targets".to_owned(),
        targets => format!("{targets} targets"),
    };
    let (policy, sensor) = (most(limits.policy_targets), most(limits.sensor_targets));
    text += &format!(
        "circuit-breaker: a policy acts on {policy} within {window}, the sensor on {sensor}; then {} of dry run\n",
        humantime::format_duration(limits.cool_down)
    );
    let warm_up = config.warm_up.unwrap_or_default();
    text + &match warm_up.is_zero() {
        true => "warm-up: a policy that is new acts at once\n".to_owned(),
        false => format!("warm-up: a policy that is new is dry run for {}\n", humantime::format_duration(warm_up)),
    }
}
