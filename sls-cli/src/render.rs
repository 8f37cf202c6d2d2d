//! Alerts, explanations and events for a person. What comes from a process is shown with control characters escaped:
//! nobody may paint the operator's terminal.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};
use serde_json::json;
use sls_core::{Alert, CostSnapshot, Difference, Event, Explanation, Field, TestOutcome, Tier, TierCase};

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(color.into()))
}

fn paint(style: Style, text: &str) -> String {
    format!("{style}{}{style:#}", escape(text))
}

/// By what policies are enforced, and why not by anything stronger. Operations of which the same can be said are one case.
pub(crate) fn tiers(cases: &[TierCase]) -> String {
    let mut text = String::new();
    let alike = |one: &TierCase, other: &TierCase| {
        let what = |case: &TierCase| (Arc::as_ptr(&case.policy), case.kind, case.mechanism);
        what(one) == what(other) && one.passed_over == other.passed_over
    };
    let mut policy = None;
    for group in cases.chunk_by(alike) {
        let Some(case) = group.first() else { continue };
        if policy.replace(Arc::as_ptr(&case.policy)) != Some(Arc::as_ptr(&case.policy)) {
            let _ = writeln!(text, "{}", paint(BOLD, &case.policy.name));
        }
        let operations: String =
            group.iter().filter_map(|case| case.operation).map(|operation| format!(" {operation}")).collect();
        let style = match case.tier() {
            Tier::Kernel => color(AnsiColor::Green),
            Tier::Fanotify => color(AnsiColor::Cyan),
            _ => color(AnsiColor::Yellow),
        };
        let tier = paint(style, case.tier().name());
        let _ = writeln!(text, "  {}{operations}: {tier}, by {}", case.kind, case.mechanism);
        for passed in &case.passed_over {
            for obstacle in &passed.obstacles {
                let reason = format!("not by {}: {obstacle}", passed.mechanism);
                let _ = writeln!(text, "    {}", paint(DIM, &reason));
            }
        }
    }
    text
}

/// What matching has cost, as a table with the dearest policies first.
pub(crate) fn costs(costs: &CostSnapshot) -> String {
    let total = costs.nanoseconds();
    let mut text = String::new();
    let mut row = |[events, asked, responded, each, share]: [&str; 5], last: &str| {
        let _ = writeln!(text, "{events:>10} {asked:>10} {responded:>10} {each:>9} {share:>7}  {last}");
    };
    row(["events", "asked", "responded", "ns/event", "share"], "policy");
    for cost in &costs.policies {
        let numbers = [cost.events, cost.asked, cost.responded].map(|number| number.to_string());
        let [each, share] = [per(cost.nanoseconds, cost.events), percent(cost.nanoseconds, total)];
        row([&numbers[0], &numbers[1], &numbers[2], &each, &share], &escape(&cost.policy));
    }
    for cost in &costs.kinds {
        let [each, share] = [per(cost.nanoseconds, cost.events), percent(cost.nanoseconds, total)];
        let last = format!("(finding the policies to ask about {})", cost.kind);
        row([&cost.events.to_string(), "", "", &each, &share], &last);
    }
    text
}

/// The same for a program.
pub(crate) fn costs_json(costs: &CostSnapshot) -> serde_json::Value {
    let total = costs.nanoseconds();
    let share = |nanoseconds| ratio(nanoseconds, total);
    let policies = costs.policies.iter().map(|cost| {
        json!({
            "policy": &*cost.policy, "events": cost.events, "asked": cost.asked, "responded": cost.responded,
            "nanoseconds": cost.nanoseconds, "nanosecondsPerEvent": ratio(cost.nanoseconds, cost.events),
            "share": share(cost.nanoseconds),
        })
    });
    let kinds = costs.kinds.iter().map(|cost| {
        json!({
            "kind": cost.kind.name(), "events": cost.events, "nanoseconds": cost.nanoseconds,
            "nanosecondsPerEvent": ratio(cost.nanoseconds, cost.events), "share": share(cost.nanoseconds),
        })
    });
    json!({"costs": {"policies": policies.collect::<Vec<_>>(), "kinds": kinds.collect::<Vec<_>>()}})
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn per(nanoseconds: u64, events: u64) -> String {
    format!("{:.1}", ratio(nanoseconds, events))
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * ratio(part, whole))
}

