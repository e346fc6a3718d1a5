//! Init: the first process in the new namespaces. It builds the root, starts the workload, and reaps.
//!
//! It has one thread and is a copy of the main process, so everything it needs is in memory already.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, kill_process, wait};
use thiserror::Error;
use vfsrun_cgroup::{CgroupError, Doors};
use vfsrun_plan::Plan;
use vfsrun_plan::ids::{self, Extent};
use vfsrun_plan::plan::{Namespace, Root};
use vfsrun_seccomp::Filter;
use vfsrun_spec::oci::{HookKind, NamespaceType};
use vfsrun_sys::clone::exit_now;
use vfsrun_sys::mount::Propagation;
use vfsrun_sys::procfs::Procfs;
use vfsrun_sys::{beneath, loopback, mount, signals};

use super::builder;
use super::report::{Base, Report, Sender};
use super::workload::{self, Waits, WorkloadError};
use crate::container::cgroup::Way;
use crate::hooks::{HookError, Hooked};
use crate::kept_root::Stamp;
use crate::keyring::Keyring;
use crate::labels;
use crate::launch;
use crate::root::host::Host;
use crate::root::view::{Overlay, UpperPlace};
use crate::root::{self, RootError};
use crate::scheduling::SchedulingError;
use crate::{terminal, time_namespace};
use vfsrun_sys::chain;

#[derive(Debug, Error)]
pub enum InitError {
    #[error("cannot {step}")]
    Step { step: &'static str, source: io::Error },
    #[error("cannot set sysctl {key}")]
    Sysctl { key: String, source: io::Error },
    #[error("cannot make {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("linux.namespaces: cannot join the mount namespace {}", path.display())]
    Join { path: PathBuf, source: io::Error },
    #[error("{message}")]
    NotBuilt { code: u8, message: String },
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Scheduling(#[from] SchedulingError),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl InitError {
    pub(crate) fn step(step: &'static str) -> impl FnOnce(io::Error) -> InitError {
        move |source| InitError::Step { step, source }
    }
}

/// What the main process prepared for init.
pub struct Prepared<'a> {
    pub plan: &'a Plan,
    /// Init goes there before it does anything.
    pub cgroup: Option<&'a Way<'a>>,
    pub filter: Option<&'a Filter>,
    /// A directory of the host that may be covered in the new mount namespace.
    pub scaffold: &'a Path,
    /// The root may be kept for another action.
    pub keep_root: bool,
    pub user_namespace: bool,
    pub keyring: Keyring,
    pub waits: Waits<'a>,
    pub hooked: &'a Hooked,
    /// Descriptors above stderr that the command inherits.
    pub preserve_fds: u32,
}

/// The story of init; it never returns to its caller's code.
pub fn run(prepared: Prepared<'_>, doors: Option<Doors>, mut host: Host<'_>, sender: Sender) -> ! {
    let code = match start(prepared, doors, &mut host, &sender) {
        Ok(workload) => reap(workload, &sender),
        Err(error) => {
            let code = error.exit_code();
            // When main is gone there is nobody to tell.
            let _ = sender.send(&Report::Failed { code, message: chain(&error) }, None);
            code
        }
    };
    exit_now(code.into())
}

impl InitError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            InitError::Workload(error) => error.exit_code(),
            InitError::NotBuilt { code, .. } => *code,
            _ => 125,
        }
    }
}

/// Builds everything up to the running command. Without a reaper this process becomes the command itself.
fn start(
    prepared: Prepared<'_>,
    doors: Option<Doors>,
    host: &mut Host<'_>,
    sender: &Sender,
) -> Result<Pid, InitError> {
    let plan = prepared.plan;
    die_with_main().map_err(InitError::step("tie init to the main process"))?;
    sender.wait_for_go().map_err(InitError::step("hear from the main process"))?;
    doors.map_or(Ok(()), Doors::pass)?;
    leave_cgroup_namespace(plan)?;
    // Before it is closed: the files of /proc of an undumpable process belong to the host's root.
    set_oom_score(plan)?;
    if !plan.time_offsets.is_empty() {
        time_namespace::enter_new(&plan.time_offsets).map_err(InitError::step("apply linux.timeOffsets"))?;
    }
    let procfs = labels::procfs(&plan.command.labels).map_err(InitError::step("open /proc of the host"))?;
    // Nobody may attach to a process that holds the host's tree and the caller's environment.
    nix::sys::prctl::set_dumpable(false).map_err(|e| InitError::step("close init to debuggers")(e.into()))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if plan.command.reaper {
        // Out of the terminal's foreground group: its signals come through main, once.
        rustix::process::setsid().map_err(|e| InitError::step("start a session")(e.into()))?;
    }
    name_the_host(plan)?;
    if plan.loopback {
        loopback::up().map_err(InitError::step("bring the loopback interface up"))?;
    }
    if plan.opened_outside {
        become_root(plan).map_err(InitError::step("become root of the user namespace"))?;
        sender.is_heard().map_err(InitError::step("tell vfsrun of it"))?;
    } else if plan.namespaces.iter().any(Namespace::joins_user) && is_nobody() {
        be(0, 0).map_err(InitError::step("become root of the user namespace that is joined"))?;
        sender.is_heard().map_err(InitError::step("tell vfsrun of it"))?;
    }
    let terminal = match plan.has_own_mounts() {
        true => take_root(&prepared, host, sender)?,
        false => borrow_place(&prepared, host, sender)?,
    };
    let job = workload::Job {
        command: &plan.command,
        sandbox: &plan.sandbox,
        filter: prepared.filter,
        keyring: &prepared.keyring,
        procfs,
        terminal,
        waits: prepared.waits,
        hooked: Some(prepared.hooked),
        tied: !plan.command.reaper,
        foreign_clock: plan.has_foreign_clock(),
        preserve_fds: prepared.preserve_fds,
    };
    if !plan.command.reaper {
        match workload::become_command(job, sender)? {}
    }
    Ok(workload::spawn(job, sender)?)
}

