//! Policies of every type and form, with what an event needs to match them.

use serde_json::{Map, Value, json};
use sls_core::{Field, FieldKind, Offered, PolicyType};

use super::choices::Choices;
use super::literals::{Literal, Words, address, integer, network, range};
use crate::generators::{Setting, is_derived};

/// A value that a test asks for.
pub(crate) type Wish = (Field, Setting);

/// A policy in the document, and for each of its `match` rules values that go together to make it match, if the rule is
/// no contradiction.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) policy_type: PolicyType,
    pub(crate) wishes: Vec<Vec<Wish>>,
}

pub(crate) const SYMBOLS: &[&str] = &["do_exec", "do_exit"];
pub(crate) const LIBRARIES: &[&str] = &["/usr/lib/libc.so", "/bin/sh"];
/// Domain names in lists of hosts.
const DOMAINS: &[&str] = &["a.example", "b.example"];
/// Lists of each type that a document has.
const LISTS: usize = 3;

/// Adds lists and policies to a document.
pub(crate) struct Author<'c, 'b> {
    pub(crate) choices: &'c mut Choices<'b>,
    pub(crate) words: Words,
    pub(crate) document: Map<String, Value>,
    /// Values of each list, by the list's name.
    lists: Vec<(String, Vec<Setting>)>,
    /// Fields that most tests are about.
    favourites: Vec<Field>,
}

impl<'c, 'b> Author<'c, 'b> {
    pub(crate) fn new(choices: &'c mut Choices<'b>) -> Self {
        let words = Words::new(choices);
        let all: Vec<_> = Field::all().collect();
        let favourites = (0..6).map(|_| *choices.pick(&all)).collect();
        let mut author = Self { choices, words, document: Map::new(), lists: Vec::new(), favourites };
        for index in 0..LISTS {
            for kind in ["paths", "names", "short", "numbers", "hosts", "lineage"] {
                author.list(kind, format!("{kind}{index}"));
            }
        }
        author
    }

    fn list(&mut self, kind: &str, name: String) {
        let (mut entries, mut values) = (Vec::<Value>::new(), Vec::new());
        // Short lists and long ones, which a matcher may keep in another way.
        let length = if self.choices.once_in(4) { 10 + self.choices.below(24) } else { self.choices.below(5) };
        for _ in 0..length {
            let choices = &mut *self.choices;
            match kind {
                "numbers" => {
                    let Literal { text, value } = range(choices);
                    entries.push(text.into());
                    values.push(Setting::Number(value));
                }
                "hosts" if choices.once_in(2) => {
                    entries.push((*choices.pick(DOMAINS)).into());
                    // It may resolve to that.
                    values.push(Setting::Host(address(choices)));
                }
                "hosts" => {
                    let Literal { text, value } = network(choices);
                    entries.push(text.into());
                    values.push(Setting::Host(value));
                }
                "lineage" => {
                    let programs: Vec<_> =
                        (0..1 + choices.below(3)).map(|_| self.words.pattern(choices, false, None)).collect();
                    entries.push(programs.iter().map(|program| program.text.clone()).collect());
                    // Ancestors come nearest first, and others may stand between them.
                    let mut ancestors = Vec::new();
                    for program in programs.into_iter().rev() {
                        if choices.once_in(3) {
                            ancestors.push(b"/usr/lib/systemd".to_vec());
                        }
                        let slash = program.text.contains('/');
                        ancestors.push(if slash { program.value } else { [&b"/opt/"[..], &program.value].concat() });
                    }
                    values.push(Setting::Texts(ancestors));
                }
                _ => {
                    let pattern = self.words.pattern(choices, false, (kind == "short").then_some(15));
                    entries.push(pattern.text.into());
                    values.push(Setting::Texts(vec![pattern.value]));
                }
            }
        }
        let list_type = if kind == "short" { "names" } else { kind };
        self.document.insert(name.clone(), json!({"type": list_type, "list": entries}));
        self.lists.push((name, values));
    }

    pub(crate) fn policy(&mut self, name: String, policy_type: PolicyType) -> Plan {
        let (mut rules, mut wishes) = (Vec::new(), Vec::new());
        for _ in 0..self.choices.below(4) {
            let mut wished = Vec::new();
            let expression = self.expression(policy_type, 3, &mut wished);
            if self.choices.once_in(3) {
                rules.push(format!("ignore {expression}"));
            } else {
                rules.push(format!("match {expression}"));
                wishes.push(wished);
            }
        }
        let matches_rest = self.choices.once_in(8);
        rules.push(if matches_rest { "default match" } else { "default ignore" }.to_owned());
        if matches_rest || wishes.is_empty() {
            wishes.push(Vec::new());
        }
        let mut policy = json!({"policy": policy_type.name(), "rules": rules, "enabled": !self.choices.once_in(8)});
        let mut own = |key: &str, value: Value| drop(policy.as_object_mut().unwrap().insert(key.to_owned(), value));
        match policy_type {
            PolicyType::NewFileExec => own("fileTimeout", (1 + self.choices.below(2)).into()),
            PolicyType::Chmod => {
                own("suid", true.into());
                own("xoth", self.choices.once_in(2).into());
            }
            PolicyType::Kprobe | PolicyType::Uprobe => {
                own("symbol", (*self.choices.pick(SYMBOLS)).into());
                if policy_type == PolicyType::Uprobe {
                    own("executable", (*self.choices.pick(LIBRARIES)).into());
                }
            }
            PolicyType::InteractiveShell => {}
            _ => own("onUnknown", (*self.choices.pick(&["alert", "ignore", "act"])).into()),
        }
        self.document.insert(name.clone(), policy);
        Plan { name, policy_type, wishes }
    }

