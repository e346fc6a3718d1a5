//! Profiles of well-formed rules, from bytes that choose among what a profile can say.

#![no_main]

use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use vfsrun_fuzzing::seccomp;
use vfsrun_seccomp::{Action, Architecture, Argument, Operator, Profile, Syscall};

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = profile(&mut Unstructured::new(bytes)) else { return };
    let text = serde_json::to_string(&profile).expect("a profile can be written as JSON");
    let parsed = Profile::parse(&text).expect("what was written as JSON can be read");
    assert_eq!(parsed, profile, "{text}");
    seccomp::check(&parsed);
});

/// Neighbours, calls that i386 multiplexes and by what, calls that not all architectures have, and none.
#[rustfmt::skip]
const NAMES: [&str; 28] = [
    "read", "write", "open", "close", "socket", "accept", "accept4", "send", "semop", "semget", "semctl", "shmat", "ipc",
    "socketcall", "clone", "ioctl", "personality", "fcntl64", "execve", "getdents64", "openat", "statx", "mmap2",
    "rt_sigaction", "breakpoint", "mseal", "io_uring_setup", "no_such_call",
];
fn profile(u: &mut Unstructured) -> Result<Profile> {
    let architectures: u8 = u.arbitrary()?;
    // One that no filter is compiled for is among them.
    let all = Architecture::COMPILED.into_iter().chain([Architecture::S390x]).enumerate();
    let chosen = all.filter(|(at, _)| architectures >> at & 1 == 1).map(|(_, architecture)| architecture);
    let mut profile = Profile {
        default_action: *u.choose(&Action::ALL)?,
        default_errno_ret: errno(u)?,
        architectures: chosen.collect(),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls: vec![],
    };
    while !u.is_empty() && profile.syscalls.len() < 24 {
        profile.syscalls.push(rule(u)?);
    }
    Ok(profile)
}

fn rule(u: &mut Unstructured) -> Result<Syscall> {
    let names =
        (0..u.int_in_range(1..=3)?).map(|_| Ok(u.choose(&NAMES)?.to_string())).collect::<Result<_>>()?;
    let (action, errno_ret) = (*u.choose(&Action::ALL)?, errno(u)?);
    let args = (0..u.int_in_range(0..=4)?).map(|_| argument(u)).collect::<Result<_>>()?;
    Ok(Syscall { names, action, errno_ret, args })
}

fn errno(u: &mut Unstructured) -> Result<Option<u32>> {
    Ok(match u.arbitrary::<u8>()? {
        0..128 => None,
        128..250 => Some(u.int_in_range(0..=50)?),
        _ => Some(u.arbitrary()?),
    })
}

fn argument(u: &mut Unstructured) -> Result<Argument> {
    Ok(Argument {
        index: u.int_in_range(0..=6)?,
        value: number(u)?,
        value_two: number(u)?,
        op: *u.choose(&Operator::ALL)?,
    })
}

/// Small numbers in one half or both, so that bounds of several rules meet.
fn number(u: &mut Unstructured) -> Result<u64> {
    let half = |u: &mut Unstructured| {
        Ok(match u.arbitrary::<u8>()? {
            small @ 0..200 => u64::from(small % 8),
            200..230 => 0xffff_ffff,
            _ => u64::from(u.arbitrary::<u32>()?),
        })
    };
    Ok(half(u)? << 32 | half(u)?)
}
