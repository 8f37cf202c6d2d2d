//! The grammar of rules: text in, a tree with the place of every node out. Nothing is looked up here.

use std::fmt;

use nom::branch::alt;
use nom::bytes::complete::{is_not, tag, take_while, take_while1};
use nom::character::complete::{anychar, char, digit1, multispace0};
use nom::combinator::{opt, recognize, value};
use nom::multi::fold_many0;
use nom::sequence::{delimited, pair};
use nom::{IResult, Parser};

use crate::diagnostic::Span;

/// What a rule makes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a rule matches or ignores.
#[allow(clippy::exhaustive_enums)]
pub enum RuleVerdict {
    /// The policy responds.
    Match,
    /// The policy does nothing.
    Ignore,
}

impl RuleVerdict {
    /// The keyword.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Ignore => "ignore",
        }
    }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A parsed rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleSyntax {
    /// What it makes of an event.
    pub verdict: RuleVerdict,
    /// When; none in `default match` and `default ignore`.
    pub condition: Option<Expr>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expr {
    /// All of them.
    And(Vec<Expr>),
    /// One of them.
    Or(Vec<Expr>),
    /// Not this one; the span is the keyword's.
    Not(Box<Expr>, Span),
    /// A comparison.
    Test(TestSyntax),
}

/// A comparison of a field with something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestSyntax {
    /// The field's name.
    pub field: Ident,
    /// The operator.
    pub operator: Operator,
    /// The operator's place.
    pub operator_span: Span,
    /// What the field is compared with.
    pub operand: Operand,
    /// The whole test.
    pub span: Span,
}

/// A name and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ident {
    /// The name.
    pub name: String,
    /// Its place.
    pub span: Span,
}

/// The right side of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operand {
    /// One literal.
    Literal(Literal),
    /// A named list.
    List(Ident),
    /// A list written out.
    Set(Vec<Literal>),
}

/// A literal and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Literal {
    /// What it says.
    pub value: LiteralValue,
    /// Its place, quotes included.
    pub span: Span,
}

/// What a literal says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LiteralValue {
    /// A string as written between the quotes: what a backslash means depends on the operator.
    String(String),
    /// An integer.
    Integer(i128),
    /// `true` or `false`.
    Bool(bool),
}

