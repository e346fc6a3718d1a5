//! A profile: OCI's `linux.seccomp`, which action each system call gets.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Arch, SeccompError, errno, ret};

/// `linux.seccomp` of an OCI runtime config. Unknown fields are ignored, `null` means absent.
/// See runtime-spec config-linux.md §Seccomp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub default_action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<Architecture>,
    /// None is not the same as empty: runc sets SPEC_ALLOW when the profile has no flags at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<Flag>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_metadata: Option<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Syscall>,
}

/// One entry of `syscalls`: the action for calls of these names whose arguments satisfy all of `args`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    #[serde(deserialize_with = "null_as_default")]
    pub names: Vec<String>,
    pub action: Action,
    /// errno for SCMP_ACT_ERRNO, message for SCMP_ACT_TRACE; both EPERM when absent. Others ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
}

/// A condition on one argument. For SCMP_CMP_MASKED_EQ `value` is the mask and `value_two` what is left under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// 0 to 5.
    pub index: u32,
    pub value: u64,
    #[serde(default, deserialize_with = "null_as_default")]
    pub value_two: u64,
    pub op: Operator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

/// An architecture name of the OCI specification. All are accepted; those that the running kernel cannot serve
/// add nothing to the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[rustfmt::skip]
pub enum Architecture {
    #[serde(rename = "SCMP_ARCH_X86_64")] X86_64,
    #[serde(rename = "SCMP_ARCH_X86")] X86,
    #[serde(rename = "SCMP_ARCH_X32")] X32,
    #[serde(rename = "SCMP_ARCH_AARCH64")] Aarch64,
    #[serde(rename = "SCMP_ARCH_ARM")] Arm,
    #[serde(rename = "SCMP_ARCH_RISCV64")] Riscv64,
    #[serde(rename = "SCMP_ARCH_LOONGARCH64")] Loongarch64,
    #[serde(rename = "SCMP_ARCH_M68K")] M68k,
    #[serde(rename = "SCMP_ARCH_MIPS")] Mips,
    #[serde(rename = "SCMP_ARCH_MIPS64")] Mips64,
    #[serde(rename = "SCMP_ARCH_MIPS64N32")] Mips64n32,
    #[serde(rename = "SCMP_ARCH_MIPSEL")] Mipsel,
    #[serde(rename = "SCMP_ARCH_MIPSEL64")] Mipsel64,
    #[serde(rename = "SCMP_ARCH_MIPSEL64N32")] Mipsel64n32,
    #[serde(rename = "SCMP_ARCH_PARISC")] Parisc,
    #[serde(rename = "SCMP_ARCH_PARISC64")] Parisc64,
    #[serde(rename = "SCMP_ARCH_PPC")] Ppc,
    #[serde(rename = "SCMP_ARCH_PPC64")] Ppc64,
    #[serde(rename = "SCMP_ARCH_PPC64LE")] Ppc64le,
    #[serde(rename = "SCMP_ARCH_S390")] S390,
    #[serde(rename = "SCMP_ARCH_S390X")] S390x,
    #[serde(rename = "SCMP_ARCH_SH")] Sh,
    #[serde(rename = "SCMP_ARCH_SHEB")] Sheb,
}

impl Profile {
    /// Reads a profile from JSON. Errors: `Parse` with the field and what was expected there.
    pub fn parse(json: &str) -> Result<Profile, SeccompError> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let profile = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            SeccompError::Parse { field: error.path().to_string(), source: error.into_inner() }
        })?;
        deserializer.end().map_err(|source| SeccompError::Parse { field: "end of file".into(), source })?;
        Ok(profile)
    }

    /// The flags of seccomp(2) that the profile asks for, SECCOMP_FILTER_FLAG_NEW_LISTENER not among them.
    pub(crate) fn flag_bits(&self) -> u32 {
        self.flags.as_deref().unwrap_or(&[Flag::SpecAllow]).iter().fold(0, |bits, flag| bits | flag.bit())
    }
}

impl Action {
    /// The filter's return value. Errors: `TooLarge` for an errno that libseccomp refuses or a message of more
    /// than 16 bits, named as `field`.
    pub(crate) fn return_value(self, data: Option<u32>, field: &str) -> Result<u32, SeccompError> {
        let bounded = |limit: u32| match data.unwrap_or(errno::EPERM) {
            value if value > limit => {
                Err(SeccompError::TooLarge { field: field.into(), value: value.into(), limit: limit.into() })
            }
            value => Ok(value),
        };
        Ok(match self {
            Action::Kill | Action::KillThread => ret::KILL_THREAD,
            Action::KillProcess => ret::KILL_PROCESS,
            Action::Trap => ret::TRAP,
            Action::Errno => ret::ERRNO | bounded(4094)?,
            Action::Trace => ret::TRACE | bounded(0xffff)?,
            Action::Allow => ret::ALLOW,
            Action::Log => ret::LOG,
            Action::Notify => ret::USER_NOTIF,
        })
    }
}

impl Action {
    pub const ALL: [Action; 9] = [
        Action::Kill,
        Action::KillThread,
        Action::KillProcess,
        Action::Trap,
        Action::Errno,
        Action::Trace,
        Action::Allow,
        Action::Log,
        Action::Notify,
    ];
}

impl Operator {
    pub const ALL: [Operator; 7] = [
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Equal,
        Operator::GreaterOrEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ];
}

impl Flag {
    pub const ALL: [Flag; 4] = [Flag::Tsync, Flag::Log, Flag::SpecAllow, Flag::WaitKillableRecv];

    /// From linux/seccomp.h.
    pub fn bit(self) -> u32 {
        match self {
            Flag::Tsync => 1 << 0,
            Flag::Log => 1 << 1,
            Flag::SpecAllow => 1 << 2,
            Flag::WaitKillableRecv => 1 << 5,
        }
    }
}

impl Architecture {
    /// Those that filters are compiled for, on a kernel that serves them.
    pub const COMPILED: [Architecture; 6] = [
        Architecture::X86_64,
        Architecture::X86,
        Architecture::X32,
        Architecture::Aarch64,
        Architecture::Arm,
        Architecture::Riscv64,
    ];

    /// None for architectures that no filter is compiled for.
    pub fn arch(self) -> Option<Arch> {
        match self {
            Architecture::X86_64 => Some(Arch::X86_64),
            Architecture::X86 => Some(Arch::X86),
            Architecture::X32 => Some(Arch::X32),
            Architecture::Aarch64 => Some(Arch::Aarch64),
            Architecture::Arm => Some(Arch::Arm),
            Architecture::Riscv64 => Some(Arch::Riscv64),
            _ => None,
        }
    }
}

/// Go programs write `null` for an empty slice.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
