//! A rig: a sharing domain of the test's own, with a server that ends with the test.

#![allow(dead_code, reason = "each test program uses its part")]

#[path = "../../../../tests/src/skip.rs"]
pub mod skip;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, pidfd_send_signal};
use tempfile::TempDir;
use vfsrun_fuse::{Attached, ServerOptions, View, spawn_server};
use vfsrun_sys::mount::{self, Attr, NewMount, Propagation};
use vfsrun_union::SegmentSpec;
use vfsrun_union::describe::{BranchSpec, Source};

pub const SERVER: &str = env!("CARGO_BIN_EXE_view-server-test");

pub struct Rig {
    temp: TempDir,
    pub options: ServerOptions,
    /// Of the servers that `view` met.
    servers: Mutex<Vec<OwnedFd>>,
}

/// Runs `test` with a rig, on a thread with a mount namespace of its own. Says so when this machine cannot.
pub fn with_rig(name: &str, test: impl FnOnce(&mut Rig) + Send) {
    if let Err(why) = possible() {
        return skip::loudly(name, &why);
    }
    std::thread::scope(|scope| {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let root = open_dir(Path::new("/"));
            mount::set_propagation(&root, Propagation::Private, true).unwrap();
            let mut rig = Rig::new();
            test(&mut rig);
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting needs root".to_owned());
    }
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(drop)
        .map_err(|error| format!("cannot open /dev/fuse: {error}"))
}

impl Rig {
    fn new() -> Rig {
        let temp = tempfile::tempdir().unwrap();
        let options = ServerOptions::new(&temp.path().join("domain")).unwrap();
        Rig { temp, options, servers: Mutex::default() }
    }

    /// A fresh directory of the test's.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn domain(&self) -> &Path {
        &self.options.dir
    }

    pub fn view(&self) -> View {
        let view = View::connect_or_start(self.domain(), |domain, listener| {
            spawn_server(domain, listener, Path::new(SERVER), &self.options)
        })
        .unwrap();
        self.servers.lock().unwrap().push(view.server_pidfd().try_clone_to_owned().unwrap());
        view
    }

    /// Where a segment is mounted now.
    pub fn mounted(&self, name: &str, attached: &Attached) -> PathBuf {
        let path = self.dir(name);
        mount::attach(&attached.mount, open_dir(&path)).unwrap();
        path
    }

    /// A root as an action has it, and its upper directory.
    pub fn overlay(&self, segments: &[&Attached]) -> (PathBuf, PathBuf) {
        let scratch = self.dir("scratch");
        let tmpfs = NewMount::of(c"tmpfs").unwrap().create(Attr::empty()).unwrap();
        mount::attach(tmpfs, open_dir(&scratch)).unwrap();
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        let lower: Vec<String> = segments
            .iter()
            .enumerate()
            .map(|(number, segment)| {
                self.mounted(&format!("lower{number}"), segment).to_str().unwrap().to_owned()
            })
            .collect();
        let mut new = NewMount::of(c"overlay").unwrap();
        for (key, value) in [
            (c"lowerdir", lower.join(":").as_str()),
            (c"upperdir", upper.to_str().unwrap()),
            (c"workdir", work.to_str().unwrap()),
            (c"xino", "on"),
            (c"redirect_dir", "nofollow"),
            (c"metacopy", "off"),
            (c"index", "off"),
            (c"nfs_export", "off"),
        ] {
            new = new.option(key, value.as_bytes()).unwrap();
        }
        let mounted = new.create(Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV).unwrap();
        let root = self.dir("root");
        mount::attach(mounted, open_dir(&root)).unwrap();
        (root, upper)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // First those that may be stopped, and would let us wait.
        for server in self.servers.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            let _ = pidfd_send_signal(&*server, Signal::KILL);
            ended_within(server.as_fd(), Duration::from_secs(5));
        }
        if let Ok(Some(view)) = View::connect(self.domain()) {
            let _ = pidfd_send_signal(view.server_pidfd(), Signal::KILL);
            ended_within(view.server_pidfd(), Duration::from_secs(5));
        }
        // The test's mounts, in this thread's namespace; else their directories cannot be removed.
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        for line in mounts.lines().rev() {
            let Some(place) = line.split(' ').nth(4) else { continue };
            if Path::new(place).starts_with(self.temp.path()) {
                let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

pub fn open_dir(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// A segment of one host directory.
pub fn host_segment() -> SegmentSpec {
    let branch = BranchSpec::new(Source::Host { root: 0, host: None }, "host");
    SegmentSpec { branches: vec![branch], ..SegmentSpec::default() }
}

pub fn attach_host(view: &mut View, path: &Path) -> Attached {
    view.attach(&host_segment(), &[open_dir(path).as_fd()]).unwrap()
}

/// Lets what was written become old enough that a further change would show in its times: a younger file is never
/// taken to be unchanged.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

/// True when the process behind the pidfd ends in time.
pub fn ended_within(pidfd: BorrowedFd<'_>, limit: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let wait = PollTimeout::try_from(limit.as_millis() as i32).unwrap();
    poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], wait).unwrap() == 1
}

/// Waits for a condition that another process brings about.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Stops the server and waits until none of its threads runs: a signal takes its time.
pub fn stop(view: &View) {
    pidfd_send_signal(view.server_pidfd(), Signal::STOP).unwrap();
    let tasks = Path::new("/proc").join(view.server_pid().to_string()).join("task");
    eventually("all threads of the server stop", || {
        std::fs::read_dir(&tasks).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            // D: it waits in the kernel for another thread, which has stopped.
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with(['T', 'D'])
        })
    });
}
