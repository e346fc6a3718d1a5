//! Resolving: from a directory node and a name to what the branches say of it, merged. Nothing is kept here; the
//! same code answers a lookup and checks later whether the answer still holds.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use vfsrun_layers::Kind;

use crate::attr::{Attr, FileKind, Time};
use crate::branch::{Branch, Content};
use crate::describe::{Symlinks, Whiteouts, Xattrs};
use crate::fault::FaultReason;
use crate::fingerprint;
use crate::hard_link::LinkedFile;
use crate::host::{self, HostBranch, Mark};
use crate::inode;
use crate::inputs::{Input, InputChild};
use crate::layer::{LayerBranch, chain};
use crate::merge::{Found, Merge, Seen};
use crate::names::NameIndex;
use crate::node::{LayerLinks, Node};
use crate::origin::{Anchor, BranchIndex, Origin, Place, Start};
use crate::priority::is_rival;
use crate::rules::{By, List, Subject, Verdict};
use crate::segment::Segment;
use crate::trust;

/// What becomes of links of scope `view`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewLinks {
    Follow,
    /// Shown as links: the walk that follows one resolves the others itself.
    Keep,
}

/// One branch's answer for a name.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) origin: Origin,
    pub(crate) seen: Seen,
}

impl Candidate {
    pub(crate) fn is_alias(&self) -> bool {
        matches!(self.origin.place, Place::Alias(_))
    }
}

