//! A trace as a reader wants it: of each process one outcome per path of the root.
//!
//! The root is an overlay, which asks its segments one after the other: a name that the first has not may be in the
//! second. So what is there in one answer is there, and only what no answer has is absent.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;

use crate::record::{Malformed, Outcome, Process, Record};
use crate::{Header, Mode, VERSION};

#[derive(Debug, Error)]
pub enum TraceError {
    #[error("cannot read it")]
    Read { source: io::Error },
    #[error("it is not a log of a traced action")]
    NotATrace,
    #[error("it is a log of version {found}, and this program reads version {VERSION}")]
    Version { found: u64 },
    #[error("record {record} is damaged: {what}")]
    Damaged { record: u64, what: &'static str },
}

/// What a process saw of a path. The strongest outcome counts: an error, then what was read, then what was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Index into [`Trace::processes`]; `None` if nobody knows which process it was.
    pub process: Option<usize>,
    pub path: usize,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub struct Trace {
    pub mode: Mode,
    /// As messages name them, top first.
    pub segments: Vec<String>,
    /// In the order in which they were first seen; the numbers in them start with 1.
    pub processes: Vec<Process>,
    /// In the order in which it was first seen.
    pub seen: Vec<Seen>,
    /// The server ended before the action did: there may be more than is here.
    pub is_cut_short: bool,
    paths: Paths,
}

/// No header is longer.
const MOST_HEADER: u64 = 16 << 20;
const ENOENT: i32 = 2;

/// Whether this begins as a log does, of whatever version.
pub fn is_log(file: impl Read) -> io::Result<bool> {
    match read_header(&mut BufReader::new(file)) {
        Ok(_) | Err(TraceError::Version { .. }) => Ok(true),
        Err(TraceError::Read { source }) => Err(source),
        Err(TraceError::NotATrace | TraceError::Damaged { .. }) => Ok(false),
    }
}

impl Trace {
    /// Reads a log to its end. One that breaks off is no error: what is there is there.
    pub fn read(log: impl Read) -> Result<Trace, TraceError> {
        Trace::read_by(Reader::default(), log)
    }

    /// The same without the processes: one outcome for each path, however many have seen it.
    pub fn read_as_one(log: impl Read) -> Result<Trace, TraceError> {
        Trace::read_by(Reader { as_one: true, ..Reader::default() }, log)
    }

    fn read_by(mut reader: Reader, log: impl Read) -> Result<Trace, TraceError> {
        let mut log = BufReader::new(log);
        let Header { mode, segments, .. } = read_header(&mut log)?;
        let mut record = 0;
        let is_cut_short = loop {
            record += 1;
            match Record::read(&mut log) {
                Ok(Some(Record::End)) => break false,
                Ok(Some(read)) => reader.take(read).map_err(|what| TraceError::Damaged { record, what })?,
                Ok(None) | Err(Malformed::Short) => break true,
                Err(Malformed::Read(source)) => return Err(TraceError::Read { source }),
                Err(malformed) => return Err(TraceError::Damaged { record, what: malformed.what() }),
            }
        };
        if !is_cut_short && !log.fill_buf().map_err(|source| TraceError::Read { source })?.is_empty() {
            return Err(TraceError::Damaged { record, what: "more follows the end" });
        }
        let (processes, seen, paths) = reader.finish();
        Ok(Trace { mode, segments, processes, seen, is_cut_short, paths })
    }

    /// Absolute in the root.
    pub fn path(&self, index: usize) -> PathBuf {
        self.paths.path(index)
    }

    /// The outcome of each path for the action as a whole, sorted bytewise.
    pub fn outcomes(&self) -> Vec<(PathBuf, &Outcome)> {
        let mut outcomes: Vec<_> = self.each_outcome().collect();
        outcomes.sort_by(|(a, _), (b, _)| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        outcomes
    }

    /// The same in no order, one path at a time: the command decides how many there are, and how long.
    pub fn each_outcome(&self) -> impl Iterator<Item = (PathBuf, &Outcome)> {
        let mut strongest: HashMap<usize, &Outcome> = HashMap::new();
        for seen in &self.seen {
            let known = strongest.entry(seen.path).or_insert(&seen.outcome);
            if strength(&seen.outcome) > strength(known) {
                *known = &seen.outcome;
            }
        }
        strongest.into_iter().map(|(path, outcome)| (self.path(path), outcome))
    }
}

fn read_header(log: &mut impl BufRead) -> Result<Header, TraceError> {
    let mut line = Vec::new();
    let read = log.by_ref().take(MOST_HEADER).read_until(b'\n', &mut line);
    read.map_err(|source| TraceError::Read { source })?;
    if line.last() != Some(&b'\n') {
        return Err(TraceError::NotATrace);
    }
    let any: serde_json::Value = serde_json::from_slice(&line).map_err(|_| TraceError::NotATrace)?;
    match any.get("vfsrun-trace").and_then(serde_json::Value::as_u64) {
        None => Err(TraceError::NotATrace),
        Some(found) if found != u64::from(VERSION) => Err(TraceError::Version { found }),
        Some(_) => serde_json::from_value(any).map_err(|_| TraceError::NotATrace),
    }
}

/// Puts records together as they come.
#[derive(Default)]
struct Reader {
    /// All processes are nobody.
    as_one: bool,
    processes: Vec<Process>,
    /// From the log's numbers of processes, less one: the same process may have been told twice.
    by_number: Vec<usize>,
    known: HashMap<Process, usize>,
    paths: Paths,
    /// From the log's numbers of paths since they were given out anew.
    numbered: Vec<usize>,
    seen: Vec<Seen>,
    at: HashMap<(Option<usize>, usize), usize>,
    /// Pairs of names of one file.
    same: Vec<(usize, usize)>,
}

impl Reader {
    fn take(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Process(_) if self.as_one => Ok(()),
            Record::Process(process) => self.process(process),
            Record::Name { parent, name } => {
                let parent = self.path(parent)?;
                if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
                    return Err("a name is none");
                }
                self.numbered.push(self.paths.add(parent, name));
                Ok(())
            }
            Record::Saw { process, path, outcome } => {
                let process = match process {
                    0 => None,
                    _ if self.as_one => None,
                    number => Some(self.number(number)?),
                };
                let path = self.path(path)?;
                self.saw(process, path, outcome);
                Ok(())
            }
            Record::Same { path, of } => {
                let pair = (self.path(path)?, self.path(of)?);
                self.same.push(pair);
                Ok(())
            }
            Record::Anew => {
                self.numbered.clear();
                Ok(())
            }
            Record::End => unreachable!("the caller stops there"),
        }
    }

