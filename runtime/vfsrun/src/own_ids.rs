//! One's own ids: the user namespace in which an ordinary user has all ids that may be used, as view servers have it. What
//! actions wrote belongs to them.

use std::fs::File;
use std::io::{self, Read};

use rustix::process::WaitOptions;
use rustix::thread::LinkNameSpaceType;
use thiserror::Error;
use vfsrun_plan::facts::Caller;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};

use crate::id_maps::{self, IdMapError};
use crate::probe;

#[derive(Debug, Error)]
pub enum OwnIdsError {
    #[error("cannot map the ids of actions")]
    Map(#[from] IdMapError),
    #[error("cannot enter a user namespace of the ids of actions")]
    Enter(#[from] io::Error),
}

/// Enters such a namespace; whoever is privileged has all ids already. The process must have one thread.
pub fn enter(caller: &Caller) -> Result<(), OwnIdsError> {
    if caller.privileged {
        return Ok(());
    }
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    // It is there for its namespace alone, which must be mapped from outside.
    match clone(Namespaces::USER)? {
        Cloned::Child => {
            drop(go);
            let _ = File::from(wait).read(&mut [0]);
            exit_now(0)
        }
        Cloned::Parent(child) => {
            drop(wait);
            let ids = probe::parent_ids(caller);
            let mapped = id_maps::write_with_helpers(child.pid, &ids.uids, &ids.gids);
            let entered = mapped.map_err(OwnIdsError::from).and_then(|()| {
                let namespace = File::open(format!("/proc/{}/ns/user", child.pid.as_raw_nonzero()))?;
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&namespace),
                    Some(LinkNameSpaceType::User),
                )
                .map_err(io::Error::from)?;
                Ok(())
            });
            drop(go);
            rustix::process::waitpid(Some(child.pid), WaitOptions::empty()).map_err(io::Error::from)?;
            entered
        }
    }
}
