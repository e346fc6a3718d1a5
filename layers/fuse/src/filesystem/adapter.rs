//! What the kernel asks, through fuser, and what it is told.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use fuser::{
    AccessFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request, RequestId,
};
use vfsrun_trace::Outcome;
use vfsrun_union::{DirEntry, Errno, Space};

use super::{Listed, Name, Reached, Told, ViewFs, above};
use crate::attributes::{file_type, missing};
use crate::entry::{Entries, Entry};
use crate::meter::Kind;
use crate::nodes::Place;
use crate::passed_files::STACK_DEPTH;
use crate::walks::{Ahead, Next};

/// What the kernel talks to.
pub struct Adapter(pub Arc<ViewFs>);

impl Deref for Adapter {
    type Target = Arc<ViewFs>;

    fn deref(&self) -> &Arc<ViewFs> {
        &self.0
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted =
            InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_MAX_PAGES;
        // Listings with attributes would answer look-ups that nobody made, and those of a bare mount expire at once.
        if self.trace.is_none() && !self.is_bare() {
            wanted |= InitFlags::FUSE_DO_READDIRPLUS;
        }
        if self.is_bare() {
            // Pages go when the attributes say that the file has changed.
            wanted |= InitFlags::FUSE_AUTO_INVAL_DATA;
        } else {
            wanted |= InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        }
        if self.trace.is_none() && !self.is_bare() {
            wanted |= InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        if !self.is_asked_each_time() {
            wanted |= InitFlags::FUSE_CACHE_SYMLINKS;
        }
        if let Some(passed) = &self.passed
            && config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH)
        {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
            config.set_max_stack_depth(STACK_DEPTH).map_err(|_| io::ErrorKind::InvalidInput)?;
            passed.grant();
        }
        let wanted = if self.xattrs { wanted | InitFlags::FUSE_POSIX_ACL } else { wanted };
        let offered = config.capabilities();
        config.add_capabilities(wanted & offered).expect("only what is offered is asked for");
        // Read-ahead of several files at once.
        config.set_max_background(64).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _serving = self.meter.begin(Kind::Lookup);
        let asker = (request.unique(), request.pid());
        if let Err(error) = self.refuse_own(asker.1) {
            return reply.error(errno(error));
        }
        let Some(question) = self.slow_question(parent, Some(name)) else {
            return self.tell_looked_up(asker, (parent, name), self.look_up(parent, name), reply);
        };
        let (name, asked) = (name.to_owned(), name.to_owned());
        self.hand(
            question,
            move |view| view.look_up(parent, &asked),
            move |view, told| view.tell_looked_up(asker, (parent, &name), told, reply),
        );
    }

    fn forget(&self, _request: &Request, nodeid: INodeNo, lookups: u64) {
        let _serving = self.meter.begin(Kind::Forget);
        self.forget_node(nodeid, lookups);
    }

    fn getattr(&self, request: &Request, nodeid: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        let _serving = self.meter.begin(Kind::Getattr);
        let pid = request.pid();
        if let Err(error) = self.refuse_own(pid) {
            return reply.error(errno(error));
        }
        let tell = move |view: &ViewFs, told: Result<FileAttr, Errno>| match told {
            Ok(attr) => {
                view.record(nodeid, |trace, node| trace.told(pid, node));
                reply.attr(&view.keep(), &attr);
            }
            Err(error) => reply.error(errno(error)),
        };
        self.ask(nodeid, move |view| view.attributes(nodeid), tell);
    }

    fn readlink(&self, request: &Request, nodeid: INodeNo, reply: ReplyData) {
        let _serving = self.meter.begin(Kind::Readlink);
        let pid = request.pid();
        let work = move |view: &ViewFs| {
            let place = view.place(nodeid)?;
            place.live.segment.read_link(&place.node)
        };
        let tell = move |view: &ViewFs, told: Result<Vec<u8>, Errno>| match told {
            Ok(target) => {
                view.record(nodeid, |trace, node| trace.saw(pid, node, Outcome::Link(target.clone())));
                reply.data(&target);
            }
            Err(error) => reply.error(errno(error)),
        };
        self.ask(nodeid, work, tell);
    }

