//! Compilation: a profile becomes one program that tells architectures apart, finds the call's number by binary
//! search, and compares arguments where its rules have conditions.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    Action, Arch, Operator, Profile, SeccompError,
    assemble::{Assembler, Label, Target, op},
    errno,
    precedence::{Check, Verdict},
    profile::Architecture,
    ret,
    rules::{Condition, RuleSet},
    simulate,
    spans::{Abi, Background, Fallbacks, Span, lay},
    syscalls,
};

/// One instruction, `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A compiled profile, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub program: Vec<SockFilter>,
    /// SECCOMP_FILTER_FLAG_* of the profile. The kernel may know fewer; SPEC_ALLOW is set when the profile has no
    /// `flags` at all, as runc does.
    pub flags: u32,
    /// Whether some call is answered by a listener: load with SECCOMP_FILTER_FLAG_NEW_LISTENER.
    pub needs_listener: bool,
}

impl Filter {
    /// Whether a listener is needed is seen from the program.
    pub fn new(program: Vec<SockFilter>, flags: u32) -> Filter {
        let needs_listener = program.iter().any(|i| i.code == op::RETURN && i.k == ret::USER_NOTIF);
        Filter { program, flags, needs_listener }
    }
}

/// BPF_MAXINSNS, the longest program the kernel takes.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// What calls get whose number is above all that the profile names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewerCalls {
    /// ENOSYS, unless the default lets calls pass or is ENOSYS itself. A C library probes for new calls and falls
    /// back only on ENOSYS. This is runc's behaviour.
    Enosys,
    /// The default action, as libseccomp and crun have it.
    Default,
}

/// Compiles `profile` for a kernel of `native`, whose own calls are filtered whether the profile names it or not;
/// calls of an architecture that it does not name kill their thread. Errors: a field out of range, rules that
/// contradict each other, a program the kernel would not take.
pub fn compile(profile: &Profile, native: Arch) -> Result<Filter, SeccompError> {
    compile_with(profile, native, NewerCalls::Enosys)
}

/// As `compile`, with a choice for calls newer than the profile.
pub fn compile_with(profile: &Profile, native: Arch, newer: NewerCalls) -> Result<Filter, SeccompError> {
    let default = profile.default_action.return_value(profile.default_errno_ret, "defaultErrnoRet")?;
    let rules = RuleSet::new(profile, default)?;
    let archs = archs(profile, native);
    let newer = newer == NewerCalls::Enosys && denies_newer_calls(profile);

    let mut generator = Generator { assembler: Assembler::default(), blocks: HashMap::new(), default };
    let mut sections = Vec::new();
    // The native section is assembled last, next to the beginning, so that its jumps are short.
    for audit in audit_archs(&archs, native).into_iter().rev() {
        let members: Vec<_> = archs.iter().copied().filter(|arch| arch.audit() == audit).collect();
        let spans = spans(profile, &rules, &members, default, newer)?;
        sections.push((audit, generator.section(&spans)));
    }
    let program = generator.dispatch(&sections);

    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong { instructions: program.len(), limit: MAX_INSTRUCTIONS });
    }
    simulate::check(&program).map_err(SeccompError::Unloadable)?;
    Ok(Filter::new(program, profile.flag_bits()))
}

