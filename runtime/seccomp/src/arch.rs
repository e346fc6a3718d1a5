//! An architecture: a system call convention that a kernel serves, with its AUDIT_ARCH number and argument width.

/// A system call convention. X86_64 and X32 share one AUDIT_ARCH and differ in bit 30 of the call's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
}

/// Set in the number of every x32 call.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

impl Arch {
    pub const ALL: [Arch; 6] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm, Arch::Riscv64];

    /// The architecture this program was built for; None where no filter can be compiled yet.
    pub const fn native() -> Option<Arch> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "x86_64") {
            Some(Arch::X32)
        } else if cfg!(target_arch = "x86") {
            Some(Arch::X86)
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
            Some(Arch::Aarch64)
        } else if cfg!(all(target_arch = "arm", target_endian = "little")) {
            Some(Arch::Arm)
        } else if cfg!(target_arch = "riscv64") {
            Some(Arch::Riscv64)
        } else {
            None
        }
    }

    /// Architectures that a kernel of the native one serves beside it, itself included.
    pub const fn native_family() -> &'static [Arch] {
        match Arch::native() {
            Some(Arch::X86_64 | Arch::X86 | Arch::X32) => &[Arch::X86_64, Arch::X86, Arch::X32],
            Some(Arch::Aarch64 | Arch::Arm) => &[Arch::Aarch64, Arch::Arm],
            Some(Arch::Riscv64) => &[Arch::Riscv64],
            None => &[],
        }
    }

    /// `seccomp_data.arch`, from linux/audit.h.
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
            Arch::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether rules compare all 64 bits of an argument; the others compare the low 32, as libseccomp does.
    pub(crate) const fn compares_64_bits(self) -> bool {
        matches!(self, Arch::X86_64 | Arch::Aarch64 | Arch::Riscv64)
    }

    /// Whether one kernel can serve both; a section for any other architecture could never be reached.
    pub(crate) const fn same_kernel(self, other: Arch) -> bool {
        const fn family(arch: Arch) -> u8 {
            match arch {
                Arch::X86_64 | Arch::X86 | Arch::X32 => 0,
                Arch::Aarch64 | Arch::Arm => 1,
                Arch::Riscv64 => 2,
            }
        }
        family(self) == family(other)
    }
}
