//! podman with vfsrun as its runtime: without cgroups, or as root in a room with them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::program::repository;
use crate::room::Room;
use crate::{Caller, Output, Sandbox, command, fixtures, processes, skip};

/// podman with storage of this test's own. `None`, told loudly, where it cannot be used.
pub struct Podman<'a> {
    sandbox: &'a Sandbox,
    driver: &'static str,
    room: Option<Room<'a>>,
}

/// What root does in the room: `--userns=auto` takes subordinate ids of a user of this name.
const SETUP: &str = "echo containers:300000:131072 >subids
mount --bind subids /etc/subuid
mount --bind subids /etc/subgid";

impl<'a> Podman<'a> {
    /// With an image `box` of busybox, in storage that copies it for each container.
    pub fn new(sandbox: &'a Sandbox) -> Option<Podman<'a>> {
        Podman::with_storage(sandbox, "vfs")
    }

    /// The same, whose containers' roots are overlay mounts.
    pub fn with_overlays(sandbox: &'a Sandbox) -> Option<Podman<'a>> {
        Podman::with_storage(sandbox, "overlay")
    }

    pub fn sandbox(&self) -> &Sandbox {
        self.sandbox
    }

    /// The same as [`Podman::new`], in a room, with cgroups. Root's.
    pub fn with_cgroups(sandbox: &'a Sandbox) -> Option<Podman<'a>> {
        match Room::new(sandbox, SETUP) {
            Ok(room) => Podman::made(sandbox, "vfs", Some(room)),
            Err(reason) => {
                skip::loudly("podman", &reason);
                None
            }
        }
    }

    fn with_storage(sandbox: &'a Sandbox, driver: &'static str) -> Option<Podman<'a>> {
        Podman::made(sandbox, driver, None)
    }

    fn made(sandbox: &'a Sandbox, driver: &'static str, room: Option<Room<'a>>) -> Option<Podman<'a>> {
        if !fixtures::has("podman") {
            skip::loudly("podman", "podman is not installed");
            return None;
        }
        let Some(root) = fixtures::busybox_root(sandbox, "root") else {
            skip::loudly("podman", "busybox-static is not installed");
            return None;
        };
        let example = std::fs::read_to_string(repository().join("docs/containers.conf.d/vfsrun.conf"))
            .expect("the repository has podman's configuration");
        let installed = example.replace("/usr/local/bin", &sandbox.path("bin").display().to_string());
        let configuration = format!(
            "{installed}\
            cgroup_manager = \"cgroupfs\"\n\
            events_logger = \"file\"\n\
            [containers]\n\
            # Limits that a process without CAP_SYS_RESOURCE can set.\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n"
        );
        sandbox.write("containers.conf", configuration);
        sandbox.dir("run-user");
        // podman's own option for that is forgotten where it cleans up.
        let (program, runtime) = (sandbox.caller.program(), sandbox.runtime());
        let store = sandbox.store();
        let script = format!(
            "#!/bin/sh\nexec {} --root {} --store {} \"$@\"\n",
            program.display(),
            runtime.display(),
            store.display()
        );
        fixtures::script(sandbox, "bin/vfsrun", &script);
        let podman = Podman { sandbox, driver, room };
        sandbox.write("root/work/of-the-image", "of the image\n");
        let archive = format!("tar -C {} -cf image.tar .", root.display());
        sandbox.sh(&archive);
        podman.call(&["import", "image.tar", "box"]).expect(0);
        Some(podman)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let sandbox = self.sandbox;
        let place = |name: &str| -> PathBuf { sandbox.path(name) };
        let mut command = match &self.room {
            Some(room) => room.command("podman"),
            None => sandbox.command("podman"),
        };
        command.env("CONTAINERS_CONF", place("containers.conf")).env("XDG_RUNTIME_DIR", place("run-user"));
        command.arg("--root").arg(place("storage")).arg("--runroot").arg(place("storage-run"));
        command.args(["--storage-driver", self.driver]).args(["--runtime", "vfsrun"]);
        command.args(arguments);
        command
    }

    pub fn call(&self, arguments: &[&str]) -> Output {
        command::run(&mut self.command(arguments))
    }

    /// Detached: its monitor has the output for as long as the container lives.
    pub fn start(&self, options: &[&str], script: &str) {
        self.start_quietly(&mut self.running(&["-d"], options, &["sh", "-c", script]));
    }

    /// A command that leaves a monitor, which has its output.
    pub fn start_quietly(&self, start: &mut Command) {
        assert!(start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    pub fn run(&self, options: &[&str], script: &str) -> Output {
        command::run(&mut self.running(&["--rm"], options, &["sh", "-c", script]))
    }

    /// `podman run … box …`, without a network.
    pub fn running(&self, first: &[&str], options: &[&str], arguments: &[&str]) -> Command {
        let parent = self.cgroup().map(|parent| format!("--cgroup-parent={parent}"));
        let cgroups = match &parent {
            Some(parent) => vec!["--cgroups=no-conmon", parent],
            None => vec!["--cgroups=disabled"],
        };
        self.command(&[&["run", "--network=none"], first, &cgroups, options, &["box"], arguments].concat())
    }

    pub fn room(&self) -> &Room<'a> {
        self.room.as_ref().expect("this podman was made in a room")
    }

    /// In which cgroups of containers are.
    fn cgroup(&self) -> Option<String> {
        Some(format!("/{}", self.room.as_ref()?.name()))
    }
}

/// A test that fails leaves its containers. What an ordinary user's podman leaves belongs to subordinate ids, and a process
/// holds its namespaces.
impl Drop for Podman<'_> {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force", "--time=0"]);
        if self.sandbox.caller == Caller::User {
            let storage = self.sandbox.path("storage").display().to_string();
            self.call(&["unshare", "rm", "-rf", &storage]);
        }
        let pid = std::fs::read_to_string(self.sandbox.path("run-user/libpod/tmp/pause.pid"));
        if let Some(pid) = pid.ok().and_then(|text| text.trim().parse().ok()) {
            processes::send(pid, Signal::SIGKILL);
        }
        // Monitors, and what they call when a container has ended.
        let place = self.sandbox.scratch().display().to_string();
        for _ in 0..100 {
            if processes::mentioning(&place).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
