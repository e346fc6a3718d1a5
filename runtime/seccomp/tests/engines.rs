//! Profiles that are compiled beforehand: podman's is what its file says. What engines really write is asked of them by
//! tests/tests/engines.rs.

mod common;

use std::collections::HashSet;

use vfsrun_seccomp::{Arch, Key, NewerCalls, compile, engines};

#[test]
fn podmans_profile_without_capabilities_is_ready() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let Some(podman) = common::podman_profile(arch) else { return };
        assert!(engines::profiles(arch).contains(&podman), "{arch:?}");
    }
}

#[test]
fn each_profile_compiles_and_is_there_once() {
    for (arch, count) in [(Arch::X86_64, 8), (Arch::Aarch64, 4), (Arch::Riscv64, 0)] {
        let profiles = engines::profiles(arch);
        let keys: HashSet<Key> =
            profiles.iter().map(|profile| Key::new(profile, arch, NewerCalls::Enosys)).collect();
        assert_eq!((profiles.len(), keys.len()), (count, count), "{arch:?}");
        profiles.iter().for_each(|profile| drop(compile(profile, arch).unwrap()));
    }
}
