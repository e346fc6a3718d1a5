//! A segment brought up to date: whoever forgets what it is told to forget holds nothing stale, and keeps the rest.

#[path = "support/changes.rs"]
mod changes;
mod support;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::iter::zip;
use std::path::PathBuf;
use std::sync::Arc;

use changes::{NAMES, Random, change_something};
use support::*;
use vfsrun_union::describe::{BranchSpec, Live, RuleAction, Scope, SegmentSpec, Symlinks};
use vfsrun_union::{Attr, Effort, Errno, FileKind, Forget, Node, Segment, Time};

/// What a kernel keeps of a segment: every answer, until it is told to forget it.
struct Kernel {
    segment: Segment,
    names: HashMap<(u64, OsString), Option<Arc<Node>>>,
    attrs: HashMap<u64, Attr>,
    /// What an overlay takes from what was looked up, without a question: permissions, owner and group.
    rights: HashMap<u64, (u16, u32, u32)>,
    listings: HashMap<u64, Vec<OsString>>,
    contents: HashMap<u64, Result<Vec<u8>, Errno>>,
    /// Forgotten, which the segment hears later.
    leaving: Vec<Arc<Node>>,
}

impl Kernel {
    fn of(segment: Segment) -> Kernel {
        let root = segment.root();
        let rights = HashMap::from([(root.ino(), rights(&segment.attr(&root).unwrap()))]);
        Kernel {
            segment,
            names: HashMap::new(),
            attrs: HashMap::new(),
            rights,
            listings: HashMap::new(),
            contents: HashMap::new(),
            leaving: Vec::new(),
        }
    }

