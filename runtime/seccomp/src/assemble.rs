//! An assembler for classic BPF that works from the end of the program to its beginning.
//!
//! BPF jumps only forward, so that way every target is in place before the jump to it, and the distance is known.
//! A conditional jump reaches 255 instructions; for a farther target a trampoline is put right behind the jump: an
//! unconditional jump (32-bit distance), or a copy of the return where the target is one.

use std::collections::HashMap;

use crate::SockFilter;

/// Instruction codes, from linux/bpf_common.h.
pub(crate) mod op {
    pub const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    pub const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    pub const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
    pub const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    pub const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
    pub const IF_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    pub const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    pub const RETURN: u16 = 0x06; // BPF_RET | BPF_K
}

/// An instruction, by its place counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Block(Label),
    Return(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The program, last instruction first.
    reversed: Vec<SockFilter>,
    /// The place of each value's return instruction nearest to the beginning.
    returns: HashMap<u32, Label>,
}

/// A conditional jump's distance is 8 bits; two trampolines may still come between it and a target found near.
const REACH: usize = 250;

impl Assembler {
    /// Puts a load of the 32-bit word at `offset` of seccomp_data before what was assembled last.
    pub(crate) fn load(&mut self, offset: u32) -> Label {
        self.push(op::LOAD, 0, 0, offset)
    }

    /// Puts `accumulator &= mask` before what was assembled last.
    pub(crate) fn and(&mut self, mask: u32) -> Label {
        self.push(op::AND, 0, 0, mask)
    }

    /// A conditional jump of the accumulator and `k`.
    pub(crate) fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let (jt, jf) = (self.distance(yes), self.distance(no));
        let short = |distance: usize| u8::try_from(distance).expect("near() leaves targets within reach");
        self.push(code, short(jt), short(jf), k)
    }

    /// A place from which the target is reached, at most `REACH` away.
    fn near(&mut self, target: Target) -> Label {
        match target {
            Target::Block(label) if self.distance(label) <= REACH => label,
            Target::Block(label) => {
                let distance = self.distance(label);
                self.push(op::JUMP, 0, 0, distance as u32)
            }
            Target::Return(value) => match self.returns.get(&value) {
                Some(&label) if self.distance(label) <= REACH => label,
                _ => {
                    let label = self.push(op::RETURN, 0, 0, value);
                    self.returns.insert(value, label);
                    label
                }
            },
        }
    }

    /// Makes `target` the beginning of the program and gives the program in its order.
    pub(crate) fn finish(mut self, target: Target) -> Vec<SockFilter> {
        let first = match target {
            Target::Return(value) => self.push(op::RETURN, 0, 0, value),
            Target::Block(label) => label,
        };
        if first.0 + 1 != self.reversed.len() {
            let distance = self.distance(first);
            self.push(op::JUMP, 0, 0, distance as u32);
        }
        self.reversed.reverse();
        without_unreached(&self.reversed)
    }

    /// How many instructions would lie between the next one and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label.0
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(SockFilter { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }
}

/// Leaves out what no path reaches: ways into a block that nobody took. Distances only shrink by that.
fn without_unreached(program: &[SockFilter]) -> Vec<SockFilter> {
    let mut reached = vec![false; program.len()];
    reached[0] = true;
    for (at, instruction) in program.iter().enumerate() {
        if reached[at] {
            targets(at, instruction).into_iter().flatten().for_each(|target| reached[target] = true);
        }
    }
    // Where each instruction comes to lie.
    let places: Vec<usize> = reached
        .iter()
        .scan(0, |next, reached| {
            let place = *next;
            *next += usize::from(*reached);
            Some(place)
        })
        .collect();
    let moved = |at: usize, distance: usize| places[at + 1 + distance] - places[at] - 1;
    let kept = program.iter().enumerate().filter(|(at, _)| reached[*at]);
    kept.map(|(at, &SockFilter { code, jt, jf, k })| match code {
        op::JUMP => SockFilter { code, jt, jf, k: moved(at, k as usize) as u32 },
        _ if is_branch(code) => {
            let (jt, jf) = (moved(at, jt.into()) as u8, moved(at, jf.into()) as u8);
            SockFilter { code, jt, jf, k }
        }
        _ => SockFilter { code, jt, jf, k },
    })
    .collect()
}

/// Where control goes after the instruction at `at`.
fn targets(at: usize, instruction: &SockFilter) -> [Option<usize>; 2] {
    let after = |distance: usize| Some(at + 1 + distance);
    match instruction.code {
        op::RETURN => [None, None],
        op::JUMP => [after(instruction.k as usize), None],
        code if is_branch(code) => [after(instruction.jt.into()), after(instruction.jf.into())],
        _ => [after(0), None],
    }
}

fn is_branch(code: u16) -> bool {
    matches!(code, op::IF_EQUAL | op::IF_GREATER | op::IF_GREATER_OR_EQUAL | op::IF_ANY_BIT)
}
