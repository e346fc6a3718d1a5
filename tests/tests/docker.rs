//! docker: dockerd and a containerd of this test's own, with vfsrun as a runtime.

use nix::sys::signal::Signal;
use vfsrun_tests::{Background, Output, Sandbox, Value, as_root, command, fixtures, processes, skip};

as_root!(container_runs_is_joined_killed_and_removed,);

/// A dockerd without a network of its own. `None`, told loudly, where there can be none.
struct Docker<'a> {
    sandbox: &'a Sandbox,
    /// In the order in which they are ended.
    daemons: Vec<Background>,
}

impl<'a> Docker<'a> {
    fn start(sandbox: &'a Sandbox) -> Option<Docker<'a>> {
        if !["dockerd", "docker", "containerd"].into_iter().all(fixtures::has) {
            skip::loudly("docker", "docker.io is not installed");
            return None;
        }
        // docker sets a network up by a hook, even where there is none.
        let features = sandbox.call(&["features"]).expect(0).stdout;
        let features: Value = serde_json::from_str(&features).expect("features are JSON");
        if !features["hooks"].as_array().is_some_and(|hooks| hooks.iter().any(|hook| hook == "prestart")) {
            skip::loudly("docker", "this version builds no hooks");
            return None;
        }
        if fixtures::busybox_root(sandbox, "rootfs").is_none() {
            skip::loudly("docker", "busybox-static is not installed");
            return None;
        }
        let place = |name: &str| sandbox.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            place("containerd"),
            place("state"),
            place("containerd.socket"),
            place("containerd.ttrpc")
        );
        sandbox.write("config.toml", config);
        // Whatever they mount is their own.
        let private = |script: &str| {
            let script = format!("mount --make-rprivate / && exec {script}");
            Background::start(sandbox.command("unshare").args(["--mount", "sh", "-c", &script]))
        };
        let containerd = private("containerd --config config.toml --log-level error");
        processes::until("containerd", || sandbox.path("containerd.socket").exists());
        let dockerd = private(&format!(
            "dockerd --containerd {} --containerd-namespace {namespace} --containerd-plugins-namespace {namespace} \
             --data-root {} --exec-root {} --pidfile {} --host unix://{} --bridge=none --iptables=false --ip6tables=false \
             --storage-driver=vfs --exec-opt native.cgroupdriver=cgroupfs --add-runtime vfsrun={} --log-level error",
            place("containerd.socket"),
            place("data"),
            place("exec"),
            place("dockerd.pid"),
            place("docker.socket"),
            sandbox.caller.program().display(),
            namespace = namespace(sandbox),
        ));
        let docker = Docker { sandbox, daemons: vec![dockerd, containerd] };
        processes::until("dockerd", || docker.call(&["version"]).code() == 0);
        sandbox.sh("tar -C rootfs -cf image.tar .");
        docker.call(&["import", "image.tar", "busybox"]).expect(0);
        Some(docker)
    }

    fn call(&self, arguments: &[&str]) -> Output {
        let mut command = self.sandbox.command("docker");
        command.arg("--host").arg(format!("unix://{}", self.sandbox.path("docker.socket").display()));
        command::run(command.args(arguments))
    }

    fn run(&self, options: &[&str], script: &str) -> Output {
        let what = ["run", "--network", "none", "--runtime", "vfsrun"];
        self.call(&[&what[..], options, &["busybox", "/bin/sh", "-c", script]].concat())
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        for daemon in self.daemons.drain(..) {
            daemon.send(Signal::SIGTERM);
            daemon.wait();
        }
        let _ = std::fs::remove_dir_all(format!("/run/containerd/runc/{}", namespace(self.sandbox)));
    }
}

/// A name that no other test has: a shim gives the runtime a directory of all containerds.
fn namespace(sandbox: &Sandbox) -> String {
    let scratch = sandbox.scratch();
    let own = scratch.components().rev().nth(1).expect("the scratch directory lies in one of the test's own");
    own.as_os_str().to_string_lossy().into_owned()
}

fn container_runs_is_joined_killed_and_removed(sandbox: &Sandbox) {
    let Some(docker) = Docker::start(sandbox) else { return };
    let output = docker.run(&["--rm"], "echo out; echo err >&2; id -u; exit 6").expect(6);
    assert_eq!((&*output.stdout, &*output.stderr), ("out\n0\n", "err\n"));
    assert_eq!(
        docker.call(&["run", "--rm", "--network", "none", "--runtime", "vfsrun", "busybox", "none"]).code(),
        127
    );
    docker.run(&["--detach", "--name", "web"], "echo begun; while :; do sleep 1; done").expect(0);
    let joined = docker.call(&["exec", "web", "/bin/sh", "-c", "test $$ -gt 1 && echo inside; exit 3"]);
    assert_eq!(joined.expect(3).stdout, "inside\n");
    assert_eq!(docker.call(&["logs", "web"]).expect(0).stdout, "begun\n");
    docker.call(&["kill", "web"]).expect(0);
    assert_eq!(docker.call(&["wait", "web"]).expect(0).stdout, "137\n");
    docker.call(&["rm", "web"]).expect(0);
    assert_eq!(docker.call(&["ps", "--all", "--quiet"]).expect(0).stdout, "");
}
