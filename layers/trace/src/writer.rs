//! A writer of logs: gives out numbers, leaves out what was written already, and never holds more than a bounded part.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::record::{Outcome, Process, Record};
use crate::{Header, Mode, VERSION};

/// So much is gathered, and for so long, before it is written.
const GATHERED: usize = 64 << 10;
const SOON: Duration = Duration::from_millis(100);

/// Beyond these numbers of remembered paths and events the writer forgets all and numbers anew: what was written already
/// may then be written again.
const MOST_PATHS: usize = 100_000;
const MOST_EVENTS: usize = 400_000;

/// 0: nobody knows which process it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessNumber(u32);

impl From<ProcessNumber> for u32 {
    fn from(number: ProcessNumber) -> u32 {
        number.0
    }
}

/// Holds until the next [`LogWriter::make_room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathNumber(u32);

/// What a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    pub processes: u64,
    /// Of those that something is said of; in a very long log some are counted twice.
    pub paths: u64,
    pub bytes: u64,
}

/// After an error the log must not be written to any more.
pub struct LogWriter<W> {
    out: W,
    gathered: Vec<u8>,
    /// When the first of what is gathered came.
    since: Option<Instant>,
    most_bytes: u64,
    paths: HashMap<u128, u32>,
    /// Of each path that has a number, whether something was said of it.
    told: Vec<bool>,
    said: HashSet<Said>,
    counts: Counts,
}

/// What need not be said again.
#[derive(PartialEq, Eq, Hash)]
enum Said {
    Saw { process: u32, path: u32, what: u32 },
    Same { path: u32, of: u32 },
}

impl<W: Write> LogWriter<W> {
    /// Begins a log of at most `most_bytes`. `segments` are described top first.
    pub fn begin(out: W, mode: Mode, segments: Vec<String>, most_bytes: u64) -> io::Result<LogWriter<W>> {
        let mut header = serde_json::to_vec(&Header { version: VERSION, mode, segments })?;
        header.push(b'\n');
        let mut writer = LogWriter {
            out,
            gathered: header,
            since: None,
            most_bytes,
            paths: HashMap::new(),
            told: vec![false],
            said: HashSet::new(),
            counts: Counts::default(),
        };
        writer.flush()?;
        Ok(writer)
    }

    pub fn process(&mut self, process: Process) -> io::Result<ProcessNumber> {
        self.append(&Record::Process(process))?;
        self.counts.processes += 1;
        Ok(ProcessNumber(self.counts.processes as u32))
    }

    /// Call it before the numbers of paths are asked for: it may take all back that were given out.
    pub fn make_room(&mut self) -> io::Result<()> {
        if self.paths.len() < MOST_PATHS && self.said.len() < MOST_EVENTS {
            return Ok(());
        }
        self.paths.clear();
        self.told = vec![false];
        self.said.clear();
        self.append(&Record::Anew)
    }

    /// The number of a path, given as keys and names of itself and of what is above it, up to but without the root.
    pub fn path<'a>(&mut self, upwards: impl Iterator<Item = (u128, &'a [u8])>) -> io::Result<PathNumber> {
        let (mut unknown, mut parent) = (Vec::new(), 0);
        for (key, name) in upwards {
            if let Some(known) = self.paths.get(&key) {
                parent = *known;
                break;
            }
            unknown.push((key, name));
        }
        for (key, name) in unknown.into_iter().rev() {
            self.append(&Record::Name { parent, name: name.to_vec() })?;
            parent = self.told.len() as u32;
            self.told.push(false);
            self.paths.insert(key, parent);
        }
        Ok(PathNumber(parent))
    }

    /// That a process saw something of a path.
    pub fn saw(&mut self, process: ProcessNumber, path: PathNumber, outcome: Outcome) -> io::Result<()> {
        let what = match &outcome {
            Outcome::Read => 0,
            Outcome::Listed => 1,
            Outcome::Link(_) => 2,
            Outcome::Stat(kind) => 3 + *kind as u32,
            Outcome::Failed(errno) => 0x100 + errno.unsigned_abs(),
        };
        let (process, path) = (process.0, path.0);
        if !self.said.insert(Said::Saw { process, path, what }) {
            return Ok(());
        }
        let was_told = std::mem::replace(&mut self.told[path as usize], true);
        self.counts.paths += u64::from(!was_told);
        self.append(&Record::Saw { process, path, outcome })
    }

    /// That two paths are names of one file.
    pub fn same(&mut self, path: PathNumber, of: PathNumber) -> io::Result<()> {
        let (path, of) = (path.0, of.0);
        if path != of && self.said.insert(Said::Same { path, of }) {
            self.append(&Record::Same { path, of })?;
        }
        Ok(())
    }

    /// Says that the log is complete, as far as it goes.
    pub fn end(&mut self) -> io::Result<Counts> {
        self.append(&Record::End)?;
        self.flush()?;
        Ok(self.counts)
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        record.write(&mut self.gathered);
        let is_due = self.since.get_or_insert_with(Instant::now).elapsed() >= SOON;
        if is_due || self.gathered.len() >= GATHERED { self.flush() } else { Ok(()) }
    }

    /// Writes what is gathered: nothing more may come.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.counts.bytes + self.gathered.len() as u64 > self.most_bytes {
            let message = format!("it is longer than {} bytes", self.most_bytes);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.out.write_all(&self.gathered)?;
        self.out.flush()?;
        self.counts.bytes += self.gathered.len() as u64;
        self.gathered.clear();
        self.since = None;
        Ok(())
    }
}
