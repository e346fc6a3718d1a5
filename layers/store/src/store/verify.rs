//! A verification: everything in a store, or in some of its layers, is read again and compared with what it is named by.
//!
//! Nothing is changed, and nothing is believed: a blob whose metadata says that nobody touched it is hashed too.

mod blob;
mod problem;
mod strays;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use rustix::fs::FileType;

use super::error::StoreError;
use super::{LayerStore, blobs};
use crate::digest::Digest;
use crate::fsat;
use crate::manifest::Kind;

pub use problem::{Fault, Problem, Use, What};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub layers: u64,
    pub blobs: u64,
    /// That were hashed.
    pub bytes: u64,
    /// Manifests first, then blobs, names, and what does not belong.
    pub problems: Vec<Problem>,
    /// Blobs that no layer has, and the sum of their sizes in bytes. Only of a whole store.
    pub unreferenced: (u64, u64),
    /// Sound blobs that are hashed whenever they are used, since their files were touched or have another name.
    pub unsettled: u64,
    /// Directories that dead processes left. Only of a whole store.
    pub dead: u64,
}

/// A blob that is to be there.
#[derive(Debug, Default)]
struct Wanted {
    /// As the manifests have it. Empty for a blob that no layer has; more than one says that a manifest lies.
    sizes: BTreeSet<u64>,
    uses: Vec<Use>,
}

type Blobs = BTreeMap<Digest, Wanted>;

/// What holds a layer.
#[derive(Clone, Debug, Default)]
struct Holders {
    names: Vec<String>,
    contents_of: Vec<String>,
}

type Held = HashMap<Digest, Holders>;

