//! A kept root: the overlay of an action that wrote nothing, left with the view server. The next action with the same
//! segments and the same kind of upper takes it, and finds every name known that was looked up before.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use vfsrun_fuse::{KeptRoot, View};
use vfsrun_layers::LayerStore;
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Capabilities, Root, UpperOn};

use crate::upper::{self, Upper};

/// What an upper's own directory was when it was mounted. An upper that is empty and has the stamp still was not
/// written to: whatever is made or changed in the root of an action changes that directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Seconds and nanoseconds.
    ctime: (i64, u64),
    /// With the mode and the flags in case that the clock by which the kernel stamps files stood still meanwhile.
    mtime: (i64, u64),
    mode: u32,
    /// Of chattr(1).
    flags: u32,
}

impl Stamp {
    pub fn of(upper: impl AsFd) -> io::Result<Stamp> {
        let stat = rustix::fs::fstat(&upper)?;
        Ok(Stamp {
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            mode: stat.st_mode,
            flags: vfsrun_layers::flags(upper),
        })
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
    // A container's first process is its command, and its root goes with it.
    if !plan.command.reaper {
        return Ok(None);
    }
    if plan.sandbox.capabilities != Capabilities::default() || !plan.sandbox.no_new_privileges {
        return Ok(None);
    }
    let run = match upper.on {
        UpperOn::Disk => {
            let stat = rustix::fs::fstat(store.as_fd())?;
            Some((stat.st_dev, stat.st_ino))
        }
        UpperOn::Memory | UpperOn::Root => None,
    };
    let key = serde_json::to_string(&(upper, owner, &plan.ids, &plan.namespaces, run));
    Ok(Some(key.map_err(io::Error::from)?))
}

/// `None` if the root is not fit for use any more: its upper was removed or changed, or its overlay has met an error that
/// every later fsync would report.
pub fn take(plan: &Plan, kept: KeptRoot, store: &LayerStore) -> Option<Taken> {
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
    let fit = is_untouched(plan, &upper, stamp) && is_sound(&mount).is_ok();
    fit.then_some(Taken { mount, upper, stamp })
}

/// A volatile overlay writes nothing here; it only tells of errors.
fn is_sound(mount: &OwnedFd) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::syncfs(rustix::fs::openat(mount, ".", flags, Mode::empty())?)
}

/// Whether the action that is over has left its root as it was.
pub fn is_untouched(plan: &Plan, upper: &Upper, stamp: Stamp) -> bool {
    let Some(directory) = upper.directory() else { return false };
    Stamp::of(directory).is_ok_and(|now| now == stamp)
        && is_owned_as_planned(plan, directory).unwrap_or(false)
        && is_empty(directory).unwrap_or(false)
}

fn is_owned_as_planned(plan: &Plan, directory: impl AsFd) -> Option<bool> {
    let Root::View { owner, .. } = plan.root else { return None };
    let (stat, ids) = (rustix::fs::fstat(directory).ok()?, upper::id_map(plan));
    Some((ids.uid_inside(stat.st_uid).ok()?, ids.gid_inside(stat.st_gid).ok()?) == owner)
}

pub fn is_empty(directory: impl AsFd) -> io::Result<bool> {
    let mut names = rustix::fs::Dir::read_from(directory)?;
    Ok(names.all(|name| name.is_ok_and(|name| matches!(name.file_name().to_bytes(), b"." | b".."))))
}

/// Leaves the root to the next action. If that fails it is gone like any other, and what its upper was is swept.
pub fn keep(view: &mut View, mount: &OwnedFd, upper: Upper, stamp: Stamp) {
    let (upper, rest) = match upper {
        Upper::Disk(run) => (NotedUpper::Disk { run: run.id().to_owned() }, Vec::from(run.hand_over())),
        Upper::Memory { size, directory } => (NotedUpper::Memory { size }, Vec::from_iter(directory)),
        // No key is asked for with such a one.
        Upper::Root(_) => return,
    };
    let descriptors: Vec<_> = std::iter::once(mount).chain(&rest).map(AsFd::as_fd).collect();
    let note = serde_json::to_string(&Note { stamp, upper }).expect("numbers and an id");
    if let Err(error) = view.keep_root(note, &descriptors) {
        tracing::debug!(%error, "the root is not kept");
    }
}
