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
        // By table, as manifests hold one digest per file: blake3's own from_hex took a quarter of parsing them.
        decode(hex.as_bytes()).map(Digest).ok_or_else(|| DigestError { text: hex.to_owned() })
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
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

const NO_DIGIT: u8 = 0xFF;

const DIGITS: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    table
};

fn decode(hex: &[u8]) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = hex.try_into().ok()?;
    let mut bytes = [0; 32];
    let mut seen = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low & 15;
    }
    // Only what is no digit has a bit above the lowest four.
    (seen < 16).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_back_from_its_text() {
        let digest = Digest::of(b"some bytes");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(Digest::from_hex(blake3::hash(b"some bytes").to_hex().as_str()).unwrap(), digest);
    }

    #[test]
    fn other_texts_are_refused() {
        let hex = Digest::of(b"x").hex();
        let upper = hex.to_uppercase();
        for text in [&hex[1..], &format!("{hex}0"), &upper, &hex.replacen(|_| true, "g", 1), ""] {
            assert!(Digest::from_hex(text).is_err(), "{text}");
            assert!(format!("b3:{text}").parse::<Digest>().is_err(), "{text}");
        }
        assert!(hex.parse::<Digest>().is_err(), "without b3:");
    }
}
