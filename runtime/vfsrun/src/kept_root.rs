//! A kept root: the overlay of an action that left nothing in it, left with the view server. The next action with the
//! same segments and the same kind of upper takes it, and finds every name known that was looked up before.
//!
//! Nothing is left if the upper holds nothing but copies of the host's directories that are what the directories below them are: who
//! makes a file in one and removes it again (a lock) leaves such a copy. Its mtime is set back. Its ctime cannot be,
//! so that no copy of a directory of a layer is kept, whose times are the same in every root.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};
use vfsrun_fuse::{KeptRoot, View};
use vfsrun_layers::{LayerStore, UpperDir};
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Capabilities, Root, UpperOn};

use crate::upper::{self, Upper};

/// A root that was kept, taken for an action.
pub struct Taken {
    /// Detached.
    pub mount: OwnedFd,
    pub upper: Upper,
    /// The upper's own directory first.
    pub known: Vec<UpperDir>,
}

/// What the next user of a root needs beside its descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    known: Vec<UpperDir>,
    upper: NotedUpper,
}

/// Descriptors after the mount: those of the run, or the upper directory.
#[derive(Debug, Serialize, Deserialize)]
enum NotedUpper {
    Disk { run: String },
    Memory { size: Option<u64> },
}

/// Under what the action's root is asked for and kept; `None` if it must be its own. Whoever has capabilities over the
/// overlay's user namespace could change how the overlay is mounted.
pub fn key(plan: &Plan, store: &LayerStore) -> io::Result<Option<String>> {
    let Root::View { upper, owner, .. } = &plan.root else { return Ok(None) };
    if plan.sandbox.capabilities != Capabilities::default() || !plan.sandbox.no_new_privileges {
        return Ok(None);
    }
    let run = match upper.on {
        UpperOn::Disk => {
            let stat = rustix::fs::fstat(store.as_fd())?;
            Some((stat.st_dev, stat.st_ino))
        }
        UpperOn::Memory => None,
    };
    let key = serde_json::to_string(&(upper, owner, &plan.ids, &plan.namespaces, run));
    Ok(Some(key.map_err(io::Error::from)?))
}

/// `None` if the root is not fit for use: its upper was removed or changed.
pub fn take(kept: KeptRoot, store: &LayerStore) -> Option<Taken> {
    let Note { known, upper } = serde_json::from_str(&kept.note).ok()?;
    let mut descriptors = kept.descriptors.into_iter();
    let mount = descriptors.next()?;
    let rest: Vec<OwnedFd> = descriptors.collect();
    let upper = match upper {
        NotedUpper::Disk { run } => {
            Upper::Disk(store.take_over_run(&run, rest.try_into().ok()?).ok().flatten()?)
        }
        NotedUpper::Memory { size } => {
            let [directory] = rest.try_into().ok()?;
            Upper::Memory { size, directory: Some(directory) }
        }
    };
    (dirs(&upper)? == known).then_some(Taken { mount, upper, known })
}

/// The upper's directories if it holds nothing else. Ask before a capture moves files out of it: the overlay still
/// knows those.
pub fn dirs(upper: &Upper) -> Option<Vec<UpperDir>> {
    vfsrun_layers::upper_dirs(upper.directory()?).ok().flatten()
}

/// The directories as they were before the action, times of those that were changed set back; `None` if one is not what
/// it was. `lower` tells what is below one that may be kept.
pub fn settle(
    plan: &Plan,
    upper: &Upper,
    dirs: Vec<UpperDir>,
    known: &[UpperDir],
    lower: impl Fn(&Path) -> Option<UpperDir>,
) -> Option<Vec<UpperDir>> {
    let upper_dir = upper.directory()?;
    let mut settled = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let before = match known.iter().find(|known| known.path == dir.path) {
            Some(known) => known.clone(),
            None if dir.path.as_os_str().is_empty() => new_root(plan, &dir)?,
            None => lower(&dir.path)?,
        };
        if !dir.is_like(&before) {
            return None;
        }
        let dir = if dir.mtime == before.mtime {
            dir
        } else {
            vfsrun_layers::set_upper_dir_mtime(upper_dir, &dir.path, before.mtime).ok()?
        };
        settled.push(dir);
    }
    Some(settled)
}

/// Leaves the root to the next action. If that fails it is gone like any other, and what its upper was is swept. The
/// upper is given back if its directories cannot be written down.
pub fn keep(view: &mut View, mount: &OwnedFd, upper: Upper, known: Vec<UpperDir>) -> Result<(), Upper> {
    let noted = match &upper {
        Upper::Disk(run) => NotedUpper::Disk { run: run.id().to_owned() },
        Upper::Memory { size, .. } => NotedUpper::Memory { size: *size },
    };
    // A name that is not UTF-8.
    let Ok(note) = serde_json::to_string(&Note { known, upper: noted }) else { return Err(upper) };
    let rest = match upper {
        Upper::Disk(run) => Vec::from(run.hand_over()),
        Upper::Memory { directory, .. } => Vec::from_iter(directory),
    };
    let descriptors: Vec<_> = std::iter::once(mount).chain(&rest).map(AsFd::as_fd).collect();
    if let Err(error) = view.keep_root(note, &descriptors) {
        tracing::debug!(%error, "the root is not kept");
    }
    Ok(())
}

/// What the upper's own directory is when an action gets it.
fn new_root(plan: &Plan, now: &UpperDir) -> Option<UpperDir> {
    let Root::View { owner, .. } = plan.root else { return None };
    let ids = upper::id_map(plan);
    let is_owner = (ids.uid_inside(now.uid).ok()?, ids.gid_inside(now.gid).ok()?) == owner;
    is_owner.then(|| UpperDir { mode: upper::ROOT_MODE, ..now.clone() })
}
