//! A container's name: part of a path of ours, and of command lines.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name of a file.
const LONGEST: usize = 255;

#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "invalid container id {0:?}: {wrong}letters, digits, `_`, `+`, `-` and `.`, at most 255, and neither `-` nor `.` first",
    wrong = invalid_character(.0)
)]
pub struct BadId(String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Id, BadId> {
        let is_good = !text.is_empty()
            && text.len() <= LONGEST
            && !text.starts_with(['-', '.'])
            && text.chars().all(is_plain);
        if is_good { Ok(Id(text.to_owned())) } else { Err(BadId(text.to_owned())) }
    }
}

fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_+-.".contains(character)
}

fn invalid_character(text: &str) -> String {
    let invalid = text.chars().find(|character| !is_plain(*character));
    invalid
        .map(|character| format!("invalid character `{}` in the ID; ", character.escape_debug()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_use_is_an_id() {
        for id in ["a", "c1", "3f5a+b_c-d.e", "node1.user.42.4294967291.0", &"x".repeat(255)] {
            assert_eq!(id.parse::<Id>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn the_character_that_is_not_allowed_is_named() {
        let said = "a/b".parse::<Id>().unwrap_err().to_string();
        assert!(
            said.starts_with("invalid container id \"a/b\": invalid character `/` in the ID; letters, "),
            "{said}"
        );
    }

    #[test]
    fn what_could_leave_its_directory_or_be_an_option_is_none() {
        for id in ["", ".", "..", ".a", "-a", "a/b", "../a", "a b", "a\nb", "a\0", "ä", &"x".repeat(256)] {
            assert_eq!(id.parse::<Id>(), Err(BadId(id.to_owned())));
        }
    }
}
