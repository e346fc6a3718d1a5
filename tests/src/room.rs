//! A room: namespaces of processes and of mounts in which root has daemons. What they start and mount ends with it, and it
//! with the test, however that ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::caller::PATH;
use crate::cgroups::below;
use crate::{Background, Output, Sandbox, command, processes};

pub struct Room<'a> {
    sandbox: &'a Sandbox,
    /// The parent of the first process; that ends when its stdin is closed.
    keeper: Child,
    /// Killed by the end of the room, and reaped after it.
    daemons: Vec<Background>,
}

/// What the first process does. Whoever loses its parent is its child, and waited for.
const KEEP: &str =
    "mount -t tmpfs -o mode=0755 none /run && echo ready && exec 3<&0 && { cat <&3 & wait $!; }";

impl<'a> Room<'a> {
    /// Root's, with a /run of its own, after `setup`. Errors, as text: why there can be none here.
    pub fn new(sandbox: &'a Sandbox, setup: &str) -> Result<Room<'a>, String> {
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-ec", &format!("{setup}\n{KEEP}")])
            .current_dir(sandbox.scratch())
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start unshare: {error}"))?;
        let mut line = String::new();
        let _ = BufReader::new(keeper.stdout.take().expect("stdout is a pipe")).read_line(&mut line);
        let room = Room { sandbox, keeper, daemons: Vec::new() };
        if line.trim() == "ready" { Ok(room) } else { Err("no namespaces can be made here".to_owned()) }
    }

    /// `program` to be run by root in the room, in the scratch directory.
    pub fn command(&self, program: &str) -> Command {
        let keeper = self.keeper.id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{keeper}/ns/mnt"));
        command.arg(format!("--pid=/proc/{keeper}/ns/pid_for_children"));
        command.arg(format!("--wdns={}", self.sandbox.scratch().display())).arg(program);
        command.env_clear().env("PATH", PATH).env("HOME", self.sandbox.home()).stdin(Stdio::null());
        command
    }

    pub fn call(&self, program: &str, arguments: &[&str]) -> Output {
        command::run(self.command(program).args(arguments))
    }

    /// Starts one that runs until the room ends.
    pub fn start(&mut self, daemon: &mut Command) {
        self.daemons.push(Background::start(daemon));
    }

    /// Waits until `true`. Panics with what the daemons say when it never comes, or one of them ends.
    pub fn until(&mut self, what: &str, mut happened: impl FnMut(&Room<'a>) -> bool) {
        let deadline = Instant::now() + processes::PATIENCE;
        while !happened(self) {
            let ended = self.daemons.iter_mut().any(Background::has_ended);
            if ended || Instant::now() > deadline {
                let said: Vec<_> = self.daemons.iter().map(Background::said_so_far).collect();
                panic!("waited in vain: {what}; the daemons say: {}", said.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A name that no other test has, for namespaces of daemons and for [`Room::cgroups`].
    pub fn name(&self) -> String {
        self.sandbox.name()
    }

    /// Cgroups below those at the top of each hierarchy that have the room's name, the deepest first.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        self.tops().iter().flat_map(|top| below(top)).collect()
    }

    fn tops(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        let places = hierarchies.chain([root.to_path_buf()]).map(|place| place.join(self.name()));
        places.filter(|place| place.is_dir()).collect()
    }

    /// Waits until there is neither a cgroup nor a mount of a container left.
    pub fn until_nothing_is_left(&self) {
        processes::until("the removal of cgroups", || self.cgroups().is_empty());
        processes::until("the end of mounts", || {
            let mounts = self.call("cat", &["/proc/self/mountinfo"]).expect(0).stdout;
            !mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(is_containers)
        });
    }
}

/// Whether something is mounted for a container: at what engines name by its id, or at the root in its bundle.
fn is_containers(place: &str) -> bool {
    let is_id = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    place.split('/').any(|name| name == "rootfs" || is_id(name))
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut cgroups = self.cgroups();
        cgroups.extend(self.tops());
        for cgroup in &cgroups {
            // A process that is frozen cannot be killed.
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
        }
        drop(self.keeper.stdin.take());
        // It waits for the first process, whose end is that of all others.
        let _ = self.keeper.wait();
        for cgroup in &cgroups {
            let _ = fs::remove_dir(cgroup);
        }
    }
}
