//! A segment brought up to date: whoever forgets what it is told to forget holds nothing stale, and keeps the rest.

#[path = "support/changes.rs"]
mod changes;
mod support;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::iter::zip;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use changes::{NAMES, Random, change_something};
use support::*;
use vfsrun_union::describe::{
    BranchSpec, Conditions, Live, Names, Rule, RuleAction, Scope, SegmentSpec, SizeRange, Symlinks,
};
use vfsrun_union::{Attr, Effort, Errno, FileKind, Forget, Node, Segment, Time};

/// What a kernel keeps of a segment: every answer, until it is told to forget it.
struct Kernel {
    segment: Segment,
    names: HashMap<(u64, OsString), Option<Arc<Node>>>,
    attrs: HashMap<u64, Attr>,
    /// What an overlay takes from what was looked up, without a question: permissions, owner and group.
    rights: HashMap<u64, (u16, u32, u32)>,
    listings: HashMap<u64, Vec<(OsString, FileKind)>>,
    contents: HashMap<u64, Result<Vec<u8>, Errno>>,
    /// Forgotten, which the segment hears later.
    leaving: Vec<Arc<Node>>,
}

impl Kernel {
    fn of(segment: Segment) -> Kernel {
        let segment = segment.with_name_indexes(1);
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

    fn list(&mut self, dir: &Arc<Node>) -> Vec<(OsString, FileKind)> {
        let segment = &self.segment;
        let listing = self.listings.entry(dir.ino());
        listing.or_insert_with(|| listing_of(segment, dir)).clone()
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
        // Numbers are told by the first name that shows them.
        let mut first_names = HashMap::new();
        let mut dirs = vec![(PathBuf::from("/"), self.segment.root())];
        while let Some((path, dir)) = dirs.pop() {
            let listed = self.list(&dir);
            let (attr, rights) = (self.attr(&dir), self.rights[&dir.ino()]);
            answers.push(format!("{}: {attr:?} {rights:?} {listed:?}", path.display()));
            let names: BTreeSet<_> = listed
                .iter()
                .map(|(name, _)| name.as_os_str())
                .chain(absent.iter().map(OsStr::new))
                .collect();
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
                        let shown = self.attrs[&node.ino()].ino;
                        let first = first_names.entry(shown).or_insert_with(|| path.clone()).display();
                        format!("{attr:?} {rights:?} {:?} first {first}", self.content(&node))
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

fn listing_of(segment: &Segment, dir: &Arc<Node>) -> Vec<(OsString, FileKind)> {
    segment.list(dir).unwrap().into_iter().map(|entry| (entry.name, entry.kind)).collect()
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
    let whole = |world: &mut World, dirs: &[PathBuf; 2]| SegmentSpec {
        branches: branches(world, dirs),
        ..SegmentSpec::default()
    };
    let (kept, least) = rounds_among(&NAMES, seed, watched, count, whole);
    assert!(watched.is_none() || least <= 3, "seed {seed}: {least} nodes in doubt at least");
    kept
}

/// The same with other names. Returns also how many nodes were in doubt at least.
fn rounds_among(
    names: &[&str],
    seed: u64,
    watched: Option<Live>,
    count: usize,
    whole: impl Fn(&mut World, &[PathBuf; 2]) -> SegmentSpec,
) -> (usize, usize) {
    let mut world = World::new();
    let dirs =
        [world.dir("one", &[("a/b", "1"), ("c", "->a/b")]), world.dir("two", &[("a/c", "2"), ("b/", "")])];
    let mut spec = whole(&mut world, &dirs);
    spec.branches.iter_mut().for_each(|branch| branch.live = watched.unwrap_or_default());
    let build = || Kernel::of(world.build_spec(spec.clone()).unwrap());
    let mut random = Random(seed);
    let (mut kernel, mut kept, mut least) = (build(), 0, usize::MAX);
    for round in 0..count {
        for _ in 0..=random.below(3) {
            let dir = random.below(dirs.len());
            change_something(names, &dirs[dir], &mut random);
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
        let (seen, told) = (kernel.everything(names), build().everything(names));
        let differences: Vec<_> = seen.iter().zip(&told).filter(|(seen, told)| seen != told).collect();
        assert!(differences.is_empty(), "seed {seed}, round {round}: {differences:#?}");
        assert_eq!(seen.len(), told.len(), "seed {seed}, round {round}");
        assert!(kernel.segment.faults().is_empty(), "seed {seed}, round {round}: nothing changed meanwhile");
        if watched.is_some() {
            kernel.segment.settle(Effort::All, || true);
            least = least.min(kernel.segment.in_doubt());
        }
    }
    (kept, least)
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

/// What these hide and show changes while the directory does not: with a file's size, with what a link leads to.
#[test]
fn rules_that_look_closer_are_mended_after_any_change() {
    let names = ["a", "b", "c", "a.x", "a.y", "a.Z"];
    let (all, view) = (Symlinks::All, Scope::View);
    let links = [(Symlinks::Never, view), (all, Scope::Branch), (all, Scope::Host), (all, view)];
    let ways = WATCHED.into_iter().flat_map(|watched| links.map(|links| (watched, links)));
    for (seed, (watched, (symlinks, scope))) in zip(50.., ways) {
        let (kept, _) = rounds_among(&names, seed, watched, 100, |world, dirs| {
            let mut one = following(symlinks, scope, world.host(&dirs[0]));
            one.rules = vec![
                large(RuleAction::Hide).0,
                named(Names::Pattern("c".into()), of_types(&[FileKind::Directory]), RuleAction::Hide),
                priority(&["x", "y", "z"]),
            ];
            let mut two = world.host(&dirs[1]);
            let denied = Names::Regex("^a/.*b$".into());
            two.rules = vec![named(denied, of_types(&[FileKind::Regular]), RuleAction::Deny)];
            let rules = vec![priority(&["z", "y"])];
            SegmentSpec { branches: vec![one, two], rules, ..SegmentSpec::default() }
        });
        assert!(kept > 80 || (symlinks, scope) == (all, view), "seed {seed}: {kept} of 100");
    }
}

/// Of a branch with these files, rules and links, after `change`, with what is watched and without.
#[track_caller]
fn is_mended(files: &[(&str, &str)], (rule, links): (Rule, Symlinks), change: impl Fn(&Path)) {
    for watched in [false, true] {
        let mut world = World::new();
        let tree = world.dir("tree", files);
        settle();
        let mut branch = following(links, Scope::Host, world.host(&tree));
        branch.rules = vec![rule.clone()];
        if links == Symlinks::Never {
            branch.scope = Scope::View;
        }
        let build = || Kernel::of(world.build(vec![branch.clone()]));
        let (mut kernel, absent) = (build(), ["f", "g", "a.x", "a.y", "link"]);
        let before = kernel.everything(&absent);
        if watched {
            kernel.segment.settle(Effort::All, || true);
        }
        change(&tree);
        assert!(kernel.bring_up_to_date(), "watched: {watched}");
        let after = kernel.everything(&absent);
        assert_ne!(after, before, "watched: {watched}");
        assert_eq!(after, build().everything(&absent), "watched: {watched}");
        kernel.leaving.clear();
        assert!(kernel.bring_up_to_date(), "nothing was found to have changed: watched: {watched}");
    }
}

fn large(action: RuleAction) -> (Rule, Symlinks) {
    let size = Some(SizeRange { min: 5, max: u64::MAX });
    (named(Names::All, Conditions { size, ..Conditions::default() }, action), Symlinks::Never)
}

#[test]
fn a_large_file_that_is_truncated_is_shown() {
    let truncate = |tree: &Path| fs::write(tree.join("d/f"), "1").unwrap();
    is_mended(&[("d/f", "large"), ("d/g", "1")], large(RuleAction::Hide), truncate);
    is_mended(&[("d/f", "large"), ("d/g", "1")], large(RuleAction::Deny), truncate);
}

#[test]
fn a_small_file_that_grows_is_hidden() {
    let grow = |tree: &Path| fs::write(tree.join("d/f"), "large").unwrap();
    is_mended(&[("d/f", "1")], large(RuleAction::Hide), grow);
    is_mended(&[("d/f", "1")], large(RuleAction::Deny), grow);
}

#[test]
fn a_file_that_is_given_away_is_hidden_and_shown_again_when_it_comes_back() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root gives files away");
    }
    let conditions = Conditions { owners: Some(vec![1]), ..Conditions::default() };
    let rule = || (named(Names::All, conditions.clone(), RuleAction::Hide), Symlinks::Never);
    let give = |owner| move |tree: &Path| chown(tree.join("d/f"), Some(owner), None).unwrap();
    is_mended(&[("d/f", "x")], rule(), give(1));
    let (mut world, dirs) = (World::new(), [("d/f", "x")]);
    let tree = world.dir("tree", &dirs);
    give(1)(&tree);
    settle();
    let mut branch = world.host(&tree);
    branch.rules = vec![rule().0];
    let mut kernel = Kernel::of(world.build(vec![branch]));
    assert_eq!(names(&kernel.segment, "d"), [""; 0]);
    let seen = kernel.everything(&["f"]);
    give(0)(&tree);
    assert!(kernel.bring_up_to_date());
    assert_ne!(kernel.everything(&["f"]), seen);
    assert_eq!(names(&kernel.segment, "d"), ["f"]);
}

#[test]
fn a_link_that_was_hidden_for_its_targets_type_is_shown_when_that_is_another() {
    let rule = named(Names::Pattern("link".into()), of_types(&[FileKind::Directory]), RuleAction::Hide);
    let change = |tree: &Path| {
        fs::remove_dir(tree.join("t/d")).unwrap();
        fs::write(tree.join("t/d"), "x").unwrap();
    };
    is_mended(&[("l/link", "->../t/d"), ("t/d/", "")], (rule, Symlinks::All), change);
    // The same said by a pattern alone.
    let rule = Rule::pattern("link/", RuleAction::Hide);
    is_mended(&[("l/link", "->../t/d"), ("t/d/", "")], (rule, Symlinks::All), change);
}

#[test]
fn rivals_that_come_and_go_are_noticed() {
    let rule = || (priority(&["x", "y"]), Symlinks::All);
    is_mended(&[("d/a.y", "1")], rule(), |tree| fs::write(tree.join("d/a.x"), "1").unwrap());
    is_mended(&[("d/a.y", "1"), ("d/a.x", "1")], rule(), |tree| {
        fs::remove_file(tree.join("d/a.x")).unwrap();
    });
    let followed = [("d/a.y", "1"), ("d/a.x", "->../t/f")];
    is_mended(&followed, rule(), |tree| {
        fs::create_dir(tree.join("t")).unwrap();
        fs::write(tree.join("t/f"), "1").unwrap();
    });
    is_mended(&[followed[0], followed[1], ("t/f", "1")], rule(), |tree| {
        fs::remove_file(tree.join("t/f")).unwrap();
    });
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
