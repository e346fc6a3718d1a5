//! The configuration of a store: `config.json` in its directory, which nobody but its owner makes.

use std::io;
use std::time::Duration;

use serde::Deserialize;

use super::LayerStore;
use super::error::StoreError;
use crate::fsat;

pub const FILE: &str = "config.json";
const DAY: u64 = 24 * 3600;

/// How long layers that have no name are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Since the last use.
    pub age: Duration,
    /// What all of them together may take, in bytes of content that no other layer has.
    pub bytes: u64,
}

impl Default for Expiry {
    fn default() -> Expiry {
        Expiry { age: Duration::from_secs(7 * DAY), bytes: 10 << 30 }
    }
}

impl Expiry {
    pub fn days(days: u64) -> Duration {
        Duration::from_secs(days.saturating_mul(DAY))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Config {
    keep_days: Option<u64>,
    keep_bytes: Option<u64>,
}

impl LayerStore {
    /// What the store's `config.json` says, the default where it says nothing.
    ///
    /// Errors: one that cannot be read or understood.
    pub fn expiry(&self) -> Result<Expiry, StoreError> {
        let path = self.path.join(FILE);
        let config = match fsat::read(&self.root, FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Config::default(),
            Err(error) => return Err(StoreError::io("read", path)(error)),
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| StoreError::BadConfig { path, source })?
            }
        };
        let default = Expiry::default();
        Ok(Expiry {
            age: config.keep_days.map_or(default.age, Expiry::days),
            bytes: config.keep_bytes.unwrap_or(default.bytes),
        })
    }
}