impl LayerStore {
    /// Reads the whole store again. `progress` is told of bytes that were read, by several threads.
    ///
    /// Errors: a part of the store that cannot be listed.
    pub fn verify(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<Verified, StoreError> {
        let _guard = self.lock_for_reading()?;
        let mut found = Verified::default();
        let held = self.verify_names(&mut found)?;
        let mut wanted = Blobs::new();
        for digest in self.digests()? {
            self.verify_manifest(&digest, &held, &mut wanted, &mut found);
        }
        self.add_unreferenced(&mut wanted, &mut found)?;
        self.verify_blobs(wanted, progress, &mut found);
        self.verify_bases(held.values().flat_map(|holders| &holders.names), &mut found);
        self.find_strays(&mut found)?;
        sort(&mut found.problems);
        Ok(found)
    }

    /// The same for some layers, given by names or digests, and for nothing else.
    ///
    /// Errors: a text that means no layer.
    pub fn verify_layers(
        &self,
        layers: &[String],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Verified, StoreError> {
        let _guard = self.lock_for_reading()?;
        let mut found = Verified::default();
        let digests = layers.iter().map(|layer| self.resolve(layer)).collect::<Result<BTreeSet<_>, _>>()?;
        let held = self.verify_names(&mut Verified::default())?;
        let mut wanted = Blobs::new();
        for digest in digests {
            self.verify_manifest(&digest, &held, &mut wanted, &mut found);
        }
        self.verify_blobs(wanted, progress, &mut found);
        sort(&mut found.problems);
        Ok(found)
    }

    /// What holds each layer.
    fn verify_names(&self, found: &mut Verified) -> Result<Held, StoreError> {
        let mut held = Held::new();
        let files = fsat::names(&self.names).map_err(StoreError::io("list", self.path.join("names")))?;
        for file in files {
            let path = PathBuf::from("names").join(&file);
            let name = file.to_str().map(|file| file.replace('%', "/"));
            let resolved = name.as_ref().map(|name| self.resolve_name(name));
            let (Some(name), Some(resolved)) = (name, resolved) else {
                found.problems.push(Problem::of_file(path, Fault::Stray));
                continue;
            };
            let fault = match resolved {
                Ok(digest) if self.has_layer(&digest)? => {
                    // A base that is damaged is a problem of its own.
                    if let Some(contents) = self.name_hold(&name).ok().and_then(|hold| hold.contents()) {
                        held.entry(contents).or_default().contents_of.push(name.clone());
                    }
                    held.entry(digest).or_default().names.push(name);
                    continue;
                }
                Ok(digest) => Fault::Dangling { digest },
                // Removed since the directory was read: its lock is one that not everybody can take.
                Err(StoreError::NoSuchName { .. }) => continue,
                Err(StoreError::BadName { .. }) => {
                    found.problems.push(Problem::of_file(path, Fault::Stray));
                    continue;
                }
                Err(StoreError::DamagedName { .. }) => Fault::NoDigest,
                Err(error) => Fault::unreadable(&error),
            };
            found.problems.push(Problem { what: What::Name(name), file: path, fault, uses: Vec::new() });
        }
        Ok(held)
    }

    fn verify_bases<'a>(&self, names: impl Iterator<Item = &'a String>, found: &mut Verified) {
        for name in names {
            let fault = match self.base(name) {
                // Removed or given anew since the directory was read.
                Ok(None) | Err(StoreError::NoSuchName { .. }) => continue,
                Ok(Some(base)) => match base.contents.map(|contents| (contents, self.has_layer(&contents))) {
                    None | Some((_, Ok(true))) => continue,
                    Some((digest, Ok(false))) => Fault::Dangling { digest },
                    Some((_, Err(error))) => Fault::unreadable(&error),
                },
                Err(error) => Fault::unreadable(&error),
            };
            let what = What::Base(name.clone());
            let file = PathBuf::from("names").join(name.replace('/', "%"));
            found.problems.push(Problem { what, file, fault, uses: Vec::new() });
        }
    }

    /// Adds the blobs of a layer to those that are `wanted`.
    fn verify_manifest(&self, digest: &Digest, held: &Held, wanted: &mut Blobs, found: &mut Verified) {
        found.layers += 1;
        let Holders { names, contents_of } = held.get(digest).cloned().unwrap_or_default();
        let used = |path| Use {
            layer: *digest,
            names: names.clone(),
            contents_of: contents_of.clone(),
            path,
            more: 0,
        };
        let mut problem = |fault| {
            let uses = vec![used(None)];
            let file = PathBuf::from("layers").join(digest.hex());
            found.problems.push(Problem { what: What::Layer(*digest), file, fault, uses });
        };
        match fsat::stat(&self.layers, digest.hex()) {
            Ok(Some(stat)) if stat.st_mode & 0o7777 != blobs::MODE => {
                problem(Fault::Mode { found: stat.st_mode & 0o7777 });
            }
            _ => {}
        }
        let manifest = match self.manifest(digest) {
            Ok(manifest) => manifest,
            Err(StoreError::DamagedManifest { found, .. }) => return problem(Fault::Content { found }),
            Err(error) => return problem(Fault::unreadable(&error)),
        };
        for entry in manifest.entries {
            let Kind::File { digest: blob, size } = entry.kind else { continue };
            let blob = wanted.entry(blob).or_default();
            blob.sizes.insert(size);
            match blob.uses.last_mut() {
                Some(last) if last.layer == *digest => last.more += 1,
                _ => {
                    blob.uses.push(used(Some(entry.path)));
                }
            }
        }
    }

    /// Blobs that nothing mentions are read as well: the next capture of their content would believe in them.
    fn add_unreferenced(&self, wanted: &mut Blobs, found: &mut Verified) -> Result<(), StoreError> {
        self.each_blob(|_, _, digest, stat| {
            let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
            if !is_file && !wanted.contains_key(&digest) {
                let file = PathBuf::from("blobs").join(blobs::file_name(&digest));
                found.problems.push(Problem::of_file(file, Fault::NoFile));
                return Ok(());
            }
            wanted.entry(digest).or_insert_with(|| {
                found.unreferenced.0 += 1;
                found.unreferenced.1 += stat.st_size as u64;
                Wanted::default()
            });
            Ok(())
        })
    }
}

fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| (a.what.order(), &a.file).cmp(&(b.what.order(), &b.file)));
}