/// The native architecture, then those of the profile that its kernel can serve.
fn archs(profile: &Profile, native: Arch) -> Vec<Arch> {
    let mut archs = vec![native];
    for arch in profile.architectures.iter().filter_map(|name: &Architecture| name.arch()) {
        if arch.same_kernel(native) && !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    archs
}

fn audit_archs(archs: &[Arch], native: Arch) -> Vec<u32> {
    let mut audits = vec![native.audit()];
    for arch in archs {
        if !audits.contains(&arch.audit()) {
            audits.push(arch.audit());
        }
    }
    audits
}

/// Whether the default would give a wrong answer to a probe for a new call: a permissive default lets the kernel
/// answer, a tracer or an agent is expected to know, and a `defaultErrnoRet` of ENOSYS is right already.
fn denies_newer_calls(profile: &Profile) -> bool {
    !matches!(profile.default_action, Action::Allow | Action::Log | Action::Trace | Action::Notify)
        && profile.default_errno_ret != Some(errno::ENOSYS)
}

/// The spans of one AUDIT_ARCH; `members` are the ABIs that share it.
fn spans(
    profile: &Profile,
    rules: &RuleSet,
    members: &[Arch],
    default: u32,
    newer: bool,
) -> Result<Vec<Span>, SeccompError> {
    let fallbacks = Fallbacks { default, newer: ret::ERRNO | errno::ENOSYS, foreign: ret::KILL_THREAD };
    let abi = |arch: Arch| Abi { newer_from: if newer { newer_from(profile, arch) } else { None } };
    let member = |arch: Arch| members.contains(&arch).then(|| abi(arch));
    let background = match members {
        [Arch::X86_64 | Arch::X32, ..] => {
            Background::x86_64(member(Arch::X86_64), member(Arch::X32), fallbacks)
        }
        _ => Background::plain(abi(members[0]), fallbacks),
    };
    let mut bound = Vec::new();
    members.iter().for_each(|arch| rules.bind(*arch, &mut bound));
    // Stable: the rules of one call stay in the order of the profile.
    bound.sort_by_key(|rule| rule.number);
    lay(&background, &bound)
}

/// The first number above all that the profile names, those with the default's action included. None when it names
/// none, or only number 0, which runc takes for none. What i386 multiplexes has no number of its own for runc.
fn newer_from(profile: &Profile, arch: Arch) -> Option<u32> {
    let names = profile.syscalls.iter().flat_map(|syscall| &syscall.names);
    let direct = names.filter(|name| arch != Arch::X86 || syscalls::multiplexed(name).is_none());
    let largest = direct.filter_map(|name| syscalls::find(name)?.number(arch)).max()?;
    (largest != 0).then_some(largest + 1)
}

/// Offsets in seccomp_data, linux/seccomp.h.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

fn argument(index: u32, upper_half: bool) -> u32 {
    // All architectures here are little endian.
    16 + 8 * index + if upper_half { 4 } else { 0 }
}

/// A piece of program to continue with.
#[derive(Debug, Clone, Copy)]
struct Entry {
    target: Target,
    /// Where to come in when the accumulator already has the word at this offset.
    loaded: Option<(u32, Label)>,
    /// Where to come in when the upper half of the first argument is already known to be as it should.
    upper: Option<Upper>,
}

/// An argument's upper half, compared before; what remains to do is the lower half.
#[derive(Debug, Clone, Copy)]
struct Upper {
    word: u32,
    value: u32,
    target: Target,
    loaded: Option<(u32, Label)>,
}

struct Generator {
    assembler: Assembler,
    /// Checks assembled before, by their content: calls with the same rules share them.
    blocks: HashMap<Verdict, Entry>,
    default: u32,
}

impl Generator {
    /// Selects the section by AUDIT_ARCH. `sections` has the most frequent last.
    fn dispatch(mut self, sections: &[(u32, Target)]) -> Vec<SockFilter> {
        let mut otherwise = Target::Return(ret::KILL_THREAD);
        for &(audit, section) in sections {
            otherwise = Target::Block(self.assembler.branch(op::IF_EQUAL, audit, section, otherwise));
        }
        let first = self.assembler.load(ARCH);
        self.assembler.finish(Target::Block(first))
    }

    fn section(&mut self, spans: &[Span]) -> Target {
        match self.search(spans) {
            Target::Return(value) => Target::Return(value),
            Target::Block(_) => Target::Block(self.assembler.load(NUMBER)),
        }
    }

    /// Finds the span of the number in the accumulator.
    fn search(&mut self, spans: &[Span]) -> Target {
        match spans {
            [only] => self.verdict(&only.verdict).target,
            // One number with a verdict of its own between two of one kind: equality saves a comparison.
            [below, one, above] if below.verdict == above.verdict && above.first - one.first == 1 => {
                let others = self.verdict(&below.verdict).target;
                let itself = self.verdict(&one.verdict).target;
                Target::Block(self.assembler.branch(op::IF_EQUAL, one.first, itself, others))
            }
            _ => {
                let (lower, upper) = spans.split_at(spans.len() / 2);
                let above = self.search(upper);
                let below = self.search(lower);
                let first = upper[0].first;
                Target::Block(self.assembler.branch(op::IF_GREATER_OR_EQUAL, first, above, below))
            }
        }
    }

    fn verdict(&mut self, verdict: &Verdict) -> Entry {
        match verdict {
            Verdict::Return(value) => returning(*value),
            Verdict::Checks { checks, wide } => match self.blocks.get(verdict) {
                Some(&entry) => entry,
                None => {
                    let entry = self.checks(checks, *wide);
                    self.blocks.insert(verdict.clone(), entry);
                    entry
                }
            },
        }
    }

    fn checks(&mut self, checks: &[Check], wide: bool) -> Entry {
        let mut fail = returning(self.default);
        for check in checks.iter().rev() {
            let mut pass = returning(check.action);
            for condition in check.conditions.iter().rev() {
                pass = self.condition(condition, wide, pass, fail);
            }
            fail = pass;
        }
        fail
    }

    fn condition(&mut self, condition: &Condition, wide: bool, pass: Entry, fail: Entry) -> Entry {
        let Condition { index, value, mask, .. } = *condition;
        match condition.operator {
            Operator::Equal | Operator::MaskedEqual => {
                let (low, high) = (argument(index, false), argument(index, true));
                let (high_value, high_mask) = ((value >> 32) as u32, (mask >> 32) as u32);
                if !wide || high_mask != u32::MAX {
                    let lower = self.masked(low, value as u32, mask as u32, pass, fail);
                    return if wide { self.masked(high, high_value, high_mask, lower, fail) } else { lower };
                }
                // Most profiles compare one argument with several small values: the upper half once for all.
                let (known_pass, known_fail) =
                    (pass.knowing(high, high_value), fail.knowing(high, high_value));
                let lower = self.masked(low, value as u32, mask as u32, known_pass, known_fail);
                let whole = self.compare(high, op::IF_EQUAL, high_value, lower, fail);
                let Entry { target, loaded, .. } = lower;
                Entry { upper: Some(Upper { word: high, value: high_value, target, loaded }), ..whole }
            }
            Operator::NotEqual => {
                let equal = Condition { operator: Operator::Equal, ..*condition };
                self.condition(&equal, wide, fail, pass)
            }
            Operator::Greater => self.ordered(op::IF_GREATER, index, value, wide, pass, fail),
            Operator::GreaterOrEqual => self.ordered(op::IF_GREATER_OR_EQUAL, index, value, wide, pass, fail),
            Operator::Less => self.ordered(op::IF_GREATER_OR_EQUAL, index, value, wide, fail, pass),
            Operator::LessOrEqual => self.ordered(op::IF_GREATER, index, value, wide, fail, pass),
        }
    }

    /// `word & mask == value`
    fn masked(&mut self, word: u32, value: u32, mask: u32, pass: Entry, fail: Entry) -> Entry {
        match (mask, value) {
            (0, _) => pass,
            (u32::MAX, _) => self.compare(word, op::IF_EQUAL, value, pass, fail),
            (_, 0) => self.compare(word, op::IF_ANY_BIT, mask, fail, pass),
            _ => {
                self.assembler.branch(op::IF_EQUAL, value, pass.target, fail.target);
                let loaded = self.assembler.and(mask);
                let target = Target::Block(self.assembler.load(word));
                Entry { target, loaded: Some((word, loaded)), upper: None }
            }
        }
    }

    /// An unsigned comparison, of 64 bits in three steps: upper halves greater, upper halves equal, lower halves.
    fn ordered(&mut self, code: u16, index: u32, value: u64, wide: bool, pass: Entry, fail: Entry) -> Entry {
        let lower = self.compare(argument(index, false), code, value as u32, pass, fail);
        if !wide {
            return lower;
        }
        let (word, upper) = (argument(index, true), (value >> 32) as u32);
        let equal = self.compare(word, op::IF_EQUAL, upper, lower, fail);
        self.compare(word, op::IF_GREATER, upper, pass, equal)
    }

    fn compare(&mut self, word: u32, code: u16, k: u32, pass: Entry, fail: Entry) -> Entry {
        let (pass, fail) = (pass.with_loaded(word), fail.with_loaded(word));
        let loaded = self.assembler.branch(code, k, pass, fail);
        let target = Target::Block(self.assembler.load(word));
        Entry { target, loaded: Some((word, loaded)), upper: None }
    }
}

fn returning(value: u32) -> Entry {
    Entry { target: Target::Return(value), loaded: None, upper: None }
}

impl Entry {
    fn knowing(self, word: u32, value: u32) -> Entry {
        match self.upper {
            Some(upper) if (upper.word, upper.value) == (word, value) => {
                Entry { target: upper.target, loaded: upper.loaded, upper: None }
            }
            _ => self,
        }
    }

    fn with_loaded(self, word: u32) -> Target {
        match self.loaded {
            Some((offset, label)) if offset == word => Target::Block(label),
            _ => self.target,
        }
    }
}