    /// Other errors than an absence are not kept.
    fn look_up(&mut self, dir: &Arc<Node>, name: &OsStr) -> Result<Option<Arc<Node>>, Errno> {
        if let Some(known) = self.names.get(&(dir.ino(), name.to_owned())) {
            return Ok(known.clone());
        }
        let found = match self.segment.lookup_attr(dir, name) {
            Ok((node, attr)) => {
                self.rights.insert(node.ino(), rights(&attr));
                self.attrs.insert(node.ino(), attr);
                Some(node)
            }
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        self.names.insert((dir.ino(), name.to_owned()), found.clone());
        Ok(found)
    }

    fn attr(&mut self, node: &Node) -> Attr {
        let segment = &self.segment;
        let attr = self.attrs.entry(node.ino()).or_insert_with(|| segment.attr(node).unwrap());
        Attr { ino: 0, atime: Time::default(), ..*attr }
    }

    fn list(&mut self, dir: &Arc<Node>) -> Vec<OsString> {
        let segment = &self.segment;
        let listing = self.listings.entry(dir.ino());
        listing.or_insert_with(|| names_of(segment, dir)).clone()
    }

    fn content(&mut self, node: &Node) -> Result<Vec<u8>, Errno> {
        let segment = &self.segment;
        self.contents.entry(node.ino()).or_insert_with(|| content_of(segment, node)).clone()
    }

    /// False: only a new segment helps.
    fn bring_up_to_date(&mut self) -> bool {
        self.leaving.clear();
        let mut forgotten = Vec::new();
        let mended = self.segment.bring_up_to_date(|what| {
            forgotten.push(match what {
                Forget::Name { dir, name } => (dir, Some(name.to_owned())),
                Forget::Node { ino } => (ino, None),
            });
        });
        for (ino, name) in forgotten {
            match name {
                Some(name) => self.forget_name(ino, name),
                None => self.forget_node(ino),
            }
        }
        mended
    }

    fn forget_name(&mut self, dir: u64, name: OsString) {
        let Some(Some(node)) = self.names.remove(&(dir, name)) else { return };
        let below: Vec<_> = self.names.keys().filter(|(dir, _)| *dir == node.ino()).cloned().collect();
        for (dir, name) in below {
            self.forget_name(dir, name);
        }
        self.forget_node(node.ino());
        self.leaving.push(node);
    }

    fn forget_node(&mut self, ino: u64) {
        self.attrs.remove(&ino);
        self.listings.remove(&ino);
        self.contents.remove(&ino);
    }

    /// Everything that can be asked, the names in `absent` in each directory included; a line for each answer.
    fn everything(&mut self, absent: &[&str]) -> Vec<String> {
        let mut answers = Vec::new();
        let mut dirs = vec![(PathBuf::from("/"), self.segment.root())];
        while let Some((path, dir)) = dirs.pop() {
            let listed = self.list(&dir);
            let (attr, rights) = (self.attr(&dir), self.rights[&dir.ino()]);
            answers.push(format!("{}: {attr:?} {rights:?} {listed:?}", path.display()));
            let names: BTreeSet<_> =
                listed.iter().map(OsString::as_os_str).chain(absent.iter().map(OsStr::new)).collect();
            for name in names {
                let path = path.join(name);
                let answer = match self.look_up(&dir, name) {
                    Err(errno) => errno.to_string(),
                    Ok(None) => "absent".to_owned(),
                    Ok(Some(node)) if node.kind() == FileKind::Directory => {
                        dirs.push((path.clone(), node));
                        "directory".to_owned()
                    }
                    Ok(Some(node)) => {
                        let (attr, rights) = (self.attr(&node), self.rights[&node.ino()]);
                        format!("{attr:?} {rights:?} {:?}", self.content(&node))
                    }
                };
                answers.push(format!("{}: {answer}", path.display()));
            }
        }
        answers
    }
}

fn rights(attr: &Attr) -> (u16, u32, u32) {
    (attr.perm, attr.uid, attr.gid)
}

fn names_of(segment: &Segment, dir: &Arc<Node>) -> Vec<OsString> {
    segment.list(dir).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn content_of(segment: &Segment, node: &Node) -> Result<Vec<u8>, Errno> {
    if node.kind() == FileKind::Symlink {
        return segment.read_link(node);
    }
    let mut content = Vec::new();
    fs::File::from(segment.open(node)?).read_to_end(&mut content).unwrap();
    Ok(content)
}

/// The same with nothing under watch, and with what `live` lets be watched.
const WATCHED: [Option<Live>; 3] = [None, Some(Live::Auto), Some(Live::Watch)];

/// Rounds of random changes; after each, what the kernel holds or asks must be what a new segment says. Returns in how
/// many of them the old segment could be kept.
fn rounds(
    seed: u64,
    watched: Option<Live>,
    count: usize,
    branches: impl Fn(&mut World, &[PathBuf; 2]) -> Vec<BranchSpec>,
) -> usize {
    let mut world = World::new();
    let dirs =
        [world.dir("one", &[("a/b", "1"), ("c", "->a/b")]), world.dir("two", &[("a/c", "2"), ("b/", "")])];
    let mut spec = SegmentSpec { branches: branches(&mut world, &dirs), ..SegmentSpec::default() };
    spec.branches.iter_mut().for_each(|branch| branch.live = watched.unwrap_or_default());
    let build = || Kernel::of(world.build_spec(spec.clone()).unwrap());
    let mut random = Random(seed);
    let (mut kernel, mut kept, mut least) = (build(), 0, usize::MAX);
    for round in 0..count {
        for _ in 0..=random.below(3) {
            let dir = random.below(dirs.len());
            change_something(&dirs[dir], &mut random);
        }
        if random.below(40) == 0 {
            settle();
        }
        if watched.is_some() && random.below(4) == 0 {
            // Somebody was still at it when the changes came.
            kernel.segment.settle(Effort::All, || true);
        }
        if kernel.bring_up_to_date() {
            kept += 1;
        } else {
            kernel = build();
        }
        let (seen, told) = (kernel.everything(&NAMES), build().everything(&NAMES));
        let differences: Vec<_> = seen.iter().zip(&told).filter(|(seen, told)| seen != told).collect();
        assert!(differences.is_empty(), "seed {seed}, round {round}: {differences:#?}");
        assert_eq!(seen.len(), told.len(), "seed {seed}, round {round}");
        assert!(kernel.segment.faults().is_empty(), "seed {seed}, round {round}: nothing changed meanwhile");
        if watched.is_some() {
            kernel.segment.settle(Effort::All, || true);
            least = least.min(kernel.segment.in_doubt());
        }
    }
    assert!(watched.is_none() || least <= 3, "seed {seed}: {least} nodes in doubt at least");
    kept
}

#[test]
fn a_directory_is_mended_after_any_change() {
    for (seed, watched) in zip(0.., WATCHED) {
        let kept = rounds(seed, watched, 250, |world, dirs| vec![world.host(&dirs[0])]);
        assert!(kept > 200, "seed {seed}: {kept} of 250");
    }
}

#[test]
fn merged_directories_are_mended_after_any_change() {
    for (seed, watched) in zip(10.., WATCHED) {
        let kept = rounds(seed, watched, 250, |world, dirs| vec![world.host(&dirs[0]), world.host(&dirs[1])]);
        assert_eq!(kept, 250);
    }
}

#[test]
fn a_branch_below_the_root_and_one_with_rules_are_mended_after_any_change() {
    for (seed, watched) in zip(20.., WATCHED) {
        let kept = rounds(seed, watched, 250, |world, dirs| {
            let mut ruled = world.host(&dirs[1]);
            ruled.rules = rules(&[("hidden", RuleAction::Hide), ("b/", RuleAction::Hide)]);
            vec![at("deep/in", world.host(&dirs[0])), ruled]
        });
        assert_eq!(kept, 250);
    }
}

#[test]
fn followed_links_are_mended_after_any_change() {
    let scopes = [Scope::Branch, Scope::Host, Scope::Branch];
    for ((seed, scope), watched) in zip(zip(30.., scopes), WATCHED) {
        let kept = rounds(seed, watched, 250, |world, dirs| {
            vec![following(Symlinks::All, scope, world.host(&dirs[0])), world.host(&dirs[1])]
        });
        assert!(kept > 200, "seed {seed}: {kept} of 250");
    }
}

#[test]
fn links_followed_in_the_view_make_a_new_segment_after_a_change() {
    let kept = rounds(40, None, 200, |world, dirs| {
        vec![following(Symlinks::All, Scope::View, world.host(&dirs[0])), world.host(&dirs[1])]
    });
    assert!(kept < 100, "{kept}");
}

#[test]
fn only_what_changed_is_forgotten() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "old"), ("d/g", "kept"), ("e/h", "kept")]);
    settle();
    let branches = vec![world.host(&tree)];
    let mut kernel = Kernel::of(world.build(branches));
    kernel.everything(&["no"]);
    let node = get(&kernel.segment, "d/f").unwrap();
    fs::write(tree.join("d/f"), "new").unwrap();
    fs::write(tree.join("e/no"), "now").unwrap();
    let mut forgotten = Vec::new();
    let mended = kernel.segment.bring_up_to_date(|what| forgotten.push(format!("{what:?}")));
    assert!(mended);
    let (d, e, f) = (node.parent().unwrap().ino(), get(&kernel.segment, "e").unwrap().ino(), node.ino());
    let mut expected = [
        format!("{:?}", Forget::Node { ino: f }),
        format!("{:?}", Forget::Name { dir: d, name: OsStr::new("f") }),
        format!("{:?}", Forget::Node { ino: e }),
        format!("{:?}", Forget::Name { dir: e, name: OsStr::new("no") }),
    ];
    forgotten.sort();
    expected.sort();
    assert_eq!(forgotten, expected);
    assert!(Arc::ptr_eq(&node, &get(&kernel.segment, "d/f").unwrap()), "an edited file keeps its inode");
}

#[test]
fn a_file_with_a_writer_is_mended_each_time() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    let writer = OpenOptions::new().append(true).open(tree.join("f")).unwrap();
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let node = get(&segment, "f").unwrap();
    let forgets = || {
        let mut any = false;
        assert!(segment.bring_up_to_date(|_| any = true));
        any
    };
    segment.open(&node).unwrap();
    assert!(forgets());
    assert!(!forgets(), "nobody has read it since");
    segment.open(&node).unwrap();
    drop(writer);
    assert!(forgets(), "what was read may be from before the last store");
    segment.open(&node).unwrap();
    assert!(!forgets());
}