/// The root, with all that is in it, and the command's terminal.
pub(super) struct Built {
    pub root: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

/// In a mount namespace of the container's own. Returns the command's terminal.
fn take_root(
    prepared: &Prepared<'_>,
    host: &mut Host<'_>,
    sender: &Sender,
) -> Result<Option<OwnedFd>, InitError> {
    let (propagation, recursive) = propagation(prepared.plan);
    let Built { root, terminal } = build(prepared, propagation, None, host, sender)?;
    tracing::debug!("pivot to the new root");
    root::pivot(&root, propagation)?;
    drop(root);
    if let Propagation::Shared | Propagation::Unbindable = propagation {
        root::mounts::spread_root(propagation, recursive)?;
    }
    Ok(terminal)
}

/// In a mount namespace of others, where nothing is mounted and nobody pivots. Returns the command's terminal.
fn borrow_place(
    prepared: &Prepared<'_>,
    host: &mut Host<'_>,
    sender: &Sender,
) -> Result<Option<OwnedFd>, InitError> {
    join_mount_namespace(prepared.plan)?;
    let init = rustix::process::getpid();
    let work = || build(prepared, Propagation::Private, Some(init), host, sender);
    let told = prepared.plan.opened_outside.then_some(sender);
    let Built { root, terminal } = builder::build(work, told)?;
    tracing::debug!("enter the root in a mount namespace of others");
    root::enter(&root)?;
    Ok(terminal)
}

/// As with runc and crun, paths of the config are looked up there.
fn join_mount_namespace(plan: &Plan) -> Result<(), InitError> {
    let joined = plan.namespaces.iter().find(|namespace| namespace.joins_mounts());
    let Some(path) = joined.and_then(|namespace| namespace.path.as_ref()) else { return Ok(()) };
    launch::join_one(NamespaceType::Mount, path)
        .map_err(|source| InitError::Join { path: path.clone(), source })
}

/// Everything up to the pivot. `init` is who it is done for, if not done by init.
fn build(
    prepared: &Prepared<'_>,
    propagation: Propagation,
    init: Option<Pid>,
    host: &mut Host<'_>,
    sender: &Sender,
) -> Result<Built, InitError> {
    let plan = prepared.plan;
    let root = compose_root(prepared, propagation, host, sender)?;
    let devices = matches!(plan.root, Root::Directory { devices: true, .. });
    let mounted = root::mounts::make_all(root, &plan.mounts, devices, host)?;
    root::devices::place_all(&mounted.root, &plan.devices, host)?;
    if plan.device_links {
        root::devices::link(&mounted.root)?;
    }
    run_hooks_of_creation(prepared, &mounted.root, init, sender)?;
    let terminal =
        if plan.command.terminal { Some(open_terminal(plan, &mounted.root, sender)?) } else { None };
    make_directories(plan, &mounted.root)?;
    if let Root::Directory { .. } = plan.root {
        make_working_directory(plan, &mounted.root);
    }
    let root = mounted.make_readonly()?;
    set_sysctls(plan, &root)?;
    tracing::debug!(read_only = ?plan.readonly, masked = ?plan.masked, "cover paths");
    root::masks::make_readonly(&root, &plan.readonly)?;
    root::masks::cover(&root, &plan.masked)?;
    if let Root::Directory { readonly: true, .. } | Root::View { readonly: true, .. } = plan.root {
        root::mounts::make_root_readonly(&root)?;
    }
    Ok(Built { root, terminal })
}

/// A cgroup namespace begins at the cgroup in which who makes it is: it is made by a process that is where it will stay.
fn leave_cgroup_namespace(plan: &Plan) -> Result<(), InitError> {
    let is_new = |namespace: &Namespace| namespace.kind == NamespaceType::Cgroup && namespace.path.is_none();
    if !plan.namespaces.iter().any(is_new) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(|errno| InitError::step("make a cgroup namespace")(errno.into()))
}

/// The kernel kills this process when the main process ends, however it ends; with it goes the pid namespace.
pub(crate) fn die_with_main() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// From here on main may end.
pub(crate) fn outlive_main() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(None)?)
}

