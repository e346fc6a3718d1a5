//! The user namespaces by which ids of mounts are mapped. Nobody is in them: each is made for its maps, and kept by a
//! descriptor until the mounts are made.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid, kill_process, waitpid};
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Ids, MountKind};
use vfsrun_sys::clone::{Cloned, Namespaces as New, clone, exit_now};

use crate::id_maps;
use crate::launch::LaunchError;
use crate::stage::init::die_with_main;

#[derive(Default)]
pub struct Namespaces {
    made: Vec<(Ids, File)>,
    /// The container's own.
    container: Option<File>,
}

impl Namespaces {
    /// One for each map that a mount of the plan names.
    pub fn for_mounts(plan: &Plan) -> Result<Namespaces, LaunchError> {
        let mut namespaces = Namespaces::default();
        for mount in &plan.mounts {
            if let MountKind::Bind { ids: Some(wanted), .. } = &mount.what
                && let Some(ids) = &wanted.ids
                && namespaces.of(Some(ids)).is_none()
            {
                let failed = |source| LaunchError::MountIds { at: mount.at.clone(), source };
                namespaces.made.push((ids.clone(), make(ids).map_err(failed)?));
            }
        }
        Ok(namespaces)
    }

    /// Also that of a process.
    pub fn with_container(mut self, process: Pid) -> io::Result<Namespaces> {
        self.container = Some(of_process(process)?);
        Ok(self)
    }

    /// The one with these ids, or the container's.
    pub fn of(&self, ids: Option<&Ids>) -> Option<BorrowedFd<'_>> {
        match ids {
            Some(ids) => self.made.iter().find(|(made, _)| made == ids).map(|(_, file)| file.as_fd()),
            None => self.container.as_ref().map(AsFd::as_fd),
        }
    }
}

/// By a child that lives as long as its maps are written.
fn make(ids: &Ids) -> io::Result<File> {
    let parent = getpid();
    match clone(New::USER)? {
        Cloned::Child => {
            if die_with_main().is_err() || getppid() != Some(parent) {
                exit_now(1);
            }
            loop {
                nix::unistd::pause();
            }
        }
        Cloned::Parent(child) => {
            let written = id_maps::write(child.pid, &ids.uids, &ids.gids, false);
            let file = written.map_err(io::Error::other).and_then(|()| of_process(child.pid));
            let _ = kill_process(child.pid, Signal::KILL);
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(child.pid), WaitOptions::empty()));
            file
        }
    }
}

fn of_process(process: Pid) -> io::Result<File> {
    File::open(format!("/proc/{}/ns/user", process.as_raw_nonzero()))
}
