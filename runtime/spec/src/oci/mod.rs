//! The OCI part of a spec: runtime-spec 1.3, Linux. Source: runtime-spec config.md and config-linux.md.
//!
//! Unknown keys are ignored, as the specification demands. A list or map that may be told from an absent one
//! (namespaces, masked paths) is an `Option`; for all others absent, `null` and empty mean the same.

mod change;
mod device;
mod hooks;
mod linux;
mod mount;
mod namespace;
mod process;
mod resources;
mod rlimit;
mod scheduling;
mod user;

pub use device::{Device, DeviceType};
pub use hooks::{Hook, HookKind, Hooks};
pub use linux::{
    IntelRdt, Linux, MEMORY_FLAGS, MEMORY_MODES, MemoryPolicy, NetDevice, Personality, PersonalityDomain,
    TimeOffset,
};
pub use mount::{IdMapping, Mount, Root};
pub use namespace::{Namespace, NamespaceType};
pub use process::{CAPABILITIES, Capabilities, ConsoleSize, Process};
pub use resources::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, NetworkClass, Pids, RdmaLimit,
    Resources, ThrottleDevice, WeightDevice,
};
pub use rlimit::{Rlimit, RlimitType};
pub use scheduling::{
    ExecCpuAffinity, IoPriority, IoPriorityClass, Scheduler, SchedulerFlag, SchedulerPolicy,
};
pub use user::{GROUPS_ANNOTATION, User};
