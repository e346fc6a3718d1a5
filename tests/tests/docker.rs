//! docker: dockerd and a containerd of this test's own, with vfsrun as a runtime.

use std::time::Duration;

use vfsrun_tests::room::Room;
use vfsrun_tests::{Output, Sandbox, as_root, command, fixtures, processes, skip};

as_root!(
    container_runs_is_joined_killed_and_removed,
    container_is_paused_and_its_processes_are_listed,
    limits_and_an_init_are_the_containers,
    limits_are_changed,
);

/// A dockerd without a network of its own.
struct Docker<'a> {
    sandbox: &'a Sandbox,
    room: Room<'a>,
}

impl<'a> Docker<'a> {
    /// With an image `busybox`. `None`, told loudly, where there can be none.
    fn start(sandbox: &'a Sandbox) -> Option<Docker<'a>> {
        Docker::try_start(sandbox).map_err(|reason| skip::loudly("docker", &reason)).ok()
    }

    fn try_start(sandbox: &'a Sandbox) -> Result<Docker<'a>, String> {
        if !["dockerd", "docker", "containerd"].into_iter().all(fixtures::has) {
            return Err("docker.io is not installed".to_owned());
        }
        fixtures::busybox_root(sandbox, "rootfs").ok_or("busybox-static is not installed")?;
        sandbox.sh("tar -C rootfs -cf image.tar .");
        let mut room = Room::new(sandbox, "")?;
        let place = |name: &str| sandbox.path(name).display().to_string();
        sandbox.write("config.toml", fixtures::containerd_config(sandbox));
        room.start(room.command("containerd").args(["--config", "config.toml", "--log-level", "error"]));
        room.until("containerd", |_| sandbox.path("socket").exists());
        let mut dockerd = room.command("dockerd");
        let name = room.name();
        dockerd.args(["--containerd", &place("socket"), "--containerd-namespace", &name]);
        dockerd.args(["--containerd-plugins-namespace", &format!("{name}-plugins")]);
        dockerd.args(["--data-root", &place("data"), "--exec-root", &place("exec")]);
        dockerd.args(["--pidfile", &place("dockerd.pid"), "--host", &format!("unix://{}", place("docker"))]);
        dockerd.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]);
        dockerd.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &format!("/{name}")]);
        let program = sandbox.caller.program().display().to_string();
        dockerd.args(["--add-runtime", &format!("vfsrun={program}"), "--log-level", "error"]);
        room.start(&mut dockerd);
        let mut docker = Docker { sandbox, room };
        docker.room.until("dockerd", |room| client(sandbox, room, &["version"]).code() == 0);
        docker.call(&["import", "image.tar", "busybox"]).expect(0);
        Ok(docker)
    }

    fn call(&self, arguments: &[&str]) -> Output {
        client(self.sandbox, &self.room, arguments)
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Output {
        let what = ["run", "--network", "none", "--runtime", "vfsrun"];
        self.call(&[&what[..], options, &["busybox"], command].concat())
    }

    fn run_script(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["/bin/sh", "-c", script])
    }
}

fn client(sandbox: &Sandbox, room: &Room<'_>, arguments: &[&str]) -> Output {
    let mut command = room.command("docker");
    command.arg("--host").arg(format!("unix://{}", sandbox.path("docker").display()));
    command::run(command.args(arguments))
}

fn container_runs_is_joined_killed_and_removed(sandbox: &Sandbox) {
    let Some(docker) = Docker::start(sandbox) else { return };
    let output = docker.run_script(&["--rm"], "echo out; echo err >&2; id -u; exit 6").expect(6);
    assert_eq!((&*output.stdout, &*output.stderr), ("out\n0\n", "err\n"));
    // docker concludes these from the words of an error.
    docker.run(&["--rm"], &["none"]).expect(127);
    docker.run(&["--rm"], &["/bin"]).expect(126);
    docker.run_script(&["--detach", "--name", "web"], "echo begun; while :; do sleep 1; done").expect(0);
    let joined = docker.call(&["exec", "web", "/bin/sh", "-c", "test $$ -gt 1 && echo inside; exit 3"]);
    assert_eq!(joined.expect(3).stdout, "inside\n");
    assert_eq!(docker.call(&["logs", "web"]).expect(0).stdout, "begun\n");
    docker.call(&["kill", "web"]).expect(0);
    assert_eq!(docker.call(&["wait", "web"]).expect(0).stdout, "137\n");
    docker.call(&["start", "web"]).expect(0);
    docker.call(&["restart", "--time", "0", "web"]).expect(0);
    docker.call(&["stop", "--time", "0", "web"]).expect(0);
    docker.call(&["rm", "web"]).expect(0);
    assert_eq!(docker.call(&["ps", "--all", "--quiet"]).expect(0).stdout, "");
    docker.room.until_nothing_is_left();
}

