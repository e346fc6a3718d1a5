//! Attributes in the kernel's form.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use vfsrun_union::{Attr, FileKind, Time};

/// What stat shows of a node.
pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: moment(attr.atime),
        mtime: moment(attr.mtime),
        ctime: moment(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // A whiteout is the character device 0:0, and no other device is shown.
        rdev: 0,
        blksize: attr.blksize,
        flags: 0,
    }
}

pub fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::Whiteout => FileType::CharDevice,
    }
}

/// The directory that holds the segments. Only the server walks through it.
pub fn view_root() -> FileAttr {
    FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Nodeid 0, which says that a name does not exist.
pub fn missing() -> FileAttr {
    FileAttr { ino: INodeNo(0), ..view_root() }
}

fn moment(time: Time) -> SystemTime {
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let nanoseconds = Duration::from_nanos(time.nsec.into());
    if time.sec >= 0 { UNIX_EPOCH + seconds + nanoseconds } else { UNIX_EPOCH - seconds + nanoseconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_keep_their_nanoseconds() {
        let shown = moment(Time { sec: -1, nsec: 250_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(shown).unwrap(), Duration::from_millis(750));
    }
}
