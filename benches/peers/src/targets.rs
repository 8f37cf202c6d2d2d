//! What the matcher is meant to reach, beside what was measured.

use sls_benches::Table;

use crate::engines::{RSIGMA, SLS, WIREFILTER};
use crate::report::{Mix, Report, Result, nanoseconds};

/// A target and whether it is met; not known if what it speaks of was not measured.
struct Target {
    what: String,
    limit: String,
    measured: Option<(String, bool)>,
}

/// Nanoseconds for an event, at most.
const NANOSECONDS: [(Mix, usize, f64); 7] = [
    (Mix::SomeWithoutLiteral, 1, 10.0),
    (Mix::SomeWithoutLiteral, 10, 80.0),
    (Mix::SomeWithoutLiteral, 100, 130.0),
    (Mix::SomeWithoutLiteral, 1000, 260.0),
    (Mix::SomeWithoutLiteral, 10_000, 360.0),
    (Mix::AllWithLiteral, 1000, 140.0),
    (Mix::AllWithLiteral, 10_000, 200.0),
];

/// The time of another engine, in times of SLS, at least.
const TIMES_FASTER: [(Mix, usize, &str, f64); 7] = [
    (Mix::SomeWithoutLiteral, 1, WIREFILTER, 1.0 / 2.3),
    (Mix::SomeWithoutLiteral, 10, WIREFILTER, 1.5),
    (Mix::SomeWithoutLiteral, 100, RSIGMA, 4.0),
    (Mix::SomeWithoutLiteral, 1000, RSIGMA, 5.0),
    (Mix::SomeWithoutLiteral, 10_000, RSIGMA, 14.0),
    (Mix::AllWithLiteral, 1000, RSIGMA, 5.0),
    (Mix::AllWithLiteral, 10_000, RSIGMA, 5.0),
];

/// The time with 10,000 rules, in times of that with 100, at most.
const GROWTH: f64 = 3.0;

const COMPILE_MILLISECONDS: f64 = 200.0;
const COMPILED_MEGABYTES: f64 = 60.0;

/// From a record of the kernel to a decision, with 1,000 policies, at most.
const RECORD_NANOSECONDS: f64 = 1000.0;

/// Prints the targets, and tells whether none was missed.
pub(crate) fn check(report: &Report) -> bool {
    let mut targets = Vec::new();
    let sls = |mix, rules| report.result(mix, rules, SLS);
    for (mix, rules, limit) in NANOSECONDS {
        targets.push(Target {
            what: format!("ns with {rules} rules{}", of(mix)),
            limit: format!("≤ {limit}"),
            measured: sls(mix, rules).map(|result| (time(result), result.nanoseconds <= limit)),
        });
    }
    for (mix, rules, other, limit) in TIMES_FASTER {
        let times = sls(mix, rules)
            .zip(report.result(mix, rules, other))
            .map(|(sls, other)| other.nanoseconds / sls.nanoseconds);
        targets.push(Target {
            what: format!("times as fast as {other} with {rules} rules{}", of(mix)),
            limit: format!("≥ {limit:.2}"),
            measured: times.map(|times| (format!("{times:.2}"), times >= limit)),
        });
    }
    for mix in Mix::ALL {
        let growth = sls(mix, 100).zip(sls(mix, 10_000)).map(|(few, many)| many.nanoseconds / few.nanoseconds);
        targets.push(Target {
            what: format!("times dearer with 10000 rules than with 100{}", of(mix)),
            limit: format!("≤ {GROWTH}"),
            measured: growth.map(|growth| (format!("{growth:.2}"), growth <= GROWTH)),
        });
    }
    let compile = sls(Mix::SomeWithoutLiteral, 10_000).and_then(|result| result.compile);
    targets.push(Target {
        what: "ms to compile 10000 policies".to_owned(),
        limit: format!("≤ {COMPILE_MILLISECONDS}"),
        measured: compile.map(|cost| (format!("{:.0}", cost.milliseconds), cost.milliseconds <= COMPILE_MILLISECONDS)),
    });
    targets.push(Target {
        what: "MB of 10000 compiled policies".to_owned(),
        limit: format!("≤ {COMPILED_MEGABYTES}"),
        measured: compile.map(|cost| (format!("{:.1}", cost.megabytes()), cost.megabytes() <= COMPILED_MEGABYTES)),
    });
    let allocations = report
        .results
        .iter()
        .filter(|result| result.engine == SLS)
        .map(|result| result.allocations)
        .max_by(f64::total_cmp);
    targets.push(Target {
        what: "allocations for an event without a match".to_owned(),
        limit: "0".to_owned(),
        measured: allocations.map(|allocations| (format!("{allocations:.2}"), allocations == 0.0)),
    });
    targets.push(Target {
        what: "ns from the kernel's record to the decision, 1000 policies".to_owned(),
        limit: format!("≤ {RECORD_NANOSECONDS}"),
        measured: report
            .record
            .map(|record| (format!("{:.0} ({:.0})", record.all, record.least), record.all <= RECORD_NANOSECONDS)),
    });
    print(targets)
}

fn print(targets: Vec<Target>) -> bool {
    let mut table = Table::new(&["target", "wanted", "measured", ""]);
    let mut missed = 0;
    for target in targets {
        let (measured, met) = match target.measured {
            Some((measured, true)) => (measured, "met"),
            Some((measured, false)) => (measured, "NOT MET"),
            None => ("-".to_owned(), "not measured"),
        };
        missed += usize::from(met == "NOT MET");
        table.row([target.what, target.limit, measured, met.to_owned()]);
    }
    println!("{table}");
    println!("{}", if missed == 0 { "no target missed".to_owned() } else { format!("{missed} targets missed") });
    missed == 0
}

fn of(mix: Mix) -> &'static str {
    match mix {
        Mix::SomeWithoutLiteral => "",
        Mix::AllWithLiteral => ", all with literals",
    }
}

fn time(result: &Result) -> String {
    format!("{} ({})", nanoseconds(result.nanoseconds), nanoseconds(result.least_nanoseconds))
}
