//! A stored filter: a compiled program as bytes, which say what it was compiled from.
//!
//! ```text
//!  magic 8 | digest of all that follows 32 | key 32 | flags 4 | instructions 4 | code 2, jt 1, jf 1, k 4 | …
//! ```
//!
//! Numbers are little endian. The digest finds damage. It does not find forgery: whoever can write the bytes can write
//! their digest, so a reader must know by the owner of the file that nobody else could.

use crate::{BadProgram, Filter, Key, MAX_INSTRUCTIONS, SockFilter, simulate};

/// The last byte is the version of the format.
const MAGIC: &[u8; 8] = b"vfs-bpf\x01";
const DIGEST_AT: usize = 8;
const KEY_AT: usize = DIGEST_AT + 32;
const FLAGS_AT: usize = KEY_AT + 32;
const COUNT_AT: usize = FLAGS_AT + 4;
const PROGRAM_AT: usize = COUNT_AT + 4;
const INSTRUCTION: usize = 8;

/// No stored filter is longer.
pub const MAX_STORED: usize = PROGRAM_AT + MAX_INSTRUCTIONS * INSTRUCTION;

/// Why bytes are not the stored filter that was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    #[error("{length} bytes are not a stored filter of this version")]
    Format { length: usize },
    #[error("the filter was compiled from something else")]
    Key,
    #[error("the filter is damaged")]
    Digest,
    #[error("the program is not one the kernel would load")]
    Program(#[source] BadProgram),
}

impl Filter {
    /// The filter as it is stored under `key`.
    pub fn to_stored(&self, key: &Key) -> Vec<u8> {
        let program = to_bytes(&self.program);
        let mut stored = Vec::with_capacity(PROGRAM_AT + program.len());
        stored.extend(MAGIC);
        stored.extend([0; 32]);
        stored.extend(key.as_bytes());
        stored.extend(self.flags.to_le_bytes());
        stored.extend((self.program.len() as u32).to_le_bytes());
        stored.extend(program);
        let digest = blake3::hash(&stored[KEY_AT..]);
        stored[DIGEST_AT..KEY_AT].copy_from_slice(digest.as_bytes());
        stored
    }

    /// The filter that was stored under `key`. Errors: other bytes, another key, a program that the kernel refuses.
    pub fn from_stored(stored: &[u8], key: &Key) -> Result<Filter, NotStored> {
        let format = NotStored::Format { length: stored.len() };
        let (header, program) = stored.split_at_checked(PROGRAM_AT).ok_or(format)?;
        let number = |at: usize| {
            u32::from_le_bytes(header[at..at + 4].try_into().expect("a number of the header is 4 bytes"))
        };
        if !header.starts_with(MAGIC) || program.len() != number(COUNT_AT) as usize * INSTRUCTION {
            return Err(format);
        }
        if header[KEY_AT..FLAGS_AT] != *key.as_bytes() {
            return Err(NotStored::Key);
        }
        if header[DIGEST_AT..KEY_AT] != *blake3::hash(&stored[KEY_AT..]).as_bytes() {
            return Err(NotStored::Digest);
        }
        let program = from_bytes(program);
        simulate::check(&program).map_err(NotStored::Program)?;
        Ok(Filter::new(program, number(FLAGS_AT)))
    }
}

/// Instructions as they are stored.
pub fn to_bytes(program: &[SockFilter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * INSTRUCTION);
    for instruction in program {
        bytes.extend(instruction.code.to_le_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_le_bytes());
    }
    bytes
}

/// The instructions of whole stored ones.
pub fn from_bytes(bytes: &[u8]) -> Vec<SockFilter> {
    let (instructions, _) = bytes.as_chunks::<INSTRUCTION>();
    let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION]| SockFilter {
        code: u16::from_le_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_le_bytes([k0, k1, k2, k3]),
    };
    instructions.iter().map(instruction).collect()
}
