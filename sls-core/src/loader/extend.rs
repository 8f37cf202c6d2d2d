//! Overrides that extend what an earlier layer defines, where others replace it.

use std::collections::HashMap;

use super::yaml::{Entry, Node, Yaml};
use crate::diagnostic::{Code, Diagnostics, nearest};
use crate::keys::OVERRIDE_KEYS;

/// Takes the extending attributes out of an override.
pub(super) fn split(attributes: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
    let extends =
        |entry: &Entry| entry.key.scalar().is_some_and(|key| OVERRIDE_KEYS.iter().any(|spec| spec.name == key));
    attributes.into_iter().partition(|entry| !extends(entry))
}

/// Says that there is nothing to extend.
pub(super) fn report_unfounded<'n>(
    object: &str,
    extensions: &[Entry],
    names: impl Iterator<Item = &'n str> + Clone,
    diagnostics: &mut Diagnostics,
) {
    for Entry { key, .. } in extensions {
        let message = format!("no earlier document defines `{object}`, which `{}` extends", key.scalar().unwrap_or(""));
        let mut diagnostic = key.place.error(Code::NothingToExtend, message);
        if let Some(name) = nearest(object, names.clone()) {
            diagnostic = diagnostic.help(format!("there is `{name}`"));
        }
        diagnostics.push(diagnostic);
    }
}

/// Applies an override's extensions to an object's attributes: first what is removed, then what is added.
pub(super) fn apply(entries: &mut [Entry], extensions: Vec<Entry>, diagnostics: &mut Diagnostics) {
    let mut ordered: Vec<_> = OVERRIDE_KEYS.iter().map(|_| None).collect();
    for extension in extensions {
        let place = OVERRIDE_KEYS.iter().position(|spec| Some(spec.name) == extension.key.scalar());
        if let Some(place) = place {
            ordered[place] = Some(extension);
        }
    }
    for Entry { key, value } in ordered.into_iter().flatten() {
        let name = key.scalar().unwrap_or("").to_owned();
        let extended = if name == "rulesBefore" { "rules" } else { "list" };
        let Yaml::Sequence(items) = value.value else {
            let message = format!("`{name}` takes a sequence, not {}", value.describe());
            diagnostics.push(value.place.error(Code::WrongType, message));
            continue;
        };
        let target = entries.iter_mut().find(|entry| entry.key.scalar() == Some(extended));
        let Some(Entry { value: Node { value: Yaml::Sequence(target), .. }, .. }) = target else {
            let message = format!("`{name}` extends the key `{extended}`, which is not a sequence here");
            diagnostics.push(key.place.error(Code::NothingToExtend, message));
            continue;
        };
        match &*name {
            "listRemove" => remove(target, &items, diagnostics),
            "listAdd" => target.extend(items),
            _ => drop(target.splice(0..0, items)),
        }
    }
}

fn remove(target: &mut Vec<Node>, items: &[Node], diagnostics: &mut Diagnostics) {
    let mut wanted: HashMap<String, (&Node, bool)> = items.iter().map(|item| (text_of(item), (item, false))).collect();
    target.retain(|entry| match wanted.get_mut(&text_of(entry)) {
        Some((_, found)) => {
            *found = true;
            false
        }
        None => true,
    });
    let mut missing: Vec<_> = wanted.into_iter().filter(|(_, (_, found))| !found).collect();
    missing.sort_by_key(|(_, (item, _))| item.place.span.start);
    for (text, (item, _)) in missing {
        let mut diagnostic = item.place.error(Code::BadEntry, "the list has no such entry to remove");
        let texts: Vec<_> = target.iter().map(text_of).collect();
        if let Some(near) = nearest(&text, texts.iter().map(String::as_str)) {
            diagnostic = diagnostic.help(format!("there is `{near}`"));
        }
        diagnostics.push(diagnostic);
        if diagnostics.is_full() {
            break;
        }
    }
}

/// What entries are compared by.
fn text_of(node: &Node) -> String {
    match &node.value {
        Yaml::Scalar { text, .. } => text.to_string(),
        Yaml::Sequence(items) => items.iter().map(text_of).collect::<Vec<_>>().join(", "),
        Yaml::Mapping(_) => String::new(),
    }
}
