//! A record: a tag, numbers in LEB128, strings after their length.

use std::io::{self, BufRead, Read};

/// Of which type a name was when it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
}

/// What a process got for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An error number: of a look-up, ENOENT for what is not there.
    Failed(i32),
    /// It was looked up and is there.
    Stat(FileType),
    /// It was opened: as good as read from its beginning to its end.
    Read,
    /// The names in it were told.
    Listed,
    /// What it points to was told.
    Link(Vec<u8>),
}

/// A program that a process runs. A process that executes another program is a new one with the same pid and start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    pub pid: u32,
    /// In the action's own pid namespace.
    pub pid_inside: u32,
    /// When the process began: ticks of the clock since the machine's start.
    pub start: u64,
    /// Number of the process that began it; 0 if it is not known.
    pub parent: u32,
    /// Number of the program that the same process ran before; 0 for none.
    pub before: u32,
    /// Its arguments, a NUL after each; `None` if they could not be read.
    pub arguments: Option<Vec<u8>>,
    /// Its working directory when it was first seen.
    pub cwd: Option<Vec<u8>>,
    /// BLAKE3 of its environment as /proc/PID/environ has it.
    pub environment: Option<[u8; 32]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Gets the next number; the first is 1.
    Process(Process),
    /// A path gets the next number; 0 is the root.
    Name {
        parent: u32,
        name: Vec<u8>,
    },
    Saw {
        process: u32,
        path: u32,
        outcome: Outcome,
    },
    /// Two names of one file: what was seen of `of` was seen of `path`.
    Same {
        path: u32,
        of: u32,
    },
    /// Paths are numbered anew from here on.
    Anew,
    End,
}

/// Longer strings are no part of a log.
const MOST_BYTES: u64 = 1 << 20;

const END: u8 = 0;
const PROCESS: u8 = 1;
const NAME: u8 = 2;
const ANEW: u8 = 3;
const SAME: u8 = 4;
const FAILED: u8 = 5;
const READ: u8 = 6;
const LISTED: u8 = 7;
const LINK: u8 = 8;
/// The first of five.
const STAT: u8 = 9;
const TYPES: [FileType; 5] =
    [FileType::Regular, FileType::Directory, FileType::Symlink, FileType::Fifo, FileType::Socket];

/// Why bytes are no record.
#[derive(Debug)]
pub(crate) enum Malformed {
    /// They end in the midst of it.
    Short,
    Tag,
    Number,
    String,
    Read(io::Error),
}

impl Record {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Record::Process(process) => {
                out.push(PROCESS);
                let Process { pid, pid_inside, start, parent, before, .. } = *process;
                for n in [pid.into(), pid_inside.into(), start, parent.into(), before.into()] {
                    number(out, n);
                }
                optional(out, process.arguments.as_deref());
                optional(out, process.cwd.as_deref());
                optional(out, process.environment.as_ref().map(<[u8; 32]>::as_slice));
            }
            Record::Name { parent, name } => {
                out.push(NAME);
                number(out, (*parent).into());
                string(out, name);
            }
            Record::Saw { process, path, outcome } => {
                out.push(tag(outcome));
                number(out, (*process).into());
                number(out, (*path).into());
                match outcome {
                    Outcome::Failed(errno) => number(out, errno.unsigned_abs().into()),
                    Outcome::Link(target) => string(out, target),
                    Outcome::Stat(_) | Outcome::Read | Outcome::Listed => {}
                }
            }
            Record::Same { path, of } => {
                out.push(SAME);
                number(out, (*path).into());
                number(out, (*of).into());
            }
            Record::Anew => out.push(ANEW),
            Record::End => out.push(END),
        }
    }

    /// `None` at the end of what there is.
    pub(crate) fn read(from: &mut impl BufRead) -> Result<Option<Record>, Malformed> {
        let mut tag = [0];
        if from.read(&mut tag).map_err(Malformed::Read)? == 0 {
            return Ok(None);
        }
        let [tag] = tag;
        Ok(Some(match tag {
            END => Record::End,
            ANEW => Record::Anew,
            PROCESS => Record::Process(Process {
                pid: small(from)?,
                pid_inside: small(from)?,
                start: read_number(from)?,
                parent: small(from)?,
                before: small(from)?,
                arguments: read_optional(from)?,
                cwd: read_optional(from)?,
                environment: match read_optional(from)? {
                    Some(digest) => Some(digest.try_into().map_err(|_| Malformed::String)?),
                    None => None,
                },
            }),
            NAME => Record::Name { parent: small(from)?, name: read_string(from)? },
            SAME => Record::Same { path: small(from)?, of: small(from)? },
            _ => {
                let kind = TYPES.get(usize::from(tag.wrapping_sub(STAT)));
                if !matches!(tag, FAILED | READ | LISTED | LINK) && kind.is_none() {
                    return Err(Malformed::Tag);
                }
                let (process, path) = (small(from)?, small(from)?);
                let outcome = match (tag, kind) {
                    (FAILED, _) => {
                        Outcome::Failed(i32::try_from(read_number(from)?).map_err(|_| Malformed::Number)?)
                    }
                    (LINK, _) => Outcome::Link(read_string(from)?),
                    (_, Some(kind)) => Outcome::Stat(*kind),
                    (LISTED, _) => Outcome::Listed,
                    _ => Outcome::Read,
                };
                Record::Saw { process, path, outcome }
            }
        }))
    }
}

fn tag(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Failed(_) => FAILED,
        Outcome::Read => READ,
        Outcome::Listed => LISTED,
        Outcome::Link(_) => LINK,
        Outcome::Stat(kind) => STAT + *kind as u8,
    }
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Longer than a reader takes: cut.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST_BYTES as usize)];
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(bytes.is_some().into());
    if let Some(bytes) = bytes {
        string(out, bytes);
    }
}

fn read_number(from: &mut impl Read) -> Result<u64, Malformed> {
    let mut number = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte).map_err(short)?;
        let bits = u64::from(byte[0] & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Malformed::Number);
        }
        number |= bits << shift;
        if byte[0] < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed::Number)
}

fn small(from: &mut impl Read) -> Result<u32, Malformed> {
    read_number(from)?.try_into().map_err(|_| Malformed::Number)
}

fn read_string(from: &mut impl Read) -> Result<Vec<u8>, Malformed> {
    let length = read_number(from)?;
    if length > MOST_BYTES {
        return Err(Malformed::String);
    }
    // Grows with what there is: nothing is allocated for a length that nothing follows.
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes).map_err(Malformed::Read)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(Malformed::Short) }
}

fn read_optional(from: &mut impl Read) -> Result<Option<Vec<u8>>, Malformed> {
    let mut there = [0];
    from.read_exact(&mut there).map_err(short)?;
    match there {
        [0] => Ok(None),
        [1] => read_string(from).map(Some),
        _ => Err(Malformed::Number),
    }
}

fn short(error: io::Error) -> Malformed {
    if error.kind() == io::ErrorKind::UnexpectedEof { Malformed::Short } else { Malformed::Read(error) }
}
