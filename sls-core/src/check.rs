//! The type check: a parsed rule against the schema and the lists gives a rule that the matcher can run.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::capabilities::Capabilities;
use crate::diagnostic::{Code, Span, nearest};
use crate::limits::Limits;
use crate::list::{List, ListType};
use crate::pattern::{Like, Pattern};
use crate::policy::PolicyType;
use crate::rule::{Comparison, Condition, NumberTest, Rule, Test};
use crate::schema::{Field, FieldKind, SCHEMA};
use crate::syntax::{Expr, Ident, Literal, LiteralValue, Operand, Operator, RuleSyntax, TestSyntax};

/// What a rule is checked against.
pub(crate) struct Checker<'a> {
    pub(crate) policy_type: PolicyType,
    pub(crate) lists: &'a BTreeMap<Arc<str>, Arc<List>>,
    pub(crate) limits: &'a Limits,
    pub(crate) capabilities: &'a Capabilities,
    /// What is left of the limit `regex_total_bytes`.
    pub(crate) regex_bytes: &'a Cell<usize>,
}

/// A finding in a rule; the span is in the rule's text.
#[derive(Debug)]
pub(crate) struct RuleError {
    pub(crate) code: Code,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) replacement: Option<String>,
}

impl RuleError {
    fn new(code: Code, span: Span, message: String) -> Self {
        Self { code, span, message, help: None, replacement: None }
    }

    fn help(mut self, help: String) -> Self {
        self.help = Some(help);
        self
    }

    fn replace_by(mut self, replacement: Option<&str>) -> Self {
        self.replacement = replacement.map(str::to_owned);
        self
    }
}

