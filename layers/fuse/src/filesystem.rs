//! The view as a file system: each kernel request is one question to a segment. What the view server answers is cached for
//! ever, what a bare mount answers not at all.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    AccessFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request, RequestId,
};
use vfsrun_trace::{Mode, Outcome};
use vfsrun_union::{Attr, DirEntry, Errno, FileKind, Lookups, Node, Space};

use crate::attributes::{file_attr, file_type, missing, view_root};
use crate::bare::Bare;
use crate::entry::{Device, Entries, Entry};
use crate::errands::{Errands, Subject};
use crate::keeper::Keeper;
use crate::listings::Listings;
use crate::meter::{Kind, Meter};
use crate::nodes::{NodeTable, Place};
use crate::open_files::{OpenFile, OpenFiles};
use crate::registry::{Live, Registry};
use crate::trace::Recorder;

/// What the kernel keeps as long as it likes. Less than the largest number of seconds: the kernel adds it to its clock.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// So many new names are worth a look at what could go.
const TRIM_EACH: usize = 4096;

/// What lies at the root of the mount.
pub enum Top {
    /// A directory per segment, of which clients get mounts.
    Segments { registry: Arc<Registry>, keeper: Keeper },
    /// One segment itself, for people to look at.
    Bare(Arc<Bare>),
}

/// Shared by the threads that serve the kernel.
pub struct ViewFs {
    /// Whether this mount has extended attributes. The kernel remembers once for all that one has none.
    pub xattrs: bool,
    pub top: Top,
    /// The kernel is not told of more names at once.
    pub most_nodes: usize,
    pub nodes: Arc<NodeTable>,
    pub meter: Arc<Meter>,
    pub files: Arc<OpenFiles>,
    pub listings: Arc<Listings>,
    pub device: Arc<Device>,
    /// What the kernel asks is recorded.
    pub trace: Option<Arc<Recorder>>,
    /// Who asks where it is slow.
    pub errands: Arc<Errands>,
}

/// What the kernel talks to.
pub struct Adapter(pub Arc<ViewFs>);

/// A question to a slow file system: about a name in a directory, or about a node.
struct Question {
    place: Place,
    name: Option<OsString>,
}

impl ViewFs {
    /// How long the kernel may keep what it is told.
    fn keep(&self) -> Duration {
        if self.is_asked_each_time() { Duration::ZERO } else { FOR_EVER }
    }

    fn is_asked_each_time(&self) -> bool {
        // Nobody tells the kernel when what lies behind a bare mount has changed.
        self.is_bare() || self.trace.as_ref().is_some_and(|trace| trace.mode() == Mode::Process)
    }

    /// For the trace: who looked up what, and what came of it. Not at the top, which no action sees.
    fn record_lookup(&self, pid: u32, parent: INodeNo, name: &OsStr, told: &Result<Told, Errno>) {
        if let Some(trace) = &self.trace
            && let Some(dir) = self.nodes.get(parent.0)
        {
            let has_names = |told: &&Told| told.attr.nlink > 1 && told.attr.kind == FileKind::Regular;
            let named = told.as_ref().ok().filter(has_names).map(|told| &*told.place.node);
            let attr = told.as_ref().map(|told| &told.attr);
            trace.looked_up(pid, (&dir.node, name), attr, named);
        }
    }

    /// For the trace: what a request was told of a node.
    fn record(&self, nodeid: INodeNo, tell: impl FnOnce(&Recorder, &Node)) {
        if let Some(trace) = &self.trace
            && let Some(place) = self.nodes.get(nodeid.0)
        {
            tell(trace, &place.node);
        }
    }

    /// What `nodeid` stands for. Never the list of segments.
    fn place(&self, nodeid: INodeNo) -> Result<Place, Errno> {
        match &self.top {
            Top::Bare(bare) if nodeid == INodeNo::ROOT => Ok(bare.root()),
            _ => self.nodes.get(nodeid.0).ok_or(Errno::STALE),
        }
    }

    /// The registry whose segments `nodeid` is the list of.
    fn list_of_segments(&self, nodeid: INodeNo) -> Option<&Registry> {
        match &self.top {
            Top::Segments { registry, .. } if nodeid == INodeNo::ROOT => Some(registry),
            _ => None,
        }
    }

    fn is_bare(&self) -> bool {
        matches!(self.top, Top::Bare(_))
    }