/// What became of one branch's answer, for those who want to know why a name is as it is.
pub(crate) enum Told<'a> {
    Nothing,
    Failed(Errno),
    Refused(&'a Candidate, Verdict),
    /// It is a part of the merged answer, unless one that comes later takes its place.
    Taken(&'a Candidate),
    /// The merge leaves it out.
    Left(&'a Candidate),
}

const BLOCK: u64 = 512;

impl Segment {
    /// Errors: STALE if the directory is not what it was, NOENT for what is absent or hidden, ACCESS below a denied directory, LOOP beyond 40 followed links, IO for
    /// a conflict of types or an input that cannot be had.
    pub(crate) fn resolve(&self, dir: &Arc<Node>, name: &OsStr, links: ViewLinks) -> Result<Found, Errno> {
        self.resolve_telling(dir, name, links, |_| {})
    }

    /// `resolve` that tells what became of each branch's answer, in the order of the directory's origins; those after the
    /// last one that it tells of are not asked.
    pub(crate) fn resolve_telling(
        &self,
        dir: &Arc<Node>,
        name: &OsStr,
        links: ViewLinks,
        tell: impl FnMut(Told<'_>),
    ) -> Result<Found, Errno> {
        self.resolve_asked(&self.ask(&Dirs::default(), dir, name, links)?, tell)
    }

    pub(crate) fn resolve_asked(&self, asked: &Asked, tell: impl FnMut(Told<'_>)) -> Result<Found, Errno> {
        let Asked { dirs, dir, name, links, .. } = *asked;
        let found = self.resolve_alone(asked, tell)?;
        // With `Keep` a link is nobody's rival: two that lead to each other would ask for ever.
        let outranked = is_rival(found.attr.kind)
            && self.is_outranked(&self.rules.priorities, dir, name, |rival| {
                match self.ask(dirs, dir, rival, links).and_then(|asked| self.resolve_alone(&asked, |_| {})) {
                    Ok(found) => Ok(is_rival(found.attr.kind)),
                    Err(Errno::NOENT) => Ok(false),
                    Err(errno) => Err(errno),
                }
            })?;
        if outranked { Err(Errno::NOENT) } else { Ok(found) }
    }

    /// Whatever other names the view prefers.
    fn resolve_alone(&self, asked: &Asked, mut tell: impl FnMut(Told<'_>)) -> Result<Found, Errno> {
        let (dir, name) = (asked.dir, asked.name);
        let mut merge = Merge::new(self.types, self.policy);
        let index = asked.index.as_ref().map(|index| index.of_hash(self.name_indexes.hash(name)));
        for (position, origin) in dir.origins().iter().enumerate() {
            if index.as_ref().is_some_and(|index| !index.includes(position)) {
                tell(Told::Nothing);
                continue;
            }
            let answer = self.candidate(asked, origin).inspect_err(|errno| tell(Told::Failed(*errno)))?;
            match answer {
                None => tell(Told::Nothing),
                Some((Verdict::Show, candidate)) => {
                    merge.add(candidate, &mut tell);
                    if merge.is_done() {
                        break;
                    }
                }
                Some((verdict, candidate)) => {
                    tell(Told::Refused(&candidate, verdict));
                    if matches!(verdict, Verdict::Deny(_)) && merge.is_empty() {
                        return Ok(Merge::single(self.denied(origin.branch, candidate.seen.attr.kind)));
                    }
                }
            }
        }
        merge.finish(dir.follows).map_err(|failure| failure.report(self, || dir.path().join(name)))
    }

    /// Errors: what cannot be asked.
    pub(crate) fn ask<'a>(
        &self,
        dirs: &'a Dirs,
        dir: &'a Arc<Node>,
        name: &'a OsStr,
        links: ViewLinks,
    ) -> Result<Asked<'a>, Errno> {
        if dir.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        dir.refuse_denied()?;
        let bytes = name.as_encoded_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(Errno::INVAL);
        }
        let path = self.has_rules.then(|| dir.path().join(name));
        Ok(Asked { dirs, dir, name, path, links, index: None })
    }

    pub(crate) fn resolve_root(&self) -> Result<Found, Errno> {
        self.resolve_root_telling(|_| {})
    }

    pub(crate) fn resolve_root_telling(&self, mut tell: impl FnMut(Told<'_>)) -> Result<Found, Errno> {
        let mut merge = Merge::new(self.types, self.policy);
        for index in 0..self.branches.len() as BranchIndex {
            match self.at_root(index).inspect_err(|errno| tell(Told::Failed(*errno)))? {
                None => tell(Told::Nothing),
                Some(candidate) => merge.add(candidate, &mut tell),
            }
            if merge.is_done() {
                break;
            }
        }
        match merge.finish(0) {
            // A segment without branches is an empty directory.
            Err(failure) if failure.is_absence() => {
                let mut nothing = Merge::single(Candidate {
                    origin: Origin::at(0, Place::Above),
                    seen: self.implied_dir(),
                });
                nothing.origins.clear();
                Ok(nothing)
            }
            other => other.map_err(|failure| failure.report(self, PathBuf::new)),
        }
    }

    /// What the branch is at the root of the view.
    pub(crate) fn at_root(&self, index: BranchIndex) -> Result<Option<Candidate>, Errno> {
        if self.branch(index).at.is_empty() {
            self.root_of_branch(index)
        } else {
            Ok(Some(self.above(index)))
        }
    }

    /// What one origin of the directory says of the name, and what the rules say of that.
    pub(crate) fn candidate(
        &self,
        asked: &Asked,
        origin: &Origin,
    ) -> Result<Option<(Verdict, Candidate)>, Errno> {
        let Some((verdict, candidate)) = self.candidate_alone(asked, origin)? else { return Ok(None) };
        let lists = &self.branch(origin.branch).rules.priorities;
        let outranked = is_shown_rival(verdict, &candidate)
            && self.is_outranked(lists, asked.dir, asked.name, |rival| {
                let path = asked.path.as_ref().map(|path| path.with_file_name(rival));
                let found =
                    self.candidate_alone(&Asked { name: rival, path, index: None, ..*asked }, origin)?;
                Ok(found.is_some_and(|(verdict, candidate)| is_shown_rival(verdict, &candidate)))
            })?;
        let hidden = Verdict::Hide(By::Extension(List::Branch));
        Ok(Some((if outranked { hidden } else { verdict }, candidate)))
    }

    /// Whatever other names the branch prefers.
    fn candidate_alone(&self, asked: &Asked, origin: &Origin) -> Result<Option<(Verdict, Candidate)>, Errno> {
        let Some(mut candidate) = self.step(asked, origin)? else { return Ok(None) };
        let branch = self.branch(origin.branch);
        let mut followed = false;
        if candidate.seen.attr.kind == FileKind::Symlink && branch.symlinks != Symlinks::Never {
            // The link's own path first: what is hidden is not followed.
            let subject = Subject::new(&candidate.seen.attr);
            match self.judge(asked, &candidate, |judged| judged.refused(&subject)) {
                Verdict::Show => {}
                refused => {
                    self.note_judged(asked, &candidate, refused, &subject, followed);
                    return Ok(Some((refused, candidate)));
                }
            }
            match self.follow(asked, &candidate) {
                Ok(Some(target)) => (candidate, followed) = (target, true),
                Ok(None) => {}
                Err(Errno::ACCESS) => return Ok(Some((Verdict::Deny(By::Link), candidate))),
                Err(errno) => return Err(errno),
            }
        }
        let subject = Subject::new(&candidate.seen.attr);
        let verdict = self.judge(asked, &candidate, |judged| judged.verdict(&subject));
        self.note_judged(asked, &candidate, verdict, &subject, followed);
        Ok(Some((verdict, candidate)))
    }

    /// The absence of a name is proved by its directory, unless it was hidden for what may change elsewhere.
    fn note_judged(
        &self,
        asked: &Asked,
        found: &Candidate,
        verdict: Verdict,
        subject: &Subject,
        followed: bool,
    ) {
        // An attribute makes an empty file a whiteout.
        let type_may_change = self.branch(found.origin.branch).whiteouts == Whiteouts::Overlay;
        let reason_may_change =
            followed || subject.was_looked_at() || type_may_change && subject.was_asked_for_type();
        // Where a link leads in the view is a matter of all branches.
        let is_live = self.is_live(&found.origin) || found.is_alias() && self.has_live_branches();
        if verdict.hides() && reason_may_change && is_live {
            asked.dir.judged();
        }
    }

    /// What lies at the name in the branch, no link followed.
    pub(crate) fn step(&self, asked: &Asked, origin: &Origin) -> Result<Option<Candidate>, Errno> {
        let branch = self.branch(origin.branch);
        match (&origin.place, &branch.content) {
            (Place::Above, _) => {
                if branch.at.get(asked.dir.depth()).is_none_or(|at| at != asked.name) {
                    Ok(None)
                } else if branch.at.len() == asked.dir.depth() + 1 {
                    self.root_of_branch(origin.branch)
                } else {
                    Ok(Some(self.above(origin.branch)))
                }
            }
            (Place::Host(anchor), Content::Host(_)) => self.step_on_host(asked, origin, anchor),
            (Place::Entry(dir), Content::Layer(layer)) => {
                let child = layer.layer.child(*dir, asked.name);
                Ok(child.map(|child| self.entry(origin.branch, layer, Some(child))))
            }
            (Place::InputDir(dir), Content::Inputs(inputs)) => {
                match inputs.index.child(*dir, asked.name.as_encoded_bytes()) {
                    None => Ok(None),
                    Some(InputChild::Dir(dir)) => {
                        Ok(Some(self.synthetic(origin.branch, Place::InputDir(dir))))
                    }
                    Some(InputChild::File(file)) => self.input(asked, origin.branch, file).map(Some),
                }
            }
            (Place::Alias(target), _) => self.step_through_alias(asked, origin.branch, target),
            // Of the others only files are left, and they have no names below them.
            _ => Ok(None),
        }
    }

    fn step_on_host(
        &self,
        asked: &Asked,
        origin: &Origin,
        anchor: &Arc<Anchor>,
    ) -> Result<Option<Candidate>, Errno> {
        let index = origin.branch;
        let has_markers = self.branch(index).whiteouts == Whiteouts::Oci;
        if has_markers && host::oci_deletes(asked.name).is_some() {
            return Ok(None);
        }
        let dir = asked.dirs.open(self, asked.dir, origin)?;
        let seen = match self.seen_at(index, &dir, asked.name) {
            Ok(seen) => seen,
            Err(Errno::OPNOTSUPP) => {
                self.fault(asked.dir.path().join(asked.name), FaultReason::OnlyAPart);
                return Err(Errno::IO);
            }
            Err(Errno::NOENT) if has_markers => {
                return match host::look(&dir, Path::new(&host::oci_marker(asked.name))) {
                    Ok(_) => Ok(Some(self.deleted(index))),
                    // A name so long that none can speak of it.
                    Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
                    Err(errno) => Err(errno),
                };
            }
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let place = Place::Host(Arc::clone(anchor));
        let seen = seen.map(|seen| seen.through_link(anchor.high_half(asked.dir)));
        Ok(seen.map(|seen| Candidate { origin: Origin::at(index, place), seen }))
    }

    fn step_through_alias(
        &self,
        asked: &Asked,
        index: BranchIndex,
        target: &Arc<Node>,
    ) -> Result<Option<Candidate>, Errno> {
        let (child, attr) = match self.resolve(target, asked.name, ViewLinks::Follow) {
            Ok(found) => self.adopt(target, asked.name, found),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        // A whiteout speaks of what lies below its own path, not of this one.
        if child.kind() == FileKind::Whiteout {
            return Ok(None);
        }
        if child.refuse_denied().is_err() {
            return Ok(Some(self.denied(index, child.kind())));
        }
        let follows = child.follows.saturating_sub(target.follows);
        let mut alias = self.alias(index, child, attr, follows);
        alias.seen = alias.seen.through_link(asked.dir.path_hash_of(asked.name).high_half());
        Ok(Some(alias))
    }

    pub(crate) fn alias(&self, index: BranchIndex, target: Arc<Node>, attr: Attr, follows: u8) -> Candidate {
        let mut object = fingerprint::Mixer::default();
        object.add(target.path_hash().seed()).add(target.object());
        let seen = Seen {
            attr,
            wanted: inode::wanted(attr.ino),
            object: object.get(),
            print: target.served.print(),
            racy: false,
            changed: Time::default(),
            opaque: false,
            follows,
            links: None,
            linked: None,
        };
        Candidate { origin: Origin::at(index, Place::Alias(target)), seen: seen.own_inode() }
    }

    pub(crate) fn root_of_branch(&self, index: BranchIndex) -> Result<Option<Candidate>, Errno> {
        let branch = self.branch(index);
        Ok(match &branch.content {
            Content::Host(host) => {
                let anchor = Anchor { depth: branch.at.len(), start: Start::Root };
                let place = Place::Host(Arc::new(anchor));
                let seen = self.seen_on_host(index, host.root.as_fd())?;
                seen.map(|seen| Candidate { origin: Origin::at(index, place), seen })
            }
            Content::Layer(layer) => Some(self.entry(index, layer, layer.layer.root())),
            Content::Inputs(inputs) => Some(self.synthetic(index, Place::InputDir(inputs.index.root()))),
        })
    }

    /// As `seen_on_host`, of a name beneath a directory.
    fn seen_at(&self, index: BranchIndex, dir: &OwnedFd, name: &OsStr) -> Result<Option<Seen>, Errno> {
        let branch = self.branch(index);
        if branch.whiteouts == Whiteouts::None
            && branch.rewrite.is_none()
            && branch.has_our_clock
            && let Some((stat, has_list)) = host::glance(dir, name)?
            && self.owners.of_host(stat.st_uid, stat.st_gid).is_none()
            && !(branch.trusted && trust::has_set_id(&stat))
            // Whether a list can be shown is a matter of what it says.
            && !(has_list && branch.xattrs != Xattrs::Off)
        {
            return Ok(host::plain_attr(&stat, has_list).map(|attr| self.seen(index, &stat, attr)));
        }
        self.seen_on_host(index, host::look(dir, Path::new(name))?.as_fd())
    }

    /// `None` for devices. Errors: OPNOTSUPP for what overlayfs has left only a part of here.
    pub(crate) fn seen_on_host(&self, index: BranchIndex, fd: BorrowedFd<'_>) -> Result<Option<Seen>, Errno> {
        let stat = rustix::fs::fstat(fd)?;
        let branch = self.branch(index);
        let mark = match branch.whiteouts {
            Whiteouts::None => Mark::None,
            Whiteouts::Overlay => host::overlay_mark(fd, &stat),
            Whiteouts::Oci => oci_mark(fd, &stat)?,
        };
        let attr = match mark {
            Mark::None | Mark::Opaque => host::attr_of(fd, &stat, &self.owners, branch),
            Mark::Whiteout => Some(self.whiteout()),
            Mark::OnlyAPart => return Err(Errno::OPNOTSUPP),
        };
        Ok(attr.map(|attr| {
            let mut seen = self.seen(index, &stat, attr);
            seen.opaque = mark == Mark::Opaque;
            if mark == Mark::Whiteout {
                // An empty file may become one, which is another type of file.
                seen.object = fingerprint::Mixer::default().add(seen.object).get();
            }
            seen
        }))
    }

    fn seen(&self, index: BranchIndex, stat: &Stat, attr: Attr) -> Seen {
        let branch = self.branch(index);
        let live = branch.live;
        Seen {
            attr,
            wanted: Some(inode::with_high_half(0, stat.st_ino)),
            object: fingerprint::object(stat),
            print: if live { fingerprint::print(stat) } else { 0 },
            racy: live && fingerprint::is_racy(stat),
            changed: if live && branch.has_our_clock { time_of_change(stat) } else { Time::default() },
            opaque: false,
            follows: 0,
            links: None,
            linked: linked_file(index, &attr, stat),
        }
    }

    /// `None` is a root directory that the manifest leaves out.
    pub(crate) fn entry(&self, index: BranchIndex, layer: &LayerBranch, at: Option<u32>) -> Candidate {
        let place = Place::Entry(at);
        let Some(position) = at else { return self.synthetic(index, place) };
        if layer.implied.contains(&position) {
            return self.synthetic(index, place);
        }
        // Positions come from the tree; a hard link's file was checked when the manifest was read.
        let content = layer.layer.content(position).unwrap_or(position);
        let entry = layer.layer.entry(content);
        let (kind, size, opaque) = match &entry.kind {
            Kind::Directory { opaque } => (FileKind::Directory, 0, *opaque),
            Kind::File { size, .. } => (FileKind::Regular, *size, false),
            Kind::Symlink { target } => (FileKind::Symlink, target.len() as u64, false),
            Kind::Fifo => (FileKind::Fifo, 0, false),
            // A hard link to no file and a device never get here; whoever does is not shown as a file.
            Kind::Whiteout | Kind::HardLink { .. } | Kind::Device { .. } => (FileKind::Whiteout, 0, false),
        };
        let nlink = layer.layer.nlink(content);
        let (uid, gid) = self.owners.of_layer(entry.meta.uid, entry.meta.gid);
        let is_trusted = trust::in_layer_file(&entry.meta, &self.owners, self.branch(index));
        let perm = match kind {
            FileKind::Symlink => 0o777,
            kind => entry.meta.mode as u16 & trust::perm_mask(kind == FileKind::Directory, is_trusted),
        };
        let mtime = Time { sec: entry.meta.mtime.0, nsec: entry.meta.mtime.1 };
        let mut seen = Seen::fixed(attr(kind, perm, (uid, gid), size, mtime), object_of_entry(content));
        seen.attr.nlink = if kind == FileKind::Directory { 2 } else { nlink };
        seen.opaque = opaque;
        seen.links = (nlink > 1).then_some(LayerLinks { branch: index, object: seen.object });
        Candidate { origin: Origin::at(index, place), seen }
    }

    fn input(&self, asked: &Asked, index: BranchIndex, file: u32) -> Result<Candidate, Errno> {
        let place = Place::Input(file);
        let seen = self.seen_input(index, file).map_err(|reason| {
            self.fault(asked.dir.path().join(asked.name), reason);
            Errno::IO
        })?;
        Ok(Candidate { origin: Origin::at(index, place), seen })
    }

    pub(crate) fn seen_input(&self, index: BranchIndex, file: u32) -> Result<Seen, FaultReason> {
        let Content::Inputs(inputs) = &self.branch(index).content else {
            unreachable!("an input's branch is an input manifest")
        };
        match inputs.index.input(file) {
            Input::Host(path) => {
                let bad = |cause: String| FaultReason::InputUnusable { file: PathBuf::from(path), cause };
                let fd = inputs.open_host(path).map_err(|errno| bad(errno.to_string()))?;
                let seen = self.seen_on_host(index, fd.as_fd()).map_err(|errno| bad(errno.to_string()))?;
                seen.filter(|seen| seen.attr.kind == FileKind::Regular)
                    // The manifest does not tell a listing which number the host's file has.
                    .map(|seen| Seen { wanted: None, ..seen.own_inode() })
                    .ok_or_else(|| bad("it is not a regular file".to_owned()))
            }
            Input::Blob { digest, executable } => {
                let bad = |cause| FaultReason::BlobUnusable { digest: digest.to_string(), cause };
                let store = inputs.store.as_ref().expect("a manifest with blobs is refused without a store");
                // Only its size is wanted; what it holds is checked when it is opened to be read.
                let fd = store.open_blob(&digest).map_err(|error| bad(chain(&error)))?;
                let stat = rustix::fs::fstat(&fd).map_err(|errno| bad(errno.to_string()))?;
                let perm = if executable { 0o755 } else { 0o644 };
                let (owner, mtime) = (self.owners.root(), Time { sec: 1, nsec: 0 });
                let attr = attr(FileKind::Regular, perm, owner, stat.st_size as u64, mtime);
                Ok(Seen::fixed(attr, u64::from(file) + 1))
            }
        }
    }

    /// What is shown of a denied name. It has to be something: overlayfs looks up each name that it lists of a merged
    /// directory, and leaves out those that are an error (ovl_cache_update).
    fn denied(&self, index: BranchIndex, kind: FileKind) -> Candidate {
        // The kernel does not read an empty file: who may ignore modes would find it empty instead of getting an error.
        let size = u64::from(kind == FileKind::Regular);
        let mut seen = Seen::fixed(attr(kind, 0, self.owners.root(), size, Time::default()), kind as u64);
        seen.attr.blocks = 0;
        // The segments below have no say in it either.
        seen.opaque = kind == FileKind::Directory;
        Candidate { origin: Origin::at(index, Place::Denied), seen }
    }

    /// A name of which only a marker beside it is there.
    fn deleted(&self, index: BranchIndex) -> Candidate {
        Candidate { origin: Origin::at(index, Place::Deleted), seen: Seen::fixed(self.whiteout(), 0) }
    }

    fn whiteout(&self) -> Attr {
        attr(FileKind::Whiteout, 0, self.owners.root(), 0, Time::default())
    }

    fn above(&self, index: BranchIndex) -> Candidate {
        self.synthetic(index, Place::Above)
    }

    fn synthetic(&self, index: BranchIndex, place: Place) -> Candidate {
        Candidate { origin: Origin { synthetic: true, ..Origin::at(index, place) }, seen: self.implied_dir() }
    }

    fn implied_dir(&self) -> Seen {
        let mtime = Time { sec: 1, nsec: 0 };
        let mut seen = Seen::fixed(attr(FileKind::Directory, 0o755, self.owners.root(), 0, mtime), 0);
        seen.attr.nlink = 2;
        seen
    }

    pub(crate) fn branch(&self, index: BranchIndex) -> &Branch {
        &self.branches[usize::from(index)]
    }
}

fn is_shown_rival(verdict: Verdict, found: &Candidate) -> bool {
    !verdict.hides() && is_rival(found.seen.attr.kind)
}

/// The host directories that a directory of the view is made of, each opened and verified once, but for those beyond
/// [`MOST_OPEN`].
#[derive(Default)]
pub(crate) struct Dirs(RefCell<Vec<OpenDir>>);

type OpenDir = (BranchIndex, *const Anchor, Arc<OwnedFd>);

/// A directory may be merged from thousands, and the descriptors of a process are few.
const MOST_OPEN: usize = 256;

impl Dirs {
    /// The one that is `origin` of `dir`. Errors: STALE if it is not a directory of the host, or another one by now.
    pub(crate) fn open(&self, segment: &Segment, dir: &Node, origin: &Origin) -> Result<Arc<OwnedFd>, Errno> {
        let (Place::Host(anchor), Content::Host(host)) =
            (&origin.place, &segment.branch(origin.branch).content)
        else {
            return Err(Errno::STALE);
        };
        if anchor.start == Start::Root && anchor.depth == dir.depth() {
            // Open already, and never another one.
            return Ok(Arc::clone(&host.root));
        }
        let key = (origin.branch, Arc::as_ptr(anchor));
        let known = |(branch, anchor, _): &&OpenDir| (*branch, *anchor) == key;
        if let Some((_, _, open)) = self.0.borrow().iter().find(known) {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(open_dir(dir, origin, host, anchor)?);
        let mut all = self.0.borrow_mut();
        if all.len() < MOST_OPEN {
            all.push((key.0, key.1, Arc::clone(&open)));
        }
        Ok(open)
    }
}

/// A name that is being resolved.
pub(crate) struct Asked<'a> {
    /// Those of `dir`.
    pub(crate) dirs: &'a Dirs,
    pub(crate) dir: &'a Arc<Node>,
    pub(crate) name: &'a OsStr,
    /// Relative to the root of the view; there only if rules have to see it.
    pub(crate) path: Option<PathBuf>,
    pub(crate) links: ViewLinks,
    /// Which origins of `dir` are asked, where that is known.
    pub(crate) index: Option<Arc<NameIndex>>,
}

/// A directory of an unpacked image layer is opaque by what lies in it.
fn oci_mark(fd: BorrowedFd<'_>, stat: &Stat) -> Result<Mark, Errno> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(Mark::None);
    }
    match rustix::fs::statat(fd, host::OCI_OPAQUE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(Mark::Opaque),
        // It cannot be searched, and so nothing in it shows.
        Err(Errno::NOENT | Errno::ACCESS) => Ok(Mark::None),
        Err(errno) => Err(errno),
    }
}

/// What is the same for all names of a layer's file, and tells it from other files.
pub(crate) fn object_of_entry(content: u32) -> u64 {
    u64::from(content) + 1
}

/// If what is shown is one of several names of a file.
fn linked_file(branch: BranchIndex, attr: &Attr, stat: &Stat) -> Option<LinkedFile> {
    let is_linked = attr.kind != FileKind::Directory && attr.nlink > 1;
    is_linked.then_some(LinkedFile { branch, high: 0, device: stat.st_dev, inode: stat.st_ino })
}

fn time_of_change(stat: &Stat) -> Time {
    Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 }
}

fn attr(kind: FileKind, perm: u16, (uid, gid): (u32, u32), size: u64, mtime: Time) -> Attr {
    Attr {
        ino: 0,
        kind,
        perm,
        nlink: 1,
        uid,
        gid,
        size,
        blocks: size.div_ceil(BLOCK),
        blksize: 4096,
        atime: mtime,
        mtime,
        ctime: mtime,
    }
}

/// The directory (O_PATH) that an origin of the node is. Errors: STALE if something else is in its place, if only for
/// now: what that says of names must not be kept.
pub(crate) fn open_dir(
    node: &Node,
    origin: &Origin,
    host: &HostBranch,
    anchor: &Anchor,
) -> Result<OwnedFd, Errno> {
    let dir = host.open(anchor, &node.path_from(anchor.depth)).map_err(|errno| match errno {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Errno::STALE,
        other => other,
    })?;
    let same = fingerprint::object(&rustix::fs::fstat(&dir)?) == origin.object;
    if same { Ok(dir) } else { Err(Errno::STALE) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::describe::{BranchSpec, SegmentSpec, Source};
    use crate::{Context, Described};

    #[test]
    fn of_many_directories_few_stay_open() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("dir")).unwrap();
        let count = MOST_OPEN + 10;
        let host = |root| BranchSpec::new(Source::Host { root, host: None }, "test");
        let spec = SegmentSpec { branches: (0..count).map(host).collect(), ..SegmentSpec::default() };
        let fds = (0..count).map(|_| File::open(temp.path()).unwrap().into()).collect();
        let segment = Segment::build(Described::read(spec, fds).unwrap(), &Context::default()).unwrap();
        let (root, dirs) = (segment.root(), Dirs::default());
        let dir = segment.lookup(&root, "dir".as_ref()).unwrap();
        for _ in 0..2 {
            for dir in [&root, &dir] {
                dir.origins().iter().for_each(|origin| drop(dirs.open(&segment, dir, origin).unwrap()));
            }
        }
        assert_eq!((root.origins().len(), dir.origins().len()), (count, count));
        assert_eq!(dirs.0.borrow().len(), MOST_OPEN);
    }
}