impl Checker<'_> {
    /// Checks `rule`, whose text is `text`. All findings are returned, not just the first.
    pub(crate) fn check(&self, text: &str, rule: &RuleSyntax) -> Result<Rule, Vec<RuleError>> {
        let mut errors = Vec::new();
        let condition = rule.condition.as_ref().map(|expr| self.expr(text, expr, &mut errors));
        if !errors.is_empty() {
            return Err(errors);
        }
        // Without an error every part of the condition was made.
        Ok(Rule { text: text.into(), verdict: rule.verdict, condition: condition.flatten() })
    }

    /// The parser bounds the depth of this recursion.
    fn expr(&self, text: &str, expr: &Expr, errors: &mut Vec<RuleError>) -> Option<Condition> {
        let mut all = |terms: &[Expr]| {
            let made: Vec<_> = terms.iter().filter_map(|term| self.expr(text, term, errors)).collect();
            (made.len() == terms.len()).then_some(made)
        };
        match expr {
            Expr::And(terms) => all(terms).map(Condition::And),
            Expr::Or(terms) => all(terms).map(Condition::Or),
            Expr::Not(inner, _) => self.expr(text, inner, errors).map(|inner| Condition::Not(Box::new(inner))),
            Expr::Test(test) => match self.test(text, test) {
                Ok(test) => Some(Condition::Test(test)),
                Err(error) => {
                    errors.push(error);
                    None
                }
            },
        }
    }

    fn test(&self, text: &str, test: &TestSyntax) -> Result<Test, RuleError> {
        let field = self.field(&test.field)?;
        let kind = field.kind();
        if !kind.operators().contains(&test.operator.text()) {
            let operators = kind.operators().join("`, `");
            let message = format!("`{}` does not apply to `{field}`, which is {}", test.operator, kind.with_article());
            return Err(RuleError::new(Code::WrongOperator, test.operator_span, message)
                .help(format!("{} takes `{operators}`", kind.with_article())));
        }
        let positive = test.operator.negates();
        let operator = positive.unwrap_or(test.operator);
        let comparison = match &test.operand {
            Operand::Literal(literal) => self.literal(field, operator, literal)?,
            Operand::Set(literals) => {
                let fold = operator == Operator::InFold;
                let operator = if fold { Operator::EqFold } else { Operator::Eq };
                let parts: Result<_, _> =
                    literals.iter().map(|literal| self.literal(field, operator, literal)).collect();
                Comparison::AnyOf(parts?)
            }
            Operand::List(name) => {
                Comparison::List { list: self.list(field, name)?, fold: operator == Operator::InFold }
            }
        };
        let text = &text[test.span.start..test.span.end];
        Ok(Test { text: text.into(), span: test.span, field, negated: positive.is_some(), comparison })
    }

    fn field(&self, ident: &Ident) -> Result<Field, RuleError> {
        let name = &*ident.name;
        let offered = || SCHEMA.iter().filter(|spec| spec.offered_to(self.policy_type)).map(|spec| spec.name);
        let Some(field) = Field::from_name(name) else {
            return Err(RuleError::new(Code::UnknownField, ident.span, format!("unknown field `{name}`"))
                .help(format!("`sls fields {}` lists the fields of this policy type", self.policy_type))
                .replace_by(nearest(name, offered())));
        };
        if !field.spec().offered_to(self.policy_type) {
            let message = format!("policies of type `{}` have no field `{name}`", self.policy_type);
            let types: Vec<_> =
                PolicyType::ALL.iter().filter(|t| field.spec().offered_to(**t)).map(|t| format!("`{t}`")).collect();
            return Err(RuleError::new(Code::FieldNotOffered, ident.span, message)
                .help(format!("policies of type {} have it", types.join(", "))));
        }
        if !self.capabilities.offers_field(self.policy_type, field) {
            let message = format!("this sensor cannot tell `{name}` for policies of type `{}`", self.policy_type);
            return Err(RuleError::new(Code::Unsupported, ident.span, message));
        }
        Ok(field)
    }

    fn list(&self, field: Field, ident: &Ident) -> Result<Arc<List>, RuleError> {
        let Some(list) = self.lists.get(&*ident.name) else {
            let names = self.lists.keys().map(|name| &**name);
            let replacement = nearest(&ident.name, names).map(|name| format!("${name}"));
            return Err(RuleError::new(Code::UnknownList, ident.span, format!("unknown list `{}`", ident.name))
                .replace_by(replacement.as_deref()));
        };
        if !list.list_type.fits(field.kind()) {
            let fitting: Vec<_> = ListType::ALL
                .iter()
                .filter(|list_type| list_type.fits(field.kind()))
                .map(|list_type| format!("`{list_type}`"))
                .collect();
            let message = format!(
                "`{field}` is {}, but the list `{}` has the type `{}`",
                field.kind().with_article(),
                list.name,
                list.list_type
            );
            return Err(RuleError::new(Code::WrongList, ident.span, message).help(format!(
                "{} is compared with a list of type {}",
                field.kind().with_article(),
                fitting.join(" or ")
            )));
        }
        if let Some(longer) = field.spec().max_len.and_then(|max| list.entries.longer_than(max)) {
            let message = format!("entry {longer} of `{}` is longer than `{field}` can be", list.name);
            return Err(RuleError::new(Code::LiteralTooLong, ident.span, message)
                .help("the kernel cuts process names: compare `programName` with a list of type `paths`".to_owned()));
        }
        Ok(list.clone())
    }

    fn literal(&self, field: Field, operator: Operator, literal: &Literal) -> Result<Comparison, RuleError> {
        let wrong = |wanted: &str| {
            let message = format!("`{field}` is {}: expected {wanted}, found {literal}", field.kind().with_article());
            RuleError::new(Code::WrongLiteral, literal.span, message)
        };
        match (field.kind(), &literal.value) {
            (FieldKind::Path | FieldKind::Name | FieldKind::Text, LiteralValue::String(raw)) => {
                if operator == Operator::Like {
                    return self.like(raw, literal.span);
                }
                let text = unescape(raw, literal.span)?;
                let pattern = Pattern::new(&text);
                if let Some(max) = field.spec().max_len.filter(|max| pattern.min_len() > *max) {
                    let message = format!("`{field}` has at most {max} bytes, so this literal could never match");
                    return Err(RuleError::new(Code::LiteralTooLong, literal.span, message)
                        .help("the kernel cuts process names: compare `programName` instead".to_owned()));
                }
                Ok(Comparison::Pattern { pattern, fold: operator == Operator::EqFold })
            }
            (FieldKind::Path | FieldKind::Name | FieldKind::Text, _) => Err(wrong("a string in double quotes")),
            (FieldKind::Number, LiteralValue::Integer(integer)) => Ok(Comparison::Number(match operator {
                Operator::Lt => NumberTest::Lt(*integer),
                Operator::Le => NumberTest::Le(*integer),
                Operator::Gt => NumberTest::Gt(*integer),
                Operator::Ge => NumberTest::Ge(*integer),
                _ => NumberTest::Eq(*integer),
            })),
            (FieldKind::Number, _) => Err(wrong("an integer without quotes")),
            (FieldKind::Bool, LiteralValue::Bool(value)) => Ok(Comparison::Bool(*value)),
            (FieldKind::Bool, _) => Err(wrong("`true` or `false` without quotes")),
            (FieldKind::Host, LiteralValue::String(raw)) => match parse_network(raw) {
                Some(network) => Ok(Comparison::Host(network)),
                None => Err(wrong("an address or a CIDR block such as \"10.0.0.0/8\"")),
            },
            (FieldKind::Host, _) => Err(wrong("an address or a CIDR block in double quotes")),
            (FieldKind::Enum(names), LiteralValue::String(raw)) => {
                if !names.contains(&&**raw) {
                    let quoted = nearest(raw, names.iter().copied()).map(|name| format!("\"{name}\""));
                    return Err(wrong(&format!("one of \"{}\"", names.join("\", \""))).replace_by(quoted.as_deref()));
                }
                Ok(Comparison::Pattern { pattern: Pattern::new(raw), fold: false })
            }
            (FieldKind::Enum(_), _) => Err(wrong("a name in double quotes")),
            (FieldKind::Lineage, _) => Err(wrong("a list of type `lineage`")),
        }
    }

    fn like(&self, raw: &str, span: Span) -> Result<Comparison, RuleError> {
        // In a regular expression only the escaped quote is the string's; every other backslash is the expression's.
        let text = raw.replace("\\\"", "\"");
        let Limits { regex_bytes, regex_total_bytes, .. } = *self.limits;
        let left = self.regex_bytes.get();
        let limit = left.min(regex_bytes);
        let result = Like::new(&text, limit);
        // One that is too large took its time and counts as well.
        let cost = result.as_ref().map_or_else(|error| if error.too_large { limit } else { 0 }, Like::cost);
        self.regex_bytes.set(left.saturating_sub(cost));
        result.map(|like| Comparison::Like(Box::new(like))).map_err(|error| {
            if error.too_large {
                let message = if limit < regex_bytes {
                    format!(
                        "the regular expressions are too large together: the limit `regex_total_bytes` is {regex_total_bytes}"
                    )
                } else {
                    format!("the regular expression is too large: the limit `regex_bytes` is {regex_bytes}")
                };
                return RuleError::new(Code::Limit, span, message);
            }
            // Places are exact unless an escaped quote shifted them.
            let place = error.span.filter(|_| text == raw).map_or(span, |place| place.shifted(span.start + 1));
            let refusal = RuleError::new(Code::BadRegex, place, format!("invalid regular expression: {}", error.message));
            if raw.starts_with('*') {
                return refusal.help("`like` takes a regular expression; `==` takes `*` as a wildcard".to_owned());
            }
            refusal
        })
    }
}

/// Parses an address or a CIDR block.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// Resolves `\"`. `\*` and `\\` are left for the pattern, which gives them their meaning; no other escape exists.
fn unescape(raw: &str, span: Span) -> Result<String, RuleError> {
    let mut text = String::with_capacity(raw.len());
    let mut chars = raw.char_indices();
    while let Some((at, char)) = chars.next() {
        if char != '\\' {
            text.push(char);
            continue;
        }
        match chars.next() {
            Some((_, '"')) => text.push('"'),
            Some((_, escaped @ ('*' | '\\'))) => text.extend(['\\', escaped]),
            other => {
                let place = Span::new(at, at + 1 + other.map_or(0, |(_, char)| char.len_utf8()));
                let message = format!("unknown escape `{}`", &raw[place.start..place.end]);
                return Err(RuleError::new(Code::WrongLiteral, place.shifted(span.start + 1), message)
                    .help(r#"a string has the escapes `\"`, `\\` and `\*`, a literal star"#.to_owned()));
            }
        }
    }
    Ok(text)
}
