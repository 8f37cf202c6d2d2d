//! What records say about changed credentials.

use sls_core::{Event, Field};

use super::Body;

pub(super) fn credentials(body: &Body<'_>, event: &mut Event) {
    // `struct credentials_detail`.
    match super::module::two_numbers(body.detail) {
        Some((uid, euid)) => {
            event.set_number(Field::PreviousUid, uid.into()).set_number(Field::PreviousEuid, euid.into())
        }
        None => event.mark_unknown(Field::PreviousUid).mark_unknown(Field::PreviousEuid),
    };
}

#[cfg(test)]
mod tests {
    use sls_core::{EventKind, Value};

    use super::super::{decode, tests};
    use super::*;

    #[test]
    fn previous_ids_are_told() {
        let mut event = Event::new(EventKind::File);
        let detail = [1000_u32.to_le_bytes(), 1001_u32.to_le_bytes()].concat();
        decode(&tests::detailed(10, 0, &detail, [b""; 5]), &mut event).unwrap();
        assert_eq!(event.kind, EventKind::Credentials);
        assert_eq!([Field::PreviousUid, Field::PreviousEuid].map(|f| event.number(f)), [Some(1000), Some(1001)]);
        assert_eq!([Field::Uid, Field::Euid].map(|f| event.number(f)), [Some(2), Some(4)]);
        decode(&tests::detailed(10, 0, &detail[..4], [b""; 5]), &mut event).unwrap();
        assert_eq!(event.value(Field::PreviousUid), Value::Unknown);
    }
}