    fn expression(&mut self, policy_type: PolicyType, depth: usize, wishes: &mut Vec<Wish>) -> String {
        let form = if depth == 0 { 0 } else { self.choices.below(10) };
        match form {
            0..=4 => {
                let field = self.field(policy_type);
                self.test(field, wishes)
            }
            5 | 6 => {
                let left = self.expression(policy_type, depth - 1, wishes);
                format!("({left}) and ({})", self.expression(policy_type, depth - 1, wishes))
            }
            7 | 8 => {
                // One of the two is enough.
                let (mut one, mut other) = (Vec::new(), Vec::new());
                let left = self.expression(policy_type, depth - 1, &mut one);
                let right = self.expression(policy_type, depth - 1, &mut other);
                wishes.extend(if self.choices.once_in(2) { other } else { one });
                format!("({left}) or ({right})")
            }
            _ => {
                let mut refused = Vec::new();
                let inner = self.expression(policy_type, depth - 1, &mut refused);
                if self.choices.once_in(2) {
                    wishes.extend(refused);
                }
                format!("not ({inner})")
            }
        }
    }

    fn field(&mut self, policy_type: PolicyType) -> Field {
        let offered: Vec<_> = Field::all().filter(|field| field.spec().offered_to(policy_type)).collect();
        let among = |wanted: &dyn Fn(Field) -> bool| offered.iter().copied().filter(|field| wanted(*field)).collect();
        let fields: Vec<_> = match self.choices.below(8) {
            0 | 1 => among(&|field| field.spec().offered != Offered::Everywhere),
            2 | 3 => among(&|field| self.favourites.contains(&field)),
            4 => among(&|field| field.kind() == FieldKind::Host || field.spec().many),
            _ => Vec::new(),
        };
        *self.choices.pick(if fields.is_empty() { &offered } else { &fields })
    }

    fn test(&mut self, field: Field, wishes: &mut Vec<Wish>) -> String {
        let operator = *self.choices.pick(field.kind().operators());
        let operand = match operator.trim_start_matches("not ") {
            "in" | "in~" if field.kind() == FieldKind::Lineage || self.choices.once_in(2) => {
                self.named_list(field, wishes)
            }
            "in" | "in~" => {
                let literals = 1 + self.choices.below(3);
                let literals: Vec<_> = (0..literals).map(|_| self.literal(field, operator, wishes)).collect();
                format!("[{}]", literals.join(", "))
            }
            _ => self.literal(field, operator, wishes),
        };
        format!("{field} {operator} {operand}")
    }

    fn named_list(&mut self, field: Field, wishes: &mut Vec<Wish>) -> String {
        let kind = match field.kind() {
            _ if field.spec().max_len.is_some() => "short",
            FieldKind::Path => "paths",
            FieldKind::Number => "numbers",
            FieldKind::Host => "hosts",
            FieldKind::Lineage => "lineage",
            _ => "names",
        };
        let wanted = format!("{kind}{}", self.choices.below(LISTS));
        let (name, values) = self.lists.iter().find(|(name, _)| *name == wanted).unwrap();
        if !values.is_empty() {
            wish(wishes, field, self.choices.pick(values).clone());
        }
        format!("${name}")
    }

    fn literal(&mut self, field: Field, operator: &str, wishes: &mut Vec<Wish>) -> String {
        let choices = &mut *self.choices;
        let (text, setting) = match field.kind() {
            FieldKind::Number => {
                let Literal { text, value } = integer(choices, operator);
                (text, Setting::Number(value))
            }
            FieldKind::Bool => {
                let value = choices.once_in(2);
                (value.to_string(), Setting::Bool(value))
            }
            FieldKind::Host => {
                let Literal { text, value } = network(choices);
                (format!("\"{text}\""), Setting::Host(value))
            }
            FieldKind::Enum(names) => {
                let name = *choices.pick(names);
                (format!("\"{name}\""), Setting::Texts(vec![name.as_bytes().to_vec()]))
            }
            _ => {
                let Literal { text, mut value } = match operator.ends_with("like") {
                    true => self.words.regex(choices),
                    false => self.words.pattern(choices, true, field.spec().max_len),
                };
                if operator.ends_with('~') && choices.once_in(2) {
                    value = super::literals::swap_case(&value);
                }
                (format!("\"{text}\""), Setting::Texts(vec![value]))
            }
        };
        wish(wishes, field, setting);
        text
    }
}

fn wish(wishes: &mut Vec<Wish>, field: Field, setting: Setting) {
    let field = if field == Field::Lineage { Field::AncestorProgramName } else { field };
    if !is_derived(field) || [Field::ProcessPid, Field::ParentPid].contains(&field) {
        wishes.push((field, setting));
    }
}
