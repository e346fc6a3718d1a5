//! A segment: branches merged into one read-only tree. First found wins, directories merge.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::io::Errno;
use vfsrun_layers::Kind;
use vfsrun_sys::lease::{self, Writer};

use crate::attr::{Attr, DirEntry, FileKind, Time};
use crate::branch::{Branch, Content, Fds, compile};
use crate::context::Context;
use crate::describe::{Order, Passthrough, Policy, Rule, SegmentSpec, TypeConflict};
use crate::error::SegmentError;
use crate::fault::{Fault, FaultReason};
use crate::fingerprint;
use crate::hard_link::LinkedFile;
use crate::host;
use crate::identity::Described;
use crate::inputs::Input;
use crate::layer::{Blobs, open_blob};
use crate::mend::Forget;
use crate::merge::{Found, Merge};
use crate::moment::Clock;
use crate::names::NameIndexes;
use crate::node::{Interned, Key, NewNode, Node, NodeTable, Served};
use crate::origin::{BranchIndex, Origin, Place};
use crate::owners::Owners;
use crate::priority::KnownRivals;
use crate::resolve::{Asked, Candidate, Dirs, ViewLinks};
use crate::rules::Rules;
use crate::slow::Slowness;
use crate::sweep::Thoroughness;
use crate::visits::Visits;
use crate::watch::Watches;

/// Further faults are dropped: the first ones say what is wrong, and memory is bounded.
const MAX_FAULTS: usize = 256;

/// Send and Sync; every call works on descriptors of its own, and none waits for another but for a moment.
pub struct Segment {
    pub(crate) branches: Vec<Branch>,
    pub(crate) rules: Rules,
    /// Whether rules see paths.
    pub(crate) has_rules: bool,
    /// Whether what they say may change while the directory stays as it is.
    pub(crate) looks_closer: bool,
    pub(crate) has_priorities: bool,
    pub(crate) known_rivals: KnownRivals,
    pub(crate) name_indexes: NameIndexes,
    pub(crate) types: TypeConflict,
    pub(crate) policy: Policy,
    pub(crate) order: Order,
    latest: Option<Time>,
    pub(crate) owners: Owners,
    pub(crate) table: Arc<NodeTable>,
    pub(crate) watches: Arc<Watches>,
    /// The changes of the table of mounts that all nodes have been looked at after.
    pub(crate) swept: AtomicU64,
    pub(crate) looked_at: AtomicUsize,
    pub(crate) compared: AtomicU64,
    pub(crate) provenance: bool,
    marked: bool,
    bottom: bool,
    passthrough: Passthrough,
    pub(crate) slowness: Slowness,
    deadline: Duration,
    clock: Arc<Clock>,
    root: OnceLock<Arc<Node>>,
    changed: AtomicBool,
    pub(crate) visits: Visits,
    faults: Mutex<Vec<Fault>>,
}

impl Segment {
    /// Opens what is described. Errors: a bad description, branch root, layer, input manifest or pattern.
    pub fn build(described: Described, context: &Context) -> Result<Segment, SegmentError> {
        let Described { spec, fds, manifests } = described;
        let (slowness, deadline) = (context.slowness(&spec, &fds), spec.deadline());
        let count = spec.branches.len();
        if BranchIndex::try_from(count).is_err() {
            return Err(SegmentError::TooManyBranches { count });
        }
        host::verify_proc().map_err(|source| SegmentError::Proc { source })?;
        let fds = Fds::new(fds, manifests);
        let judged = may_be_opaque(&spec);
        let polled = context.mount_table();
        let branches = spec.branches.into_iter().map(|branch| Branch::new(branch, &fds, context, &polled));
        let branches = branches.collect::<Result<Vec<_>, _>>()?;
        let rules = compile(&spec.rules, || "the view".to_owned())?;
        let (watches, live) = (Arc::clone(&context.watches), branches.iter().any(|branch| branch.live));
        let any_rules = |has: &dyn Fn(&Rules) -> bool| {
            branches.iter().map(|branch| &branch.rules).chain([&rules]).any(has)
        };
        let segment = Segment {
            provenance: spec.provenance,
            has_rules: any_rules(&|rules| !rules.judge_nothing()),
            looks_closer: any_rules(&|rules| rules.look_closer),
            has_priorities: any_rules(&|rules| !rules.priorities.is_empty()),
            known_rivals: KnownRivals::default(),
            name_indexes: NameIndexes::default(),
            marked: judged || branches.iter().any(|branch| branch.has_marks(spec.bottom)),
            bottom: spec.bottom,
            passthrough: spec.passthrough,
            branches,
            rules,
            types: spec.types,
            policy: spec.policy,
            order: spec.order,
            latest: spec.latest.map(|sec| Time { sec, nsec: 0 }),
            owners: Owners::new(spec.ids, spec.unmapped).map_err(|source| SegmentError::Proc { source })?,
            table: NodeTable::new(Arc::clone(&context.inodes), Arc::clone(&watches), live),
            swept: AtomicU64::new(watches.hear()),
            looked_at: AtomicUsize::new(0),
            compared: AtomicU64::new(0),
            watches,
            slowness,
            deadline,
            clock: Arc::clone(&context.clock),
            root: OnceLock::new(),
            changed: AtomicBool::new(false),
            visits: Visits::new(Arc::clone(&context.clock)),
            faults: Mutex::default(),
        };
        segment.make_root()?;
        Ok(segment)
    }

