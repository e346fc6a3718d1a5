//! A kept root: the overlay of an action that wrote nothing, left with the view server. The next action with the same
//! segments and the same kind of upper takes it, and finds every name known that was looked up before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use vfsrun_fuse::{KeptRoot, View};
use vfsrun_layers::LayerStore;
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Capabilities, Root, UpperOn};

use crate::upper::Upper;

/// When an upper's root directory changed last. An upper that is empty and has the stamp it was mounted with was not
/// written to: whatever is made or changed in the root of an action changes that directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Seconds and nanoseconds.
    ctime: (i64, u64),
}

impl Stamp {
    pub fn of(upper: impl AsFd) -> io::Result<Stamp> {
        let stat = rustix::fs::fstat(upper)?;
        Ok(Stamp { ctime: (stat.st_ctime, stat.st_ctime_nsec) })
    }
}

/// A root that was kept, taken for an action.
pub struct Taken {
    /// Detached.
    pub mount: OwnedFd,
    pub upper: Upper,
    pub stamp: Stamp,
}

/// What the next user of a root needs beside its descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    stamp: Stamp,
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

/// `None` if the root is not fit for use any more: its upper was removed.
pub fn take(kept: KeptRoot, store: &LayerStore) -> Option<Taken> {
    let Note { stamp, upper } = serde_json::from_str(&kept.note).ok()?;
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
    let taken = Taken { mount, upper, stamp };
    is_untouched(&taken.upper, stamp).then_some(taken)
}

/// Whether the action that is over has left its root as it was.
pub fn is_untouched(upper: &Upper, stamp: Stamp) -> bool {
    let Some(directory) = upper.directory() else { return false };
    Stamp::of(directory).is_ok_and(|now| now == stamp) && is_empty(directory).unwrap_or(false)
}

fn is_empty(directory: impl AsFd) -> io::Result<bool> {
    let mut names = rustix::fs::Dir::read_from(directory)?;
    Ok(names.all(|name| name.is_ok_and(|name| matches!(name.file_name().to_bytes(), b"." | b".."))))
}

/// Leaves the root to the next action. If that fails it is gone like any other, and what its upper was is swept.
pub fn keep(view: &mut View, mount: &OwnedFd, upper: Upper, stamp: Stamp) {
    let (upper, rest) = match upper {
        Upper::Disk(run) => {
            let (run, descriptors) = run.hand_over();
            (NotedUpper::Disk { run }, Vec::from(descriptors))
        }
        Upper::Memory { size, directory } => (NotedUpper::Memory { size }, Vec::from_iter(directory)),
    };
    let descriptors: Vec<_> = std::iter::once(mount).chain(&rest).map(AsFd::as_fd).collect();
    let note = serde_json::to_string(&Note { stamp, upper }).expect("numbers and an id");
    if let Err(error) = view.keep_root(note, &descriptors) {
        tracing::debug!(%error, "the root is not kept");
    }
}
