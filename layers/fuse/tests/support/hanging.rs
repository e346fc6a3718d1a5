//! A file system that takes questions and does not answer them when it is told so, as a program does whose other machine is
//! gone: the kernel takes back no question that was read.

#![allow(dead_code, reason = "each test program uses its part")]

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, Request, Session, SessionACL,
};
use nix::mount::{MntFlags, umount2};

pub const CONTENT: &str = "content";

/// `file`, `link` to it, `dir/inside`, and every name of `f` and a number, of which no listing tells.
const FILE: u64 = 10;
const LINK: u64 = 11;
const DIR: u64 = 12;
const INSIDE: u64 = 13;
const NUMBERED: u64 = 1000;

/// Mounted until it is dropped; what was not answered is answered then.
pub struct Hanging {
    at: PathBuf,
    waiting: Arc<Waiting>,
    _session: BackgroundSession,
}

/// What is not answered. `None`: everything is.
type Waiting = Mutex<Option<Unanswered>>;

struct Unanswered {
    which: Which,
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

/// Which questions are not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those of statfs, of which the kernel keeps no answer.
    Statfs,
}

impl Hanging {
    pub fn mount(at: &Path) -> io::Result<Hanging> {
        let waiting = Arc::new(Waiting::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        let session = Session::new(Tree(Arc::clone(&waiting)), at, &config)?.spawn()?;
        Ok(Hanging { at: at.to_owned(), waiting, _session: session })
    }

    pub fn hang(&self, which: Which) {
        *self.waiting.lock().unwrap() = Some(Unanswered { which, answers: Vec::new() });
    }

    /// How many questions wait for an answer.
    pub fn unanswered(&self) -> usize {
        self.waiting.lock().unwrap().as_ref().map_or(0, |unanswered| unanswered.answers.len())
    }

    /// First what was asked meanwhile.
    pub fn go_on(&self) {
        let waiting = self.waiting.lock().unwrap().take();
        waiting.into_iter().flat_map(|unanswered| unanswered.answers).for_each(|answer| answer());
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.go_on();
        // A warm segment holds it.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

struct Tree(Arc<Waiting>);

impl Tree {
    fn answer(&self, answer: impl FnOnce() + Send + 'static) {
        self.answer_if(Which::All, answer);
    }

    fn answer_if(&self, kind: Which, answer: impl FnOnce() + Send + 'static) {
        match &mut *self.0.lock().unwrap() {
            Some(waiting) if [Which::All, kind].contains(&waiting.which) => {
                waiting.answers.push(Box::new(answer))
            }
            _ => answer(),
        }
    }
}

fn find(parent: INodeNo, name: &OsStr) -> Option<u64> {
    match (parent.0, name.to_str()?) {
        (1, "file") => Some(FILE),
        (1, "link") => Some(LINK),
        (1, "dir") => Some(DIR),
        (DIR, "inside") => Some(INSIDE),
        (1, name) => Some(NUMBERED + name.strip_prefix('f')?.parse::<u64>().ok()?),
        _ => None,
    }
}

fn kind(ino: u64) -> FileType {
    match ino {
        1 | DIR => FileType::Directory,
        LINK => FileType::Symlink,
        _ => FileType::RegularFile,
    }
}

fn attr(ino: u64) -> FileAttr {
    let (kind, time) = (kind(ino), UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let size = if kind == FileType::Directory { 0 } else { CONTENT.len() as u64 };
    FileAttr {
        ino: INodeNo(ino),
        size: if kind == FileType::Symlink { "file".len() as u64 } else { size },
        blocks: 1,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The kernel keeps nothing and asks each time.
impl Filesystem for Tree {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = find(parent, name);
        self.answer(move || match found {
            Some(ino) => reply.entry(&Duration::ZERO, &attr(ino), Generation(0)),
            None => reply.error(fuser::Errno::ENOENT),
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(move || reply.attr(&Duration::ZERO, &attr(ino.0)));
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        self.answer(move || reply.data(b"file"));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(move || reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(move || reply.data(CONTENT.as_bytes().get(offset as usize..).unwrap_or_default()));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer(move || reply.ok());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(move || reply.ok());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.answer(move || {
            let names: &[(u64, &str)] = match ino.0 {
                1 => &[(1, "."), (1, ".."), (FILE, "file"), (LINK, "link"), (DIR, "dir")],
                _ => &[(DIR, "."), (1, ".."), (INSIDE, "inside")],
            };
            for (index, (ino, name)) in names.iter().enumerate().skip(offset as usize) {
                if reply.add(INodeNo(*ino), index as u64 + 1, kind(*ino), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.answer_if(Which::Statfs, move || reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096));
    }
}
