//! A digest: the BLAKE3 of some bytes, written `b3:` and 64 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

#[derive(Debug, Error)]
#[error("{text:?} is not a digest: b3: and 64 hexadecimal digits are wanted")]
pub struct DigestError {
    text: String,
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    pub fn from_hash(hash: blake3::Hash) -> Digest {
        Digest(*hash.as_bytes())
    }

    /// From 64 lower-case hexadecimal digits without the `b3:`.
    pub fn from_hex(hex: &str) -> Result<Digest, DigestError> {
        let bad = || DigestError { text: hex.to_owned() };
        let lower = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !lower {
            return Err(bad());
        }
        blake3::Hash::from_hex(hex).map(Digest::from_hash).map_err(|_| bad())
    }

    /// 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let bad = || DigestError { text: text.to_owned() };
        let hex = text.strip_prefix("b3:").ok_or_else(bad)?;
        Digest::from_hex(hex).map_err(|_| bad())
    }
}
