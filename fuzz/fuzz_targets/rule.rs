//! The rule parser on any text, and the type check of what it gives.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use sls_core::{Expr, Limits, Operand, Span, TestSyntax, parse_rule};

fuzz_target!(|text: &str| {
    let limits = Limits::default();
    match parse_rule(text, limits.rule_nesting) {
        Ok(rule) => {
            let shown = rule.to_string();
            let again = parse_rule(&shown, limits.rule_nesting)
                .unwrap_or_else(|error| panic!("`{shown}` does not parse: {error}"));
            assert_eq!(again.to_string(), shown);
            if let Some(condition) = &rule.condition {
                spans(condition, text);
            }
        }
        Err(error) => {
            part(error.span, text);
            assert!(error.to_string().len() < 1024);
        }
    }

    // JSON's strings are YAML's, so that the loader sees the same text, through escapes and their places.
    let quoted = serde_json::to_string(text).expect("text is serializable");
    let document = format!(
        "l: {{type: paths, list: [/a, '*/b']}}\nn: {{type: names, list: [c*]}}\nd: {{type: numbers, list: [1-9]}}\n\
         t: {{type: lineage, list: [[a, b]]}}\np:\n  policy: program\n  rules:\n  - {quoted}\n  - default match\n"
    );
    if let Some(set) = common::load(&[document.as_bytes()]) {
        let rules = &set.policies()[0].rules;
        assert_eq!(&*rules[0].text, text);
        assert_eq!(parse_rule(text, limits.rule_nesting).expect("it was loaded").verdict, rules[0].verdict);
    }
});

fn spans(expr: &Expr, text: &str) {
    match expr {
        Expr::And(terms) | Expr::Or(terms) => terms.iter().for_each(|term| spans(term, text)),
        Expr::Not(inner, span) => {
            assert!(part(*span, text).eq_ignore_ascii_case("not"));
            spans(inner, text);
        }
        Expr::Test(test) => test_spans(test, text),
        _ => unreachable!("an expression that this target does not know"),
    }
}

fn test_spans(test: &TestSyntax, text: &str) {
    assert_eq!(part(test.field.span, text), test.field.name);
    let whole = part(test.span, text);
    assert!(whole.starts_with(&*test.field.name));
    let operator: Vec<_> = part(test.operator_span, text).split_ascii_whitespace().collect();
    assert!(operator.join(" ").replace("not", "").len() <= "not like".len());
    match &test.operand {
        Operand::Literal(literal) => assert!(whole.ends_with(part(literal.span, text))),
        Operand::List(list) => {
            assert!(whole.ends_with(part(list.span, text)));
            assert!(part(list.span, text).contains(&*list.name));
        }
        Operand::Set(literals) => literals.iter().for_each(|literal| assert!(!part(literal.span, text).is_empty())),
        _ => unreachable!("an operand that this target does not know"),
    }
}

fn part(span: Span, text: &str) -> &str {
    text.get(span.start..span.end).unwrap_or_else(|| panic!("{span:?} is no part of the rule"))
}
