//! A plan: which steps bring the changes of a layer to the host, and which of its paths are left alone and why. It is made before
//! anything is done, and looks without touching.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::decide::Decider;
use super::look::Ids;
use super::step::{Parent, Step};
use super::why::Why;
use crate::base::{Base, Identity, Place, Seen, SeenKind};
use crate::changes::{self, is_same_type};
use crate::manifest::{Entry, Kind, Manifest};
use crate::order;
use crate::store::LayerStore;

/// How changes are brought to the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// To the paths below this directory, which are those in the root of the action, and not to where they came from. Absolute,
    /// without symlinks.
    pub to: Option<PathBuf>,
    /// All or nothing.
    pub whole: bool,
    /// Of the layer and its base. What is begun and taken back changes the ctimes of files, of which the base is told.
    pub name: Option<String>,
}

/// What becomes of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// In the root of the action.
    pub path: PathBuf,
    pub change: Sort,
    pub is_directory: bool,
    /// Where that is on the host, if it is a place of the host.
    pub host: Option<PathBuf>,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Added,
    Removed,
    Replaced,
    Modified,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By this step.
    Done(usize),
    /// It was as it is to be.
    Already,
    Conflict(Why),
}

/// What brings the changes of a layer to the host.
pub struct Plan<'a> {
    pub(super) store: &'a LayerStore,
    pub(super) layer: Manifest,
    pub(super) options: Options,
    /// Files get the times that the layer has.
    pub(super) keeps_times: bool,
    pub(super) ids: Ids,
    /// Directories around what is changed, as the base has them.
    pub(super) ways: Vec<Seen>,
    pub(super) parents: Vec<Parent>,
    pub(super) steps: Vec<Step>,
    pub(super) items: Vec<Item>,
}

impl<'a> Plan<'a> {
    /// Of what `layer` does to what `base` saw; see [`super::choose`] for some of it. Looks at every path, and reads files that may
    /// be as they are to be.
    pub fn new(store: &'a LayerStore, layer: Manifest, base: &Base, options: Options) -> Plan<'a> {
        let sights = sights(&layer, base);
        let mut decider = Decider::new(&sights, &layer, &options, Contents::new(store, base));
        decider.decide_all();
        let (mut items, steps) = decider.ended();
        let links = Links { layer: &layer, steps: &steps.steps, parents: &steps.parents };
        links.refuse_unsound(&mut items);
        let ways = base.seen.iter().filter(|seen| seen.kind == SeenKind::Directory);
        let ways =
            ways.filter(|seen| is_way(seen, &steps.steps)).map(|seen| placed(seen, &options)).collect();
        let mut plan = Plan {
            store,
            keeps_times: base.raw,
            ids: steps.ids,
            ways,
            parents: steps.parents,
            steps: steps.steps,
            items,
            options,
            layer,
        };
        plan.drop_refused_steps();
        plan
    }

    /// All paths that the layer changes, or would, in the order of manifests.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    pub fn conflicts(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| matches!(item.outcome, Outcome::Conflict(_)))
    }

    /// Steps of which a path is left alone are none any more; the others are numbered anew.
    pub(super) fn drop_refused_steps(&mut self) {
        let mut is_kept = vec![false; self.steps.len()];
        for item in &self.items {
            if let Outcome::Done(step) = item.outcome {
                is_kept[step] = true;
            }
        }
        let mut next = 0;
        let numbers: Vec<usize> = is_kept.iter().map(|kept| (next, next += usize::from(*kept)).0).collect();
        for item in &mut self.items {
            if let Outcome::Done(step) = &mut item.outcome {
                *step = numbers[*step];
            }
        }
        let mut is_kept = is_kept.into_iter();
        self.steps.retain(|_| is_kept.next().unwrap_or(false));
    }

    /// The paths that go with a step are left alone, and what depends on them.
    pub(super) fn refuse(&mut self, refused: Vec<(usize, Why)>) {
        for (step, why) in refused {
            refuse_step(&mut self.items, &self.steps[step].path, step, &why);
        }
        let links = Links { layer: &self.layer, steps: &self.steps, parents: &self.parents };
        links.refuse_unsound(&mut self.items);
    }
}

pub(super) fn refuse_step(items: &mut [Item], top: &Path, step: usize, why: &Why) {
    for item in items.iter_mut().filter(|item| item.outcome == Outcome::Done(step)) {
        let is_top = item.path == top;
        let why = if is_top { why.clone() } else { Why::Around { path: top.to_owned() } };
        item.outcome = Outcome::Conflict(why);
    }
}

