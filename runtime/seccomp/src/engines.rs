//! The profiles that engines write into config.json when nobody says otherwise, so that their filters can be compiled
//! when the program is built.
//!
//! Engines keep rules with conditions and resolve them for each container: some rules are for a capability that it has
//! or has not, some for an architecture. Here are those rules in their order, for podman 4.3, docker 20.10 and containerd
//! 1.6, and the sets of capabilities that containers mostly have. A container with other ones, or another version's
//! profile, is no worse off than any profile that is seen for the first time: nothing here decides what a profile means.

use crate::{Action, Arch, Architecture, Argument, Operator, Profile, Syscall, errno};

/// Capabilities of a container, as far as a rule asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    These(&'static [&'static str]),
    All,
}

/// What the engines give when nobody says otherwise. Podman's list is in containers.conf; without one it is the older.
const USUAL: Held = Held::These(&["CAP_SYS_CHROOT"]);
const USUAL_OF_OLD: Held = Held::These(&["CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"]);
const NONE: Held = Held::These(&[]);

/// Every profile that is compiled beforehand for a kernel of `native`.
pub fn profiles(native: Arch) -> Vec<Profile> {
    let (podman, docker, containerd) = (podman(), docker(), containerd());
    let mut profiles = Vec::new();
    if let Some(architectures) = architectures(native) {
        for held in [USUAL, USUAL_OF_OLD, NONE, Held::All] {
            profiles.push(resolve(&podman, Some(errno::ENOSYS), &architectures, native, held));
        }
        // Of the others nobody has seen what they write elsewhere.
        if native == Arch::X86_64 {
            for rules in [&docker, &containerd] {
                profiles.extend([USUAL, NONE].map(|held| resolve(rules, None, &architectures, native, held)));
            }
        }
    }
    profiles
}

/// The native architecture and those that its kernel serves beside it; None where no engine is known.
fn architectures(native: Arch) -> Option<Vec<Architecture>> {
    match native {
        Arch::X86_64 => Some(vec![Architecture::X86_64, Architecture::X86, Architecture::X32]),
        Arch::Aarch64 => Some(vec![Architecture::Aarch64, Architecture::Arm]),
        _ => None,
    }
}

fn resolve(
    rules: &[Rule],
    default_errno_ret: Option<u32>,
    architectures: &[Architecture],
    native: Arch,
    held: Held,
) -> Profile {
    let syscalls = rules.iter().filter(|rule| rule.condition.holds(native, held));
    Profile {
        default_action: Action::Errno,
        default_errno_ret,
        architectures: architectures.to_vec(),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls: syscalls.map(|rule| rule.syscall.clone()).collect(),
    }
}

/// A rule of an engine, and when it is written.
struct Rule {
    syscall: Syscall,
    condition: Condition,
}