    pub fn root(&self) -> Arc<Node> {
        Arc::clone(self.root.get().expect("build makes the root before it gives the segment out"))
    }

    /// The node of `name` in `dir`. A denied name has one too, with nothing to see but its type. Errors: NOENT for what
    /// is absent or hidden, ACCESS below a denied directory or one that the host does not let us search, LOOP beyond 40
    /// followed links, IO for a fault, INVAL for what is no name.
    pub fn lookup(&self, dir: &Arc<Node>, name: &OsStr) -> Result<Arc<Node>, Errno> {
        self.lookup_attr(dir, name).map(|(node, _)| node)
    }

    /// `lookup` and `attr` with one look at the disk.
    pub fn lookup_attr(&self, dir: &Arc<Node>, name: &OsStr) -> Result<(Arc<Node>, Attr), Errno> {
        self.lookups(dir).lookup(name)
    }

    /// For several names of one directory, at one time.
    pub fn lookups<'a>(&'a self, dir: &'a Arc<Node>) -> Lookups<'a> {
        Lookups { segment: self, dir, dirs: Dirs::default() }
    }

    /// Errors: IO if the name has become another object since it was looked up.
    pub fn attr(&self, node: &Node) -> Result<Attr, Errno> {
        let found = match self.resolve_again(node) {
            Err(Errno::STALE) => return Err(self.refuse_changed(node)),
            found => found?,
        };
        if found.object != node.object() {
            return Err(self.refuse_changed(node));
        }
        self.note(node, &State::of(&found));
        Ok(Attr { ino: node.shown(), ..found.attr })
    }

    /// What is told of attributes where no time may be later than described. What the segment itself gives out has the
    /// times as they are, by which a change is known.
    pub fn as_shown(&self, attr: Attr) -> Attr {
        let Some(latest) = self.latest else { return attr };
        let [atime, mtime, ctime] = [attr.atime, attr.mtime, attr.ctime].map(|time| time.min(latest));
        Attr { atime, mtime, ctime, ..attr }
    }

    /// In the order described. Denied names are listed, those in a denied directory are not (ACCESS); the inode numbers
    /// of names that nobody holds are likely, not certain.
    pub fn list(&self, dir: &Arc<Node>) -> Result<Vec<DirEntry>, Errno> {
        match self.list_merged(dir) {
            Err(Errno::STALE) => Err(self.refuse_changed(dir)),
            Ok(mut entries) if self.bottom => {
                entries.retain(|entry| entry.kind != FileKind::Whiteout);
                Ok(entries)
            }
            listed => listed,
        }
    }

