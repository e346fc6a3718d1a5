//! containerd with its own shim, which calls vfsrun in place of runc.

use nix::sys::signal::Signal;
use vfsrun_tests::{Background, Output, Sandbox, as_root, command, fixtures, processes, skip};

as_root!(task_runs_and_its_exit_code_comes_through, task_is_listed_joined_killed_and_removed,);

/// A containerd of this test's own. `None`, told loudly, where there can be none.
struct Containerd<'a> {
    sandbox: &'a Sandbox,
    daemon: Option<Background>,
}

impl<'a> Containerd<'a> {
    fn start(sandbox: &'a Sandbox) -> Option<Containerd<'a>> {
        if !fixtures::has("containerd") || !fixtures::has("ctr") {
            skip::loudly("containerd", "containerd is not installed");
            return None;
        }
        if fixtures::busybox_root(sandbox, "rootfs").is_none() {
            skip::loudly("containerd", "busybox-static is not installed");
            return None;
        }
        let place = |name: &str| sandbox.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            place("root"),
            place("state"),
            place("socket"),
            place("socket.ttrpc")
        );
        sandbox.write("config.toml", config);
        // Whatever it mounts is its own.
        let script = "mount --make-rprivate / && exec containerd --config config.toml --log-level error";
        let daemon = Background::start(sandbox.command("unshare").args(["--mount", "sh", "-c", script]));
        let containerd = Containerd { sandbox, daemon: Some(daemon) };
        processes::until("containerd", || containerd.call(&["version"]).code() == 0);
        Some(containerd)
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = self.sandbox.command("ctr");
        command.arg("--address").arg(self.sandbox.path("socket")).arg("--namespace").arg(self.namespace());
        command::run(command.args(arguments))
    }

    /// A name that no other test has: its shim gives the runtime a directory of all containerds.
    fn namespace(&self) -> String {
        let scratch = self.sandbox.scratch();
        let own =
            scratch.components().rev().nth(1).expect("the scratch directory lies in one of the test's own");
        own.as_os_str().to_string_lossy().into_owned()
    }

    fn run(&self, options: &[&str], id: &str, script: &str) -> Output {
        let program = self.sandbox.caller.program().display().to_string();
        let root = self.sandbox.path("rootfs").display().to_string();
        let runtime = ["--runc-binary", &program, "--rootfs", &root, id, "sh", "-c", script];
        self.call(&[&["run"], options, &runtime].concat())
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.send(Signal::SIGTERM);
            daemon.wait();
        }
        let _ = std::fs::remove_dir_all(format!("/run/containerd/runc/{}", self.namespace()));
    }
}

fn task_runs_and_its_exit_code_comes_through(sandbox: &Sandbox) {
    let Some(containerd) = Containerd::start(sandbox) else { return };
    let output = containerd.run(&["--rm"], "web", "echo out; hostname >/dev/null && id -u; exit 6").expect(6);
    assert_eq!(output.stdout, "out\n0\n");
    let output = containerd.run(&["--rm"], "none", "exec no-such-program").code();
    assert_eq!(output, 127);
}

fn task_is_listed_joined_killed_and_removed(sandbox: &Sandbox) {
    let Some(containerd) = Containerd::start(sandbox) else { return };
    containerd.run(&["--detach"], "web", "while :; do sleep 0.1; done").expect(0);
    let tasks = || containerd.call(&["task", "ls"]).expect(0).stdout;
    assert!(tasks().lines().any(|line| line.starts_with("web ") && line.contains("RUNNING")), "{}", tasks());
    let joined =
        ["task", "exec", "--exec-id", "one", "web", "sh", "-c", "test $$ -gt 1 && echo inside; exit 3"];
    assert_eq!(containerd.call(&joined).expect(3).stdout, "inside\n");
    containerd.call(&["task", "kill", "--signal", "KILL", "web"]).expect(0);
    processes::until("the end of the task", || tasks().contains("STOPPED"));
    containerd.call(&["task", "rm", "web"]);
    assert!(!tasks().contains("web"), "{}", tasks());
    containerd.call(&["container", "rm", "web"]).expect(0);
}
