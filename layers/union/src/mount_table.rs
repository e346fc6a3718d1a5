//! The table of mounts: which file system lies where, told without a question to any of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use vfsrun_sys::mount_id::mount_id;
use vfsrun_sys::mountinfo;

/// Number of a mount.
pub(crate) type MountId = u64;

/// A /proc/PID/mountinfo as it was when it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable(HashMap<MountId, Mount>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    /// With its subtype: `fuse.sshfs`.
    pub(crate) file_system: String,
}

impl MountTable {
    /// Empty where it cannot be read.
    pub fn read(file: &OwnedFd) -> MountTable {
        let mut text = Vec::new();
        let mut chunk = [0; 16 * 1024];
        while let Ok(length @ 1..) = rustix::io::pread(file, &mut chunk, text.len() as u64) {
            text.extend_from_slice(&chunk[..length]);
        }
        MountTable::parse(&text)
    }

    pub(crate) fn parse(text: &[u8]) -> MountTable {
        let mount =
            |line: mountinfo::Line<'_>| Mount { point: line.point(), file_system: line.kind().into_owned() };
        MountTable(mountinfo::lines(text).map(|line| (line.id, mount(line))).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, id: MountId) -> Option<&Mount> {
        self.0.get(&id)
    }

    pub(crate) fn mounts(&self) -> impl Iterator<Item = (MountId, &Mount)> {
        self.0.iter().map(|(id, mount)| (*id, mount))
    }
}

/// The mount that a descriptor is open in. A stat would say so too, but the file system might be asked for it.
pub(crate) fn mount_of(fd: BorrowedFd<'_>) -> Option<MountId> {
    // Each attach asks for each branch, and the kernel's own call takes a tenth of the time.
    mount_id(fd).ok().or_else(|| mount_by_proc(fd))
}

fn mount_by_proc(fd: BorrowedFd<'_>) -> Option<MountId> {
    let path = format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The number is in one of the first lines.
    let mut start = [0; 256];
    let length = rustix::io::read(&file, &mut start).ok()?;
    let number = str::from_utf8(&start[..length]).ok()?.split("mnt_id:").nth(1)?;
    number.lines().next()?.trim().parse().ok()
}

/// Where a descriptor lies in the mount namespace that it was opened in.
pub(crate) fn path_of(fd: &OwnedFd) -> Option<PathBuf> {
    let path = rustix::fs::readlink(crate::host::magic_link(fd.as_fd()), Vec::new()).ok()?;
    Some(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_lies_in_a_mount_of_the_table() {
        let table = MountTable::read(&crate::watch::own_mounts().unwrap());
        let proc = std::fs::File::open("/proc/thread-self").unwrap();
        assert_eq!(mount_of(proc.as_fd()), mount_by_proc(proc.as_fd()));
        let mount = table.get(mount_of(proc.as_fd()).unwrap()).unwrap();
        assert_eq!((mount.file_system.as_str(), mount.point.as_path()), ("proc", "/proc".as_ref()));
    }
}
