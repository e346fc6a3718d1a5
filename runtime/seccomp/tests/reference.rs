//! Compiled profiles against a plain reading of the profile.

mod common;

use common::{
    ACTIONS, NAMES, VALUES,
    reading::{Reading, holding},
};
use proptest::prelude::*;
use vfsrun_seccomp::{
    Action, Arch, Architecture, Argument, Operator, Profile, SeccompData, Syscall, compile, simulate,
    syscall_number,
};

fn arguments() -> impl Strategy<Value = Argument> {
    let values = || prop_oneof![prop::sample::select(&VALUES[..]), any::<u64>()];
    (0u32..6, values(), values(), prop::sample::select(&Operator::ALL[..]))
        .prop_map(|(index, value, value_two, op)| Argument { index, value, value_two, op })
}

fn rules() -> impl Strategy<Value = Syscall> {
    (0..NAMES.len(), prop::collection::vec(arguments(), 0..4))
        .prop_map(|(at, args)| common::syscall(&[NAMES[at]], ACTIONS[at % ACTIONS.len()], args))
}

fn profiles() -> impl Strategy<Value = Profile> {
    let defaults = prop_oneof![prop::sample::select(&ACTIONS[..]), Just((Action::Errno, Some(38)))];
    (defaults, prop::collection::vec(rules(), 0..40)).prop_map(|(default, syscalls)| Profile {
        default_action: default.0,
        default_errno_ret: default.1,
        architectures: vec![Architecture::X86, Architecture::X32, Architecture::Arm],
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    })
}

fn near(profile: &Profile, random: [u64; 6], pick: usize) -> [u64; 6] {
    // Bounds of the profile itself in the places of their arguments, so that conditions of several arguments hold.
    let mut args = random;
    let rule = profile.syscalls.get(pick % profile.syscalls.len().max(1));
    for argument in rule.iter().flat_map(|rule| &rule.args) {
        args[argument.index as usize] = holding(argument);
    }
    args
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn program_decides_as_the_profile_reads(profile in profiles(), random: [u64; 6], small: [u8; 6]) {
        for (native, served) in [
            (Arch::X86_64, &[Arch::X86_64, Arch::X86, Arch::X32][..]),
            (Arch::Aarch64, &[Arch::Aarch64, Arch::Arm]),
            (Arch::Riscv64, &[Arch::Riscv64]),
        ] {
            let filter = compile(&profile, native).unwrap();
            for &arch in served {
                for name in NAMES.iter().chain(&["mseal", "exit"]) {
                    let Some(nr) = syscall_number(arch, name) else { continue };
                    let reading = Reading::of(&profile, arch, nr);
                    let near = (0..profile.syscalls.len()).map(|pick| near(&profile, random, pick));
                    for args in [random, small.map(u64::from)].into_iter().chain(near) {
                        let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args };
                        let (is, may) = (simulate(&filter.program, &data), reading.permits(args));
                        prop_assert!(may.contains(&is), "{arch:?} {name} {args:x?}: {is:#x}, not of {may:x?}");
                    }
                }
            }
        }
    }
}
