//! An execution of which an engine asks for fields by name.

use sls_benches::workload::Execution;

/// An execution, and its arguments as one text.
pub(super) struct Named {
    pub(super) execution: Execution,
    arguments: String,
}

/// What a field has.
pub(super) enum Field<'a> {
    Text(&'a str),
    Number(u32),
}

impl Named {
    pub(super) fn of(executions: &[Execution]) -> Vec<Self> {
        let named =
            |execution: &Execution| Self { execution: execution.clone(), arguments: execution.joined_arguments() };
        executions.iter().map(named).collect()
    }

    #[inline]
    pub(super) fn field(&self, name: &str) -> Option<Field<'_>> {
        Some(Field::Text(match name {
            "exe" => &self.execution.exe,
            "args" => &self.arguments,
            "name" => &self.execution.name,
            "parent" => &self.execution.parent,
            "container" => &self.execution.container,
            "cwd" => &self.execution.directory,
            "uid" => return Some(Field::Number(self.execution.uid)),
            "ppid" => return Some(Field::Number(self.execution.parent_pid)),
            _ => return None,
        }))
    }

    pub(super) fn texts(&self) -> [(&'static str, &str); 6] {
        self.execution.texts(&self.arguments)
    }
}
