//! Random changes: what a [`Changer`] is told, which of it could be done, and the end of the story for who has to
//! repeat it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, FileType};
use std::path::{Path, PathBuf};

use crate::changer::Changer;
use crate::changes::Random;
use crate::sandbox::Sandbox;
use crate::{caller, skip};

/// The directory that is looked at, and one beside it, which no watch over the first would see.
pub const INSIDE: &str = "src";
pub const OUTSIDE: &str = "out";

/// Words in capitals are chosen: FILE, DIR and NAME (of any type) are there, PATH and OTHER are places where something
/// may be, OTHER always outside.
const KINDS: [&str; 49] = [
    "write PATH SIZE LETTER",
    "write FILE SIZE LETTER",
    "edit FILE LETTER",
    "edit FILE LETTER",
    "replace FILE SIZE LETTER",
    "copy FILE FILE",
    "truncate FILE SIZE",
    "unlink FILE",
    "mkfifo PATH",
    "symlink PATH TARGET",
    "mkdir PATH",
    "unpack PATH SIZE LETTER",
    "unpack PATH SIZE LETTER",
    "rmtree DIR",
    "chmod DIR MODE",
    "chmod NAME MODE",
    // So that not all of the tree is out of reach before long.
    "chmod DIR 755",
    "chmod DIR 755",
    "chown NAME OWNER",
    "setxattr NAME LETTER",
    "utimens NAME SECONDS",
    "rename FILE PATH",
    "rename DIR PATH",
    "rename NAME NAME",
    "rename NAME OTHER",
    "link FILE PATH",
    "link FILE OTHER",
    "link FILE OTHER",
    "exchange NAME NAME",
    "exchange src out",
    "displace DIR PATH",
    "displace DIR PATH",
    "swap DIR PATH",
    // Writers that stay.
    "open SLOT FILE",
    "map SLOT FILE",
    "map SLOT FILE",
    "map SLOT FILE",
    "close SLOT",
    "unmap SLOT",
    "store SLOT OFFSET LETTER",
    "store SLOT OFFSET LETTER",
    "store SLOT OFFSET LETTER",
    "leave SLOT OFFSET LETTER",
    "leave SLOT OFFSET LETTER",
    "msync SLOT",
    "pwrite SLOT OFFSET SIZE LETTER",
    "aio SLOT OFFSET SIZE LETTER",
    "ftruncate SLOT SIZE",
    "fallocate SLOT OFFSET SIZE HOW",
];
/// Where the kernel lets the caller have a ring.
const BY_RING: &str = "uring SLOT OFFSET SIZE LETTER";
/// Where the file system has flags.
const FLAG: &str = "chattr DIR";
/// Done by root.
const MOUNTS: [&str; 3] = ["bind DIR DIR", "tmpfs DIR", "unmount"];

/// A kind that asks for what is not there is tried again with other words.
const ATTEMPTS: usize = 40;
/// So much of the story is told.
const REMEMBERED: usize = 60;

pub struct RandomChanges {
    changer: Changer,
    mounter: Option<Changer>,
    scratch: PathBuf,
    /// Those that the caller may give a file to.
    owners: [u32; 2],
    kinds: Vec<&'static str>,
    /// Those that have not had their turn since all had: none is left out for long.
    deck: Vec<&'static str>,
    /// How often each command was done, by its first word.
    done: BTreeMap<&'static str, usize>,
    story: VecDeque<String>,
}

impl RandomChanges {
    /// In the scratch directory, where [`INSIDE`] and [`OUTSIDE`] are.
    pub fn new(sandbox: &Sandbox) -> RandomChanges {
        let mut changer = Changer::start(sandbox);
        let mounter = caller::is_root().then(|| Changer::start_as_root(sandbox));
        let mut kinds = KINDS.to_vec();
        match mounter {
            Some(_) => kinds.extend(MOUNTS),
            None => skip::loudly("mounts among random changes", "they need root"),
        }
        let attempt = ["write out/a 9 R", "open 0 out/a", "uring 0 0 9 r", "close 0", "unlink out/a"];
        if attempt.map(|command| changer.try_to(command)) == [true; 5] {
            kinds.push(BY_RING);
        } else {
            skip::loudly("writes by io_uring among random changes", "the kernel refuses them");
        }
        if changer.try_to(&format!("chattr {OUTSIDE}")) {
            kinds.push(FLAG);
        } else {
            skip::loudly("flags among random changes", "the file system has none");
        }
        let own = sandbox.caller.uid();
        let owners = [own, if own == 0 { 12345 } else { own }];
        let done = kinds.iter().map(|kind| (first_word(kind), 0)).collect();
        RandomChanges {
            changer,
            mounter,
            scratch: sandbox.scratch(),
            owners,
            kinds,
            deck: Vec::new(),
            done,
            story: VecDeque::new(),
        }
    }

