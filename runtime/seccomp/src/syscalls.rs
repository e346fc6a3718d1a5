//! A system call: its name, and the number it has on each architecture.

use crate::{
    Arch,
    arch::X32_BIT,
    table::{NONE, TABLE},
};

/// The number of the call on `arch`, bit 30 included on x32; None when the architecture does not have it.
pub fn syscall_number(arch: Arch, name: &str) -> Option<u32> {
    find(name).and_then(|row| row.number(arch))
}

/// The name of the call with this number on `arch`.
pub fn syscall_name(arch: Arch, number: u32) -> Option<&'static str> {
    TABLE.iter().find(|(_, numbers)| Numbers(numbers).number(arch) == Some(number)).map(|(name, _)| *name)
}

/// The numbers of one call, by architecture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers(&'static [u32; 6]);

pub(crate) fn find(name: &str) -> Option<Numbers> {
    let at = TABLE.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
    Some(Numbers(&TABLE[at].1))
}

impl Numbers {
    pub(crate) fn number(self, arch: Arch) -> Option<u32> {
        match (self.0[arch as usize], arch) {
            (NONE, _) => None,
            (number, Arch::X32) => Some(number | X32_BIT),
            (number, _) => Some(number),
        }
    }
}

/// A call that i386 also reaches through socketcall(2) or ipc(2), whose first argument says which is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Multiplexed {
    pub number: u32,
    pub selector: u64,
}

/// How i386 multiplexes `name`; selectors from linux/net.h and linux/ipc.h.
pub(crate) fn multiplexed(name: &str) -> Option<Multiplexed> {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let (number, selector) = match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    };
    Some(Multiplexed { number, selector })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_so_that_names_are_found() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn numbers_agree_with_libc_on_this_machine() {
        let Some(arch) = Arch::native() else {
            return crate::skip::this_test("no table for this architecture");
        };
        for (name, number) in [
            ("read", libc::SYS_read),
            ("openat", libc::SYS_openat),
            ("clone3", libc::SYS_clone3),
            ("mseal", libc::SYS_mseal),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("newfstatat", libc::SYS_newfstatat),
        ] {
            assert_eq!(syscall_number(arch, name).map(i64::from), Some(number), "{name}");
            assert_eq!(syscall_name(arch, number as u32), Some(name));
        }
    }

    #[test]
    fn the_same_name_has_a_number_per_architecture() {
        let execve = Arch::ALL.map(|arch| syscall_number(arch, "execve"));
        assert_eq!(execve, [Some(59), Some(11), Some(X32_BIT | 520), Some(221), Some(11), Some(221)]);
        assert_eq!(syscall_number(Arch::Aarch64, "open"), None);
    }
}
