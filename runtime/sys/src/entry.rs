//! The entry of the program: what runs before the C library, so that a program that will execute itself again does it before
//! anything is paid for twice.
//!
//! Starting costs a static program a third of a millisecond where a hypervisor answers for the processor (glibc asks it a
//! hundred questions), and the first process of a container that is made by root must be executed from a file that nobody can
//! write (see `seal.rs` of the program). Whatever does not work here is left to that, which has words for errors.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use core::arch::{asm, naked_asm};
use core::ffi::c_char;
use core::mem::MaybeUninit;

use rustix::fs::StatFs;

/// Commands that start processes in a root of others'. What else is called so is executed twice, no more.
const SEALED: [&[u8]; 3] = [b"create", b"run", b"exec"];

const OPEN_TREE_CLONE: usize = 1;
const CLOEXEC: usize = libc::O_CLOEXEC as usize;
const EMPTY_PATH: usize = libc::AT_EMPTY_PATH as usize;

/// Where the linker has the program begin, instead of at the C library's `_start`, which comes next.
///
/// # Safety
///
/// The kernel alone calls it: the stack begins with the count of arguments, the arguments and the environment.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfsrun_entry() -> ! {
    // Twice, since a called function wants the stack aligned. `_start` gets rdx and the stack as the kernel left them.
    naked_asm!(
        "xor ebp, ebp",
        "mov rdi, rsp",
        "push rdx",
        "push rdx",
        "call {seal}",
        "pop rdx",
        "pop rdx",
        "jmp _start",
        seal = sym seal,
    )
}

/// Has the linker keep the entry, which nothing calls.
#[used]
static KEPT: unsafe extern "C" fn() -> ! = vfsrun_entry;

/// Executes the program again from a read-only mount of its file, if it is to be sealed and is not, and may do that.
///
/// Before the C library neither its functions (`memcpy` and `memset` among them, which the compiler may call for what is long) nor
/// thread-local variables can be used.
unsafe extern "C" fn seal(stack: *const usize) {
    // SAFETY: the kernel's layout: the count, so many pointers, a null, and the environment, which a null ends.
    let (count, arguments) = unsafe { (*stack, stack.add(1).cast::<*const c_char>()) };
    // SAFETY: as above.
    let environment = unsafe { arguments.add(count + 1) };
    // SAFETY: so many pointers are there, to texts that a null byte ends.
    if !(1..count).any(|index| unsafe { is_sealed_command(*arguments.add(index)) }) {
        return;
    }
    let file =
        call(libc::SYS_open, [c"/proc/self/exe".as_ptr() as usize, libc::O_PATH as usize | CLOEXEC, 0, 0, 0]);
    if file < 0 {
        return;
    }
    let file = file as usize;
    if is_writable(file) {
        let tree = call(
            libc::SYS_open_tree,
            [file, c"".as_ptr() as usize, OPEN_TREE_CLONE | CLOEXEC | EMPTY_PATH, 0, 0],
        );
        if tree >= 0 {
            execute(tree as usize, arguments, environment);
            call(libc::SYS_close, [tree as usize, 0, 0, 0, 0]);
        }
    }
    call(libc::SYS_close, [file, 0, 0, 0, 0]);
}

/// Returns only if that fails.
fn execute(tree: usize, arguments: *const *const c_char, environment: *const *const c_char) {
    let read_only =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let empty = c"".as_ptr() as usize;
    let size = size_of::<libc::mount_attr>();
    if call(libc::SYS_mount_setattr, [tree, empty, EMPTY_PATH, &raw const read_only as usize, size]) == 0 {
        call(libc::SYS_execveat, [tree, empty, arguments as usize, environment as usize, EMPTY_PATH]);
    }
}

fn is_writable(file: usize) -> bool {
    // Not zeroed: that may be a call of the C library's.
    let mut of = MaybeUninit::<StatFs>::uninit();
    let known = call(libc::SYS_fstatfs, [file, of.as_mut_ptr() as usize, 0, 0, 0]) == 0;
    // SAFETY: the kernel has written all of it.
    known && unsafe { of.assume_init_ref() }.f_flags as u64 & libc::ST_RDONLY == 0
}

/// # Safety
///
/// A null byte ends the text.
unsafe fn is_sealed_command(text: *const c_char) -> bool {
    SEALED.iter().any(|command| {
        // SAFETY: nothing is read behind the first byte that differs, and the null at the end does.
        let same = |index: usize| unsafe { *text.add(index) } as u8 == command[index];
        // SAFETY: all of it was the same, so there is a byte more.
        (0..command.len()).all(same) && unsafe { *text.add(command.len()) } == 0
    })
}

/// A system call: what it returns, negative for an error.
fn call(number: libc::c_long, of: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: those above take descriptors, texts that end, and memory that outlives the call.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") of[0], in("rsi") of[1], in("rdx") of[2], in("r10") of[3], in("r8") of[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}
