//! Attacker-chosen bytes as text.

/// Text that shows every byte: UTF-8 as it is, anything else as `\\xNN`. Backslashes that could be taken for such an
/// escape, those directly before an `x` or before an invalid byte, are doubled, so that no two values look the same.
pub(crate) fn display(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        let mut backslashes = 0;
        for char in valid.chars() {
            if char == 'x' {
                text.extend(std::iter::repeat_n('\\', backslashes));
            }
            backslashes = if char == '\\' { backslashes + 1 } else { 0 };
            text.push(char);
        }
        if !chunk.invalid().is_empty() {
            text.extend(std::iter::repeat_n('\\', backslashes));
        }
        for byte in chunk.invalid() {
            text.push_str("\\x");
            text.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]].map(char::from));
        }
    }
    text
}

/// The last component of a path.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// At most `limit` bytes of [`display`], cut between characters, and whether something was cut.
pub(crate) fn display_at_most(bytes: &[u8], limit: usize) -> (String, bool) {
    // No byte becomes less than one, and a character has at most four: no more needs to be looked at.
    let mut text = display(&bytes[..bytes.len().min(limit + 3)]);
    let length = text.len();
    let mut end = length.min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    (text, end < length || bytes.len() > limit + 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_bytes_are_shown() {
        assert_eq!(display(b"a\xff\xc3\xa9\x00"), "a\\xff\u{e9}\0");
        assert_eq!(display(br"C:\dir\\n"), r"C:\dir\\n");
        assert_eq!(display(br"\xff"), r"\\xff");
        assert_eq!(display(b"\\\xff"), r"\\\xff");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(display_at_most("aé".as_bytes(), 2), ("a".to_owned(), true));
        assert_eq!(display_at_most(b"abc", 3), ("abc".to_owned(), false));
        assert_eq!(display_at_most(b"abcd", 3), ("abc".to_owned(), true));
    }

    proptest! {
        /// What is shown tells the bytes.
        #[test]
        fn no_two_values_look_the_same(
            a in prop::collection::vec(prop::sample::select(&b"\\xf0\xff\xc3\xa9"[..]), 0..7),
            b in prop::collection::vec(prop::sample::select(&b"\\xf0\xff\xc3\xa9"[..]), 0..7),
        ) {
            prop_assert_eq!(display(&a) == display(&b), a == b);
        }
    }
}