    /// Errors: INVAL for what is no symlink, ACCESS for what is denied.
    pub fn read_link(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        node.refuse_denied()?;
        if node.kind() != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        let origins = node.origins();
        let origin = origins.first().ok_or(Errno::INVAL)?;
        match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Alias(target), _) => self.read_link(target),
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                match &layer.layer.entry(*position).kind {
                    Kind::Symlink { target } => Ok(target.as_encoded_bytes().to_vec()),
                    _ => Err(Errno::INVAL),
                }
            }
            _ => {
                let fd = self.open_origin(node, origin)?.ok_or(Errno::INVAL)?;
                self.verify(node, origin, &fd)?;
                host::link_target(fd.as_fd())
            }
        }
    }

    /// What was asked about the node cannot be answered, for it has changed: the error that the asker gets.
    pub fn refuse_changed(&self, node: &Node) -> Errno {
        self.changed(node.path());
        self.fault(node.path(), FaultReason::Changed);
        Errno::IO
    }

    /// The name in `dir` cannot be given out, for `most` are: the error that the asker gets.
    pub fn refuse_full(&self, dir: &Node, name: &OsStr, most: usize) -> Errno {
        self.fault(dir.path().join(name), FaultReason::TooManyNodes { most });
        Errno::IO
    }

    /// What was asked about `name` in `dir` was not answered in time: the error that the asker gets. Without a name it was
    /// asked about `dir` itself.
    pub fn refuse_waiting(&self, dir: &Node, name: Option<&OsStr>) -> Errno {
        let branch =
            self.slow_label(dir.parent().filter(|_| name.is_none()).map_or(dir, Arc::as_ref)).to_owned();
        let path = name.map_or_else(|| dir.path(), |name| dir.path().join(name));
        self.fault(path, FaultReason::NoAnswer { branch, within: self.deadline });
        Errno::IO
    }

    /// How long who is asked may take to answer.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// All that a thread needs that answers for the segment.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let of_branches = self.branches.iter().flat_map(Branch::descriptors);
        of_branches.chain(self.clock.descriptor()).collect()
    }

    /// Opens a regular file for reading. Errors: IO if it is not what its attributes said, or its blob is gone or
    /// damaged; ACCESS for what is denied.
    pub fn open(&self, node: &Node) -> Result<OwnedFd, Errno> {
        node.refuse_denied()?;
        match node.kind() {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            FileKind::Symlink => return Err(Errno::LOOP),
            FileKind::Fifo | FileKind::Socket | FileKind::Whiteout => return Err(Errno::NXIO),
        }
        let origins = node.origins();
        let origin = origins.first().ok_or(Errno::IO)?;
        if let Place::Alias(target) = &origin.place {
            return self.open(target);
        }
        if let Some(blob) = self.open_blob(node, origin) {
            return blob;
        }
        let fd = self.open_origin(node, origin)?.ok_or(Errno::IO)?;
        let file = host::reopen(fd.as_fd())?;
        if self.branch(origin.branch).live {
            node.served.set(Served::CONTENT);
            // Before the stat: whoever wrote until now has left a time that the stat below shows.
            let unstable = match lease::writer(&file) {
                Writer::None => host::hides_stores(&file),
                Writer::Some => true,
                Writer::Unknown => false,
            };
            if unstable {
                node.served.set(Served::UNSTABLE);
                node.doubt();
            }
        }
        self.verify(node, origin, &file)?;
        Ok(file)
    }

    /// Whether the file's content lies somewhere and stays what it is as long as the segment is served: in a layer, an image or a
    /// frozen directory.
    pub fn is_fixed(&self, node: &Node) -> bool {
        let origins = node.origins();
        let Some(origin) = origins.first() else { return false };
        let branch = self.branch(origin.branch);
        match (&origin.place, &branch.content) {
            (Place::Alias(target), _) => self.is_fixed(target),
            // A skeleton's is made when it is opened.
            (Place::Entry(_), Content::Layer(layer)) => matches!(layer.blobs, Blobs::Store(_)),
            (Place::Input(file), Content::Inputs(inputs)) => {
                !branch.live || matches!(inputs.index.input(*file), Input::Blob { .. })
            }
            (Place::Host(_), _) => !branch.live,
            _ => false,
        }
    }

    pub fn passthrough(&self) -> Passthrough {
        self.passthrough
    }

    /// Errors: NODATA for what is not there or not passed on, ACCESS for what is denied; overlayfs marks only where this
    /// segment itself means them.
    pub fn get_xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        self.xattr(node, name)
    }

    /// Never an overlayfs mark. Errors: ACCESS for what is denied.
    pub fn list_xattrs(&self, node: &Node) -> Result<Vec<OsString>, Errno> {
        self.xattr_names(node)
    }

    /// Whether everything that was served and is still held is as it was; once false, always false but for files that
    /// were too young to tell, and for directories of which a rule has looked closer at names: what it hides has no node to
    /// look at. Costs a stat per node that is held, may change and is not watched.
    pub fn is_current(&self) -> bool {
        !self.has_changed() && self.sweep(Thoroughness::FirstOnly).is_empty()
    }

    /// As [`Segment::is_current`], and if it is not, tells by `forget` what its holders have to forget for it to be
    /// current again; they must be able to, so nobody may be using the segment. False: it has to be built anew.
    pub fn bring_up_to_date(&self, forget: impl FnMut(Forget<'_>)) -> bool {
        if self.has_changed() {
            return false;
        }
        let stale = self.sweep(Thoroughness::All);
        // Resolving may itself have found a change in a node on the way.
        stale.is_empty() && !self.has_changed() || self.mend(stale, forget) && !self.has_changed()
    }

    /// Whether the kernel must be able to ask for extended attributes: a layer's own, and the marks by which overlayfs
    /// knows deleted names, opaque directories and denied ones, and provenance. Host files and inputs go without: each question would
    /// be a request that nothing caches, one per file that an action looks at.
    pub fn needs_xattrs(&self) -> bool {
        self.marked || self.provenance
    }

    /// What could not be served as described, the first 256 of them.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults.lock().expect("no holder of the faults panics").clone()
    }

    /// How many nodes the last sweep has looked at.
    pub fn looked_at(&self) -> usize {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// Of how many nodes sweeps have found out what they are now: one that goes on is not stuck.
    pub fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// How many nodes the next sweep has to look at, if no event comes before.
    pub fn in_doubt(&self) -> usize {
        self.table.doubtful().len()
    }

    /// How many nodes are held, the root included.
    pub fn live_nodes(&self) -> usize {
        self.table.live().len()
    }

    /// Makes what was found a node, the one that is held if there is one, and notes what is given out.
    pub(crate) fn adopt(&self, dir: &Arc<Node>, name: &OsStr, found: Found) -> (Arc<Node>, Attr) {
        let (attr, state) = (found.attr, State::of(&found));
        let node = match self.table.intern(Some(dir), name, new_node(found)) {
            Interned::New(node) | Interned::Known(node) => node,
            Interned::Replaced(node) => {
                self.changed(node.path());
                node
            }
        };
        self.note(&node, &state);
        let attr = Attr { ino: node.shown(), ..attr };
        (node, attr)
    }

    pub(crate) fn resolve_again(&self, node: &Node) -> Result<Found, Errno> {
        match node.parent() {
            Some(dir) => self.resolve(dir, node.name(), ViewLinks::Follow),
            None => self.resolve_root(),
        }
    }

    /// Opens (O_PATH) the host file behind an origin; `None` if there is none.
    pub(crate) fn open_origin(&self, node: &Node, origin: &Origin) -> Result<Option<OwnedFd>, Errno> {
        match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Host(anchor), Content::Host(host)) => {
                host.open(anchor, &node.path_from(anchor.depth)).map(Some)
            }
            (Place::Input(file), Content::Inputs(inputs)) => match inputs.index.input(*file) {
                Input::Host(path) => inputs.open_host(path).map(Some),
                Input::Blob { .. } => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Whether anything in it may change.
    pub fn has_live_branches(&self) -> bool {
        self.branches.iter().any(|branch| branch.live)
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// From now on the segment is not current: somebody may hold what is no longer so.
    pub(crate) fn changed(&self, path: PathBuf) {
        self.changed.store(true, Ordering::Release);
        self.visits.add_for_all(path);
    }

    pub(crate) fn fault(&self, path: PathBuf, reason: FaultReason) {
        let fault = Fault { path, reason };
        let mut faults = self.faults.lock().expect("no holder of the faults panics");
        if faults.len() < MAX_FAULTS && !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    fn make_root(&self) -> Result<(), SegmentError> {
        let found = self.resolve_root().map_err(|errno| SegmentError::Root {
            label: self.branches.first().map(|branch| branch.label.clone()).unwrap_or_default(),
            source: errno.into(),
        })?;
        let state = State::of(&found);
        let root = match self.table.intern(None, OsStr::new(""), new_node(found)) {
            Interned::New(node) | Interned::Known(node) | Interned::Replaced(node) => node,
        };
        self.note(&root, &state);
        self.root.get_or_init(|| root);
        Ok(())
    }

    /// Notes what is given out about a node, and a change if something else was given out before.
    fn note(&self, node: &Node, state: &State) {
        node.served.set_rights(state.rights);
        if let Some(file) = state.linked {
            node.join(file);
        }
        if node.served.replace_print(state.print) != state.print {
            self.changed(node.path());
        }
        self.note_if_young(node, state.changed);
        if state.racy {
            node.served.set(Served::RACY);
        } else if !node.served.has(Served::CONTENT) {
            // Served again from a state that has settled; pages read before stay in doubt.
            node.served.clear(Served::RACY);
        }
    }

    /// Whether an open file is what the node's attributes said.
    fn verify(&self, node: &Node, origin: &Origin, file: &OwnedFd) -> Result<(), Errno> {
        let seen = self.seen_on_host(origin.branch, file.as_fd())?;
        let found = seen.map(|seen| Merge::single(Candidate { origin: origin.clone(), seen }));
        let same = |found: &Found| found.object == node.object() && found.print == node.served.print();
        if found.as_ref().is_some_and(same) {
            return Ok(());
        }
        Err(self.refuse_changed(node))
    }

    /// `None` if the origin is no blob.
    fn open_blob(&self, node: &Node, origin: &Origin) -> Option<Result<OwnedFd, Errno>> {
        let (digest, opened) = match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                let content = layer.layer.content(*position).unwrap_or(*position);
                let Kind::File { digest, size } = &layer.layer.entry(content).kind else {
                    return Some(Err(Errno::IO));
                };
                (*digest, layer.open(digest, *size))
            }
            (Place::Input(file), Content::Inputs(inputs)) => match inputs.index.input(*file) {
                Input::Host(_) => return None,
                Input::Blob { digest, .. } => {
                    let store =
                        inputs.store.as_ref().expect("a manifest with blobs is refused without a store");
                    (digest, open_blob(store, &digest, None))
                }
            },
            _ => return None,
        };
        Some(opened.map_err(|cause| {
            self.fault(node.path(), FaultReason::BlobUnusable { digest: digest.to_string(), cause });
            Errno::IO
        }))
    }
}

/// Look-ups in a directory that is opened and verified once for all of them.
pub struct Lookups<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) dir: &'a Arc<Node>,
    pub(crate) dirs: Dirs,
}