    /// A branch may lead back into a bare mount by a link of the host: a thread of this process would wait for another one,
    /// and when all do, not even killing the process helps.
    fn refuse_own(&self, pid: u32) -> Result<(), Errno> {
        let is_own = || Path::new("/proc/self/task").join(pid.to_string()).exists();
        if self.is_bare() && is_own() { Err(Errno::LOOP) } else { Ok(()) }
    }

    /// What the question is where asking may be slow.
    fn slow_question(&self, nodeid: INodeNo, name: Option<&OsStr>) -> Option<Question> {
        if !self.errands.are_needed() {
            return None;
        }
        let (place, name) = match (self.list_of_segments(nodeid), name) {
            (Some(registry), Some(name)) => {
                let live = registry.by_name(name)?;
                (Place { node: live.segment.root(), live }, None)
            }
            (Some(_), None) => return None,
            (None, name) => (self.place(nodeid).ok()?, name),
        };
        let (segment, node) = (&place.live.segment, &place.node);
        let is_slow = match name {
            Some(_) => segment.may_wait(node),
            None => segment.may_wait(node.parent().unwrap_or(node)) || segment.may_wait(node),
        };
        is_slow.then(|| Question { name: name.map(OsStr::to_owned), place })
    }

    /// Has `work` done by an errand; `tell` says to the kernel what came of it.
    fn hand<T: Send + 'static>(
        self: &Arc<ViewFs>,
        Question { place, name }: Question,
        work: impl FnOnce(&ViewFs) -> Result<T, Errno> + Send + 'static,
        tell: impl FnOnce(&ViewFs, Result<T, Errno>) + Send + 'static,
    ) {
        let (worker, teller) = (Arc::clone(self), Arc::clone(self));
        let errand = place.live.errand();
        self.errands.hand(
            errand,
            move || work(&worker),
            move |found| {
                let Place { live, node } = &place;
                let refused = || match live.is_deserted() {
                    // Nobody is told, so nobody was told wrong.
                    true => Errno::IO,
                    false => live.segment.refuse_waiting(node, name.as_deref()),
                };
                tell(&teller, found.unwrap_or_else(|| Err(refused())));
            },
        );
    }

    /// Does `work` about the node here, or has it done by an errand.
    fn ask<T: Send + 'static>(
        self: &Arc<ViewFs>,
        nodeid: INodeNo,
        work: impl FnOnce(&ViewFs) -> Result<T, Errno> + Send + 'static,
        tell: impl FnOnce(&ViewFs, Result<T, Errno>) + Send + 'static,
    ) {
        match self.slow_question(nodeid, None) {
            Some(question) => self.hand(question, work, tell),
            None => tell(self, work(self)),
        }
    }

    /// The kernel is to be told and the place remembered, or neither.
    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<Told, Errno> {
        let Some(registry) = self.list_of_segments(parent) else {
            let dir = self.place(parent)?;
            return self.look_up_in(&dir, &dir.live.segment.lookups(&dir.node), name);
        };
        let here = |live: &Arc<Live>| live.segment.needs_xattrs() == self.xattrs;
        let live = registry.by_name(name).filter(here).ok_or(Errno::NOENT)?;
        let node = live.segment.root();
        let attr = live.segment.as_shown(live.segment.attr(&node)?);
        Ok(Told { place: Place { live, node }, attr })
    }

    /// `lookups` are those in `dir`.
    fn look_up_in(&self, dir: &Place, lookups: &Lookups<'_>, name: &OsStr) -> Result<Told, Errno> {
        self.refuse_too_many(&dir.live, &dir.node, name)?;
        let (node, attr) = lookups.lookup(name)?;
        let live = dir.live.clone();
        let attr = live.segment.as_shown(attr);
        Ok(Told { place: Place { live, node }, attr })
    }

    /// Many names make segments go that nobody uses; too many are an error.
    fn refuse_too_many(&self, live: &Live, dir: &Node, name: &OsStr) -> Result<(), Errno> {
        let count = self.nodes.count();
        if let Top::Segments { registry, keeper } = &self.top
            && count > registry.warmth.nodes
            && count.is_multiple_of(TRIM_EACH)
        {
            keeper.wake();
        }
        if count < self.most_nodes {
            Ok(())
        } else {
            Err(live.segment.refuse_full(dir, name, self.most_nodes))
        }
    }

    fn attributes(&self, nodeid: INodeNo) -> Result<FileAttr, Errno> {
        if self.list_of_segments(nodeid).is_some() {
            return Ok(view_root());
        }
        let Place { live, node } = self.place(nodeid)?;
        Ok(file_attr(&live.segment.as_shown(live.segment.attr(&node)?)))
    }

    fn read_at(&self, nodeid: INodeNo, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let place = self.place(nodeid)?;
        match self.read_place(nodeid, &place, offset, buffer) {
            // The kernel of a bare mount keeps no pages of what has changed: it asked before it read.
            Ok(None) if self.is_bare() => {
                self.files.close(nodeid.0);
                self.read_place(nodeid, &place, offset, buffer)?
            }
            other => other?,
        }
        .ok_or_else(|| self.refuse_torn(nodeid, &place))
    }

    /// `None` if the file is not what the kernel was told.
    fn read_place(
        &self,
        nodeid: INodeNo,
        place: &Place,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Errno> {
        let file = self.files.get(nodeid.0, || open_file(place))?;
        self.read_file(nodeid, place, &file, offset, buffer)
    }

    fn read_file(
        &self,
        nodeid: INodeNo,
        place: &Place,
        file: &OpenFile,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Errno> {
        let segment = &place.live.segment;
        let attr = || segment.attr(&place.node);
        let length = read_fully(file.as_fd(), offset, buffer)?;
        // Opened again, because of a blob the attributes cannot tell that it was written to.
        let told_now = || segment.open(&place.node).and_then(|_| attr());
        match file.is_unchanged(told_now) {
            Ok(true) => Ok(Some(length)),
            Ok(false) => Ok(None),
            Err(error) => {
                if error == Errno::IO {
                    self.files.tear(nodeid.0);
                }
                Err(error)
            }
        }
    }

    /// By an errand, whose files are its own: one is opened for each read.
    fn read_alone(&self, nodeid: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let place = self.place(nodeid)?;
        let file = self.files.get_alone(nodeid.0, || open_file(&place))?;
        let mut buffer = vec![0; size as usize];
        let length = self.read_file(nodeid, &place, &file, offset, &mut buffer)?;
        buffer.truncate(length.ok_or_else(|| self.refuse_torn(nodeid, &place))?);
        Ok(buffer)
    }

    /// The page would be kept for ever, and would be torn.
    fn refuse_torn(&self, nodeid: INodeNo, place: &Place) -> Errno {
        self.files.tear(nodeid.0);
        place.live.segment.refuse_changed(&place.node)
    }

    /// The names of a directory without `.` and `..`, and the number of the directory above it.
    fn list(&self, nodeid: INodeNo, offset: u64) -> Result<Listed, Errno> {
        if let Some(registry) = self.list_of_segments(nodeid) {
            let here = |live: &Arc<Live>| live.segment.needs_xattrs() == self.xattrs;
            let entry = |live: Arc<Live>| DirEntry {
                name: live.name.clone().into(),
                kind: FileKind::Directory,
                ino: live.segment.root().ino(),
            };
            let names: Vec<_> = registry.all().into_iter().filter(here).map(entry).collect();
            return Ok((names.into(), INodeNo::ROOT.0));
        }
        let Place { live, node } = self.place(nodeid)?;
        let listing = self.listings.get(nodeid.0, offset, || live.segment.list(&node))?;
        Ok((listing, node.parent().map_or(INodeNo::ROOT.0, |parent| parent.ino())))
    }

    /// Says each entry from `offset` on to `add`, until it answers that there is no more room.
    fn for_each_entry(
        &self,
        nodeid: INodeNo,
        offset: u64,
        (listing, above): Listed,
        mut add: impl FnMut(u64, Name<'_>) -> bool,
    ) {
        let dots = [Name::Dot(nodeid.0, "."), Name::Dot(above, "..")];
        let names = dots.into_iter().chain(listing.iter().map(Name::Entry));
        let mut told = false;
        for (index, name) in names.enumerate().skip(offset as usize) {
            if add(index as u64 + 1, name) {
                self.listings.keep(nodeid.0, &listing);
                return;
            }
            told = true;
        }
        // The reader comes once more to be told that there is nothing more.
        if told {
            self.listings.keep(nodeid.0, &listing);
        } else {
            self.listings.drop_kept(nodeid.0);
        }
    }

    /// What goes with a listed name. The kernel asks about one that cannot be looked up when somebody uses it, and gets the
    /// error then.
    fn listed(&self, told: Result<Told, Errno>, listed: &DirEntry) -> (Entry, Option<Place>) {
        match told {
            Ok(told) => (self.entry(&told), Some(told.place)),
            Err(_) => (Entry::listed(listed.ino, listed.kind), None),
        }
    }

    fn entry(&self, told: &Told) -> Entry {
        Entry::of(&told.place.node, told.attr, self.keep())
    }

    fn xattr(&self, nodeid: INodeNo, name: &OsStr) -> Result<Vec<u8>, Errno> {
        if self.list_of_segments(nodeid).is_some() {
            return Err(Errno::NODATA);
        }
        let place = self.place(nodeid)?;
        place.live.segment.get_xattr(&place.node, name)
    }

    /// NUL after each, as listxattr(2) wants them.
    fn xattr_names(&self, nodeid: INodeNo) -> Result<Vec<u8>, Errno> {
        if self.list_of_segments(nodeid).is_some() {
            return Ok(Vec::new());
        }
        let place = self.place(nodeid)?;
        let mut joined = Vec::new();
        for name in place.live.segment.list_xattrs(&place.node)? {
            joined.extend_from_slice(name.as_bytes());
            joined.push(0);
        }
        Ok(joined)
    }

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
        entry: impl Fn(&DirEntry) -> (Entry, Option<Place>),
        reply: ReplyDirectoryPlus,
    ) {
        let mut entries = Entries::new(reply);
        let listed = match told {
            Ok(listed) => listed,
            Err(error) => return entries.refuse(errno(error)),
        };
        self.for_each_entry(nodeid, offset, listed, |next, name| match name {
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
    }

    fn forget_node(&self, nodeid: INodeNo, lookups: u64) {
        if self.nodes.forget(nodeid.0, lookups) {
            self.files.close(nodeid.0);
            self.listings.drop_kept(nodeid.0);
        }
    }
}

/// What the kernel is told of a name.
struct Told {
    place: Place,
    attr: Attr,
}

/// A listing, and the number of the directory above.
type Listed = (Arc<[DirEntry]>, u64);

fn open_file(Place { live, node }: &Place) -> Result<OpenFile, Errno> {
    OpenFile::new(live.segment.open(node)?, live.segment.attr(node)?)
}

/// A line of a listing.
#[derive(Clone, Copy)]
enum Name<'a> {
    Dot(u64, &'static str),
    Entry(&'a DirEntry),
}

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
        if self.trace.is_some() {
            self.record(nodeid, |trace, node| trace.saw(request.pid(), node, Outcome::Read));
            // What the file holds is what was told of it: pages stay true between opens.
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
        }
        if self.is_bare() {
            // What is opened now is read as it is now.
            self.files.close(nodeid.0);
            return reply.opened(FileHandle(0), FopenFlags::empty());
        }
        // Once answered so, the kernel opens and closes by itself and keeps pages between opens.
        reply.error(fuser::Errno::ENOSYS);
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
        _nodeid: INodeNo,
        _file: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _serving = self.meter.begin(Kind::Other);
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
        let _serving = self.meter.begin(Kind::Readdirplus);
        let unique = request.unique();
        if let Some(question) = self.slow_question(nodeid, None) {
            // One slow name does not keep the others.
            let work = move |view: &ViewFs| view.list(nodeid, offset);
            return self.hand(question, work, move |view, told| {
                let entry = |listed: &DirEntry| (Entry::listed(listed.ino, listed.kind), None);
                view.tell_listed_plus(unique, (nodeid, offset), told, entry, reply);
            });
        }
        let dir = self.list_of_segments(nodeid).is_none().then(|| self.place(nodeid));
        let dir = match dir.transpose() {
            Ok(dir) => dir,
            Err(error) => return reply.error(errno(error)),
        };
        let lookups = dir.as_ref().map(|dir| (dir, dir.live.segment.lookups(&dir.node)));
        let look_up = |name: &OsStr| match &lookups {
            Some((dir, lookups)) => self.look_up_in(dir, lookups, name),
            None => self.look_up(nodeid, name),
        };
        let listed = |listed: &DirEntry| self.listed(look_up(&listed.name), listed);
        self.tell_listed_plus(unique, (nodeid, offset), self.list(nodeid, offset), listed, reply);
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

/// Size 0 asks how large the answer is.
fn answer_xattr(outcome: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match outcome {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

/// Less than asked for only at the end of the file: the kernel would fill the rest with zeroes.
fn read_fully(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
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
