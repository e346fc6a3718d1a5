//! podman with vfsrun as its runtime, without cgroups.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use vfsrun_tests::{Caller, Output, Sandbox, as_root_and_user, command, fixtures, processes, skip};

as_root_and_user!(
    container_runs_and_its_exit_code_comes_through,
    detached_container_is_seen_stopped_and_started_again,
    terminal_is_conmons,
    program_that_is_not_there_is_127,
    volumes_are_mounted,
    root_is_readonly_but_for_its_temporary_places,
    commands_are_executed_in_a_container,
);

/// podman with storage of this test's own. `None`, told loudly, where it cannot be used.
struct Podman<'a> {
    sandbox: &'a Sandbox,
}

impl<'a> Podman<'a> {
    /// With an image `box` of busybox.
    fn new(sandbox: &'a Sandbox) -> Option<Podman<'a>> {
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
        let script = format!("#!/bin/sh\nexec {} --root {} \"$@\"\n", program.display(), runtime.display());
        let script = sandbox.write("bin/vfsrun", script);
        std::fs::set_permissions(script, PermissionsExt::from_mode(0o755))
            .expect("a file of ours takes a mode");
        let podman = Podman { sandbox };
        sandbox.write("root/work/of-the-image", "of the image\n");
        let archive = format!("tar -C {} -cf image.tar .", root.display());
        sandbox.sh(&archive);
        podman.call(&["import", "image.tar", "box"]).expect(0);
        Some(podman)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let sandbox = self.sandbox;
        let place = |name: &str| -> PathBuf { sandbox.path(name) };
        let mut command = sandbox.command("podman");
        command.env("CONTAINERS_CONF", place("containers.conf")).env("XDG_RUNTIME_DIR", place("run-user"));
        command.arg("--root").arg(place("storage")).arg("--runroot").arg(place("storage-run"));
        command.args(["--storage-driver", "vfs"]).arg("--runtime").arg(place("bin/vfsrun"));
        command.args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> Output {
        command::run(&mut self.command(arguments))
    }

    /// Detached: its monitor has the output for as long as the container lives.
    fn start(&self, options: &[&str], script: &str) {
        let plain = ["run", "-d", "--cgroups=disabled", "--network=none"];
        let mut start = self.command(&[&plain[..], options, &["box", "sh", "-c", script]].concat());
        assert!(start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
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

fn container_runs_and_its_exit_code_comes_through(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let output = podman.run(&["--hostname=inside"], "hostname; id -u; echo err >&2; exit 5").expect(5);
    assert_eq!(output.stdout, "inside\n0\n");
    assert_eq!(output.stderr, "err\n");
}

fn detached_container_is_seen_stopped_and_started_again(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let script = "trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.1; done";
    podman.start(&["--name=web"], script);
    let status =
        || podman.call(&["inspect", "web", "--format", "{{.State.Status}} {{.State.ExitCode}}"]).stdout;
    assert_eq!(status(), "running 0\n");
    processes::until("the log", || podman.call(&["logs", "web"]).stdout == "begun\n");
    podman.call(&["stop", "web"]).expect(0);
    assert_eq!(status(), "exited 3\n");
    assert_eq!(podman.call(&["logs", "web"]).stdout, "begun\nended\n");
    podman.call(&["start", "web"]).expect(0);
    assert_eq!(status(), "running 0\n");
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
    let left = || sandbox.call(&["list", "--quiet"]).expect(0).stdout;
    processes::until("the removal of the container", || left().is_empty());
}

fn commands_are_executed_in_a_container(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    podman.start(&["--name=web", "--user=7:7"], "while :; do sleep 0.1; done");
    let output =
        podman.call(&["exec", "-e", "X=y", "-w", "/etc", "web", "sh", "-c", "id -u; pwd; echo $X; exit 6"]);
    assert_eq!(output.expect(6).stdout, "7\n/etc\ny\n");
    let output =
        podman.call(&["exec", "--user=0", "-t", "web", "sh", "-c", "id -u; test -t 1 && echo terminal"]);
    assert_eq!(output.expect(0).stdout, "0\r\nterminal\r\n");
    podman.call(&["exec", "web", "no-such-program"]).expect(127);
    podman.call(&["rm", "--force", "--time=0", "web"]).expect(0);
}

fn terminal_is_conmons(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let output = podman.run(&["-t"], "test -t 0 && test -t 1 && test -t 2 && echo all").expect(0);
    assert_eq!(output.stdout, "all\r\n");
}

fn program_that_is_not_there_is_127(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let output =
        podman.call(&["run", "--rm", "--cgroups=disabled", "--network=none", "box", "no-such-program"]);
    output.expect(127).assert_stderr_has("\"no-such-program\": executable file not found in $PATH");
}

/// podman has a tmpfs begin with what the image has there.
fn root_is_readonly_but_for_its_temporary_places(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    let script = "touch /etc/x; echo new > /tmp/new; cat /tmp/new; cat /work/of-the-image; echo x > /work/new && echo written";
    let options = ["--read-only", "--tmpfs", "/work:rw,tmpcopyup"];
    let output = podman.run(&options, script).expect(0);
    assert_eq!(output.stdout, "new\nof the image\nwritten\n");
    output.assert_stderr_has("/etc/x: Read-only file system");
}

fn volumes_are_mounted(sandbox: &Sandbox) {
    let Some(podman) = Podman::new(sandbox) else { return };
    sandbox.write("volume/file", "of the host\n");
    let volume = |at: &str| format!("{}:{at}", sandbox.path("volume").display());
    let (writable, readonly) = (volume("/data"), volume("/ro:ro"));
    let output = podman.run(
        &["-v", &writable, "-v", &readonly],
        "cat /ro/file; echo new > /data/new; cat /ro/new; touch /ro/file",
    );
    assert_eq!(output.expect(1).stdout, "of the host\nnew\n");
    assert_eq!(std::fs::read_to_string(sandbox.path("volume/new")).unwrap(), "new\n");
}
