//! A simulation: what the kernel would make of a filter program for one system call.

use crate::{MAX_INSTRUCTIONS, SockFilter, ret};

/// `struct seccomp_data`: what a filter sees of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeccompData {
    pub nr: u32,
    /// AUDIT_ARCH_*, see `Arch::audit`.
    pub arch: u32,
    pub instruction_pointer: u64,
    pub args: [u64; 6],
}

/// The end of a simulated run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The program's return value, see `ret`.
    pub value: u32,
    /// Instructions executed, the return included.
    pub instructions: usize,
}

/// Why the kernel would not load a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProgram {
    #[error("{length} instructions, must be 1 to {MAX_INSTRUCTIONS}")]
    Length { length: usize },
    #[error("instruction {at}: code {code:#x} is not one that seccomp knows")]
    Code { at: usize, code: u16 },
    #[error("instruction {at}: jumps beyond the end")]
    Jump { at: usize },
    #[error("instruction {at}: operand {k:#x} is out of range")]
    Operand { at: usize, k: u32 },
    #[error("instruction {at}: the last one does not return")]
    End { at: usize },
}

/// The value that `program` returns for `data`; KILL_PROCESS where it does what makes the kernel refuse a program.
pub fn simulate(program: &[SockFilter], data: &SeccompData) -> u32 {
    run(program, data).map_or(ret::KILL_PROCESS, |run| run.value)
}

/// Runs `program` as the kernel does. Errors: the first instruction met that makes the kernel refuse the program.
pub fn run(program: &[SockFilter], data: &SeccompData) -> Result<Run, BadProgram> {
    let mut machine = Machine { data: words(data), a: 0, x: 0, memory: [0; 16] };
    let (mut at, mut instructions) = (0, 0);
    // Jumps go forward only, so this ends.
    loop {
        check_instruction(program, at)?;
        instructions += 1;
        match machine.step(&program[at]) {
            Step::Next(skip) => at += 1 + skip,
            Step::Return(value) => return Ok(Run { value, instructions }),
        }
    }
}

/// Checks what the kernel checks before it loads a filter (bpf_check_classic and seccomp_check_filter), except that
/// scratch memory is written before it is read: here it begins as zero.
pub(crate) fn check(program: &[SockFilter]) -> Result<(), BadProgram> {
    if !(1..=MAX_INSTRUCTIONS).contains(&program.len()) {
        return Err(BadProgram::Length { length: program.len() });
    }
    (0..program.len()).try_for_each(|at| check_instruction(program, at))
}

/// One instruction of that check. A last instruction that does not return, or no instruction at all, is an `End`.
fn check_instruction(program: &[SockFilter], at: usize) -> Result<(), BadProgram> {
    let Some(&SockFilter { code, jt, jf, k }) = program.get(at) else { return Err(BadProgram::End { at }) };
    let beyond = |distance: usize| at + 1 + distance >= program.len();
    match code {
        RET_K | RET_A => Ok(()),
        LD_ABS if k % 4 != 0 || k >= 64 => Err(BadProgram::Operand { at, k }),
        LD_MEM | LDX_MEM | ST | STX if k >= 16 => Err(BadProgram::Operand { at, k }),
        ALU_DIV_K if k == 0 => Err(BadProgram::Operand { at, k }),
        ALU_LSH_K | ALU_RSH_K if k >= 32 => Err(BadProgram::Operand { at, k }),
        JA if beyond(k as usize) => Err(BadProgram::Jump { at }),
        JEQ_K | JEQ_X | JGT_K | JGT_X | JGE_K | JGE_X | JSET_K | JSET_X if beyond(jt.max(jf).into()) => {
            Err(BadProgram::Jump { at })
        }
        _ if !KNOWN.contains(&code) => Err(BadProgram::Code { at, code }),
        _ if beyond(0) => Err(BadProgram::End { at }),
        _ => Ok(()),
    }
}

