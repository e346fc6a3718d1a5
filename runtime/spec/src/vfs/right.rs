//! A right: one use of files, ports or processes that Landlock can deny, under its name in the landlockconfig schema, and
//! the first ABI that has it.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The highest ABI whose rights are used. ABI 7 and 8 add flags for the audit log and threads, and no right.
pub const HIGHEST_ABI: u32 = 6;

/// The Linux version that brought each ABI, from ABI 1 on.
const LINUX: [&str; HIGHEST_ABI as usize] = ["5.13", "5.19", "6.2", "6.7", "6.10", "6.12"];

/// The first Linux version with `abi`; empty for an ABI that is none of 1 to [`HIGHEST_ABI`].
pub fn linux_of(abi: u32) -> &'static str {
    abi.checked_sub(1).and_then(|index| LINUX.get(index as usize)).copied().unwrap_or_default()
}

pub trait Right: Copy + Ord + fmt::Debug + 'static {
    /// In the order of the kernel's bits.
    const ALL: &'static [Self];
    /// What an error calls one.
    const KIND: &'static str;
    const GROUPS: &'static [Group] = &[Group::All];

    fn name(self) -> &'static str;
    /// The first ABI that has it.
    fn abi(self) -> u32;

    fn is_in(self, _group: Group) -> bool {
        true
    }

    /// All that a kernel with `abi` has.
    fn known_to(abi: u32) -> BTreeSet<Self> {
        Self::ALL.iter().copied().filter(|right| right.abi() <= abi).collect()
    }
}

macro_rules! rights {
    ($(#[$doc:meta])* $kind:literal $type:ident { $($right:ident $name:literal $abi:literal),* $(,)? } $($more:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($right),* }

        impl Right for $type {
            const ALL: &'static [Self] = &[$(Self::$right),*];
            const KIND: &'static str = $kind;

            fn name(self) -> &'static str {
                match self { $(Self::$right => $name),* }
            }

            fn abi(self) -> u32 {
                match self { $(Self::$right => $abi),* }
            }

            $($more)*
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

rights! {
    /// Uses of files.
    "access right" FsRight {
        Execute "execute" 1,
        WriteFile "write_file" 1,
        ReadFile "read_file" 1,
        ReadDir "read_dir" 1,
        RemoveDir "remove_dir" 1,
        RemoveFile "remove_file" 1,
        MakeChar "make_char" 1,
        MakeDir "make_dir" 1,
        MakeReg "make_reg" 1,
        MakeSock "make_sock" 1,
        MakeFifo "make_fifo" 1,
        MakeBlock "make_block" 1,
        MakeSym "make_sym" 1,
        Refer "refer" 2,
        Truncate "truncate" 3,
        IoctlDev "ioctl_dev" 5,
    }
    const GROUPS: &'static [Group] = &[Group::All, Group::ReadExecute, Group::ReadWrite];

    fn is_in(self, group: Group) -> bool {
        match group {
            Group::All => true,
            Group::ReadExecute => Self::READ.contains(&self) || self == Self::Refer,
            Group::ReadWrite => self != Self::Execute,
        }
    }
}

impl FsRight {
    /// Of them no use changes anything.
    pub const READ: [Self; 3] = [Self::Execute, Self::ReadFile, Self::ReadDir];
    /// Those that a file can have which is no directory.
    pub const OF_FILES: [Self; 5] =
        [Self::Execute, Self::WriteFile, Self::ReadFile, Self::Truncate, Self::IoctlDev];
}

rights! {
    /// Uses of TCP ports.
    "access right" NetRight { BindTcp "bind_tcp" 4, ConnectTcp "connect_tcp" 4 }
}

rights! {
    /// What ends at the border of the action or container.
    "scope" ScopeRight { AbstractUnixSocket "abstract_unix_socket" 6, Signal "signal" 6 }
}

/// Several rights, which ones the ABI says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    All,
    ReadExecute,
    ReadWrite,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::All => "abi.all",
            Self::ReadExecute => "abi.read_execute",
            Self::ReadWrite => "abi.read_write",
        }
    }
}

/// A word in a list of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access<R> {
    Right(R),
    Group(Group),
}

impl<R: Right> Access<R> {
    /// `None` for a group without an ABI.
    pub fn rights(self, abi: Option<u32>) -> Option<BTreeSet<R>> {
        match self {
            Self::Right(right) => Some(BTreeSet::from([right])),
            Self::Group(group) => {
                Some(R::known_to(abi?).into_iter().filter(|right| right.is_in(group)).collect())
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Right(right) => right.name(),
            Self::Group(group) => group.name(),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let groups = R::GROUPS.iter().copied().map(Self::Group);
        groups.chain(R::ALL.iter().copied().map(Self::Right))
    }
}

impl<R: Right> Serialize for Access<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de, R: Right> Deserialize<'de> for Access<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AccessVisitor(PhantomData))
    }
}

struct AccessVisitor<R>(PhantomData<R>);

impl<R: Right> Visitor<'_> for AccessVisitor<R> {
    type Value = Access<R>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, the name of a right")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Access<R>, E> {
        Access::all().find(|access| access.name() == word).ok_or_else(|| {
            let known: Vec<_> = Access::<R>::all().map(Access::name).collect();
            E::custom(format!("unknown {} {word:?}, expected one of {}", R::KIND, known.join(", ")))
        })
    }
}