    /// Numbers in it become those of what is kept.
    fn process(&mut self, mut process: Process) -> Result<(), &'static str> {
        for number in [&mut process.parent, &mut process.before] {
            if *number > 0 {
                *number = self.number(*number)? as u32 + 1;
            }
        }
        let next = self.processes.len();
        let index = *self.known.entry(process.clone()).or_insert(next);
        if index == next {
            self.processes.push(process);
        }
        self.by_number.push(index);
        Ok(())
    }

    fn number(&self, number: u32) -> Result<usize, &'static str> {
        let index = (number as usize).checked_sub(1);
        index.and_then(|index| self.by_number.get(index)).copied().ok_or("a process has no such number")
    }

    fn path(&self, number: u32) -> Result<usize, &'static str> {
        match number.checked_sub(1) {
            None => Ok(0),
            Some(index) => self.numbered.get(index as usize).copied().ok_or("a path has no such number"),
        }
    }

    fn saw(&mut self, process: Option<usize>, path: usize, outcome: Outcome) {
        let next = self.seen.len();
        let at = *self.at.entry((process, path)).or_insert(next);
        if at == next {
            self.seen.push(Seen { process, path, outcome });
        } else if strength(&outcome) > strength(&self.seen[at].outcome) {
            self.seen[at].outcome = outcome;
        }
    }

    fn finish(mut self) -> (Vec<Process>, Vec<Seen>, Paths) {
        self.spread_to_other_names();
        let is_absent = |seen: &Seen| seen.outcome == Outcome::Failed(ENOENT);
        let present: HashSet<usize> =
            self.seen.iter().filter(|seen| !is_absent(seen)).map(|seen| seen.path).collect();
        self.seen.retain(|seen| !is_absent(seen) || !present.contains(&seen.path));
        (self.processes, self.seen, self.paths)
    }

    /// By which of its names a file was opened is not known, so it counts for all of them.
    fn spread_to_other_names(&mut self) {
        let mut names: HashMap<usize, Vec<usize>> = HashMap::new();
        for (path, of) in std::mem::take(&mut self.same) {
            names.entry(of).or_default().push(path);
        }
        for index in 0..self.seen.len() {
            let Seen { process, path, outcome } = self.seen[index].clone();
            if outcome == Outcome::Read {
                let others = names.get(&path).into_iter().flatten();
                others.for_each(|other| self.saw(process, *other, Outcome::Read));
            }
        }
    }
}

/// Of two outcomes of one path the stronger one counts. An error of one segment is the root's.
fn strength(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Failed(ENOENT) => 0,
        Outcome::Stat(_) => 1,
        Outcome::Read | Outcome::Listed | Outcome::Link(_) => 2,
        Outcome::Failed(_) => 3,
    }
}

impl Malformed {
    fn what(&self) -> &'static str {
        match self {
            Malformed::Tag => "it is of no known kind",
            Malformed::Number => "a number is out of range",
            Malformed::String => "a string is too long, or no digest where one is due",
            Malformed::Short | Malformed::Read(_) => "it breaks off",
        }
    }
}

/// Paths by number; 0 is the root.
#[derive(Clone, Debug)]
struct Paths {
    /// Parent and name.
    names: Vec<(usize, Vec<u8>)>,
    by_name: HashMap<(usize, Vec<u8>), usize>,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths { names: vec![(0, Vec::new())], by_name: HashMap::new() }
    }
}

impl Paths {
    fn add(&mut self, parent: usize, name: Vec<u8>) -> usize {
        let next = self.names.len();
        let index = *self.by_name.entry((parent, name.clone())).or_insert(next);
        if index == next {
            self.names.push((parent, name));
        }
        index
    }

    fn path(&self, mut index: usize) -> PathBuf {
        let mut names = Vec::new();
        // A parent has a smaller number than its child.
        while index > 0 {
            let (parent, name) = &self.names[index];
            names.push(OsStr::from_bytes(name));
            index = *parent;
        }
        let mut path = PathBuf::from("/");
        path.extend(names.iter().rev());
        path
    }
}