fn container_is_paused_and_its_processes_are_listed(sandbox: &Sandbox) {
    let Some(docker) = Docker::start(sandbox) else { return };
    docker.run_script(&["--detach", "--name", "web"], "while :; do echo tick; sleep 0.05; done").expect(0);
    let ticks = || docker.call(&["logs", "web"]).expect(0).stdout.lines().count();
    let status = || docker.call(&["inspect", "web", "--format", "{{.State.Status}}"]).expect(0).stdout;
    processes::until("the first tick", || ticks() > 0);
    let top = docker.call(&["top", "web", "-o", "pid,args"]).expect(0).stdout;
    let pid = docker.call(&["inspect", "web", "--format", "{{.State.Pid}}"]).expect(0).stdout;
    let of_web = top.lines().find(|line| line.trim_start().starts_with(pid.trim()));
    assert!(of_web.is_some_and(|line| line.contains("/bin/sh -c while :")), "{top}");
    docker.call(&["pause", "web"]).expect(0);
    assert_eq!(status(), "paused\n");
    docker.call(&["exec", "web", "true"]).expect(1).assert_stderr_has("is paused");
    // What was written is read some time later.
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(ticks(), before);
    docker.call(&["unpause", "web"]).expect(0);
    assert_eq!(status(), "running\n");
    processes::until("another tick", || ticks() > before);
    docker.call(&["pause", "web"]).expect(0);
    docker.call(&["rm", "--force", "web"]).expect(0);
    docker.room.until_nothing_is_left();
}

fn limits_and_an_init_are_the_containers(sandbox: &Sandbox) {
    let Some(docker) = Docker::start(sandbox) else { return };
    if !std::path::Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        return skip::loudly("docker: limits", "this machine has no memory controller of version 1");
    }
    let script = "cat /proc/1/comm /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max";
    let limits = ["--rm", "--init", "--memory", "64m", "--pids-limit", "50"];
    let output = docker.run_script(&limits, script).expect(0);
    assert_eq!(output.stdout, "docker-init\n67108864\n50\n");
    let memory = ["--name", "greedy", "--memory", "8m", "--memory-swap", "8m"];
    docker.run_script(&memory, "a=x; while :; do a=$a$a; done").expect(137);
    let killed = docker.call(&["inspect", "greedy", "--format", "{{.State.OOMKilled}}"]);
    assert_eq!(killed.expect(0).stdout, "true\n");
    docker.call(&["rm", "greedy"]).expect(0);
    docker.room.until_nothing_is_left();
}

fn limits_are_changed(sandbox: &Sandbox) {
    let Some(docker) = Docker::start(sandbox) else { return };
    if !std::path::Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        return skip::loudly("docker: update", "this machine has no memory controller of version 1");
    }
    let options = ["--detach", "--name", "web", "--memory", "64m", "--memory-swap", "96m"];
    docker.run_script(&options, "while :; do sleep 1; done").expect(0);
    let limits = ["--memory", "128m", "--memory-swap", "256m", "--pids-limit", "60", "--cpus", "0.5"];
    docker
        .call(&[&["update", "--cpuset-cpus", "0", "--cpu-shares", "512"], &limits[..], &["web"]].concat())
        .expect(0);
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max \
        cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus; echo > /dev/null && echo devices";
    let inside = || docker.call(&["exec", "web", "/bin/sh", "-c", script]).expect(0).stdout;
    assert_eq!(inside(), "134217728\n268435456\n60\n50000\n100000\n512\n0\ndevices\n");
    // One that cannot be, and says why.
    let refused = docker.call(&["update", "--cpuset-cpus", "4000", "web"]);
    assert_ne!(refused.code(), 0);
    assert!(inside().ends_with("\n0\ndevices\n"));
    docker.call(&["rm", "--force", "web"]).expect(0);
    docker.room.until_nothing_is_left();
}
