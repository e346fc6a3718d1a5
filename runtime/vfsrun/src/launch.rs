//! Launching: the clone that becomes init, and its maps.

use std::io;
use std::path::Path;

use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, waitpid};
use thiserror::Error;
use vfsrun_cgroup::{Cgroup, CgroupError};
use vfsrun_plan::plan::{Namespace, Root};
use vfsrun_spec::oci::NamespaceType;
use vfsrun_sys::clone::{Child, Cloned, Namespaces, clone, clone_into};

use crate::id_maps::{self, IdMapError};
use crate::stage::init::{self, Prepared};
use crate::stage::joined::{self, Joining};
use crate::stage::report::{self, Base, Received, Receiver, Report};

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("cannot make a channel to init")]
    Channel { source: io::Error },
    #[error("linux.namespaces: cannot join the {kind} namespace {}", path.display())]
    Join { kind: &'static str, path: std::path::PathBuf, source: io::Error },
    #[error("cannot start init in new namespaces{hint}")]
    Clone { hint: &'static str, source: io::Error },
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    #[error("{message}")]
    NotJoined { message: String },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("init ended before it could start")]
    Go { source: io::Error },
}

/// A started init.
pub struct Init {
    pub child: Child,
    pub reports: Receiver,
}

impl Init {
    /// Gives init what it builds the root on.
    pub fn hand_over(&self, base: Base) -> Result<(), LaunchError> {
        self.reports.send_base(&base).map_err(|source| LaunchError::Go { source })
    }
}

/// Clones init into the namespaces of the plan and lets it go once its ids are mapped.
pub fn init(prepared: Prepared<'_>, privileged: bool) -> Result<Init, LaunchError> {
    let plan = prepared.plan;
    let (reports, sender) = report::channel().map_err(|source| LaunchError::Channel { source })?;
    let fresh = fresh(&plan.namespaces);
    tracing::debug!(namespaces = ?plan.namespaces, "clone init");
    join(&plan.namespaces)?;
    match clone_in(prepared.cgroup, fresh)
        .map_err(|source| LaunchError::Clone { hint: hint(&source), source })?
    {
        Cloned::Child => {
            drop(reports);
            init::run(prepared, sender)
        }
        Cloned::Parent(child) => {
            drop(sender);
            if let Some(cgroup) = prepared.cgroup {
                cgroup.enter(child.pid)?;
            }
            if let Some(ids) = &plan.ids {
                tracing::debug!(pid = %child.pid.as_raw_nonzero(), ids = ?ids, "write id maps");
                // In the view server's namespace an ordinary user has every right over its ids.
                let own_rights = privileged || matches!(plan.root, Root::View { .. });
                if own_rights {
                    let single = ids.gids.len() == 1 && ids.gids[0].count == 1 && !privileged;
                    id_maps::write(child.pid, &ids.uids, &ids.gids, single)?;
                } else {
                    id_maps::write_with_helpers(child.pid, &ids.uids, &ids.gids)?;
                }
            }
            reports.go().map_err(|source| LaunchError::Go { source })?;
            Ok(Init { child, reports })
        }
    }
}

/// Starts a command in the namespaces of a container.
pub fn command(joining: &Joining<'_>) -> Result<Init, LaunchError> {
    let (reports, sender) = report::channel().map_err(|source| LaunchError::Channel { source })?;
    let failed = |source| LaunchError::Clone { hint: "", source };
    let between = match clone_in(joining.cgroup, Namespaces::NONE).map_err(failed)? {
        Cloned::Child => {
            drop(reports);
            joined::run(joining, &sender)
        }
        Cloned::Parent(child) => child,
    };
    drop(sender);
    let first = reports.wait().map_err(|source| LaunchError::Go { source })?;
    // It has nothing more to do.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(between.pid), WaitOptions::empty()));
    match first {
        Received::Report { report: Report::Joined, sender: Some(pid), .. } => {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
            Ok(Init { child: Child { pid, pidfd }, reports })
        }
        Received::Report { report: Report::Failed { message, .. }, .. } => {
            Err(LaunchError::NotJoined { message })
        }
        _ => Err(LaunchError::Go { source: io::ErrorKind::UnexpectedEof.into() }),
    }
}

fn clone_in(cgroup: Option<&Cgroup>, namespaces: Namespaces) -> io::Result<Cloned> {
    match cgroup.and_then(Cgroup::to_start_in) {
        Some(directory) => clone_into(directory, namespaces),
        None => clone(namespaces),
    }
}

/// Init makes its cgroup namespace itself, when it is in its cgroup.
fn fresh(namespaces: &[Namespace]) -> Namespaces {
    let fresh = namespaces
        .iter()
        .filter(|namespace| namespace.path.is_none() && namespace.kind != NamespaceType::Cgroup);
    fresh.fold(Namespaces::NONE, |all, namespace| all.with(bits(namespace.kind)))
}

pub fn bits(kind: NamespaceType) -> Namespaces {
    match kind {
        NamespaceType::User => Namespaces::USER,
        NamespaceType::Mount => Namespaces::MOUNT,
        NamespaceType::Pid => Namespaces::PID,
        NamespaceType::Ipc => Namespaces::IPC,
        NamespaceType::Uts => Namespaces::UTS,
        NamespaceType::Cgroup => Namespaces::CGROUP,
        NamespaceType::Network => Namespaces::NETWORK,
        NamespaceType::Time => Namespaces::NONE,
    }
}

/// Joins the namespaces that the plan names by path; the clone then inherits them.
fn join(namespaces: &[Namespace]) -> Result<(), LaunchError> {
    for namespace in namespaces {
        let Some(path) = &namespace.path else { continue };
        join_one(namespace.kind, path).map_err(|source| LaunchError::Join {
            kind: namespace.kind.name(),
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

fn join_one(kind: NamespaceType, path: &Path) -> io::Result<()> {
    use rustix::thread::LinkNameSpaceType as Type;
    let link = match kind {
        NamespaceType::User => Type::User,
        NamespaceType::Mount => Type::Mount,
        NamespaceType::Pid => Type::ProcessID,
        NamespaceType::Ipc => Type::InterProcessCommunication,
        NamespaceType::Uts => Type::HostNameAndNISDomainName,
        NamespaceType::Cgroup => Type::ControlGroup,
        NamespaceType::Network => Type::Network,
        NamespaceType::Time => Type::Time,
    };
    let file = std::fs::File::open(path)?;
    // With the type given the kernel refuses a file that is another kind of namespace.
    Ok(rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(link))?)
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => "; `vfsrun doctor` says what this user may do",
        Some(libc::ENOSPC | libc::EUSERS) => "; the limit in /proc/sys/user is reached",
        _ => "",
    }
}
