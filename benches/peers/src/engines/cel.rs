//! `cel`: each rule is a program of its own. Its `matches()` compiles the expression at every call, so regular expressions
//! are compiled once and called as functions.

use std::ops::Range;
use std::sync::Arc;

use anyhow::anyhow;
use cel::{Context, Program, Value};
use regex::bytes::Regex;
use sls_benches::workload::{Condition, Execution, TextTest, UidTest};

use super::expression::{Notation, compiled, name, quoted};
use crate::engine::{Cost, Engine, Loaded, Matched};

struct Cel {
    programs: Vec<Program>,
    contexts: Vec<Context<'static, 'static>>,
}

pub(crate) fn load(rules: &[Condition], executions: &[Execution]) -> anyhow::Result<Loaded> {
    let mut tests = Vec::new();
    let texts: Vec<_> = rules.iter().map(|rule| expression(rule, &mut tests)).collect();
    let ((programs, regexes), cost) = Cost::of(|| {
        let regexes = tests.iter().map(compiled).collect::<Result<Vec<_>, _>>()?;
        let compile = |text: &String| Program::compile(text).map_err(|error| anyhow!("cel: {error}"));
        anyhow::Ok((texts.iter().map(compile).collect::<anyhow::Result<_>>()?, regexes))
    })?;
    // What the contexts have in common lives as long as they do, which is as long as the process.
    let common: &'static _ = Box::leak(Box::new(common(regexes)?));
    let contexts = executions.iter().map(|execution| context(common, execution)).collect::<anyhow::Result<_>>()?;
    Ok(Loaded { engine: Box::new(Cel { programs, contexts }), cost })
}

fn expression(rule: &Condition, regexes: &mut Vec<TextTest>) -> String {
    let notation = Notation { and: " && ", or: " || ", not: "!" };
    notation.write(rule, &mut |test| match test {
        Condition::Uid(UidTest::Equals(uid)) => format!("uid == {uid}"),
        Condition::Uid(UidTest::AtLeast(uid)) => format!("uid >= {uid}"),
        Condition::Text(field, test) => {
            let field = name(*field);
            match test {
                TextTest::Equals(text) => format!("{field} == \"{text}\""),
                TextTest::Prefix(text) => format!("{field}.startsWith(\"{text}\")"),
                TextTest::In(texts) => format!("{field} in [{}]", quoted(texts, ", ")),
                TextTest::Glob(_) | TextTest::Regex(_) => {
                    regexes.push(test.clone());
                    format!("search({field}, {})", regexes.len() - 1)
                }
            }
        }
        _ => String::new(),
    })
}

fn common(regexes: Vec<Regex>) -> anyhow::Result<Context<'static, 'static>> {
    let mut context = Context::default();
    context
        .add_function("search", move |text: Arc<String>, regex: i64| {
            regexes.get(regex as usize).is_some_and(|regex| regex.is_match(text.as_bytes()))
        })
        .map_err(|error| anyhow!("cel: {error}"))?;
    Ok(context)
}

fn context(
    common: &'static Context<'static, 'static>,
    execution: &Execution,
) -> anyhow::Result<Context<'static, 'static>> {
    let mut context = common.new_inner_scope();
    for (name, text) in execution.texts(&execution.joined_arguments()) {
        context.add_variable_from_value(name, text.to_owned());
    }
    for (name, number) in execution.numbers() {
        context.add_variable_from_value(name, i64::from(number));
    }
    Ok(context)
}

impl Engine for Cel {
    fn run(&mut self, executions: Range<usize>) -> Matched {
        let mut matched = Matched::default();
        for context in &self.contexts[executions] {
            for (rule, program) in self.programs.iter().enumerate() {
                match program.execute(context) {
                    Ok(Value::Bool(false)) => {}
                    Ok(Value::Bool(true)) => matched.add(rule),
                    _ => matched.add(usize::MAX),
                }
            }
        }
        matched
    }
}
