//! Text of a document as a terminal may have it: what would move the cursor, or the reader's eye, is shown as a picture.

use std::borrow::Cow;

/// Text that is part of one line.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    pictured(text, |_, char| picture(char))
}

/// Lines of a document. The renderer takes care of tabs and of the ends of lines.
pub(super) fn source(text: &str) -> Cow<'_, str> {
    pictured(text, |at, char| source_picture(text, at, char))
}

/// Where byte `at` of `text` is in [`source`].
pub(super) fn place(text: &str, at: usize) -> usize {
    let before = text.char_indices().take_while(|(start, _)| *start < at);
    before.map(|(start, char)| source_picture(text, start, char).unwrap_or(char).len_utf8()).sum()
}

fn pictured(text: &str, picture: impl Fn(usize, char) -> Option<char>) -> Cow<'_, str> {
    if text.char_indices().all(|(at, char)| picture(at, char).is_none()) {
        return Cow::Borrowed(text);
    }
    text.char_indices().map(|(at, char)| picture(at, char).unwrap_or(char)).collect()
}

fn source_picture(text: &str, at: usize, char: char) -> Option<char> {
    match char {
        '\n' | '\t' => None,
        '\r' if text[at..].starts_with("\r\n") => None,
        _ => picture(char),
    }
}

/// One character for one, so that carets stay under what they point at.
fn picture(char: char) -> Option<char> {
    match char {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(char)),
        '\u{7f}' => Some('\u{2421}'),
        // C1 controls, ends of lines and paragraphs, and what changes the direction of text have no picture.
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_not_copied() {
        assert!(matches!(line("é: ü \u{1f600}"), Cow::Borrowed(_)));
        assert!(matches!(source("a:\tb\r\nc: d\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn control_characters_have_pictures() {
        assert_eq!(line("a\u{1b}[31m\n\t\u{7f}\u{9b}\u{202e}"), "a␛[31m␊␉␡\u{fffd}\u{fffd}");
        assert_eq!(source("\r\u{1b}\r\n\t"), "␍␛\r\n\t");
        for char in (0..=0x2fff).filter_map(char::from_u32).filter(|char| char.is_control()) {
            assert!(!line(&char.to_string()).contains(char::is_control), "{char:?}");
        }
    }

    #[test]
    fn places_move_with_the_pictures() {
        let text = "\u{1b}é\u{9b}x\ry";
        for (at, char) in text.char_indices() {
            let shown = source(text)[place(text, at)..].chars().next();
            assert_eq!(shown, Some(picture(char).unwrap_or(char)));
        }
        assert_eq!(place(text, text.len()), source(text).len());
    }
}
