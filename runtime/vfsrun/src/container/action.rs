//! A run that is no container, and has a cgroup: it is kept track of as containers are, so that what a killed run leaves is found.

use std::path::Path;
use std::time::Duration;

use vfsrun_cgroup::Processes;
use vfsrun_plan::Plan;

use super::cgroup::{self, Kept, Way};
use super::{ContainerError, Containers, Place};

pub struct Action<'a> {
    place: Place,
    cgroup: Way<'a>,
}

impl<'a> Action<'a> {
    /// Makes the cgroup of the plan, if there is one.
    pub fn begin(plan: &'a Plan, runtime: &Path) -> Result<Option<Action<'a>>, ContainerError> {
        if plan.cgroup.is_none() {
            return Ok(None);
        }
        let id = std::process::id().to_string().parse().expect("digits are an id");
        let place = actions(runtime).claim(id)?;
        match cgroup::make(plan, &place.path) {
            Ok(cgroup) => Ok(cgroup.map(|cgroup| Action { place, cgroup })),
            Err(error) => {
                place.remove()?;
                Err(error.into())
            }
        }
    }

    pub fn cgroup(&self) -> &Way<'a> {
        &self.cgroup
    }

    /// With all processes that are left of it.
    pub fn end(self) -> Result<(), ContainerError> {
        drop(self.cgroup);
        if let Some(kept) = self.place.cgroup()? {
            kept.remove(Processes::Kill)?;
        }
        self.place.remove()
    }

    /// Removes what killed runs have left. What cannot be removed now is tried again by the next.
    pub fn sweep(runtime: &Path) {
        let entries = std::fs::read_dir(actions(runtime).dir).into_iter().flatten().flatten();
        for entry in entries {
            if let Ok(Some(place)) = Place::try_lock(entry.path()) {
                let kept = place.cgroup();
                let remove = |kept: Kept| kept.remove(Processes::Await(Duration::ZERO)).is_ok();
                if kept.is_ok_and(|kept| kept.is_none_or(remove)) {
                    let _ = std::fs::remove_dir_all(&place.path);
                }
            }
        }
    }
}

fn actions(runtime: &Path) -> Containers {
    Containers { dir: runtime.join("actions") }
}
