//! A key: the digest of everything that a compiled filter depends on, the compiler included.

use std::fmt;

use crate::{Arch, NewerCalls, Profile, Syscall};

/// Two compilations with the same key give the same filter. Profiles that mean the same but are not written the same
/// have different keys, which costs a compilation and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// The sources of this crate, its table of system calls among them.
const COMPILER: &str = env!("VFSRUN_SECCOMP_SOURCES");

impl Key {
    pub fn new(profile: &Profile, native: Arch, newer: NewerCalls) -> Key {
        // One buffer, hashed at once: podman's profile has 400 names, and small pieces cost more than their bytes.
        let mut encoding = Encoding(Vec::with_capacity(1 << 14));
        encoding.string(COMPILER);
        encoding.byte(native as u8);
        encoding.byte(newer as u8);
        encoding.profile(profile);
        Key::from_bytes(*blake3::hash(&encoding.0).as_bytes())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Key {
        Key(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// Every list and string after its length, every option after a byte that says whether it is there: no two inputs
/// have one encoding.
struct Encoding(Vec<u8>);

impl Encoding {
    fn profile(&mut self, profile: &Profile) {
        // Field by field, so that a new one cannot be forgotten here.
        let Profile {
            default_action,
            default_errno_ret,
            architectures,
            flags,
            // Whom a listener is handed to shapes no program.
            listener_path: _,
            listener_metadata: _,
            syscalls,
        } = profile;
        self.byte(*default_action as u8);
        self.option(default_errno_ret.as_ref(), |this, errno| this.number(*errno));
        self.list(architectures, |this, architecture| this.byte(*architecture as u8));
        self.option(flags.as_ref(), |this, flags| this.list(flags, |this, flag| this.byte(*flag as u8)));
        self.list(syscalls, Encoding::syscall);
    }

    fn syscall(&mut self, syscall: &Syscall) {
        let Syscall { names, action, errno_ret, args } = syscall;
        self.list(names, |this, name| this.string(name));
        self.byte(*action as u8);
        self.option(errno_ret.as_ref(), |this, errno| this.number(*errno));
        self.list(args, |this, argument| {
            let crate::Argument { index, value, value_two, op } = *argument;
            this.number(index);
            this.0.extend(value.to_le_bytes());
            this.0.extend(value_two.to_le_bytes());
            this.byte(op as u8);
        });
    }

    fn list<T>(&mut self, all: &[T], each: impl Fn(&mut Encoding, &T)) {
        self.0.extend((all.len() as u64).to_le_bytes());
        all.iter().for_each(|one| each(self, one));
    }

    fn option<T>(&mut self, value: Option<&T>, put: impl Fn(&mut Encoding, &T)) {
        self.byte(value.is_some().into());
        if let Some(value) = value {
            put(self, value);
        }
    }

    fn string(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn number(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}
