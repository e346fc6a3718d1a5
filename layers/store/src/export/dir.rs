//! A layer as a plain directory tree, which is an overlayfs upper too.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::{ExportError, blobs, failed};
use crate::digest::Digest;
use crate::manifest::{Entry, Kind, Manifest, Meta};
use crate::store::{BlobFault, LayerStore};
use crate::{content, fsat};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub entries: u64,
    /// Entries whose owner this process may not set; they lost set-id bits.
    pub owners_not_set: u64,
    /// Extended attributes that this process may not set or the file system does not hold.
    pub xattrs_not_set: u64,
}

/// Writes `manifest` to `target`, which must be missing or an empty directory. Contents are reflinked or copied, never
/// hard-linked, and hashed. A whiteout becomes a character device 0:0, an opaque directory gets overlayfs's attribute.
///
/// Errors: the first entry that cannot be made or whose blob is damaged, with the tree so far left in place. Owners and attributes that the
/// process has no right to set are counted instead.
pub fn export_dir(manifest: &Manifest, store: &LayerStore, target: &Path) -> Result<Exported, ExportError> {
    let root = open_target(target)?;
    let mut export = Export { store, root, parent: None, done: Exported::default() };
    for entry in &manifest.entries {
        export.make(entry)?;
    }
    // Children first: making them needs a writable directory and changes its mtime.
    for entry in manifest.entries.iter().rev() {
        if let Kind::Directory { opaque } = entry.kind {
            export.finish_directory(entry, opaque)?;
        }
    }
    export.done.entries = manifest.entries.len() as u64;
    Ok(export.done)
}

/// Makes it if it is missing. Errors: it is not empty.
pub(super) fn open_target(target: &Path) -> Result<OwnedFd, ExportError> {
    let fail = |source: io::Error| ExportError::Target { path: target.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(target).map_err(fail)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
    if !fsat::names(&root).map_err(|errno| fail(errno.into()))?.is_empty() {
        return Err(ExportError::NotEmpty { path: target.to_owned() });
    }
    Ok(root)
}

struct Export<'a> {
    store: &'a LayerStore,
    root: OwnedFd,
    /// The directory of the entry before, which most often is this one's too.
    parent: Option<(PathBuf, OwnedFd)>,
    done: Exported,
}

