//! `vfsrun doctor`: what works here, and the exact way to what does not.

use std::path::Path;

use vfsrun_plan::facts::{Caller, ParentIds};

use vfsrun_sys::chain;
use vfsrun_sys::clone::{Cloned, Namespaces, clone, exit_now};

use super::{Failure, Outcome, print_lines};
use crate::cli::Global;
use crate::filter_cache::FilterCache;
use crate::{directories, probe};

/// One line of the report.
struct Finding {
    what: &'static str,
    state: State,
    says: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Works,
    /// Runs go on without it.
    Lacks,
    /// Composed roots do not run.
    Fails,
}

impl Finding {
    fn line(&self) -> String {
        let mark = match self.state {
            State::Works => "ok  ",
            State::Lacks => "thin",
            State::Fails => "FAIL",
        };
        format!("{mark}  {:<16} {}", self.what, self.says)
    }
}

pub fn doctor(global: &Global) -> Outcome {
    let caller = probe::caller();
    let store = directories::store(global.store.as_deref(), caller.privileged)
        .map_err(|error| Failure::own(&error))?;
    let findings = [
        user(&caller),
        user_namespaces(&caller),
        ids(&caller),
        fuse(),
        views(),
        passthrough(),
        server_directory(global, &caller),
        upper(&store),
        watches(),
        systemd(&caller),
        landlock(),
        seccomp(global, &caller),
        proc_visible(),
        kernel(),
    ];
    let failed = findings.iter().any(|finding| finding.state == State::Fails);
    print_lines(findings.iter().map(Finding::line))?;
    Ok(if failed { 1 } else { 0 })
}

fn finding(what: &'static str, state: State, says: impl Into<String>) -> Finding {
    Finding { what, state, says: says.into() }
}

fn views() -> Finding {
    if vfsrun_fuse::bare::can_mount() {
        finding("views", State::Works, "`vfsrun view mount` can mount")
    } else {
        let says = "`vfsrun view mount` needs fusermount3 for an ordinary user: install the package fuse3";
        finding("views", State::Lacks, says)
    }
}

fn passthrough() -> Finding {
    let what = "passthrough";
    let twice = "what a run reads is in memory twice";
    if !vfsrun_fuse::may_pass_through() {
        return finding(what, State::Lacks, format!("{twice}: the kernel spares that root alone"));
    }
    if probe::kernel().version < (6, 9) {
        return finding(what, State::Lacks, format!("{twice}: `vfs.passthrough` needs Linux 6.9"));
    }
    finding(
        what,
        State::Works,
        "what cannot change is in memory once, with `vfs.passthrough: always` in all runs",
    )
}

fn user(caller: &Caller) -> Finding {
    let how = if caller.privileged { "with the rights to mount and map ids" } else { "an ordinary user" };
    finding("user", State::Works, format!("uid {}, {how}", caller.uid))
}

fn user_namespaces(caller: &Caller) -> Finding {
    let what = "user namespaces";
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let zero = |path: &str| read(path).as_deref() == Some("0");
    if zero("/proc/sys/user/max_user_namespaces") {
        return finding(
            what,
            State::Fails,
            "user.max_user_namespaces is 0; `sysctl user.max_user_namespaces=15000` as root allows them",
        );
    }
    if !caller.privileged && zero("/proc/sys/kernel/unprivileged_userns_clone") {
        return finding(
            what,
            State::Fails,
            "closed to ordinary users; `sysctl kernel.unprivileged_userns_clone=1` as root opens them",
        );
    }
    if !caller.privileged
        && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
    {
        let says = "AppArmor takes their rights away (Ubuntu 23.10 and later); as root write a profile for this program to \
                    /etc/apparmor.d/vfsrun: `abi <abi/4.0>, profile vfsrun /usr/bin/vfsrun flags=(unconfined) { userns, }` and run \
                    `apparmor_parser -r /etc/apparmor.d/vfsrun`, or `sysctl kernel.apparmor_restrict_unprivileged_userns=0`";
        return finding(what, State::Fails, says);
    }
    match try_namespace() {
        Ok(()) => finding(what, State::Works, "can be made"),
        Err(error) => finding(
            what,
            State::Fails,
            format!(
                "cannot be made ({error}); in a container add `--security-opt seccomp=unconfined --cap-add SYS_ADMIN`"
            ),
        ),
    }
}

/// The settings above do not tell of a container's seccomp profile, so one is really made.
fn try_namespace() -> std::io::Result<()> {
    match clone(Namespaces::USER)? {
        Cloned::Child => exit_now(0),
        Cloned::Parent(child) => {
            rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty())?;
            Ok(())
        }
    }
}

