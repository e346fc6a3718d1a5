//! `vfsrun which --odd SPEC`: names of the root that other systems cannot keep apart, or cannot write. Its branches are
//! walked as one tree; nothing is mounted.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use vfsrun_layers::without_case;
use vfsrun_spec::one_line;
use vfsrun_sys::chain;
use vfsrun_union::describe::{Order, Symlinks};
use vfsrun_union::{Context, Errno, Fate, FileKind, Node, Segment};

use super::{Failure, Outcome, write_out};
use crate::cli::Global;
use crate::decide::{self, Branches};
use crate::progress::Progress;
use crate::segments::{self, SegmentsError};
use crate::view::FileLimit;

#[derive(Debug, Error)]
enum OddError {
    #[error(transparent)]
    Build(#[from] SegmentsError),
    #[error("{}: cannot list it", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot print")]
    Print { source: io::Error },
}

/// Ends with 1 if there are odd names.
pub fn odd(spec: PathBuf, global: &Global) -> Outcome {
    let _limit = FileLimit::raise().map_err(|error| Failure::own(&error))?;
    let branches = decide::branches(&super::plan::request(spec, global))
        .map_err(|error| Failure { message: chain(&error), code: error.exit_code() })?;
    let progress = Progress::of_names("names");
    let walked = walk(branches, &progress);
    progress.end();
    match walked {
        // Nobody reads any more (`| head`): there were some.
        Err(OddError::Print { source }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(1),
        Err(error) => Err(Failure::own(&error)),
        Ok(found) => Ok(u8::from(found)),
    }
}

fn walk(branches: Branches, progress: &Progress) -> Result<bool, OddError> {
    let Branches { file, mut segment, store } = branches;
    segment.spec.order = Order::Sorted;
    let follows_links = segment.spec.branches.iter().any(|branch| branch.symlinks != Symlinks::Never);
    let segment = segments::build_one(&segment, store.as_ref(), &file, &Context::default())?;
    let mut found = false;
    let mut known = follows_links.then(HashSet::new);
    // Directories on the way to where the walk is, each with those in it that are still to come.
    let mut way = vec![(segment.root(), vec![OsString::new()])];
    while let Some((parent, left)) = way.last_mut() {
        let Some(name) = left.pop() else {
            way.pop();
            continue;
        };
        let Some(dir) = directory(&segment, parent, &name, known.as_mut()) else { continue };
        let Some(names) = list(&segment, &dir)? else { continue };
        progress.add(names.len());
        for line in odd_among(&segment, &dir.path(), &names) {
            found = true;
            let printed = progress.aside(|| write_out(&one_line(&line)));
            printed.map_err(|source| OddError::Print { source })?;
        }
        let below = names.into_iter().filter(|(_, kind)| *kind == FileKind::Directory);
        way.push((dir, below.rev().map(|(name, _)| name).collect()));
    }
    Ok(found)
}

/// `None` for one that is gone, or that a link has led to before: by links a tree has no end.
fn directory(
    segment: &Segment,
    parent: &Arc<Node>,
    name: &OsStr,
    known: Option<&mut HashSet<blake3::Hash>>,
) -> Option<Arc<Node>> {
    let dir = if name.is_empty() { Arc::clone(parent) } else { segment.lookup(parent, name).ok()? };
    if let Some(known) = known
        && let Ok(files) = segment.get_xattr(&dir, OsStr::new("user.vfsrun.path"))
        && !known.insert(blake3::hash(&files))
    {
        return None;
    }
    Some(dir)
}

/// `None` where the caller may not look.
fn list(segment: &Segment, dir: &Arc<Node>) -> Result<Option<Vec<(OsString, FileKind)>>, OddError> {
    match segment.list(dir) {
        Ok(entries) => Ok(Some(entries.into_iter().map(|entry| (entry.name, entry.kind)).collect())),
        Err(Errno::ACCESS | Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(OddError::List { path: Path::new("/").join(dir.path()), source: errno.into() }),
    }
}

fn odd_among(segment: &Segment, dir: &Path, names: &[(OsString, FileKind)]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folded: HashMap<String, &OsStr> = HashMap::new();
    for (name, _) in names {
        let Some(common) = without_case(name) else {
            lines.push(format!("no UTF-8: {}", named(segment, &dir.join(name))));
            continue;
        };
        if let Some(other) = folded.insert(common, name) {
            let [other, name] = [other, name].map(|name| named(segment, &dir.join(name)));
            lines.push(format!("differ in case alone: {other} and {name}"));
        }
    }
    lines
}

/// With the branches that it is shown from.
fn named(segment: &Segment, path: &Path) -> String {
    let accounts = segment.explain(path).accounts.into_iter();
    let shown = accounts.filter(|account| matches!(account.fate, Fate::Shown | Fate::Merged));
    let branches: Vec<_> = shown.map(|account| account.label).collect();
    let path = Path::new("/").join(path);
    let path = path.to_str().map_or_else(|| format!("{path:?}"), str::to_owned);
    format!("{path} of {}", branches.join(", "))
}
