//! A device program: what the kernel asks whether a process of a cgroup (version 2) may use a device.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of other cgroups, above and below, count as well.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD; what is left out is zero.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// That for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads eBPF instructions (`struct bpf_insn`, eight bytes each) that decide about devices: 1 in register 0 allows.
///
/// Errors: EPERM without CAP_BPF or CAP_SYS_ADMIN in the first user namespace, EINVAL or EACCES for a program that the kernel cannot
/// prove to end, ENOSYS without BPF.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let attr = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        length: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        // It calls no function of the kernel that would ask for another.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: attr outlives the call and has the size passed; it points to `length` instructions and a C string, which the
    // kernel copies.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Load>()) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call returned a new descriptor that nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// From here on the program is asked, too, about what processes of the cgroup, and of those below it, do. It goes with the cgroup.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: attr outlives the call and has the size passed; it holds numbers alone.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attr, size_of::<Attach>()) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