/// An alert, as a few lines.
pub(crate) fn alert(alert: &Alert) -> String {
    let mut text = String::new();
    let style = match alert.priority {
        "High" => color(AnsiColor::Red).bold(),
        "Medium" => color(AnsiColor::Yellow).bold(),
        _ => color(AnsiColor::Cyan),
    };
    let time = alert.notifications.first().map_or("", |notification| &notification.timestamp);
    // A String takes everything that is written to it.
    let _ =
        writeln!(text, "{} {}  {}", paint(DIM, time), paint(style, alert.priority), paint(BOLD, &alert.description));
    if let Some(process) = &alert.process_info {
        let arguments: String = process.args.iter().map(|argument| format!(" {}", escape(argument))).collect();
        let gap = if arguments.is_empty() { "" } else { " " };
        let _ = writeln!(text, "  program   {}{gap}{}", name(&process.name), paint(DIM, &shortened(&arguments)));
        let uid = process.uid.map_or_else(|| "?".to_owned(), |uid| uid.to_string());
        let _ = writeln!(text, "  process   pid {} of uid {uid} in {}", process.pid, name(&process.cwd));
    }
    if !alert.lineage.is_empty() {
        let names: Vec<_> =
            alert.lineage.iter().take(6).map(|process| format!("{} ({})", name(&process.name), process.pid)).collect();
        let _ = writeln!(text, "  lineage   {}", names.join(" < "));
    }
    let _ = writeln!(text, "  policy    {}: {}", escape(&alert.strategy_name), paint(DIM, &alert.matched_rule));
    if !alert.uncertain.is_empty() {
        let _ = writeln!(text, "  unsure    {} could not be told", alert.uncertain.join(", "));
    }
    for notification in alert.notifications.iter().skip(1) {
        let fields = &notification.message_fields;
        let style = match fields.action_result {
            Some("successful") => color(AnsiColor::Green),
            Some("not successful") => color(AnsiColor::Red),
            _ => color(AnsiColor::Yellow),
        };
        let details = fields.action_result_details.as_deref().unwrap_or_default();
        let result = paint(style, fields.action_result.unwrap_or_default());
        let separator = if details.is_empty() { "" } else { ": " };
        let latency = fields.action_latency_us.map(|us| format!(" after {us} µs")).unwrap_or_default();
        let _ = writeln!(
            text,
            "  action    {} {result}{latency}{separator}{}",
            fields.action_type.unwrap_or_default(),
            escape(details)
        );
    }
    text.push('\n');
    text
}

/// A path for a person, who should see that it is not known.
fn name(path: &str) -> String {
    if path.is_empty() { "?".to_owned() } else { escape(path) }
}

/// As much of a long text as a person wants to see.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 240;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A number of things.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Explanations of one event. In the `brief` form a policy that ignores the event takes one line, below the others.
pub(crate) fn explanations(event: &str, explanations: &[Explanation], brief: bool) -> String {
    let (ignoring, others): (Vec<_>, Vec<_>) =
        explanations.iter().partition(|explanation| brief && matches!(explanation.outcome, "ignore" | "not raised"));
    let mut text = format!("{}\n", paint(BOLD, event));
    for explanation in others {
        let _ = writeln!(text, "  {}: {}", escape(&explanation.policy), outcome(explanation.outcome));
        text.push_str(&reasons(explanation, "    "));
    }
    for Explanation { policy, outcome, rule, note, .. } in ignoring {
        let reason = if rule.is_empty() { note.clone().unwrap_or_default() } else { format!("by {rule}") };
        let _ = writeln!(text, "  {}", paint(DIM, &format!("{policy}: {outcome}, {reason}")));
    }
    text
}

fn outcome(outcome: &str) -> String {
    let style = match outcome {
        "match" => color(AnsiColor::Red).bold(),
        "undecided" => color(AnsiColor::Yellow).bold(),
        _ => DIM,
    };
    paint(style, outcome)
}

/// The rules of a policy with the one that decided marked, the tests' values, and the plan.
fn reasons(explanation: &Explanation, indent: &str) -> String {
    let mut text = String::new();
    if let Some(note) = &explanation.note {
        let _ = writeln!(text, "{indent}  {}", paint(DIM, note));
    }
    let mut decided = false;
    for rule in &explanation.rules {
        let decides = !decided && rule.rule == explanation.rule;
        decided |= decides;
        let (mark, style) = if decides { (">", BOLD) } else { (" ", Style::new()) };
        let _ = writeln!(text, "{indent}{mark} {} {}", value(rule.value), paint(style, &rule.rule));
        for test in &rule.tests {
            let found = paint(DIM, &format!("found {}", shortened(&test.found)));
            let _ = writeln!(text, "{indent}    {} {}  {found}", value(test.value), escape(&test.test));
        }
    }
    if !explanation.uncertain.is_empty() {
        let _ = writeln!(text, "{indent}  unsure   {}", explanation.uncertain.join(", "));
    }
    if let Some(report) = explanation.report {
        let _ = writeln!(text, "{indent}  report   {report}");
    }
    for action in &explanation.plan {
        let style = match action.permission {
            "granted" => color(AnsiColor::Red).bold(),
            _ => color(AnsiColor::Yellow),
        };
        let guard = action.guard.as_deref().map(|guard| format!(" by {guard}")).unwrap_or_default();
        let _ = writeln!(text, "{indent}  plan     {} {}{guard}", action.action, paint(style, action.permission));
    }
    text
}

