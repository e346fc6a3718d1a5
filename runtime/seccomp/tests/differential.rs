//! Against libseccomp: both compile the same profile, and both programs decide the same calls the same way.
//!
//! Needs a C compiler and libseccomp's headers; skipped loudly without.

mod common;

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{
    ACTIONS, NAMES, OPERATORS, Random, architectures, argument, argument_vectors, podman_profile, syscall,
    value,
};
use vfsrun_seccomp::{
    Arch, Architecture, NewerCalls, Operator, Profile, SeccompData, SockFilter, compile_with, simulate,
    syscall_number,
};

/// Reads a profile in the form that `describe` writes and exports libseccomp's program; names it does not know go to
/// stderr. Exit status 3: a rule was refused.
const EXPORTER: &str = r#"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <seccomp.h>

int main(void)
{
	char word[64];
	unsigned int def, tree;
	if (scanf("%u %u", &def, &tree) != 2)
		return 2;
	scmp_filter_ctx ctx = seccomp_init(def);
	if (!ctx)
		return 2;
	if (tree)
		seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	while (scanf("%63s", word) == 1) {
		if (!strcmp(word, "arch")) {
			unsigned int token;
			if (scanf("%u", &token) != 1)
				return 2;
			int rc = seccomp_arch_add(ctx, token);
			if (rc && rc != -EEXIST)
				return 2;
		} else {
			unsigned int action, count;
			struct scmp_arg_cmp args[6];
			if (scanf("%u %u", &action, &count) != 2 || count > 6)
				return 2;
			for (unsigned int i = 0; i < count; i++) {
				unsigned int arg, op;
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &arg, &op, &args[i].datum_a,
					  &args[i].datum_b) != 4)
					return 2;
				args[i].arg = arg;
				args[i].op = op;
			}
			int nr = seccomp_syscall_resolve_name(word);
			if (nr == __NR_SCMP_ERROR) {
				fprintf(stderr, "%s\n", word);
				continue;
			}
			if (seccomp_rule_add_array(ctx, action, nr, count, args))
				return 3;
		}
	}
	return seccomp_export_bpf(ctx, 1) ? 2 : 0;
}
"#;

struct Exporter {
    program: PathBuf,
    _directory: tempfile::TempDir,
}

enum Exported {
    Program {
        program: Vec<SockFilter>,
        unknown: Vec<String>,
    },
    /// libseccomp takes two of the rules for a contradiction.
    Refused,
}

