//! The action profile denies at least what podman's default profile denies to a container without capabilities.

mod common;

use vfsrun_seccomp::{
    Action, Arch, Argument, Operator, Profile, SeccompData, Syscall, action::action_profile, compile, ret,
    simulate, syscall_number,
};

/// Podman's rules for one call, read from the profile without the compiler.
struct PodmanRules<'p> {
    default: Action,
    rules: Vec<&'p Syscall>,
}

impl PodmanRules<'_> {
    fn of(profile: &Profile, arch: Arch, nr: u32) -> PodmanRules<'_> {
        let names = |rule: &&Syscall| rule.names.iter().any(|name| syscall_number(arch, name) == Some(nr));
        PodmanRules {
            default: profile.default_action,
            rules: profile.syscalls.iter().filter(names).collect(),
        }
    }

    /// The first rule without conditions decides, or else the first whose conditions hold.
    fn allow(&self, args: [u64; 6]) -> bool {
        let holds = |condition: &Argument| match (condition.op, args[condition.index as usize]) {
            (Operator::Equal, value) => value == condition.value,
            (Operator::NotEqual, value) => value != condition.value,
            (other, _) => panic!("podman's profile has a new operator {other:?}"),
        };
        let unconditional = self.rules.iter().find(|rule| rule.args.is_empty());
        let deciding = unconditional.or_else(|| self.rules.iter().find(|rule| rule.args.iter().all(holds)));
        match deciding.map_or(self.default, |rule| rule.action) {
            Action::Allow => true,
            Action::Errno => false,
            other => panic!("podman's profile has a new action {other:?}"),
        }
    }
}

/// Argument vectors for which a profile might decide otherwise than for zeros.
fn vectors() -> Vec<[u64; 6]> {
    let mut vectors = vec![[0; 6], [u64::MAX; 6]];
    for first in
        [0, 1, 2, 8, 10, 16, 17, 38, 40, 0x20000, 0x20008, 0x40000, 0x1000_0011, 0xffff_ffff, 1 << 32 | 16]
    {
        for second in [0, 0x5401, 0x5412, 0x541c, 0o020_644, 1 << 32 | 0x5412] {
            for third in [0, 9, 15, 1 << 32 | 9, 0o060_644] {
                vectors.push([first, second, third, 0, 0, 0]);
            }
        }
    }
    vectors
}

fn denies_what_podman_denies(native: Arch, arch: Arch, numbers: impl Iterator<Item = u32>) {
    let Some(podman) = common::podman_profile(native) else { return };
    let ours = compile(&action_profile(), native).unwrap();
    let (mut denied, mut allowed) = (0, 0);
    for nr in numbers {
        let rules = PodmanRules::of(&podman, arch, nr);
        for args in vectors() {
            // A 32-bit process has no upper halves.
            let args =
                if matches!(arch, Arch::X86 | Arch::Arm) { args.map(|arg| arg & 0xffff_ffff) } else { args };
            let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args };
            let allows = simulate(&ours.program, &data) == ret::ALLOW;
            let podman = rules.allow(args);
            assert!(
                podman || !allows,
                "{arch:?} call {nr} with {args:x?}: podman denies it, the action profile does not"
            );
            denied += usize::from(!podman);
            allowed += usize::from(allows);
        }
    }
    // The comparison saw both kinds, or it proves nothing.
    assert!(denied > 10_000 && allowed > 10_000, "{arch:?}: podman denied {denied}, we allowed {allowed}");
}

#[test]
fn action_profile_denies_what_podman_denies_on_x86_64() {
    denies_what_podman_denies(Arch::X86_64, Arch::X86_64, 0..=600);
}

#[test]
fn action_profile_denies_what_podman_denies_on_i386() {
    denies_what_podman_denies(Arch::X86_64, Arch::X86, 0..=600);
}

#[test]
fn action_profile_denies_what_podman_denies_on_aarch64() {
    denies_what_podman_denies(Arch::Aarch64, Arch::Aarch64, 0..=600);
}

#[test]
fn action_profile_denies_what_podman_denies_on_arm() {
    denies_what_podman_denies(Arch::Aarch64, Arch::Arm, (0..=600).chain(0xf0000..=0xf0010));
}

#[test]
fn podmans_own_filter_gives_podmans_decisions() {
    let Some(podman) = common::podman_profile(Arch::X86_64) else { return };
    let filter = compile(&podman, Arch::X86_64).unwrap();
    for nr in 0..=600 {
        let rules = PodmanRules::of(&podman, Arch::X86_64, nr);
        for args in vectors() {
            let data = SeccompData { nr, arch: Arch::X86_64.audit(), instruction_pointer: 0, args };
            let allows = simulate(&filter.program, &data) == ret::ALLOW;
            assert_eq!(allows, rules.allow(args), "call {nr} with {args:x?}");
        }
    }
}

#[test]
fn socket_without_audit_is_denied_with_podmans_errno() {
    let Some(podman) = common::podman_profile(Arch::X86_64) else { return };
    let filter = compile(&podman, Arch::X86_64).unwrap();
    let socket = |family, protocol| {
        let args = [family, 3, protocol, 0, 0, 0];
        simulate(
            &filter.program,
            &SeccompData { nr: 41, arch: Arch::X86_64.audit(), instruction_pointer: 0, args },
        )
    };
    assert_eq!([socket(16, 9), socket(16, 0), socket(2, 9)], [ret::ERRNO | 22, ret::ALLOW, ret::ALLOW]);
}