/// While /proc is the host's own: later it is whatever the root says. Children inherit the score.
pub(super) fn set_oom_score(plan: &Plan) -> Result<(), InitError> {
    let Some(score) = plan.command.oom_score_adj else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .map_err(InitError::step("set oom_score_adj"))
}

/// Init has the caller's ids, which need not exist inside: it could make no files there, and would lose its capabilities by
/// executing anything. Without a root inside it is whoever is mapped first.
fn become_root(plan: &Plan) -> io::Result<()> {
    let Some(ids) = &plan.ids else { return Ok(()) };
    let root = |map: &[Extent]| match ids::outside(map, 0) {
        Some(_) => 0,
        None => map.first().map_or(0, |extent| extent.inside),
    };
    be(root(&ids.uids), root(&ids.gids))
}

/// Who has no id in its user namespace can make no files there.
fn is_nobody() -> bool {
    const OVERFLOW: u32 = 65534;
    rustix::process::getuid().as_raw() == OVERFLOW
}

fn be(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (uid.into(), gid.into());
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    // A change of ids has cleared that.
    die_with_main()
}

fn name_the_host(plan: &Plan) -> Result<(), InitError> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|e| InitError::step("set the host name")(e.into()))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|e| InitError::step("set the domain name")(e.into()))?;
    }
    Ok(())
}

/// How mounts travel to the root and from it.
fn propagation(plan: &Plan) -> (Propagation, bool) {
    let said = plan.propagation.as_deref().and_then(root::mounts::propagation);
    said.unwrap_or((Propagation::Private, true))
}

fn compose_root(
    prepared: &Prepared<'_>,
    propagation: Propagation,
    host: &mut Host<'_>,
    sender: &Sender,
) -> Result<OwnedFd, InitError> {
    // With a shared root the host's mounts stay what they are, so that a volume can be shared with it.
    let is_shared =
        propagation == Propagation::Shared && matches!(prepared.plan.root, Root::Directory { .. });
    if !prepared.user_namespace && !is_shared {
        root::mounts::stop_propagation()?;
    }
    match &prepared.plan.root {
        Root::View { owner, segments, suid, .. } => {
            let base = sender.wait_for_base(segments.len());
            let base = base.map_err(InitError::step("receive what the root is made of"))?;
            let overlay = Overlay { owner: *owner, suid: *suid, in_user_namespace: prepared.user_namespace };
            compose_view(prepared, base, overlay, sender)
        }
        Root::Directory { path, devices, .. } => Ok(root::bundle::bind(path, propagation, *devices, host)?),
    }
}

fn compose_view(
    prepared: &Prepared<'_>,
    base: Base,
    overlay: Overlay,
    sender: &Sender,
) -> Result<OwnedFd, InitError> {
    let (root, stamp) = match base {
        Base::Kept { root } => (root::view::attach_kept(prepared.scaffold, root)?, None),
        Base::New { upper: place, segments } => {
            let view = root::view::compose(prepared.scaffold, segments, &place, overlay)?;
            if let UpperPlace::Memory { .. } = place {
                sender
                    .send(&Report::Upper, Some(&view.upper))
                    .map_err(InitError::step("hand the upper over"))?;
            }
            let stamp = Stamp::of(&view.upper).map_err(InitError::step("look at the upper"))?;
            (view.root, Some(stamp))
        }
    };
    if prepared.keep_root {
        // Before anything is mounted in it.
        mount::clone_tree(&root, Path::new(""), false)
            .and_then(|kept| sender.send(&Report::Root { stamp }, Some(&kept)))
            .map_err(InitError::step("hand the root over"))?;
    }
    Ok(root)
}

