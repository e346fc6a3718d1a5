//! podman with vfsrun as its runtime, without cgroups.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{Caller, Output, Sandbox, command, fixtures, processes, skip};

/// podman with storage of this test's own. `None`, told loudly, where it cannot be used.
pub struct Podman<'a> {
    sandbox: &'a Sandbox,
    driver: &'static str,
}

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

    fn with_storage(sandbox: &'a Sandbox, driver: &'static str) -> Option<Podman<'a>> {
        if !fixtures::has("podman") {
            skip::loudly("podman", "podman is not installed");
            return None;
        }
        let Some(root) = fixtures::busybox_root(sandbox, "root") else {
            skip::loudly("podman", "busybox-static is not installed");
            return None;
        };
        let configuration = "[containers]\n\
            # Limits that a process without CAP_SYS_RESOURCE can set.\n\
            default_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
            [engine]\n\
            cgroup_manager = \"cgroupfs\"\n\
            events_logger = \"file\"\n\
            runtime_supports_json = [\"vfsrun\"]\n\
            runtime_supports_nocgroup = [\"vfsrun\"]\n";
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
        let script = sandbox.write("bin/vfsrun", script);
        std::fs::set_permissions(script, PermissionsExt::from_mode(0o755))
            .expect("a file of ours takes a mode");
        let podman = Podman { sandbox, driver };
        sandbox.write("root/work/of-the-image", "of the image\n");
        let archive = format!("tar -C {} -cf image.tar .", root.display());
        sandbox.sh(&archive);
        podman.call(&["import", "image.tar", "box"]).expect(0);
        Some(podman)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let sandbox = self.sandbox;
        let place = |name: &str| -> PathBuf { sandbox.path(name) };
        let mut command = sandbox.command("podman");
        command.env("CONTAINERS_CONF", place("containers.conf")).env("XDG_RUNTIME_DIR", place("run-user"));
        command.arg("--root").arg(place("storage")).arg("--runroot").arg(place("storage-run"));
        command.args(["--storage-driver", self.driver]).arg("--runtime").arg(place("bin/vfsrun"));
        command.args(arguments);
        command
    }

    pub fn call(&self, arguments: &[&str]) -> Output {
        command::run(&mut self.command(arguments))
    }

    /// Detached: its monitor has the output for as long as the container lives.
    pub fn start(&self, options: &[&str], script: &str) {
        let plain = ["run", "-d", "--cgroups=disabled", "--network=none"];
        let mut start = self.command(&[&plain[..], options, &["box", "sh", "-c", script]].concat());
        assert!(start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    pub fn run(&self, options: &[&str], script: &str) -> Output {
        let plain = ["run", "--rm", "--cgroups=disabled", "--network=none"];
        self.call(&[&plain[..], options, &["box", "sh", "-c", script]].concat())
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
