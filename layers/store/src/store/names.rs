//! A layer name: a file whose first line is a digest, repointed by rename. The rest of it, if there is any, is the base of the
//! name's layer: whoever finds a name finds the base of what it points at, and two captures which gave equal layers have
//! one each.
//!
//! A `/` in a name is `%` in the file's name (no name has a `%`), so that `a` and `a/b` can both be names.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use rustix::io::Errno;

use super::error::StoreError;
use super::{LayerStore, MIN_PREFIX};
use crate::base::{Base, BaseError};
use crate::digest::Digest;
use crate::fsat;
use crate::locked_dir::LockedDir;

/// Bytes.
pub const MAX_NAME: usize = 200;
/// Bytes of the line that a name's file begins with.
const LINE: u64 = "b3:".len() as u64 + 64 + 1;

impl LayerStore {
    /// The layer that `text` means: a name, or `b3:` with all or at least the first 8 digits of a digest.
    pub fn resolve(&self, text: &str) -> Result<Digest, StoreError> {
        match text.strip_prefix("b3:") {
            Some(hex) => self.resolve_digest(text, hex),
            None => self.resolve_name(text),
        }
    }

    /// Points `name` at `digest`, a layer that the caller has put, atomically, and returns what it pointed at before, if that is
    /// another layer. Name and layer are on the disk then.
    ///
    /// Errors: a name that breaks the rule, a digest that the store does not have.
    pub fn set_name(&self, name: &str, digest: &Digest) -> Result<Option<Digest>, StoreError> {
        self.point(name, digest, None)
    }

    /// The same for the layer that `base` is the base of. The layer with its contents is held by the name as well.
    pub fn set_name_with_base(&self, name: &str, base: &Base) -> Result<Option<Digest>, StoreError> {
        self.point(name, &base.layer, Some(base))
    }

    /// The same for a layer of anybody, who may have put it just now: it is waited for before it has the name.
    pub fn tag(&self, name: &str, digest: &Digest) -> Result<Option<Digest>, StoreError> {
        let _guard = self.lock_shared()?;
        if !self.has_layer(digest)? {
            return Err(StoreError::NoSuchLayer { text: digest.to_string() });
        }
        self.sync_layers()?;
        self.set_name(name, digest)
    }

    fn point(&self, name: &str, digest: &Digest, base: Option<&Base>) -> Result<Option<Digest>, StoreError> {
        let file = file_name(name)?;
        let _guard = self.lock_shared()?;
        for layer in [Some(*digest), base.and_then(|base| base.contents)].into_iter().flatten() {
            if !self.has_layer(&layer)? {
                return Err(StoreError::NoSuchLayer { text: layer.to_string() });
            }
        }
        let base = base.map(Base::to_text).unwrap_or_default();
        let path = self.path.join("names").join(&file);
        let fail = || StoreError::io("set the name", &path);
        // One that is damaged points at nothing.
        let before = self.resolve_name(name).ok().filter(|before| before != digest);
        let scratch = LockedDir::create(&self.tmp).map_err(fail())?;
        let written = self.write_name(&scratch, &file, &format!("{digest}\n{base}")).map_err(fail());
        if let Err(error) = scratch.remove() {
            tracing::debug!(%error, "a scratch directory is left to the next sweep");
        }
        written?;
        self.sync_names()?;
        Ok(before)
    }

    fn write_name(&self, scratch: &LockedDir, file: &str, text: &str) -> io::Result<()> {
        let temp = fsat::create(scratch.dir(), "name", 0o644)?;
        File::from(temp.try_clone()?).write_all(text.as_bytes())?;
        // On disk before it has its name: after a crash the name leads to the old layer or the new one.
        rustix::fs::fdatasync(&temp)?;
        rustix::fs::renameat(scratch.dir(), "name", &self.names, file)?;
        Ok(())
    }

    /// Forgets `name`; the layer stays.
    pub fn remove_name(&self, name: &str) -> Result<(), StoreError> {
        let file = file_name(name)?;
        match rustix::fs::unlinkat(&self.names, &file, rustix::fs::AtFlags::empty()) {
            Ok(()) => self.sync_names(),
            Err(Errno::NOENT) => Err(StoreError::NoSuchName { name: name.to_owned() }),
            Err(errno) => Err(StoreError::io("remove the name", self.path.join("names").join(file))(errno)),
        }
    }

    /// All names and what they point at, sorted by name.
    pub fn names(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        self.each_name(|name| Ok((name.to_owned(), self.resolve_name(name)?)))
    }

