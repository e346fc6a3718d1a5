//! What engines write into config.json when nobody says otherwise has a filter that is part of the program. The engine is
//! real, its runtime is a script that keeps the config and fails.

use std::path::Path;
use std::process::Command;

use vfsrun_tests::{Sandbox, Value, as_root, command, fixtures, json, skip};

as_root!(podmans_filters_are_part_of_the_program, dockers_filters_are, containerds_filters_are,);

/// The engine and the version whose profiles the program knows; any other may write another.
struct Engine {
    program: &'static str,
    version: &'static str,
}

const PODMAN: Engine = Engine { program: "podman", version: "podman version 4.3" };
const DOCKER: Engine = Engine { program: "dockerd", version: "Docker version 20.10" };
const CONTAINERD: Engine = Engine { program: "containerd", version: "containerd/containerd 1.6" };

/// A mount namespace in which the engine keeps nothing where the host's would.
const SETUP: &str = "mount -t tmpfs run /run; mount -t tmpfs shm /dev/shm";

const SAVE: &str = r#"#!/bin/sh
bundle=.
for word; do
    [ "$previous" != --bundle ] || bundle=$word
    previous=$word
done
[ ! -e "$bundle/config.json" ] || cp "$bundle/config.json" "$(dirname "$0")/saved.json"
exit 1
"#;

impl Engine {
    fn is_here(&self, sandbox: &Sandbox) -> bool {
        let output = Command::new(self.program).arg("--version").output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let is_here = said.as_ref().is_ok_and(|said| said.contains(self.version));
        if !is_here || fixtures::busybox_root(sandbox, "rootfs").is_none() {
            skip::loudly(self.program, &format!("needs {} and busybox-static", self.version));
            return false;
        }
        true
    }
}

/// The profile that the engine wrote, when `script` has it make a container with each of the `choices` as `"$@"`.
fn written(sandbox: &Sandbox, script: &str, choices: &[&[&str]]) -> Vec<Value> {
    // By its name podman takes it for a runtime that need not make cgroups.
    let save = sandbox.write("crun", SAVE);
    std::fs::set_permissions(save, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let each: String = (0..)
        .zip(choices)
        .map(|(number, choice)| {
            let words = choice.join(" ");
            format!("make {words} > log 2>&1 || true; mv saved.json {number}.json || cat log >&2\n")
        })
        .collect();
    let script = script.replace("EACH", &each);
    let output = command::run(&mut sandbox.script_in_namespace(SETUP, &script)).expect(0);
    let read = |number: usize| {
        let text = std::fs::read_to_string(sandbox.path(format!("{number}.json")));
        let text = text.unwrap_or_else(|error| panic!("no config {number}: {error}\n{}", output.stderr));
        let config: Value = serde_json::from_str(&text).unwrap();
        config["linux"]["seccomp"].clone()
    };
    (0..choices.len()).map(read).collect()
}

#[track_caller]
fn assert_part_of_the_program(sandbox: &Sandbox, profiles: &[Value]) {
    for profile in profiles {
        assert!(profile["syscalls"].as_array().is_some_and(|rules| rules.len() > 5), "{profile}");
        let mut spec = sandbox.shell_spec("echo ran", &json!({ "capture": false }));
        spec["linux"] = json!({ "seccomp": profile });
        let output = sandbox.run_named("run.json", &spec, &["--debug"]).expect(0);
        assert_eq!(output.stdout, "ran\n");
        output.assert_stderr_has("the seccomp filter is part of the program");
    }
}

fn podmans_filters_are_part_of_the_program(sandbox: &Sandbox) {
    if !PODMAN.is_here(sandbox) {
        return;
    }
    let script = r#"
make() {
    podman --root "$PWD/root" --runroot "$PWD/runroot" --storage-driver vfs --cgroup-manager cgroupfs --runtime "$PWD/crun" \
        run --rm --network none --cgroups disabled --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 "$@" --rootfs "$PWD/rootfs" true
}
EACH"#;
    let choices: [&[&str]; 4] =
        [&[], &["--cap-drop", "all"], &["--cap-add", "all"], &["--cap-add", "audit_write"]];
    assert_part_of_the_program(sandbox, &written(sandbox, script, &choices));
}

fn dockers_filters_are(sandbox: &Sandbox) {
    if !DOCKER.is_here(sandbox) {
        return;
    }
    // The key would lie in /etc.
    sandbox.write_json("daemon.json", &json!({ "deprecated-key-path": sandbox.path("key.json") }));
    let script = r#"
dockerd --config-file daemon.json --data-root "$PWD/data" --exec-root "$PWD/exec" --pidfile "$PWD/pid" -H "unix://$PWD/socket" \
    --iptables=false --ip6tables=false --bridge=none --storage-driver vfs --add-runtime save="$PWD/crun" > daemon.log 2>&1 & daemon=$!
trap 'kill $daemon; wait $daemon || true' EXIT
docker() { command docker -H "unix://$PWD/socket" "$@"; }
for turn in $(seq 300); do docker info > /dev/null 2>&1 && break; sleep 0.1; done
tar -C rootfs -c . | docker import - busybox:1 > /dev/null
make() { docker run --rm --network none --runtime save "$@" busybox:1 true; }
EACH"#;
    let profiles = written(sandbox, script, &[&[], &["--cap-drop", "ALL"]]);
    assert_part_of_the_program(sandbox, &profiles);
}

fn containerds_filters_are(sandbox: &Sandbox) {
    if !CONTAINERD.is_here(sandbox) {
        return;
    }
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let [root, state, socket] = ["root", "state", "socket"].map(|name| quoted(&sandbox.path(name)));
    let config = format!(
        "version = 2\nroot = {root}\nstate = {state}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
         \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {socket}\n"
    );
    sandbox.write("config.toml", config);
    let script = r#"
containerd -c config.toml > daemon.log 2>&1 & daemon=$!
trap 'kill $daemon; wait $daemon || true' EXIT
for turn in $(seq 300); do [ -S socket ] && break; sleep 0.1; done
number=0
make() {
    number=$((number + 1))
    ctr -a "$PWD/socket" run --rm --seccomp --runc-binary "$PWD/crun" "$@" --rootfs "$PWD/rootfs" "c$number" true
}
EACH"#;
    let usual = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ];
    let none: Vec<String> = usual.iter().map(|name| format!("--cap-drop=CAP_{name}")).collect();
    let none: Vec<&str> = none.iter().map(String::as_str).collect();
    assert_part_of_the_program(sandbox, &written(sandbox, script, &[&[], &none]));
}
