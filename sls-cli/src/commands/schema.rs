//! `sls schema`: the JSON Schema of policy documents.

use std::io::Write;

use schemars::schema_for;
use sls_core::PolicySet;

use crate::exit::Answer;

pub(crate) fn run() -> anyhow::Result<Answer> {
    let schema = serde_json::to_string_pretty(&schema_for!(PolicySet))?;
    writeln!(anstream::stdout(), "{schema}")?;
    Ok(Answer::Yes)
}
