//! Controllers of version 2: a cgroup has those that every one above it passes on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::files;
use crate::hierarchy::Version;
use crate::limits::Limit;
use crate::place::Place;

/// Has those above `place` pass on what its limits need; where there is no version 1, everything that is there, for what is used is
/// counted by controllers, too. What cannot be passed on is found when its limit is written.
pub(crate) fn pass_on(
    mount: &OwnedFd,
    directory: &OwnedFd,
    place: &Place,
    places: &[Place],
    limits: &[Limit],
) -> io::Result<()> {
    let is_hybrid = places.iter().any(|place| place.version == Version::V1);
    let is_needed = |controller: &str| {
        let mut of_v2 = limits.iter().filter(|limit| limit.version == Version::V2);
        !is_hybrid || of_v2.any(|limit| limit.controller == controller)
    };
    if is_hybrid && limits.iter().all(|limit| limit.version == Version::V1) {
        return Ok(());
    }
    let available = files::read(mount, "cgroup.controllers")?;
    let own = files::read(directory, "cgroup.controllers")?;
    let has = |controller: &str| own.split_whitespace().any(|name| name == controller);
    let missing = available.split_whitespace().filter(|name| is_needed(name) && !has(name));
    let missing: Vec<_> = missing.map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let above: Vec<_> = place.path.ancestors().skip(1).collect();
    for path in above.into_iter().rev() {
        enable(mount, path, &missing);
    }
    Ok(())
}

fn enable(mount: impl AsFd, path: &Path, controllers: &[String]) {
    let Some(file) = path.join("cgroup.subtree_control").to_str().map(str::to_owned) else { return };
    if files::write(&mount, &file, &controllers.join(" ")).is_err() {
        // One that is refused (cpu, where there are real-time processes) keeps all others out.
        for controller in controllers {
            let _ = files::write(&mount, &file, controller);
        }
    }
}
