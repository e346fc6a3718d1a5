//! The view as a file system: each kernel request is one question to a segment. What the view server answers is cached for
//! ever, what a bare mount answers not at all.

mod adapter;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackingId, FileAttr, INodeNo};
use vfsrun_trace::Mode;
use vfsrun_union::describe::Passthrough;
use vfsrun_union::{Attr, DirEntry, Errno, FileKind, Glimpse, Lookups, Node};

pub use self::adapter::Adapter;
use crate::attributes::{file_attr, view_root};
use crate::bare::Bare;
use crate::entry::{Device, Entry};
use crate::errands::{Errands, Subject};
use crate::keeper::Keeper;
use crate::listings::{Listing, Listings};
use crate::meter::Meter;
use crate::nodes::{NodeTable, Place};
use crate::open_files::{OpenFile, OpenFiles};
use crate::passed_files::{Opened, PassedFiles};
use crate::registry::{Live, Registry};
use crate::sides::Side;
use crate::trace::Recorder;
use crate::walks::Walks;

/// What the kernel keeps as long as it likes. Less than the largest number of seconds: the kernel adds it to its clock.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// So many new names are worth a look at what could go.
const TRIM_EACH: usize = 4096;

/// What lies at the root of the mount.
pub enum Top {
    /// A directory per segment, of which clients get mounts.
    Segments { registry: Arc<Registry>, keeper: Keeper, side: Side },
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
    /// `None`: the kernel is not asked to read by itself.
    pub passed: Option<Arc<PassedFiles>>,
    pub listings: Arc<Listings>,
    pub walks: Walks,
    pub device: Arc<Device>,
    /// What the kernel asks is recorded.
    pub trace: Option<Arc<Recorder>>,
    /// Who asks where it is slow.
    pub errands: Arc<Errands>,
}

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

    /// Whether this mount serves the segment.
    fn is_here(&self, live: &Live) -> bool {
        matches!(&self.top, Top::Segments { side, .. } if *side == live.side)
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
            return self.look_up_in(&dir, &dir.live.segment.lookups(&dir.node), name, None);
        };
        let live = registry.by_name(name).filter(|live| self.is_here(live)).ok_or(Errno::NOENT)?;
        let node = live.segment.root();
        let attr = live.segment.as_shown(live.segment.attr(&node)?);
        Ok(Told { place: Place { live, node }, attr })
    }

    /// `lookups` are those in `dir`, `glimpse` is what the name was a moment ago.
    fn look_up_in(
        &self,
        dir: &Place,
        lookups: &Lookups<'_>,
        name: &OsStr,
        glimpse: Option<Glimpse>,
    ) -> Result<Told, Errno> {
        self.refuse_too_many(&dir.live, &dir.node, name)?;
        let (node, attr) = match glimpse {
            Some(glimpse) => lookups.give_out(name, glimpse)?,
            None => lookups.lookup(name)?,
        };
        let live = dir.live.clone();
        let attr = live.segment.as_shown(attr);
        Ok(Told { place: Place { live, node }, attr })
    }

    /// Many names make segments go that nobody uses; too many are an error.
    fn refuse_too_many(&self, live: &Live, dir: &Node, name: &OsStr) -> Result<(), Errno> {
        let count = self.nodes.count();
        if let Top::Segments { registry, keeper, .. } = &self.top
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

    /// Whether the kernel asks at each open.
    fn is_asked_to_open(&self) -> bool {
        self.is_bare()
            || self.trace.is_some()
            || self.passed.as_ref().is_some_and(|passed| passed.is_granted())
    }

    /// Opens the node's file to be passed through; `pass` tells the kernel. `None`: its content is asked for, at each open
    /// of the node.
    fn pass(
        &self,
        nodeid: INodeNo,
        pass: impl FnOnce(OwnedFd) -> io::Result<BackingId>,
    ) -> Option<Opened<BackingId>> {
        let passed = self.passed.as_ref().filter(|passed| passed.is_granted())?;
        let place = self.place(nodeid).ok()?;
        let (segment, node) = (&place.live.segment, &place.node);
        // What is live in an action is looked at after each read, and nobody waits for what is slow without a deadline.
        let may_change = !self.is_bare() && !segment.is_fixed(node);
        if may_change
            || segment.passthrough() == Passthrough::Never
            || self.slow_question(nodeid, None).is_some()
        {
            return None;
        }
        Some(passed.open(nodeid.0, || {
            let file = segment.open(node).ok()?;
            pass(file)
                .inspect_err(|error| tracing::debug!(?node, %error, "a file is not passed through"))
                .ok()
        }))
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
            let entry = |live: Arc<Live>| DirEntry {
                name: live.name.clone().into(),
                kind: FileKind::Directory,
                ino: live.segment.root().ino(),
            };
            let names: Vec<_> =
                registry.all().into_iter().filter(|live| self.is_here(live)).map(entry).collect();
            return Ok((names.into(), INodeNo::ROOT.0));
        }
        let place = self.place(nodeid)?;
        let list = || Ok(place.live.segment.list(&place.node)?.into());
        let listing = self.listings.get(nodeid.0, offset, list)?;
        Ok((listing, above(&place.node)))
    }

    /// Says each entry from `offset` on to `add`, until it answers that there is no more room. Returns how far it came.
    fn for_each_entry(
        &self,
        nodeid: INodeNo,
        offset: u64,
        (listing, above): Listed,
        mut add: impl FnMut(u64, Name<'_>) -> bool,
    ) -> Reached {
        let dots = [Name::Dot(nodeid.0, "."), Name::Dot(above, "..")];
        let names = dots.into_iter().chain(listing.iter().map(Name::Entry));
        let mut told = false;
        for (index, name) in names.enumerate().skip(offset as usize) {
            if add(index as u64 + 1, name) {
                self.listings.keep(nodeid.0, &listing);
                return Reached::Before(index as u64);
            }
            told = true;
        }
        // The reader comes once more to be told that there is nothing more.
        if told {
            self.listings.keep(nodeid.0, &listing);
            Reached::Last
        } else {
            self.listings.drop_kept(nodeid.0);
            Reached::Nothing
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

    fn forget_node(&self, nodeid: INodeNo, lookups: u64) {
        if self.nodes.forget(nodeid.0, lookups) {
            self.files.close(nodeid.0);
            self.listings.drop_kept(nodeid.0);
            if let Some(passed) = &self.passed {
                passed.forget(nodeid.0);
            }
        }
    }
}

/// What the kernel is told of a name.
struct Told {
    place: Place,
    attr: Attr,
}

/// A listing, and the number of the directory above.
type Listed = (Listing, u64);

/// How far a reader of a listing has come.
enum Reached {
    /// There was no room for the entry at this offset.
    Before(u64),
    Last,
    /// He knew them all.
    Nothing,
}

fn above(node: &Node) -> u64 {
    node.parent().map_or(INodeNo::ROOT.0, |parent| parent.ino())
}

fn open_file(Place { live, node }: &Place) -> Result<OpenFile, Errno> {
    OpenFile::new(live.segment.open(node)?, live.segment.attr(node)?)
}

/// A line of a listing.
#[derive(Clone, Copy)]
enum Name<'a> {
    Dot(u64, &'static str),
    Entry(&'a DirEntry),
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
