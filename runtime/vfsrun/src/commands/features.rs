//! `vfsrun features`: what of the OCI runtime specification this version builds (features.md there). Callers decide by
//! it what they ask for, so it must name nothing that would be refused.

use serde_json::json;
use vfsrun_cgroup::systemd;
use vfsrun_plan::mounts;
use vfsrun_seccomp::{Action, Architecture, Flag, Operator};
use vfsrun_spec::oci::{
    CAPABILITIES, GROUPS_ANNOTATION, HookKind, MEMORY_FLAGS, MEMORY_MODES, NamespaceType,
};
use vfsrun_spec::vfs::{LANDLOCK_ANNOTATION, VIEW_ANNOTATION};
use vfsrun_sys::seccomp;

use super::{Outcome, print};
use crate::container::OCI_VERSION;

const NAMESPACES: [NamespaceType; 8] = [
    NamespaceType::Cgroup,
    NamespaceType::Ipc,
    NamespaceType::Mount,
    NamespaceType::Network,
    NamespaceType::Pid,
    NamespaceType::Time,
    NamespaceType::User,
    NamespaceType::Uts,
];

pub fn features() -> Outcome {
    let supported = Flag::ALL.into_iter().filter(|flag| seccomp::knows_flag(flag.bit().into()));
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": HookKind::ALL.map(HookKind::name),
        "mountOptions": mounts::options(),
        "linux": {
            "namespaces": NAMESPACES.map(NamespaceType::name),
            "capabilities": CAPABILITIES.to_vec(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": Action::ALL,
                "operators": Operator::ALL,
                "archs": Architecture::COMPILED,
                "knownFlags": Flag::ALL,
                "supportedFlags": supported.collect::<Vec<_>>(),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
            "memoryPolicy": { "modes": MEMORY_MODES, "flags": MEMORY_FLAGS.map(|(name, _)| name) },
        },
        "annotations": { "run.vfsrun.version": env!("CARGO_PKG_VERSION") },
        // The first only takes away, but may take away what others rely on.
        "potentiallyUnsafeConfigAnnotations": [LANDLOCK_ANNOTATION, VIEW_ANNOTATION, GROUPS_ANNOTATION, systemd::PREFIX],
    });
    print(&serde_json::to_string_pretty(&features)?)
}
