//! `org.systemd.property.NAME`: annotations by which a config sets properties of its scope, as runc and crun have them.
//!
//! The maker of an image sets annotations, too: engines hand those of the image on. Among the properties of a scope are some that
//! stop or start other units of the host (`Conflicts`, `Wants`, `OnFailure`), switch it off (`SuccessAction`), take processes of the
//! host along (`PIDs`), or lift limits (`Slice`, `MemoryMax`). So those alone can be set that are about the end of the
//! container itself; limits are `linux.resources`. The host waits for that end when it is switched off: after a time that is
//! bounded the processes are killed, whatever is said (no `SendSIGKILL`, no `FinalKillSignal`).

use std::collections::BTreeMap;

use thiserror::Error;

use super::value::{Property, Value};

pub const PREFIX: &str = "org.systemd.property.";

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("annotations[{key:?}]: {problem}")]
pub struct AnnotationError {
    key: String,
    problem: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Flag,
    Int,
    Number,
    Text,
    Texts,
}

impl Type {
    fn example(self) -> &'static str {
        match self {
            Type::Flag => "true",
            Type::Int => "int32 15",
            Type::Number => "uint64 5000000",
            Type::Text => "'inactive-or-failed'",
            Type::Texts => "['crio.service']",
        }
    }
}

/// By the names that systemd has in D-Bus.
///
/// systemd writes a text as a line of a file that it reads again when it is reloaded: a text of several lines would be lines of others,
/// too. `Description` is that by which a unit is known to be the container's.
const KNOWN: [(&str, Type); 11] = [
    ("After", Type::Texts),
    ("Before", Type::Texts),
    ("CollectMode", Type::Text),
    ("DefaultDependencies", Type::Flag),
    ("KillMode", Type::Text),
    ("KillSignal", Type::Int),
    ("OOMPolicy", Type::Text),
    ("RuntimeMaxUSec", Type::Number),
    ("RuntimeRandomizedExtraUSec", Type::Number),
    ("SendSIGHUP", Type::Flag),
    ("TimeoutStopUSec", Type::Number),
];

/// Of `TimeoutStopUSec`: an hour.
const LONGEST_STOP: u64 = 3_600_000_000;

/// The properties that annotations set; of time in microseconds, as which seconds (`…Sec`) are told, too.
pub fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, AnnotationError> {
    let ours = annotations.iter().filter_map(|(key, text)| Some((key, key.strip_prefix(PREFIX)?, text)));
    ours.map(|(key, name, text)| {
        property(name, text).map_err(|problem| AnnotationError { key: key.clone(), problem })
    })
    .collect()
}

fn property(said: &str, text: &str) -> Result<Property, String> {
    let seconds =
        said.strip_suffix("Sec").filter(|stem| stem.ends_with(|last: char| last.is_ascii_lowercase()));
    let name = seconds.map_or_else(|| said.to_owned(), |stem| format!("{stem}USec"));
    let Some((_, kind)) = KNOWN.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "this property cannot be set by an annotation, which an image may bring along; those are {}, and limits are linux.resources",
            names.join(", ")
        ));
    };
    let bad = || format!("{text:?} is no value for {said}, expected such as {}", kind.example());
    let value = parse(text).filter(|value| value.is_of(*kind)).ok_or_else(bad)?;
    let value = match (value, seconds) {
        (Parsed::Number(_, number), Some(_)) => Value::Number(
            u64::try_from(number).ok().and_then(|number| number.checked_mul(1_000_000)).ok_or_else(bad)?,
        ),
        (Parsed::Number(_, number), None) if *kind == Type::Number => {
            Value::Number(number.try_into().map_err(|_| bad())?)
        }
        (Parsed::Number(_, number), None) => Value::Int(number.try_into().map_err(|_| bad())?),
        (Parsed::Flag(flag), _) => Value::Flag(flag),
        (Parsed::Text(text), _) => Value::Text(text),
        (Parsed::Texts(texts), _) => Value::Texts(texts),
    };
    match value {
        Value::Number(time) if name == "TimeoutStopUSec" && time > LONGEST_STOP => {
            Err(format!("{text:?} is more than an hour, and the host would not be switched off until then"))
        }
        value => Ok(Property { name, value }),
    }
}

