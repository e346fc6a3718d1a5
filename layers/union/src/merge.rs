//! A merge: the branches' answers for one name, in their order, until one of them ends it.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::attr::{Attr, FileKind, Time};
use crate::describe::{Policy, TypeConflict};
use crate::fault::FaultReason;
use crate::fingerprint::Mixer;
use crate::hard_link::LinkedFile;
use crate::inode;
use crate::node::LayerLinks;
use crate::origin::{BranchIndex, Origin, Place};
use crate::resolve::{Candidate, Told};
use crate::segment::Segment;

/// As in the kernel: deeper nesting is a loop.
pub(crate) const MAX_FOLLOWS: u8 = 40;

/// What one branch shows at a name.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `ino` does not count.
    pub(crate) attr: Attr,
    /// The inode number that it should have: with the low half of the host's.
    pub(crate) wanted: Option<u64>,
    /// See [`crate::fingerprint`]; of what cannot change, any number that tells it from its neighbours.
    pub(crate) object: u64,
    /// 0 for what cannot change.
    pub(crate) print: u64,
    pub(crate) racy: bool,
    /// When it changed last, by the clock of this machine; the epoch if that cannot be known or cannot be.
    pub(crate) changed: Time,
    pub(crate) opaque: bool,
    /// Links followed for this name.
    pub(crate) follows: u8,
    /// The hard links that are one node.
    pub(crate) links: Option<LayerLinks>,
    /// The file of a host branch that has other names.
    pub(crate) linked: Option<LinkedFile>,
}

impl Seen {
    /// What never changes.
    pub(crate) fn fixed(attr: Attr, object: u64) -> Seen {
        Seen {
            attr,
            wanted: None,
            object,
            print: 0,
            racy: false,
            changed: Time::default(),
            opaque: false,
            follows: 0,
            links: None,
            linked: None,
        }
    }

    /// A followed link is a file of its own: an inode shared by names with one link would make overlayfs write to all.
    pub(crate) fn own_inode(mut self) -> Seen {
        self.links = None;
        self.linked = None;
        if self.attr.kind != FileKind::Directory {
            self.attr.nlink = 1;
        }
        self
    }

    /// As what a followed link shows, with the high half of inode numbers that is the link's.
    pub(crate) fn through_link(mut self, high: u16) -> Seen {
        self.wanted = self.wanted.map(|ino| inode::with_high_half(high, ino));
        self.linked = self.linked.map(|file| LinkedFile { high, ..file });
        self
    }
}

/// The merged answer.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) attr: Attr,
    pub(crate) origins: Vec<Origin>,
    pub(crate) wanted: Option<u64>,
    pub(crate) object: u64,
    pub(crate) print: u64,
    pub(crate) racy: bool,
    pub(crate) changed: Time,
    pub(crate) opaque: bool,
    pub(crate) follows: u8,
    pub(crate) links: Option<LayerLinks>,
    pub(crate) linked: Option<LinkedFile>,
}

pub(crate) struct Merge {
    types: TypeConflict,
    policy: Policy,
    parts: Vec<Candidate>,
    opaque: bool,
    done: bool,
    conflict: Option<Conflict>,
}

/// Two branches that may not both have the name.
#[derive(Debug)]
pub(crate) struct Conflict {
    about: Dispute,
    first: BranchIndex,
    second: BranchIndex,
}

#[derive(Debug)]
enum Dispute {
    Type,
    File,
}

impl Merge {
    pub(crate) fn new(types: TypeConflict, policy: Policy) -> Merge {
        Merge { types, policy, parts: Vec::new(), opaque: false, done: false, conflict: None }
    }

