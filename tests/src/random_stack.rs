//! A random stack: host directories over each other, and what a program does in their union, in commands of
//! tests/fixtures/actor.c.

use crate::changes::Random;

/// Where the union is seen.
pub const PLACE: &str = "/src";

/// As in the commands: `%` and two digits are a byte.
const NAMES: [&str; 16] = [
    "a",
    "a",
    "a",
    "b",
    "b",
    "b",
    "c",
    "c",
    "d",
    "d",
    "%FF%FE",
    "a%20b",
    "a%0Ab",
    ".wh.a",
    "%E6%97%A5",
    ".h",
];

/// What a branch is made of. Words in capitals are chosen. HERE is a place where there may be nothing yet.
const PARTS: [&str; 10] = [
    "write HERE SIZE LETTER",
    "write HERE SIZE LETTER",
    "write HERE SIZE LETTER",
    "mkdirs HERE",
    "mkdirs HERE",
    "symlink TARGET HERE",
    "symlink TARGET HERE",
    "link PATH HERE",
    "mkfifo HERE",
    "mksocket HERE",
];

/// What some of that has.
const ATTRIBUTES: [&str; 2] = ["setxattr PATH user.a LETTER", "setxattr PATH user.b LETTER"];

/// What a program does, some of it more often. FILE, DIR, LINK and PATH (of any type) are most often there, and now and then
/// something else, or the same in other words.
const DEEDS: [&str; 72] = [
    "open FILE FLAGS",
    "open FILE FLAGS",
    "open PATH FLAGS",
    "open NEW wcx",
    "write FILE SIZE LETTER",
    "write FILE SIZE LETTER",
    "write NEW SIZE LETTER",
    "append FILE SIZE LETTER",
    "append FILE SIZE LETTER",
    "pwrite FILE OFFSET SIZE LETTER",
    "map FILE OFFSET LETTER",
    "map FILE OFFSET LETTER",
    "read FILE",
    "read FILE",
    "copy FILE FILE",
    "tmpfile DIR NEW",
    "truncate FILE SIZE",
    "truncate FILE SIZE",
    "mkdir NEW MODE",
    "mkdir NEW MODE",
    "rmdir DIR",
    "rmdir DIR",
    "rmdir DIR",
    "unlink FILE",
    "unlink FILE",
    "unlink PATH",
    "unlink LINK",
    "rename FILE NEW",
    "rename FILE FILE",
    "rename DIR DIR",
    "rename DIR NEW",
    "rename PATH NEW",
    "rename LINK NEW",
    "rename PATH PATH",
    "noreplace PATH NEW",
    "noreplace FILE PATH",
    "exchange PATH PATH",
    "exchange FILE FILE",
    "link FILE NEW",
    "link FILE NEW",
    "link PATH NEW",
    "linktarget LINK NEW",
    "symlink TARGET NEW",
    "mkfifo NEW",
    "mksocket NEW",
    "chmod FILE MODE",
    "chmod DIR MODE",
    "chmod PATH 755",
    "chmod PATH 755",
    "access PATH RIGHTS",
    "setxattr FILE XATTR LETTER",
    "setxattr DIR XATTR LETTER",
    "removexattr PATH XATTR",
    "xattrs PATH",
    "list DIR",
    "list DIR",
    "list DIR",
    "utimens PATH SECONDS",
    "utimens PATH SECONDS",
    "readlink LINK",
    "readlink LINK",
    "stat PATH",
    "stat LINK",
    "lstat PATH",
    "hold SLOT PATH FLAGS",
    "hold SLOT FILE r",
    "hold SLOT FILE b",
    "hold SLOT DIR rd",
    "fstat SLOT",
    "readheld SLOT",
    "writeheld SLOT OFFSET SIZE LETTER",
    "HELD",
];

/// Of what is held, one of these.
const HELD: [&str; 5] =
    ["ftruncate SLOT SIZE", "fchmod SLOT MODE", "listheld SLOT", "mkdirat SLOT NAME", "readheld SLOT"];

/// Who mounts an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounter {
    /// Of the machine.
    Root,
    /// Root of a user namespace, as for an action.
    NamespaceRoot,
}

impl Mounter {
    /// Which attributes are read as marks.
    fn space(self) -> &'static str {
        match self {
            Mounter::Root => "trusted",
            Mounter::NamespaceRoot => "user",
        }
    }
}

/// Several cases, each in a directory of its own, so that one union shows them all.
pub struct RandomStack {
    /// The first one is on top.
    pub branches: Vec<Branch>,
}