    /// The same with the headers of their bases.
    pub(super) fn holds(&self) -> Result<Vec<NameHold>, StoreError> {
        self.each_name(|name| self.name_hold(name))
    }

    pub(super) fn name_hold(&self, name: &str) -> Result<NameHold, StoreError> {
        let bytes = self.read_name(name, u64::MAX)?;
        let (layer, base) = parse(&bytes).ok_or_else(|| StoreError::DamagedName { name: name.to_owned() })?;
        let base = self.parse_base(name, &layer, base, Base::parse_header);
        Ok(NameHold { name: name.to_owned(), layer, base })
    }

    /// Sorted by name.
    fn each_name<T>(&self, look: impl Fn(&str) -> Result<T, StoreError>) -> Result<Vec<T>, StoreError> {
        let files = fsat::names(&self.names).map_err(StoreError::io("list", self.path.join("names")))?;
        let mut names: Vec<_> =
            files.iter().filter_map(|file| Some(file.to_str()?.replace('%', "/"))).collect();
        names.sort();
        let mut found = Vec::new();
        for name in names {
            match look(&name) {
                Ok(looked) => found.push(looked),
                // Removed meanwhile, or no file of ours.
                Err(StoreError::NoSuchName { .. } | StoreError::BadName { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    pub(super) fn resolve_name(&self, name: &str) -> Result<Digest, StoreError> {
        let start = self.read_name(name, LINE)?;
        parse(&start)
            .map(|(digest, _)| digest)
            .ok_or_else(|| StoreError::DamagedName { name: name.to_owned() })
    }

    /// What the changes that `name` holds were made to. `None` for a layer that nothing was recorded of: an import.
    ///
    /// Errors: no such name, a base that is damaged.
    pub fn base(&self, name: &str) -> Result<Option<Base>, StoreError> {
        let bytes = self.read_name(name, u64::MAX)?;
        match parse(&bytes) {
            Some((layer, base)) => self.parse_base(name, &layer, base, Base::parse),
            None => Err(StoreError::DamagedName { name: name.to_owned() }),
        }
    }

    fn parse_base(
        &self,
        name: &str,
        layer: &Digest,
        text: &[u8],
        parse_text: impl Fn(&[u8]) -> Result<Base, BaseError>,
    ) -> Result<Option<Base>, StoreError> {
        if text.is_empty() {
            return Ok(None);
        }
        let path = || self.path.join("names").join(name.replace('/', "%"));
        match parse_text(text) {
            Ok(base) if base.layer == *layer => Ok(Some(base)),
            Ok(_) => Err(StoreError::ForeignBase { path: path() }),
            Err(source) => Err(StoreError::BadBase { path: path(), source }),
        }
    }

    /// At most the first `most` bytes.
    fn read_name(&self, name: &str, most: u64) -> Result<Vec<u8>, StoreError> {
        let file = file_name(name)?;
        let path = self.path.join("names").join(&file);
        let open = match fsat::open_quietly(&self.names, &file) {
            Err(Errno::NOENT) => return Err(StoreError::NoSuchName { name: name.to_owned() }),
            other => File::from(other.map_err(StoreError::io("read", &path))?),
        };
        let mut bytes = Vec::new();
        open.take(most).read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        Ok(bytes)
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

/// A name, and what it keeps from being removed.
#[derive(Debug)]
pub(super) struct NameHold {
    pub name: String,
    pub layer: Digest,
    /// Without what was seen. An error if it is damaged.
    pub base: Result<Option<Base>, StoreError>,
}

impl NameHold {
    /// The layer with what was seen. `None` where there is none, and where nobody knows whether there is.
    pub fn contents(&self) -> Option<Digest> {
        self.base.as_ref().ok()?.as_ref()?.contents
    }

    /// The layers that have to stay.
    ///
    /// Errors: a base that is damaged, as it may hold any.
    pub fn layers(self) -> Result<impl Iterator<Item = Digest>, StoreError> {
        match self.base {
            Ok(base) => Ok(std::iter::once(self.layer).chain(base.and_then(|base| base.contents))),
            Err(source) => Err(StoreError::UnknownContents { name: self.name, source: Box::new(source) }),
        }
    }
}

/// What a name points at, and what follows.
fn parse(bytes: &[u8]) -> Option<(Digest, &[u8])> {
    let (line, rest) = bytes.split_at_checked(LINE as usize)?;
    let line = str::from_utf8(line).ok()?.strip_suffix('\n')?;
    Some((line.parse().ok()?, rest))
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
