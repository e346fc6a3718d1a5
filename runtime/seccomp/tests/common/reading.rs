//! A profile read plainly: rules one by one, no program, no numbers merged, no order of precedence.

use vfsrun_seccomp::{Action, Arch, Argument, Operator, Profile, Syscall, ret, syscall_number};

/// What a call may get: the action of the first rule without conditions; or else of any rule whose conditions hold, which
/// of them is a question of precedence; or else the default, ENOSYS for a call newer than the profile.
pub fn permitted(profile: &Profile, arch: Arch, nr: u32, args: [u64; 6]) -> Vec<u32> {
    let default = value(profile.default_action, profile.default_errno_ret);
    let rules: Vec<_> = profile
        .syscalls
        .iter()
        .map(|rule| (value(rule.action, rule.errno_ret), rule))
        .filter(|(action, _)| *action != default)
        .flat_map(|(action, rule)| conditions(rule, arch, nr).map(move |conditions| (action, conditions)))
        .collect();
    let wide = matches!(arch, Arch::X86_64 | Arch::Aarch64 | Arch::Riscv64);
    if let Some((action, _)) = rules.iter().find(|(_, all)| all.iter().all(|one| always_holds(one, wide))) {
        return vec![*action];
    }
    let holding = rules.iter().filter(|(_, all)| all.iter().all(|one| holds(one, args, wide)));
    let actions: Vec<_> = holding.map(|(action, _)| *action).collect();
    match actions.is_empty() {
        false => actions,
        true if rules.is_empty() && largest(profile, arch).is_some_and(|largest| nr > largest) => {
            vec![ret::ERRNO | 38]
        }
        true => vec![default],
    }
}

/// The largest number that the profile names: calls above are newer than it. None where there are no such calls, or the
/// default says nothing wrong to a probe for one.
pub fn largest(profile: &Profile, arch: Arch) -> Option<u32> {
    let names = profile.syscalls.iter().flat_map(|entry| &entry.names);
    // Of what i386 multiplexes runc knows no number.
    let names = names.filter(|name| arch != Arch::X86 || selector(name).is_none());
    let lets_the_kernel_say = matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace);
    let largest = names.filter_map(|name| syscall_number(arch, name)).max().filter(|largest| *largest != 0);
    largest.filter(|_| !lets_the_kernel_say && profile.default_errno_ret != Some(38))
}

/// What a filter returns for `action`.
pub fn value(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Kill | Action::KillThread => ret::KILL_THREAD,
        Action::KillProcess => ret::KILL_PROCESS,
        Action::Trap => ret::TRAP,
        Action::Errno => ret::ERRNO | errno.unwrap_or(1),
        Action::Trace => ret::TRACE | errno.unwrap_or(1),
        Action::Allow => ret::ALLOW,
        Action::Log => ret::LOG,
        Action::Notify => ret::USER_NOTIF,
    }
}

/// A value that satisfies the condition, if any does.
pub fn holding(argument: &Argument) -> u64 {
    match argument.op {
        Operator::MaskedEqual => argument.value & argument.value_two,
        Operator::Less | Operator::NotEqual => argument.value.wrapping_sub(1),
        Operator::Greater => argument.value.wrapping_add(1),
        Operator::Equal | Operator::LessOrEqual | Operator::GreaterOrEqual => argument.value,
    }
}

pub const SOCKETCALL: u32 = 102;
pub const IPC: u32 = 117;

/// The number and first argument by which i386 multiplexes a call.
pub fn selector(name: &str) -> Option<(u32, u64)> {
    #[rustfmt::skip]
    const SOCKETCALLS: [&str; 20] = [
        "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
        "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg",
        "sendmmsg",
    ];
    #[rustfmt::skip]
    const IPC_CALLS: [(&str, u64); 12] = [
        ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4), ("msgsnd", 11), ("msgrcv", 12), ("msgget", 13),
        ("msgctl", 14), ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
    ];
    let socketcall = SOCKETCALLS.iter().zip(1..).find(|(known, _)| **known == name);
    let ipc = IPC_CALLS.iter().find(|(known, _)| *known == name);
    socketcall.map(|(_, number)| (SOCKETCALL, number)).or(ipc.map(|(_, number)| (IPC, *number)))
}

/// What must hold for the rule to apply to the call: alternatives of conditions, none when the rule is for other calls.
fn conditions(rule: &Syscall, arch: Arch, nr: u32) -> impl Iterator<Item = Vec<Argument>> {
    let repeated =
        (0..6).any(|index| rule.args.iter().filter(|argument| argument.index == index).count() > 1);
    let alternatives: Vec<_> = match repeated {
        true => rule.args.iter().map(|argument| vec![*argument]).collect(),
        false => vec![rule.args.clone()],
    };
    rule.names.iter().flat_map(move |name| {
        let multiplexed = selector(name).filter(|(number, _)| arch == Arch::X86 && *number == nr);
        let direct = syscall_number(arch, name) == Some(nr);
        let mut applying = if direct { alternatives.clone() } else { vec![] };
        applying.extend(multiplexed.into_iter().flat_map(|(_, value)| {
            let selector = Argument { index: 0, value, value_two: 0, op: Operator::Equal };
            let others =
                |all: &Vec<Argument>| all.iter().filter(|one| one.index != 0).copied().collect::<Vec<_>>();
            alternatives.iter().map(move |all| [vec![selector], others(all)].concat()).collect::<Vec<_>>()
        }));
        applying
    })
}

fn holds(argument: &Argument, args: [u64; 6], wide: bool) -> bool {
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

fn always_holds(argument: &Argument, wide: bool) -> bool {
    let mask = if wide { argument.value } else { argument.value & 0xffff_ffff };
    argument.op == Operator::MaskedEqual && mask == 0
}
