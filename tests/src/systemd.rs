//! A container in which systemd is the first process: its root is a view of this machine, and its cgroups are its own to change.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cgroups::{Mode, Top, has_cgroups};
use crate::program::repository;
use crate::{Background, Output, Sandbox, command, fixtures, skip};

pub struct Booted<'a> {
    sandbox: &'a Sandbox,
    mode: Mode,
    top: Top,
}

/// What scripts in it begin with: a `bundle` in the sandbox, and containers that are not this sandbox's.
const PRELUDE: &str = r#"
vfsrun() { /vfsrun --root /run/inner --store /tmp/store --systemd-cgroup "$@"; }
started() { vfsrun "$@" </dev/null >/tmp/out 2>&1 || { cat /tmp/out >&2; return 1; }; }
left() { systemctl list-units --all --plain --no-legend "$1"; find /sys/fs/cgroup -name "$1"; }
gone() { for n in $(seq 50); do [ -z "$(left "$1")" ] && return; sleep 0.1; done; left "$1"; }
"#;

impl<'a> Booted<'a> {
    /// Root's; with cgroups as this machine has them, or those of version 2 alone. `None`, told loudly, where it cannot be.
    pub fn new(sandbox: &'a Sandbox, mode: Mode) -> Option<Booted<'a>> {
        if !has_cgroups("systemd") {
            return None;
        }
        let has_root = sandbox.path("bundle/rootfs").exists()
            || fixtures::busybox_root(sandbox, "bundle/rootfs").is_some();
        if !fixtures::has("systemctl") || !has_root {
            skip::loudly("systemd", "systemd or busybox-static is not installed");
            return None;
        }
        sandbox.write_json("box/config.json", &box_config(sandbox));
        for directory in ["usr", "etc", "proc", "sys", "dev", "run", "tmp", "var", "root"] {
            sandbox.dir(format!("box/rootfs/{directory}"));
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            if let Ok(target) = fs::read_link(format!("/{name}")) {
                let _ = std::os::unix::fs::symlink(target, sandbox.path(format!("box/rootfs/{name}")));
            }
        }
        sandbox.write_json(
            "box/view.json",
            // Not what this machine starts.
            &json!({ "upper": { "on": "memory" }, "branches": [
                { "path": "/usr", "at": "/usr", "frozen": true },
                { "path": "/etc", "at": "/etc", "frozen": true, "hide": ["/systemd/system/", "/fstab"] },
                { "root": true },
            ] }),
        );
        let booted = Booted { sandbox, mode, top: Top::new(sandbox) };
        // A container keeps a pipe open.
        booted
            .outside(&format!(
                "vfsrun run -d --bundle box {} </dev/null >box/out 2>&1 || {{ cat box/out; exit 1; }}",
                sandbox.name()
            ))
            .expect(0);
        let state = booted.outside(&format!(
            "for n in $(seq 100); do vfsrun exec {0} test -S /run/systemd/private 2>/dev/null && break; sleep 0.1; done
            vfsrun exec {0} timeout 60 systemctl is-system-running --wait",
            sandbox.name()
        ));
        assert_eq!(state.stdout.trim(), "running", "{}", state.stderr);
        Some(booted)
    }

    /// A script of root's in it, in the sandbox's scratch directory.
    pub fn run(&self, script: &str) -> Output {
        command::run(&mut self.script("timeout 300", script))
    }

    /// The same, for as long as it takes.
    pub fn run_long(&self, script: &str) -> Output {
        let mut running = Background::start(&mut self.script("", script));
        while !running.has_ended() {
            std::thread::sleep(Duration::from_millis(20));
        }
        running.wait()
    }

    fn script(&self, before: &str, script: &str) -> Command {
        self.sandbox
            .write("box/script", format!("cd '{}'\n{PRELUDE}\n{script}\n", self.sandbox.scratch().display()));
        let path = self.sandbox.path("box/script");
        // Where there are processes no controllers are passed on, in version 2.
        let place = if matches!(self.mode, Mode::V2) { "--cgroup init.scope" } else { "" };
        self.command_outside(&format!(
            "vfsrun exec {place} {} {before} bash -eu '{}'",
            self.sandbox.name(),
            path.display()
        ))
    }

    fn outside(&self, script: &str) -> Output {
        command::run(&mut self.command_outside(script))
    }

    fn command_outside(&self, script: &str) -> Command {
        self.sandbox.script_in_namespace(&self.top.setup(self.mode), script)
    }
}

impl Drop for Booted<'_> {
    fn drop(&mut self) {
        let deleted = self.outside(&format!("vfsrun delete --force {}", self.sandbox.name()));
        if !deleted.status.success() && !std::thread::panicking() {
            panic!("{}", deleted.stderr);
        }
    }
}

fn box_config(sandbox: &Sandbox) -> Value {
    let mut config = fixtures::bundle_config(sandbox, &["/lib/systemd/systemd", "--unit=basic.target"]);
    let capabilities = capabilities(sandbox);
    config["process"]["capabilities"] =
        json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities });
    config["process"]["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=oci", "TERM=dumb"]);
    config["process"]["noNewPrivileges"] = json!(false);
    config["root"]["readonly"] = json!(false);
    config["annotations"] = json!({ "run.vfsrun.vfs": sandbox.path("box/view.json") });
    let tmpfs =
        |at: &str| json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] });
    let bind = |from: &std::path::Path, at: &std::path::Path| json!({ "destination": at, "type": "bind", "source": from, "options": ["rbind"] });
    config["mounts"] = json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        tmpfs("/dev"),
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs" },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] },
        tmpfs("/run"),
        { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] },
        tmpfs("/var"),
        bind(&sandbox.scratch(), &sandbox.scratch()),
        bind(&sandbox.caller.program(), "/vfsrun".as_ref()),
        bind(repository(), repository()),
    ]);
    let namespaces = ["pid", "mount", "uts", "ipc", "network", "cgroup"].map(|kind| json!({ "type": kind }));
    config["linux"] = json!({ "namespaces": namespaces, "resources": { "devices": [{ "allow": true, "access": "rwm" }] },
            "devices": [{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600 }] });
    config
}

/// A bundle `bundle` of busybox at `path`, which does nothing for long.
pub fn bundle(sandbox: &Sandbox, path: &str, change: impl Fn(&mut Value)) {
    sandbox.write_json("bundle/config.json", &config(sandbox, path, change));
}

pub fn config(sandbox: &Sandbox, path: &str, change: impl Fn(&mut Value)) -> Value {
    let mut config = fixtures::bundle_config(sandbox, &["/bin/sleep", "1000"]);
    let linux = &mut config["linux"];
    // In a cgroup namespace every path is `/`.
    linux["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "cgroup");
    linux["cgroupsPath"] = json!(path);
    linux.as_object_mut().unwrap().remove("resources");
    change(&mut config);
    config
}

/// Those that may be given here.
fn capabilities(sandbox: &Sandbox) -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let bits = u64::from_str_radix(bits.trim(), 16).unwrap();
    let features: Value = serde_json::from_str(&sandbox.call(&["features"]).expect(0).stdout).unwrap();
    // In the order of their numbers.
    let names = features["linux"]["capabilities"].as_array().unwrap().iter().enumerate();
    let given = names.filter(|(number, _)| bits >> number & 1 == 1);
    given.map(|(_, name)| name.as_str().unwrap().to_owned()).collect()
}
