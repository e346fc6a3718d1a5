//! Launching: the clone that becomes init, and its maps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use thiserror::Error;
use vfsrun_cgroup::{Cgroup, CgroupError};
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Namespace, Root};
use vfsrun_spec::oci::NamespaceType;
use vfsrun_sys::chain;
use vfsrun_sys::clone::{Child, Cloned, Namespaces, clone, clone_into, clone_sibling, exit_now};
use vfsrun_sys::fd_passing;

use crate::container::cgroup::Way;
use crate::id_maps::{self, IdMapError};
use crate::mount_ids;
use crate::net_devices::{self, NetDeviceError};
use crate::root::host::{Host, Reach};
use crate::route::Route;
use crate::stage::init::{self, Prepared};
use crate::stage::joined::{self, Attach, Joining};
use crate::stage::opener;
use crate::stage::report::{self, Base, Received, Receiver, Report, Sender};
use crate::time_namespace::Own;

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("cannot make a channel to init")]
    Channel { source: io::Error },
    #[error("linux.namespaces: cannot join the {kind} namespace {}", path.display())]
    Join { kind: &'static str, path: std::path::PathBuf, source: io::Error },
    #[error("cannot start init in new namespaces{hint}")]
    Clone { hint: &'static str, source: io::Error },
    #[error("cannot start a process for the command")]
    Start { source: io::Error },
    #[error("cannot stay in the time namespace of vfsrun")]
    OwnTime { source: io::Error },
    #[error(transparent)]
    NetDevice(#[from] NetDeviceError),
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    #[error("{message}")]
    NotJoined { message: String },
    #[error("{at}: cannot make a user namespace for its ids")]
    MountIds { at: String, source: io::Error },
    #[error("cannot open what the mounts show of the host")]
    Open { source: io::Error },
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
    let mut fresh = fresh(&plan.namespaces);
    if !plan.time_offsets.is_empty() {
        // Init makes it: cloned into it, it could not set its clocks any more.
        fresh = fresh.without(Namespaces::TIME);
    }
    tracing::debug!(namespaces = ?plan.namespaces, "clone init");
    let host_route = (!plan.net_devices.is_empty()).then(Route::open).transpose();
    let host_route = host_route.map_err(|source| NetDeviceError::Socket { source })?;
    let ids_of_mounts = mount_ids::Namespaces::for_mounts(plan)?;
    let opened = |source| LaunchError::Open { source };
    let sources = plan.opened_outside.then(fd_passing::channel).transpose().map_err(opened)?;
    let doors = prepared.cgroup.map(Way::doors).transpose()?.flatten();
    let cgroup = prepared.cgroup.and_then(Way::to_start_in);
    let (cloned, own_time) = if plan.namespaces.iter().any(Namespace::joins_user) {
        (clone_by_another(plan, cgroup, fresh, &sender, &reports)?, None)
    } else {
        let own_time = join(&plan.namespaces)?;
        (clone_in(cgroup, fresh).map_err(not_cloned)?, own_time)
    };
    match cloned {
        Cloned::Child => {
            drop(reports);
            let host = match sources {
                Some((sources, receiver)) => {
                    drop(sources);
                    Host::Outside(receiver)
                }
                None => Host::Here(Reach::new(plan, prepared.scaffold, &ids_of_mounts)),
            };
            init::run(prepared, doors, host, sender)
        }
        Cloned::Parent(child) => {
            drop(sender);
            if let Some(own_time) = own_time {
                // This program's times are compared with earlier ones.
                own_time.enter_again().map_err(|source| LaunchError::OwnTime { source })?;
            }
            if let Some(cgroup) = prepared.cgroup {
                cgroup.admit(child.pid)?;
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
            if let Some(host) = &host_route {
                net_devices::move_all(&plan.net_devices, host, &child)?;
            }
            reports.go().map_err(|source| LaunchError::Go { source })?;
            if let Some((sources, _)) = sources {
                let pid = child.pid;
                let builder = (!plan.has_own_mounts()).then(|| builder(&reports)).transpose()?;
                let mounts_there = builder.as_ref().unwrap_or(&child.pidfd).as_fd();
                ids_of_mounts
                    .with_container(pid)
                    .and_then(|ids| opener::open(plan, prepared.scaffold, &ids, mounts_there, sources))
                    .map_err(opened)?;
            }
            Ok(Init { child, reports })
        }
    }
}

/// Has a process join the namespaces of the plan that clones init, and ends: who has joined a user namespace has no rights outside of it any
/// more, and main still has to look after the container's files and cgroup. Init is main's child all the same.
fn clone_by_another(
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    fresh: Namespaces,
    sender: &Sender,
    reports: &Receiver,
) -> Result<Cloned, LaunchError> {
    let failed = |source| LaunchError::Channel { source };
    let (ours, theirs) = fd_passing::channel().map_err(failed)?;
    let between = match clone_in(cgroup, Namespaces::NONE).map_err(not_cloned)? {
        Cloned::Parent(between) => between,
        Cloned::Child => {
            drop(ours);
            let cloned = init::die_with_main()
                .map_err(not_cloned)
                .and_then(|()| join(&plan.namespaces))
                .and_then(|_| clone_sibling(fresh).map_err(not_cloned));
            let told = match cloned {
                Ok(Cloned::Child) => return Ok(Cloned::Child),
                Ok(Cloned::Parent(init)) => {
                    let pid = init.pid.as_raw_nonzero().get().to_ne_bytes();
                    fd_passing::send(&theirs, &pid, &[init.pidfd.as_fd()])
                }
                Err(error) => sender.send(&Report::Failed { code: 125, message: chain(&error) }, None),
            };
            exit_now(i32::from(told.is_err()))
        }
    };
    drop(theirs);
    let mut pid = [0; size_of::<i32>()];
    let received = fd_passing::receive(&ours, &mut pid);
    // It has nothing more to do.
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(between.pid), WaitOptions::empty()));
    match (received.map_err(failed)?, Pid::from_raw(i32::from_ne_bytes(pid))) {
        ((_, descriptors), Some(pid)) if descriptors.len() == 1 => {
            let pidfd = descriptors.into_iter().next().expect("there is one");
            Ok(Cloned::Parent(Child { pid, pidfd }))
        }
        _ => Err(match reports.receive() {
            Ok(Received::Report { report: Report::Failed { message, .. }, .. }) => {
                LaunchError::NotJoined { message }
            }
            _ => LaunchError::Go { source: io::ErrorKind::UnexpectedEof.into() },
        }),
    }
}

fn not_cloned(source: io::Error) -> LaunchError {
    LaunchError::Clone { hint: hint(&source), source }
}

/// Who builds the root in init's place.
fn builder(reports: &Receiver) -> Result<OwnedFd, LaunchError> {
    match reports.wait().map_err(|source| LaunchError::Go { source })? {
        Received::Report { report: Report::Builder, fd: Some(builder), .. } => Ok(builder),
        Received::Report { report: Report::Failed { message, .. }, .. } => {
            Err(LaunchError::NotJoined { message })
        }
        _ => Err(LaunchError::Go { source: io::ErrorKind::UnexpectedEof.into() }),
    }
}

/// Starts a command in the namespaces of a container.
pub fn command(joining: &Joining<'_>) -> Result<Init, LaunchError> {
    let (reports, sender) = report::channel().map_err(|source| LaunchError::Channel { source })?;
    let failed = |source| LaunchError::Start { source };
    let cgroup = joining.cgroup.and_then(Cgroup::to_start_in);
    let (cloned, attach) = match clone_in(cgroup, Namespaces::NONE) {
        // A user may not move processes of its own from without to what its systemd has made.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && joining.unit.is_some() => {
            (clone(Namespaces::NONE), Attach::BySystemd)
        }
        cloned => (cloned, Attach::Started),
    };
    let between = match cloned.map_err(failed)? {
        Cloned::Child => {
            drop(reports);
            joined::run(joining, attach, &sender)
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

fn clone_in(cgroup: Option<BorrowedFd<'_>>, namespaces: Namespaces) -> io::Result<Cloned> {
    match cgroup {
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
        NamespaceType::Time => Namespaces::TIME,
    }
}

/// Joins the namespaces that the plan names by path, but that of mounts, which is init's to join: main keeps its files in
/// sight. The clone then inherits them. Returns the time namespace that was left.
fn join(namespaces: &[Namespace]) -> Result<Option<Own>, LaunchError> {
    let joins_time = namespaces.iter().any(|namespace| namespace.is_of_time() && namespace.path.is_some());
    let own_time = joins_time.then(Own::open).transpose();
    let own_time = own_time.map_err(|source| LaunchError::OwnTime { source })?;
    for namespace in namespaces.iter().filter(|namespace| namespace.kind != NamespaceType::Mount) {
        let Some(path) = &namespace.path else { continue };
        join_one(namespace.kind, path).map_err(|source| LaunchError::Join {
            kind: namespace.kind.name(),
            path: path.clone(),
            source,
        })?;
    }
    Ok(own_time)
}

pub fn join_one(kind: NamespaceType, path: &Path) -> io::Result<()> {
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
