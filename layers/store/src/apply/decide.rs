//! Decisions: what is to be done at each path, or why nothing is.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::contents::Contents;
use super::look::{Found, Ids, Look};
use super::plan::{Item, Options, Outcome, Sight};
use super::snapshot::{Node, Snapshot, unknown_names};
use super::step::{Act, Parent, Step};
use super::why::Why;
use crate::base::{Access, Place, Seen, SeenKind};
use crate::changes::{self, Change};
use crate::fsat;
use crate::manifest::{Entry, Kind, Manifest};

/// What was decided to be done.
#[derive(Default)]
pub(super) struct Steps {
    pub steps: Vec<Step>,
    pub parents: Vec<Parent>,
    pub ids: Ids,
}

pub(super) struct Decider<'a> {
    pub(super) sights: &'a [Sight<'a>],
    layer: &'a Manifest,
    pub(super) options: &'a Options,
    pub(super) contents: Contents,
    pub(super) look: Look,
    pub(super) items: Vec<Item>,
    pub(super) done: Steps,
    pub(super) parents: HashMap<PathBuf, usize>,
    /// Names of the host for which there is a step already.
    pub(super) taken: HashMap<(u64, u64, OsString), PathBuf>,
}

/// The directory that a path is in.
struct Around {
    /// Of the host, or why it is none that anything may be done in.
    place: Result<PathBuf, Why>,
    /// What was in it before is gone, if the layer does not have it.
    hides: bool,
}