impl Lookups<'_> {
    /// As [`Segment::lookup_attr`].
    pub fn lookup(&self, name: &OsStr) -> Result<(Arc<Node>, Attr), Errno> {
        let Lookups { segment, dir, dirs } = self;
        let index = segment.name_index(dirs, dir);
        let asked = segment.ask(dirs, dir, name, ViewLinks::Follow);
        match asked.and_then(|asked| segment.resolve_asked(&Asked { index, ..asked }, |_| {})) {
            Ok(found) => self.give(name, found),
            Err(Errno::STALE) => Err(segment.refuse_changed(dir)),
            Err(errno) => {
                if let Some(node) = segment.table.get(Key::name(dir, name)) {
                    node.served.set(Served::LOST);
                    node.doubt();
                }
                Err(errno)
            }
        }
    }

    pub(crate) fn give(&self, name: &OsStr, found: Found) -> Result<(Arc<Node>, Attr), Errno> {
        if self.segment.bottom && found.attr.kind == FileKind::Whiteout {
            return Err(Errno::NOENT);
        }
        Ok(self.segment.adopt(self.dir, name, found))
    }
}

/// What is noted of what is given out.
struct State {
    rights: u32,
    print: u64,
    racy: bool,
    changed: Time,
    linked: Option<LinkedFile>,
}

impl State {
    fn of(found: &Found) -> State {
        let rights = fingerprint::rights(&found.attr);
        let Found { print, racy, changed, linked, .. } = *found;
        State { rights, print, racy, changed, linked }
    }
}

pub(crate) fn new_node(found: Found) -> NewNode {
    NewNode {
        kind: found.attr.kind,
        follows: found.follows,
        opaque: found.opaque,
        origins: found.origins,
        object: found.object,
        print: found.print,
        wanted: found.wanted,
        links: found.links,
        linked: found.linked,
    }
}

/// Whether a directory of the segment may have to keep lower segments out: one that is denied, or one that another
/// branch has as something else.
fn may_be_opaque(spec: &SegmentSpec) -> bool {
    let denies = |rules: &[Rule]| rules.iter().any(Rule::is_deny);
    denies(&spec.rules)
        || spec.branches.iter().any(|branch| denies(&branch.rules))
        || !spec.bottom && spec.branches_meet()
}
