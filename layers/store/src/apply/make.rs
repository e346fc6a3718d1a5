//! Making: what a step brings is made under the step's name in a staging directory, with all its metadata.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use vfsrun_sys::fd_passing;

use super::ApplyError;
use super::look::Wanted;
use super::plan::Plan;
use super::snapshot::{Node, Snapshot, open_below};
use super::stage::Syncing;
use super::step::Step;
use super::why::Why;
use crate::digest::Digest;
use crate::manifest::{Entry, Kind};
use crate::store::{BlobFault, StoreError};
use crate::{content, fsat, order};

pub(super) enum Fault {
    /// This step is not possible; others are.
    Refused(Why),
    Failed(ApplyError),
}

impl From<ApplyError> for Fault {
    fn from(error: ApplyError) -> Fault {
        Fault::Failed(error)
    }
}

/// A hard link to what another step, or the host, has.
pub(super) struct Link<'a> {
    pub entry: &'a Entry,
    pub to: &'a Path,
}

/// Of one step.
pub(super) struct Making<'a> {
    plan: &'a Plan<'a>,
    step: &'a Step,
    /// The staging directory.
    dir: &'a OwnedFd,
    syncing: Syncing,
    nodes: Vec<Node>,
    pub links: Vec<Link<'a>>,
}

