//! Matchers that make one mistake each, of those that a compiled matcher can make.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use sls_core::{
    Decision, Event, Expr, Field, FieldKind, LiteralValue, Matcher, Operand, Operator, PolicySet, RuleVerdict,
    TestSyntax, TreeMatcher, Truth, Value, parse_rule,
};

use crate::matcher_cases::{Factory, load};

/// What the mistake is, and who makes it.
pub(crate) const BROKEN: &[(&str, Factory<'static>)] = &[
    ("what is unknown is taken as absent", &|_, policies| sees(policies, forget_unknown)),
    ("what is truncated is taken as whole", &|_, policies| sees(policies, forget_cuts)),
    ("what is absent is not looked up as an empty text", &|_, policies| sees(policies, fill_absent)),
    ("of many values only the first counts", &|_, policies| sees(policies, first_item)),
    ("of many values only 16 count", &|_, policies| sees(policies, sixteen_items)),
    ("empty items of many values are skipped", &|_, policies| sees(policies, full_items)),
    ("values are taken as UTF-8", &|_, policies| sees(policies, as_utf8)),
    ("IPv4 in IPv6 is taken as IPv4", &|_, policies| sees(policies, unmapped)),
    ("only the first 256 bytes of a value are looked at", &|_, policies| sees(policies, first_bytes)),
    ("the case of values is not folded", &|_, policies| {
        misjudges(policies, |event, test, _| {
            test.operator.text().contains('~') && text(event, test).iter().any(u8::is_ascii_uppercase)
        })
    }),
    ("a suffix needs something before it", &|_, policies| {
        misjudges(policies, |event, test, literal| {
            literal.strip_prefix('*').is_some_and(|end| text(event, test) == end.as_bytes())
        })
    }),
    ("a prefix needs something behind it", &|_, policies| {
        misjudges(policies, |event, test, literal| {
            literal.strip_suffix('*').is_some_and(|start| text(event, test) == start.as_bytes())
        })
    }),
    ("a number does not reach the border of its range", &|_, policies| {
        misjudges(policies, |event, test, literal| {
            let number = Field::from_name(&test.field.name).and_then(|field| event.number(field));
            matches!(test.operator, Operator::Le | Operator::Ge)
                && number.is_some_and(|number| number.to_string() == literal)
        })
    }),
    ("an expression is believed to have a literal", &|_, policies| {
        misjudges(policies, |event, test, _| test.operator == Operator::Like && text(event, test).is_empty())
    }),
    ("negations are believed to need a value", &|_, policies| {
        misjudges(policies, |event, test, _| test.operator.negates().is_some() && text(event, test).is_empty())
    }),
    ("the default rule is forgotten", &|_, policies| loses(policies, |_, decision| decision.rule.condition.is_none())),
    ("a doubt about an `ignore` rule is forgotten", &|_, policies| {
        loses(policies, |_, decision| !decision.certain && decision.rule.verdict == RuleVerdict::Ignore)
    }),
    ("a doubt whether the policy is raised is forgotten", &|_, policies| {
        loses(policies, |event, decision| decision.policy.is_raised_by(event) == Truth::Unknown)
    }),
    ("the new name is forgotten", &|_, policies| loses(policies, |event, _| event.is_under_new_name())),
    ("addresses of names stay as they were", &|document, _| Box::new(TreeMatcher::new(load(document)))),
    ("lists are mixed up", &|document, _| Box::new(TreeMatcher::new(load(&mixed_up(document))))),
    ("an empty list is taken for one that has everything", &|document, _| {
        Box::new(TreeMatcher::new(load(&all_full(document))))
    }),
    ("decisions are not in the order of policies", &|_, policies| reorders(policies, |order| order.reverse())),
    ("a policy that was found twice decides twice", &|_, policies| {
        reorders(policies, |order| {
            if let Some(last) = order.last().copied() {
                order.push(last);
            }
        })
    }),
];

/// Decides about another event than the one that happened.
struct Seeing {
    tree: TreeMatcher,
    change: fn(&mut Event),
}

impl Matcher for Seeing {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        let mut event = event.clone();
        (self.change)(&mut event);
        self.tree.decide(&event, decided);
    }
}

fn sees(policies: Arc<PolicySet>, change: fn(&mut Event)) -> Box<dyn Matcher> {
    Box::new(Seeing { tree: TreeMatcher::new(policies), change })
}

/// Loses some decisions.
struct Losing<L> {
    tree: TreeMatcher,
    loses: L,
}

impl<L: Fn(&Event, &Decision<'_>) -> bool + Send + Sync> Matcher for Losing<L> {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        self.tree.decide(event, &mut |decision| {
            if !(self.loses)(event, &decision) {
                decided(decision);
            }
        });
    }
}

fn loses(
    policies: Arc<PolicySet>,
    loses: impl Fn(&Event, &Decision<'_>) -> bool + Send + Sync + 'static,
) -> Box<dyn Matcher> {
    Box::new(Losing { tree: TreeMatcher::new(policies), loses })
}

/// Loses the decisions of rules with such a test, which is told with its literal; of a list that is empty.
fn misjudges(policies: Arc<PolicySet>, test: fn(&Event, &TestSyntax, &str) -> bool) -> Box<dyn Matcher> {
    loses(policies, move |event, decision| {
        let condition = parse_rule(&decision.rule.text, 64).unwrap().condition;
        condition.is_some_and(|condition| has_test(&condition, &|syntax, literal| test(event, syntax, literal)))
    })
}

fn has_test(expression: &Expr, is: &dyn Fn(&TestSyntax, &str) -> bool) -> bool {
    match expression {
        Expr::And(terms) | Expr::Or(terms) => terms.iter().any(|term| has_test(term, is)),
        Expr::Not(inner, _) => has_test(inner, is),
        Expr::Test(test) => match &test.operand {
            Operand::Literal(literal) => match &literal.value {
                LiteralValue::String(text) => is(test, text),
                LiteralValue::Integer(integer) => is(test, &integer.to_string()),
                _ => is(test, ""),
            },
            _ => is(test, ""),
        },
        _ => panic!("an expression of a new kind"),
    }
}

fn text<'e>(event: &'e Event, test: &TestSyntax) -> &'e [u8] {
    event.text(Field::from_name(&test.field.name).unwrap())
}

