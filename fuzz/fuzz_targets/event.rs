//! The event's storage against a plain map: whatever is set, in whatever order, reads back as what was set last.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sls_core::{Event, EventKind, Field, FieldKind, Value};

#[derive(Arbitrary, Debug)]
enum Step {
    Reset,
    Clear(u8),
    Text(u8, Vec<u8>),
    Parts(u8, Vec<Vec<u8>>),
    Number(u8, u64),
    Bool(u8, bool),
    Arguments(Vec<Vec<u8>>),
}

#[derive(Debug, PartialEq)]
enum Stored {
    Text(Vec<u8>),
    Number(u64),
    Bool(bool),
}

fuzz_target!(|steps: Vec<Step>| {
    let mut event = Event::new(EventKind::Exec);
    let mut model = HashMap::new();
    for step in steps {
        apply(&mut event, &mut model, step);
    }
    for field in Field::all().filter(|field| is_plain(*field)) {
        let stored = match event.value(field) {
            Value::Text { bytes, .. } => Some(Stored::Text(bytes.to_vec())),
            Value::Number(number) => Some(Stored::Number(number)),
            Value::Bool(value) => Some(Stored::Bool(value)),
            _ => None,
        };
        assert_eq!(stored.as_ref(), model.get(&field), "{}", field.name());
    }
});

fn apply(event: &mut Event, model: &mut HashMap<Field, Stored>, step: Step) {
    match step {
        Step::Reset => {
            event.reset(EventKind::File);
            model.clear();
        }
        Step::Clear(index) => {
            let field = pick(index, is_plain);
            event.clear(field);
            model.remove(&field);
        }
        Step::Text(index, bytes) => {
            let field = pick(index, is_text);
            event.set_text(field, &bytes);
            model.insert(field, Stored::Text(bytes));
        }
        Step::Parts(index, parts) => {
            let field = pick(index, is_text);
            event.set_text_parts(field, parts.iter().map(Vec::as_slice));
            model.insert(field, Stored::Text(parts.concat()));
        }
        Step::Number(index, number) => {
            let field = pick(index, |field| is_plain(field) && field.kind() == FieldKind::Number);
            event.set_number(field, number);
            model.insert(field, Stored::Number(number));
        }
        Step::Bool(index, value) => {
            let field = pick(index, |field| field.kind() == FieldKind::Bool);
            event.set_bool(field, value);
            model.insert(field, Stored::Bool(value));
        }
        Step::Arguments(arguments) => {
            event.set_arguments(arguments.iter().map(Vec::as_slice));
            model.insert(Field::ProgramArguments, Stored::Text(arguments.join(&b' ')));
            assert_eq!(event.arguments().collect::<Vec<_>>(), arguments);
        }
    }
}

fn pick(index: u8, accept: impl Fn(Field) -> bool) -> Field {
    let fields: Vec<_> = Field::all().filter(|field| accept(*field)).collect();
    fields[usize::from(index) % fields.len()]
}

/// Whether the field is one slot, neither computed from the event nor made of several values.
fn is_plain(field: Field) -> bool {
    is_text(field)
        || field == Field::ProgramArguments
        || matches!(field.kind(), FieldKind::Number | FieldKind::Bool)
            && !matches!(field, Field::ProcessPid | Field::ParentPid)
}

fn is_text(field: Field) -> bool {
    matches!(field.kind(), FieldKind::Path | FieldKind::Name | FieldKind::Text)
        && !field.spec().many
        && field != Field::ProgramArguments
}