/// With all mounts made and the host's tree still in sight, as runc does: hooks add to the root, and what is covered or made
/// read-only afterwards is so for what they have added, too.
fn run_hooks_of_creation(
    prepared: &Prepared<'_>,
    root: &OwnedFd,
    init: Option<Pid>,
    sender: &Sender,
) -> Result<(), InitError> {
    let hooks = &prepared.hooked.hooks;
    if hooks.any_of(&[HookKind::Prestart, HookKind::CreateRuntime]) {
        sender.send(&Report::Mounted, None).map_err(InitError::step("tell vfsrun of the mounts"))?;
        sender.wait_for_go().map_err(InitError::step("hear of the hooks of the runtime"))?;
    }
    let own = rustix::process::getpid();
    let enter = || {
        become_root(prepared.plan)?;
        // It may have ended while the hook was not tied to it.
        if rustix::process::getppid() != Some(own) {
            return Err(io::Error::from(rustix::io::Errno::SRCH).into());
        }
        rustix::process::fchdir(root)?;
        Ok(())
    };
    // In the container's namespaces it has nothing of the caller's.
    let (pid, env) = (init.unwrap_or(own).as_raw_nonzero().get(), &prepared.plan.command.env);
    Ok(prepared.hooked.run(HookKind::CreateContainer, Some(pid), Some(env), &enter)?)
}

fn open_terminal(plan: &Plan, root: &OwnedFd, sender: &Sender) -> Result<OwnedFd, InitError> {
    let owner = Uid::from_raw(plan.command.uid);
    let pair = terminal::open(root, owner, plan.command.console_size)
        .map_err(InitError::step("open a pseudo terminal in /dev/pts"))?;
    root::devices::bind_console(root, &pair.terminal)?;
    sender.send(&Report::Terminal, Some(&pair.master)).map_err(InitError::step("hand the terminal over"))?;
    Ok(pair.terminal)
}

fn make_directories(plan: &Plan, root: &OwnedFd) -> Result<(), InitError> {
    for directory in &plan.directories {
        let relative = directory.path.strip_prefix("/").unwrap_or(&directory.path);
        let made = beneath::make_dirs(root, relative).and_then(|_| {
            let fd = beneath::open(root, relative, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let (uid, gid) = (Uid::from_raw(directory.uid), Gid::from_raw(directory.gid));
            Ok(rustix::fs::fchown(&fd, Some(uid), Some(gid))?)
        });
        made.map_err(|source| InitError::Directory { path: directory.path.clone(), source })?;
    }
    Ok(())
}

/// As runc does. Where it cannot be made, entering it says why.
fn make_working_directory(plan: &Plan, root: &OwnedFd) {
    let cwd = &plan.command.cwd;
    let _ = beneath::make_dirs(root, cwd.strip_prefix("/").unwrap_or(cwd));
}

fn set_sysctls(plan: &Plan, root: &OwnedFd) -> Result<(), InitError> {
    for (key, value) in &plan.sysctl {
        let path = Path::new("sys").join(key.replace('.', "/"));
        let written = procfs_of(root).and_then(|procfs| procfs.write(&path, value.as_bytes()));
        written.map_err(|source| InitError::Sysctl { key: key.clone(), source })?;
    }
    Ok(())
}

/// The root's own, not what a hostile one may have there.
fn procfs_of(root: &OwnedFd) -> io::Result<Procfs> {
    Procfs::of(beneath::open(root, Path::new("proc"), OFlags::PATH | OFlags::DIRECTORY)?)
}

/// Waits for the workload and for every orphan; hands signals on. Returns the exit code.
fn reap(workload: Pid, sender: &Sender) -> u8 {
    give_up_everything(sender);
    loop {
        // Not nix's: it takes who was ended by a real-time signal, and has no word for it.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) if pid == workload => return ended(sender, code as u8, None),
                (_, Some(signal)) if pid == workload => {
                    return ended(sender, 128 + signal as u8, Some(signal));
                }
                _ => {}
            }
        }
        match signals::wait_for_any() {
            Ok(None | Some(rustix::process::Signal::CHILD)) | Err(_) => {}
            // Its own session: the terminal's signals do not reach it any other way.
            Ok(Some(signal)) => {
                let _ = kill_process(workload, signal);
            }
        }
    }
}

fn ended(sender: &Sender, code: u8, signal: Option<i32>) -> u8 {
    let _ = sender.send(&Report::Ended { code, signal, alone: is_alone() }, None);
    code
}

/// Whether nobody is left: every orphan of the action is a child of init. Those who are left are killed by its end.
fn is_alone() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(None) => return false,
            Err(errno) => return errno == Errno::CHILD,
            Ok(Some(_)) => {}
        }
    }
}

/// From here on init only waits: what it could still do, a workload that subverts it could do too.
fn give_up_everything(sender: &Sender) {
    // Nothing of the main process's may be within reach of the action: store, sockets, the server's pidfd.
    let _ = vfsrun_sys::descriptors::close_from_but(3, &[sender.as_fd()]);
    let _ = vfsrun_sys::privileges::set_capabilities(0, 0, 0);
    let _ = die_with_main();
}