    pub fn make_one(&mut self, random: &mut Random) {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.kinds);
        }
        let kind = self.deck.swap_remove(random.below(self.deck.len()));
        for _ in 0..ATTEMPTS {
            let command = self.fill(kind, random);
            let changer = match &mut self.mounter {
                Some(mounter) if MOUNTS.contains(&kind) => mounter,
                _ => &mut self.changer,
            };
            let done = changer.try_to(&command);
            // One that failed may have got half-way.
            self.tell(format!("{command}{}", if done { "" } else { "    # no" }));
            if done {
                *self.done.get_mut(first_word(kind)).expect("every kind is counted") += 1;
                return;
            }
        }
    }

    fn fill(&self, kind: &str, random: &mut Random) -> String {
        let word = |word: &str| match word {
            "FILE" => self.existing(random, FileType::is_file),
            "DIR" => self.existing(random, FileType::is_dir),
            "NAME" => self.existing(random, |_| true),
            "PATH" => path(tree(random), random),
            "OTHER" => path(OUTSIDE, random),
            "SLOT" => random.below(4).to_string(),
            // Less than a page, one, and several.
            "SIZE" => random.one_of(&["0", "1", "9", "4096", "10000"]).to_owned(),
            "OFFSET" => random.one_of(&["0", "0", "5", "4096", "9999"]).to_owned(),
            "LETTER" => char::from(b'A' + random.below(26) as u8).to_string(),
            "TARGET" => random.one_of(&["a", "../b", "b/c", "never"]).to_owned(),
            "MODE" => random.one_of(&["755", "755", "755", "775", "777", "711", "644", "0"]).to_owned(),
            "OWNER" => random.one_of(&self.owners).to_string(),
            "SECONDS" => random.one_of(&["1", "1000000000"]).to_owned(),
            "HOW" => random.one_of(&["h", "z", "a"]).to_owned(),
            literal => literal.to_owned(),
        };
        kind.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// A path of one of these that are there; if there is none, any.
    fn existing(&self, random: &mut Random, is_one: fn(&FileType) -> bool) -> String {
        let tree = tree(random);
        let mut found = Vec::new();
        find(&self.scratch, tree, is_one, &mut found);
        found.sort_unstable();
        if found.is_empty() { path(tree, random) } else { found.swap_remove(random.below(found.len())) }
    }

    /// Adds a line to the story.
    pub fn tell(&mut self, line: String) {
        self.story.push_back(line);
        if self.story.len() > REMEMBERED {
            self.story.pop_front();
        }
    }

    /// What was told last.
    pub fn story(&self) -> String {
        self.story.iter().map(|line| format!("{line}\n")).collect()
    }

    /// How often each command was done.
    pub fn done(&self) -> &BTreeMap<&'static str, usize> {
        &self.done
    }
}

fn first_word(kind: &'static str) -> &'static str {
    kind.split(' ').next().expect("a split has a first part")
}

fn tree(random: &mut Random) -> &'static str {
    random.one_of(&[INSIDE, INSIDE, INSIDE, OUTSIDE])
}

/// What is below `dir`, no link followed. What cannot be listed now has nothing below it.
fn find(scratch: &Path, dir: &str, is_one: fn(&FileType) -> bool, found: &mut Vec<String>) {
    for entry in fs::read_dir(scratch.join(dir)).into_iter().flatten().flatten() {
        let path = format!("{dir}/{}", entry.file_name().display());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            find(scratch, &path, is_one, found);
        }
        if is_one(&kind) {
            found.push(path);
        }
    }
}

/// Short ones more often: more lies below them.
fn path(start: &str, random: &mut Random) -> String {
    let mut path = start.to_owned();
    for _ in 0..random.one_of(&[1, 1, 1, 2, 2, 3]) {
        path.push('/');
        path.push_str(random.one_of(&["a", "b", "c", "d"]));
    }
    path
}
