//! Scheduling: when a process runs, with which priority its requests reach a disk, and from which nodes its memory comes.

use std::io;

/// How a thread is scheduled, in the numbers of sched_setattr(2). Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    clamp_min: u32,
    clamp_max: u32,
}

/// Has the calling thread scheduled so. Errors: EPERM without CAP_SYS_NICE and beyond RLIMIT_NICE and RLIMIT_RTPRIO, EINVAL.
pub fn set_scheduler(wanted: Scheduler) -> io::Result<()> {
    let Scheduler { policy, flags, nice, priority, runtime, deadline, period } = wanted;
    let size = size_of::<SchedAttr>() as u32;
    let attributes = SchedAttr {
        size,
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
        clamp_min: 0,
        clamp_max: 0,
    };
    // SAFETY: the structure has the size that it says and outlives the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets class (1 real time, 2 best effort, 3 idle) and priority (0 to 7) of I/O for the process group of the caller.
pub fn set_io_priority(class: u16, priority: u16) -> io::Result<()> {
    const IOPRIO_WHO_PGRP: libc::c_int = 2;
    const CLASS_SHIFT: u16 = 13;
    let value = libc::c_int::from(class << CLASS_SHIFT | priority);
    // SAFETY: ioprio_set takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the memory policy of this thread, and of what it executes: mode with its flags, and nodes by number. See
/// set_mempolicy(2).
pub fn set_memory_policy(mode: u32, nodes: &[u32]) -> io::Result<()> {
    let words = words(nodes);
    // The kernel takes one bit less than it is told.
    let bits = words.len() * u64::BITS as usize + 1;
    // SAFETY: the kernel reads no more words than there are.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, words.as_ptr(), bits) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn words(bits: &[u32]) -> Vec<u64> {
    let highest = bits.iter().max().map_or(0, |highest| (highest / u64::BITS) as usize + 1);
    let mut words = vec![0; highest];
    for bit in bits {
        words[(bit / u64::BITS) as usize] |= 1 << (bit % u64::BITS);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_bits_of_words() {
        assert_eq!(words(&[]), [0; 0]);
        assert_eq!(words(&[0, 3]), [0b1001]);
        assert_eq!(words(&[1, 64, 130]), [0b10, 1, 0b100]);
    }
}
