//! A size: a number of bytes, written as `"20G"`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes. In JSON a number, or a string with K, M, G or T: powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// A string that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    #[error("\"{0}\" is no size, expected bytes or a whole number with K, M, G or T, such as \"20G\"")]
    Syntax(String),
    #[error("\"{0}\" is more bytes than 64 bits can hold")]
    TooLarge(String),
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(letter, unit)| Some((text.strip_suffix(*letter)?, *unit)))
            .unwrap_or((text, 1));
        // u64::from_str takes a leading plus.
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidSize::Syntax(text.into()));
        }
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| InvalidSize::TooLarge(text.into()))
    }
}

impl fmt::Display for Size {
    /// With the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((letter, unit)) => write!(f, "{}{letter}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"20G\" or a number of bytes")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!("20G".parse(), Ok(Size(20 << 30)));
        assert_eq!("7K".parse(), Ok(Size(7168)));
        assert_eq!("512".parse(), Ok(Size(512)));
    }

    #[test]
    fn what_is_no_whole_number_is_refused() {
        for text in ["", "G", "+5", "-1", "1.5G", "20GB", "20 G", "20g"] {
            assert_eq!(text.parse::<Size>(), Err(InvalidSize::Syntax(text.into())), "{text:?}");
        }
    }

    #[test]
    fn overflow_is_refused() {
        assert_eq!("16777216T".parse::<Size>(), Err(InvalidSize::TooLarge("16777216T".into())));
    }

    #[test]
    fn largest_exact_unit_is_written() {
        assert_eq!(Size(20 << 30).to_string(), "20G");
        assert_eq!(Size((1 << 30) + 1).to_string(), "1073741825");
        assert_eq!(Size(0).to_string(), "0");
    }
}
