//! An escape: how bytes that are no text stand in a JSON string.
//!
//! Names, link targets and attribute values are bytes; JSON strings are Unicode. `%XX` (two upper-case hexadecimal
//! digits) stands for one byte. Escaped are the bytes below 0x20, 0x7F, `"`, `\`, `%` itself and whatever is not part
//! of valid UTF-8; nothing else is. So each byte string has exactly one form, and JSON's own escapes never occur.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends the escaped form of `bytes` to `out`.
pub fn push(out: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid();
        if text.bytes().any(is_special) {
            for character in text.chars() {
                match u8::try_from(character) {
                    Ok(byte) if is_special(byte) => push_byte(out, byte),
                    _ => out.push(character),
                }
            }
        } else {
            out.push_str(text);
        }
        for &byte in chunk.invalid() {
            push_byte(out, byte);
        }
    }
}

/// A path of a layer, from its root, as text in one line.
pub fn shown_path(path: &Path) -> String {
    let mut shown = String::from("/");
    push(&mut shown, path.as_os_str().as_bytes());
    shown
}

/// The bytes that `text` stands for; `None` when a `%` is not followed by two hexadecimal digits.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.contains('%') {
        return Some(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

/// Whether a byte below 0x80 is escaped.
pub fn is_special(byte: u8) -> bool {
    matches!(byte, 0..0x20 | 0x7F | b'"' | b'\\' | b'%')
}

fn push_byte(out: &mut String, byte: u8) {
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        let mut out = String::new();
        push(&mut out, bytes);
        out
    }

    #[test]
    fn text_stays_as_it_is() {
        assert_eq!(encode("häuser/ß 日本".as_bytes()), "häuser/ß 日本");
    }

    #[test]
    fn quotes_controls_percent_and_bad_utf8_are_escaped() {
        assert_eq!(encode(b"a\"b\\c\nd%e\xFFf\x7F"), "a%22b%5Cc%0Ad%25e%FFf%7F");
    }

    #[test]
    fn a_lone_percent_is_refused() {
        assert_eq!(decode("100%"), None);
        assert_eq!(decode("%zz"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn json_needs_no_escape_of_its_own(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert_eq!(serde_json::to_string(&text).unwrap(), format!("\"{text}\""));
        }
    }
}
