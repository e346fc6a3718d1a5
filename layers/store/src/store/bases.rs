//! The bases of named layers: `bases/<hex of the layer>.<file of the name>`. A name is one user's hold on one capture, so that two
//! captures which gave equal layers have a base each. It is written before the name is repointed, and earlier ones of the name
//! go afterwards: whoever finds a name finds the base of what it points at.

use std::io;

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
        fsat::make_dir(&self.root, DIRECTORY, 0o700)?;
        let bases = fsat::open_dir(&self.root, DIRECTORY)?;
        let scratch = LockedDir::create(&self.tmp)?;
        let written = || -> io::Result<()> {
            let temp = fsat::create(scratch.dir(), "base", 0o600)?;
            io::Write::write_all(&mut std::fs::File::from(temp.try_clone()?), text.as_bytes())?;
            rustix::fs::fdatasync(&temp)?;
            Ok(rustix::fs::renameat(scratch.dir(), "base", &bases, file)?)
        };
        let written = written();
        scratch.remove()?;
        written
    }

    /// What the changes that `name` holds were made to. `None` for a layer that nothing was recorded of: an import.
    ///
    /// Errors: no such name, a base that is damaged.
    pub fn base(&self, name: &str) -> Result<Option<Base>, StoreError> {
        let layer = self.resolve(name)?;
        let file = format!("{}.{}", layer.hex(), file_name(name)?);
        let path = self.path.join(DIRECTORY).join(&file);
        let bytes = match fsat::open_dir(&self.root, DIRECTORY) {
            Ok(bases) => fsat::read(&bases, &file),
            Err(errno) => Err(errno.into()),
        };
        match bytes {
            Ok(bytes) => match Base::parse(&bytes) {
                Ok(base) if base.layer == layer => Ok(Some(base)),
                Ok(_) => Err(StoreError::ForeignBase { path }),
                Err(source) => Err(StoreError::BadBase { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path)(error)),
        }
    }

    /// Removes those bases of `name` whose layers, by their hexadecimal digits, are `meant`.
    pub(super) fn forget_bases(&self, name: &str, meant: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let path = self.path.join(DIRECTORY);
        let bases = match fsat::open_dir(&self.root, DIRECTORY) {
            Ok(bases) => bases,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(StoreError::io("open", path)(errno)),
        };
        let of_name = file_name(name)?;
        for file in fsat::names(&bases).map_err(StoreError::io("list", &path))? {
            let parts = file.to_str().and_then(|file| file.split_once('.'));
            if parts.is_some_and(|(layer, name)| name == of_name && meant(layer)) {
                match rustix::fs::unlinkat(&bases, &file, rustix::fs::AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(StoreError::io("remove", path.join(&file))(errno)),
                }
            }
        }
        Ok(())
    }
}
