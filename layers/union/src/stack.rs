//! A stack of segments, as an overlay of them shows a path: the first one that has the name decides, directories merge
//! until one of them is opaque, and a whiteout is nothing.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use crate::attr::FileKind;
use crate::explain::{Account, Deletion, Explanation, Fate, Outcome};
use crate::merge::MAX_FOLLOWS;
use crate::segment::Segment;
use crate::spot::Spot;

/// What an overlay of the segments, the first one on top, answers for `path`, and why. See [`Segment::explain`].
pub fn explain(segments: &[Segment], path: &Path) -> Explanation {
    let mut stack = Stack { levels: vec![Level::Open; segments.len()], outcome: Err(Errno::NOENT) };
    let mut here = PathBuf::new();
    stack.step(segments, &here);
    for name in path.components().filter(|component| matches!(component, Component::Normal(_))) {
        stack.outcome = match stack.outcome {
            Ok(Outcome { denied: true, .. }) => Err(Errno::ACCESS),
            Ok(Outcome { kind: FileKind::Directory, .. }) => Err(Errno::NOENT),
            Ok(_) => Err(Errno::NOTDIR),
            Err(errno) => Err(errno),
        };
        here.push(name);
        if stack.outcome == Err(Errno::NOENT) {
            stack.step(segments, &here);
        }
    }
    let accounts =
        segments.iter().zip(&stack.levels).flat_map(|(segment, level)| level.accounts(segment, &here));
    Explanation { outcome: stack.outcome, accounts: accounts.collect() }
}

/// `path` with the links of its directories followed, as by a program whose root is the stack; its last name is not.
/// Errors: LOOP beyond 40 links.
pub fn follow_directories(segments: &[Segment], path: &Path) -> Result<PathBuf, Errno> {
    let names = |path: &Path| path.components().rev().map(|name| name.as_os_str().to_owned()).collect();
    let (mut left, mut here, mut links): (Vec<OsString>, _, _) = (names(path), PathBuf::new(), 0);
    while let Some(name) = left.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(name)) => here.push(name),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::RootDir) => here.clear(),
            _ => {}
        }
        let is_last = left.is_empty();
        if let Some(target) =
            Spot::at(segments, &here).and_then(|spot| spot.read_link()).ok().filter(|_| !is_last)
        {
            links += 1;
            if links > MAX_FOLLOWS {
                return Err(Errno::LOOP);
            }
            here.pop();
            left.extend(names(&target));
        }
    }
    Ok(here)
}

/// What one segment has to do with the name that the walk has come to.
#[derive(Clone)]
enum Level {
    /// It is asked.
    Open,
    /// It has nothing there, or nothing that counts.
    Gone,
    /// It decides: attributes and content are those that it shows.
    Top,
    /// What it shows is merged into what those above it show.
    Below,
    /// What it shows is not seen.
    Ended(Fate),
}

struct Stack {
    levels: Vec<Level>,
    outcome: Result<Outcome, Errno>,
}

impl Stack {
    fn step(&mut self, segments: &[Segment], path: &Path) {
        let mut top: Option<String> = None;
        let mut end: Option<Fate> = None;
        for (segment, level) in segments.iter().zip(&mut self.levels) {
            if matches!(level, Level::Gone | Level::Ended(_)) {
                continue;
            }
            if let Some(fate) = &end {
                *level = Level::Ended(fate.clone());
                continue;
            }
            let found = segment.explain(path);
            let label = found.label();
            let shadowed = |by: &str| Fate::Shadowed { by: by.to_owned(), at: path.to_owned() };
            *level = match (found.outcome, &top) {
                (Err(Errno::NOENT | Errno::NOTDIR), _) => Level::Gone,
                (Err(errno), _) => {
                    self.outcome = Err(errno);
                    end = Some(Fate::Failed { errno, at: path.to_owned() });
                    Level::Top
                }
                (Ok(Outcome { kind: FileKind::Whiteout, .. }), _) => {
                    end = Some(Fate::Deleted { by: label, at: path.to_owned(), how: Deletion::Whiteout });
                    Level::Gone
                }
                (Ok(outcome), Some(top)) if outcome.kind != FileKind::Directory => {
                    end = Some(shadowed(&label));
                    Level::Ended(shadowed(top))
                }
                (Ok(outcome), above) => {
                    if outcome.kind != FileKind::Directory || outcome.denied {
                        end = Some(shadowed(&label));
                    } else if outcome.opaque {
                        end = Some(found.end(path));
                    }
                    let level = if above.is_some() { Level::Below } else { Level::Top };
                    if above.is_none() {
                        (self.outcome, top) = (Ok(outcome), Some(label));
                    }
                    level
                }
            };
        }
    }
}

impl Level {
    fn accounts(&self, segment: &Segment, path: &Path) -> Vec<Account> {
        let mut accounts = segment.explain(path).accounts;
        for account in &mut accounts {
            match (self, &account.fate) {
                // What was decided first; a rule of its own comes before what is above.
                (Level::Ended(fate), own) if own.at().is_none_or(|at| fate.at() < Some(at)) => {
                    account.fate = fate.clone();
                }
                (Level::Below, Fate::Shown) => account.fate = Fate::Merged,
                _ => {}
            }
        }
        accounts
    }
}

impl Explanation {
    /// The branch that decides what the segment shows.
    fn label(&self) -> String {
        let decides = |account: &&Account| {
            matches!(account.fate, Fate::Shown | Fate::Denied { .. })
                || self.is_whiteout() && account.fate == Fate::Whiteout
        };
        self.accounts.iter().find(decides).map(|account| account.label.clone()).unwrap_or_default()
    }

    fn is_whiteout(&self) -> bool {
        self.outcome.is_ok_and(|outcome| outcome.kind == FileKind::Whiteout)
    }

    /// Why nothing that lies further down is seen in a directory that is opaque.
    fn end(&self, path: &Path) -> Fate {
        let at = path.to_owned();
        let by = |account: &Account| account.label.clone();
        let whiteout = self.accounts.iter().find(|account| account.fate == Fate::Whiteout);
        let opaque = self.accounts.iter().find(|account| account.opaque);
        let other = self.accounts.iter().find(|account| account.kind != Some(FileKind::Directory));
        match (whiteout, opaque, other) {
            (Some(whiteout), ..) => Fate::Deleted { by: by(whiteout), at, how: Deletion::Whiteout },
            (None, Some(opaque), _) => Fate::Deleted { by: by(opaque), at, how: Deletion::Opaque },
            (None, None, other) => Fate::Shadowed { by: other.map_or_else(|| self.label(), by), at },
        }
    }
}
