//! Permissions that are shown instead of a file's own: chmod's symbolic modes, such as `u+rwX,go-w`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `perms`: changes in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms(pub Vec<PermChange>);

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermChange {
    /// Whose bits: some of 0o700, 0o070 and 0o007.
    pub whose: u16,
    pub operation: PermOperation,
    /// Some of 0o444, 0o222 and 0o111.
    pub bits: u16,
    /// `X`: execute too, if it is a directory or somebody may execute it.
    pub search: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermOperation {
    Add,
    Remove,
    Set,
}

const SYNTAX: &str = "expected changes as chmod takes them, such as u+rwX,go-w";

impl FromStr for Perms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let change = |part: &str| change(part).ok_or_else(|| format!("{text:?} is no permissions, {SYNTAX}"));
        text.split(',').map(change).collect::<Result<_, _>>().map(Self)
    }
}

fn change(text: &str) -> Option<PermChange> {
    let at = text.find(['+', '-', '='])?;
    let (who, rest) = text.split_at(at);
    let whose = who.chars().try_fold(0, |mask, letter| match letter {
        'u' => Some(mask | 0o700),
        'g' => Some(mask | 0o070),
        'o' => Some(mask | 0o007),
        'a' => Some(0o777),
        _ => None,
    })?;
    let mut letters = rest.chars();
    let operation = match letters.next()? {
        '+' => PermOperation::Add,
        '-' => PermOperation::Remove,
        _ => PermOperation::Set,
    };
    let whose = if who.is_empty() { 0o777 } else { whose };
    letters.try_fold(PermChange { whose, operation, bits: 0, search: false }, |change, letter| {
        let bit = match letter {
            'r' => 0o444,
            'w' => 0o222,
            'x' => 0o111,
            'X' => return Some(PermChange { search: true, ..change }),
            _ => return None,
        };
        Some(PermChange { bits: change.bits | bit, ..change })
    })
}

impl fmt::Display for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            for (letter, mask) in [("u", 0o700), ("g", 0o070), ("o", 0o007)] {
                f.write_str(if change.whose & mask != 0 { letter } else { "" })?;
            }
            f.write_str(match change.operation {
                PermOperation::Add => "+",
                PermOperation::Remove => "-",
                PermOperation::Set => "=",
            })?;
            for (letter, mask) in [("r", 0o444), ("w", 0o222), ("x", 0o111)] {
                f.write_str(if change.bits & mask != 0 { letter } else { "" })?;
            }
            f.write_str(if change.search { "X" } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for Perms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Perms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chmod_takes_is_taken_and_written_again() {
        for (text, same) in [
            ("u+rwX,go-w", "u+rwX,go-w"),
            ("a=rX", "ugo=rX"),
            ("+x", "ugo+x"),
            ("g=", "g="),
            ("ou-xw", "uo-wx"),
        ] {
            assert_eq!(text.parse::<Perms>().map(|perms| perms.to_string()), Ok(same.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for text in ["", "755", "u", "u+s", "u+t", "x+r", "u+r,", "u+r g+r", "u+g"] {
            assert!(text.parse::<Perms>().is_err(), "{text:?}");
        }
    }
}
