//! The configuration file of `sls run`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Deserializer};
use sls_core::{Guards, MessageType};

use crate::args::message_type;
use crate::output::OutputSpec;

/// What the file may say. Every key is optional; the command line goes before it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Policy documents, as layers in this order. Relative paths are relative to the configuration file.
    pub(crate) policies: Vec<PathBuf>,
    /// Whether the built-in content is the first layer; the default is yes.
    pub(crate) content: Option<bool>,
    /// Plan, guard and report actions, but carry none out.
    pub(crate) dry_run: bool,
    /// Refuse to start where actions cannot be carried out.
    pub(crate) require_actions: bool,
    /// Where alerts go.
    pub(crate) outputs: Vec<OutputSpec>,
    /// Only alerts of these message types; `alert` and `smart_policy` if there are none.
    #[serde(deserialize_with = "message_types")]
    pub(crate) message_types: Vec<MessageType>,
    /// Resolved paths of programs that are never acted upon; `*` is a wildcard.
    pub(crate) protected_programs: Vec<String>,
    /// Bytes of the ring buffer, a power of two.
    pub(crate) ring_bytes: Option<u32>,
    /// The most processes that are remembered.
    pub(crate) process_limit: Option<usize>,
}

impl Config {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config: Self =
            serde_yaml::from_str(&text).with_context(|| format!("{} is not a configuration", path.display()))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        for policy in &mut config.policies {
            *policy = directory.join(&*policy);
        }
        Ok(config)
    }

    /// The guards that it adds to others.
    pub(crate) fn guards(&self, guards: Guards) -> Guards {
        self.protected_programs.iter().fold(guards, |guards, program| guards.protect_program(program.as_str()))
    }
}

fn message_types<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MessageType>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| message_type(name)).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        let config: Config =
            serde_yaml::from_str("policies: [a.yaml]\noutputs: ['file:/x']\nmessageTypes: [audit]\n").unwrap();
        assert_eq!(config.policies, [PathBuf::from("a.yaml")]);
        assert_eq!(config.outputs, ["file:/x".parse().unwrap()]);
        assert_eq!(config.message_types, [MessageType::Audit]);
        assert!(serde_yaml::from_str::<Config>("messageTypes: [noise]").is_err());
        let error = serde_yaml::from_str::<Config>("polices: []").unwrap_err().to_string();
        assert!(error.contains("unknown field `polices`"), "{error}");
    }
}