macro_rules! operators {
    ($( $variant:ident $text:literal $meaning:literal; )+) => {
        /// An operator.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Operator { $( #[doc = $meaning] $variant, )+ }

        impl Operator {
            /// Every operator.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The operator as written in rules.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }
    };
}

operators! {
    Eq "==" "Equal, with `*` as a wildcard on texts; contained, on hosts.";
    Ne "!=" "Not `==`.";
    EqFold "=~" "`==` without regard to ASCII case.";
    NeFold "!~" "Not `=~`.";
    Lt "<" "Less.";
    Le "<=" "Less or equal.";
    Gt ">" "Greater.";
    Ge ">=" "Greater or equal.";
    Like "like" "A regular expression over the whole value.";
    NotLike "not like" "Not `like`.";
    In "in" "Equal to an entry of a list.";
    NotIn "not in" "Not `in`.";
    InFold "in~" "`in` without regard to ASCII case.";
    NotInFold "not in~" "Not `in~`.";
}

impl Operator {
    /// The operator that this one negates, if it is a negation.
    #[must_use]
    pub fn negates(self) -> Option<Self> {
        match self {
            Self::Ne => Some(Self::Eq),
            Self::NeFold => Some(Self::EqFold),
            Self::NotLike => Some(Self::Like),
            Self::NotIn => Some(Self::In),
            Self::NotInFold => Some(Self::InFold),
            _ => None,
        }
    }

    fn takes_list(self) -> bool {
        matches!(self, Self::In | Self::NotIn | Self::InFold | Self::NotInFold)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Why a rule is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes of the rule.
    pub span: Span,
    /// Whether a limit was exceeded.
    pub over_limit: bool,
}

/// Parses one rule, in which parentheses and `not` nest at most `nesting` deep.
///
/// ```
/// use sls_core::{Limits, RuleVerdict, parse_rule};
///
/// let rule = parse_rule(r#"match programName == "*/wget" and uid != 0"#, Limits::default().rule_nesting)?;
/// assert_eq!(rule.verdict, RuleVerdict::Match);
/// assert_eq!(rule.to_string(), r#"match programName == "*/wget" and uid != 0"#);
/// let error = parse_rule("match uid = 0", 64).unwrap_err();
/// assert_eq!(error.to_string(), "expected an operator, found `=`; write `==`");
/// assert_eq!(error.span.start, 10);
/// # Ok::<(), sls_core::SyntaxError>(())
/// ```
///
/// # Errors
/// The place where the text stops being a rule, and what could stand there.
pub fn parse_rule(text: &str, nesting: usize) -> Result<RuleSyntax, SyntaxError> {
    let parser = RuleParser { text, nesting };
    match parser.rule(text) {
        Ok(("", rule)) => Ok(rule),
        Ok((rest, _)) => Err(parser.error(Failure { at: rest, expected: "`and`, `or` or the end of the rule" })),
        Err(nom::Err::Error(failure) | nom::Err::Failure(failure)) => Err(parser.error(failure)),
        Err(nom::Err::Incomplete(_)) => Err(parser.error(Failure { at: "", expected: "more" })),
    }
}

/// What the grammar wanted, and where.
#[derive(Clone, Copy, Debug)]
struct Failure<'a> {
    at: &'a str,
    expected: &'static str,
}

const TOO_DEEP: &str = "less nesting";

impl<'a> nom::error::ParseError<&'a str> for Failure<'a> {
    fn from_error_kind(at: &'a str, _: nom::error::ErrorKind) -> Self {
        Self { at, expected: "something else" }
    }

    fn append(_: &'a str, _: nom::error::ErrorKind, other: Self) -> Self {
        other
    }

    fn or(self, other: Self) -> Self {
        // The one that got further knows more.
        if self.at.len() < other.at.len() { self } else { other }
    }
}

type Parsed<'a, T> = IResult<&'a str, T, Failure<'a>>;

/// Parsing functions share the whole text, to know places, and the nesting limit.
#[derive(Clone, Copy)]
struct RuleParser<'a> {
    text: &'a str,
    nesting: usize,
}

