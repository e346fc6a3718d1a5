//! libseccomp as an oracle: a C program that compiles the same profile and exports what libseccomp makes of it.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use vfsrun_seccomp::{Arch, Operator, Profile, SockFilter};

use super::reading::value;
use super::skip;

pub struct Exporter {
    program: PathBuf,
    _directory: tempfile::TempDir,
}

pub enum Exported {
    Program {
        program: Vec<SockFilter>,
        unknown: Vec<String>,
    },
    /// libseccomp takes two of the rules for a contradiction.
    Refused,
}

impl Exporter {
    /// None, said loudly, where it cannot be built.
    pub fn build() -> Option<Exporter> {
        let headers = ["/usr/include/seccomp.h", "/usr/local/include/seccomp.h"];
        if !headers.iter().any(|header| Path::new(header).exists()) {
            skip::this_test("no seccomp.h (Debian: libseccomp-dev)");
            return None;
        }
        if Arch::native() != Some(Arch::X86_64) {
            skip::this_test("the comparison with libseccomp is written for x86_64");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("export.c");
        let program = directory.path().join("export");
        std::fs::write(&source, include_str!("export.c")).unwrap();
        let built =
            Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(&source).arg("-lseccomp").output();
        let output = match built {
            Ok(output) => output,
            Err(error) => {
                skip::this_test(&format!("no C compiler: {error}"));
                return None;
            }
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Exporter { program, _directory: directory })
    }

    /// `family` are the architectures of one kernel, the native one first.
    pub fn export(&self, profile: &Profile, family: &[Arch], tree: bool) -> Exported {
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(describe(profile, family, tree).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => Exported::Program {
                program: output.stdout.chunks_exact(8).map(instruction).collect(),
                unknown: String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect(),
            },
            Some(3) => Exported::Refused,
            other => panic!("exporter ended with {other:?} for {profile:?}"),
        }
    }
}

fn instruction(bytes: &[u8]) -> SockFilter {
    SockFilter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}

/// The calls that runc would make: rules with the default's action left out, repeated arguments split into rules.
pub fn describe(profile: &Profile, family: &[Arch], tree: bool) -> String {
    let default = value(profile.default_action, profile.default_errno_ret);
    let mut text = format!("{default} {}\n", u32::from(tree));
    let named = profile.architectures.iter().filter_map(|name| name.arch());
    for arch in family[..1].iter().copied().chain(named.filter(|arch| family.contains(arch))) {
        let token = match arch {
            // libseccomp's own token: EM_X86_64, little endian, without the 64-bit mark.
            Arch::X32 => 0x4000_003e,
            arch => arch.audit(),
        };
        writeln!(text, "arch {token}").unwrap();
    }
    if family[0] != Arch::X86_64 {
        text.push_str("foreign\n");
    }
    for entry in &profile.syscalls {
        let action = value(entry.action, entry.errno_ret);
        if action == default {
            continue;
        }
        let repeated =
            entry.args.iter().enumerate().any(|(at, a)| entry.args[..at].iter().any(|b| a.index == b.index));
        let alternatives: Vec<Vec<_>> = match repeated {
            true => entry.args.iter().map(|argument| vec![*argument]).collect(),
            false => vec![entry.args.clone()],
        };
        for name in &entry.names {
            for arguments in &alternatives {
                write!(text, "{name} {action} {}", arguments.len()).unwrap();
                for argument in arguments {
                    let operator = match argument.op {
                        Operator::NotEqual => 1,
                        Operator::Less => 2,
                        Operator::LessOrEqual => 3,
                        Operator::Equal => 4,
                        Operator::GreaterOrEqual => 5,
                        Operator::Greater => 6,
                        Operator::MaskedEqual => 7,
                    };
                    write!(text, " {} {operator} {} {}", argument.index, argument.value, argument.value_two)
                        .unwrap();
                }
                text.push('\n');
            }
        }
    }
    text
}