/// A text of GVariant, of the types that there are here.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Flag(bool),
    /// With the type that is said, `int32` if none is.
    Number(&'static str, i128),
    Text(String),
    Texts(Vec<String>),
}

impl Parsed {
    fn is_of(&self, kind: Type) -> bool {
        match self {
            Parsed::Flag(_) => kind == Type::Flag,
            Parsed::Number(_, _) => matches!(kind, Type::Int | Type::Number),
            Parsed::Text(_) => kind == Type::Text,
            Parsed::Texts(_) => kind == Type::Texts,
        }
    }
}

fn parse(text: &str) -> Option<Parsed> {
    let text = text.trim();
    match text {
        "true" => return Some(Parsed::Flag(true)),
        "false" => return Some(Parsed::Flag(false)),
        "@as []" | "[]" => return Some(Parsed::Texts(Vec::new())),
        _ => {}
    }
    if text.starts_with(['\'', '"']) {
        let (string, rest) = string(text)?;
        return rest.is_empty().then_some(Parsed::Text(string));
    }
    if let Some(list) = text.strip_prefix("@as ").unwrap_or(text).strip_prefix('[') {
        return strings(list).map(Parsed::Texts);
    }
    number(text)
}

fn strings(list: &str) -> Option<Vec<String>> {
    let (mut strings, mut rest) = (Vec::new(), list);
    loop {
        let (one, after) = string(rest.trim_start())?;
        strings.push(one);
        let after = after.trim_start();
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return (after == "]").then_some(strings),
        }
    }
}

/// One in quotes, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut letters = text.char_indices();
    let (_, quote) = letters.next().filter(|(_, letter)| matches!(letter, '\'' | '"'))?;
    let mut string = String::new();
    while let Some((index, letter)) = letters.next() {
        match letter {
            // What D-Bus has not, and what ends the line that systemd writes.
            letter if letter.is_control() => return None,
            letter if letter == quote => return Some((string, &text[index + 1..])),
            '\\' => string.push(match letters.next()?.1 {
                letter @ ('\\' | '\'' | '"') => letter,
                _ => return None,
            }),
            letter => string.push(letter),
        }
    }
    None
}

