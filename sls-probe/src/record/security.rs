//! What records say about protections.

use sls_core::{Event, Field, FieldKind};

use super::Body;
use super::module::two_numbers;

pub(super) fn security(body: &Body<'_>, event: &mut Event) {
    let FieldKind::Enum(changes) = Field::SecurityChange.kind() else { return };
    // `struct security_detail`: the number of the value.
    let change = two_numbers(body.detail).and_then(|(change, _)| changes.get(change as usize));
    match change {
        Some(change) => event.set_text(Field::SecurityChange, change.as_bytes()),
        None => event.mark_unknown(Field::SecurityChange),
    };
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::super::{decode, tests};
    use super::*;

    #[test]
    fn numbers_are_those_of_the_values() {
        let mut event = Event::new(EventKind::File);
        for (number, name) in [(0_u8, "SELINUX_DISABLED"), (2, "SELINUX_POLICY_LOADED"), (6, "KERNEL_PAYLOAD")] {
            decode(&tests::detailed(13, 0, &[number, 0, 0, 0, 0, 0, 0, 0], [b""; 5]), &mut event).unwrap();
            assert_eq!(event.text(Field::SecurityChange), name.as_bytes());
        }
        decode(&tests::detailed(13, 0, &[7, 0, 0, 0, 0, 0, 0, 0], [b""; 5]), &mut event).unwrap();
        assert_eq!(event.value(Field::SecurityChange), Value::Unknown);
    }
}
