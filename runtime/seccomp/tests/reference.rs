//! Compiled profiles against a plain reading of the profile: rules one by one, no program, no numbers merged.

mod common;

use common::{ACTIONS, NAMES, OPERATORS, VALUES, holding, value};
use proptest::prelude::*;
use vfsrun_seccomp::{
    Action, Arch, Architecture, Argument, Operator, Profile, SeccompData, Syscall, compile, ret, simulate,
    syscall_number,
};

fn holds(argument: &Argument, args: [u64; 6], arch: Arch) -> bool {
    let wide = matches!(arch, Arch::X86_64 | Arch::Aarch64 | Arch::Riscv64);
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let (actual, value, second) =
        (cut(args[argument.index as usize]), cut(argument.value), cut(argument.value_two));
    match argument.op {
        Operator::NotEqual => actual != value,
        Operator::Less => actual < value,
        Operator::LessOrEqual => actual <= value,
        Operator::Equal => actual == value,
        Operator::GreaterOrEqual => actual >= value,
        Operator::Greater => actual > value,
        Operator::MaskedEqual => actual & value == second & value,
    }
}

/// The decision for a call of an architecture in the profile. Each call has one action in all its rules, so their
/// order does not matter.
fn expected(profile: &Profile, arch: Arch, nr: u32, args: [u64; 6]) -> u32 {
    let default = value(profile.default_action, profile.default_errno_ret);
    for rule in &profile.syscalls {
        let repeated =
            (0..6).any(|index| rule.args.iter().filter(|argument| argument.index == index).count() > 1);
        let mut conditions = rule.args.iter();
        let matches = match repeated {
            true => conditions.any(|argument| holds(argument, args, arch)),
            false => conditions.all(|argument| holds(argument, args, arch)),
        };
        let named = rule.names.iter().any(|name| syscall_number(arch, name) == Some(nr));
        if named && matches && value(rule.action, rule.errno_ret) != default {
            return value(rule.action, rule.errno_ret);
        }
    }
    let largest = profile
        .syscalls
        .iter()
        .flat_map(|rule| &rule.names)
        .filter_map(|name| syscall_number(arch, name))
        .max();
    let permissive = matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace);
    match largest {
        Some(largest)
            if largest != 0 && nr > largest && !permissive && profile.default_errno_ret != Some(38) =>
        {
            ret::ERRNO | 38
        }
        _ => default,
    }
}

fn arguments() -> impl Strategy<Value = Argument> {
    let values = || prop_oneof![prop::sample::select(&VALUES[..]), any::<u64>()];
    (0u32..6, values(), values(), prop::sample::select(&OPERATORS[..]))
        .prop_map(|(index, value, value_two, op)| Argument { index, value, value_two, op })
}

fn rules(names: Vec<&'static str>) -> impl Strategy<Value = Syscall> {
    (0..names.len(), prop::collection::vec(arguments(), 0..4))
        .prop_map(move |(at, args)| common::syscall(&[names[at]], ACTIONS[at % ACTIONS.len()], args))
}

/// Calls that i386 does not multiplex: what it makes of the others is in `multiplexing`.
fn direct_names() -> Vec<&'static str> {
    const MULTIPLEXED: [&str; 7] = ["socket", "accept", "accept4", "send", "semop", "semget", "semctl"];
    NAMES.into_iter().filter(|name| !MULTIPLEXED.contains(name) && *name != "shmat").collect()
}

fn profiles() -> impl Strategy<Value = Profile> {
    let defaults = prop_oneof![prop::sample::select(&ACTIONS[..]), Just((Action::Errno, Some(38)))];
    (defaults, prop::collection::vec(rules(direct_names()), 0..40)).prop_map(|(default, syscalls)| Profile {
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
                    let near = (0..profile.syscalls.len()).map(|pick| near(&profile, random, pick));
                    for args in [random, small.map(u64::from)].into_iter().chain(near) {
                        let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args };
                        let (is, should) = (simulate(&filter.program, &data), expected(&profile, arch, nr, args));
                        prop_assert!(is == should, "{arch:?} {name} {args:x?}: {is:#x}, expected {should:#x}");
                    }
                }
            }
        }
    }
}
