//! Documents that were written to make the loader panic, take for ever, fill the memory or lie about the place.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use sls_core::{Code, Diagnostics, Limits, PolicyLoader, PolicySet, parse_rule};

/// Far more than any of these takes, far less than they took when the time grew with the square of the size.
const LONG: Duration = Duration::from_secs(60);

fn load(text: impl Into<Vec<u8>>) -> Result<PolicySet, Diagnostics> {
    PolicySet::from_yaml("hostile.yaml", text)
}

fn codes(diagnostics: &Diagnostics) -> Vec<Code> {
    diagnostics.as_slice().iter().map(|diagnostic| diagnostic.code).collect()
}

/// The only finding of a document.
#[allow(clippy::unwrap_used)] // A helper of tests.
fn only(text: impl Into<Vec<u8>>) -> (Code, String) {
    let diagnostics = load(text).unwrap_err();
    assert_eq!(diagnostics.as_slice().len(), 1, "{diagnostics}");
    let diagnostic = &diagnostics.as_slice()[0];
    (diagnostic.code, diagnostic.message.clone())
}

fn policy(attributes: &str) -> String {
    format!("P: {{policy: program, rules: [default ignore], {attributes}}}\n")
}

#[test]
fn keywords_are_ascii() {
    // Its lower case is `k`, in another number of bytes.
    for text in ["match a li\u{212a}e \"x\"", "match a li\u{212a}", "match a not li\u{212a}e \"x\"", "\u{212a}"] {
        assert!(parse_rule(text, 64).is_err(), "{text}");
    }
    assert_eq!(parse_rule("MATCH a Not LIKE \"x\"", 64).unwrap().to_string(), "match a not like \"x\"");
}

#[test]
fn an_error_names_a_space_that_is_none() {
    let error = parse_rule("match uid\u{a0}== 1", 64).unwrap_err();
    assert_eq!(error.to_string(), r"expected an operator, found `\u{a0}==`");
    assert_eq!((error.span.start, error.span.end), (9, 13));
    let error = parse_rule("match uid == 1 \u{2003}", 64).unwrap_err();
    assert_eq!(error.to_string(), r"expected `and`, `or` or the end of the rule, found `\u{2003}`");
}

#[test]
fn a_byte_order_mark_has_no_column() {
    for (text, message) in [
        (&b"\xef\xbb\xbfa\xff"[..], "the document is not UTF-8: bad byte at offset 4, line 1"),
        (b"\xef\xbb\xbfa\0", "the document has a NUL byte"),
    ] {
        let diagnostics = load(text).unwrap_err();
        let diagnostic = &diagnostics.as_slice()[0];
        assert_eq!((diagnostic.position(), &*diagnostic.message), ((1, 2), message));
    }
}

#[test]
fn rules_are_written_as_they_read() {
    for text in [r#"match a in $"b/c""#, r#"match a in $"b c""#, "match a in $b-c.d_é", r#"match a in $"$""#] {
        assert_eq!(parse_rule(text, 64).unwrap().to_string(), text);
    }
}

#[test]
fn the_effective_document_keeps_texts() {
    let text = "L: {type: names, list: [007, +5, -0, True, FALSE, 1.50, null x, '7', 0x10]}\n\
                P: {policy: program, enabled: True, rules: [default ignore], alertLabels: {01: 007, 1: True, TRUE: ''}}\n";
    let set = load(text).unwrap();
    let again = load(set.effective_document()).unwrap();
    assert_eq!(format!("{:?}", again.lists()), format!("{:?}", set.lists()));
    assert_eq!(again.policy("P").unwrap().alert_labels, set.policy("P").unwrap().alert_labels);
    assert_eq!(again.hash(), set.hash());
    let (code, message) = only(policy("alertMessage: True"));
    assert_eq!((code, &*message), (Code::WrongType, "`alertMessage` takes a string, not a bool"));
}

#[test]
fn aliases_of_long_texts_are_counted() {
    let mut text = format!("L: {{type: names, list: [&a {}", "x".repeat(1 << 20));
    text.push_str(&", *a".repeat(1000));
    text.push_str("]}\n");
    let (code, message) = only(text);
    assert_eq!(
        (code, &*message),
        (Code::Limit, "the document is too large with its aliases: the limit `document_bytes` is 16777216")
    );
}

#[test]
fn aliases_do_not_nest_deeper() {
    let mut text = String::from("a0: &a0 [x]\n");
    for level in 1..150 {
        let (open, close) = ("[".repeat(25), "]".repeat(25));
        writeln!(text, "a{level}: &a{level} {open}*a{}{close}", level - 1).unwrap();
    }
    let (code, message) = only(text);
    assert_eq!((code, &*message), (Code::Limit, "the document is nested too deeply: the limit `nesting` is 32"));
}

#[test]
fn suggestions_do_not_compare_long_names() {
    let (code, message) = only(policy(&format!("? {} : 1", "k".repeat(1 << 20))));
    assert_eq!(code, Code::UnknownKey);
    assert!(message.len() <= 1024, "{}", message.len());
    let list = "l".repeat(1 << 20);
    let rule = format!("match userName in $\"{}\"", "l".repeat(16_000));
    let text =
        format!("? {list}\n: {{type: names, list: []}}\nP: {{policy: program, rules: ['{rule}', default ignore]}}\n");
    assert_eq!(only(text).0, Code::UnknownList);
}

