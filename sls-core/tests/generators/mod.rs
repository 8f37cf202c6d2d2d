//! What properties generate alike: values of an event's fields.

use std::net::IpAddr;

use sls_core::{Event, Field};

/// A value that an event can have in a field.
#[derive(Clone, Debug)]
pub(crate) enum Setting {
    Texts(Vec<Vec<u8>>),
    Number(u64),
    Bool(bool),
    Host(IpAddr),
}

impl Setting {
    /// Gives the event the value.
    pub(crate) fn apply(self, event: &mut Event, field: Field) {
        match self {
            Self::Number(number) => drop(event.set_number(field, number)),
            Self::Bool(value) => drop(event.set_bool(field, value)),
            Self::Host(address) => drop(event.set_host(field, address)),
            Self::Texts(texts) if field == Field::ProgramArguments => {
                event.set_arguments(texts.iter().map(|text| &**text));
            }
            Self::Texts(texts) if field.spec().many => drop(event.set_texts(field, texts.iter().map(|text| &**text))),
            Self::Texts(texts) => drop(event.set_text(field, &texts[0])),
        }
    }
}

/// Whether the field has no value of its own in an event.
pub(crate) fn is_derived(field: Field) -> bool {
    [Field::ProcessPid, Field::ParentPid, Field::EventType, Field::Lineage].contains(&field)
}
