//! The end of a cgroup: it can be removed when its last process has ended and no cgroup is left in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::cgroup::{Cgroup, CgroupError};
use crate::files;
use crate::hierarchy::Version;
use crate::place::Place;

/// How long processes that are killed may take.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_SLEEP: Duration = Duration::from_micros(100);
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// What is done with processes that are still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    Kill,
    /// They may end by themselves meanwhile, or are nobody's business here.
    Await(Duration),
}

/// Removes the cgroup at `places`, with all that are in it. What is gone is no error.
pub fn remove(places: &[Place], processes: Processes) -> Result<(), CgroupError> {
    let mut left: Vec<&Place> = Vec::new();
    for place in places {
        if !is_removed(place, remove_one)? {
            left.push(place);
        }
    }
    let patience = match processes {
        Processes::Kill => PATIENCE,
        Processes::Await(patience) => patience,
    };
    let deadline = Instant::now() + patience;
    let mut sleep = FIRST_SLEEP;
    while !left.is_empty() {
        if processes == Processes::Kill {
            let left: Vec<Place> = left.iter().map(|place| (*place).clone()).collect();
            Cgroup::open(&left)?.signal(Signal::KILL)?;
        }
        let late = Instant::now() >= deadline;
        let mut still = Vec::new();
        for place in left {
            match is_removed(place, remove_tree) {
                Ok(false) if late => {
                    return Err(CgroupError::step("remove", place.full_path())(Errno::BUSY.into()));
                }
                Ok(false) => still.push(place),
                removed => drop(removed?),
            }
        }
        left = still;
        if !left.is_empty() {
            std::thread::sleep(sleep);
            sleep = (sleep * 2).min(LONGEST_SLEEP);
        }
    }
    Ok(())
}

/// Removes the slices of a unit's cgroup in hierarchies that systemd does not know, which were made with it. Those with others in them stay.
pub(crate) fn remove_slices(places: &[Place]) {
    /// Its slices have settings there.
    const SYSTEMDS: [&str; 5] = ["cpu", "memory", "blkio", "devices", "pids"];
    let is_ours = |place: &&Place| {
        let is_systemds = |name: &String| SYSTEMDS.contains(&name.as_str()) || name.starts_with("name=");
        place.version == Version::V1 && !place.controllers.iter().any(is_systemds)
    };
    for place in places.iter().filter(is_ours) {
        let Ok(mount) = files::open_mount(&place.mount) else { continue };
        let is_slice = |path: &&Path| path.extension().is_some_and(|kind| kind == "slice");
        for slice in place.path.ancestors().skip(1).take_while(is_slice) {
            if remove_one(&mount, slice).is_err() {
                break;
            }
        }
    }
}

/// False if it is in use.
fn is_removed(place: &Place, remove: fn(&OwnedFd, &Path) -> io::Result<()>) -> Result<bool, CgroupError> {
    match files::open_mount(&place.mount).and_then(|mount| remove(&mount, &place.path)) {
        Ok(()) => Ok(true),
        Err(error) if files::is_gone(&error) => Ok(true),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(false),
        Err(error) => Err(CgroupError::step("remove", place.full_path())(error)),
    }
}

fn remove_one(directory: &OwnedFd, path: &Path) -> io::Result<()> {
    Ok(unlinkat(directory, path, AtFlags::REMOVEDIR)?)
}

/// Those in it first.
fn remove_tree(directory: &OwnedFd, path: &Path) -> io::Result<()> {
    let own = files::open_directory(directory.as_fd(), path)?;
    for name in files::children(&own)? {
        match remove_tree(&own, &name) {
            Err(error) if !files::is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    drop(own);
    remove_one(directory, path)
}
