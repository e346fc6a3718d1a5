//! The files of a cgroup, by its directory. A cgroup file system has no symlinks, and none would be followed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, open};
use vfsrun_sys::beneath;

/// A hierarchy or a cgroup in it, by its path on the host, without rights to its contents.
pub(crate) fn open_place(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

pub(crate) fn open_directory(directory: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    beneath::open(directory, path, OFlags::PATH | OFlags::DIRECTORY)
}

pub(crate) fn write(directory: impl AsFd, file: &str, text: &str) -> io::Result<()> {
    write_open(&open_to_write(directory, file)?, text)
}

pub(crate) fn open_to_write(directory: impl AsFd, file: &str) -> io::Result<OwnedFd> {
    beneath::open(directory, Path::new(file), OFlags::WRONLY)
}

/// The kernel takes a text as one, or not at all.
pub(crate) fn write_open(file: &OwnedFd, text: &str) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(file, text.as_bytes()))?;
    Ok(())
}

pub(crate) fn read(directory: impl AsFd, file: &str) -> io::Result<String> {
    let file = beneath::open(directory, Path::new(file), OFlags::RDONLY)?;
    let mut text = Vec::new();
    // Most are short.
    let mut part = [0; 4096];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut part))? {
            0 => break,
            length => text.extend_from_slice(&part[..length]),
        }
    }
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Names of the cgroups in it.
pub(crate) fn children(directory: impl AsFd) -> io::Result<Vec<PathBuf>> {
    // `.`, and its name in its parent; a child has a `..`.
    if fstat(&directory)?.st_nlink <= 2 {
        return Ok(Vec::new());
    }
    let listed = beneath::open(directory, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(PathBuf::from(OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(names)
}

/// A file or cgroup that is gone, or goes.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NODEV))
}
