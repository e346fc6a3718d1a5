//! A collection: layers without a name that have expired go, and whatever nobody needs or dead processes have left.
//!
//! Kept are layers that a name holds, the contents of its base included, or that are in use. Of the others those that were used lately are, the latest first, as
//! long as what only they hold fits into the room that they have. Manifests go before their blobs, so that a collection
//! that is killed leaves blobs which the next one finds.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::LayerStore;
use super::config::Expiry;
use super::error::StoreError;
use super::remove::{self, Really};
use super::run::Swept;
use crate::digest::Digest;
use crate::{fsat, locked_dir};

/// What a collection removed, or would remove.
#[derive(Debug, Default)]
pub struct Collected {
    /// The least recently used first.
    pub layers: Vec<Expired>,
    pub blobs: u64,
    /// Disk space given back by the blobs, in bytes of content.
    pub bytes: u64,
    pub swept: Swept,
    /// Why directories of dead actions had to stay, where they do.
    pub not_swept: Option<StoreError>,
    /// Layers without a name that stay because they are in use.
    pub in_use: u64,
    /// Layers without a name that have not expired.
    pub young: u64,
}

/// A layer that has no name and is not to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    pub digest: Digest,
    /// The epoch for a layer whose name was removed while it was in use.
    pub last_used: SystemTime,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Age,
    /// Layers that were used later fill the room.
    Room,
}

/// A layer that nothing but its age keeps.
struct Unnamed {
    digest: Digest,
    last_used: SystemTime,
}

/// What is to become of them.
struct Division {
    young: Vec<Digest>,
    /// The least recently used first.
    expired: Vec<Expired>,
}

impl LayerStore {
    /// Removes what has expired, blobs without a layer, and what dead processes left. Waits for captures, imports and other
    /// removals in progress.
    ///
    /// Errors: a name that is damaged, or a damaged manifest that is to be kept: what they need is unknown, so nothing of
    /// the layers goes.
    pub fn collect(&self, expiry: &Expiry, really: Really) -> Result<Collected, StoreError> {
        let mut done = Collected::default();
        let swept = match really {
            Really::Do => self.sweep(),
            Really::DryRun => self.sweepable(),
        };
        match swept {
            Ok(swept) => done.swept = swept,
            Err(error) => done.not_swept = Some(error),
        }
        let _guard = self.lock_exclusive()?;
        let mut named = HashSet::new();
        for hold in self.holds()? {
            named.extend(hold.layers()?);
        }
        let (unnamed, kept) = self.unnamed(&named)?;
        done.in_use = kept.iter().filter(|digest| !named.contains(digest)).count() as u64;
        let mut used = self.blobs_of(kept.iter())?;
        let Division { young, expired } = self.divide(unnamed, expiry, &mut used)?;
        done.young = young.len() as u64;
        done.layers = match really {
            Really::Do => self.remove_expired(expired, &mut used)?,
            Really::DryRun => expired,
        };
        (done.blobs, done.bytes) = self.remove_unused(&used, really)?;
        Ok(done)
    }

    /// Layers that neither a name nor a user keeps, and those that one does.
    fn unnamed(&self, named: &HashSet<Digest>) -> Result<(Vec<Unnamed>, Vec<Digest>), StoreError> {
        let (mut unnamed, mut kept) = (Vec::new(), Vec::new());
        for digest in self.digests()? {
            let is_free = !named.contains(&digest) && self.claim(&digest)?.is_some();
            let path = self.layers_path().join(digest.hex());
            let stat = fsat::stat(&self.layers, digest.hex()).map_err(StoreError::io("look at", path))?;
            match stat {
                Some(stat) if is_free => {
                    unnamed.push(Unnamed { last_used: self.last_use(&digest, &stat)?, digest });
                }
                _ => kept.push(digest),
            }
        }
        Ok((unnamed, kept))
    }

    /// Decides which layers have expired. Blobs of the others become `used`.
    fn divide(
        &self,
        mut unnamed: Vec<Unnamed>,
        expiry: &Expiry,
        used: &mut HashSet<Digest>,
    ) -> Result<Division, StoreError> {
        unnamed.sort_by_key(|layer| (Reverse(layer.last_used), layer.digest));
        let (now, mut room) = (SystemTime::now(), Some(expiry.bytes));
        let (mut young, mut expired) = (Vec::new(), Vec::new());
        for Unnamed { digest, last_used } in unnamed {
            let age = now.duration_since(last_used).unwrap_or(Duration::ZERO);
            if age >= expiry.age {
                expired.push(Expired { digest, last_used, why: Why::Age });
                continue;
            }
            let manifest = self.manifest_for_removal(&digest)?;
            let own: HashSet<(Digest, u64)> =
                remove::blobs(&manifest).filter(|(blob, _)| !used.contains(blob)).collect();
            // Once there is none left, everything that was used before goes.
            room = room.and_then(|room| room.checked_sub(own.iter().map(|(_, size)| size).sum()));
            if room.is_some() {
                used.extend(own.into_iter().map(|(blob, _)| blob));
                young.push(digest);
            } else {
                expired.push(Expired { digest, last_used, why: Why::Room });
            }
        }
        expired.reverse();
        Ok(Division { young, expired })
    }

    /// Removes manifests. One that somebody has come to hold since it was looked at stays, and its blobs are `used`.
    fn remove_expired(
        &self,
        expired: Vec<Expired>,
        used: &mut HashSet<Digest>,
    ) -> Result<Vec<Expired>, StoreError> {
        let mut gone = Vec::new();
        if !expired.is_empty() {
            self.sync_names()?;
        }
        for layer in expired {
            if let Some(_claim) = self.claim(&layer.digest)? {
                self.remove_manifest(&layer.digest)?;
                gone.push(layer);
            } else {
                used.extend(self.blobs_of([&layer.digest].into_iter())?);
            }
        }
        if !gone.is_empty() {
            self.sync_layers()?;
        }
        Ok(gone)
    }

    /// What a sweep would remove.
    fn sweepable(&self) -> Result<Swept, StoreError> {
        let count =
            |dir, name| locked_dir::count_dead(dir).map_err(StoreError::io("look at", self.path.join(name)));
        Ok(Swept { runs: count(&self.runs, "runs")?, scratch: count(&self.tmp, "tmp")? })
    }
}
