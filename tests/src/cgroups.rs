//! Cgroups of containers in a test: of this machine as it is, and of mount namespaces where it has one version alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::sandbox::Sandbox;
use crate::{fixtures, skip};

/// How this machine's cgroups are seen: what root does in a mount namespace of the test's own.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    AsItIs,
    V1,
    V2,
}

pub const MODES: [Mode; 3] = [Mode::AsItIs, Mode::V1, Mode::V2];

/// A cgroup of version 2 that is the whole hierarchy to those who run in [`Mode::V2`], and goes with the test.
pub struct Top(pub PathBuf);

impl Top {
    pub fn new(sandbox: &Sandbox) -> Top {
        let mount = hierarchies().into_iter().find(|(controllers, _)| controllers.is_empty());
        let (_, mount) = mount.expect("checked by `has_cgroups`");
        let path = mount.join(name(sandbox));
        fs::create_dir(&path).unwrap();
        Top(path)
    }

    pub fn setup(&self, mode: Mode) -> String {
        match mode {
            Mode::AsItIs => String::new(),
            Mode::V1 => format!("mount -t tmpfs none '{}'", self.0.parent().unwrap().display()),
            Mode::V2 => format!("mount --bind '{}' /sys/fs/cgroup", self.0.display()),
        }
    }

    /// The setup of [`Mode::V2`] in which this user has a cgroup, as systemd gives one: `given`, and one in it in which the user's
    /// processes are.
    pub fn setup_given_to(&self, uid: u32) -> String {
        let setup = self.setup(Mode::V2);
        format!(
            "{setup}
            cd /sys/fs/cgroup; mkdir given given/own; chown {uid} given given/own given/cgroup.procs given/own/cgroup.procs \
                given/cgroup.subtree_control
            echo $$ > given/own/cgroup.procs; cd - >/dev/null"
        )
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        for path in ["given/own", "given", ""].map(|name| self.0.join(name)) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Of a cgroup that is this test's alone.
pub fn name(sandbox: &Sandbox) -> String {
    sandbox.name()
}

/// Controllers and mounts of this machine.
pub fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        let kind = tail.next().filter(|kind| kind.starts_with("cgroup"))?;
        let options = tail.nth(1)?.to_owned();
        let controllers = if kind == "cgroup2" { "" } else { options.split_once(',')?.1 };
        Some((controllers.to_owned(), PathBuf::from(head.split(' ').nth(4)?)))
    });
    cgroups.collect()
}

/// Whether this machine has what these tests look at. Told loudly.
pub fn has_cgroups(test: &str) -> bool {
    let has = hierarchies();
    let hybrid = ["memory", "devices", "freezer", "pids", "cpuset", ""];
    let is_hybrid = hybrid.iter().all(|wanted| has.iter().any(|(controllers, _)| controllers == wanted));
    if !is_hybrid {
        skip::loudly(test, "this machine does not have cgroups of both versions");
    }
    is_hybrid
}

/// Directories of this machine's cgroups whose names have `text` in them, the deepest first.
pub fn cgroups_of(text: &str) -> Vec<PathBuf> {
    let all = hierarchies().into_iter().flat_map(|(_, mount)| below(&mount));
    all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(text))).collect()
}

/// All directories in this one, the deepest first.
pub fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.flat_map(|entry| below(&entry.path()).into_iter().chain([entry.path()])).collect()
}

pub fn bundle(sandbox: &Sandbox, script: &str, change: impl Fn(&mut Value)) -> bool {
    if !has_cgroups("cgroup") {
        return false;
    }
    if !sandbox.path("bundle/rootfs").exists() && fixtures::busybox_root(sandbox, "bundle/rootfs").is_none() {
        skip::loudly("cgroup", "busybox-static is not installed");
        return false;
    }
    let mut config = fixtures::bundle_config(sandbox, &["/bin/sh", "-c", script]);
    // In a cgroup namespace every path is `/`.
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    change(&mut config);
    sandbox.write_json("bundle/config.json", &config);
    true
}

/// A path in every hierarchy, which is this test's alone.
pub fn at(sandbox: &Sandbox) -> String {
    format!("/{}/c", name(sandbox))
}

/// What can be set in the cgroups at [`at`], by file.
pub fn settings(sandbox: &Sandbox) -> Vec<(PathBuf, String)> {
    let mut settings = Vec::new();
    let own = cgroups_of(&name(sandbox)).into_iter().map(|path| path.join("c"));
    for directory in own.filter(|path| path.is_dir()) {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_counted = [
                "usage",
                "stat",
                "procs",
                "tasks",
                "cgroup.threads",
                "failcnt",
                "pressure",
                "current",
                "peak",
                "io_serv",
            ];
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            if is_counted.iter().any(|word| name.contains(word)) {
                continue;
            }
            // The host's tun is runc's alone, and the order is nobody's.
            let mut lines: Vec<_> = text.lines().filter(|line| *line != "c 10:200 rwm").collect();
            lines.sort_unstable();
            settings.push((entry.path(), lines.join("\n")));
        }
    }
    settings.sort();
    settings
}

/// Removes what [`at`] has as parents.
pub fn tidy(sandbox: &Sandbox) {
    for path in cgroups_of(&name(sandbox)) {
        let _ = fs::remove_dir(path);
    }
}

pub fn add_mounts(config: &mut Value, mounts: &[Value]) {
    config["mounts"].as_array_mut().unwrap().extend(mounts.iter().cloned());
}

pub fn grant(config: &mut Value, capability: &str) {
    for set in ["bounding", "permitted", "effective"] {
        config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!(capability));
    }
}
