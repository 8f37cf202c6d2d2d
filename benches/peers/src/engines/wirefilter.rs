//! `wirefilter-engine`: each rule is a filter of its own.

use std::ops::Range;
use std::sync::LazyLock;

use anyhow::anyhow;
use sls_benches::workload::{Condition, Execution, TextTest, UidTest};
use wirefilter::{ExecutionContext, Filter, Scheme, Type};

use super::expression::{Notation, name, pattern, quoted};
use crate::engine::{Cost, Engine, Loaded, Matched};

static SCHEME: LazyLock<Scheme> = LazyLock::new(|| {
    let mut scheme = Scheme::new();
    for (name, kind) in [
        ("exe", Type::Bytes),
        ("args", Type::Bytes),
        ("name", Type::Bytes),
        ("uid", Type::Int),
        ("ppid", Type::Int),
        ("parent", Type::Bytes),
        ("container", Type::Bytes),
        ("cwd", Type::Bytes),
    ] {
        // Invariant: the names differ.
        #[allow(clippy::expect_used)]
        scheme.add_field(name.to_owned(), kind).expect("no field comes twice");
    }
    scheme
});

struct Wirefilter {
    filters: Vec<Filter<'static>>,
    contexts: Vec<ExecutionContext<'static>>,
}

pub(crate) fn load(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    let texts: Vec<_> = rules.iter().map(filter).collect();
    let parsed = |text: &String| match SCHEME.parse(text) {
        Ok(filter) => Ok(filter.compile()),
        Err(error) => Err(anyhow!("wirefilter: {error}")),
    };
    let (filters, cost) = Cost::of(|| texts.iter().map(parsed).collect::<anyhow::Result<Vec<_>>>())?;
    let contexts = executions.iter().map(context).collect::<Result<_, _>>()?;
    Ok(Loaded { engine: Box::new(Wirefilter { filters, contexts }), cost })
}

fn filter(rule: &Condition) -> String {
    let notation = Notation { and: " && ", or: " || ", not: "not " };
    notation.write(rule, &mut |test| match test {
        Condition::Uid(UidTest::Equals(uid)) => format!("uid == {uid}"),
        Condition::Uid(UidTest::AtLeast(uid)) => format!("uid >= {uid}"),
        Condition::Text(field, TextTest::Equals(text)) => format!("{} == \"{text}\"", name(*field)),
        Condition::Text(field, TextTest::In(texts)) => format!("{} in {{{}}}", name(*field), quoted(texts, " ")),
        Condition::Text(field, test) => format!("{} matches \"{}\"", name(*field), pattern(test)),
        _ => String::new(),
    })
}

fn context(execution: &Execution) -> anyhow::Result<ExecutionContext<'static>> {
    let mut context = ExecutionContext::new(&SCHEME);
    let arguments = execution.joined_arguments();
    let texts = execution.texts(&arguments);
    // Side by side, as the texts of SLS's events are. A context only borrows; there are as many as there are executions.
    let mut rest: &'static str = texts.map(|(_, text)| text).concat().leak();
    for (name, text) in texts {
        let (text, others) = rest.split_at(text.len());
        context.set_field_value(name, text).map_err(|error| anyhow!("{error}"))?;
        rest = others;
    }
    for (name, number) in execution.numbers() {
        context.set_field_value(name, number as i32).map_err(|error| anyhow!("{error}"))?;
    }
    Ok(context)
}

impl Engine for Wirefilter {
    fn run(&mut self, executions: Range<usize>) -> Matched {
        let mut matched = Matched::default();
        for context in &self.contexts[executions] {
            for (rule, filter) in self.filters.iter().enumerate() {
                if filter.execute(context) == Ok(true) {
                    matched.add(rule);
                }
            }
        }
        matched
    }
}