fn number(text: &str) -> Option<Parsed> {
    /// With the letters of D-Bus and the range.
    const TYPES: [(&str, &str, i128, i128); 7] = [
        ("int32", "@i", i32::MIN as i128, i32::MAX as i128),
        ("byte", "@y", 0, u8::MAX as i128),
        ("int16", "@n", i16::MIN as i128, i16::MAX as i128),
        ("uint16", "@q", 0, u16::MAX as i128),
        ("uint32", "@u", 0, u32::MAX as i128),
        ("int64", "@x", i64::MIN as i128, i64::MAX as i128),
        ("uint64", "@t", 0, u64::MAX as i128),
    ];
    let (kind, digits) = text.split_once(' ').unwrap_or(("int32", text));
    let (name, _, lowest, highest) =
        TYPES.into_iter().find(|(name, letter, ..)| [*name, letter].contains(&kind))?;
    let digits = digits.trim();
    let number = match digits.strip_prefix("0x") {
        Some(digits) if !digits.starts_with(['+', '-']) => i128::from_str_radix(digits, 16).ok()?,
        _ => digits.parse().ok()?,
    };
    (lowest..=highest).contains(&number).then_some(Parsed::Number(name, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Result<Property, AnnotationError> {
        let annotations = BTreeMap::from([(format!("{PREFIX}{name}"), text.to_owned())]);
        properties(&annotations).map(|mut properties| properties.remove(0))
    }

    #[track_caller]
    fn is(name: &str, text: &str, property: Property) {
        assert_eq!(of(name, text).unwrap(), property);
    }

    #[test]
    fn values_are_read_as_runc_reads_them() {
        is("TimeoutStopUSec", "uint64 123456789", Property::number("TimeoutStopUSec", 123_456_789));
        is("TimeoutStopSec", "uint64 3", Property::number("TimeoutStopUSec", 3_000_000));
        is("TimeoutStopSec", " 3 ", Property::number("TimeoutStopUSec", 3_000_000));
        is("TimeoutStopUSec", "@t 0x10", Property::number("TimeoutStopUSec", 16));
        is("CollectMode", "'inactive-or-failed'", Property::text("CollectMode", "inactive-or-failed"));
        is("CollectMode", r#""it\'s""#, Property::text("CollectMode", "it's"));
        is("DefaultDependencies", "true", Property::flag("DefaultDependencies", true));
        is("KillSignal", "int32 9", Property::new("KillSignal", Value::Int(9)));
        let after = Value::Texts(vec!["a.service".into(), "b.service".into()]);
        is("After", "['a.service', \"b.service\"]", Property::new("After", after));
        is("After", "@as []", Property::new("After", Value::Texts(Vec::new())));
    }

    #[test]
    fn values_that_are_none_are_errors_that_name_the_annotation() {
        let bad = [
            ("TimeoutStopUSec", "uint64 -1"),
            ("TimeoutStopUSec", "5s"),
            ("TimeoutStopUSec", ""),
            ("TimeoutStopUSec", "'5'"),
            ("TimeoutStopUSec", "uint64 18446744073709551616"),
            ("TimeoutStopSec", "uint64 18446744073709551615"),
            ("TimeoutStopSec", "int32 -1"),
            ("KillSignal", "int64 4294967296"),
            ("KillSignal", "0x-1"),
            ("CollectMode", "inactive"),
            ("CollectMode", "'inactive"),
            ("CollectMode", "'a' 'b'"),
            ("CollectMode", "'a\0'"),
            ("CollectMode", "'a\nOnSuccess=b.service'"),
            ("CollectMode", r"'a\nOnSuccess=b.service'"),
            ("After", r"['a.service\nOnSuccess=b.service']"),
            ("After", "['a'"),
            ("After", "['a',]"),
            ("After", "['a']]"),
            ("DefaultDependencies", "yes"),
        ];
        for (name, text) in bad {
            let error = of(name, text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("annotations[\"org.systemd.property.{name}\"]: ")), "{error}");
            assert!(error.contains("is no value for"), "{error}");
        }
    }

    /// What an image could do to the host with them.
    #[test]
    fn h_properties_that_reach_beyond_the_container_are_refused() {
        let others = [
            ("PIDs", "[uint32 1]"),
            ("Slice", "'-.slice'"),
            ("Description", "'somebody else'"),
            ("Documentation", "['man:x']"),
            ("Conflicts", "['ssh.service']"),
            ("Wants", "['debug-shell.service']"),
            ("OnFailure", "['poweroff.target']"),
            ("SuccessAction", "'poweroff-force'"),
            ("JobTimeoutAction", "'reboot'"),
            ("RefuseManualStop", "true"),
            ("MemoryMax", "uint64 18446744073709551615"),
            ("DevicePolicy", "'auto'"),
            ("Delegate", "false"),
            ("BPFProgram", "['device', '/sys/fs/bpf/x']"),
            ("ExecStopPost", "['/bin/sh']"),
            ("SendSIGKILL", "false"),
            ("FinalKillSignal", "int32 18"),
            ("", "true"),
            ("Sec", "1"),
            ("After\n", "['a']"),
        ];
        for (name, text) in others {
            let error = of(name, text).unwrap_err().to_string();
            assert!(error.contains("cannot be set by an annotation"), "{error}");
        }
    }

    #[test]
    fn h_host_does_not_wait_for_ever_for_the_end() {
        is("TimeoutStopSec", "3600", Property::number("TimeoutStopUSec", LONGEST_STOP));
        for (name, text) in [
            ("TimeoutStopSec", "3601"),
            ("TimeoutStopUSec", "uint64 3600000001"),
            ("TimeoutStopUSec", "uint64 18446744073709551615"),
        ] {
            let error = of(name, text).unwrap_err().to_string();
            assert!(error.contains("is more than an hour"), "{error}");
        }
    }
}
