//! Against seccompiler, where it can express the profile: one architecture, one action for all rules. Its conditions
//! are plain comparisons of 64 bits, so it also judges the ranges on which libseccomp makes mistakes.

mod common;

use std::collections::BTreeMap;

use common::{NAMES, Random, argument, argument_vectors, syscall};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use vfsrun_seccomp::{
    Action, Arch, Argument, NewerCalls, Operator, Profile, SeccompData, SockFilter, compile_with, ret,
    simulate, syscall_number,
};

/// Up to three conditions, each on another argument.
fn conditions(random: &mut Random) -> Vec<Argument> {
    let mut conditions: Vec<Argument> = Vec::new();
    for _ in 0..1 + random.below(3) {
        let next = argument(random, &Operator::ALL);
        if conditions.iter().all(|condition| condition.index != next.index) {
            conditions.push(next);
        }
    }
    conditions
}

fn theirs(rules: &[(&str, Vec<Argument>)]) -> Vec<SockFilter> {
    let mut by_number = BTreeMap::<i64, Vec<SeccompRule>>::new();
    for (name, conditions) in rules {
        let Some(number) = syscall_number(Arch::X86_64, name) else { continue };
        let conditions = conditions.iter().map(condition).collect();
        by_number.entry(number.into()).or_default().push(SeccompRule::new(conditions).unwrap());
    }
    let filter =
        SeccompFilter::new(by_number, SeccompAction::Errno(1), SeccompAction::Allow, TargetArch::x86_64);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    program.iter().map(|i| SockFilter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}

fn condition(argument: &Argument) -> SeccompCondition {
    let (operator, value) = match argument.op {
        Operator::NotEqual => (SeccompCmpOp::Ne, argument.value),
        Operator::Less => (SeccompCmpOp::Lt, argument.value),
        Operator::LessOrEqual => (SeccompCmpOp::Le, argument.value),
        Operator::Equal => (SeccompCmpOp::Eq, argument.value),
        Operator::GreaterOrEqual => (SeccompCmpOp::Ge, argument.value),
        Operator::Greater => (SeccompCmpOp::Gt, argument.value),
        Operator::MaskedEqual => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
    };
    SeccompCondition::new(argument.index as u8, SeccompCmpArgLen::Qword, operator, value).unwrap()
}

#[test]
fn rules_of_one_action_decide_as_under_seccompiler() {
    let mut decisions = 0;
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let rules: Vec<_> =
            (0..1 + random.below(30)).map(|_| (*random.pick(&NAMES), conditions(&mut random))).collect();
        let theirs = theirs(&rules);
        let entries = rules.iter().map(|(name, args)| syscall(&[name], (Action::Allow, None), args.clone()));
        let profile = Profile {
            default_action: Action::Errno,
            default_errno_ret: None,
            architectures: vec![],
            flags: None,
            listener_path: None,
            listener_metadata: None,
            syscalls: entries.collect(),
        };
        let ours = compile_with(&profile, Arch::X86_64, NewerCalls::Default).unwrap();
        for name in NAMES {
            let Some(nr) = syscall_number(Arch::X86_64, name) else { continue };
            for args in argument_vectors(&mut random, 40) {
                let data = SeccompData { nr, arch: Arch::X86_64.audit(), instruction_pointer: 0, args };
                let (ours, theirs) = (simulate(&ours.program, &data), simulate(&theirs, &data));
                assert!(
                    ours == theirs,
                    "seed {seed}, {name} {args:x?}: {ours:#x}, seccompiler {theirs:#x}\n{rules:#?}"
                );
                decisions += usize::from(ours == ret::ALLOW);
            }
        }
    }
    assert!(decisions > 10_000, "only {decisions} calls were allowed");
}
