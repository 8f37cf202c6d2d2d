//! Bytes of file names as text that is safe everywhere: `%XX` for what is not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The longest name in a directory, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;

fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-+@=,".contains(&byte)
}

/// `bytes` with all but harmless characters as `%XX`; slashes stay when `keep_slash`.
fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if is_safe(byte) || (keep_slash && byte == b'/') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A path as text, from which [`decode`] gives the same bytes again.
pub(super) fn encode_path(path: &[u8]) -> String {
    encode(path, true)
}

/// The bytes of a text of [`encode_path`]; none if it is no such text.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(bytes)
}

/// The name of an entry of the store: `prefix`, and as much of the encoded `name` as a directory takes.
pub(super) fn entry_name(prefix: &str, name: &[u8]) -> String {
    let mut entry = format!("{prefix}-");
    for byte in name {
        let piece = encode(&[*byte], false);
        if entry.len() + piece.len() > NAME_MAX {
            break;
        }
        entry.push_str(&piece);
    }
    entry
}

/// A path for a person: what is no printable UTF-8 is escaped.
pub(super) fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Parent and last name of an absolute path; none for `/` and for paths that a kernel would not give.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], OsString)> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let name = &path[slash + 1..];
    if path[0] != b'/' || name.is_empty() || name == b"." || name == b".." || path.contains(&0) {
        return None;
    }
    let parent = if slash == 0 { &b"/"[..] } else { &path[..slash] };
    Some((parent, OsString::from_vec(name.to_vec())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn paths_round_trip(path in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode(&encode_path(&path)), Some(path));
        }

        #[test]
        fn entry_names_are_safe(name in prop::collection::vec(any::<u8>(), 0..300)) {
            let entry = entry_name("id", &name);
            prop_assert!(entry.len() <= NAME_MAX);
            prop_assert!(entry.starts_with("id-") && !entry.contains('/'));
            prop_assert!(decode(&entry[3..]).is_some_and(|bytes| name.starts_with(&bytes)));
        }
    }

    #[test]
    fn what_is_split() {
        assert_eq!(split(b"/a/b"), Some((&b"/a"[..], "b".into())));
        assert_eq!(split(b"/b"), Some((&b"/"[..], "b".into())));
        for path in [&b""[..], b"/", b"a", b"a/b", b"/a/", b"/a/..", b"/a/.", b"/a\0/b"] {
            assert_eq!(split(path), None);
        }
        assert_eq!(shown(b"/a\n\xff"), "/a\\n\\xff");
    }
}
