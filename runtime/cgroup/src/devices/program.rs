//! The rules as an eBPF program for cgroup version 2. It begins with the last rule, and keeps in a register what of the access no
//! rule has decided yet.

use super::{ALL, Kind, Rule};

// struct bpf_cgroup_dev_ctx: access in the upper and type in the lower half of the first word, then major and minor.
const TYPE_AND_ACCESS: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

// Registers.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const DEVICE_TYPE: u8 = 2;
const UNDECIDED: u8 = 3;
const DEVICE_MAJOR: u8 = 4;
const DEVICE_MINOR: u8 = 5;

// Operations: BPF_LDX | BPF_MEM | BPF_W and so on; K is a number in the instruction, X another register.
const LOAD_WORD: u8 = 0x61;
const MOVE_K: u8 = 0xb7;
const MOVE_X: u8 = 0xbf;
const AND_K: u8 = 0x57;
const SHIFT_RIGHT_K: u8 = 0x77;
const JUMP_IF_NOT_K: u8 = 0x55;
const JUMP_IF_BITS_K: u8 = 0x45;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;

/// Instructions for [`vfsrun_sys::bpf::load_device_program`].
pub fn compile(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(LOAD_WORD, DEVICE_TYPE, CONTEXT, TYPE_AND_ACCESS, 0),
        instruction(MOVE_X, UNDECIDED, DEVICE_TYPE, 0, 0),
        instruction(AND_K, DEVICE_TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_K, UNDECIDED, 0, 0, 16),
        instruction(LOAD_WORD, DEVICE_MAJOR, CONTEXT, MAJOR, 0),
        instruction(LOAD_WORD, DEVICE_MINOR, CONTEXT, MINOR, 0),
    ];
    for rule in rules.iter().rev() {
        add(rule, &mut program);
        if rule.is_about_all() {
            // The kernel refuses what nothing leads to.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

fn add(rule: &Rule, program: &mut Vec<u64>) {
    let kind = rule.kind.map(|kind| match kind {
        Kind::Block => BLOCK,
        Kind::Character => CHARACTER,
    });
    let number = |number: Option<u32>| number.map(i32::try_from).transpose();
    // No device has such a number.
    let (Ok(major), Ok(minor)) = (number(rule.major), number(rule.minor)) else { return };
    let tests = [(DEVICE_TYPE, kind), (DEVICE_MAJOR, major), (DEVICE_MINOR, minor)];
    let tests: Vec<_> = tests.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
    let decision = decision(rule);
    for (index, (register, value)) in tests.iter().enumerate() {
        let to_next_rule = tests.len() - index - 1 + decision.len();
        program.push(instruction(JUMP_IF_NOT_K, *register, 0, to_next_rule as i16, *value));
    }
    program.extend(decision);
}

/// What is done about a device that the rule fits.
fn decision(rule: &Rule) -> Vec<u64> {
    let bits = i32::from(rule.access);
    let mut steps = match (rule.access, rule.allow) {
        (ALL, _) => Vec::new(),
        (_, true) => {
            vec![instruction(AND_K, UNDECIDED, 0, 0, !bits), instruction(JUMP_IF_NOT_K, UNDECIDED, 0, 2, 0)]
        }
        (_, false) => {
            vec![instruction(JUMP_IF_BITS_K, UNDECIDED, 0, 1, bits), instruction(JUMP, 0, 0, 2, 0)]
        }
    };
    steps.extend(answer(rule.allow));
    steps
}

fn answer(allow: bool) -> [u64; 2] {
    [instruction(MOVE_K, ANSWER, 0, 0, allow.into()), instruction(EXIT, 0, 0, 0, 0)]
}

/// `struct bpf_insn`; its two registers are bit fields of one byte.
fn instruction(operation: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
    let ([o0, o1], [n0, n1, n2, n3]) = (offset.to_ne_bytes(), number.to_ne_bytes());
    u64::from_ne_bytes([operation, registers, o0, o1, n0, n1, n2, n3])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{allows, every_use, some_rules};
    use super::*;

    /// The kernel's machine, as far as it is used.
    fn run(program: &[u64], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let device_type = match kind {
            Kind::Block => BLOCK,
            Kind::Character => CHARACTER,
        };
        let context = [u64::from(access) << 16 | device_type as u64, major.into(), minor.into()];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let [operation, pair, o0, o1, n0, n1, n2, n3] = program[at].to_ne_bytes();
            let (to, from) = match cfg!(target_endian = "little") {
                true => (usize::from(pair & 15), usize::from(pair >> 4)),
                false => (usize::from(pair >> 4), usize::from(pair & 15)),
            };
            let offset = i16::from_ne_bytes([o0, o1]);
            // Sign-extended, as the kernel does.
            let number = i64::from(i32::from_ne_bytes([n0, n1, n2, n3])) as u64;
            at += 1;
            let jumps = match operation {
                LOAD_WORD => {
                    registers[to] = context[offset as usize / 4];
                    false
                }
                MOVE_K => {
                    registers[to] = number;
                    false
                }
                MOVE_X => {
                    registers[to] = registers[from];
                    false
                }
                AND_K => {
                    registers[to] &= number;
                    false
                }
                SHIFT_RIGHT_K => {
                    registers[to] >>= number;
                    false
                }
                JUMP_IF_NOT_K => registers[to] != number,
                JUMP_IF_BITS_K => registers[to] & number != 0,
                JUMP => true,
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            };
            if jumps {
                at = at.checked_add_signed(offset.into()).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_do(rules in some_rules()) {
            let program = compile(&rules);
            for (kind, major, minor, access) in every_use() {
                prop_assert_eq!(
                    run(&program, kind, major, minor, access),
                    allows(&rules, kind, major, minor, access),
                    "{:?} {}:{} {}", kind, major, minor, access
                );
            }
        }
    }

    #[test]
    fn numbers_that_no_device_has_fit_nothing() {
        let rule = Rule { allow: true, kind: None, major: Some(u32::MAX), minor: None, access: ALL };
        assert!(!run(&compile(&[rule]), Kind::Block, u32::MAX, 0, ALL));
    }
}
