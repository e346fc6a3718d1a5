//! A quoted name: as git writes one that has a quote, a backslash, a control character, or bytes that are no UTF-8.

/// `prefix` and `name` as they stand in a patch: as they are, or in quotes.
pub fn quoted(prefix: &str, name: &[u8]) -> Vec<u8> {
    let mut plain = prefix.as_bytes().to_vec();
    plain.extend_from_slice(name);
    if plain.utf8_chunks().all(|chunk| chunk.invalid().is_empty() && !chunk.valid().chars().any(is_special)) {
        return plain;
    }
    let mut quoted = String::from("\"");
    for chunk in plain.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\r' => quoted.push_str("\\r"),
                other if is_special(other) => {
                    push_octal(&mut quoted, other.encode_utf8(&mut [0; 4]).as_bytes())
                }
                other => quoted.push(other),
            }
        }
        push_octal(&mut quoted, chunk.invalid());
    }
    quoted.push('"');
    quoted.into_bytes()
}

/// C1 controls and marks of direction too, which a terminal may obey.
pub(super) fn is_special(character: char) -> bool {
    matches!(character, '"' | '\\') || is_unseen(character)
}

/// Whether it does something else than to be seen.
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn push_octal(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push_str(&format!("\\{byte:03o}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_only_where_it_must_be() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"x y", b"a/x y"),
            ("häuser".as_bytes(), "a/häuser".as_bytes()),
            (b"a\"b", b"\"a/a\\\"b\""),
            (b"a\\b", b"\"a/a\\\\b\""),
            (b"a\nb\tc\rd", b"\"a/a\\nb\\tc\\rd\""),
            (b"\x1b[31m", b"\"a/\\033[31m\""),
            (b"\xFFx", b"\"a/\\377x\""),
            ("\u{202E}".as_bytes(), b"\"a/\\342\\200\\256\""),
        ];
        for (name, wanted) in cases {
            assert_eq!(quoted("a/", name), wanted, "{name:?}");
        }
    }
}
