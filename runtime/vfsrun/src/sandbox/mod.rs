//! The sandbox of a workload: applied last, by the process that will be the command.

mod filter;
pub mod landlock;

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vfsrun_plan::plan::{Capabilities, Sandbox};
use vfsrun_seccomp::Filter;
use vfsrun_sys::privileges;

use crate::stage::report::Sender;

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("nobody took the listener of the seccomp filter")]
    Listener,
    #[error("cannot restrict the command with Landlock")]
    Landlock { source: ::landlock::RulesetError },
    #[error("cannot open {} to allow its use with Landlock", path.display())]
    LandlockPath { path: PathBuf, source: io::Error },
    #[error("{at}: cannot open {}", path.display())]
    LandlockRule { at: String, path: PathBuf, source: io::Error },
}

impl SandboxError {
    pub(crate) fn step(step: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
        move |source| SandboxError::Step { step, source }
    }
}

/// What the kernel was asked to enforce, and took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// The rules of the plan about paths that were skipped, by index; `None` without Landlock.
    pub landlock: Option<Vec<usize>>,
    pub seccomp: bool,
}

/// Restricts the process with Landlock. Stage: workload, in the new root. Returns what is enforced.
pub fn restrict(plan: &Sandbox, filter: Option<&Filter>) -> Result<Enforced, SandboxError> {
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| SandboxError::step("set no_new_privs")(e.into()))?;
    } else {
        // Landlock and seccomp then ask for CAP_SYS_ADMIN, which a change of user has taken out of effect.
        privileges::use_permitted().map_err(SandboxError::step("use capabilities"))?;
    }
    let landlock = plan.landlock.as_ref().map(landlock::restrict).transpose()?;
    Ok(Enforced { landlock, seccomp: filter.is_some() })
}

/// Gives up the capabilities that the plan does not grant and loads the filter: the last thing before exec, so that
/// the profile need allow nothing of what comes before.
pub fn give_up(plan: &Sandbox, filter: Option<&Filter>, sender: &Sender) -> Result<(), SandboxError> {
    let load = || filter.map_or(Ok(()), |filter| filter::load(filter, sender));
    let limit = || limit_capabilities(&plan.capabilities).map_err(SandboxError::step("give up capabilities"));
    if plan.no_new_privileges {
        limit()?;
        load()
    } else {
        // Loading a filter takes CAP_SYS_ADMIN then.
        load()?;
        limit()
    }
}

fn limit_capabilities(sets: &Capabilities) -> io::Result<()> {
    privileges::set_capabilities(sets.effective, sets.permitted, sets.inheritable)?;
    privileges::set_ambient(sets.ambient)
}

/// Takes capabilities out of the bounding set, while CAP_SETPCAP is still there to do it.
pub fn limit_bounding_set(sets: &Capabilities) -> Result<(), SandboxError> {
    privileges::limit_bounding_set(sets.bounding).map_err(SandboxError::step("limit the bounding set"))
}
