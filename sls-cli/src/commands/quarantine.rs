//! `sls quarantine`: the files that were taken away.

use std::io::{Write, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use sls_actions::{DEFAULT_QUARANTINE_DIRECTORY, QuarantineEntry, QuarantineError, QuarantineStore, RestoreOptions};

use super::check::default_format;
use crate::args::{Format, QuarantineArgs, QuarantineCommand};
use crate::config::Config;
use crate::exit::{self, Answer};
use crate::render;

pub(crate) fn run(args: &QuarantineArgs, format: Option<Format>) -> anyhow::Result<Answer> {
    let json = format.unwrap_or(default_format()) == Format::Json;
    let config = args.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let directory = args.store.clone().or(config.quarantine_directory);
    let store = QuarantineStore::open(directory.unwrap_or_else(|| DEFAULT_QUARANTINE_DIRECTORY.into()))?;
    match &args.command {
        QuarantineCommand::List => list(&store, json),
        QuarantineCommand::Show { id } => one(&store, id, |entry| show(entry, json)),
        QuarantineCommand::Restore { id, to, accept_changed } => one(&store, id, |entry| {
            let mut options = RestoreOptions::new();
            if let Some(to) = to {
                options = options.to(to);
            }
            if *accept_changed {
                options = options.accept_changed();
            }
            match store.restore(entry.id, &options) {
                Ok(path) if json => say(&json!({"restored": entry.id, "path": text(&path)}).to_string()),
                Ok(path) => say(&format!("restored {}", text(&path))),
                Err(error) => no(&error.to_string()),
            }
        }),
        QuarantineCommand::Purge { ids, older_than, all } => purge(&store, ids, *older_than, *all, json),
    }
}

fn list(store: &QuarantineStore, json: bool) -> anyhow::Result<Answer> {
    for entry in store.list()? {
        if json {
            writeln!(stdout(), "{}", render::json(&serde_json::to_string(&entry)?))?;
        } else {
            let id = entry.id.to_string();
            let (time, size) = (time(entry.time.into()), entry.size);
            writeln!(anstream::stdout(), "{id}  {time}  {size:>10} bytes  {}", text(&entry.path))?;
        }
    }
    Ok(Answer::Yes)
}

fn show(entry: &QuarantineEntry, json: bool) -> anyhow::Result<Answer> {
    if json {
        return say(&serde_json::to_string(entry)?);
    }
    let place = if entry.path_on_host { "" } else { " (not a path of the host)" };
    let xattrs: Vec<_> = entry.xattrs.iter().map(|(name, _)| name.as_str()).collect();
    for (name, value) in [
        ("id", entry.id.to_string()),
        ("path", format!("{}{place}", text(&entry.path))),
        ("state", entry.state.name().to_owned()),
        ("time", time(entry.time.into())),
        ("policy", render::escape(&entry.policy)),
        ("alert", entry.alert_uuid.to_string()),
        ("size", format!("{} bytes", entry.size)),
        ("sha256", entry.sha256.clone().unwrap_or_else(|| "not known".to_owned())),
        ("owner", format!("{}:{}", entry.uid, entry.gid)),
        ("mode", format!("{:04o}", entry.mode)),
        ("modified", time(entry.modified)),
        ("xattrs", xattrs.join(" ")),
        ("stored", entry.entry.clone()),
    ] {
        writeln!(anstream::stdout(), "{}", format!("{name:<9} {value}").trim_end())?;
    }
    Ok(Answer::Yes)
}

fn purge(
    store: &QuarantineStore,
    ids: &[String],
    older_than: Option<Duration>,
    all: bool,
    json: bool,
) -> anyhow::Result<Answer> {
    let mut purged = Vec::new();
    let mut answer = Answer::Yes;
    if all || older_than.is_some() {
        purged = store.purge_older_than(older_than.unwrap_or(Duration::ZERO))?;
    }
    for id in ids {
        let purge = |entry: &QuarantineEntry| match store.purge(entry.id) {
            Ok(()) => {
                purged.push(entry.id);
                Ok(Answer::Yes)
            }
            Err(error) => no(&error.to_string()),
        };
        if one(store, id, purge)? == Answer::No {
            answer = Answer::No;
        }
    }
    if json {
        say(&json!({ "purged": purged }).to_string())?;
    } else {
        say(&format!("purged {}", render::count(purged.len() as u64, "file", "files")))?;
    }
    Ok(answer)
}

/// Does something with the one entry whose id begins with `start`.
fn one(
    store: &QuarantineStore,
    start: &str,
    act: impl FnOnce(&QuarantineEntry) -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let lower = start.to_lowercase();
    let found: Vec<_> = store.list()?.into_iter().filter(|entry| entry.id.to_string().starts_with(&lower)).collect();
    match &found[..] {
        [entry] => act(entry),
        // Whoever gives a whole id may want to know why its entry is not listed.
        [] => match lower.parse().map(|id| store.get(id)) {
            Ok(Err(error @ QuarantineError::Manifest { .. })) => no(&error.to_string()),
            _ => no(&format!("no entry {start} in the quarantine store")),
        },
        _ => no(&format!("{} ids begin with {start}", found.len())),
    }
}

fn say(line: &str) -> anyhow::Result<Answer> {
    writeln!(anstream::stdout(), "{line}")?;
    Ok(Answer::Yes)
}

fn no(reason: &str) -> anyhow::Result<Answer> {
    exit::say(&render::escape(reason));
    Ok(Answer::No)
}

/// A path for the terminal and for JSON; bytes that are no UTF-8 as `\xNN`.
fn text(path: &Path) -> String {
    let chunks = path.as_os_str().as_bytes().utf8_chunks();
    let text: String =
        chunks.flat_map(|chunk| [chunk.valid().to_owned(), chunk.invalid().escape_ascii().to_string()]).collect();
    render::escape(&text)
}

/// Nanoseconds since the epoch as RFC 3339.
fn time(nanoseconds: i128) -> String {
    let since = u64::try_from(nanoseconds).ok().map(Duration::from_nanos);
    since.map_or_else(
        || format!("{nanoseconds} ns"),
        |since| humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string(),
    )
}
