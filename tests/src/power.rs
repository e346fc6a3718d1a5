//! What a power failure leaves: a model of a disk that has what was synced and nothing else, fed with the system calls of a
//! program as strace tells them. A name counts as lost until its directory is synced, content until its file is; one that was
//! removed counts as still there until then.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::strace;

/// The calls that change names or content, or wait for the disk.
const CALLS: &str = "openat,openat2,creat,write,writev,pwrite64,pwritev,copy_file_range,sendfile,splice,ftruncate,fallocate,ioctl,\
    fsync,fdatasync,syncfs,sync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,utimensat";

/// A system call that succeeded.
#[derive(Clone, Debug)]
pub struct Call {
    /// As strace wrote it.
    pub line: String,
    pub name: String,
    /// What it works on, in order: the files of descriptors, or the paths below them.
    pub paths: Vec<PathBuf>,
}

/// Runs the program of `command` below strace, which writes to `log`, and returns what its first process did, with its threads if
/// `threads`. Panics if the program fails.
pub fn calls(command: &Command, log: &Path, threads: bool) -> Vec<Call> {
    let calls = format!("trace={CALLS}");
    let threads = if threads { &["-f"][..] } else { &[] };
    let mut traced = strace::below(command, &[threads, &["-y", "-e", &calls]].concat(), log);
    crate::command::run(&mut traced).expect(0);
    parse(&std::fs::read_to_string(log).expect("strace writes text"))
}

fn parse(log: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    let named = Regex::new(r#"(?:\d+|AT_FDCWD)<([^>]*)>(?:, "([^"]*)")?|"([^"]*)""#).expect("it is one");
    for line in log.lines() {
        // With threads each line begins with the number of one.
        let (thread, line) = match line.split_once(' ') {
            Some((thread, rest)) if thread.bytes().all(|byte| byte.is_ascii_digit()) => {
                (thread, rest.trim_start())
            }
            _ => ("", line),
        };
        // It counts from its end, which is when it has certainly happened.
        let line = if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, start.to_owned());
            continue;
        } else if let Some((_, end)) =
            line.strip_prefix("<... ").and_then(|line| line.split_once(" resumed>"))
        {
            unfinished.remove(thread).expect("what is resumed was begun") + end
        } else {
            line.to_owned()
        };
        calls.extend(Call::parse(line, &named));
    }
    calls
}

impl Call {
    /// `named` finds a descriptor with a path below it, or a path alone.
    fn parse(line: String, named: &Regex) -> Option<Call> {
        let (name, rest) = line.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        if result.starts_with("-1 ") || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return None;
        }
        let is_at = name.ends_with("at") || name.ends_with("at2");
        let paths = named.captures_iter(arguments).filter_map(|found| {
            let (directory, below, alone) = (found.get(1), found.get(2), found.get(3));
            let Some(directory) = directory else { return alone.map(|path| PathBuf::from(path.as_str())) };
            let below = below.filter(|_| is_at).map_or("", |below| below.as_str());
            // Not joined with nothing, which would be a slash.
            let directory = Path::new(directory.as_str());
            Some(if below.is_empty() { directory.to_owned() } else { directory.join(below) })
        });
        Some(Call { name: name.to_owned(), paths: paths.collect(), line })
    }

    /// Whether it waits for the disk.
    pub fn is_sync(&self) -> bool {
        ["fsync", "fdatasync", "syncfs", "sync"].contains(&self.name.as_str())
    }

    pub fn has(&self, text: &str) -> bool {
        self.line.contains(text)
    }
}

/// A disk, and what is only in memory yet.
#[derive(Debug, Default)]
pub struct Disk {
    unsynced: Vec<PathBuf>,
    files: HashMap<PathBuf, usize>,
    dirty: HashSet<usize>,
    lost_names: HashSet<PathBuf>,
    /// Names that were on the disk, and whose removal may not be.
    returning_names: HashSet<PathBuf>,
    next: usize,
}