pub struct Branch {
    /// Whether it may delete what is below.
    pub is_marked: bool,
    /// The commands that make its part of each case, with one dump of what was made.
    pub parts: Vec<Vec<String>>,
}

/// Something that is there: its path, and its type in the letter of the actor.
pub type Known = (String, char);

impl RandomStack {
    pub fn new(random: &mut Random, cases: usize, mounter: Mounter, has_xattrs: bool) -> RandomStack {
        let count = 1 + random.below(4);
        let mut branches: Vec<_> = (0..count)
            .map(|index| Branch { is_marked: index + 1 < count && random.below(3) > 0, parts: Vec::new() })
            .collect();
        for case in 0..cases {
            let mut builder = Builder {
                chooser: Chooser { random, case, known: Vec::new() },
                below: Vec::new(),
                has_xattrs,
            };
            // From the bottom: marks speak of what is below them.
            for branch in branches.iter_mut().rev() {
                branch.parts.push(builder.build(branch.is_marked.then_some(mounter.space())));
            }
        }
        RandomStack { branches }
    }
}

/// What is done in a case whose branches have what is `known`. Where root mounts, no hard links are made: nowhere but
/// there does the kernel know that they are one file with that of the branch (docs/spec.md, "What an action's root does not
/// do").
pub fn deeds(
    random: &mut Random,
    case: usize,
    known: Vec<Known>,
    mounter: Mounter,
    count: usize,
) -> Vec<String> {
    let mut chooser = Chooser { random, case, known };
    let links = |deed: &String| deed.starts_with("link");
    std::iter::repeat_with(|| chooser.fill_one_of(&DEEDS))
        .filter(|deed| mounter != Mounter::Root || !links(deed))
        .take(count)
        .collect()
}

/// The directory of a case in each branch.
pub fn directory(case: usize) -> String {
    format!("case{case}")
}

struct Builder<'a> {
    /// Knows what the branch was tried to be given, of whatever type it is.
    chooser: Chooser<'a>,
    /// The same of the branches below.
    below: Vec<Known>,
    has_xattrs: bool,
}

impl Builder<'_> {
    fn build(&mut self, marks: Option<&str>) -> Vec<String> {
        let mut commands = Vec::new();
        self.add(".");
        for _ in 0..self.chooser.random.below(14) {
            let path = self.chooser.short_path();
            commands.extend(parent(&path).map(|parent| format!("mkdirs {parent}")));
            commands.push(self.chooser.fill_one_of(&PARTS).replace("HERE", &path));
            self.add(&path);
        }
        if self.has_xattrs {
            commands.extend((0..4).map(|_| self.chooser.fill_one_of(&ATTRIBUTES)));
        }
        if let Some(space) = marks {
            self.mark(space, &mut commands);
        }
        // While the builder, too, can see all of it.
        commands.push("dump .".to_owned());
        self.settle(&mut commands);
        self.below.append(&mut self.chooser.known);
        commands
    }

    /// Deletes most often what is there below.
    fn mark(&mut self, space: &str, commands: &mut Vec<String>) {
        // Where attributes make whiteouts, their directory and the branch itself say so, in place of `opaque`.
        let by_attribute = self.chooser.random.below(3) == 0;
        for _ in 0..self.chooser.random.below(6) {
            let path = match &self.below[..] {
                [] => self.chooser.short_path(),
                below => below[self.chooser.random.below(below.len())].0.clone(),
            };
            let above = parent(&path).unwrap_or(".").to_owned();
            commands.push(format!("mkdirs {above}"));
            match self.chooser.random.below(3) {
                0 if by_attribute => {
                    commands.extend([format!("unlink {path}"), format!("write {path} 0 A")]);
                    commands.push(format!("setxattr {path} {space}.overlay.whiteout y"));
                    commands.extend(
                        [&above, ".."].map(|dir| format!("setxattr {dir}/. {space}.overlay.opaque x")),
                    );
                }
                0 => {
                    commands.push(format!("mkdirs {path}"));
                    commands.push(format!("setxattr {path}/. {space}.overlay.opaque y"));
                }
                _ => commands.push(format!("whiteout {path}")),
            }
            self.add(&path);
        }
    }

    /// The path and those above it.
    fn add(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        self.chooser.known.extend(ends.map(|end| (path[..end].to_owned(), 'd')));
    }

    /// Modes and times, those of a directory after those of what is in it. No set-id bit on a file: a view shows none.
    fn settle(&mut self, commands: &mut Vec<String>) {
        self.chooser.known.sort_unstable();
        self.chooser.known.dedup();
        for (path, _) in self.chooser.known.clone().iter().rev() {
            let mode = match self.chooser.random.below(16) {
                0..7 => None,
                7 => Some("/. 2755"),
                8 => Some("/. 1777"),
                9 => Some("/. 555"),
                10..12 => Some(self.chooser.random.one_of(&[" 644", " 0", " 400", " 111", " 222"])),
                _ => Some(self.chooser.random.one_of(&[" 755", " 700"])),
            };
            // Who cannot go into the case tries nothing.
            let mode = mode.filter(|mode| path != "." || mode.ends_with("55"));
            commands.extend(mode.map(|mode| format!("lchmod {path}{mode}")));
            commands.push(format!("utimens {path} {}", self.chooser.seconds()));
        }
    }
}

