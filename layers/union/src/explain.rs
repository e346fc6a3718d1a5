//! An explanation: what each branch has at a path, and why it is shown or not.
//!
//! It is told by the code that resolves names, not worked out a second time. A branch that lost an ancestor of the
//! path (hidden, shadowed, deleted) is walked on alone, to see whether it had something at the path to lose.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::attr::FileKind;
use crate::describe::{Policy, TypeConflict};
use crate::merge::{Found, Merge};
use crate::node::{Node, PathHash};
use crate::origin::{BranchIndex, Place};
use crate::provenance::Provenance;
use crate::resolve::{Candidate, Dirs, Told, ViewLinks};
use crate::rules::{By, List, Verdict};
use crate::segment::{Segment, new_node};

/// Of one path of a segment.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What `lookup` answers.
    pub outcome: Result<Outcome, Errno>,
    /// The branches that have something at the path, in their order.
    pub accounts: Vec<Account>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub kind: FileKind,
    /// Segments below do not show through.
    pub opaque: bool,
    pub denied: bool,
}

/// What one branch has at the path, and what became of it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Position in the segment's description.
    pub branch: usize,
    pub label: String,
    /// Of a followed link: of what it leads to. `None` if the branch could not say.
    pub kind: Option<FileKind>,
    /// There because something lies below it.
    pub implied: bool,
    /// A directory below which nothing of later branches shows.
    pub opaque: bool,
    pub provenance: Provenance,
    /// Where in the view a followed link of scope `view` leads.
    pub leads_to: Option<PathBuf>,
    pub fate: Fate,
}

/// Branches and rules as the user named them; `at` is the path in the view where it was decided: the path itself or a
/// directory above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The name has its attributes, and its content if it is no directory.
    Shown,
    /// A directory whose names are shown with those of the one that is `Shown`.
    Merged,
    /// It says that what branches further down have is deleted.
    Whiteout,
    Shadowed {
        by: String,
        at: PathBuf,
    },
    Deleted {
        by: String,
        at: PathBuf,
        how: Deletion,
    },
    Hidden {
        by: String,
        at: PathBuf,
    },
    Denied {
        by: String,
        at: PathBuf,
    },
    /// A directory in one of the two branches and something else in the other, or a file in both, where that is an error.
    Conflict {
        with: String,
        at: PathBuf,
    },
    /// The branch could not say, or the name cannot be used.
    Failed {
        errno: Errno,
        at: PathBuf,
    },
}

impl Fate {
    /// `None`: nothing was decided against it.
    pub fn at(&self) -> Option<&Path> {
        match self {
            Fate::Shown | Fate::Merged | Fate::Whiteout => None,
            Fate::Shadowed { at, .. }
            | Fate::Deleted { at, .. }
            | Fate::Hidden { at, .. }
            | Fate::Denied { at, .. }
            | Fate::Conflict { at, .. }
            | Fate::Failed { at, .. } => Some(at),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Whiteout,
    Opaque,
}

impl Segment {
    /// What `lookup` answers for `path`, relative to the root of the segment, and why. Links that are not followed by a
    /// branch are not followed here.
    pub fn explain(&self, path: &Path) -> Explanation {
        let mut walk = Walk::at_root(self);
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => walk.step(OsStr::new("..")),
                Component::Normal(name) => walk.step(name),
            }
        }
        walk.explanation()
    }
}

/// One branch at the path that the walk has come to.
struct Entry {
    branch: BranchIndex,
    /// What the branch alone has there; `None` if it could not say.
    alone: Option<Arc<Node>>,
    fate: Fate,
}

/// [`Told`], kept.
enum Answer {
    Nothing,
    Failed(Errno),
    Refused(Candidate, Verdict),
    Taken(Candidate),
    Left(Candidate),
}

struct Walk<'a> {
    segment: &'a Segment,
    here: Result<Arc<Node>, Errno>,
    /// In the order of branches.
    entries: Vec<Entry>,
}

