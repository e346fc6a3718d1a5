//! A layer name: a small file whose content is a digest, repointed by rename.
//!
//! A `/` in a name is `%` in the file's name (no name has a `%`), so that `a` and `a/b` can both be names.

use std::path::PathBuf;

use rustix::io::Errno;

use super::error::StoreError;
use super::{LayerStore, MIN_PREFIX};
use crate::base::Base;
use crate::digest::Digest;
use crate::fsat;
use crate::locked_dir::LockedDir;

/// Bytes.
pub const MAX_NAME: usize = 200;

impl LayerStore {
    /// The layer that `text` means: a name, or `b3:` with all or at least the first 8 digits of a digest.
    pub fn resolve(&self, text: &str) -> Result<Digest, StoreError> {
        match text.strip_prefix("b3:") {
            Some(hex) => self.resolve_digest(text, hex),
            None => self.resolve_name(text),
        }
    }

    /// Points `name` at `digest`, atomically, and returns what it pointed at before, if that is another layer.
    ///
    /// Errors: a name that breaks the rule, a digest that the store does not have.
    pub fn set_name(&self, name: &str, digest: &Digest) -> Result<Option<Digest>, StoreError> {
        file_name(name)?;
        // Of another capture that gave the same layer.
        self.forget_bases(name, |layer| layer == digest.hex())?;
        self.point(name, digest)
    }

    /// The same for the layer that `base` is the base of. Whoever finds the name finds that, too.
    pub fn set_name_with_base(&self, name: &str, base: &Base) -> Result<Option<Digest>, StoreError> {
        self.put_base(name, base)?;
        self.point(name, &base.layer)
    }

    fn point(&self, name: &str, digest: &Digest) -> Result<Option<Digest>, StoreError> {
        let file = file_name(name)?;
        let _guard = self.lock_shared()?;
        if !self.has_layer(digest)? {
            return Err(StoreError::NoSuchLayer { text: digest.to_string() });
        }
        let path = self.path.join("names").join(&file);
        let fail = || StoreError::io("set the name", &path);
        // One that is damaged points at nothing.
        let before = self.resolve_name(name).ok().filter(|before| before != digest);
        let scratch = LockedDir::create(&self.tmp).map_err(fail())?;
        let written = self.write_name(&scratch, &file, digest).map_err(fail());
        scratch.remove().map_err(fail())?;
        written?;
        self.forget_bases(name, |layer| layer != digest.hex())?;
        Ok(before)
    }

    fn write_name(&self, scratch: &LockedDir, file: &str, digest: &Digest) -> std::io::Result<()> {
        let temp = fsat::create(scratch.dir(), "name", 0o644)?;
        std::io::Write::write_all(
            &mut std::fs::File::from(temp.try_clone()?),
            format!("{digest}\n").as_bytes(),
        )?;
        // On disk before it has its name: after a crash the name leads to the old layer or the new one.
        rustix::fs::fdatasync(&temp)?;
        rustix::fs::renameat(scratch.dir(), "name", &self.names, file)?;
        Ok(rustix::fs::fsync(&self.names)?)
    }

    /// Forgets `name`; the layer stays.
    pub fn remove_name(&self, name: &str) -> Result<(), StoreError> {
        let file = file_name(name)?;
        match rustix::fs::unlinkat(&self.names, &file, rustix::fs::AtFlags::empty()) {
            Ok(()) => self.forget_bases(name, |_| true),
            Err(Errno::NOENT) => Err(StoreError::NoSuchName { name: name.to_owned() }),
            Err(errno) => Err(StoreError::io("remove the name", self.path.join("names").join(file))(errno)),
        }
    }

    /// All names and what they point at, sorted by name.
    pub fn names(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        let files = fsat::names(&self.names).map_err(StoreError::io("list", self.path.join("names")))?;
        let mut names = Vec::new();
        for file in files {
            let Some(name) = file.to_str().map(|file| file.replace('%', "/")) else { continue };
            match self.resolve_name(&name) {
                Ok(digest) => names.push((name, digest)),
                // Removed meanwhile, or no file of ours.
                Err(StoreError::NoSuchName { .. } | StoreError::BadName { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn resolve_name(&self, name: &str) -> Result<Digest, StoreError> {
        let file = file_name(name)?;
        let bytes = match fsat::read(&self.names, &file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NoSuchName { name: name.to_owned() });
            }
            other => other.map_err(StoreError::io("read", self.path.join("names").join(file)))?,
        };
        let text = str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| StoreError::DamagedName { name: name.to_owned() })
    }

    fn resolve_digest(&self, text: &str, hex: &str) -> Result<Digest, StoreError> {
        let digits = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !digits || !(MIN_PREFIX..=64).contains(&hex.len()) {
            return Err(StoreError::BadDigest { text: text.to_owned() });
        }
        let mut found = self.digests()?.into_iter().filter(|digest| digest.hex().starts_with(hex));
        match (found.next(), found.count()) {
            (Some(digest), 0) => Ok(digest),
            (Some(_), more) => Err(StoreError::Ambiguous { text: text.to_owned(), count: more + 1 }),
            (None, _) => Err(StoreError::NoSuchLayer { text: text.to_owned() }),
        }
    }

    /// The digests of all layers, sorted.
    pub(super) fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        let files = fsat::names(&self.layers).map_err(StoreError::io("list", self.layers_path()))?;
        Ok(files.iter().filter_map(|file| Digest::from_hex(file.to_str()?).ok()).collect())
    }

    pub(super) fn layers_path(&self) -> PathBuf {
        self.path.join("layers")
    }
}

/// Whether a layer may have the name; before the work is done that it is for.
pub fn check_name(name: &str) -> Result<(), StoreError> {
    file_name(name).map(drop)
}

pub(super) fn file_name(name: &str) -> Result<String, StoreError> {
    let bytes = name.as_bytes();
    let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'/' | b'-');
    let fine = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(allowed)
        && bytes.len() <= MAX_NAME
        && !name.contains("..")
        && !name.contains("//")
        && !name.ends_with('/');
    fine.then(|| name.replace('/', "%")).ok_or_else(|| StoreError::BadName { name: name.to_owned() })
}
