//! Strays: what lies in a store's directories and is none of its files.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::FileType;

use super::{Fault, Problem, Verified};
use crate::digest::Digest;
use crate::fsat;
use crate::locked_dir;
use crate::store::{self, LayerStore, StoreError, remove};

impl LayerStore {
    /// Finds them all but those among the names, and counts what the next sweep removes.
    pub(super) fn find_strays(&self, found: &mut Verified) -> Result<(), StoreError> {
        let all = self.list_dir(&self.root, Path::new(""))?;
        self.keep_strays(Path::new(""), all, found, store::is_ours);
        let all = self.list_dir(&self.layers, Path::new("layers"))?;
        let is_layer = |name: &str| Digest::from_hex(name).is_ok();
        self.keep_strays(Path::new("layers"), all, found, is_layer);
        self.find_strays_of_blobs(found)?;
        for (dir, name) in [(&self.runs, "runs"), (&self.tmp, "tmp")] {
            let all = self.list_dir(dir, Path::new(name))?;
            let is_directory = |name: &OsString| {
                fsat::stat(dir, name)
                    .is_ok_and(|stat| stat.is_none_or(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()))
            };
            let (directories, files): (Vec<_>, Vec<_>) = all.into_iter().partition(is_directory);
            self.keep_strays(Path::new(name), files, found, |name| name == locked_dir::PARENT_LOCK);
            self.keep_strays(Path::new(name), directories, found, locked_dir::is_ours);
            let dead = locked_dir::count_dead(dir);
            found.dead += dead.map_err(StoreError::io("look at", self.path.join(name)))? as u64;
        }
        Ok(())
    }

    fn find_strays_of_blobs(&self, found: &mut Verified) -> Result<(), StoreError> {
        let blobs = Path::new("blobs");
        for prefix in self.list_dir(&self.blobs, blobs)? {
            let path = blobs.join(&prefix);
            let dir = match fsat::open_dir(&self.blobs, &prefix) {
                Ok(dir) if is_prefix(&prefix) => dir,
                _ => {
                    found.problems.push(Problem::of_file(path, Fault::Stray));
                    continue;
                }
            };
            for name in self.list_dir(&dir, &path)? {
                if remove::blob_name(&prefix, &name).is_none() {
                    found.problems.push(Problem::of_file(path.join(name), Fault::Stray));
                }
            }
        }
        Ok(())
    }

    fn keep_strays(
        &self,
        dir: &Path,
        names: Vec<OsString>,
        found: &mut Verified,
        is_ours: impl Fn(&str) -> bool,
    ) {
        let strays = names.into_iter().filter(|name| !name.to_str().is_some_and(&is_ours));
        found.problems.extend(strays.map(|name| Problem::of_file(dir.join(name), Fault::Stray)));
    }

    fn list_dir(&self, dir: impl AsFd, path: &Path) -> Result<Vec<OsString>, StoreError> {
        fsat::names(dir).map_err(StoreError::io("list", self.path.join(path)))
    }
}

fn is_prefix(name: &OsString) -> bool {
    name.to_str()
        .is_some_and(|name| name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}
