//! The end of a cgroup: it can be removed when its last process has ended and no cgroup is left in it.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::rmdir;
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
    // A hierarchy itself is no container's.
    for place in places.iter().filter(|place| place.path != Path::new("")) {
        if !is_removed(place, |path| Ok(rmdir(path)?))? {
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
        let path = place.full_path();
        let is_slice = |path: &&Path| path.extension().is_some_and(|kind| kind == "slice");
        let mut slices = path.ancestors().skip(1).take_while(is_slice);
        while slices.next().is_some_and(|slice| rmdir(slice).is_ok()) {}
    }
}

/// False if it is in use.
fn is_removed(place: &Place, remove: impl Fn(&Path) -> io::Result<()>) -> Result<bool, CgroupError> {
    let path = place.full_path();
    match remove(&path) {
        Ok(()) => Ok(true),
        Err(error) if files::is_gone(&error) => Ok(true),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(false),
        Err(error) => Err(CgroupError::step("remove", path)(error)),
    }
}

/// Those in it first.
fn remove_tree(path: &Path) -> io::Result<()> {
    for name in files::children(files::open_place(path)?)? {
        match remove_tree(&path.join(name)) {
            Err(error) if !files::is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(rmdir(path)?)
}