impl Disk {
    /// What no call has made was there before and is on it, but for what lies below `unsynced`: nobody has waited for that.
    pub fn new(unsynced: &[PathBuf]) -> Disk {
        Disk { unsynced: unsynced.to_vec(), ..Disk::default() }
    }

    /// Whether the content of a file that `path` leads to is on the disk.
    pub fn has_content(&mut self, path: &Path) -> bool {
        let file = self.file(path);
        !self.dirty.contains(&file)
    }

    /// Whether both names lead to one file.
    pub fn is_same(&mut self, one: &Path, other: &Path) -> bool {
        self.file(one) == self.file(other)
    }

    /// Whether a power failure now leaves the file at `path`, with its content.
    pub fn has(&mut self, path: &Path) -> bool {
        self.has_content(path) && !path.ancestors().any(|path| self.lost_names.contains(path))
    }

    /// Whether the name is there, or is again after a power failure now. Of names that no call is about it is not known.
    pub fn may_have_name(&self, path: &Path) -> bool {
        self.files.contains_key(path) || self.returning_names.contains(path)
    }

    pub fn apply(&mut self, call: &Call) {
        match (call.name.as_str(), call.paths.as_slice()) {
            ("openat" | "openat2", [path, ..]) if call.has("O_EXCL") => self.make(path),
            ("openat" | "openat2", [path, ..]) if call.has("O_TRUNC") => self.write(path),
            ("openat" | "openat2" | "ioctl" | "utimensat", _) if !call.has("FICLONE, ") => {}
            (
                "write" | "writev" | "pwrite64" | "pwritev" | "ftruncate" | "fallocate" | "ioctl",
                [path, ..],
            ) => {
                self.write(path);
            }
            ("copy_file_range" | "splice", [_, path]) | ("sendfile", [path, _]) => self.write(path),
            ("mkdirat", [path]) => drop(self.lost_names.insert(path.clone())),
            ("fsync" | "fdatasync", [path]) => {
                let file = self.file(path);
                self.dirty.remove(&file);
                if call.name == "fsync" {
                    for names in [&mut self.lost_names, &mut self.returning_names] {
                        names.retain(|name| name.parent() != Some(path));
                    }
                }
            }
            ("syncfs", _) | ("sync", _) => {
                self.dirty.clear();
                self.lost_names.clear();
                self.returning_names.clear();
            }
            ("linkat", [old, new]) => {
                let file = self.file(old);
                self.name(new, file);
            }
            ("renameat" | "renameat2", [old, new]) => {
                let file = self.file(old);
                self.forget(old);
                self.name(new, file);
            }
            ("unlinkat", [path]) => self.forget(path),
            _ => panic!("the model does not know what this does: {}", call.line),
        }
    }

    fn make(&mut self, path: &Path) {
        self.next += 1;
        self.name(path, self.next);
    }

    fn write(&mut self, path: &Path) {
        let file = self.file(path);
        self.dirty.insert(file);
    }

    fn name(&mut self, path: &Path, file: usize) {
        self.files.insert(path.to_owned(), file);
        self.lost_names.insert(path.to_owned());
        self.returning_names.remove(path);
    }

    fn forget(&mut self, path: &Path) {
        self.file(path);
        self.files.remove(path);
        if !self.lost_names.remove(path) {
            self.returning_names.insert(path.to_owned());
        }
    }

    fn file(&mut self, path: &Path) -> usize {
        if let Some(file) = self.files.get(path) {
            return *file;
        }
        self.next += 1;
        let file = self.next;
        self.files.insert(path.to_owned(), file);
        if let Some(directory) = self.unsynced.iter().find(|directory| path.starts_with(directory)) {
            self.dirty.insert(file);
            let names = path.ancestors().take_while(|name| name != directory);
            self.lost_names.extend(names.map(Path::to_owned));
        }
        file
    }
}
