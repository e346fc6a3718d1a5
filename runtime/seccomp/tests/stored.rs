//! A stored filter is what was stored, or an error.

mod common;

use proptest::prelude::*;
use vfsrun_seccomp::stored::{MAX_STORED, NotStored};
use vfsrun_seccomp::{
    Arch, Filter, Key, NewerCalls, Profile, SockFilter, action::action_profile, compile, ret,
};

fn stored() -> (Filter, Key, Vec<u8>) {
    let profile = action_profile();
    let filter = compile(&profile, Arch::X86_64).unwrap();
    let key = Key::new(&profile, Arch::X86_64, NewerCalls::Enosys);
    let bytes = filter.to_stored(&key);
    (filter, key, bytes)
}

#[test]
fn a_stored_filter_is_the_same_again() {
    let (filter, key, bytes) = stored();
    assert_eq!(Filter::from_stored(&bytes, &key).unwrap(), filter);
    let notify = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] }"#;
    let filter = compile(&Profile::parse(notify).unwrap(), Arch::X86_64).unwrap();
    let again = Filter::from_stored(&filter.to_stored(&key), &key).unwrap();
    assert!(again.needs_listener && again.flags == 2);
    assert_eq!(again, filter);
}

#[test]
fn another_profiles_filter_is_refused() {
    let (_, _, bytes) = stored();
    let allow_all = Profile::parse(r#"{ "defaultAction": "SCMP_ACT_ALLOW" }"#).unwrap();
    let key = Key::new(&allow_all, Arch::X86_64, NewerCalls::Enosys);
    assert_eq!(Filter::from_stored(&bytes, &key), Err(NotStored::Key));
}

#[test]
fn a_program_that_the_kernel_refuses_is_refused() {
    let (_, key, _) = stored();
    let endless = Filter::new(vec![SockFilter { code: 0x05, jt: 0, jf: 0, k: 9 }], 0);
    let stored = Filter::from_stored(&endless.to_stored(&key), &key);
    assert!(matches!(stored, Err(NotStored::Program(_))), "{stored:?}");
    let longest = vec![SockFilter { code: 0x06, jt: 0, jf: 0, k: ret::ALLOW }; 4096];
    assert_eq!(Filter::new(longest.clone(), 0).to_stored(&key).len(), MAX_STORED);
    let too_long = Filter::new([&longest[..], &longest[..1]].concat(), 0);
    assert!(Filter::from_stored(&too_long.to_stored(&key), &key).is_err());
    assert!(Filter::from_stored(&Filter::new(vec![], 0).to_stored(&key), &key).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_one_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u32, length in any::<prop::sample::Index>()) {
        let (_, key, bytes) = stored();
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(Filter::from_stored(&flipped, &key).is_err());
        prop_assert!(Filter::from_stored(&bytes[..length.index(bytes.len())], &key).is_err());
        let longer = [&bytes[..], &bytes[..1 + length.index(64)]].concat();
        prop_assert!(Filter::from_stored(&longer, &key).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_, key, _) = stored();
        prop_assert!(Filter::from_stored(&bytes, &key).is_err());
    }
}
