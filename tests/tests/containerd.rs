//! containerd with its own shim, which calls vfsrun in place of runc.

use std::fs;
use std::path::Path;

use vfsrun_tests::room::Room;
use vfsrun_tests::{Output, Sandbox, as_root, fixtures, processes, skip};

as_root!(task_runs_and_its_exit_code_comes_through, task_is_listed_joined_killed_and_removed);

/// A containerd of this test's own.
struct Containerd<'a> {
    sandbox: &'a Sandbox,
    room: Room<'a>,
}

impl<'a> Containerd<'a> {
    /// `None`, told loudly, where there can be none.
    fn start(sandbox: &'a Sandbox) -> Option<Containerd<'a>> {
        Containerd::try_start(sandbox).map_err(|reason| skip::loudly("containerd", &reason)).ok()
    }

    fn try_start(sandbox: &'a Sandbox) -> Result<Containerd<'a>, String> {
        if !fixtures::has("containerd") || !fixtures::has("ctr") {
            return Err("containerd is not installed".to_owned());
        }
        fixtures::busybox_root(sandbox, "rootfs").ok_or("busybox-static is not installed")?;
        sandbox.write("config.toml", fixtures::containerd_config(sandbox));
        let mut room = Room::new(sandbox, "")?;
        room.start(room.command("containerd").args(["--config", "config.toml", "--log-level", "error"]));
        let mut containerd = Containerd { sandbox, room };
        containerd.room.until("containerd", |room| client(sandbox, room, &["version"]).code() == 0);
        Ok(containerd)
    }

    fn call(&self, arguments: &[&str]) -> Output {
        client(self.sandbox, &self.room, arguments)
    }

    /// In a cgroup `/NAME/ID`, as ctr has it.
    fn run(&self, options: &[&str], id: &str, script: &str) -> Output {
        let program = self.sandbox.caller.program().display().to_string();
        let root = self.sandbox.path("rootfs").display().to_string();
        let runtime = ["--runc-binary", &program, "--rootfs", &root, id, "sh", "-c", script];
        self.call(&[&["run"], options, &runtime].concat())
    }
}

fn client(sandbox: &Sandbox, room: &Room<'_>, arguments: &[&str]) -> Output {
    let socket = sandbox.path("socket").display().to_string();
    let all = ["--address", &socket, "--namespace", &room.name()];
    room.call("ctr", &[&all, arguments].concat())
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
    containerd
        .run(&["--detach", "--memory-limit", "67108864"], "web", "while :; do sleep 0.1; done")
        .expect(0);
    let tasks = || containerd.call(&["task", "ls"]).expect(0).stdout;
    assert!(tasks().lines().any(|line| line.starts_with("web ") && line.contains("RUNNING")), "{}", tasks());
    let joined =
        ["task", "exec", "--exec-id", "one", "web", "sh", "-c", "test $$ -gt 1 && echo inside; exit 3"];
    assert_eq!(containerd.call(&joined).expect(3).stdout, "inside\n");
    let limits = containerd.room.cgroups().into_iter().filter_map(|cgroup| memory_limit(&cgroup));
    assert_eq!(limits.collect::<Vec<_>>(), ["67108864"]);
    containerd.call(&["task", "kill", "--signal", "KILL", "web"]).expect(0);
    processes::until("the end of the task", || tasks().contains("STOPPED"));
    containerd.call(&["task", "rm", "web"]);
    assert!(!tasks().contains("web"), "{}", tasks());
    containerd.call(&["container", "rm", "web"]).expect(0);
    containerd.room.until_nothing_is_left();
}

/// Of a cgroup with a memory controller, of either version.
fn memory_limit(cgroup: &Path) -> Option<String> {
    let files = ["memory.limit_in_bytes", "memory.max"].map(|name| cgroup.join(name));
    files.into_iter().find_map(|file| Some(fs::read_to_string(file).ok()?.trim().to_owned()))
}