impl Export<'_> {
    fn make(&mut self, entry: &Entry) -> Result<(), ExportError> {
        let Some(name) = entry.path.file_name() else { return Ok(()) };
        let (path, meta) = (&entry.path, &entry.meta);
        let dir = self.parent(path)?;
        let fail = |attempt| failed(attempt, path);
        match &entry.kind {
            Kind::Directory { .. } => rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))
                .map_err(fail("make the directory")),
            Kind::File { digest, size } => self.file(&dir, entry, name, digest, *size),
            Kind::HardLink { to } => self.hard_link(&dir, path, name, to),
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(target.as_os_str(), &dir, name).map_err(fail("make the symlink"))?;
                self.finish_special(&dir, path, name, meta, false)
            }
            Kind::Whiteout => {
                // Making a 0:0 needs no right (since Linux 5.8), unlike any other device.
                let device = rustix::fs::makedev(0, 0);
                rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), device)
                    .map_err(fail("make the whiteout"))
            }
            Kind::Fifo => {
                rustix::fs::mknodat(&dir, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .map_err(fail("make the fifo"))?;
                self.finish_special(&dir, path, name, meta, true)
            }
            Kind::Device { block, major, minor } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(&dir, name, kind, Mode::from_raw_mode(0o600), device)
                    .map_err(fail("make the device"))?;
                self.finish_special(&dir, path, name, meta, true)
            }
        }
    }

    fn file(
        &mut self,
        dir: &OwnedFd,
        entry: &Entry,
        name: &OsStr,
        digest: &Digest,
        size: u64,
    ) -> Result<(), ExportError> {
        let path = &entry.path;
        let blob = blobs::open(self.store, path, digest, size)?;
        let file = fsat::create(dir, name, 0o600).map_err(failed("make the file", path))?;
        content::copy(&blob, &file, size).map_err(failed("write the file", path))?;
        // The copy rather than the blob, which may change in between.
        let found = content::hash(&file).map_err(failed("read back the file", path))?;
        if found != *digest {
            fsat::unlink(dir, name).map_err(failed("remove the damaged file", path))?;
            return Err(blobs::damaged(path, digest, BlobFault::Content { found }));
        }
        self.finish_open(&file, path, &entry.meta)
    }

    fn hard_link(&mut self, dir: &OwnedFd, path: &Path, name: &OsStr, to: &Path) -> Result<(), ExportError> {
        let Some(old_name) = to.file_name() else { return Ok(()) };
        let old_parent = to.parent().unwrap_or(Path::new(""));
        let old_dir = vfsrun_sys::beneath::open(&self.root, old_parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed("open the directory of", to))?;
        rustix::fs::linkat(&old_dir, old_name, dir, name, AtFlags::empty())
            .map_err(failed("make the hard link", path))
    }

    fn finish_directory(&mut self, entry: &Entry, opaque: bool) -> Result<(), ExportError> {
        let path = &entry.path;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = vfsrun_sys::beneath::open(&self.root, path, flags).map_err(failed("open", path))?;
        if opaque {
            // trusted.* is root's and works on every mount; user.* needs the mount option userxattr.
            let set = |name| rustix::fs::fsetxattr(&dir, name, b"y", XattrFlags::empty());
            set("trusted.overlay.opaque")
                .or_else(|_| set("user.overlay.opaque"))
                .map_err(failed("mark as opaque", path))?;
        }
        self.finish_open(&dir, path, &entry.meta)
    }

    /// Owner, then mode, which chown may change, then attributes, then times, which all of it changes.
    fn finish_open(&mut self, file: &OwnedFd, path: &Path, meta: &Meta) -> Result<(), ExportError> {
        let owned = rustix::fs::fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        let mode = self.allowed_mode(owned, path, meta)?;
        rustix::fs::fchmod(file, mode).map_err(failed("set the mode of", path))?;
        for (name, value) in &meta.xattrs {
            match rustix::fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => self.done.xattrs_not_set += 1,
                Err(errno) => return Err(failed("set an attribute of", path)(errno)),
            }
        }
        rustix::fs::futimens(file, &fsat::times(meta.mtime.0, meta.mtime.1))
            .map_err(failed("set the time of", path))
    }

    fn finish_special(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        name: &OsStr,
        meta: &Meta,
        has_mode: bool,
    ) -> Result<(), ExportError> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let owned = rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        let mode = self.allowed_mode(owned, path, meta)?;
        if has_mode {
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
                .map_err(failed("set the mode of", path))?;
        }
        let times = fsat::times(meta.mtime.0, meta.mtime.1);
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time of", path))
    }

    /// A file that stays the caller's must not become set-id as the caller.
    fn allowed_mode(
        &mut self,
        owned: Result<(), Errno>,
        path: &Path,
        meta: &Meta,
    ) -> Result<Mode, ExportError> {
        match owned {
            Ok(()) => Ok(Mode::from_raw_mode(meta.mode)),
            // EINVAL: an id that the user namespace does not have.
            Err(Errno::PERM | Errno::INVAL) => {
                self.done.owners_not_set += 1;
                Ok(Mode::from_raw_mode(meta.mode & 0o1777))
            }
            Err(errno) => Err(failed("set the owner of", path)(errno)),
        }
    }

    fn parent(&mut self, path: &Path) -> Result<OwnedFd, ExportError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let dir = vfsrun_sys::beneath::open(&self.root, parent, flags).map_err(failed("open", parent))?;
            self.parent = Some((parent.to_owned(), dir));
        }
        let (_, dir) = self.parent.as_ref().expect("Export::parent: set just above");
        dir.as_fd().try_clone_to_owned().map_err(failed("open", parent))
    }
}