#[test]
fn a_line_may_have_many_keys() {
    let labels: Vec<_> = (0..300_000).map(|label| format!("{label}: x")).collect();
    let start = Instant::now();
    let set = load(policy(&format!("alertLabels: {{{}}}", labels.join(", ")))).unwrap();
    assert_eq!(set.policies()[0].alert_labels.len(), labels.len());
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn many_attributes_may_be_overridden() {
    let keys = |value| (0..100_000).map(|key| format!("k{key}: {value}\n  ")).collect::<String>();
    let layer = |value| format!("P:\n  policy: program\n  {}rules: [default ignore]\n", keys(value));
    let start = Instant::now();
    let loader = PolicyLoader::new().document("a.yaml", layer(1)).document("b.yaml", layer(2));
    let diagnostics = loader.load().unwrap_err();
    assert_eq!(diagnostics.as_slice().len(), Limits::default().diagnostics + 1);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn findings_are_bounded() {
    let text: String = (0..5000).map(|name| format!("{name}: nothing\n")).collect();
    let diagnostics = load(&*text).unwrap_err();
    let codes = codes(&diagnostics);
    assert_eq!(codes.len(), 101);
    assert!(codes[..100].iter().all(|code| *code == Code::NotAnObject));
    let last = &diagnostics.as_slice()[100];
    assert_eq!((last.code, last.position()), (Code::Limit, (101, 1)));
    assert_eq!(last.message, "more findings follow: the limit `diagnostics` is 100");
}

#[test]
fn findings_in_long_lines_are_short() {
    let entries: Vec<_> = (0..100_000).map(|number| format!("é{number}")).collect();
    let start = Instant::now();
    let diagnostics = load(format!("L: {{type: numbers, list: [{}]}}\n", entries.join(", "))).unwrap_err();
    assert_eq!(diagnostics.as_slice().len(), 101);
    let third = &diagnostics.as_slice()[2];
    assert_eq!(third.position(), (1, 35));
    let text = third.render(false);
    assert!(text.contains("hostile.yaml:1:35\n"), "{text}");
    assert!(text.contains("é2, "), "{text}");
    let all = diagnostics.render(true);
    assert!(all.len() < 101 * 4096, "{}", all.len());
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn findings_about_many_lines_are_short() {
    let entries: String = (0..100_000).map(|number| format!("  - {number}\n")).collect();
    let diagnostics =
        load(format!("P:\n  policy: program\n  rules: [default ignore]\n  comments:\n{entries}")).unwrap_err();
    let diagnostic = &diagnostics.as_slice()[0];
    assert_eq!((diagnostic.code, diagnostic.position()), (Code::WrongType, (5, 5)));
    assert!(diagnostic.render(false).len() < 4096, "{}", diagnostic.render(false));
}

#[test]
fn regular_expressions_add_up() {
    let rules: Vec<_> = (0..20).map(|rule| format!("match programName like \"{rule}.{{500}}\"")).collect();
    let text = format!("P: {{policy: program, rules: ['{}', default ignore]}}\n", rules.join("', '"));
    assert_eq!(load(&*text).unwrap().policies()[0].rules.len(), 21);
    let limits = Limits { regex_total_bytes: 256 << 10, ..Limits::default() };
    let diagnostics = PolicyLoader::new().limits(limits).document("hostile.yaml", text).load().unwrap_err();
    let message = &diagnostics.as_slice()[0].message;
    assert_eq!(message, "the regular expressions are too large together: the limit `regex_total_bytes` is 262144");
}

#[test]
fn a_regular_expression_may_end_in_a_comment() {
    let set = load("P: {policy: program, rules: ['match programName like \"(?x)/a b # c\"', default ignore]}\n");
    assert_eq!(set.unwrap().policies()[0].rules.len(), 2);
}

/// Line breaks of YAML 1.1 are none of YAML 1.2: what is written has to be read as it was.
#[test]
fn former_line_breaks_survive_the_effective_document() {
    let texts = ['\u{85}', '\u{2028}', '\u{2029}'].into_iter().flat_map(|former| {
        [format!("{former}(a policy"), format!("{former}a text-0- \u{7f}\u{1f600}\\\"\n {former} b")]
    });
    for text in texts {
        let quoted = serde_json::to_string(&text).unwrap();
        let document = format!(
            "{quoted}:\n  policy: program\n  comments: {quoted}\n  alertMessage: text-0-0-\n  rules:\n  - match programName in $L\n  - default ignore\nL: {{type: paths, list: [{quoted}, text-1-]}}\n"
        );
        let set = PolicySet::from_yaml("p.yaml", &*document).unwrap();
        assert_eq!((&*set.policies()[0].name, &*set.policies()[0].comments), (&*text, &*text));
        let again = PolicySet::from_yaml("effective.yaml", set.effective_document()).unwrap();
        assert_eq!(again.effective_document(), set.effective_document());
        assert_eq!(format!("{:?}", again.policies()), format!("{:?}", set.policies()));
        assert_eq!(format!("{:?}", again.lists()), format!("{:?}", set.lists()));
    }
}