#[derive(Clone, Copy)]
enum Condition {
    Always,
    On(Arch),
    With(&'static str),
    Without(&'static str),
}

impl Condition {
    fn holds(self, native: Arch, held: Held) -> bool {
        let has = |capability| match held {
            Held::These(these) => these.contains(&capability),
            Held::All => true,
        };
        match self {
            Condition::Always => true,
            Condition::On(arch) => arch == native,
            Condition::With(capability) => has(capability),
            Condition::Without(capability) => !has(capability),
        }
    }
}

fn podman() -> Vec<Rule> {
    let mut rules = vec![deny(PODMAN_DENIES, errno::EPERM), allow(PODMAN_ALLOWS)];
    rules.extend(personalities());
    rules.extend([
        allow(ARM).when(Condition::On(Arch::Aarch64)),
        allow("arch_prctl").when(Condition::On(Arch::X86_64)),
        allow("modify_ldt").when(Condition::On(Arch::X86_64)),
    ]);
    for (capability, names) in [
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        (
            "CAP_SYS_ADMIN",
            "bpf fanotify_init lookup_dcookie perf_event_open quotactl setdomainname sethostname setns",
        ),
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_MODULE", "delete_module finit_module init_module query_module"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_PTRACE", "kcmp process_madvise"),
        ("CAP_SYS_RAWIO", "ioperm iopl"),
        ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ] {
        rules.push(allow(names).when(Condition::With(capability)));
        rules.push(deny(names, errno::EPERM).when(Condition::Without(capability)));
    }
    // Netlink's audit protocol is for who may write audit records.
    const AF_NETLINK: u64 = 16;
    const NETLINK_AUDIT: u64 = 9;
    const AUDIT: &str = "CAP_AUDIT_WRITE";
    let compare = |index, op, value| Argument { index, value, value_two: 0, op };
    let is_netlink = compare(0, Operator::Equal, AF_NETLINK);
    let is_audit = compare(2, Operator::Equal, NETLINK_AUDIT);
    let other_family = compare(0, Operator::NotEqual, AF_NETLINK);
    let other_protocol = compare(2, Operator::NotEqual, NETLINK_AUDIT);
    rules.push(deny("socket", errno::EINVAL).if_all(&[is_netlink, is_audit]).when(Condition::Without(AUDIT)));
    for argument in [other_protocol, other_family, other_protocol] {
        rules.push(allow("socket").if_all(&[argument]).when(Condition::Without(AUDIT)));
    }
    rules.push(allow("socket").when(Condition::With(AUDIT)));
    rules
}

fn docker() -> Vec<Rule> {
    let mut rules = vec![allow(&[DOCKER_ALLOWS, DOCKER_ALLOWS_TOO].join(" ")), allow("ptrace")];
    rules.extend(personalities());
    rules.extend([allow("arch_prctl"), allow("modify_ldt")]);
    rules.extend(no_namespaces());
    rules.push(allow("chroot").when(Condition::With("CAP_SYS_CHROOT")));
    rules
}

fn containerd() -> Vec<Rule> {
    let protection_keys = "pkey_alloc pkey_free pkey_mprotect";
    let mut rules = vec![allow(&[DOCKER_ALLOWS, protection_keys, DOCKER_ALLOWS_TOO].join(" "))];
    rules.extend(personalities());
    rules.extend([allow("ptrace"), allow("arch_prctl modify_ldt")]);
    rules.push(allow("chroot").when(Condition::With("CAP_SYS_CHROOT")));
    rules.extend(no_namespaces());
    rules
}

/// Linux and Linux32, with and without UNAME26, and the question which is set.
fn personalities() -> [Rule; 5] {
    [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff].map(|value| {
        let is_this = Argument { index: 0, value, value_two: 0, op: Operator::Equal };
        allow("personality").if_all(&[is_this])
    })
}

/// clone(2) without flags of namespaces, for containers without CAP_SYS_ADMIN; clone3(2) has its flags in memory.
fn no_namespaces() -> [Rule; 2] {
    const NAMESPACES: u64 = 0x7e02_0000;
    let no_flag = Argument { index: 0, value: NAMESPACES, value_two: 0, op: Operator::MaskedEqual };
    [allow("clone").if_all(&[no_flag]), deny("clone3", errno::ENOSYS)]
}

fn allow(names: &str) -> Rule {
    rule(names, Action::Allow, None)
}

fn deny(names: &str, errno: u32) -> Rule {
    rule(names, Action::Errno, Some(errno))
}

fn rule(names: &str, action: Action, errno_ret: Option<u32>) -> Rule {
    let names = names.split_whitespace().map(str::to_owned).collect();
    Rule { syscall: Syscall { names, action, errno_ret, args: vec![] }, condition: Condition::Always }
}

impl Rule {
    fn when(self, condition: Condition) -> Rule {
        Rule { condition, ..self }
    }

    fn if_all(mut self, args: &[Argument]) -> Rule {
        self.syscall.args = args.to_vec();
        self
    }
}

/// What arm's own calls are called.
const ARM: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Denied by podman whatever the capabilities.
const PODMAN_DENIES: &str = "\
    bdflush io_pgetevents kexec_file_load kexec_load migrate_pages move_pages nfsservctl nice oldfstat oldlstat \
    oldolduname oldstat olduname pciconfig_iobase pciconfig_read pciconfig_write sgetmask ssetmask swapcontext \
    swapoff swapon sysfs uselib userfaultfd ustat vm86 vm86old vmsplice";

/// Allowed by podman whatever the capabilities.
const PODMAN_ALLOWS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32 \
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 clone clone3 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create \
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
    fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr \
    fsconfig fsetxattr fsmount fsopen fspick fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 \
    futex futex_time64 futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 \
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid \
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage \
    getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_setup io_submit ioctl ioprio_get \
    ioprio_set ipc keyctl kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 \
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise mbind \
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 \
    mount mount_setattr move_mount mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
    mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
    name_to_handle_at nanosleep newfstatat open open_tree openat openat2 pause pidfd_getfd pidfd_open \
    pidfd_send_signal pipe pipe2 pivot_root pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl \
    pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 \
    ptrace pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv reboot recv recvfrom \
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir \
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget \
    semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_mempolicy \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
    setgroups setgroups32 setitimer setns setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget \
    shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend \
    socketcall socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs \
    syscall sysinfo syslog tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64 \
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask umount umount2 uname unlink \
    unlinkat unshare utime utimensat utimensat_time64 utimes vfork wait4 waitid waitpid write writev";

/// Allowed by docker and containerd whatever the capabilities, up to where containerd adds protection keys.
const DOCKER_ALLOWS: &str = "\
    accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32 clock_adjtime \
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create \
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
    fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr \
    fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv \
    futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups \
    getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 \
    getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid \
    gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit \
    io_uring_enter io_uring_register io_uring_setup ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr llistxattr _llseek lremovexattr \
    lseek lsetxattr lstat lstat64 madvise membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat \
    mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync \
    munlock munlockall munmap nanosleep newfstatat _newselect open openat openat2 pause pidfd_open \
    pidfd_send_signal pipe pipe2";

/// The rest of that.
const DOCKER_ALLOWS_TOO: &str = "\
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 \
    recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 \
    send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
    setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address \
    setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
    sigreturn socket socketcall socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat \
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";
