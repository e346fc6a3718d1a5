//! The table of mounts: which file system lies where, told without a question to any of them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use vfsrun_sys::mount_id::mount_id;

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

    /// Lines that are none are left out.
    pub(crate) fn parse(text: &[u8]) -> MountTable {
        MountTable(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
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

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5)).
fn mount(line: &[u8]) -> Option<(MountId, Mount)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = PathBuf::from(OsString::from_vec(unescaped(fields.nth(3)?)));
    fields.find(|field| *field == b"-")?;
    let file_system = String::from_utf8_lossy(fields.next()?).into_owned();
    Some((id, Mount { point, file_system }))
}

/// White space and backslashes are three octal digits after a backslash.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let digits = others.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let code = digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(code.unwrap_or(*first));
        rest = if code.is_some() { &others[3..] } else { others };
    }
    text
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
    fn a_line_says_where_which_file_system_lies() {
        let text = b"36 35 98:0 /a /with\\040space\\134x rw master:1 propagate_from:2 - fuse.sshfs me@there: rw\n\nnonsense\n";
        let table = MountTable::parse(text);
        let expected = Mount { point: "/with space\\x".into(), file_system: "fuse.sshfs".into() };
        assert_eq!(table.0, HashMap::from([(36, expected)]));
    }

    #[test]
    fn a_descriptor_lies_in_a_mount_of_the_table() {
        let table = MountTable::read(&crate::watch::own_mounts().unwrap());
        let proc = std::fs::File::open("/proc/thread-self").unwrap();
        assert_eq!(mount_of(proc.as_fd()), mount_by_proc(proc.as_fd()));
        let mount = table.get(mount_of(proc.as_fd()).unwrap()).unwrap();
        assert_eq!((mount.file_system.as_str(), mount.point.as_path()), ("proc", "/proc".as_ref()));
    }
}