fn ids(caller: &Caller) -> Finding {
    let ids = probe::parent_ids(caller);
    let count: u64 = ids.uids.iter().map(|extent| u64::from(extent.count)).sum();
    match ids.single_because {
        Some(because) => finding("ids", State::Lacks, format!("one only: {because}")),
        None => finding("ids", State::Works, format!("{count} user ids can be mapped")),
    }
}

fn fuse() -> Finding {
    match probe::fuse() {
        Ok(()) => finding("FUSE", State::Works, "/dev/fuse can be opened"),
        Err(reason) => finding("FUSE", State::Fails, reason),
    }
}

fn server_directory(global: &Global, caller: &Caller) -> Finding {
    match directories::runtime(global.root.as_deref(), caller.privileged) {
        Ok(path) => finding("runtime", State::Works, path.display().to_string()),
        Err(error) => finding("runtime", State::Fails, chain(&error)),
    }
}

fn upper(store: &Path) -> Finding {
    let mut existing = store;
    while !existing.exists() {
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    match probe::disk_upper(existing) {
        Ok(()) => finding("upper", State::Works, format!("on disk, in {}", store.display())),
        Err(reason) if probe::kernel().version >= (6, 6) => finding(
            "upper",
            State::Lacks,
            format!("{reason}; memory is used instead, or put the store elsewhere with --store"),
        ),
        Err(reason) => {
            finding("upper", State::Fails, format!("{reason}; put the store elsewhere with --store"))
        }
    }
}

fn systemd(caller: &Caller) -> Finding {
    match probe::cgroups::systemd(caller.privileged && probe::parent_ids(caller) == ParentIds::identity()) {
        Ok(manager) => finding(
            "systemd",
            State::Works,
            format!("{} makes cgroups with --systemd-cgroup", manager.version),
        ),
        Err(reason) => finding("systemd", State::Lacks, format!("{reason}; --systemd-cgroup cannot be used")),
    }
}

fn watches() -> Finding {
    let what = "watches";
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    match limit.map(|limit| limit.trim().to_owned()) {
        Ok(limit) if vfsrun_fuse::can_watch() => finding(
            what,
            State::Works,
            format!("live branches are watched, up to three quarters of {limit} names"),
        ),
        Ok(_) => finding(
            what,
            State::Lacks,
            "live branches are swept before each run; from Linux 6.12 on they are watched",
        ),
        Err(_) => finding(what, State::Lacks, "live branches are swept before each run: no inotify here"),
    }
}

fn landlock() -> Finding {
    match probe::kernel().landlock_abi {
        0 => finding("Landlock", State::Lacks, "off or not built; boot with `lsm=landlock,…` to have it"),
        abi if abi < 6 => finding(
            "Landlock",
            State::Lacks,
            format!("ABI {abi}; signals and abstract sockets are scoped from ABI 6 (Linux 6.12)"),
        ),
        abi => finding("Landlock", State::Works, format!("ABI {abi}")),
    }
}

fn seccomp(global: &Global, caller: &Caller) -> Finding {
    let what = "seccomp";
    if !Path::new("/proc/sys/kernel/seccomp").exists() {
        return finding(what, State::Fails, "this kernel has no seccomp filters");
    }
    let Ok(runtime) = directories::runtime(global.root.as_deref(), caller.privileged) else {
        return finding(what, State::Works, "filters can be loaded");
    };
    match FilterCache::open(&runtime).and_then(|cache| cache.entries()) {
        Ok(count) => {
            let are = if count == 1 { "is" } else { "are" };
            finding(what, State::Works, format!("filters can be loaded; {count} {are} kept compiled"))
        }
        Err(error) => {
            let says = format!("filters can be loaded, but none is kept compiled: {}", chain(&error));
            finding(what, State::Lacks, says)
        }
    }
}

/// The kernel lets a user namespace mount a fresh /proc only where the old one hides nothing.
fn proc_visible() -> Finding {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = mounts
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4))
        .find(|point| point.starts_with("/proc/") && *point != "/proc/sys/fs/binfmt_misc");
    match below {
        None => finding("/proc", State::Works, "nothing is mounted over it"),
        Some(point) => finding(
            "/proc",
            State::Fails,
            format!(
                "{point} is mounted over, so no fresh /proc can be; in podman add `--security-opt unmask=ALL`"
            ),
        ),
    }
}

fn kernel() -> Finding {
    let (major, minor) = probe::kernel().version;
    let says = format!("Linux {major}.{minor}");
    match (major, minor) {
        version if version < (5, 12) => {
            finding("kernel", State::Fails, format!("{says}; 5.12 is needed for mount_setattr"))
        }
        version if version < (6, 6) => {
            finding("kernel", State::Lacks, format!("{says}; uppers in memory need 6.6"))
        }
        _ => finding("kernel", State::Works, says),
    }
}
