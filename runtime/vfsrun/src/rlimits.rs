//! Resource limits: the config's names and the kernel's.

use rustix::process::Resource;
use vfsrun_spec::oci::RlimitType;

pub fn resource(kind: RlimitType) -> Resource {
    match kind {
        RlimitType::As => Resource::As,
        RlimitType::Core => Resource::Core,
        RlimitType::Cpu => Resource::Cpu,
        RlimitType::Data => Resource::Data,
        RlimitType::Fsize => Resource::Fsize,
        RlimitType::Locks => Resource::Locks,
        RlimitType::Memlock => Resource::Memlock,
        RlimitType::Msgqueue => Resource::Msgqueue,
        RlimitType::Nice => Resource::Nice,
        RlimitType::Nofile => Resource::Nofile,
        RlimitType::Nproc => Resource::Nproc,
        RlimitType::Rss => Resource::Rss,
        RlimitType::Rtprio => Resource::Rtprio,
        RlimitType::Rttime => Resource::Rttime,
        RlimitType::Sigpending => Resource::Sigpending,
        RlimitType::Stack => Resource::Stack,
    }
}

/// `RLIMIT_NOFILE`.
pub fn name(kind: RlimitType) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