impl<'a> RuleParser<'a> {
    fn rule(self, input: &'a str) -> Parsed<'a, RuleSyntax> {
        let (input, _) = multispace0(input)?;
        let keyword = expect("`match`, `ignore` or `default`", |i| {
            alt((
                value(Some(RuleVerdict::Match), |i| self.keyword("match", i)),
                value(Some(RuleVerdict::Ignore), |i| self.keyword("ignore", i)),
                value(None, |i| self.keyword("default", i)),
            ))
            .parse(i)
        });
        let (input, verdict) = keyword(input)?;
        match verdict {
            Some(verdict) => {
                let (input, condition) = self.or_expr(input, 0)?;
                Ok((input, RuleSyntax { verdict, condition: Some(condition) }))
            }
            None => {
                let (input, verdict) = expect("`match` or `ignore`", |i| {
                    alt((
                        value(RuleVerdict::Match, |i| self.keyword("match", i)),
                        value(RuleVerdict::Ignore, |i| self.keyword("ignore", i)),
                    ))
                    .parse(i)
                })(input)?;
                Ok((input, RuleSyntax { verdict, condition: None }))
            }
        }
    }

    fn or_expr(self, input: &'a str, depth: usize) -> Parsed<'a, Expr> {
        let (input, terms) = self.separated("or", input, |i| self.and_expr(i, depth))?;
        Ok((input, one_or(terms, Expr::Or)))
    }

    fn and_expr(self, input: &'a str, depth: usize) -> Parsed<'a, Expr> {
        let (input, terms) = self.separated("and", input, |i| self.unary(i, depth))?;
        Ok((input, one_or(terms, Expr::And)))
    }

    fn unary(self, input: &'a str, depth: usize) -> Parsed<'a, Expr> {
        if depth > self.nesting {
            return Err(nom::Err::Failure(Failure { at: input, expected: TOO_DEEP }));
        }
        if let Ok((rest, span)) = self.spanned(input, |i| self.keyword("not", i)) {
            let (rest, inner) = self.unary(rest, depth + 1)?;
            return Ok((rest, Expr::Not(Box::new(inner), span)));
        }
        if let Ok((rest, _)) = symbol("(", input) {
            let (rest, inner) = self.or_expr(rest, depth + 1)?;
            let (rest, _) = expect("`)`", |i| symbol(")", i))(rest)?;
            return Ok((rest, inner));
        }
        let (rest, test) = self.test(input)?;
        Ok((rest, Expr::Test(test)))
    }

    fn test(self, input: &'a str) -> Parsed<'a, TestSyntax> {
        let start = self.at(input);
        let (input, field) = expect("a field", |i| self.ident(i))(input)?;
        let operator_start = self.at(input);
        let (input, operator) = expect("an operator", |i| self.operator(i))(input)?;
        let operator_end = self.end(input);
        let (input, operand) = if operator.takes_list() {
            alt((|i| self.list_name(i), |i| self.set(i))).parse(input)?
        } else {
            let (input, literal) = expect("a string, an integer, `true` or `false`", |i| self.literal(i))(input)?;
            (input, Operand::Literal(literal))
        };
        let span = Span::new(start, self.end(input));
        let operator_span = Span::new(operator_start, operator_end);
        Ok((input, TestSyntax { field, operator, operator_span, operand, span }))
    }

    fn operator(self, input: &'a str) -> Parsed<'a, Operator> {
        use Operator as O;
        let (input, not) = opt(|i| self.keyword("not", i)).parse(input)?;
        if not.is_some() {
            return alt((
                value(O::NotInFold, |i| symbol_no_case("in~", i)),
                value(O::NotIn, |i| self.keyword("in", i)),
                value(O::NotLike, |i| self.keyword("like", i)),
            ))
            .parse(input);
        }
        alt((
            value(O::Eq, |i| symbol("==", i)),
            value(O::Ne, |i| symbol("!=", i)),
            value(O::EqFold, |i| symbol("=~", i)),
            value(O::NeFold, |i| symbol("!~", i)),
            value(O::Le, |i| symbol("<=", i)),
            value(O::Ge, |i| symbol(">=", i)),
            value(O::Lt, |i| symbol("<", i)),
            value(O::Gt, |i| symbol(">", i)),
            value(O::InFold, |i| symbol_no_case("in~", i)),
            value(O::In, |i| self.keyword("in", i)),
            value(O::Like, |i| self.keyword("like", i)),
        ))
        .parse(input)
    }

    fn list_name(self, input: &'a str) -> Parsed<'a, Operand> {
        let (input, _) = expect("a `$list` or a `[…]` of literals", char('$'))(input)?;
        let start = self.text.len() - input.len() - 1;
        let (input, name) = expect("a list's name", |i| {
            alt((delimited(char('"'), is_not("\""), char('"')), take_while1(is_list_char))).parse(i)
        })(input)?;
        let span = Span::new(start, self.text.len() - input.len());
        let (input, _) = multispace0(input)?;
        Ok((input, Operand::List(Ident { name: name.to_owned(), span })))
    }

    fn set(self, input: &'a str) -> Parsed<'a, Operand> {
        let (mut input, _) = expect("a `$list` or a `[…]` of literals", |i| symbol("[", i))(input)?;
        let mut literals = Vec::new();
        loop {
            let (rest, literal) = expect("a literal", |i| self.literal(i))(input)?;
            literals.push(literal);
            let (rest, more) = expect("`,` or `]`", |i| {
                alt((value(true, |i| symbol(",", i)), value(false, |i| symbol("]", i)))).parse(i)
            })(rest)?;
            input = rest;
            if !more {
                return Ok((input, Operand::Set(literals)));
            }
        }
    }

    fn literal(self, input: &'a str) -> Parsed<'a, Literal> {
        let start = self.at(input);
        let (rest, value) = match input.chars().next() {
            Some('"') => {
                let (rest, text) = self.string(input)?;
                (rest, LiteralValue::String(text.to_owned()))
            }
            Some('0'..='9' | '-') => {
                let (rest, digits) = recognize(pair(opt(char('-')), digit1)).parse(input)?;
                let integer = digits.parse().map_err(|_| {
                    nom::Err::Failure(Failure { at: input, expected: "an integer of at most 38 digits" })
                })?;
                (rest, LiteralValue::Integer(integer))
            }
            _ => alt((
                value(LiteralValue::Bool(true), |i| self.keyword("true", i)),
                value(LiteralValue::Bool(false), |i| self.keyword("false", i)),
            ))
            .parse(input)?,
        };
        let (rest, _) = multispace0(rest)?;
        Ok((rest, Literal { value, span: Span::new(start, self.end(rest)) }))
    }

    /// A string up to its closing quote; a backslash takes the next character with it.
    fn string(self, input: &'a str) -> Parsed<'a, &'a str> {
        let body =
            fold_many0(alt((value((), pair(char('\\'), anychar)), value((), is_not("\\\"")))), || (), |(), ()| ());
        let (input, _) = char('"')(input)?;
        let (rest, text) = recognize(body).parse(input)?;
        let (rest, _) = char::<_, Failure<'a>>('"')(rest)
            .map_err(|_: nom::Err<Failure<'a>>| nom::Err::Failure(Failure { at: rest, expected: "a closing `\"`" }))?;
        Ok((rest, text))
    }

    fn ident(self, input: &'a str) -> Parsed<'a, Ident> {
        let start = self.at(input);
        let (rest, name) = recognize(pair(
            take_while1(|c: char| c.is_alphabetic() || c == '_'),
            take_while(|c: char| c.is_alphanumeric() || c == '_'),
        ))
        .parse(input)?;
        let span = Span::new(start, start + name.len());
        let (rest, _) = multispace0(rest)?;
        Ok((rest, Ident { name: name.to_owned(), span }))
    }

    fn keyword(self, word: &'static str, input: &'a str) -> Parsed<'a, ()> {
        let rest = strip_no_case(word, input)?;
        if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            return Err(nom::Err::Error(Failure { at: input, expected: word }));
        }
        let (rest, _) = multispace0(rest)?;
        Ok((rest, ()))
    }

    fn separated(
        self,
        word: &'static str,
        input: &'a str,
        term: impl Fn(&'a str) -> Parsed<'a, Expr>,
    ) -> Parsed<'a, Vec<Expr>> {
        let (mut input, first) = term(input)?;
        let mut terms = vec![first];
        while let Ok((rest, ())) = self.keyword(word, input) {
            let (rest, next) = term(rest)?;
            terms.push(next);
            input = rest;
        }
        Ok((input, terms))
    }

    fn spanned(self, input: &'a str, parser: impl Fn(&'a str) -> Parsed<'a, ()>) -> Parsed<'a, Span> {
        let (rest, ()) = parser(input)?;
        Ok((rest, Span::new(self.at(input), self.end(rest))))
    }

    fn at(self, input: &str) -> usize {
        self.text.len() - input.len()
    }

    /// The end of what was parsed before `rest`, without the white space between.
    fn end(self, rest: &str) -> usize {
        self.text[..self.at(rest)].trim_end().len()
    }

    fn error(self, failure: Failure<'_>) -> SyntaxError {
        let start = self.at(failure.at);
        if failure.expected == TOO_DEEP {
            let message = format!("the rule is nested too deeply: the limit `rule_nesting` is {}", self.nesting);
            return SyntaxError { message, span: Span::new(start, start), over_limit: true };
        }
        // Other white space than the grammar's is what was found.
        let length = failure.at.find(GRAMMAR_SPACE).unwrap_or(failure.at.len());
        let found = match &failure.at[..length] {
            "" => "the end of the rule".to_owned(),
            word => format!("`{}`", word.chars().take(40).map(visible).collect::<String>()),
        };
        let instead = match &found[..] {
            "`=`" => "; write `==`",
            "`&&`" => "; write `and`",
            "`||`" => "; write `or`",
            quoted if quoted.starts_with("`'") => "; strings stand in double quotes",
            _ => "",
        };
        let message = format!("expected {}, found {found}{instead}", failure.expected);
        SyntaxError { message, span: Span::new(start, start + length), over_limit: false }
    }
}

/// What [`multispace0`] skips.
const GRAMMAR_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

fn visible(char: char) -> String {
    if char.is_whitespace() || char.is_control() { char.escape_unicode().to_string() } else { char.to_string() }
}

/// Names what a parser wanted, unless it already got past its first token.
fn expect<'a, T>(
    expected: &'static str,
    mut parser: impl Parser<&'a str, Output = T, Error = Failure<'a>>,
) -> impl FnOnce(&'a str) -> Parsed<'a, T> {
    move |input| {
        parser.parse(input).map_err(|error| match error {
            nom::Err::Error(_) => nom::Err::Error(Failure { at: input, expected }),
            error => error,
        })
    }
}

fn symbol<'a>(text: &'static str, input: &'a str) -> Parsed<'a, ()> {
    let (rest, _) = tag(text)(input)?;
    let (rest, _) = multispace0(rest)?;
    Ok((rest, ()))
}

fn symbol_no_case<'a>(text: &'static str, input: &'a str) -> Parsed<'a, ()> {
    let (rest, _) = multispace0(strip_no_case(text, input)?)?;
    Ok((rest, ()))
}

/// What follows `text`, whatever its ASCII case. (nom's own function compares letters of other scripts too, and then
/// cuts through them.)
fn strip_no_case<'a>(text: &'static str, input: &'a str) -> Result<&'a str, nom::Err<Failure<'a>>> {
    match input.split_at_checked(text.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(text) => Ok(rest),
        _ => Err(nom::Err::Error(Failure { at: input, expected: text })),
    }
}

/// Whether a list's name may have the character without being quoted.
fn is_list_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn one_or(mut terms: Vec<Expr>, many: impl FnOnce(Vec<Expr>) -> Expr) -> Expr {
    if terms.len() == 1 { terms.remove(0) } else { many(terms) }
}

impl fmt::Display for RuleSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.condition {
            Some(condition) => write!(f, "{} {condition}", self.verdict),
            None => write!(f, "default {}", self.verdict),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut joined = |terms: &[Self], word: &str| {
            for (index, term) in terms.iter().enumerate() {
                if index > 0 {
                    write!(f, " {word} ")?;
                }
                match term {
                    Self::And(_) | Self::Or(_) => write!(f, "({term})")?,
                    _ => write!(f, "{term}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::And(terms) => joined(terms, "and"),
            Self::Or(terms) => joined(terms, "or"),
            Self::Not(inner, _) => match **inner {
                Self::And(_) | Self::Or(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Self::Test(test) => write!(f, "{} {} {}", test.field.name, test.operator, test.operand),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(literal) => write!(f, "{literal}"),
            Self::List(list) if list.name.chars().all(is_list_char) => write!(f, "${}", list.name),
            Self::List(list) => write!(f, "$\"{}\"", list.name),
            Self::Set(literals) => {
                let texts: Vec<_> = literals.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            LiteralValue::String(text) => write!(f, "\"{text}\""),
            LiteralValue::Integer(integer) => write!(f, "{integer}"),
            LiteralValue::Bool(value) => write!(f, "{value}"),
        }
    }
}