impl<'a> Decider<'a> {
    pub fn new(
        sights: &'a [Sight<'a>],
        layer: &'a Manifest,
        options: &'a Options,
        contents: Contents,
    ) -> Decider<'a> {
        Decider {
            sights,
            layer,
            options,
            contents,
            look: Look::default(),
            items: Vec::new(),
            done: Steps::default(),
            parents: HashMap::new(),
            taken: HashMap::new(),
        }
    }

    pub fn decide_all(&mut self) {
        let nowhere = "the root that the program made";
        let around = Around { place: Err(Why::Fixed { branch: nowhere.into() }), hides: false };
        let Some(first) = self.sights.first() else { return };
        if !first.path.as_os_str().is_empty() {
            return self.below(0..self.sights.len(), &around);
        }
        // The root is the program's own, whatever it was made of.
        let hides = matches!(first.is.map(|is| &is.kind), Some(Kind::Directory { opaque: true }));
        let place = self.place(first, &around);
        self.below(1..first.end, &Around { place, hides });
    }

    pub fn ended(self) -> (Vec<Item>, Steps) {
        (self.items, self.done)
    }

    fn below(&mut self, range: Range<usize>, around: &Around) {
        let mut next = range.start;
        while next < range.end {
            self.decide(next, around);
            next = self.sights[next].end;
        }
    }

    fn decide(&mut self, at: usize, around: &Around) {
        let sight = &self.sights[at];
        let is_directory = |kind: &Kind| matches!(kind, Kind::Directory { .. });
        match (sight.was, sight.is) {
            (None, None) => {}
            (None, Some(_)) => self.added(at, around),
            (Some(was), None) if sight.is_whiteout || around.hides => self.removed(at, was, around),
            // Of another choice.
            (Some(_), None) => {}
            (Some(was), Some(is)) if was.kind == SeenKind::Directory && is_directory(&is.kind) => {
                self.directory(at, was, is, around);
            }
            (Some(was), Some(is)) => self.written(at, was, is, around),
        }
    }

    /// Where a path is on the host.
    fn place(&self, sight: &Sight<'_>, around: &Around) -> Result<PathBuf, Why> {
        if let Some(to) = &self.options.to {
            return Ok(to.join(sight.path));
        }
        match sight.was.map(|was| &was.place) {
            Some(Place::Host { path, .. }) => Ok(path.clone()),
            Some(Place::Fixed { name, .. }) => Err(Why::Fixed { branch: name.clone() }),
            Some(Place::Lost {}) => Err(Why::Lost),
            None => around.place.clone().map(|dir| dir.join(name_of(sight))),
        }
    }

    fn find(&mut self, sight: &Sight<'_>, around: &Around) -> Result<(PathBuf, Found), Why> {
        let place = self.place(sight, around)?;
        let found = self.look.at(&place)?;
        Ok((place, found))
    }

    fn added(&mut self, at: usize, around: &Around) {
        let sight = &self.sights[at];
        let Some(is) = sight.is else { return };
        let (place, found) = match self.find(sight, around) {
            Err(why) => return self.refuse_all(at, why),
            Ok(found) => found,
        };
        if found.stat.is_none() {
            return self.step(at, &place, &found, Act::Add, Snapshot::default());
        }
        self.there_already(at, is, place, &found, Why::Exists);
    }

    /// Something is there that is not what was seen: unless it is what the layer has, it is left alone.
    fn there_already(&mut self, at: usize, is: &'a Entry, place: PathBuf, found: &Found, why: Why) {
        let sight = &self.sights[at];
        if !found.is_so(is, self.layer, self.done.ids.wanted(is)) {
            return self.refuse_all(at, why);
        }
        if !matches!(is.kind, Kind::Directory { .. }) {
            return self.note(at, Some(place), Outcome::Already);
        }
        if let Err(why) = self.has_a_part(at, &place, found, why) {
            return self.refuse_all(at, why);
        }
        self.note(at, Some(place.clone()), Outcome::Already);
        self.below(at + 1..sight.end, &Around { place: Ok(place), hides: true });
    }

    /// Whether what is in a directory of the host is a part of what the layer has there, as a choice leaves it. `why` it is none if it
    /// is empty: that may be anybody's.
    fn has_a_part(&mut self, at: usize, place: &Path, found: &Found, why: Why) -> Result<(), Why> {
        let exists = |path| Why::Within { path, why: Box::new(Why::Exists) };
        if let Some(name) = self.first_unknown(at, found)? {
            return Err(exists(self.sights[at].path.join(name)));
        }
        let children: Vec<usize> = self.children(at).filter(|child| !self.is_nothing(*child)).collect();
        let mut has_one = children.is_empty();
        for child in children {
            let (sight, layer) = (&self.sights[child], self.layer);
            let there = self.look.at(&place.join(name_of(sight)))?;
            if let (Some(is), Some(_)) = (sight.is, there.stat) {
                if !there.is_so(is, layer, self.done.ids.wanted(is)) {
                    return Err(exists(sight.path.to_owned()));
                }
                has_one = true;
            }
        }
        if has_one { Ok(()) } else { Err(why) }
    }

    /// The first name in a directory of the host that is neither seen nor the layer's.
    fn first_unknown(&self, at: usize, found: &Found) -> Result<Option<OsString>, Why> {
        let failed = |errno| Why::Failed { attempt: "list", errno };
        let dir = fsat::open_dir(&*found.dir, &found.name).map_err(failed)?;
        let known: BTreeSet<&OsStr> = self
            .children(at)
            .filter(|child| !self.is_nothing(*child))
            .map(|at| name_of(&self.sights[at]))
            .collect();
        Ok(unknown_names(&dir, &known).map_err(failed)?.into_iter().next())
    }

    fn is_nothing(&self, at: usize) -> bool {
        self.sights[at].was.is_none() && self.sights[at].is.is_none()
    }

    pub(super) fn children(&self, at: usize) -> impl Iterator<Item = usize> {
        let (mut next, end) = (at + 1, self.sights[at].end);
        std::iter::from_fn(move || {
            let child = (next < end).then_some(next)?;
            next = self.sights[child].end;
            Some(child)
        })
    }

    /// A file, symlink or another one in the place of something that is no directory, or was one.
    fn written(&mut self, at: usize, was: &'a Seen, is: &'a Entry, around: &Around) {
        let sight = &self.sights[at];
        let (place, found) = match self.find(sight, around) {
            Err(Why::Fixed { .. }) if self.is_idle(was, is) => return self.note(at, None, Outcome::Already),
            Err(why) => return self.refuse_all(at, why),
            Ok(found) => found,
        };
        let Some(stat) = found.stat else { return self.refuse_all(at, Why::Gone) };
        let wanted = self.done.ids.wanted_instead(is, was, &stat);
        let is_directory = matches!(is.kind, Kind::Directory { .. });
        if !is_directory && found.is_so(is, self.layer, wanted) {
            self.note(at, Some(place), Outcome::Already);
            // With a directory that was in its place, all that was in it went.
            return self.note_below(at, |_| Outcome::Already);
        }
        let old = match was.kind {
            SeenKind::Directory => self.tree(at, &place).map_err(|(path, why)| within(path, sight.path, why)),
            _ => self.known(&found, was, Some(is)).map(|node| Snapshot { nodes: vec![node] }),
        };
        match old {
            Ok(old) => {
                self.done.ids.learn(was, &stat);
                let first = self.done.steps.len();
                self.step(at, &place, &found, Act::Exchange, old);
                for step in &mut self.done.steps[first..] {
                    step.wanted = Some(wanted);
                }
            }
            Err(why) if is_directory => self.there_already(at, is, place, &found, why),
            Err(why) => self.refuse_all(at, why),
        }
    }

    /// Of what no host has: it is written anew, and has what it had.
    fn is_idle(&self, was: &'a Seen, is: &'a Entry) -> bool {
        changes::is_same_type(was, is) && changes::is_idle(&Change::Modified { was, is }, self.layer)
    }

    /// `is`: what the layer has in its place.
    pub(super) fn known(&mut self, found: &Found, was: &Seen, is: Option<&Entry>) -> Result<Node, Why> {
        if self.options.to.is_some() {
            return found.alike(was, self.contents.of(was).as_ref());
        }
        let known = found.known(was);
        if known != Err(Why::Changed) || was.kind != SeenKind::File {
            return known;
        }
        if !found.stat.is_some_and(|stat| self.done.ids.belongs(was, &stat)) {
            return Err(Why::Changed);
        }
        found.restored(was, self.contents.of(was).as_ref(), is).ok_or(Why::Changed)
    }

    fn removed(&mut self, at: usize, was: &'a Seen, around: &Around) {
        let sight = &self.sights[at];
        let (place, found) = match self.find(sight, around) {
            Err(Why::Directory { .. }) => return self.note_all(at, |_| Outcome::Already),
            Err(why) => return self.refuse_all(at, why),
            Ok(found) => found,
        };
        if found.stat.is_none() {
            return self.note_all(at, |_| Outcome::Already);
        }
        if was.kind == SeenKind::Directory {
            return self.removed_tree(at, &place, &found);
        }
        match self.known(&found, was, None) {
            Ok(node) => self.step(at, &place, &found, Act::Remove, Snapshot { nodes: vec![node] }),
            Err(why) => self.refuse_all(at, why),
        }
    }

    /// Whole, or what can go of one in which something has changed. One in which there is what the command did not see stays whole.
    fn removed_tree(&mut self, at: usize, place: &Path, found: &Found) {
        let sight = &self.sights[at];
        match self.tree(at, place) {
            Ok(old) => self.step(at, place, found, Act::Remove, old),
            Err((path, why @ (Why::Exists | Why::Mounted))) => {
                self.refuse_all(at, within(path, sight.path, why));
            }
            Err((path, why)) => {
                self.note(at, Some(place.to_owned()), Outcome::Conflict(within(path, sight.path, why)));
                let around = Around { place: Ok(place.to_owned()), hides: true };
                self.below(at + 1..sight.end, &around);
            }
        }
    }

    /// A directory that stays one.
    fn directory(&mut self, at: usize, was: &'a Seen, is: &'a Entry, around: &Around) {
        let sight = &self.sights[at];
        let is_changed = was.access != changes::access(is);
        // One that was made anew is opaque, and those that were made in it are not.
        let hides = around.hides || is.kind == Kind::Directory { opaque: true };
        let found = self.find(sight, around).and_then(|(place, found)| {
            self.check_directory(&place, &found, was)?;
            Ok((place, found))
        });
        let (place, found) = match found {
            Ok(found) => found,
            Err(why) => {
                if is_changed {
                    self.note(at, None, Outcome::Conflict(why.clone()));
                }
                return self.below(at + 1..sight.end, &Around { place: Err(why), hides });
            }
        };
        if let Some(stat) = &found.stat {
            self.done.ids.learn(was, stat);
        }
        if hides {
            let unseen = match self.first_unknown(at, &found) {
                Ok(None) => None,
                Ok(Some(name)) => Some(within(sight.path.join(name), sight.path, Why::Exists)),
                Err(why) => Some(why),
            };
            if let Some(why) = unseen {
                return self.refuse_all(at, why);
            }
        }
        if is_changed {
            self.access(at, was, is, &place, &found);
        }
        self.below(at + 1..sight.end, &Around { place: Ok(place), hides });
    }

    fn check_directory(&self, place: &Path, found: &Found, was: &Seen) -> Result<(), Why> {
        let another = || Why::Directory { path: place.to_owned() };
        let stat = found.stat.ok_or_else(another)?;
        let is_it = match &was.place {
            Place::Host { was, .. } if self.options.to.is_none() => {
                (was.dev, was.ino) == (stat.st_dev, stat.st_ino)
            }
            _ => true,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        (is_it && is_directory).then_some(()).ok_or_else(another)
    }

    fn access(&mut self, at: usize, was: &Seen, is: &'a Entry, place: &Path, found: &Found) {
        let Some(stat) = found.stat else { return };
        let wanted = self.done.ids.wanted_instead(is, was, &stat);
        let is = Access { mode: wanted.mode, uid: wanted.uid, gid: wanted.gid };
        let now = Access { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid };
        if is == now {
            return self.note(at, Some(place.to_owned()), Outcome::Already);
        }
        match self.known(found, was, None) {
            Ok(node) => {
                let act = Act::Access { was: now, is };
                let step = self.new_step(at, found, act, Snapshot { nodes: vec![node] });
                self.note(at, Some(place.to_owned()), step);
            }
            Err(why) => self.note(at, Some(place.to_owned()), Outcome::Conflict(why)),
        }
    }
}

pub(super) fn name_of<'a>(sight: &Sight<'a>) -> &'a OsStr {
    sight.path.file_name().unwrap_or_default()
}

/// Without a slash at the end where there is nothing below.
pub(super) fn joined(place: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { place.to_owned() } else { place.join(below) }
}

/// Why what is at `top` is left alone, because of what is at `path`.
fn within(path: PathBuf, top: &Path, why: Why) -> Why {
    if path == top { why } else { Why::Within { path, why: Box::new(why) } }
}
