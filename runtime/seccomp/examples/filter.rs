//! What a profile costs: the time to compile and load it, and the instructions that a call executes.
//!
//! ```text
//! filter load PROFILE              parses, compiles and loads it, and prints the seconds of all three and of each
//! filter export PROFILE FILE       writes the program as the kernel takes it
//! filter count PROFILE OTHER       instructions executed for allowed calls, by this program and by an exported one of
//!                                  another compiler: of each the mean, the largest number, and the program's length
//! ```
//!
//! PROFILE is what OCI has in `linux.seccomp`. Loading needs no_new_privs, or CAP_SYS_ADMIN.

use std::{error::Error, fs, time::Instant};

use vfsrun_seccomp::{
    Arch, Filter, Profile, SeccompData, SockFilter, compile, ret, run, syscall_name, syscall_number,
};
use vfsrun_sys::seccomp;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["load", profile] => load(&fs::read_to_string(profile)?),
        ["export", profile, file] => {
            Ok(fs::write(file, bytes(&filter(&fs::read_to_string(profile)?)?.program))?)
        }
        ["count", profile, other] => {
            count(&filter(&fs::read_to_string(profile)?)?, &program(&fs::read(other)?))
        }
        _ => Err("filter load PROFILE | export PROFILE FILE | count PROFILE OTHER".into()),
    }
}

fn load(text: &str) -> Result<(), Box<dyn Error>> {
    let native = Arch::native().ok_or("no filter for this architecture")?;
    let start = Instant::now();
    let profile = Profile::parse(text)?;
    let parsed = start.elapsed();
    let filter = compile(&profile, native)?;
    let compiled = start.elapsed();
    let instruction = |i: &SockFilter| seccomp::Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    let program: Vec<_> = filter.program.iter().map(instruction).collect();
    seccomp::load(&program, 0)?;
    let loaded = start.elapsed();
    let steps = [loaded, parsed, compiled - parsed, loaded - compiled].map(|time| time.as_secs_f64());
    println!("{:.9} {:.9} {:.9} {:.9}", steps[0], steps[1], steps[2], steps[3]);
    Ok(())
}

fn filter(text: &str) -> Result<Filter, Box<dyn Error>> {
    let native = Arch::native().ok_or("no filter for this architecture")?;
    Ok(compile(&Profile::parse(text)?, native)?)
}

/// Every call of the native architecture that the filter allows whatever its arguments, and those that it allows with
/// the arguments of a simple use.
fn count(filter: &Filter, other: &[SockFilter]) -> Result<(), Box<dyn Error>> {
    let native = Arch::native().ok_or("no filter for this architecture")?;
    let data = |nr| SeccompData { nr, arch: native.audit(), ..SeccompData::default() };
    let calls = (0..1024).filter(|nr| syscall_name(native, *nr).is_some()).map(data);
    let allowed: Vec<_> =
        calls.filter(|call| run(&filter.program, call).is_ok_and(|run| run.value == ret::ALLOW)).collect();
    assert!(syscall_number(native, "read").is_some_and(|read| allowed.iter().any(|call| call.nr == read)));
    for program in [&filter.program[..], other] {
        let mut executed = Vec::with_capacity(allowed.len());
        for call in &allowed {
            let run = run(program, call)?;
            if run.value != ret::ALLOW {
                return Err(format!("call {} is not allowed by both", call.nr).into());
            }
            executed.push(run.instructions);
        }
        let mean = executed.iter().sum::<usize>() as f64 / executed.len() as f64;
        let most = executed.iter().max().ok_or("no call is allowed")?;
        println!("{mean:.2} {most} {}", program.len());
    }
    Ok(())
}

/// As `struct sock_filter` lies in the memory of a little endian machine.
fn bytes(program: &[SockFilter]) -> Vec<u8> {
    let one = |i: &SockFilter| {
        let [code, k] = [u32::from(i.code), i.k].map(u32::to_le_bytes);
        [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
    };
    program.iter().flat_map(one).collect()
}

fn program(bytes: &[u8]) -> Vec<SockFilter> {
    let one = |b: &[u8]| SockFilter {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks_exact(8).map(one).collect()
}
