//! What the tests share: podman's default profile as podman resolves it, and random profiles.
#![allow(dead_code, reason = "each test uses its own part")]

pub mod libseccomp;
pub mod reading;
#[path = "../../../../tests/src/skip.rs"]
pub mod skip;

use std::path::Path;

use serde_json::Value;
use vfsrun_seccomp::{Action, Arch, Argument, Operator, Profile, Syscall, action::action_profile, engines};

use reading::holding;

/// Where containers-common installs podman's default profile.
const PODMAN: &str = "/usr/share/containers/seccomp.json";

/// The action's profile, and those that engines write for a kernel of this architecture: those built in, and podman's as
/// it is installed.
pub fn engines_profiles(native: Arch) -> Vec<(String, Profile)> {
    let built_in = engines::profiles(native).into_iter().enumerate();
    let mut profiles: Vec<_> =
        built_in.map(|(at, profile)| (format!("built-in profile {at}"), profile)).collect();
    profiles.push(("the action profile".to_owned(), action_profile()));
    profiles.extend(podman_profile(native).map(|profile| ("podman's profile".to_owned(), profile)));
    profiles
}

/// Podman's default profile for a container without capabilities, None (said loudly) where it is not installed.
///
/// Podman's file has more than OCI: rules that apply only with (`includes`) or without (`excludes`) some capability
/// or architecture, and a map from the native architecture to those it also runs. Podman resolves these before it
/// writes the OCI config.
pub fn podman_profile(arch: Arch) -> Option<Profile> {
    if !Path::new(PODMAN).exists() {
        skip::this_test(&format!("{PODMAN} is not installed (Debian: golang-github-containers-common)"));
        return None;
    }
    let file: Value = serde_json::from_slice(&std::fs::read(PODMAN).unwrap()).unwrap();
    let (go_name, oci_name) = match arch {
        Arch::X86_64 => ("amd64", "SCMP_ARCH_X86_64"),
        Arch::Aarch64 => ("arm64", "SCMP_ARCH_AARCH64"),
        Arch::Riscv64 => ("riscv64", "SCMP_ARCH_RISCV64"),
        _ => panic!("podman's profile is resolved for a native architecture"),
    };
    let mut resolved = file.clone();
    let rules = file["syscalls"].as_array().unwrap();
    resolved["syscalls"] = rules.iter().filter(|rule| applies(rule, go_name)).cloned().collect();
    let map = file["archMap"].as_array().unwrap();
    let native = map.iter().find(|entry| entry["architecture"] == oci_name);
    let mut architectures: Vec<_> =
        native.map_or_else(Vec::new, |native| native["subArchitectures"].as_array().unwrap().clone());
    architectures.insert(0, oci_name.into());
    resolved["architectures"] = architectures.into();
    Some(Profile::parse(&resolved.to_string()).unwrap())
}

/// Without any capability: a rule that includes one does not apply, a rule that excludes one does.
fn applies(rule: &Value, arch: &str) -> bool {
    let list = |side: &str, what: &str| -> Vec<String> {
        let names = rule[side][what].as_array().cloned().unwrap_or_default();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let included_arches = list("includes", "arches");
    list("includes", "caps").is_empty()
        && (included_arches.is_empty() || included_arches.iter().any(|name| name == arch))
        && !list("excludes", "arches").iter().any(|name| name == arch)
}

/// A small generator of pseudo-random numbers (xorshift), so that a failure is repeated by its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) as usize) % bound
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Bounds whose neighbours and halves are interesting.
pub const VALUES: [u64; 12] = [
    0,
    1,
    5,
    0x7f,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0005,
    0x2_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0000,
    u64::MAX,
];

/// Calls that differ between architectures, are multiplexed on i386, or lie next to each other.
pub const NAMES: [&str; 24] = [
    "read",
    "write",
    "open",
    "close",
    "socket",
    "accept",
    "accept4",
    "send",
    "semop",
    "semget",
    "semctl",
    "shmat",
    "ipc",
    "socketcall",
    "clone",
    "ioctl",
    "personality",
    "fcntl64",
    "execve",
    "getdents64",
    "openat",
    "statx",
    "mmap2",
    "no_such_call",
];

pub fn argument(random: &mut Random, operators: &[Operator]) -> Argument {
    Argument {
        index: random.below(6) as u32,
        value: *random.pick(&VALUES),
        value_two: *random.pick(&VALUES),
        op: *random.pick(operators),
    }
}

pub const ACTIONS: [(Action, Option<u32>); 9] = [
    (Action::Allow, None),
    (Action::Errno, None),
    (Action::Errno, Some(0)),
    (Action::Errno, Some(22)),
    (Action::KillProcess, None),
    (Action::Kill, None),
    (Action::Trap, None),
    (Action::Log, None),
    (Action::Trace, Some(7)),
];

pub fn syscall(names: &[&str], action: (Action, Option<u32>), args: Vec<Argument>) -> Syscall {
    Syscall {
        names: names.iter().map(|n| n.to_string()).collect(),
        action: action.0,
        errno_ret: action.1,
        args,
    }
}

/// Argument vectors near every bound of the profile, and random ones.
pub fn argument_vectors(random: &mut Random, count: usize) -> Vec<[u64; 6]> {
    let mut vectors = vec![[0; 6], [u64::MAX; 6]];
    vectors.extend((0..count).map(|_| {
        std::array::from_fn(|_| {
            let value = *random.pick(&VALUES);
            match random.below(6) {
                0 => value.wrapping_add(1),
                1 => value.wrapping_sub(1),
                2 => value ^ (1 << 32),
                _ => value,
            }
        })
    }));
    vectors
}

/// Arguments near what the profile compares with: for one of its rules such that its conditions hold, more often than
/// not, and one that misses by a bit. A small first argument is also what i386 selects a multiplexed call by.
pub fn near(profile: &Profile, random: &mut Random) -> [u64; 6] {
    let mut args = std::array::from_fn(|_| *random.pick(&VALUES));
    args[0] = if random.below(2) == 0 { random.below(26) as u64 } else { args[0] };
    let rules: Vec<_> = profile.syscalls.iter().filter(|rule| !rule.args.is_empty()).collect();
    if !rules.is_empty() && random.below(8) != 0 {
        for argument in &random.pick(&rules).args {
            args[argument.index as usize] = holding(argument);
        }
    }
    let at = random.below(6);
    args[at] = match random.below(8) {
        0 => args[at].wrapping_add(1),
        1 => args[at].wrapping_sub(1),
        2 => args[at] ^ (1 << 32),
        3 => args[at] ^ (1 << random.below(64)),
        _ => args[at],
    };
    args
}