impl<'a> Walk<'a> {
    fn at_root(segment: &'a Segment) -> Walk<'a> {
        let mut answers = Vec::new();
        let found = segment.resolve_root_telling(|told| answers.push(Answer::new(told)));
        let branches = 0..segment.branches.len() as BranchIndex;
        let at_root = |branch| Ok(segment.at_root(branch)?.map(|found| (Verdict::Show, found)));
        let others = branches.clone().skip(answers.len()).map(|branch| (branch, at_root(branch)));
        let step = Step { segment, dir: None, name: OsStr::new(""), found: &found };
        let entries = step.entries(branches.clone().zip(answers).collect(), others.collect());
        Walk { segment, here: found.map(|_| segment.root()), entries }
    }

    fn step(&mut self, name: &OsStr) {
        let lost = std::mem::take(&mut self.entries);
        if let Ok(dir) = self.here.clone() {
            self.step_merged(&dir, name);
        }
        let lost = lost.into_iter().filter(|entry| !matches!(entry.fate, Fate::Shown | Fate::Merged));
        self.entries.extend(lost.filter_map(|entry| step_alone(self.segment, entry, name)));
        self.entries.sort_by_key(|entry| entry.branch);
    }

    fn step_merged(&mut self, dir: &Arc<Node>, name: &OsStr) {
        let (segment, mut answers) = (self.segment, Vec::new());
        let links = ViewLinks::Follow;
        let found = segment.resolve_telling(dir, name, links, |told| answers.push(Answer::new(told)));
        let dirs = Dirs::default();
        if let Ok(asked) = segment.ask(&dirs, dir, name, links) {
            let origins = dir.origins();
            let (told, others) = origins.split_at(answers.len());
            let others = others.iter().map(|origin| (origin.branch, segment.candidate(&asked, origin)));
            let answers = told.iter().map(|origin| origin.branch).zip(answers);
            let step = Step { segment, dir: Some(dir), name, found: &found };
            self.entries = step.entries(answers.collect(), others.collect());
        }
        self.here = found.map(|found| segment.adopt(dir, name, found).0);
    }

    fn explanation(self) -> Explanation {
        let outcome = self.here.map(|node| Outcome {
            kind: node.kind(),
            opaque: node.opaque,
            denied: node.refuse_denied().is_err(),
        });
        let account = |entry: Entry| account(self.segment, entry);
        Explanation { outcome, accounts: self.entries.into_iter().map(account).collect() }
    }
}

/// A branch that was lost further up goes on by itself, for the same reason.
fn step_alone(segment: &Segment, lost: Entry, name: &OsStr) -> Option<Entry> {
    let dir = lost.alone?;
    let mut answer = Answer::Nothing;
    let _ = segment.resolve_telling(&dir, name, ViewLinks::Follow, |told| answer = Answer::new(told));
    let alone = match &answer {
        Answer::Nothing => return None,
        Answer::Failed(_) => None,
        Answer::Refused(found, _) | Answer::Taken(found) | Answer::Left(found) => {
            Some(alone(segment, Some(&dir), name, found))
        }
    };
    Some(Entry { alone, ..lost })
}

/// A node of what one branch has, as if there were no other.
fn alone(segment: &Segment, dir: Option<&Arc<Node>>, name: &OsStr, found: &Candidate) -> Arc<Node> {
    let path = dir.map(|dir| dir.path().join(name)).unwrap_or_default();
    // Not that of any path.
    let hash = PathHash::of(&Path::new("/").join(found.origin.branch.to_string()).join(path));
    segment.table.node(dir, name, || hash.seed(), new_node(Merge::single(found.clone())))
}

fn account(segment: &Segment, entry: Entry) -> Account {
    let origins = entry.alone.as_ref().map(|node| node.origins());
    let origin = origins.as_ref().and_then(|origins| origins.first());
    let provenance = entry.alone.as_ref().zip(origin);
    let provenance = provenance.and_then(|(node, origin)| segment.provenance(node, origin).ok());
    Account {
        branch: entry.branch.into(),
        label: segment.branch(entry.branch).label.clone(),
        kind: entry.alone.as_ref().map(|node| node.kind()),
        opaque: entry.alone.as_ref().is_some_and(|node| node.opaque),
        implied: origin.is_some_and(|origin| origin.synthetic),
        provenance: provenance.unwrap_or_default(),
        leads_to: origin.and_then(|origin| match &origin.place {
            Place::Alias(target) => Some(target.path()),
            _ => None,
        }),
        fate: entry.fate,
    }
}

/// What a branch that was not asked has, and what the rules say of that.
type WouldSay = Result<Option<(Verdict, Candidate)>, Errno>;

/// One name and what the branches answered for it.
struct Step<'a> {
    segment: &'a Segment,
    dir: Option<&'a Arc<Node>>,
    name: &'a OsStr,
    /// The merged answer.
    found: &'a Result<Found, Errno>,
}

