//! A key tells apart whatever may be compiled otherwise.

mod common;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use vfsrun_seccomp::{
    Action, Arch, Architecture, Argument, Flag, Key, NewerCalls, Operator, Profile, Syscall,
};

fn key(profile: &Profile) -> Key {
    Key::new(profile, Arch::X86_64, NewerCalls::Enosys)
}

/// Few values for each field, so that neighbours could be taken for one another.
fn profile() -> impl Strategy<Value = Profile> {
    let architectures = vec(select(&[Architecture::X86_64, Architecture::X86, Architecture::X32][..]), 0..3);
    let flags = option::of(vec(select(&[Flag::Tsync, Flag::Log, Flag::SpecAllow][..]), 0..3));
    (action(), errno(), architectures, flags, vec(syscall(), 0..4)).prop_map(
        |(default_action, default_errno_ret, architectures, flags, syscalls)| Profile {
            default_action,
            default_errno_ret,
            architectures,
            flags,
            listener_path: None,
            listener_metadata: None,
            syscalls,
        },
    )
}

fn syscall() -> impl Strategy<Value = Syscall> {
    let name = select(&["", "a", "ab", "b", "ba", "read"][..]).prop_map(str::to_owned);
    (vec(name, 0..4), action(), errno(), vec(argument(), 0..3))
        .prop_map(|(names, action, errno_ret, args)| Syscall { names, action, errno_ret, args })
}

fn argument() -> impl Strategy<Value = Argument> {
    let value = || select(&[0, 1, 1 << 32, u64::MAX][..]);
    (0..3u32, value(), value(), select(&Operator::ALL[..]))
        .prop_map(|(index, value, value_two, op)| Argument { index, value, value_two, op })
}

fn action() -> impl Strategy<Value = Action> {
    select(&[Action::Allow, Action::Errno, Action::Kill, Action::KillThread][..])
}

fn errno() -> impl Strategy<Value = Option<u32>> {
    option::of(select(&[0, 1, 38][..]))
}

/// A profile and one that differs from it in one place, or in what is where.
fn neighbours() -> impl Strategy<Value = (Profile, Profile)> {
    (profile(), 0..12usize, any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(
        |(one, change, at, with)| {
            let mut other = one.clone();
            change_one(&mut other, change, &at, &with);
            (one, other)
        },
    )
}

fn change_one(profile: &mut Profile, change: usize, at: &prop::sample::Index, with: &prop::sample::Index) {
    match change {
        0 => profile.default_errno_ret = if profile.default_errno_ret.is_none() { Some(1) } else { None },
        1 => profile.flags = if profile.flags.is_none() { Some(vec![]) } else { None },
        2 => profile.architectures.reverse(),
        3 => profile.default_action = Action::Log,
        _ if profile.syscalls.is_empty() => {}
        4 => {
            let (at, with) = (at.index(profile.syscalls.len()), with.index(profile.syscalls.len()));
            profile.syscalls.swap(at, with);
        }
        5 => {
            // The last name of one rule becomes the first of the next.
            let at = at.index(profile.syscalls.len());
            if at + 1 < profile.syscalls.len()
                && let Some(name) = profile.syscalls[at].names.pop()
            {
                profile.syscalls[at + 1].names.insert(0, name);
            }
        }
        _ => change_rule(profile, change, at, with),
    }
}

fn change_rule(profile: &mut Profile, change: usize, at: &prop::sample::Index, with: &prop::sample::Index) {
    let rule = at.get(&profile.syscalls).clone();
    let place = at.index(profile.syscalls.len());
    let changed = &mut profile.syscalls[place];
    match change {
        6 => changed.errno_ret = if rule.errno_ret == Some(1) { Some(38) } else { Some(1) },
        7 => changed.errno_ret = if rule.errno_ret.is_none() { Some(0) } else { None },
        // Two names as one.
        8 => changed.names = vec![rule.names.concat()],
        9 => changed.names.reverse(),
        _ if changed.args.is_empty() => changed.names.push("b".into()),
        10 => {
            let place = with.index(changed.args.len());
            let argument = &mut changed.args[place];
            std::mem::swap(&mut argument.value, &mut argument.value_two);
        }
        _ => {
            let place = with.index(changed.args.len());
            changed.args[place].op = Operator::MaskedEqual;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_the_same_only_for_the_same_profile((one, other) in neighbours()) {
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }

    #[test]
    fn unlike_profiles_have_unlike_keys(one in profile(), other in profile()) {
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }
}

fn parsed(json: &str) -> Profile {
    Profile::parse(json).unwrap()
}

#[test]
fn errno_order_and_flags_count() {
    let profile = |rules: &str, flags: &str| {
        parsed(&format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", {flags} "syscalls": [{rules}] }}"#))
    };
    let mkdir =
        |errno: u32| format!(r#"{{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": {errno} }}"#);
    let (first, second) = (mkdir(1), mkdir(2));
    let profiles = [
        profile(&first, ""),
        profile(&second, ""),
        profile(&format!("{first}, {second}"), ""),
        profile(&format!("{second}, {first}"), ""),
        profile(&first, r#""flags": [],"#),
    ];
    let keys: std::collections::HashSet<Key> = profiles.iter().map(key).collect();
    assert_eq!(keys.len(), profiles.len());
    assert_eq!(key(&profiles[0]), key(&profile(&first, r#""flags": null,"#)), "null is no flags");
}

#[test]
fn kernel_and_choice_for_newer_calls_count() {
    let profile = parsed(r#"{ "defaultAction": "SCMP_ACT_ERRNO" }"#);
    let keys: std::collections::HashSet<Key> = Arch::ALL
        .iter()
        .flat_map(|arch| {
            [NewerCalls::Enosys, NewerCalls::Default].map(|newer| Key::new(&profile, *arch, newer))
        })
        .collect();
    assert_eq!(keys.len(), 12);
}

#[test]
fn whom_a_listener_is_handed_to_does_not_count() {
    let profile = parsed(r#"{ "defaultAction": "SCMP_ACT_ERRNO" }"#);
    let listener = Some("/run/agent".to_owned());
    let told = Profile { listener_path: listener.clone(), listener_metadata: listener, ..profile.clone() };
    assert_eq!(key(&profile), key(&told));
}
