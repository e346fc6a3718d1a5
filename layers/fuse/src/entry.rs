//! An entry: what the kernel is told of a name. It knows the node by one number and shows another where a file has several
//! names. fuser says one number for both, so such an answer is written here; what fuser says to the same request then is
//! refused by the kernel (ENOENT), which has its answer.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::time::Duration;

use fuser::{FileAttr, Generation, INodeNo, ReplyDirectoryPlus, ReplyEntry, RequestId};
use rustix::fs::FileType;
use vfsrun_union::{Attr, FileKind, Node, Time};

use crate::attributes::file_attr;

/// The device through which the kernel asks. Every thread reads and writes this one: the kernel takes an answer only where
/// the request was read.
#[derive(Default)]
pub struct Device(OnceLock<OwnedFd>);

impl Device {
    /// Before anything is asked.
    pub fn set(&self, device: OwnedFd) {
        self.0.get_or_init(|| device);
    }

    /// Whoever asked may be gone by now, and fuser does not tell either.
    fn answer(&self, request: RequestId, body: &[u8]) {
        const HEADER: usize = 16;
        let mut header = Numbers(Vec::with_capacity(HEADER));
        header.put32([(HEADER + body.len()) as u32, 0]).put64([request.0]);
        let device = self.0.get().expect("it is set before anything is asked");
        if let Err(error) = rustix::io::writev(device, &[IoSlice::new(&header.0), IoSlice::new(body)]) {
            tracing::debug!(%error, "an answer that nobody took");
        }
    }
}

/// What is told of a name.
pub struct Entry {
    /// By which the kernel knows the node from then on; 0: it asks when somebody uses the name.
    nodeid: u64,
    attr: Attr,
    keep: Duration,
}

impl Entry {
    pub fn of(node: &Node, attr: Attr, keep: Duration) -> Entry {
        Entry { nodeid: node.ino(), attr, keep }
    }

    /// `.` or `..`, of which the kernel takes the name alone.
    pub fn dots(ino: u64) -> Entry {
        Entry { nodeid: ino, ..Entry::listed(ino, FileKind::Directory) }
    }

    /// Of a listed name of which no more is told.
    pub fn listed(ino: u64, kind: FileKind) -> Entry {
        let never = Time::default();
        let attr = Attr {
            ino,
            kind,
            perm: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            blksize: 0,
            atime: never,
            mtime: never,
            ctime: never,
        };
        Entry { nodeid: 0, attr, keep: Duration::ZERO }
    }

    pub fn reply(&self, device: &Device, request: RequestId, reply: ReplyEntry) {
        if self.is_fusers() {
            return reply.entry(&self.keep, &self.for_fuser(), Generation(0));
        }
        let mut bytes = Numbers::default();
        self.put(&mut bytes);
        device.answer(request, &bytes.0);
        reply.error(fuser::Errno::EIO);
    }

    /// Whether fuser can say it.
    fn is_fusers(&self) -> bool {
        self.nodeid == self.attr.ino
    }

    fn for_fuser(&self) -> FileAttr {
        FileAttr { ino: INodeNo(self.nodeid), ..file_attr(&self.attr) }
    }

    /// As `struct fuse_entry_out` of linux/fuse.h.
    fn put(&self, bytes: &mut Numbers) {
        let Attr { ino, size, blocks, atime, mtime, ctime, nlink, uid, gid, blksize, .. } = self.attr;
        let (generation, rdev, flags) = (0, 0, 0);
        bytes.put64([self.nodeid, generation, self.keep.as_secs(), self.keep.as_secs()]);
        bytes.put32([self.keep.subsec_nanos(), self.keep.subsec_nanos()]);
        bytes.put64([ino, size, blocks]).put64([atime, mtime, ctime].map(|time| time.sec as u64));
        bytes.put32([atime, mtime, ctime].map(|time| time.nsec));
        bytes.put32([self.mode(), nlink, uid, gid, rdev, blksize, flags]);
    }

    fn mode(&self) -> u32 {
        let kind = match self.attr.kind {
            FileKind::Directory => FileType::Directory,
            FileKind::Regular => FileType::RegularFile,
            FileKind::Symlink => FileType::Symlink,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::Whiteout => FileType::CharacterDevice,
        };
        kind.as_raw_mode() | u32::from(self.attr.perm)
    }
}

/// A part of a listing with attributes. fuser, which knows how much room there is, is told all of it.
pub struct Entries {
    reply: ReplyDirectoryPlus,
    bytes: Numbers,
    is_fusers: bool,
}

/// Bytes of a listing that the kernel mostly asks for at a time.
const USUAL_ROOM: usize = 32 << 10;

impl Entries {
    pub fn new(reply: ReplyDirectoryPlus) -> Entries {
        Entries { reply, bytes: Numbers(Vec::with_capacity(USUAL_ROOM)), is_fusers: true }
    }

    /// `next` is where the listing goes on after the name. False: there is no room for it.
    pub fn add(&mut self, next: u64, name: &OsStr, entry: &Entry) -> bool {
        let (ino, attr) = (INodeNo(entry.nodeid), entry.for_fuser());
        if self.reply.add(ino, next, name, &entry.keep, &attr, Generation(0)) {
            return false;
        }
        self.is_fusers &= entry.is_fusers();
        // As `struct fuse_direntplus`: with an entry before and the name after it, padded.
        entry.put(&mut self.bytes);
        self.bytes.put64([entry.attr.ino, next]).put32([name.len() as u32, entry.mode() >> 12]);
        self.bytes.0.extend_from_slice(name.as_bytes());
        self.bytes.0.resize(self.bytes.0.len().next_multiple_of(size_of::<u64>()), 0);
        true
    }

    pub fn reply(self, device: &Device, request: RequestId) {
        if self.is_fusers {
            return self.reply.ok();
        }
        device.answer(request, &self.bytes.0);
        self.reply.error(fuser::Errno::EIO);
    }

    pub fn refuse(self, error: fuser::Errno) {
        self.reply.error(error);
    }
}

/// Numbers as the kernel of this machine reads them.
#[derive(Default)]
struct Numbers(Vec<u8>);

impl Numbers {
    fn put32<const N: usize>(&mut self, numbers: [u32; N]) -> &mut Numbers {
        numbers.iter().for_each(|number| self.0.extend_from_slice(&number.to_ne_bytes()));
        self
    }

    fn put64<const N: usize>(&mut self, numbers: [u64; N]) -> &mut Numbers {
        numbers.iter().for_each(|number| self.0.extend_from_slice(&number.to_ne_bytes()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_long_as_the_kernel_wants_it() {
        let mut bytes = Numbers::default();
        Entry::listed(42, FileKind::Regular).put(&mut bytes);
        assert_eq!(bytes.0.len(), 128);
        let ino = bytes.0[40..48].try_into().unwrap();
        assert_eq!(u64::from_ne_bytes(ino), 42);
    }
}
