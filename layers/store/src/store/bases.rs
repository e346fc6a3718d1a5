//! The bases of named layers: `bases/<hex of the layer>.<file of the name>`. A name is one user's hold on one capture, so that two
//! captures which gave equal layers have a base each. It is written before the name is repointed, and earlier ones of the name
//! go afterwards: whoever finds a name finds the base of what it points at.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::LayerStore;
use super::error::StoreError;
use super::names::file_name;
use crate::base::Base;
use crate::fsat;
use crate::locked_dir::LockedDir;

const DIRECTORY: &str = "bases";

impl LayerStore {
    /// Keeps what the changes in `base.layer` were made to, for as long as `name` is the layer's.
    pub(super) fn put_base(&self, name: &str, base: &Base) -> Result<(), StoreError> {
        let file = format!("{}.{}", base.layer.hex(), file_name(name)?);
        let path = self.path.join(DIRECTORY).join(&file);
        let _guard = self.lock_shared()?;
        self.write_base(&file, &base.to_text()).map_err(StoreError::io("write", path))
    }

    fn write_base(&self, file: &str, text: &str) -> io::Result<()> {
        // A store that an earlier version made has none.
        if fsat::stat(&self.root, DIRECTORY)?.is_none() {
            fsat::make_dir(&self.root, DIRECTORY, 0o700)?;
            rustix::fs::fsync(&self.root)?;
        }
        let bases = fsat::open_dir(&self.root, DIRECTORY)?;
        let scratch = LockedDir::create(&self.tmp)?;
        let written = || -> io::Result<()> {
            let temp = fsat::create(scratch.dir(), "base", 0o600)?;
            io::Write::write_all(&mut std::fs::File::from(temp.try_clone()?), text.as_bytes())?;
            rustix::fs::fdatasync(&temp)?;
            rustix::fs::renameat(scratch.dir(), "base", &bases, file)?;
            Ok(rustix::fs::fsync(&bases)?)
        };
        let written = written();
        scratch.remove()?;
        written
    }

    /// What the changes that `name` holds were made to. `None` for a layer that nothing was recorded of: an import.
    ///
    /// Errors: no such name, a base that is damaged.
    pub fn base(&self, name: &str) -> Result<Option<Base>, StoreError> {
        let layer = self.resolve_name(name)?;
        let file = format!("{}.{}", layer.hex(), file_name(name)?);
        let Some(bases) = self.open_bases()? else { return Ok(None) };
        let path = self.path.join(DIRECTORY).join(&file);
        match fsat::read(&bases, &file) {
            Ok(bytes) => match Base::parse(&bytes) {
                Ok(base) if base.layer == layer => Ok(Some(base)),
                Ok(_) => Err(StoreError::ForeignBase { path }),
                Err(source) => Err(StoreError::BadBase { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path)(error)),
        }
    }

    /// The names whose bases are there, and the files of no name: what a process left that was killed.
    pub(super) fn list_bases(&self) -> Result<(Vec<String>, Vec<OsString>), StoreError> {
        let Some(bases) = self.open_bases()? else { return Ok(Default::default()) };
        let path = self.path.join(DIRECTORY);
        let (mut names, mut left) = (Vec::new(), Vec::new());
        for file in fsat::names(&bases).map_err(StoreError::io("list", path))? {
            let parts = file.to_str().and_then(|file| file.split_once('.'));
            let name = parts.map(|(layer, name)| (layer, name.replace('%', "/")));
            match name {
                Some((layer, name)) if self.resolve_name(&name).is_ok_and(|named| named.hex() == layer) => {
                    names.push(name);
                }
                _ => left.push(file),
            }
        }
        Ok((names, left))
    }

    /// Removes those of no name. The caller sees to it that nobody is adding one.
    pub(super) fn sweep_bases(&self) -> Result<(), StoreError> {
        let (_, left) = self.list_bases()?;
        let Some(bases) = self.open_bases()? else { return Ok(()) };
        for file in left {
            self.remove_base(&bases, &file)?;
        }
        Ok(())
    }

    /// Removes those bases of `name` whose layers, by their hexadecimal digits, are `meant`.
    pub(super) fn forget_bases(&self, name: &str, meant: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let Some(bases) = self.open_bases()? else { return Ok(()) };
        let of_name = file_name(name)?;
        for file in fsat::names(&bases).map_err(StoreError::io("list", self.path.join(DIRECTORY)))? {
            let parts = file.to_str().and_then(|file| file.split_once('.'));
            if parts.is_some_and(|(layer, name)| name == of_name && meant(layer)) {
                self.remove_base(&bases, &file)?;
            }
        }
        Ok(())
    }

    fn remove_base(&self, bases: &OwnedFd, file: &OsStr) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(bases, file, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::io("remove", self.path.join(DIRECTORY).join(file))(errno)),
        }
    }

    /// `None` in a store that an earlier version made.
    fn open_bases(&self) -> Result<Option<OwnedFd>, StoreError> {
        match fsat::open_dir(&self.root, DIRECTORY) {
            Ok(bases) => Ok(Some(bases)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::io("open", self.path.join(DIRECTORY))(errno)),
        }
    }
}
