//! A copy of what a new tmpfs covers (`tmpcopyup`): its files, with modes, owners and times of modification.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod,
    mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use vfsrun_sys::beneath;

/// How deep directories may lie in each other: the root may be hostile, and each takes a descriptor and some stack.
const DEEPEST: usize = 256;

/// Copies what lies in `from`, a directory of the root, into `to`. Links are copied and never followed. Devices and sockets
/// are left out.
pub fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let here = std::path::Path::new(".");
    copy_directory(beneath::open(from, here, OFlags::RDONLY | OFlags::DIRECTORY)?, to, DEEPEST)
}

fn copy_directory(from: OwnedFd, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(rustix::io::Errno::LOOP.into());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(&from)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    for name in names {
        let stat = statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                mkdirat(to, &name, Mode::RWXU)?;
                let (inner, made) =
                    (openat(&from, &name, flags, Mode::empty())?, openat(to, &name, flags, Mode::empty())?);
                copy_directory(inner, made.as_fd(), depth - 1)?;
                give_mode(&made, &stat)?;
            }
            FileType::RegularFile => {
                // Not waited for, should it be a fifo by now.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let mut inner = File::from(openat(&from, &name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut made = File::from(openat(to, &name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut inner, &mut made)?;
                give_mode(&made, &stat)?;
            }
            FileType::Symlink => symlinkat(readlinkat(&from, &name, Vec::new())?, to, &name)?,
            FileType::Fifo => {
                mknodat(to, &name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode & 0o7777), 0)?;
            }
            _ => continue,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(to, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
        };
        utimensat(to, &name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Permissions without set-id bits, which a change of owner would take away, and which a copy must not give.
fn give_mode(made: impl AsFd, stat: &Stat) -> io::Result<()> {
    Ok(fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o1777))?)
}