    /// A merge of one.
    pub(crate) fn single(candidate: Candidate) -> Found {
        let mut merge = Merge::new(TypeConflict::First, Policy::First);
        merge.add(candidate, &mut |_| {});
        merge.found(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Further branches cannot change the answer.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) fn add(&mut self, candidate: Candidate, tell: &mut impl FnMut(Told<'_>)) {
        let kind = candidate.seen.attr.kind;
        let Some(first) = self.parts.first() else {
            self.opaque = candidate.seen.opaque;
            // Where the others have a say, they are asked even though they may not be shown.
            let have_say = self.types == TypeConflict::Error || self.policy != Policy::First;
            let ask_on = have_say && kind != FileKind::Whiteout;
            self.done = self.opaque || kind != FileKind::Directory && !ask_on;
            tell(Told::Taken(&candidate));
            // Room for one: it is large, and mostly the only one.
            self.parts = vec![candidate];
            return;
        };
        let wanted = first.seen.attr.kind;
        if kind == FileKind::Whiteout {
            self.end(wanted);
        } else if (kind == FileKind::Directory) != (wanted == FileKind::Directory) {
            if self.types == TypeConflict::Error {
                self.conflict = Some(Conflict::between(Dispute::Type, first, &candidate));
            }
            self.end(wanted);
        } else if wanted == FileKind::Directory && !(candidate.is_alias() && self.has_alias()) {
            // One link of scope `view` at most: its target is already merged from all branches, and two of them
            // could lead to each other's directory, twice as many at each level.
            if candidate.seen.opaque {
                self.end(wanted);
            }
            tell(Told::Taken(&candidate));
            self.parts.push(candidate);
            return;
        } else if wanted != FileKind::Directory {
            match self.policy {
                Policy::First => {}
                Policy::Newest if candidate.seen.attr.mtime > first.seen.attr.mtime => {
                    tell(Told::Taken(&candidate));
                    self.parts[0] = candidate;
                    return;
                }
                Policy::Newest => {}
                Policy::Error => {
                    self.conflict = Some(Conflict::between(Dispute::File, first, &candidate));
                    self.done = true;
                }
            }
        }
        tell(Told::Left(&candidate));
    }

    /// Errors: absence, a conflict, too many links.
    pub(crate) fn finish(self, follows: u8) -> Result<Found, Failure> {
        if let Some(conflict) = self.conflict {
            return Err(Failure::Conflict(conflict));
        }
        if self.parts.is_empty() {
            return Err(Failure::Absent);
        }
        let found = self.found(follows);
        if found.follows > MAX_FOLLOWS { Err(Failure::Loop) } else { Ok(found) }
    }

    fn has_alias(&self) -> bool {
        self.parts.iter().any(Candidate::is_alias)
    }

    /// What lies further down, in this segment and in those below it, does not show through.
    fn end(&mut self, wanted: FileKind) {
        self.done = true;
        self.opaque = wanted == FileKind::Directory;
    }

    /// The attributes are those of the first directory that a branch really has.
    fn found(self, follows: u8) -> Found {
        let mut identity = Identity::default();
        for Candidate { origin, seen } in &self.parts {
            identity.add(origin, seen.object, seen.print);
        }
        let (object, print) = identity.finish(self.opaque);
        let seens = || self.parts.iter().map(|part| &part.seen);
        let top = self.parts.iter().find(|part| !part.origin.synthetic).unwrap_or(&self.parts[0]);
        Found {
            attr: top.seen.attr,
            wanted: top.seen.wanted,
            object,
            print,
            racy: seens().any(|seen| seen.racy),
            changed: seens().map(|seen| seen.changed).max().unwrap_or_default(),
            opaque: self.opaque,
            follows: follows.saturating_add(seens().map(|seen| seen.follows).max().unwrap_or(0)),
            links: top.seen.links,
            linked: top.seen.linked,
            origins: self
                .parts
                .into_iter()
                .map(|part| Origin { object: part.seen.object, ..part.origin })
                .collect(),
        }
    }
}

/// What a merged answer is, and which state of it: the numbers of its parts in their order.
#[derive(Default)]
pub(crate) struct Identity {
    object: Mixer,
    print: Mixer,
    may_change: bool,
}

impl Identity {
    pub(crate) fn add(&mut self, origin: &Origin, object: u64, print: u64) {
        self.object.add(u64::from(origin.branch) << 8 | tag(&origin.place)).add(object);
        self.print.add(print);
        self.may_change |= print != 0;
    }

    /// The object and the print.
    pub(crate) fn finish(mut self, opaque: bool) -> (u64, u64) {
        let object = self.object.add(u64::from(opaque)).get();
        (object, if self.may_change { self.print.get() } else { 0 })
    }
}

fn tag(place: &Place) -> u64 {
    match place {
        Place::Above => 0,
        Place::Host(_) => 1,
        Place::Entry(_) => 2,
        Place::InputDir(_) => 3,
        Place::Input(_) => 4,
        Place::Alias(_) => 5,
        Place::Denied => 6,
        Place::Deleted => 7,
    }
}

/// Why there is nothing to show.
#[derive(Debug)]
pub(crate) enum Failure {
    Absent,
    Loop,
    Conflict(Conflict),
}

impl Conflict {
    fn between(about: Dispute, first: &Candidate, second: &Candidate) -> Conflict {
        Conflict { about, first: first.origin.branch, second: second.origin.branch }
    }
}

impl Failure {
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Failure::Absent)
    }

    pub(crate) fn report(self, segment: &Segment, path: impl FnOnce() -> PathBuf) -> Errno {
        match self {
            Failure::Absent => Errno::NOENT,
            Failure::Loop => Errno::LOOP,
            Failure::Conflict(Conflict { about, first, second }) => {
                let label = |index| segment.branch(index).label.clone();
                let (first, second) = (label(first), label(second));
                let reason = match about {
                    Dispute::Type => FaultReason::TypeConflict { first, second },
                    Dispute::File => FaultReason::SeveralFiles { first, second },
                };
                segment.fault(path(), reason);
                Errno::IO
            }
        }
    }
}
