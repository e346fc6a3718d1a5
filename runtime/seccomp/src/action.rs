//! The action profile: what the command of a hermetic action may ask of the kernel.
//!
//! An allow-list. A call that is not on it does not exist (ENOSYS), so that programs fall back as on an older kernel;
//! calls that exist everywhere and are denied on purpose fail with EPERM, so that nobody mistakes the sandbox for a
//! broken kernel. The action holds no capabilities, so what the kernel denies without them is denied here as well:
//! inside a new user namespace a process would have them again.

use crate::{Action, Architecture, Argument, Operator, Profile, Syscall, errno};

/// The profile of hermetic actions, for every architecture that filters are compiled for. x32 is not among them.
pub fn action_profile() -> Profile {
    let mut syscalls: Vec<Syscall> = DENIED.iter().map(|names| deny(names, errno::EPERM)).collect();
    syscalls.extend(ALLOWED.iter().map(|names| rule(names, Action::Allow, None, vec![])));
    syscalls.extend(clone());
    syscalls.extend(ioctl());
    syscalls.extend(mknod());
    syscalls.extend(personality());
    syscalls.extend(socket());
    Profile {
        default_action: Action::Errno,
        default_errno_ret: Some(errno::ENOSYS),
        architectures: vec![
            Architecture::X86_64,
            Architecture::X86,
            Architecture::Aarch64,
            Architecture::Arm,
            Architecture::Riscv64,
        ],
        // The command is not trusted: no SPEC_ALLOW, the kernel's own default of mitigations stays.
        flags: Some(vec![]),
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

/// Processes and threads, but no new namespaces: with a user namespace come all capabilities, and with them the
/// kernel code that only root was meant to reach. clone3(2) has its flags in memory, where a filter cannot look; it
/// stays unknown, and C libraries then use clone(2).
fn clone() -> Vec<Syscall> {
    const NEWTIME: u64 = 0x0000_0080;
    const NEWNS: u64 = 0x0002_0000;
    const NEWCGROUP: u64 = 0x0200_0000;
    const NEWUTS: u64 = 0x0400_0000;
    const NEWIPC: u64 = 0x0800_0000;
    const NEWUSER: u64 = 0x1000_0000;
    const NEWPID: u64 = 0x2000_0000;
    const NEWNET: u64 = 0x4000_0000;
    // CLONE_NEWTIME is for clone3 and unshare; in clone(2) its bit is part of the exit signal, up to 127.
    let namespaces = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET;
    debug_assert!(namespaces & NEWTIME == 0);
    vec![allow_if(&["clone"], vec![masked(0, namespaces, 0)]), otherwise(&["clone"], 0, errno::EPERM)]
}

/// All but what types into a terminal (TIOCSTI, TIOCLINUX) or loads a line discipline (TIOCSETD). The kernel reads 32
/// bits of the request; comparing 64 would let a request with any higher bit through.
fn ioctl() -> Vec<Syscall> {
    const TIOCSTI: u64 = 0x5412;
    const TIOCLINUX: u64 = 0x541c;
    const TIOCSETD: u64 = 0x5423;
    let mut rules: Vec<_> = [TIOCSTI, TIOCLINUX, TIOCSETD]
        .map(|request| rule(&["ioctl"], Action::Errno, Some(errno::EPERM), vec![masked(1, LOW, request)]))
        .into();
    rules.push(allow_if(&["ioctl"], vec![at_least(1, 0)]));
    rules
}

/// Regular files, fifos and sockets, but no devices: what the upper holds is captured and mounted elsewhere.
fn mknod() -> Vec<Syscall> {
    const S_IFMT: u64 = 0o170_000;
    const KINDS: [u64; 4] = [0, 0o100_000, 0o010_000, 0o140_000];
    let mut rules = Vec::new();
    for (name, mode) in [("mknod", 1), ("mknodat", 2)] {
        rules.extend(KINDS.map(|kind| allow_if(&[name], vec![masked(mode, S_IFMT, kind)])));
        rules.push(otherwise(&[name], mode, errno::EPERM));
    }
    rules
}

/// Linux and Linux32, with and without UNAME26, and the question which is set. Not those that turn off address
/// space randomisation or make the lowest page mappable.
fn personality() -> Vec<Syscall> {
    const PER_LINUX: u64 = 0;
    const PER_LINUX32: u64 = 0x0008;
    const UNAME26: u64 = 0x0002_0000;
    const QUERY: u64 = 0xffff_ffff;
    let mut rules: Vec<_> = [PER_LINUX, PER_LINUX32, UNAME26, UNAME26 | PER_LINUX32, QUERY]
        .map(|persona| allow_if(&["personality"], vec![equal(0, persona)]))
        .into();
    rules.push(otherwise(&["personality"], 0, errno::EPERM));
    rules
}

/// Local and internet sockets, and netlink for routes, which C libraries ask for interfaces. Others reach what no
/// network namespace confines (AF_VSOCK: the hypervisor) or rarely used kernel code (AF_ALG, AF_PACKET, audit).
/// i386 can also create sockets through socketcall(2), whose arguments are in memory: denied with the other calls.
fn socket() -> Vec<Syscall> {
    const AF_UNIX: u64 = 1;
    const AF_INET: u64 = 2;
    const AF_INET6: u64 = 10;
    const AF_NETLINK: u64 = 16;
    const NETLINK_ROUTE: u64 = 0;
    let mut rules: Vec<_> =
        [AF_UNIX, AF_INET, AF_INET6].map(|family| allow_if(&["socket"], vec![equal(0, family)])).into();
    rules.push(allow_if(&["socket"], vec![equal(0, AF_NETLINK), equal(2, NETLINK_ROUTE)]));
    rules.push(otherwise(&["socket"], 0, errno::EAFNOSUPPORT));
    rules
}

/// Calls that exist on every kernel and that no action gets.
#[rustfmt::skip]
const DENIED: &[&[&str]] = &[
    // The mount table: the root is composed before the command starts; a mount would hide what capture and rules see.
    &["mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount",
      "open_tree", "open_tree_attr", "mount_setattr"],
    // Namespaces, for the reason given at `clone`.
    &["unshare", "setns"],
    // Files by handle: past every directory, rule and mount.
    &["open_by_handle_at"],
    // Programs in the kernel, and sampling of it.
    &["bpf", "perf_event_open", "lookup_dcookie"],
    // Page faults handled by the process: they hold the kernel still in the middle of a copy, which makes its races easy
    // to win. vmsplice gives pages to a pipe that the process can still change.
    &["userfaultfd", "vmsplice"],
    // Requests made by the kernel on the process's behalf: no filter sees them.
    &["io_uring_setup", "io_uring_enter", "io_uring_register"],
    // Key rings are not per namespace: keys of the user would be in reach.
    &["add_key", "request_key", "keyctl"],
    // The kernel itself: another kernel, modules, reboot, its log, swap, accounting, quotas, file system events.
    &["kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "create_module",
      "query_module", "get_kernel_syms", "reboot", "syslog", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
      "fanotify_init", "fanotify_mark", "nfsservctl", "bdflush", "sysfs", "_sysctl", "ustat", "uselib"],
    // Names and clock of the machine.
    &["sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_settime64", "stime"],
    // Hardware, and modes of the processor that only old emulators use.
    &["iopl", "ioperm", "modify_ldt", "vm86", "vm86old", "vhangup", "pciconfig_read", "pciconfig_write",
      "pciconfig_iobase"],
    // Other processes' memory placement, and comparison of kernel pointers.
    &["migrate_pages", "move_pages", "process_madvise", "kcmp"],
    // Sockets by pointer, for the reason given at `socket`.
    &["socketcall"],
];

/// What remains: a build, its tests and its debugger need no more.
#[rustfmt::skip]
const ALLOWED: &[&[&str]] = &[
    // Open files.
    &["open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "flock",
      "memfd_create"],
    // Their contents.
    &["read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "preadv2", "pwritev", "pwritev2", "lseek",
      "_llseek", "sendfile", "sendfile64", "copy_file_range", "splice", "tee", "truncate", "truncate64", "ftruncate",
      "ftruncate64", "fallocate", "fadvise64", "fadvise64_64", "arm_fadvise64_64", "readahead", "fsync", "fdatasync",
      "sync", "syncfs", "sync_file_range", "arm_sync_file_range"],
    // Their names and attributes.
    &["stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "newfstatat", "fstatat64", "statx", "statfs",
      "statfs64", "fstatfs", "fstatfs64", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "mkdir",
      "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
      "symlinkat", "chmod", "fchmod", "fchmodat", "chown", "chown32", "fchown", "fchown32", "lchown", "lchown32",
      "fchownat", "utime", "utimes", "futimesat", "utimensat", "utimensat_time64", "umask", "readdir", "getdents",
      "getdents64", "getcwd", "chdir", "fchdir", "name_to_handle_at", "getxattr", "lgetxattr", "fgetxattr", "setxattr",
      "lsetxattr", "fsetxattr", "listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr",
      "fremovexattr", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch"],
    // Memory.
    &["brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "msync", "mincore", "mlock", "mlock2",
      "mlockall", "munlock", "munlockall", "remap_file_pages", "pkey_alloc", "pkey_free", "pkey_mprotect", "membarrier",
      "mbind", "get_mempolicy", "set_mempolicy", "cacheflush", "riscv_flush_icache", "riscv_hwprobe"],
    // Processes and threads; clone has rules of its own.
    &["fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitpid", "waitid", "getpid", "getppid",
      "gettid", "getpgrp", "getpgid", "setpgid", "getsid", "setsid", "set_tid_address", "set_thread_area",
      "get_thread_area", "set_tls", "arch_prctl", "prctl", "rseq", "set_robust_list", "get_robust_list", "futex",
      "futex_time64", "pidfd_open", "pidfd_send_signal", "pidfd_getfd", "process_mrelease", "getcpu",
      "restart_syscall"],
    // Debuggers and sanitizers: the kernel allows them on the action's own processes only.
    &["ptrace", "process_vm_readv", "process_vm_writev", "breakpoint"],
    // Signals.
    &["kill", "tkill", "tgkill", "pause", "alarm", "signal", "sigaction", "sigpending", "sigprocmask", "sigreturn",
      "sigsuspend", "sigaltstack", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
      "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "signalfd",
      "signalfd4"],
    // Who the process is; the kernel lets it become only what its user namespace maps.
    &["getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32", "getresuid",
      "getresuid32", "getresgid", "getresgid32", "getgroups", "getgroups32", "setuid", "setuid32", "setgid",
      "setgid32", "setreuid", "setreuid32", "setregid", "setregid32", "setresuid", "setresuid32", "setresgid",
      "setresgid32", "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "setgroups", "setgroups32", "capget",
      "capset"],
    // Limits and scheduling.
    &["getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage", "times", "sysinfo", "uname", "getpriority",
      "setpriority", "ioprio_get", "ioprio_set", "sched_yield", "sched_getaffinity", "sched_setaffinity",
      "sched_getattr", "sched_setattr", "sched_getparam", "sched_setparam", "sched_getscheduler",
      "sched_setscheduler", "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval",
      "sched_rr_get_interval_time64"],
    // Time; adjtimex reads the clock's state.
    &["time", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64", "nanosleep",
      "clock_nanosleep", "clock_nanosleep_time64", "getitimer", "setitimer", "timer_create", "timer_delete",
      "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
      "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "adjtimex", "clock_adjtime",
      "clock_adjtime64"],
    // Waiting and pipes.
    &["select", "_newselect", "pselect6", "pselect6_time64", "poll", "ppoll", "ppoll_time64", "epoll_create",
      "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
      "eventfd", "eventfd2", "pipe", "pipe2", "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents"],
    // Sockets once they exist; `socket` has rules of its own, and socketpair makes local ones.
    &["socketpair", "bind", "connect", "listen", "accept", "accept4", "shutdown", "getsockname", "getpeername",
      "getsockopt", "setsockopt", "send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg",
      "recvmmsg_time64"],
    // System V and POSIX queues, semaphores and shared memory: of the action's own IPC namespace.
    &["ipc", "semget", "semop", "semctl", "semtimedop", "semtimedop_time64", "msgget", "msgsnd", "msgrcv", "msgctl",
      "shmget", "shmat", "shmdt", "shmctl", "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr", "mq_timedsend",
      "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64"],
    // Random numbers, and sandboxes of the command's own, which can only take away.
    &["getrandom", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"],
];

/// The 32 bits that the kernel reads of an int argument.
const LOW: u64 = 0xffff_ffff;

fn rule(names: &[&str], action: Action, errno_ret: Option<u32>, args: Vec<Argument>) -> Syscall {
    Syscall { names: names.iter().map(|name| name.to_string()).collect(), action, errno_ret, args }
}

fn deny(names: &[&str], errno: u32) -> Syscall {
    rule(names, Action::Errno, Some(errno), vec![])
}

fn allow_if(names: &[&str], args: Vec<Argument>) -> Syscall {
    rule(names, Action::Allow, None, args)
}

/// A rule for whatever no equality on the same argument decides: "at least 0" always holds and comes after them.
fn otherwise(names: &[&str], index: u32, errno: u32) -> Syscall {
    rule(names, Action::Errno, Some(errno), vec![at_least(index, 0)])
}

fn equal(index: u32, value: u64) -> Argument {
    Argument { index, value, value_two: 0, op: Operator::Equal }
}

fn at_least(index: u32, value: u64) -> Argument {
    Argument { index, value, value_two: 0, op: Operator::GreaterOrEqual }
}

fn masked(index: u32, mask: u64, value: u64) -> Argument {
    Argument { index, value: mask, value_two: value, op: Operator::MaskedEqual }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arch, SeccompData, compile, ret, simulate, syscall_number};

    fn decision(arch: Arch, name: &str, args: [u64; 6]) -> u32 {
        let native = if matches!(arch, Arch::X86 | Arch::X32) { Arch::X86_64 } else { arch };
        let filter = compile(&action_profile(), native).expect("the action profile compiles");
        let nr = syscall_number(arch, name).expect("the call exists on this architecture");
        simulate(&filter.program, &SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args })
    }

    fn denied(errno: u32) -> u32 {
        ret::ERRNO | errno
    }

    #[test]
    fn every_name_is_a_system_call_and_is_listed_once() {
        let mut seen = std::collections::HashSet::new();
        for name in DENIED.iter().chain(ALLOWED).flat_map(|names| names.iter()) {
            assert!(seen.insert(name), "{name} is listed twice");
            assert!(
                Arch::ALL.iter().any(|arch| syscall_number(*arch, name).is_some()),
                "{name} is no system call"
            );
        }
    }

    #[test]
    fn clone_makes_threads_and_no_namespaces() {
        const THREAD: u64 = 0x003d_0f00;
        const NEWUSER: u64 = 0x1000_0000;
        assert_eq!(decision(Arch::X86_64, "clone", [THREAD, 0, 0, 0, 0, 0]), ret::ALLOW);
        assert_eq!(decision(Arch::X86_64, "clone", [NEWUSER | 17, 0, 0, 0, 0, 0]), denied(1));
        assert_eq!(decision(Arch::X86, "clone", [NEWUSER | 17, 0, 0, 0, 0, 0]), denied(1));
        assert_eq!(decision(Arch::X86_64, "clone3", [0; 6]), denied(38));
    }

    #[test]
    fn terminal_input_is_denied_whatever_the_upper_half_of_the_request() {
        for request in [0x5412, 0x541c, 0x5423, 0x1_0000_5412, 0xffff_ffff_0000_541c] {
            assert_eq!(decision(Arch::X86_64, "ioctl", [0, request, 0, 0, 0, 0]), denied(1), "{request:#x}");
            assert_eq!(decision(Arch::Aarch64, "ioctl", [0, request, 0, 0, 0, 0]), denied(1), "{request:#x}");
        }
        assert_eq!(decision(Arch::X86_64, "ioctl", [0, 0x5401, 0, 0, 0, 0]), ret::ALLOW);
    }

    #[test]
    fn sockets_are_local_internet_or_routes() {
        let socket = |family, protocol| decision(Arch::X86_64, "socket", [family, 1, protocol, 0, 0, 0]);
        assert_eq!([socket(1, 0), socket(2, 6), socket(10, 17), socket(16, 0)], [ret::ALLOW; 4]);
        // AF_VSOCK, AF_ALG, AF_PACKET, audit, and AF_UNIX with a bit that the kernel does not read.
        let others = [socket(40, 0), socket(38, 0), socket(17, 0), socket(16, 9), socket(1 << 32 | 1, 0)];
        assert_eq!(others, [denied(97); 5]);
        assert_eq!(decision(Arch::X86, "socketcall", [1, 0, 0, 0, 0, 0]), denied(1));
    }

    #[test]
    fn nodes_are_files_fifos_and_sockets() {
        let mknod = |mode| decision(Arch::X86_64, "mknodat", [0, 0, mode, 0, 0, 0]);
        assert_eq!([mknod(0o644), mknod(0o100_644), mknod(0o010_600), mknod(0o140_755)], [ret::ALLOW; 4]);
        assert_eq!([mknod(0o020_600), mknod(0o060_600)], [denied(1); 2]);
    }

    #[test]
    fn personality_keeps_address_randomisation() {
        let personality = |persona| decision(Arch::X86_64, "personality", [persona, 0, 0, 0, 0, 0]);
        assert_eq!([personality(0), personality(8), personality(0xffff_ffff)], [ret::ALLOW; 3]);
        assert_eq!(personality(0x0004_0000), denied(1));
    }

    #[test]
    fn what_a_build_needs_is_allowed_on_every_architecture() {
        for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm, Arch::Riscv64] {
            for name in [
                "execve",
                "openat",
                "read",
                "write",
                "exit_group",
                "futex",
                "rt_sigreturn",
                "wait4",
                "ptrace",
            ] {
                assert_eq!(decision(arch, name, [0; 6]), ret::ALLOW, "{name} on {arch:?}");
            }
            for name in
                ["mount", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "pivot_root", "fsopen"]
            {
                assert_eq!(decision(arch, name, [0; 6]), denied(1), "{name} on {arch:?}");
            }
        }
    }

    #[test]
    fn x32_kills() {
        assert_eq!(decision(Arch::X32, "read", [0; 6]), ret::KILL_THREAD);
    }
}
