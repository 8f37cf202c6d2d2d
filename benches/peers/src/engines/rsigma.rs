//! `rsigma-eval`: each rule is a Sigma rule. Events are a struct of our own, which it reads fastest.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

use anyhow::ensure;
use rsigma_eval::{Engine as Rsigma, Event, EventValue};
use rsigma_parser::parse_sigma_yaml;
use serde_json::Value;
use sls_benches::workload::{Condition, Execution, TextTest, UidTest};

use super::expression::{Notation, name};
use super::named::{Field, Named};
use crate::engine::{Cost, Engine, Loaded, Matched};

struct Peer {
    engine: Rsigma,
    events: Vec<Named>,
}

pub(crate) fn load(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    let mut text = String::new();
    for (index, rule) in rules.iter().enumerate() {
        write_rule(&mut text, index, rule)?;
    }
    let (engine, cost) = Cost::of(|| {
        let collection = parse_sigma_yaml(&text)?;
        ensure!(collection.errors.is_empty(), "rsigma: {:?}", collection.errors);
        let mut engine = Rsigma::new();
        engine.add_collection(&collection)?;
        Ok(engine)
    })?;
    ensure!(engine.rule_count() == rules.len(), "rsigma: {} of {} rules", engine.rule_count(), rules.len());
    Ok(Loaded { engine: Box::new(Peer { engine, events: Named::of(executions) }), cost })
}

fn write_rule(text: &mut String, index: usize, rule: &Condition) -> anyhow::Result<()> {
    let mut selections = String::new();
    let mut count = 0;
    let notation = Notation { and: " and ", or: " or ", not: "not " };
    let condition = notation.write(rule, &mut |test| {
        let selection = format!("s{count}");
        count += 1;
        // Writing to memory does not fail.
        let _ = writeln!(selections, "  {selection}:\n    {}", item(test));
        selection
    });
    write!(
        text,
        "---\ntitle: 'rule {index}'\nlogsource:\n  product: linux\n  category: process_creation\ndetection:\n\
         {selections}  condition: {condition}\nlevel: high\n"
    )?;
    Ok(())
}

fn item(test: &Condition) -> String {
    match test {
        Condition::Uid(UidTest::Equals(uid)) => format!("uid: {uid}"),
        Condition::Uid(UidTest::AtLeast(uid)) => format!("uid|gte: {uid}"),
        Condition::Text(field, test) => {
            let field = name(*field);
            match test {
                TextTest::Equals(text) | TextTest::Glob(text) => format!("{field}|cased: '{text}'"),
                TextTest::Prefix(text) => format!("{field}|startswith|cased: '{text}'"),
                TextTest::In(texts) => format!("{field}|cased: ['{}']", texts.join("', '")),
                TextTest::Regex(regex) => format!("{field}|re: '{}'", regex.pattern),
            }
        }
        _ => String::new(),
    }
}

impl Event for Named {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        Some(match self.field(path)? {
            Field::Text(text) => EventValue::Str(Cow::Borrowed(text)),
            Field::Number(number) => EventValue::Int(number.into()),
        })
    }

    fn any_string_value(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        self.texts().iter().any(|(_, text)| pred(text))
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        self.texts().map(|(_, text)| Cow::Borrowed(text)).into()
    }

    fn to_json(&self) -> Value {
        let mut fields: serde_json::Map<_, _> =
            self.texts().into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
        fields.extend(self.execution.numbers().map(|(name, number)| (name.to_owned(), number.into())));
        Value::Object(fields)
    }
}

impl Engine for Peer {
    fn run(&mut self, executions: Range<usize>) -> Matched {
        let mut matched = Matched::default();
        for event in &self.events[executions] {
            for result in self.engine.evaluate(event) {
                let rule = result.header.rule_title.strip_prefix("rule ").and_then(|rule| rule.parse().ok());
                matched.add(rule.unwrap_or(usize::MAX));
            }
        }
        matched
    }
}