impl<'a> Making<'a> {
    pub fn new(plan: &'a Plan<'a>, step: &'a Step, dir: &'a OwnedFd, syncing: Syncing) -> Making<'a> {
        Making { plan, step, dir, syncing, nodes: Vec::new(), links: Vec::new() }
    }

    pub fn has_links_to_others(&self) -> bool {
        let is_other = |entry: &Entry| match &entry.kind {
            Kind::HardLink { to } => !order::is_below(to, &self.step.path),
            _ => false,
        };
        self.entries().iter().any(is_other)
    }

    /// All but links to what others make, and the metadata of directories.
    pub fn begin(&mut self) -> Result<(), Fault> {
        for entry in self.entries() {
            let (dir, name) = self.place(&entry.path)?;
            match &entry.kind {
                Kind::Whiteout => {}
                Kind::Directory { .. } => rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o700))
                    .map_err(self.failed("make a directory in"))?,
                Kind::HardLink { to } if order::is_below(to, &self.step.path) => {
                    let (old, old_name) = self.place(to)?;
                    self.link(&old, old_name.as_os_str(), entry)?;
                }
                Kind::HardLink { to } => self.links.push(Link { entry, to }),
                Kind::File { digest, size } => {
                    let file = fsat::create(&dir, &name, 0o600).map_err(self.failed("make a file in"))?;
                    self.fill(&file, &entry.path, digest, *size)?;
                    self.finish_open(&file, entry)?;
                    if self.syncing == Syncing::Each {
                        rustix::fs::fsync(&file).map_err(self.failed("sync a file in"))?;
                    }
                    self.note(&entry.path, &rustix::fs::fstat(&file).map_err(self.failed("look into"))?);
                }
                Kind::Symlink { target } => {
                    rustix::fs::symlinkat(target.as_os_str(), &dir, &name)
                        .map_err(self.failed("make a symlink in"))?;
                    self.finish_special(&dir, &name, entry)?;
                }
                Kind::Fifo => {
                    rustix::fs::mknodat(&dir, &name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                        .map_err(self.failed("make a fifo in"))?;
                    self.finish_special(&dir, &name, entry)?;
                }
                Kind::Device { block, major, minor } => {
                    let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                    let device = rustix::fs::makedev(*major, *minor);
                    match rustix::fs::mknodat(&dir, &name, kind, Mode::from_raw_mode(0o600), device) {
                        Err(errno @ Errno::PERM) => {
                            return Err(Fault::Refused(Why::Failed { attempt: "make", errno }));
                        }
                        made => made.map_err(self.failed("make a device in"))?,
                    }
                    self.finish_special(&dir, &name, entry)?;
                }
            }
        }
        Ok(())
    }

    /// Gives what is at `name` in `dir` the name of `entry`, too.
    pub fn link(&mut self, dir: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), Fault> {
        let (new, new_name) = self.place(&entry.path)?;
        match rustix::fs::linkat(dir, name, &new, &new_name, AtFlags::empty()) {
            // fs.protected_hardlinks, or a limit of the file system.
            Err(errno @ (Errno::PERM | Errno::MLINK | Errno::XDEV)) => {
                return Err(Fault::Refused(Why::Failed { attempt: "link", errno }));
            }
            made => made.map_err(self.failed("make a hard link in"))?,
        }
        let stat = rustix::fs::statat(&new, &new_name, AtFlags::SYMLINK_NOFOLLOW);
        self.note(&entry.path, &stat.map_err(self.failed("look into"))?);
        Ok(())
    }

    /// Directories are finished when nothing is made in them any more.
    pub fn end(mut self) -> Result<Snapshot, Fault> {
        for entry in self.entries().iter().rev() {
            if !matches!(entry.kind, Kind::Directory { .. }) {
                continue;
            }
            let (dir, name) = self.place(&entry.path)?;
            let open = fsat::open_dir(&dir, &name).map_err(self.failed("open a directory in"))?;
            self.finish_open(&open, entry)?;
            if self.syncing == Syncing::Each {
                rustix::fs::fsync(&open).map_err(self.failed("sync a directory in"))?;
            }
            self.note(&entry.path, &rustix::fs::fstat(&open).map_err(self.failed("look into"))?);
        }
        Ok(Snapshot::from_nodes(self.nodes))
    }

    fn entries(&self) -> &'a [Entry] {
        let (entries, top) = (&self.plan.layer.entries, &self.step.path);
        let first = entries.partition_point(|entry| order::compare(&entry.path, top).is_lt());
        let is_in = |entry: &&Entry| entry.path == *top || order::is_below(&entry.path, top);
        let length = entries[first..].iter().take_while(is_in).count();
        &entries[first..first + length]
    }

    fn place(&self, path: &Path) -> Result<(OwnedFd, PathBuf), Fault> {
        let below = path.strip_prefix(&self.step.path).unwrap_or(path);
        let open = |dir: &OwnedFd| dir.try_clone().map_err(ApplyError::io("open", self.step.slot()));
        match (below.parent(), below.file_name()) {
            (Some(parent), Some(name)) => {
                let top =
                    fsat::open_dir(self.dir, self.step.slot()).map_err(self.failed("open what is in"))?;
                let dir = open_below(&top, parent).map_err(self.failed("open what is in"))?;
                Ok((dir, name.into()))
            }
            _ => Ok((open(self.dir)?, self.step.slot().into())),
        }
    }

    fn note(&mut self, path: &Path, stat: &Stat) {
        let below = path.strip_prefix(&self.step.path).unwrap_or(path);
        self.nodes.push(Node::of(below, stat));
    }

    fn fill(&self, file: &OwnedFd, path: &Path, digest: &Digest, size: u64) -> Result<(), Fault> {
        let blob = self.plan.store.open_blob(digest).map_err(ApplyError::from)?;
        let length = rustix::fs::fstat(&blob).map_err(self.failed("look at a blob for"))?.st_size as u64;
        if length != size {
            return Err(self.damaged(path, digest, BlobFault::Size { wanted: size, found: length }));
        }
        let found = if size <= content::SMALL {
            let bytes = content::read_small(&blob, size).map_err(self.failed("read a blob for"))?;
            let written = File::from(file.try_clone().map_err(self.failed("write into"))?).write_all(&bytes);
            written.map_err(self.failed("write a file in"))?;
            Digest::of(&bytes)
        } else {
            content::copy(&blob, file, size).map_err(self.failed("write a file in"))?;
            // The copy rather than the blob, which may change in between.
            content::hash(file).map_err(self.failed("read back a file in"))?
        };
        if found == *digest { Ok(()) } else { Err(self.damaged(path, digest, BlobFault::Content { found })) }
    }

    fn damaged(&self, path: &Path, digest: &Digest, fault: BlobFault) -> Fault {
        let blob = StoreError::Blob { path: path.to_owned(), blob: *digest, fault };
        Fault::Failed(blob.into())
    }

    /// Owner, then mode, which chown may change, then attributes, then times, which all of it changes.
    fn finish_open(&self, file: &OwnedFd, entry: &Entry) -> Result<(), Fault> {
        let wanted = self.wanted(entry);
        let stat = rustix::fs::fstat(file).map_err(self.failed("look into"))?;
        if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
            owned(rustix::fs::fchown(file, uid(wanted), gid(wanted)), wanted)?
                .map_err(self.failed("set an owner in"))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(wanted.mode)).map_err(self.failed("set a mode in"))?;
        for (name, value) in &entry.meta.xattrs {
            match rustix::fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty()) {
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {
                    let name = name.to_string_lossy().into_owned();
                    return Err(Fault::Refused(Why::Attribute { name }));
                }
                set => set.map_err(self.failed("set an attribute in"))?,
            }
        }
        let found = rustix::fs::fstat(file).map_err(self.failed("look into"))?.st_mode & 0o7777;
        if found != wanted.mode {
            return Err(Fault::Refused(Why::Mode { wanted: wanted.mode, found }));
        }
        if self.plan.keeps_times {
            let (seconds, nanoseconds) = entry.meta.mtime;
            rustix::fs::futimens(file, &fsat::times(seconds, nanoseconds))
                .map_err(self.failed("set a time in"))?;
        }
        Ok(())
    }

    fn finish_special(&mut self, dir: &OwnedFd, name: &Path, entry: &Entry) -> Result<(), Fault> {
        let wanted = self.wanted(entry);
        let look = || rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = look().map_err(self.failed("look into"))?;
        if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
            let set = rustix::fs::chownat(dir, name, uid(wanted), gid(wanted), AtFlags::SYMLINK_NOFOLLOW);
            owned(set, wanted)?.map_err(self.failed("set an owner in"))?;
        }
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            set_mode(dir, name, wanted.mode).map_err(self.failed("set a mode in"))?;
        }
        if self.plan.keeps_times {
            let times = fsat::times(entry.meta.mtime.0, entry.meta.mtime.1);
            rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.failed("set a time in"))?;
        }
        self.note(&entry.path, &look().map_err(self.failed("look into"))?);
        Ok(())
    }

    fn wanted(&self, entry: &Entry) -> Wanted {
        match self.step.wanted {
            Some(wanted) if entry.path == self.step.path => wanted,
            _ => self.plan.ids.wanted(entry),
        }
    }

    fn failed<E: Into<std::io::Error>>(
        &self,
        attempt: &'static str,
    ) -> impl FnOnce(E) -> ApplyError + use<E> {
        ApplyError::io(attempt, self.plan.parents[self.step.parent].path.clone())
    }
}

/// Of what cannot be opened. By its name a symlink, if somebody put one there, would be followed.
fn set_mode(dir: &OwnedFd, name: &Path, mode: u32) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode) {
        FileType::Fifo | FileType::BlockDevice | FileType::CharacterDevice => {
            rustix::fs::chmod(fd_passing::magic_link(handle.as_fd()), Mode::from_raw_mode(mode))
        }
        _ => Err(Errno::STALE),
    }
}

fn uid(wanted: Wanted) -> Option<Uid> {
    Some(Uid::from_raw(wanted.uid))
}

fn gid(wanted: Wanted) -> Option<Gid> {
    Some(Gid::from_raw(wanted.gid))
}

/// A right that is missing is a reason to leave the path alone.
fn owned(set: Result<(), Errno>, wanted: Wanted) -> Result<Result<(), Errno>, Fault> {
    match set {
        // EINVAL: an id that the user namespace does not have.
        Err(Errno::PERM | Errno::INVAL) => {
            Err(Fault::Refused(Why::Owner { uid: wanted.uid, gid: wanted.gid }))
        }
        set => Ok(set),
    }
}