impl Step<'_> {
    /// `others` are the branches that were not asked, and what they would have said.
    fn entries(
        &self,
        answers: Vec<(BranchIndex, Answer)>,
        others: Vec<(BranchIndex, WouldSay)>,
    ) -> Vec<Entry> {
        let answers: Vec<_> =
            answers.into_iter().map(|(branch, answer)| (branch, self.settled(branch, answer))).collect();
        let conflict = answers.iter().find(|(_, answer)| self.is_conflict(&answers, answer));
        let conflict = conflict.map(|(branch, _)| *branch);
        let fates = answers.iter().map(|(_, answer)| self.fate(&answers, answer, conflict));
        let fates: Vec<_> = fates.collect();
        let asked = answers.iter().zip(fates).filter_map(|((branch, answer), fate)| {
            let alone = answer.candidate().map(|found| alone(self.segment, self.dir, self.name, found));
            Some(Entry { branch: *branch, alone, fate: fate? })
        });
        let others = others.into_iter().filter_map(|(branch, found)| {
            let (fate, alone) = match found.transpose()? {
                Ok((verdict, found)) => {
                    let alone = alone(self.segment, self.dir, self.name, &found);
                    (self.refusal(&found, verdict), Some(alone))
                }
                Err(_) => (None, None),
            };
            Some(Entry { branch, alone, fate: fate.unwrap_or_else(|| self.end(&answers)) })
        });
        asked.chain(others).collect()
    }

    /// What was taken until a newer file came is left out in the end.
    fn settled(&self, branch: BranchIndex, answer: Answer) -> Answer {
        match (answer, self.found) {
            (Answer::Taken(taken), Ok(found))
                if found.origins.iter().all(|origin| origin.branch != branch) =>
            {
                Answer::Left(taken)
            }
            (answer, _) => answer,
        }
    }

    /// `None`: the branch has nothing.
    fn fate(
        &self,
        answers: &[(BranchIndex, Answer)],
        answer: &Answer,
        conflict: Option<BranchIndex>,
    ) -> Option<Fate> {
        let at = self.at();
        Some(match answer {
            Answer::Nothing => return None,
            Answer::Failed(errno) => Fate::Failed { errno: *errno, at },
            Answer::Refused(found, verdict) => self.refusal(found, *verdict)?,
            Answer::Taken(found) if matches!(found.origin.place, Place::Denied) => {
                Fate::Denied { by: self.rule(found, By::Link), at }
            }
            Answer::Taken(_) if conflict.is_some() => Fate::Conflict { with: self.label(conflict?), at },
            // There is something, and yet it is not there: the view prefers another name.
            Answer::Taken(found) if matches!(self.found, Err(Errno::NOENT)) => {
                Fate::Hidden { by: self.rule(found, By::Extension(List::View)), at }
            }
            Answer::Taken(_) if self.found.is_err() => {
                Fate::Failed { errno: *self.found.as_ref().err()?, at }
            }
            Answer::Taken(found) | Answer::Left(found) if found.seen.attr.kind == FileKind::Whiteout => {
                Fate::Whiteout
            }
            Answer::Taken(found) if self.is_top(answers, found) => Fate::Shown,
            Answer::Taken(_) => Fate::Merged,
            Answer::Left(_) if self.is_conflict(answers, answer) => {
                Fate::Conflict { with: self.label(first(answers)?.origin.branch), at }
            }
            // Of two links to directories of the view the first is followed.
            Answer::Left(found) => {
                let rivals = taken(answers).filter(|taken| !found.is_alias() || taken.is_alias());
                let by = rivals.chain(taken(answers)).next()?;
                Fate::Shadowed { by: self.label(by.origin.branch), at }
            }
        })
    }

    /// `None`: the rules show it.
    fn refusal(&self, found: &Candidate, verdict: Verdict) -> Option<Fate> {
        match verdict {
            Verdict::Show => None,
            Verdict::Hide(by) => Some(Fate::Hidden { by: self.rule(found, by), at: self.at() }),
            Verdict::Deny(by) => Some(Fate::Denied { by: self.rule(found, by), at: self.at() }),
        }
    }

    /// What becomes of the branches that were not asked any more.
    fn end(&self, answers: &[(BranchIndex, Answer)]) -> Fate {
        let at = self.at();
        let last = answers.iter().rev().find(|(_, answer)| answer.may_end());
        match last {
            Some((_, Answer::Failed(errno))) => Fate::Failed { errno: *errno, at },
            Some((branch, answer)) => {
                let by = self.label(*branch);
                match answer.candidate().map(|found| &found.seen) {
                    Some(seen) if seen.attr.kind == FileKind::Whiteout => {
                        Fate::Deleted { by, at, how: Deletion::Whiteout }
                    }
                    Some(seen) if seen.opaque => Fate::Deleted { by, at, how: Deletion::Opaque },
                    _ => Fate::Shadowed { by, at },
                }
            }
            None => unreachable!("all branches are asked unless one of them ends it"),
        }
    }

    fn is_conflict(&self, answers: &[(BranchIndex, Answer)], answer: &Answer) -> bool {
        let is_dir = |found: &Candidate| found.seen.attr.kind == FileKind::Directory;
        match (answer, first(answers)) {
            (Answer::Left(found), Some(first)) if found.seen.attr.kind != FileKind::Whiteout => {
                match (is_dir(found), is_dir(first)) {
                    (false, false) => self.segment.policy == Policy::Error,
                    (found, first) => self.segment.types == TypeConflict::Error && found != first,
                }
            }
            _ => false,
        }
    }

    /// Whether the merged name has its attributes; as in [`Merge`].
    fn is_top(&self, answers: &[(BranchIndex, Answer)], found: &Candidate) -> bool {
        let top = taken(answers).find(|taken| !taken.origin.synthetic).or(first(answers));
        top.is_some_and(|top| top.origin.branch == found.origin.branch)
    }

    fn rule(&self, found: &Candidate, by: By) -> String {
        let branch = self.segment.branch(found.origin.branch);
        match by {
            By::Rule(List::Branch, rule) => {
                format!("rule {:?} of {}", branch.rules.pattern(rule), branch.label)
            }
            By::Rule(List::View, rule) => format!("rule {:?} of the view", self.segment.rules.pattern(rule)),
            By::Only(List::Branch) => format!("the only rules of {}", branch.label),
            By::Only(List::View) => "the only rules of the view".to_owned(),
            By::Extension(List::Branch) => format!("the extensionPriority of {}", branch.label),
            By::Extension(List::View) => "the extensionPriority of the view".to_owned(),
            By::Link => "a deny rule for a name on the way of the link".to_owned(),
        }
    }

    fn label(&self, branch: BranchIndex) -> String {
        self.segment.branch(branch).label.clone()
    }

    fn at(&self) -> PathBuf {
        self.dir.map_or(PathBuf::new(), |dir| dir.path().join(self.name))
    }
}

impl Answer {
    fn new(told: Told<'_>) -> Answer {
        match told {
            Told::Nothing => Answer::Nothing,
            Told::Failed(errno) => Answer::Failed(errno),
            Told::Refused(found, verdict) => Answer::Refused(found.clone(), verdict),
            Told::Taken(found) => Answer::Taken(found.clone()),
            Told::Left(found) => Answer::Left(found.clone()),
        }
    }

    fn candidate(&self) -> Option<&Candidate> {
        match self {
            Answer::Nothing | Answer::Failed(_) => None,
            Answer::Refused(found, _) | Answer::Taken(found) | Answer::Left(found) => Some(found),
        }
    }

    /// What is hidden has no say.
    fn may_end(&self) -> bool {
        !matches!(self, Answer::Nothing | Answer::Refused(_, Verdict::Hide(_)))
    }
}

fn taken(answers: &[(BranchIndex, Answer)]) -> impl Iterator<Item = &Candidate> {
    answers.iter().filter_map(|(_, answer)| match answer {
        Answer::Taken(found) => Some(found),
        _ => None,
    })
}

fn first(answers: &[(BranchIndex, Answer)]) -> Option<&Candidate> {
    taken(answers).next()
}
