//! `vfsrun spec`: a bundle's config to start from, or a spec as it is understood or complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;
use vfsrun_sys::chain;

use super::{Failure, Outcome, print};
use crate::cli::{Global, Spec};
use crate::container::OCI_VERSION;
use crate::{decide, probe, run};

#[derive(Debug, Error)]
enum WriteError {
    // The words of runc.
    #[error("File {} exists. Remove it first", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

pub fn spec(arguments: Spec, global: &Global) -> Outcome {
    match arguments.spec {
        Some(_) if arguments.schema => unreachable!("clap refuses both"),
        Some(file) => understood(file, arguments.resolve, global),
        None if arguments.schema => print(vfsrun_spec::SCHEMA),
        None => {
            let directory = arguments.bundle.unwrap_or_default();
            let file = directory.join(arguments.file.unwrap_or_else(|| "config.json".into()));
            let mut config = config();
            if arguments.rootless {
                make_rootless(&mut config);
            }
            write_new(&file, &format!("{config:#}\n"))?;
            Ok(0)
        }
    }
}

fn understood(file: PathBuf, resolve: bool, global: &Global) -> Outcome {
    let request = super::plan::request(file.clone(), global);
    let failed = |error: run::RunError| Failure { message: chain(&error), code: error.exit_code() };
    let config = if resolve {
        let (spec, facts, _) = decide::plan_only(&request).map_err(failed)?;
        vfsrun_plan::complete(&spec, &facts).map_err(|source| failed(run::RunError::Plan { file, source }))?
    } else {
        *decide::load(&request).map_err(failed)?.0
    };
    let text = serde_json::to_string_pretty(&config).map_err(|error| Failure::own(&error))?;
    print(&text)
}

/// What is there may be somebody's work.
fn write_new(path: &Path, text: &str) -> Result<(), WriteError> {
    let made = File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists { path: path.into() },
        _ => WriteError::Write { path: path.into(), source },
    })
}

/// The one that `runc spec` writes: a shell on a terminal, in `rootfs`, with few rights.
fn config() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "vfsrun",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces(&["pid", "network", "ipc", "uts", "mount", "cgroup"]),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

/// An ordinary user has one id, the host's network, hence no sysfs of its own, and no cgroup.
fn make_rootless(config: &mut Value) {
    let caller = probe::caller();
    let id = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
    let linux = &mut config["linux"];
    linux["namespaces"] =
        ["pid", "ipc", "uts", "mount", "cgroup", "user"].map(|kind| json!({ "type": kind })).into();
    linux["uidMappings"] = id(caller.uid);
    linux["gidMappings"] = id(caller.gid);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    let mounts = config["mounts"].as_array_mut().into_iter().flatten();
    for mount in mounts {
        if mount["type"] == "sysfs" {
            *mount = json!({ "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] });
        }
        if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            options.retain(|option| option != "gid=5");
        }
    }
}