impl Exporter {
    /// None, said loudly, where it cannot be built.
    fn build() -> Option<Exporter> {
        let headers = ["/usr/include/seccomp.h", "/usr/local/include/seccomp.h"];
        if !headers.iter().any(|header| Path::new(header).exists()) {
            eprintln!("SKIPPED: no seccomp.h (Debian: libseccomp-dev)");
            return None;
        }
        if Arch::native() != Some(Arch::X86_64) {
            eprintln!("SKIPPED: the comparison with libseccomp is written for x86_64");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("export.c");
        let program = directory.path().join("export");
        std::fs::write(&source, EXPORTER).unwrap();
        let built =
            Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(&source).arg("-lseccomp").output();
        let output = match built {
            Ok(output) => output,
            Err(error) => {
                eprintln!("SKIPPED: no C compiler: {error}");
                return None;
            }
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Exporter { program, _directory: directory })
    }

    fn export(&self, profile: &Profile, tree: bool) -> Exported {
        let mut child = Command::new(&self.program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(describe(profile, tree).as_bytes()).unwrap();
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
fn describe(profile: &Profile, tree: bool) -> String {
    let default = value(profile.default_action, profile.default_errno_ret);
    let mut text = format!("{default} {}\n", u32::from(tree));
    for name in &profile.architectures {
        let token = match name {
            Architecture::X86_64 => Arch::X86_64.audit(),
            Architecture::X86 => Arch::X86.audit(),
            // libseccomp's own token: EM_X86_64, little endian, without the 64-bit mark.
            Architecture::X32 => 0x4000_003e,
            _ => continue,
        };
        writeln!(text, "arch {token}").unwrap();
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

const X32: u32 = 0x4000_0000;
const BORDERS: [u32; 7] = [X32 - 1, 2 * X32 - 1, 2 * X32, 3 * X32 - 1, 3 * X32, u32::MAX - 1, u32::MAX];

/// All numbers that a table could have, and what lies at the borders of the ABIs.
fn all_calls() -> Vec<(Arch, u32)> {
    let numbers = || (0..600).chain(X32..X32 + 600).chain(BORDERS);
    let archs = [Arch::X86_64, Arch::X86, Arch::Aarch64];
    archs.into_iter().flat_map(|arch| numbers().map(move |number| (arch, number))).collect()
}

/// The calls that random profiles name, their neighbours, and the borders.
fn named_calls() -> Vec<(Arch, u32)> {
    let around = |arch| {
        let named = NAMES.iter().filter_map(move |name| syscall_number(arch, name));
        named.flat_map(|number| [number.saturating_sub(1), number, number + 1])
    };
    let archs = [Arch::X86_64, Arch::X86, Arch::X32];
    archs.into_iter().flat_map(|arch| around(arch).chain(BORDERS).map(move |number| (arch, number))).collect()
}

/// Compares both programs and gives the number of decisions, None when both refuse the profile.
fn compare(
    exporter: &Exporter,
    profile: &Profile,
    calls: &[(Arch, u32)],
    vectors: &[[u64; 6]],
    tree: bool,
    what: &str,
) -> Option<usize> {
    let (theirs, unknown) = match exporter.export(profile, tree) {
        Exported::Program { program, unknown } => (program, unknown),
        Exported::Refused => return None,
    };
    // An older libseccomp has a shorter table.
    let mut known = profile.clone();
    known.syscalls.iter_mut().for_each(|entry| entry.names.retain(|name| !unknown.contains(name)));
    let ours = compile_with(&known, Arch::X86_64, NewerCalls::Default);
    let ours = ours
        .unwrap_or_else(|error| panic!("{what}: libseccomp compiles it, we do not: {error}\n{profile:#?}"));
    let mut decisions = 0;
    for &(arch, nr) in calls {
        for &args in vectors {
            let data = SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args };
            let (ours, theirs) = (simulate(&ours.program, &data), simulate(&theirs, &data));
            assert!(
                ours == theirs,
                "{what}: {arch:?} call {nr:#x} with {args:x?}: {ours:#x}, libseccomp {theirs:#x}\n{}",
                describe(profile, tree)
            );
            decisions += 1;
        }
    }
    Some(decisions)
}

/// A random profile. With `one_action` a call's rules agree on the action, so that only matching is compared;
/// without, also the precedence between rules of one condition.
///
/// At most one rule of a call has a range. Of several libseccomp makes mistakes: before 2.6.1 it mixes up the actions
/// of LT and LE that share their upper half, and it compares an upper half with the lower one where a GE follows a LT.
/// It also loses rules of several conditions among which are ranges or NE: see `precedence`.
fn profile(random: &mut Random, one_action: bool) -> Profile {
    let (default_action, default_errno_ret) = *random.pick(&ACTIONS);
    let mut syscalls = Vec::new();
    let mut ranged = [false; NAMES.len()];
    for _ in 0..4 + random.below(40) {
        let at = random.below(NAMES.len());
        let action = if one_action { ACTIONS[at % ACTIONS.len()] } else { *random.pick(&ACTIONS) };
        let args = match random.below(4) {
            0 => vec![],
            1 if one_action => (0..1 + random.below(3)).map(|_| argument(random, &EXACT)).collect(),
            _ if ranged[at] => vec![argument(random, &EQUALITIES)],
            _ => vec![argument(random, &OPERATORS)],
        };
        ranged[at] |= args.iter().any(|argument| !EQUALITIES.contains(&argument.op));
        syscalls.push(syscall(&[NAMES[at]], action, args));
    }
    Profile {
        default_action,
        default_errno_ret,
        architectures: architectures(random),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

const EXACT: [Operator; 2] = [Operator::Equal, Operator::MaskedEqual];
const EQUALITIES: [Operator; 3] = [Operator::NotEqual, Operator::Equal, Operator::MaskedEqual];

#[test]
fn podmans_profile_decides_as_under_libseccomp() {
    let Some(exporter) = Exporter::build() else { return };
    let Some(podman) = podman_profile(Arch::X86_64) else { return };
    let vectors = argument_vectors(&mut Random::new(1), 20);
    for tree in [false, true] {
        let decisions = compare(&exporter, &podman, &all_calls(), &vectors, tree, "podman's profile");
        assert!(decisions.is_some_and(|decisions| decisions > 70_000));
    }
}

#[test]
fn action_profile_decides_as_under_libseccomp() {
    let Some(exporter) = Exporter::build() else { return };
    let vectors = argument_vectors(&mut Random::new(2), 30);
    let profile = vfsrun_seccomp::action::action_profile();
    let decisions = compare(&exporter, &profile, &all_calls(), &vectors, true, "the action profile");
    assert!(decisions.is_some_and(|decisions| decisions > 70_000));
}

fn random_profiles(one_action: bool) {
    let Some(exporter) = Exporter::build() else { return };
    let calls = named_calls();
    let (mut compared, mut refused, mut decisions) = (0, 0, 0);
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut profile = profile(&mut random, one_action);
        let vectors = argument_vectors(&mut random, 20);
        let tree = seed % 2 == 0;
        if !tree {
            // Without its tree libseccomp 2.5 forgets to load the call's number in a section that begins with a
            // call without one (`send`), except where x86_64 is alone.
            profile.architectures.clear();
        }
        match compare(&exporter, &profile, &calls, &vectors, tree, &format!("seed {seed}")) {
            Some(count) => (compared, decisions) = (compared + 1, decisions + count),
            None => refused += 1,
        }
    }
    eprintln!("{compared} profiles, {decisions} decisions, {refused} refused by libseccomp");
    assert!(compared >= 20 && decisions > 100_000, "too few to prove anything: {compared} profiles");
}

#[test]
fn random_profiles_with_one_action_per_call_decide_as_under_libseccomp() {
    random_profiles(true);
}

#[test]
fn random_profiles_with_overlapping_actions_decide_as_under_libseccomp() {
    random_profiles(false);
}