/// seccomp_data as 32-bit words in the order of a little endian machine.
fn words(data: &SeccompData) -> [u32; 16] {
    let mut words = [0; 16];
    words[0] = data.nr;
    words[1] = data.arch;
    let wide = std::iter::once(data.instruction_pointer).chain(data.args);
    for (pair, value) in words[2..].chunks_exact_mut(2).zip(wide) {
        pair.copy_from_slice(&[value as u32, (value >> 32) as u32]);
    }
    words
}

struct Machine {
    data: [u32; 16],
    a: u32,
    x: u32,
    memory: [u32; 16],
}

enum Step {
    /// Continue after skipping so many instructions.
    Next(usize),
    Return(u32),
}

impl Machine {
    fn step(&mut self, instruction: &SockFilter) -> Step {
        let SockFilter { code, jt, jf, k } = *instruction;
        let (a, x) = (self.a, self.x);
        let branch = |yes: bool| Step::Next(if yes { jt } else { jf }.into());
        match code {
            RET_K => return Step::Return(k),
            RET_A => return Step::Return(a),
            JA => return Step::Next(k as usize),
            JEQ_K => return branch(a == k),
            JEQ_X => return branch(a == x),
            JGT_K => return branch(a > k),
            JGT_X => return branch(a > x),
            JGE_K => return branch(a >= k),
            JGE_X => return branch(a >= x),
            JSET_K => return branch(a & k != 0),
            JSET_X => return branch(a & x != 0),
            LD_ABS => self.a = self.data[k as usize / 4],
            LD_LEN => self.a = 64,
            LD_IMM => self.a = k,
            LD_MEM => self.a = self.memory[k as usize],
            LDX_LEN => self.x = 64,
            LDX_IMM => self.x = k,
            LDX_MEM => self.x = self.memory[k as usize],
            ST => self.memory[k as usize] = a,
            STX => self.memory[k as usize] = x,
            TAX => self.x = a,
            TXA => self.a = x,
            ALU_DIV_X if x == 0 => return Step::Return(0),
            _ => self.a = arithmetic(code, a, if code & 0x08 == 0 { k } else { x }),
        }
        Step::Next(0)
    }
}

fn arithmetic(code: u16, a: u32, operand: u32) -> u32 {
    match code & 0xf0 {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a / operand,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.wrapping_shl(operand),
        0x70 => a.wrapping_shr(operand),
        0x80 => a.wrapping_neg(),
        _ => a ^ operand,
    }
}

// The codes that seccomp_check_filter lets pass, from linux/bpf_common.h.
const LD_ABS: u16 = 0x20;
const LD_LEN: u16 = 0x80;
const LD_IMM: u16 = 0x00;
const LD_MEM: u16 = 0x60;
const LDX_LEN: u16 = 0x81;
const LDX_IMM: u16 = 0x01;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU_DIV_K: u16 = 0x34;
const ALU_DIV_X: u16 = 0x3c;
const ALU_LSH_K: u16 = 0x64;
const ALU_RSH_K: u16 = 0x74;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JEQ_X: u16 = 0x1d;
const JGT_K: u16 = 0x25;
const JGT_X: u16 = 0x2d;
const JGE_K: u16 = 0x35;
const JGE_X: u16 = 0x3d;
const JSET_K: u16 = 0x45;
const JSET_X: u16 = 0x4d;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;
const TAX: u16 = 0x07;
const TXA: u16 = 0x87;

#[rustfmt::skip]
const KNOWN: [u16; 41] = [
    LD_ABS, LD_LEN, LD_IMM, LD_MEM, LDX_LEN, LDX_IMM, LDX_MEM, ST, STX, TAX, TXA, RET_K, RET_A,
    0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, ALU_DIV_K, ALU_DIV_X, 0x44, 0x4c, 0x54, 0x5c,
    ALU_LSH_K, 0x6c, ALU_RSH_K, 0x7c, 0x84, 0xa4, 0xac,
    JA, JEQ_K, JEQ_X, JGT_K, JGT_X, JGE_K, JGE_X, JSET_K, JSET_X,
];
