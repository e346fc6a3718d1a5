//! What must hold for every seccomp profile.

use vfsrun_seccomp::{
    Arch, Argument, Filter, MAX_INSTRUCTIONS, Profile, SeccompData, SeccompError, compile, run,
    syscall_number,
};

use crate::reading::{IPC, Reading, SOCKETCALL, holding};

/// The architectures of one kernel, the native one first.
const FAMILIES: [&[Arch]; 3] =
    [&[Arch::X86_64, Arch::X86, Arch::X32], &[Arch::Aarch64, Arch::Arm], &[Arch::Riscv64]];

/// Names of a profile whose calls are decided, and vectors of arguments for each: so that one input does not take long.
const NAMES: usize = 12;
const VECTORS: usize = 16;

/// Compiles the profile for every kernel. It is refused, or the program is one that the kernel loads and decides as the
/// profile reads. Panics otherwise.
pub fn check(profile: &Profile) {
    for family in FAMILIES {
        match compile(profile, family[0]) {
            Ok(filter) => decides_as_the_profile_reads(profile, &filter, family),
            Err(SeccompError::Unloadable(cause)) => panic!("{cause}\n{}", written(profile)),
            Err(_) => {}
        }
    }
}

fn decides_as_the_profile_reads(profile: &Profile, filter: &Filter, family: &[Arch]) {
    assert!(filter.program.len() <= MAX_INSTRUCTIONS);
    let named = |arch: Arch| profile.architectures.iter().any(|name| name.arch() == Some(arch));
    let vectors = vectors(profile);
    for &arch in family.iter().filter(|arch| **arch == family[0] || named(**arch)) {
        for nr in numbers(profile, arch) {
            let reading = Reading::of(profile, arch, nr);
            for &args in &vectors {
                let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args };
                let run = run(&filter.program, &data)
                    .unwrap_or_else(|cause| panic!("{arch:?} call {nr:#x}: {cause}\n{}", written(profile)));
                let may = reading.permits(args);
                assert!(
                    may.contains(&run.value),
                    "{arch:?} call {nr:#x} with {args:x?}: {:#x}, not of {may:x?}\n{}",
                    run.value,
                    written(profile)
                );
                assert!(run.instructions <= filter.program.len());
            }
        }
    }
}

/// The numbers of the profile's names, what i386 multiplexes them by, and their neighbours.
fn numbers(profile: &Profile, arch: Arch) -> Vec<u32> {
    let names = profile.syscalls.iter().flat_map(|rule| &rule.names);
    let mut numbers: Vec<u32> = names.take(NAMES).filter_map(|name| syscall_number(arch, name)).collect();
    if arch == Arch::X86 {
        numbers.extend([SOCKETCALL, IPC]);
    }
    // Beside x32's first number is one of x86_64.
    let bit = if arch == Arch::X32 { 1 << 30 } else { 0 };
    let around = |nr: u32| [nr.saturating_sub(1).max(bit), nr, nr + 1];
    let mut numbers: Vec<u32> = numbers.into_iter().flat_map(around).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Arguments that satisfy each rule, and such that miss one of its conditions by a bit.
fn vectors(profile: &Profile) -> Vec<[u64; 6]> {
    let mut vectors = vec![[0; 6], [u64::MAX; 6]];
    for rule in profile.syscalls.iter().filter(|rule| !rule.args.is_empty()) {
        let mut satisfying = [1; 6];
        let known = |argument: &&Argument| argument.index < 6;
        rule.args
            .iter()
            .filter(known)
            .for_each(|argument| satisfying[argument.index as usize] = holding(argument));
        vectors.push(satisfying);
        for (argument, bit) in rule.args.iter().filter(known).zip([0, 32, 63, 31]) {
            let mut missing = satisfying;
            missing[argument.index as usize] ^= 1 << bit;
            vectors.push(missing);
        }
    }
    vectors.truncate(VECTORS);
    vectors
}

fn written(profile: &Profile) -> String {
    serde_json::to_string(profile).expect("a profile can be written as JSON")
}