/// Tells decisions in another order.
struct Reordering {
    policies: Arc<PolicySet>,
    tree: TreeMatcher,
    reorder: fn(&mut Vec<usize>),
}

impl Matcher for Reordering {
    fn decide(&self, event: &Event, decided: &mut dyn FnMut(Decision<'_>)) {
        let mut order = Vec::new();
        self.tree.decide(event, &mut |decision| {
            order
                .push(self.policies.policies().iter().position(|policy| Arc::ptr_eq(policy, decision.policy)).unwrap());
        });
        (self.reorder)(&mut order);
        for index in order {
            let wanted = &self.policies.policies()[index];
            self.tree.decide(event, &mut |decision| {
                if Arc::ptr_eq(wanted, decision.policy) {
                    decided(decision);
                }
            });
        }
    }
}

fn reorders(policies: Arc<PolicySet>, reorder: fn(&mut Vec<usize>)) -> Box<dyn Matcher> {
    Box::new(Reordering { tree: TreeMatcher::new(policies.clone()), policies, reorder })
}

impl fmt::Debug for Seeing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeing")
    }
}

impl<L> fmt::Debug for Losing<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Losing")
    }
}

impl fmt::Debug for Reordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reordering")
    }
}

// Changes of events.

fn forget_unknown(event: &mut Event) {
    for field in event.unknown().iter() {
        event.clear(field);
    }
}

fn forget_cuts(event: &mut Event) {
    each_text(event, |text, _| text);
}

fn fill_absent(event: &mut Event) {
    for field in
        Field::all().filter(|field| matches!(field.kind(), FieldKind::Path | FieldKind::Name | FieldKind::Text))
    {
        if event.value(field) == Value::Absent && !field.spec().many {
            event.set_text(field, b"\x01");
        }
    }
}

fn as_utf8(event: &mut Event) {
    each_text(event, |text, cut| if cut { text } else { String::from_utf8_lossy(&text).into_owned().into_bytes() });
}

fn first_bytes(event: &mut Event) {
    each_text(event, |mut text, _| {
        text.truncate(256);
        text
    });
}

/// Sets each text anew, to what `change` makes of it and of whether it was cut.
fn each_text(event: &mut Event, change: fn(Vec<u8>, bool) -> Vec<u8>) {
    for field in Field::all().filter(|field| *field != Field::EventType && *field != Field::ProgramArguments) {
        if let Value::Text { bytes, truncated } = event.value(field) {
            let text = change(bytes.to_vec(), truncated);
            event.set_text(field, &text);
        }
    }
}

fn first_item(event: &mut Event) {
    each_item(event, |items| items.truncate(1));
}

fn sixteen_items(event: &mut Event) {
    each_item(event, |items| items.truncate(16));
}

fn full_items(event: &mut Event) {
    each_item(event, |items| items.retain(|item| !item.is_empty()));
}

fn each_item(event: &mut Event, change: fn(&mut Vec<Vec<u8>>)) {
    for field in [Field::AncestorProgramName, Field::ContainerMounts] {
        if let Value::Many { items, truncated: false } = event.value(field) {
            let mut items: Vec<_> = items.iter().map(<[u8]>::to_vec).collect();
            change(&mut items);
            event.set_texts(field, items.iter().map(|item| &**item));
        }
    }
}

fn unmapped(event: &mut Event) {
    for field in Field::all() {
        if let Value::Host(IpAddr::V6(host)) = event.value(field) {
            event.set_host(field, host.to_canonical());
        }
    }
}

// Changes of documents.

/// Each list has the entries of another of its type.
fn mixed_up(document: &Map<String, Json>) -> Map<String, Json> {
    let mut mixed = document.clone();
    for (name, object) in document {
        let of_type = |other: &Json| other.get("list").is_some() && other.get("type") == object.get("type");
        let others = document.iter().filter(|(_, other)| of_type(other));
        // Lists of processName stay short.
        let mut others =
            others.filter(|(other, _)| other.starts_with("short") == name.starts_with("short")).map(|(_, other)| other);
        if let (Some(list), Some(first)) = (object.get("list"), others.next()) {
            mixed[name]["list"] = if first["list"] == *list {
                others.next().unwrap_or(first)["list"].clone()
            } else {
                first["list"].clone()
            };
        }
    }
    mixed
}

fn all_full(document: &Map<String, Json>) -> Map<String, Json> {
    let mut full = document.clone();
    for object in full.values_mut() {
        if object.get("list").is_some_and(|list| list.as_array().is_some_and(Vec::is_empty)) {
            object["list"] = match object["type"].as_str().unwrap() {
                "numbers" => Json::from_iter([format!("0-{}", u64::MAX)]),
                "hosts" => Json::from_iter(["0.0.0.0/0", "::/0"]),
                "lineage" => Json::from_iter([Json::from_iter(["*"])]),
                _ => Json::from_iter(["*"]),
            };
        }
    }
    full
}