/// Fills in words.
struct Chooser<'a> {
    random: &'a mut Random,
    case: usize,
    known: Vec<Known>,
}

impl Chooser<'_> {
    fn fill_one_of(&mut self, kinds: &[&str]) -> String {
        let kind = self.random.one_of(kinds);
        kind.split(' ').map(|word| self.fill(word)).collect::<Vec<_>>().join(" ")
    }

    fn fill(&mut self, word: &str) -> String {
        let random = &mut *self.random;
        match word {
            "FILE" => return self.path("-"),
            "DIR" => return self.path("d"),
            "LINK" => return self.path("l"),
            "PATH" => return self.path("-dlps"),
            "NEW" => return self.new_path(),
            "TARGET" => return self.target(),
            "HELD" => return self.fill_one_of(&HELD),
            "SECONDS" => return self.seconds(),
            "NAME" => random.one_of(&NAMES),
            "SLOT" => random.one_of(&["0", "1", "2", "3"]),
            // Less than a page, one, and several.
            "SIZE" => random.one_of(&["0", "1", "9", "4096", "10000"]),
            "OFFSET" => random.one_of(&["0", "0", "5", "4096", "9999"]),
            "LETTER" => random.one_of(&["A", "B", "C", "D", "E", "F", "G"]),
            "MODE" => {
                random.one_of(&["755", "755", "755", "700", "644", "555", "711", "1777", "2755", "4755", "0"])
            }
            "RIGHTS" => random.one_of(&["0", "1", "2", "4", "6"]),
            "XATTR" => random.one_of(&["user.a", "user.a", "user.b", "trusted.a", "security.a", "a"]),
            "FLAGS" => random.one_of(&[
                "r", "r", "w", "b", "bt", "wt", "wa", "rd", "rn", "p", "pn", "rc", "wc", "wcx", "bct", "rdn",
                "bd", "wcn",
            ]),
            literal => literal,
        }
        .to_owned()
    }

    fn short_path(&mut self) -> String {
        let names = (0..=self.random.below(3)).map(|_| self.random.one_of(&NAMES));
        names.collect::<Vec<_>>().join("/")
    }

    /// Most often in a directory that is there.
    fn new_path(&mut self) -> String {
        match self.random.below(8) {
            0 => self.short_path(),
            _ => format!("{}/{}", self.path("d"), self.random.one_of(&NAMES)),
        }
    }

    /// Of something that is there and has one of these types.
    fn path(&mut self, types: &str) -> String {
        let fitting: Vec<_> = self.known.iter().filter(|(_, kind)| types.contains(*kind)).collect();
        let path = match self.random.below(16) {
            0 => self.short_path(),
            1 => self.random.one_of(&self.known.iter().collect::<Vec<_>>()).0.clone(),
            _ if fitting.is_empty() => self.short_path(),
            _ => fitting[self.random.below(fitting.len())].0.clone(),
        };
        match self.random.below(32) {
            0 => format!("{path}/"),
            1 => format!("./{path}"),
            2 => format!("{PLACE}/{}/{path}", directory(self.case)),
            3 => format!("{}/../{path}", self.short_path()),
            _ => path,
        }
    }

    /// None leads out of the case, nor to its directory, from which a program could then go up.
    fn target(&mut self) -> String {
        let known = self.known[self.random.below(self.known.len())].0.clone();
        let path = if known == "." || self.random.below(4) == 0 { self.short_path() } else { known };
        match self.random.below(5) {
            0 => format!("{PLACE}/{}/{path}", directory(self.case)),
            1 => format!("../{}/{path}", directory(self.case)),
            _ => path,
        }
    }

    /// Long ago.
    fn seconds(&mut self) -> String {
        (1 + self.random.below(1_500_000_000)).to_string()
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}
