//! What single profiles decide: each comparison, each architecture, each quirk of the runtimes.

mod common;

use vfsrun_seccomp::{
    Action, Arch, Architecture, Argument, MAX_INSTRUCTIONS, NewerCalls, Operator, Profile, SeccompData,
    SeccompError, SockFilter, Syscall, compile, compile_with, ret, run, simulate, syscall_number,
};

const EPERM: u32 = ret::ERRNO | 1;
const ENOSYS: u32 = ret::ERRNO | 38;

fn profile(default: Action, syscalls: Vec<Syscall>) -> Profile {
    Profile {
        default_action: default,
        default_errno_ret: None,
        architectures: vec![],
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

fn allow(name: &str, args: Vec<Argument>) -> Syscall {
    common::syscall(&[name], (Action::Allow, None), args)
}

fn argument(index: u32, op: Operator, value: u64) -> Argument {
    Argument { index, value, value_two: 0, op }
}

fn decide(program: &[SockFilter], arch: Arch, nr: u32, args: [u64; 6]) -> u32 {
    simulate(program, &SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args })
}

/// Which of `values` a condition on the second argument lets through, on an architecture of 64 and one of 32 bits.
fn let_through(op: Operator, value: u64, value_two: u64, values: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let condition = Argument { index: 1, value, value_two, op };
    let mut profile = profile(Action::Errno, vec![allow("read", vec![condition])]);
    profile.architectures = vec![Architecture::X86];
    let filter = compile(&profile, Arch::X86_64).unwrap();
    let through = |arch: Arch| {
        let nr = syscall_number(arch, "read").unwrap();
        let allowed =
            |value: &&u64| decide(&filter.program, arch, nr, [7, **value, 7, 7, 7, 7]) == ret::ALLOW;
        values.iter().filter(allowed).copied().collect()
    };
    (through(Arch::X86_64), through(Arch::X86))
}

const HIGH: u64 = 1 << 32;
const AROUND: [u64; 7] = [4, 5, 6, HIGH + 4, HIGH + 5, HIGH + 6, 2 * HIGH + 5];

#[test]
fn equal_compares_both_halves() {
    assert_eq!(
        let_through(Operator::Equal, HIGH + 5, 0, &AROUND),
        (vec![HIGH + 5], vec![5, HIGH + 5, 2 * HIGH + 5])
    );
}

#[test]
fn not_equal_is_satisfied_by_either_half() {
    let (wide, narrow) = let_through(Operator::NotEqual, HIGH + 5, 0, &AROUND);
    assert_eq!(wide, [4, 5, 6, HIGH + 4, HIGH + 6, 2 * HIGH + 5]);
    assert_eq!(narrow, [4, 6, HIGH + 4, HIGH + 6]);
}

#[test]
fn less_decides_by_the_upper_half_first() {
    let (wide, narrow) = let_through(Operator::Less, HIGH + 5, 0, &AROUND);
    assert_eq!((wide, narrow), (vec![4, 5, 6, HIGH + 4], vec![4, HIGH + 4]));
}

#[test]
fn less_or_equal_includes_the_bound() {
    let (wide, narrow) = let_through(Operator::LessOrEqual, HIGH + 5, 0, &AROUND);
    assert_eq!(
        (wide, narrow),
        (vec![4, 5, 6, HIGH + 4, HIGH + 5], vec![4, 5, HIGH + 4, HIGH + 5, 2 * HIGH + 5])
    );
}

#[test]
fn greater_or_equal_includes_the_bound() {
    let (wide, narrow) = let_through(Operator::GreaterOrEqual, HIGH + 5, 0, &AROUND);
    assert_eq!(wide, [HIGH + 5, HIGH + 6, 2 * HIGH + 5]);
    assert_eq!(narrow, [5, 6, HIGH + 5, HIGH + 6, 2 * HIGH + 5]);
}

#[test]
fn greater_excludes_the_bound() {
    let (wide, narrow) = let_through(Operator::Greater, HIGH + 5, 0, &AROUND);
    assert_eq!((wide, narrow), (vec![HIGH + 6, 2 * HIGH + 5], vec![6, HIGH + 6]));
}

#[test]
fn masked_equal_looks_under_the_mask_only() {
    let (mask, under) = (HIGH | 0xf, HIGH | 0x5);
    let values = [5, HIGH + 5, HIGH + 0x15, 3 * HIGH + 0xf5, HIGH + 6, 2 * HIGH + 5];
    let (wide, narrow) = let_through(Operator::MaskedEqual, mask, under, &values);
    assert_eq!(wide, [HIGH + 5, HIGH + 0x15, 3 * HIGH + 0xf5]);
    assert_eq!(narrow, [5, HIGH + 5, HIGH + 0x15, 3 * HIGH + 0xf5, 2 * HIGH + 5]);
}

#[test]
fn masked_equal_ignores_bits_of_the_value_outside_the_mask() {
    assert_eq!(let_through(Operator::MaskedEqual, 0xf, 0xf5, &[5, 0xf5, 6]), (vec![5, 0xf5], vec![5, 0xf5]));
    assert_eq!(let_through(Operator::MaskedEqual, 0, 7, &[0, HIGH]), (vec![0, HIGH], vec![0, HIGH]));
}

#[test]
fn conditions_on_different_arguments_must_all_hold() {
    let both = vec![argument(2, Operator::Equal, 9), argument(0, Operator::Equal, 16)];
    let filter = compile(&profile(Action::Errno, vec![allow("socket", both)]), Arch::X86_64).unwrap();
    let socket = |a, c| decide(&filter.program, Arch::X86_64, 41, [a, 0, c, 0, 0, 0]);
    assert_eq!([socket(16, 9), socket(16, 8), socket(15, 9)], [ret::ALLOW, EPERM, EPERM]);
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let twice = vec![
        argument(0, Operator::Equal, 1),
        argument(0, Operator::Equal, 2),
        argument(1, Operator::Equal, 3),
    ];
    let filter = compile(&profile(Action::Errno, vec![allow("socket", twice)]), Arch::X86_64).unwrap();
    let socket = |a, b| decide(&filter.program, Arch::X86_64, 41, [a, b, 0, 0, 0, 0]);
    assert_eq!(
        [socket(1, 0), socket(2, 0), socket(0, 3), socket(0, 0)],
        [ret::ALLOW, ret::ALLOW, ret::ALLOW, EPERM]
    );
}

#[test]
fn every_rule_has_its_own_action_and_errno() {
    let actions = [
        ("read", (Action::Allow, None), ret::ALLOW),
        ("write", (Action::Errno, Some(22)), ret::ERRNO | 22),
        ("open", (Action::Trap, Some(9)), ret::TRAP),
        ("close", (Action::KillProcess, None), ret::KILL_PROCESS),
        ("stat", (Action::Trace, Some(0xffff)), ret::TRACE | 0xffff),
        ("fstat", (Action::Log, None), ret::LOG),
        ("lstat", (Action::Notify, None), ret::USER_NOTIF),
        ("poll", (Action::Errno, None), EPERM),
    ];
    let rules = actions.iter().map(|(name, action, _)| common::syscall(&[name], *action, vec![])).collect();
    let filter = compile(&profile(Action::Kill, rules), Arch::X86_64).unwrap();
    for (name, _, value) in actions {
        let nr = syscall_number(Arch::X86_64, name).unwrap();
        assert_eq!(decide(&filter.program, Arch::X86_64, nr, [0; 6]), value, "{name}");
    }
    assert!(filter.needs_listener);
}

#[test]
fn the_first_rule_without_conditions_decides_whatever_comes_before_or_after() {
    let deny = |errno| common::syscall(&["ioctl"], (Action::Errno, Some(errno)), vec![]);
    let condition = || vec![argument(1, Operator::Equal, 5)];
    let rules = vec![
        allow("ioctl", condition()),
        deny(5),
        allow("ioctl", vec![]),
        deny(6),
        allow("ioctl", condition()),
    ];
    let filter = compile(&profile(Action::Kill, rules), Arch::X86_64).unwrap();
    assert_eq!(decide(&filter.program, Arch::X86_64, 16, [0, 5, 0, 0, 0, 0]), ret::ERRNO | 5);
}

#[test]
fn a_rule_with_the_defaults_action_is_as_if_absent() {
    let deny = common::syscall(&["ioctl"], (Action::Errno, Some(1)), vec![]);
    let filter = compile(&profile(Action::Errno, vec![deny, allow("ioctl", vec![])]), Arch::X86_64).unwrap();
    assert_eq!(decide(&filter.program, Arch::X86_64, 16, [0; 6]), ret::ALLOW);
}

#[test]
fn architectures_that_the_profile_does_not_name_kill_the_thread() {
    let filter = compile(&profile(Action::Allow, vec![]), Arch::X86_64).unwrap();
    assert_eq!(decide(&filter.program, Arch::X86_64, 0, [0; 6]), ret::ALLOW);
    assert_eq!(decide(&filter.program, Arch::X86, 3, [0; 6]), ret::KILL_THREAD);
    assert_eq!(decide(&filter.program, Arch::X32, 0x4000_0000, [0; 6]), ret::KILL_THREAD);
    assert_eq!(decide(&filter.program, Arch::Aarch64, 63, [0; 6]), ret::KILL_THREAD);
    // A tracer's -1: the call is to be skipped.
    assert_eq!(decide(&filter.program, Arch::X86_64, u32::MAX, [0; 6]), ret::ALLOW);
}

#[test]
fn x32_and_i386_have_their_own_numbers() {
    let mut profile = profile(Action::Errno, vec![allow("execve", vec![])]);
    profile.architectures = vec![Architecture::X86, Architecture::X32, Architecture::S390x];
    let filter = compile_with(&profile, Arch::X86_64, NewerCalls::Default).unwrap();
    let execve = |arch, nr| decide(&filter.program, arch, nr, [0; 6]);
    assert_eq!(
        [execve(Arch::X86_64, 59), execve(Arch::X86, 11), execve(Arch::X32, 0x4000_0208)],
        [ret::ALLOW; 3]
    );
    assert_eq!([execve(Arch::X86_64, 11), execve(Arch::X86, 59), execve(Arch::X32, 520)], [EPERM; 3]);
    assert_eq!(execve(Arch::X32, 0x4000_003b), EPERM);
}

#[test]
fn i386_multiplexes_sockets_and_ipc() {
    let mut profile = profile(Action::Errno, vec![allow("socket", vec![]), allow("shmat", vec![])]);
    profile.architectures = vec![Architecture::X86];
    let filter = compile_with(&profile, Arch::X86_64, NewerCalls::Default).unwrap();
    let call = |nr, first| decide(&filter.program, Arch::X86, nr, [first, 0, 0, 0, 0, 0]);
    assert_eq!([call(102, 1), call(359, 0), call(117, 21), call(397, 0)], [ret::ALLOW; 4]);
    assert_eq!([call(102, 2), call(117, 22), call(360, 0)], [EPERM; 3]);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let rules = vec![allow("read", vec![]), common::syscall(&["statx"], (Action::Errno, None), vec![])];
    let mut profile = profile(Action::Errno, rules);
    let call = |profile: &Profile, nr| {
        decide(&compile(profile, Arch::X86_64).unwrap().program, Arch::X86_64, nr, [0; 6])
    };
    assert_eq!([call(&profile, 332), call(&profile, 333), call(&profile, 900)], [EPERM, ENOSYS, ENOSYS]);
    profile.default_errno_ret = Some(13);
    assert_eq!(call(&profile, 333), ENOSYS);
    profile.default_action = Action::Log;
    assert_eq!(call(&profile, 333), ret::LOG);
}

#[test]
fn what_conflicts_is_refused_with_both_rules() {
    let same = || vec![argument(0, Operator::Equal, 1)];
    let rules = vec![allow("ioctl", same()), common::syscall(&["ioctl"], (Action::Trap, None), same())];
    let error = compile(&profile(Action::Errno, rules), Arch::X86_64).unwrap_err();
    assert!(matches!(error, SeccompError::Conflict { syscall: 16, .. }), "{error}");
    assert!(
        error.to_string().contains("syscalls[0]") && error.to_string().contains("syscalls[1]"),
        "{error}"
    );
}

#[test]
fn values_out_of_range_are_refused_by_field() {
    let refused =
        |rule: Syscall| compile(&profile(Action::Kill, vec![rule]), Arch::X86_64).unwrap_err().to_string();
    let errno = refused(common::syscall(&["read"], (Action::Errno, Some(4095)), vec![]));
    assert!(errno.contains("syscalls[0].errnoRet is 4095, must be at most 4094"), "{errno}");
    let index =
        refused(allow("read", vec![argument(0, Operator::Equal, 0), argument(6, Operator::Equal, 0)]));
    assert!(index.contains("syscalls[0].args[1].index is 6, must be at most 5"), "{index}");
}

#[test]
fn what_asks_an_agent_needs_a_listener() {
    let needs_listener = |default, action| {
        let rules = vec![common::syscall(&["write"], (action, None), vec![])];
        compile(&profile(default, rules), Arch::X86_64).unwrap().needs_listener
    };
    assert!(!needs_listener(Action::Allow, Action::Errno));
    assert!(needs_listener(Action::Allow, Action::Notify) && needs_listener(Action::Notify, Action::Allow));
}

#[test]
fn an_agent_is_asked_about_calls_newer_than_the_profile() {
    let filter = compile(&profile(Action::Notify, vec![allow("read", vec![])]), Arch::X86_64).unwrap();
    assert_eq!(decide(&filter.program, Arch::X86_64, 500, [0; 6]), ret::USER_NOTIF);
}

#[test]
fn bad_json_is_refused_by_field() {
    let message = |json: &str| {
        let error = Profile::parse(json).unwrap_err();
        format!("{error}: {}", std::error::Error::source(&error).unwrap())
    };
    let action = message(r#"{"defaultAction": "SCMP_ACT_ALOW"}"#);
    assert!(action.contains("at defaultAction") && action.contains("SCMP_ACT_ALOW"), "{action}");
    let operator = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG",
        "args":[{"index":0,"value":1,"op":"EQ"}]}]}"#;
    assert!(message(operator).contains("at syscalls[0].args[0].op"), "{}", message(operator));
    let negative = operator.replace("\"EQ\"", "\"SCMP_CMP_EQ\"").replace("\"value\":1", "\"value\":-1");
    assert!(message(&negative).contains("at syscalls[0].args[0].value"), "{}", message(&negative));
}

