//! Calls at a directory descriptor: the few steps that every part of the store takes, each in one place.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use vfsrun_sys::fd_passing;

/// Opens the directory `name` in `dir` for reading; a symlink is refused (ELOOP or ENOTDIR).
pub fn open_dir(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name.as_ref(), flags, Mode::empty())
}

/// Opens the file `name` in `dir` for reading. Never blocks on a fifo, never follows a symlink.
pub fn open_file(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(dir, name.as_ref(), flags, Mode::empty())
}

/// As [`open_file`], without leaving an access time behind where the file is the caller's.
pub fn open_quietly(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat(&dir, name.as_ref(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => open_file(dir, name),
        other => other,
    }
}

/// Makes the file `name` in `dir`, which must not exist, and opens it for reading and writing.
pub fn create(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name.as_ref(), flags, Mode::from_raw_mode(mode))
}

/// Makes the directory `name` in `dir` unless it exists.
pub fn make_dir(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> Result<(), Errno> {
    match rustix::fs::mkdirat(dir, name.as_ref(), Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// lstat of `name` in `dir`; `None` when it does not exist.
pub fn stat(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Removes the name `name`, not a directory, from `dir`; one that is gone already is fine.
pub fn unlink(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name.as_ref(), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Gives an open file one more name in `dir`. Errors: ENOENT, too, for a file that has no name any more.
pub fn link(file: &OwnedFd, dir: impl AsFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::linkat(file, "", &dir, name, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 that takes CAP_DAC_READ_SEARCH.
        Err(Errno::NOENT) => {
            let path = fd_passing::magic_link(file.as_fd());
            rustix::fs::linkat(rustix::fs::CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        other => other,
    }
}

/// The whole content of the file `name` in `dir`, whose access time stays where that is the caller's to say.
pub fn read(dir: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::from(open_quietly(dir, name)?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in an open directory, sorted bytewise, without `.` and `..`.
pub fn names(dir: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Access and modification time both at `seconds`.`nanoseconds`.
pub fn times(seconds: i64, nanoseconds: u32) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// What a file takes on the disk, in bytes.
pub fn on_disk(stat: &Stat) -> u64 {
    // In units of 512 bytes whatever the file system's block is: stat(2).
    stat.st_blocks as u64 * 512
}
