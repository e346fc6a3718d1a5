//! A profile read plainly: rules one by one, no program, no numbers merged, no order of precedence.

use vfsrun_seccomp::{Action, Arch, Argument, Operator, Profile, Syscall, ret, syscall_number};

/// The rules of one call.
pub struct Reading {
    /// What the rules do, and the conditions that must all hold for it.
    rules: Vec<(u32, Vec<Argument>)>,
    otherwise: u32,
    wide: bool,
}

impl Reading {
    pub fn of(profile: &Profile, arch: Arch, nr: u32) -> Reading {
        let default = value(profile.default_action, profile.default_errno_ret);
        let mut rules = Vec::new();
        for rule in &profile.syscalls {
            let action = value(rule.action, rule.errno_ret);
            if action != default {
                let all = conditions(rule, arch, nr).into_iter();
                rules.extend(all.map(|conditions| (action, conditions)));
            }
        }
        let is_newer = rules.is_empty() && largest(profile, arch).is_some_and(|largest| nr > largest);
        let otherwise = if is_newer { ret::ERRNO | 38 } else { default };
        let wide = matches!(arch, Arch::X86_64 | Arch::Aarch64 | Arch::Riscv64);
        Reading { rules, otherwise, wide }
    }

    /// What the call may get: the action of the first rule without conditions; or else of any rule whose conditions hold,
    /// which of them is a question of precedence; or else the default, ENOSYS for a call newer than the profile.
    pub fn permits(&self, args: [u64; 6]) -> Vec<u32> {
        let always = |conditions: &[Argument]| conditions.iter().all(|one| always_holds(one, self.wide));
        if let Some((action, _)) = self.rules.iter().find(|(_, conditions)| always(conditions)) {
            return vec![*action];
        }
        let hold = |conditions: &[Argument]| conditions.iter().all(|one| holds(one, args, self.wide));
        let holding = self.rules.iter().filter(|(_, conditions)| hold(conditions));
        let actions: Vec<_> = holding.map(|(action, _)| *action).collect();
        if actions.is_empty() { vec![self.otherwise] } else { actions }
    }
}

/// The largest number that the profile names: calls above are newer than it. None where there are no such calls, or the
/// default says nothing wrong to a probe for one.
pub fn largest(profile: &Profile, arch: Arch) -> Option<u32> {
    let names = profile.syscalls.iter().flat_map(|entry| &entry.names);
    // Of what i386 multiplexes runc knows no number.
    let names = names.filter(|name| arch != Arch::X86 || selector(name).is_none());
    // The kernel, a tracer or an agent says.
    let others_say =
        matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace | Action::Notify);
    let largest = names.filter_map(|name| syscall_number(arch, name)).max().filter(|largest| *largest != 0);
    largest.filter(|_| !others_say && profile.default_errno_ret != Some(38))
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
fn conditions(rule: &Syscall, arch: Arch, nr: u32) -> Vec<Vec<Argument>> {
    let multiplexes = arch == Arch::X86 && [SOCKETCALL, IPC].contains(&nr);
    let mut applying = Vec::new();
    for name in &rule.names {
        if syscall_number(arch, name) == Some(nr) {
            applying.extend(alternatives(rule));
        }
        let multiplexed = selector(name).filter(|(number, _)| multiplexes && *number == nr);
        if let Some((_, value)) = multiplexed {
            let selector = Argument { index: 0, value, value_two: 0, op: Operator::Equal };
            applying.extend(alternatives(rule).map(|mut conditions| {
                conditions.retain(|one| one.index != 0);
                conditions.push(selector);
                conditions
            }));
        }
    }
    applying
}

/// Conditions that must all hold; of a rule that names an argument twice each by itself.
fn alternatives(rule: &Syscall) -> impl Iterator<Item = Vec<Argument>> {
    let count = |index: u32| rule.args.iter().filter(|argument| argument.index == index).count();
    let size = if (0..6).any(|index| count(index) > 1) { 1 } else { rule.args.len().max(1) };
    let none = rule.args.is_empty().then(Vec::new);
    rule.args.chunks(size).map(<[Argument]>::to_vec).chain(none)
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
