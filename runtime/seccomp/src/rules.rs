//! A rule: an action for one system call number, with the conditions its arguments must satisfy.

use crate::{
    Arch, Argument, Operator, Profile, SeccompError, Syscall,
    syscalls::{self, Multiplexed, Numbers},
};

/// A condition on an argument, compared as unsigned 64-bit, or as the low 32 bits where the architecture has no more.
/// `mask` is all ones except for `MaskedEqual`, and `value` never has a bit outside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Condition {
    pub index: u32,
    pub operator: Operator,
    pub value: u64,
    pub mask: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What the filter returns.
    pub action: u32,
    /// In ascending order of the argument's index, each index at most once.
    pub conditions: Vec<Condition>,
    /// The entry of `syscalls` it came from.
    pub entry: usize,
}

/// A rule with the call it is for.
#[derive(Debug, Clone)]
pub(crate) struct BoundRule {
    pub number: u32,
    pub arch: Arch,
    pub rule: Rule,
}

/// An entry of `syscalls`, checked: alternatives of conditions, any of which suffices.
struct Entry {
    calls: Vec<Call>,
    action: u32,
    alternatives: Vec<Vec<Condition>>,
    index: usize,
}

/// A name that some architecture has a number for, or that i386 multiplexes.
struct Call {
    numbers: Option<Numbers>,
    multiplexed: Option<Multiplexed>,
}

/// Rules of a profile, not yet bound to an architecture.
pub(crate) struct RuleSet {
    entries: Vec<Entry>,
}

impl RuleSet {
    /// Errors: `TooLarge` for an errno or an argument's index.
    pub(crate) fn new(profile: &Profile, default_action: u32) -> Result<RuleSet, SeccompError> {
        let mut entries = Vec::with_capacity(profile.syscalls.len());
        for (index, syscall) in profile.syscalls.iter().enumerate() {
            let entry = checked(syscall, index)?;
            // libseccomp refuses a rule with the default's action, so runtimes leave it out: it does not even
            // shield the call from later rules.
            if entry.action != default_action {
                entries.push(entry);
            }
        }
        Ok(RuleSet { entries })
    }

    /// Appends the rules for calls of `arch` in the order of the profile. Names without a number there are skipped.
    pub(crate) fn bind(&self, arch: Arch, bound: &mut Vec<BoundRule>) {
        for entry in &self.entries {
            let mut bind = |number, conditions| {
                let rule = Rule { action: entry.action, conditions, entry: entry.index };
                bound.push(BoundRule { number, arch, rule });
            };
            for call in &entry.calls {
                for alternative in &entry.alternatives {
                    if let Some(number) = call.numbers.and_then(|numbers| numbers.number(arch)) {
                        bind(number, alternative.clone());
                    }
                    if let (Arch::X86, Some(call)) = (arch, call.multiplexed) {
                        bind(call.number, selected(alternative, call));
                    }
                }
            }
        }
    }
}

fn checked(syscall: &Syscall, index: usize) -> Result<Entry, SeccompError> {
    let action = syscall.action.return_value(syscall.errno_ret, &format!("syscalls[{index}].errnoRet"))?;
    let mut conditions = Vec::with_capacity(syscall.args.len());
    for (position, argument) in syscall.args.iter().enumerate() {
        if argument.index > 5 {
            return Err(SeccompError::TooLarge {
                field: format!("syscalls[{index}].args[{position}].index"),
                value: argument.index.into(),
                limit: 5,
            });
        }
        conditions.push(condition(argument));
    }
    let call =
        |name: &String| Call { numbers: syscalls::find(name), multiplexed: syscalls::multiplexed(name) };
    let calls = syscall.names.iter().map(call).collect();
    Ok(Entry { calls, action, alternatives: alternatives(conditions), index })
}

fn condition(argument: &Argument) -> Condition {
    let (value, mask) = match argument.operator_is_masked() {
        true => (argument.value_two & argument.value, argument.value),
        false => (argument.value, u64::MAX),
    };
    Condition { index: argument.index, operator: argument.op, value, mask }
}

impl Argument {
    fn operator_is_masked(&self) -> bool {
        self.op == Operator::MaskedEqual
    }
}

/// Conditions on different arguments must all hold. Two on the same argument make every condition a rule of its own:
/// libseccomp cannot express them, runc and crun fall back to this, and docker's old profiles rely on it.
fn alternatives(mut conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(at, condition)| conditions[..at].iter().any(|earlier| earlier.index == condition.index));
    if repeated {
        return conditions.into_iter().map(|condition| vec![condition]).collect();
    }
    conditions.sort_by_key(|condition| condition.index);
    vec![conditions]
}

/// The rule for the multiplexed form: the selector takes the place of the first argument. The others then compare
/// with what socketcall has there, a pointer; libseccomp does the same.
fn selected(alternative: &[Condition], call: Multiplexed) -> Vec<Condition> {
    let selector = Condition { index: 0, operator: Operator::Equal, value: call.selector, mask: u64::MAX };
    let others = alternative.iter().filter(|condition| condition.index != 0);
    std::iter::once(selector).chain(others.copied()).collect()
}
