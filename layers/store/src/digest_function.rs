//! A digest function: what names blobs and messages of the Remote Execution API.

use crate::digest::Digest;
use crate::sha256;

/// What makes the digests in the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestFunction {
    #[default]
    Sha256,
    Blake3,
}

impl DigestFunction {
    /// The digest of `bytes` in hexadecimal digits.
    pub(crate) fn of(self, bytes: &[u8]) -> String {
        match self {
            DigestFunction::Sha256 => sha256::of(bytes),
            DigestFunction::Blake3 => Digest::of(bytes).hex(),
        }
    }
}
