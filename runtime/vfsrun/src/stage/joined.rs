//! The stage of a command that joins a container: main ──▶ this process, which enters the namespaces ──▶ the workload, which is
//! in the pid namespace too, and main's child.

use std::convert::Infallible;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, Uid};
use vfsrun_cgroup::systemd::Unit;
use vfsrun_cgroup::{Cgroup, CgroupError};
use vfsrun_plan::Plan;
use vfsrun_seccomp::Filter;
use vfsrun_sys::chain;
use vfsrun_sys::clone::{Cloned, Namespaces, clone_sibling, exit_now};
use vfsrun_sys::procfs::Procfs;

use super::init::{self, InitError};
use super::report::{Report, Sender};
use super::workload::{self, Job, Waits};
use crate::keyring::Keyring;
use crate::{labels, root, scheduling, terminal};

/// What main has prepared.
pub struct Joining<'a> {
    pub plan: &'a Plan,
    pub filter: Option<&'a Filter>,
    /// The container's first process.
    pub container: BorrowedFd<'a>,
    pub namespaces: CloneFlags,
    /// Of a container whose mount namespace does not lead to it.
    pub root: Option<OwnedFd>,
    pub keyring: Keyring,
    pub cgroup: Option<&'a Cgroup>,
    /// Of the cgroup, if systemd has made it; and the place in it.
    pub unit: Option<(&'a Unit, PathBuf)>,
    /// Ends with main.
    pub tied: bool,
    pub preserve_fds: u32,
}

/// How the process in between gets into the cgroup of version 2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// It is there.
    Started,
    BySystemd,
}

/// The story of both processes; it never returns to its caller's code.
pub fn run(joining: &Joining<'_>, attach: Attach, sender: &Sender) -> ! {
    let code = match join(joining, attach, sender) {
        Ok(()) => 0,
        Err(error) => {
            let code = error.exit_code();
            let _ = sender.send(&Report::Failed { code, message: chain(&error) }, None);
            code
        }
    };
    exit_now(code.into())
}

/// Returns in the process in between.
fn join(joining: &Joining<'_>, attach: Attach, sender: &Sender) -> Result<(), InitError> {
    scheduling::start_on(&joining.plan.command.scheduling)?;
    init::set_oom_score(joining.plan)?;
    let labels = &joining.plan.command.labels;
    let procfs = labels::procfs(labels).map_err(InitError::step("open /proc of the host"))?;
    // While the host's cgroups are in sight.
    if let (Attach::BySystemd, Some((unit, below))) = (attach, &joining.unit) {
        unit.attach(below, rustix::process::getpid()).map_err(CgroupError::from)?;
    }
    if let Some(cgroup) = joining.cgroup {
        cgroup.doors()?.pass()?;
        cgroup.enter_group(rustix::process::getpid())?;
    }
    // Nobody in the container may attach to a process that comes from outside.
    nix::sys::prctl::set_dumpable(false)
        .map_err(|errno| InitError::step("close this process to debuggers")(errno.into()))?;
    if !joining.namespaces.is_empty() {
        setns(joining.container, joining.namespaces)
            .map_err(|errno| InitError::step("join the namespaces of the container")(errno.into()))?;
    }
    if let Some(root) = &joining.root {
        root::enter(root)?;
    }
    match clone_sibling(Namespaces::NONE).map_err(InitError::step("start a process in the container"))? {
        Cloned::Parent(_) => Ok(()),
        Cloned::Child => {
            let Err(error) = become_command(joining, procfs, sender);
            Err(error)
        }
    }
}

fn become_command(
    joining: &Joining<'_>,
    procfs: Option<Procfs>,
    sender: &Sender,
) -> Result<Infallible, InitError> {
    let plan = joining.plan;
    sender.send(&Report::Joined, None).map_err(InitError::step("tell vfsrun of the process"))?;
    scheduling::stay_on(&plan.command.scheduling)?;
    let terminal = if plan.command.terminal { Some(open_terminal(plan, sender)?) } else { None };
    let job = Job {
        command: &plan.command,
        sandbox: &plan.sandbox,
        filter: joining.filter,
        keyring: &joining.keyring,
        procfs,
        terminal,
        waits: Waits::ForMain,
        hooked: None,
        tied: joining.tied,
        foreign_clock: plan.has_foreign_clock(),
        preserve_fds: joining.preserve_fds,
    };
    Ok(workload::become_command(job, sender)?)
}

fn open_terminal(plan: &Plan, sender: &Sender) -> Result<OwnedFd, InitError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(io::Error::from);
    let root = root.map_err(InitError::step("open the container's root"))?;
    let owner = Uid::from_raw(plan.command.uid);
    let pair = terminal::open(&root, owner, plan.command.console_size)
        .map_err(InitError::step("open a pseudo terminal in /dev/pts"))?;
    sender.send(&Report::Terminal, Some(&pair.master)).map_err(InitError::step("hand the terminal over"))?;
    Ok(pair.terminal)
}