#[test]
fn unknown_fields_and_nulls_are_ignored() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"EPERM","flags":null,"architectures":null,
        "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","errnoRet":null}]}"#;
    let read = Profile::parse(json).unwrap();
    assert_eq!(read, profile(Action::Errno, vec![allow("read", vec![])]));
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(Profile::parse(&written).unwrap(), read);
}

#[test]
fn flags_are_the_kernels_and_absent_ones_runcs() {
    let flags = |json: &str| {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{json}}}"#);
        compile(&Profile::parse(&json).unwrap(), Arch::X86_64).unwrap().flags
    };
    assert_eq!(flags(""), 1 << 2);
    assert_eq!(flags(r#","flags":[]"#), 0);
    let all = r#","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
    assert_eq!(flags(all), 0b100111);
}

/// A profile whose every call has conditions of its own: nothing merges, and the program is long.
fn long_profile(names: usize, conditions: u64) -> Profile {
    let calls: Vec<_> =
        (0..600).filter_map(|nr| vfsrun_seccomp::syscall_name(Arch::X86_64, nr)).take(names).collect();
    let rule = |(at, name): (usize, &&str)| {
        let values = (0..conditions).map(|k| argument(0, Operator::Equal, (at as u64) << 32 | k));
        common::syscall(&[name], (Action::Errno, Some(at as u32 % 200 + 2)), values.collect())
    };
    profile(Action::Allow, calls.iter().enumerate().map(rule).collect())
}

#[test]
fn jumps_beyond_255_instructions_arrive() {
    let profile = long_profile(300, 3);
    let filter = compile(&profile, Arch::X86_64).unwrap();
    assert!(filter.program.len() > 1500, "{} instructions prove nothing", filter.program.len());
    assert!(filter.program.iter().any(|i| i.code == 0x05), "no trampoline was needed");
    for (at, rule) in profile.syscalls.iter().enumerate() {
        let nr = syscall_number(Arch::X86_64, &rule.names[0]).unwrap();
        let call = |first| decide(&filter.program, Arch::X86_64, nr, [first, 0, 0, 0, 0, 0]);
        let (high, errno) = ((at as u64) << 32, ret::ERRNO | (at as u32 % 200 + 2));
        assert_eq!(
            [call(high), call(high + 2), call(high + 3)],
            [errno, errno, ret::ALLOW],
            "{}",
            rule.names[0]
        );
    }
}

#[test]
fn a_program_too_long_for_the_kernel_is_refused() {
    let error = compile(&long_profile(300, 10), Arch::X86_64).unwrap_err();
    assert!(
        matches!(error, SeccompError::TooLong { instructions, limit: MAX_INSTRUCTIONS } if instructions > 4096)
    );
}

#[test]
fn programs_that_the_kernel_refuses_are_told() {
    let instruction = |code, jt, k| SockFilter { code, jt, jf: 0, k };
    let refused = |program: &[SockFilter]| run(program, &SeccompData::default()).unwrap_err().to_string();
    assert!(refused(&[]).contains("does not return"));
    assert!(
        refused(&[instruction(0x15, 9, 0), instruction(0x06, 0, 0)]).contains("instruction 0: jumps beyond")
    );
    assert!(refused(&[instruction(0x20, 0, 2), instruction(0x06, 0, 0)]).contains("operand 0x2"));
    assert!(refused(&[instruction(0x30, 0, 0), instruction(0x06, 0, 0)]).contains("code 0x30"));
}

/// Prints what the profiles cost; the bound on executed instructions is what binary search promises.
#[test]
fn podmans_profile_costs_a_binary_search() {
    let podman = common::podman_profile(Arch::X86_64);
    let action = Some(vfsrun_seccomp::action::action_profile());
    for (what, profile) in [("podman", podman), ("action", action)] {
        let Some(profile) = profile else { continue };
        let start = std::time::Instant::now();
        let filters: Vec<_> = (0..100).map(|_| compile(&profile, Arch::X86_64).unwrap()).collect();
        let filter = &filters[0];
        let micros = start.elapsed().as_micros() / 100;
        let data = |nr| SeccompData { nr, arch: Arch::X86_64.audit(), ..SeccompData::default() };
        let runs: Vec<_> = (0..=450)
            .filter(|nr| vfsrun_seccomp::syscall_name(Arch::X86_64, *nr).is_some())
            .map(|nr| run(&filter.program, &data(nr)).unwrap().instructions)
            .collect();
        let (sum, most) = (runs.iter().sum::<usize>(), *runs.iter().max().unwrap());
        let average = sum as f64 / runs.len() as f64;
        println!(
            "{what}: {} instructions, {average:.1} executed per call, at most {most}, compiled in {micros} µs",
            filter.program.len()
        );
        assert!(average < 14.0 && most < 40, "{what}: {average} on average, at most {most}");
    }
}