    fn open(&self, request: &Request, nodeid: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _serving = self.meter.begin(Kind::Open);
        if !self.is_asked_to_open() {
            // Once answered so, the kernel opens and closes by itself and keeps pages between opens.
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.record(nodeid, |trace, node| trace.saw(request.pid(), node, Outcome::Read));
        let opened = self.pass(nodeid, |file| reply.open_backing(file));
        let entry = FileHandle(opened.as_ref().map_or(0, |opened| opened.entry));
        if let Some(backing) = opened.and_then(|opened| opened.backing) {
            return reply.opened_passthrough(entry, FopenFlags::FOPEN_NOFLUSH, &backing);
        }
        let flags = if self.is_bare() {
            // What is opened now is read as it is now.
            self.files.close(nodeid.0);
            FopenFlags::empty()
        } else {
            // What the file holds is what was told of it: pages stay true between opens.
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
        };
        reply.opened(entry, flags);
    }

    fn opendir(&self, _request: &Request, _nodeid: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _serving = self.meter.begin(Kind::Open);
        if self.trace.is_some() || self.is_bare() {
            return reply.opened(FileHandle(0), FopenFlags::empty());
        }
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        nodeid: INodeNo,
        entry: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _serving = self.meter.begin(Kind::Other);
        if let Some(passed) = &self.passed {
            passed.close(nodeid.0, entry.0);
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _nodeid: INodeNo,
        _file: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _serving = self.meter.begin(Kind::Other);
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        nodeid: INodeNo,
        _file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let _serving = self.meter.begin(Kind::Read);
        if let Some(question) = self.slow_question(nodeid, None) {
            let work = move |view: &ViewFs| view.read_alone(nodeid, offset, size);
            return self.hand(question, work, move |view, told| {
                view.tell_read(told.as_deref().map_err(|error| *error), reply);
            });
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            let told = self.read_at(nodeid, offset, &mut buffer[..size as usize]);
            self.tell_read(told.map(|length| &buffer[..length]), reply);
        });
    }

    fn readdir(
        &self,
        request: &Request,
        nodeid: INodeNo,
        _file: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _serving = self.meter.begin(Kind::Readdir);
        let pid = request.pid();
        let tell = move |view: &ViewFs, told: Result<Listed, Errno>| {
            let listed = match told {
                Ok(listed) => listed,
                Err(error) => return reply.error(errno(error)),
            };
            view.for_each_entry(nodeid, offset, listed, |next, name| match name {
                Name::Dot(ino, dots) => reply.add(INodeNo(ino), next, FileType::Directory, dots),
                Name::Entry(entry) => {
                    reply.add(INodeNo(entry.ino), next, file_type(entry.kind), entry.name.as_os_str())
                }
            });
            view.record(nodeid, |trace, node| trace.saw(pid, node, Outcome::Listed));
            reply.ok();
        };
        self.ask(nodeid, move |view| view.list(nodeid, offset), tell);
    }

    fn readdirplus(
        &self,
        request: &Request,
        nodeid: INodeNo,
        _file: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let serving = self.meter.begin(Kind::Readdirplus);
        let unique = request.unique();
        if let Some(question) = self.slow_question(nodeid, None) {
            // One slow name does not keep the others.
            let work = move |view: &ViewFs| view.list(nodeid, offset);
            return self.hand(question, work, move |view, told| {
                let entry = |listed: &DirEntry| (Entry::listed(listed.ino, listed.kind), None);
                view.tell_listed_plus(unique, (nodeid, offset), told, entry, reply);
            });
        }
        if self.list_of_segments(nodeid).is_some() {
            let entry = |listed: &DirEntry| self.listed(self.look_up(nodeid, &listed.name), listed);
            self.tell_listed_plus(unique, (nodeid, offset), self.list(nodeid, offset), entry, reply);
            return;
        }
        let place = match self.place(nodeid) {
            Ok(place) => place,
            Err(error) => return reply.error(errno(error)),
        };
        let (told, mut glimpses) = match self.walks.take(&place, offset) {
            Some(Ahead { listing, glimpses }) => {
                self.meter.was_ahead();
                (Ok((listing, above(&place.node))), glimpses)
            }
            None => (self.list(nodeid, offset), VecDeque::new()),
        };
        let listing = told.as_ref().ok().map(|(listing, _)| listing.clone());
        let lookups = place.live.segment.lookups(&place.node);
        let entry = |listed: &DirEntry| {
            let glimpse = glimpses.pop_front().flatten();
            self.listed(self.look_up_in(&place, &lookups, &listed.name, glimpse), listed)
        };
        let reached = self.tell_listed_plus(unique, (nodeid, offset), told, entry, reply);
        drop((lookups, serving));
        if let Some(listing) = listing {
            let next = match reached {
                Reached::Before(offset) => Some(Next { place, offset, listing: Some(listing) }),
                Reached::Last => self.walks.listed(&place, &listing),
                Reached::Nothing => None,
            };
            next.into_iter().for_each(|next| self.walks.prepare(next));
        }
    }

    fn statfs(&self, _request: &Request, _nodeid: INodeNo, reply: ReplyStatfs) {
        let _serving = self.meter.begin(Kind::Statfs);
        let tell = |Space { total, free, available, files, free_files }| {
            const BLOCK: u32 = 4096;
            const LONGEST_NAME: u32 = 255;
            let [blocks, free, available] = [total, free, available].map(|bytes| bytes / u64::from(BLOCK));
            reply.statfs(blocks, free, available, files, free_files, BLOCK, LONGEST_NAME, BLOCK);
        };
        // What a segment lies on is nothing to an action, whose own answer is the upper's.
        if !self.is_bare() {
            return tell(Space::default());
        }
        let work = |view: &ViewFs| Ok(view.place(INodeNo::ROOT)?.live.segment.space());
        // One that does not answer counts nothing.
        self.ask(INodeNo::ROOT, work, move |_, told| tell(told.unwrap_or_default()));
    }

    fn getxattr(&self, _request: &Request, nodeid: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _serving = self.meter.begin(Kind::Xattr);
        if !self.xattrs {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let name = name.to_owned();
        let work = move |view: &ViewFs| view.xattr(nodeid, &name);
        self.ask(nodeid, work, move |_, told| answer_xattr(told, size, reply));
    }

    fn listxattr(&self, _request: &Request, nodeid: INodeNo, size: u32, reply: ReplyXattr) {
        let _serving = self.meter.begin(Kind::Xattr);
        if !self.xattrs {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let work = move |view: &ViewFs| view.xattr_names(nodeid);
        self.ask(nodeid, work, move |_, told| answer_xattr(told, size, reply));
    }

    fn flush(
        &self,
        _request: &Request,
        _nodeid: INodeNo,
        _file: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _serving = self.meter.begin(Kind::Other);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn access(&self, _request: &Request, _nodeid: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        let _serving = self.meter.begin(Kind::Other);
        reply.error(fuser::Errno::ENOSYS);
    }
}

impl ViewFs {
    fn tell_looked_up(
        &self,
        (request, pid): (RequestId, u32),
        (parent, name): (INodeNo, &OsStr),
        told: Result<Told, Errno>,
        reply: ReplyEntry,
    ) {
        self.record_lookup(pid, parent, name, &told);
        match told {
            Ok(told) => {
                let entry = self.entry(&told);
                self.nodes.remember(told.place);
                entry.reply(&self.device, request, reply);
            }
            // Nodeid 0: the kernel remembers that there is nothing. Not at the top, where segments come.
            Err(Errno::NOENT) if !self.is_bare() && parent != INodeNo::ROOT => {
                self.meter.found_nothing();
                reply.entry(&self.keep(), &missing(), Generation(0));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn tell_read(&self, told: Result<&[u8], Errno>, reply: ReplyData) {
        match told {
            Ok(data) => {
                self.meter.read_bytes(data.len());
                reply.data(data);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    /// `entry` is what goes with a listed name.
    fn tell_listed_plus(
        &self,
        request: RequestId,
        (nodeid, offset): (INodeNo, u64),
        told: Result<Listed, Errno>,
        mut entry: impl FnMut(&DirEntry) -> (Entry, Option<Place>),
        reply: ReplyDirectoryPlus,
    ) -> Reached {
        let mut entries = Entries::new(reply);
        let listed = match told {
            Ok(listed) => listed,
            Err(error) => {
                entries.refuse(errno(error));
                return Reached::Nothing;
            }
        };
        let reached = self.for_each_entry(nodeid, offset, listed, |next, name| match name {
            Name::Dot(ino, dots) => !entries.add(next, OsStr::new(dots), &Entry::dots(ino)),
            Name::Entry(listed) => {
                let (entry, place) = entry(listed);
                let has_room = entries.add(next, &listed.name, &entry);
                if let Some(place) = place.filter(|_| has_room) {
                    self.nodes.remember(place);
                }
                !has_room
            }
        });
        entries.reply(&self.device, request);
        reached
    }
}

/// Size 0 asks how large the answer is.
fn answer_xattr(outcome: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match outcome {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

/// The segment's errors are the kernel's numbers already, with two exceptions: what would make the kernel stop asking
/// for good, and what a file system may not answer.
fn errno(error: Errno) -> fuser::Errno {
    match error {
        // ENOSYS switches a kind of request off for the whole connection.
        Errno::NOSYS => fuser::Errno::EIO,
        // The server ran out of something; the action did not.
        Errno::MFILE | Errno::NFILE => fuser::Errno::EIO,
        error => fuser::Errno::from_i32(error.raw_os_error()),
    }
}
