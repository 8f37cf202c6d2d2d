//! `tau-engine`: each rule is a rule of its own, with every optimisation.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

use anyhow::anyhow;
use sls_benches::workload::{Condition, Execution, TextTest, UidTest};
use tau_engine::{Document, Optimisations, Rule, Value};

use super::expression::{Notation, name, pattern};
use super::named::{Field, Named};
use crate::engine::{Cost, Engine, Loaded, Matched};

struct Tau {
    rules: Vec<Rule>,
    documents: Vec<Named>,
}

pub(crate) fn load(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    let texts: Vec<_> = rules.iter().map(rule).collect();
    let parsed = |text: &String| match Rule::from_str(text) {
        Ok(rule) => Ok(rule.optimise(Optimisations::default())),
        Err(error) => Err(anyhow!("tau: {error}: {text}")),
    };
    let (rules, cost) = Cost::of(|| texts.iter().map(parsed).collect::<anyhow::Result<Vec<_>>>())?;
    Ok(Loaded { engine: Box::new(Tau { rules, documents: Named::of(executions) }), cost })
}

fn rule(rule: &Condition) -> String {
    let mut identifiers = String::new();
    let mut count = 0;
    let notation = Notation { and: " and ", or: " or ", not: "not " };
    let condition = notation.write(rule, &mut |test| {
        let identifier = format!("s{count}");
        count += 1;
        // Writing to memory does not fail.
        let _ = writeln!(identifiers, "  {identifier}:\n    {}", item(test));
        identifier
    });
    format!("detection:\n{identifiers}  condition: {condition}\ntrue_positives: []\ntrue_negatives: []\n")
}

fn item(test: &Condition) -> String {
    match test {
        Condition::Uid(UidTest::Equals(uid)) => format!("uid: {uid}"),
        Condition::Uid(UidTest::AtLeast(uid)) => format!("uid: '>={uid}'"),
        Condition::Text(field, test) => {
            let field = name(*field);
            match test {
                TextTest::Equals(text) => format!("{field}: '{text}'"),
                TextTest::Prefix(text) => format!("{field}: '{text}*'"),
                TextTest::In(texts) => format!("{field}: ['{}']", texts.join("', '")),
                TextTest::Glob(_) | TextTest::Regex(_) => format!("{field}: '?{}'", pattern(test)),
            }
        }
        _ => String::new(),
    }
}

impl Document for Named {
    fn find(&self, key: &str) -> Option<Value<'_>> {
        Some(match self.field(key)? {
            Field::Text(text) => Value::String(Cow::Borrowed(text)),
            Field::Number(number) => Value::UInt(number.into()),
        })
    }
}

impl Engine for Tau {
    fn run(&mut self, executions: Range<usize>) -> Matched {
        let mut matched = Matched::default();
        for document in &self.documents[executions] {
            for (index, rule) in self.rules.iter().enumerate() {
                if rule.matches(document) {
                    matched.add(index);
                }
            }
        }
        matched
    }
}
