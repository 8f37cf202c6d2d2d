//! `a-tree`: it compares texts for equality only, so it is given the rules that need no more.

use std::ops::Range;

use a_tree::{ATree, AttributeDefinition, Event};
use anyhow::anyhow;
use sls_benches::workload::{Condition, Execution, TextTest, UidTest};

use super::expression::{Notation, name, quoted};
use crate::engine::{Cost, Engine, Loaded, Matched};

struct Peer {
    tree: ATree<u64>,
    events: Vec<Event>,
    expressible: Vec<bool>,
}

pub(crate) fn load(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    let texts: Vec<_> = rules.iter().map(expression).collect();
    let attributes = [
        AttributeDefinition::string("exe"),
        AttributeDefinition::string("args"),
        AttributeDefinition::string("name"),
        AttributeDefinition::string("parent"),
        AttributeDefinition::string("container"),
        AttributeDefinition::string("cwd"),
        AttributeDefinition::integer("uid"),
        AttributeDefinition::integer("ppid"),
    ];
    let (tree, cost) = Cost::of(|| {
        let mut tree = ATree::new(&attributes).map_err(|error| anyhow!("a-tree: {error:?}"))?;
        for (rule, text) in texts.iter().enumerate() {
            if let Some(text) = text {
                tree.insert(&(rule as u64), text).map_err(|error| anyhow!("a-tree: {text}: {error:?}"))?;
            }
        }
        anyhow::Ok(tree)
    })?;
    let events = executions.iter().map(|execution| event(&tree, execution)).collect::<anyhow::Result<_>>()?;
    let expressible = texts.iter().map(Option::is_some).collect();
    Ok(Loaded { engine: Box::new(Peer { tree, events, expressible }), cost })
}

fn expression(rule: &Condition) -> Option<String> {
    let notation = Notation { and: " and ", or: " or ", not: "not " };
    let mut expressible = true;
    let text = notation.write(rule, &mut |test| match test {
        Condition::Uid(UidTest::Equals(uid)) => format!("uid = {uid}"),
        Condition::Uid(UidTest::AtLeast(uid)) => format!("uid >= {uid}"),
        Condition::Text(field, TextTest::Equals(text)) => format!("{} = \"{text}\"", name(*field)),
        Condition::Text(field, TextTest::In(texts)) => format!("{} in [{}]", name(*field), quoted(texts, ", ")),
        _ => {
            expressible = false;
            String::new()
        }
    });
    expressible.then_some(text)
}

fn event(tree: &ATree<u64>, execution: &Execution) -> anyhow::Result<Event> {
    let mut builder = tree.make_event();
    let arguments = execution.joined_arguments();
    for (name, text) in execution.texts(&arguments) {
        builder.with_string(name, text).map_err(|error| anyhow!("a-tree: {error:?}"))?;
    }
    for (name, number) in execution.numbers() {
        builder.with_integer(name, number.into()).map_err(|error| anyhow!("a-tree: {error:?}"))?;
    }
    builder.build().map_err(|error| anyhow!("a-tree: {error:?}"))
}

impl Engine for Peer {
    fn run(&mut self, executions: Range<usize>) -> Matched {
        let mut matched = Matched::default();
        for event in &self.events[executions] {
            match self.tree.search(event) {
                Ok(report) => report.matches().iter().for_each(|rule| matched.add(**rule as usize)),
                Err(_) => matched.add(usize::MAX),
            }
        }
        matched
    }

    fn has_rule(&self, rule: usize) -> bool {
        self.expressible[rule]
    }
}