/// The value of a rule or test, in a column.
fn value(value: &str) -> String {
    let style = match value {
        "true" => color(AnsiColor::Green),
        "unknown" => color(AnsiColor::Yellow),
        _ => DIM,
    };
    paint(style, &format!("{value:<8}"))
}

/// What came of the tests of one file: one line, and the reasons of each that failed.
pub(crate) fn tests(file: &str, outcomes: &[TestOutcome]) -> String {
    let total = count(outcomes.len() as u64, "test", "tests");
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    let (red, green) = (color(AnsiColor::Red).bold(), color(AnsiColor::Green));
    let summary = if failed == 0 {
        paint(green, &format!("{total} passed"))
    } else {
        paint(red, &format!("{failed} of {total} failed"))
    };
    let mut text = format!("{}: {summary}\n", escape(file));
    for test in outcomes.iter().filter(|outcome| !outcome.passed()) {
        let place = paint(DIM, &format!("{file}:{}", test.line));
        let _ = writeln!(text, "\n  {} {}  {place}", paint(red, "failed"), paint(BOLD, &test.name));
        for mismatch in &test.mismatches {
            let _ = writeln!(text, "    {}", escape(&mismatch.policy));
            for Difference { key, expected, found, .. } in &mismatch.differences {
                let _ = writeln!(text, "      {key:<12} expected {}", paint(green, expected));
                let _ = writeln!(text, "      {:<12} found    {}", "", paint(red, found));
            }
            if let Some(explanation) = &mismatch.explanation {
                text.push_str(&reasons(explanation, "      "));
            }
        }
    }
    if failed > 0 {
        text.push('\n');
    }
    text
}

/// Policies that no test makes respond.
pub(crate) fn uncovered(policies: &[&String], failed: bool) -> String {
    let style = if failed { color(AnsiColor::Red).bold() } else { color(AnsiColor::Yellow) };
    let total = count(policies.len() as u64, "policy", "policies");
    let mut text = format!("{}\n", paint(style, &format!("no test makes {total} respond:")));
    for policy in policies {
        let _ = writeln!(text, "  {}", escape(policy));
    }
    text
}

/// An executed program, as one line.
pub(crate) fn exec(event: &Event) -> String {
    let show = |bytes: &[u8]| escape(&String::from_utf8_lossy(bytes));
    let arguments = shortened(&show(event.text(Field::ProgramArguments)));
    let program = show(event.text(Field::ProgramName));
    let parent = show(event.text(Field::ParentProgramName));
    let user = show(event.text(Field::UserName));
    let line = format!("exec {:>7} {user:<8} {program}  {arguments}  < {parent}", event.process.pid);
    format!("{}\n", paint(DIM, &line))
}

/// Text without control characters.
pub(crate) fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let (escape, plain) =
                if is_hostile(char) { (Some(char.escape_unicode()), None) } else { (None, Some(char)) };
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// One line of JSON that means the same and has no control characters: JSON itself allows DEL and those above 127 in
/// strings, which a terminal obeys and a filter for terminals swallows.
pub(crate) fn json(line: &str) -> Cow<'_, str> {
    if !line.contains(is_hostile) {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for char in line.chars() {
        if is_hostile(char) {
            // All of them are in the first plane, so one escape is enough.
            let _ = write!(text, "\\u{:04x}", u32::from(char));
        } else {
            text.push(char);
        }
    }
    Cow::Owned(text)
}

/// Whether a terminal would do something else with it than show it.
fn is_hostile(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\u{1b}[31mé\n"), "a\\u{1b}[31mé\\u{a}");
        assert_eq!(escape("x\u{202e}y"), "x\\u{202e}y");
    }

    #[test]
    fn json_keeps_its_meaning_without_control_characters() {
        let hostile = "tr\u{7f}ue \u{9b}31m \u{202e} \u{1b}[0m é";
        let line = serde_json::to_string(hostile).unwrap();
        let shown = json(&line);
        assert!(!shown.contains(is_hostile), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), hostile);
        assert!(matches!(json("\"plain é\""), Cow::Borrowed(_)));
    }
}