/// Whether a directory is around what a step does.
fn is_way(seen: &Seen, steps: &[Step]) -> bool {
    let after = steps.partition_point(|step| order::compare(&step.path, &seen.path).is_le());
    steps.get(after).is_some_and(|step| order::is_below(&step.path, &seen.path))
}

/// Where it is to be found from now on.
fn placed(seen: &Seen, options: &Options) -> Seen {
    let mut placed = seen.clone();
    if let Some(to) = &options.to {
        let path = to.join(&seen.path);
        placed.place = Place::Host { path, was: Identity::default(), changed: false };
    }
    placed
}

/// One path, as it was seen and as the layer has it.
pub(super) struct Sight<'a> {
    pub path: &'a Path,
    pub was: Option<&'a Seen>,
    /// No whiteout.
    pub is: Option<&'a Entry>,
    pub is_whiteout: bool,
    /// The position after the last one below it.
    pub end: usize,
}

impl Sight<'_> {
    pub fn sort(&self) -> Option<Sort> {
        Some(match (self.was, self.is) {
            (None, None) => return None,
            (None, Some(_)) => Sort::Added,
            (Some(_), None) => Sort::Removed,
            (Some(was), Some(is)) if is_same_type(was, is) => {
                let is_kept = was.kind == SeenKind::Directory && was.access == changes::access(is);
                return (!is_kept).then_some(Sort::Modified);
            }
            (Some(_), Some(_)) => Sort::Replaced,
        })
    }

    pub fn is_directory(&self) -> bool {
        match (self.is, self.was) {
            (Some(is), _) => matches!(is.kind, Kind::Directory { .. }),
            (None, was) => was.is_some_and(|was| was.kind == SeenKind::Directory),
        }
    }
}

fn sights<'a>(layer: &'a Manifest, base: &'a Base) -> Vec<Sight<'a>> {
    let pairs = order::join(&layer.entries, |entry| &entry.path, &base.seen, |seen| &seen.path);
    let mut sights: Vec<Sight<'a>> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for (is, was) in pairs {
        let Some(path) = is.map(|is| is.path.as_path()).or(was.map(|was| was.path.as_path())) else {
            continue;
        };
        let at = sights.len();
        while let Some(above) = open.pop_if(|above| !order::is_below(path, sights[*above].path)) {
            sights[above].end = at;
        }
        open.push(at);
        let is_whiteout = is.is_some_and(|is| is.kind == Kind::Whiteout);
        sights.push(Sight { path, was, is: is.filter(|_| !is_whiteout), is_whiteout, end: at + 1 });
    }
    let length = sights.len();
    for at in open {
        sights[at].end = length;
    }
    sights
}

/// Names of one file, which stay that.
struct Links<'a> {
    layer: &'a Manifest,
    steps: &'a [Step],
    parents: &'a [Parent],
}

impl Links<'_> {
    /// A name of a file that is left alone is left alone, too, and so on.
    fn refuse_unsound(&self, items: &mut [Item]) {
        let firsts: HashMap<&Path, &Path> = self
            .layer
            .entries
            .iter()
            .filter_map(|entry| match &entry.kind {
                Kind::HardLink { to } => Some((entry.path.as_path(), to.as_path())),
                _ => None,
            })
            .collect();
        if firsts.is_empty() {
            return;
        }
        loop {
            let unsound = items.iter().find_map(|item| {
                let Outcome::Done(step) = item.outcome else { return None };
                let to = firsts.get(item.path.as_path())?;
                Some((step, item.path.clone(), self.fault(items, step, to)?))
            });
            let Some((step, path, why)) = unsound else { return };
            let top = &self.steps[step].path;
            let why = match path == *top {
                true => why,
                false => Why::Within { path, why: Box::new(why) },
            };
            refuse_step(items, top, step, &why);
        }
    }

    fn fault(&self, items: &[Item], step: usize, to: &Path) -> Option<Why> {
        let first = items.binary_search_by(|item| order::compare(&item.path, to)).ok()?;
        let place = || to.to_owned();
        let dev = match (&items[first].outcome, &items[first].host) {
            (Outcome::Done(other), _) if *other == step => return None,
            (Outcome::Done(other), _) => self.parents[self.steps[*other].parent].dev,
            (Outcome::Already, Some(host)) => rustix::fs::lstat(host).map_or(0, |stat| stat.st_dev),
            _ => return Some(Why::LinkOf { path: place() }),
        };
        (dev != self.parents[self.steps[step].parent].dev).then(|| Why::OtherFileSystem { path: place() })
    }
}
