//! Defaults of an action: what a spec with `vfs` need not say. Each is hermetic; docs/spec.md lists them.

use std::path::PathBuf;

use vfsrun_spec::Mount;
use vfsrun_spec::oci::{Namespace, NamespaceType};
use vfsrun_spec::vfs::Network;

/// 1980-01-01, the earliest time that zip archives can hold.
pub(crate) const SOURCE_DATE_EPOCH: i64 = 315_532_800;

pub(crate) fn env() -> Vec<String> {
    [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/tmp/home",
        "TMPDIR=/tmp",
        "LC_ALL=C.UTF-8",
        "TZ=UTC",
        // `git status` and its like would put the index, with this machine's inode numbers, into the captured layer.
        "GIT_OPTIONAL_LOCKS=0",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("SOURCE_DATE_EPOCH={SOURCE_DATE_EPOCH}")])
    .collect()
}

pub(crate) fn mounts(has_group_tty: bool) -> Vec<Mount> {
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if has_group_tty {
        pts.push("gid=5");
    }
    [
        ("/proc", "proc", vec!["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", vec!["nosuid", "noexec", "mode=0755", "size=65536k"]),
        ("/dev/pts", "devpts", pts),
        ("/dev/shm", "tmpfs", vec!["nosuid", "noexec", "nodev", "mode=1777"]),
        ("/tmp", "tmpfs", vec!["nosuid", "nodev", "mode=1777"]),
    ]
    .into_iter()
    .map(|(destination, kind, options)| Mount {
        destination: destination.into(),
        kind: Some(kind.to_owned()),
        source: Some(kind.to_owned()),
        options: options.into_iter().map(str::to_owned).collect(),
        ..Mount::default()
    })
    .collect()
}

pub(crate) fn namespaces(network: Network, own_time: bool) -> Vec<Namespace> {
    use NamespaceType::{Cgroup, Ipc, Mount, Pid, User, Uts};
    let mut kinds = vec![User, Mount, Pid, Ipc, Uts, Cgroup];
    if network != Network::Host {
        kinds.push(NamespaceType::Network);
    }
    if own_time {
        kinds.push(NamespaceType::Time);
    }
    kinds.into_iter().map(|kind| Namespace { kind, path: None }).collect()
}

/// What of /proc tells about the host or its keys, and could tell more to a process with the host's root id.
pub(crate) fn masked_paths() -> Vec<PathBuf> {
    let below_proc = [
        "acpi",
        "interrupts",
        "kcore",
        "keys",
        "latency_stats",
        "sched_debug",
        "scsi",
        "timer_list",
        "timer_stats",
    ];
    let proc = below_proc.into_iter().map(|name| PathBuf::from("/proc").join(name));
    proc.chain(["/sys/firmware", "/sys/fs/fuse"].map(PathBuf::from)).collect()
}

/// What of /proc would let a process with the host's root id change the host: these check ids, not capabilities.
pub(crate) fn readonly_paths() -> Vec<PathBuf> {
    ["asound", "bus", "fs", "irq", "sys", "sysrq-trigger"]
        .map(|name| PathBuf::from("/proc").join(name))
        .to_vec()
}
