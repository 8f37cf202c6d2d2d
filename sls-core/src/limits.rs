//! Limits on policy documents, which are hostile input.

/// Limits of one load. Each is named in the diagnostic that it causes.
///
/// ```
/// use sls_core::Limits;
///
/// let limits = Limits { document_bytes: 64 * 1024, ..Limits::default() };
/// assert_eq!(limits.nesting, 32);
/// ```
// Exhaustive so that struct update syntax works; a new limit is a breaking change.
#[allow(clippy::exhaustive_structs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one document, and of its texts with each alias counted as what it stands for. Default 16 MiB.
    pub document_bytes: usize,
    /// Depth of nested YAML collections, aliases included. Default 32.
    pub nesting: usize,
    /// YAML values of one document, each alias counted as what it stands for. Default 1,000,000.
    pub nodes: usize,
    /// Policies of a set. Default 20,000.
    pub policies: usize,
    /// Rules of a policy. Default 1,000.
    pub rules: usize,
    /// Bytes of a rule. Default 16 KiB.
    pub rule_bytes: usize,
    /// Depth of nested parentheses and `not` in a rule. Default 64.
    pub rule_nesting: usize,
    /// Entries of a list. Default 200,000.
    pub list_entries: usize,
    /// Bytes of a compiled regular expression. Default 1 MiB.
    pub regex_bytes: usize,
    /// Bytes of all compiled regular expressions together, each rounded up. Default 64 MiB.
    pub regex_total_bytes: usize,
    /// Events of a file of policy tests. Default 10,000.
    pub test_events: usize,
    /// Findings that are reported of one load; one more then says that others follow. Default 100.
    pub diagnostics: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 16 << 20,
            nesting: 32,
            nodes: 1_000_000,
            policies: 20_000,
            rules: 1_000,
            rule_bytes: 16 << 10,
            rule_nesting: 64,
            list_entries: 200_000,
            regex_bytes: 1 << 20,
            regex_total_bytes: 64 << 20,
            test_events: 10_000,
            diagnostics: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the documentation of each limit says is what the limit is.
    #[test]
    fn documented_defaults_are_the_defaults() {
        let limits = Limits::default();
        let defaults = [
            ("document_bytes", limits.document_bytes),
            ("nesting", limits.nesting),
            ("nodes", limits.nodes),
            ("policies", limits.policies),
            ("rules", limits.rules),
            ("rule_bytes", limits.rule_bytes),
            ("rule_nesting", limits.rule_nesting),
            ("list_entries", limits.list_entries),
            ("regex_bytes", limits.regex_bytes),
            ("regex_total_bytes", limits.regex_total_bytes),
            ("test_events", limits.test_events),
            ("diagnostics", limits.diagnostics),
        ];
        let source = include_str!("limits.rs").split_once("impl Default").unwrap().0;
        assert_eq!(source.matches(". Default ").count(), defaults.len(), "a limit is not in this test");
        for (name, value) in defaults {
            let field = source.find(&format!("pub {name}:")).unwrap();
            let documented = source[..field].rsplit("Default ").next().unwrap().split_once('.').unwrap().0;
            let (number, unit) = documented.split_once(' ').unwrap_or((documented, ""));
            let unit = match unit {
                "" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                _ => panic!("{unit}"),
            };
            assert_eq!(number.replace(',', "").parse::<usize>().unwrap() * unit, value, "{name}");
        }
    }
}
