//! The wording of an error: what serde says, in the words of someone who writes JSON.

use crate::suggest;

const UNKNOWN_FIELD: &str = "unknown field `";
const UNKNOWN_VARIANT: &str = "unknown variant `";

/// A type error of serde, without its line and column, on one line.
pub(crate) fn of_type_error(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&place).unwrap_or(&message);
    let reworded = unknown(message, UNKNOWN_FIELD, unknown_field)
        .or_else(|| unknown(message, UNKNOWN_VARIANT, unknown_value))
        .unwrap_or_else(|| number_range(&json_words(message)).replace('`', "\""));
    one_line(&reworded)
}

pub(crate) fn is_unknown_field(error: &serde_json::Error) -> bool {
    error.to_string().starts_with(UNKNOWN_FIELD)
}

/// A syntax error of serde_json, with line and column.
pub(crate) fn of_syntax_error(text: &str, error: &serde_json::Error) -> String {
    if text.trim().is_empty() {
        return "the file is empty".into();
    }
    let hint = if has_comment(text) { "; JSON has no comments" } else { "" };
    one_line(&format!("{}{hint}", error.to_string().replace('`', "\"")))
}

/// Control characters escaped, so that a message is one line and no terminal obeys it.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || turns(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Marks by which a terminal shows what follows in another order than it is.
fn turns(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Splits serde's "unknown … `WORD`, expected one of `A`, `B`" and hands WORD and the known words to `say`.
fn unknown(message: &str, start: &str, say: fn(&str, &[&str]) -> String) -> Option<String> {
    let rest = message.strip_prefix(start)?;
    // From the right: the word is the user's and may contain anything.
    let (word, known) = rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once("`, there are no "))?;
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    Some(say(word, &known))
}

fn unknown_field(word: &str, known: &[&str]) -> String {
    match suggest::nearest(word, known.iter().copied()) {
        Some(near) => format!("unknown field {word:?}; did you mean {near:?}?"),
        None => format!("unknown field {word:?}, expected one of {}", known.join(", ")),
    }
}

fn unknown_value(word: &str, known: &[&str]) -> String {
    match known {
        [only] => format!("unknown value {word:?}, expected {only:?}"),
        _ => format!("unknown value {word:?}, expected one of {}", known.join(", ")),
    }
}

/// JSON has arrays and objects, not sequences and maps.
fn json_words(message: &str) -> String {
    let words = [
        ("invalid type: sequence,", "invalid type: array,"),
        ("invalid type: map,", "invalid type: object,"),
        ("invalid type: integer ", "invalid type: number "),
        ("invalid type: floating point ", "invalid type: number "),
        ("invalid value: integer ", "invalid value: number "),
    ];
    let (start, rest) = words
        .iter()
        .find_map(|(serde, json)| Some((*json, message.strip_prefix(serde)?)))
        .unwrap_or(("", message));
    let endings = [
        (", expected a sequence", ", expected an array"),
        (", expected a map", ", expected an object"),
        (", expected path string", ", expected a string"),
    ];
    let (rest, end) = endings
        .iter()
        .find_map(|(serde, json)| Some((rest.strip_suffix(serde)?, *json)))
        .unwrap_or((rest, ""));
    // Only a number is written in backticks; a string has its quotes.
    let rest = if start.ends_with("number ") { rest.replace('`', "") } else { rest.into() };
    format!("{start}{rest}{end}")
}

/// "expected u16" says little to someone who does not write Rust.
fn number_range(message: &str) -> String {
    let ranges = [
        (", expected u16", u16::MIN.to_string(), u16::MAX.to_string()),
        (", expected u32", u32::MIN.to_string(), u32::MAX.to_string()),
        (", expected u64", u64::MIN.to_string(), u64::MAX.to_string()),
        (", expected i32", i32::MIN.to_string(), i32::MAX.to_string()),
        (", expected i64", i64::MIN.to_string(), i64::MAX.to_string()),
    ];
    for (ending, least, most) in ranges {
        if let Some(start) = message.strip_suffix(ending) {
            return format!("{start}, expected a whole number from {least} to {most}");
        }
    }
    match message.strip_suffix(", expected f64") {
        Some(start) => format!("{start}, expected a number"),
        None => message.into(),
    }
}

/// Whether `//` or `/*` stands outside a string.
fn has_comment(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut in_string, mut at) = (false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'/' if !in_string && matches!(bytes.get(at + 1), Some(b'/' | b'*')) => return true,
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_is_seen_outside_strings_only() {
        assert!(has_comment("{ // why\n}"));
        assert!(has_comment("{ /* why */ }"));
        assert!(has_comment(r#"{"a": "\\" // }"#));
        assert!(!has_comment(r#"{"a": "https://example.org", "b": "\"//"}"#));
    }

    #[test]
    fn unknown_word_may_contain_the_separator() {
        let message = "unknown field `a`, expected `b`, expected `match` or `action`";
        let reworded = unknown(message, UNKNOWN_FIELD, unknown_field);
        assert_eq!(
            reworded.as_deref(),
            Some("unknown field \"a`, expected `b\", expected one of match, action")
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
    }
}
