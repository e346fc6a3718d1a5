//! A segment against a model: the same random branches merged naively in memory, and links against the kernel.

mod support;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{OFlags, XattrFlags};
use support::*;
use vfsrun_layers::Kind;
use vfsrun_sys::beneath;
use vfsrun_union::describe::{
    BranchSpec, Conditions, Names, Policy, Rule, RuleAction, Scope, SegmentSpec, SizeRange, SkeletonContent,
    SkeletonEntry, Symlinks, TypeConflict, Xattrs,
};
use vfsrun_union::{Account, Errno, Explanation, Fate, FileKind, Segment, stack};

/// Few, so that branches meet; `a-` sorts between `a` and what is below it, the last two are rivals.
const NAMES: [&str; 4] = ["a", "a-", "a.x", "a.Y"];
/// Those with an extension less often.
const OFTEN: [&str; 6] = ["a", "a", "a-", "a-", "a.x", "a.Y"];

#[derive(Clone, Debug, PartialEq)]
enum Leaf {
    Dir,
    Opaque,
    File(String),
    Link(String),
    Whiteout,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    Host,
    Layer,
    Inputs,
    Skeleton,
}

#[derive(Clone, Debug)]
struct ModelBranch {
    of: Of,
    at: Vec<&'static str>,
    leaves: Vec<(Vec<&'static str>, Leaf)>,
    rules: ModelRules,
    /// Whether the extended attributes of a host's files are shown.
    passes: bool,
}

/// Every file of the host has it, with its text as the value.
const XATTR: &str = "user.text";

/// Of a branch or of the view: what hides, and of two rivals the one that comes first.
#[derive(Clone, Debug, Default)]
struct ModelRules {
    hide: Vec<Hide>,
    priority: Option<[&'static str; 2]>,
}

#[derive(Clone, Debug)]
struct Hide {
    names: Option<Pattern>,
    taken_back: bool,
    types: Option<Vec<FileKind>>,
    size: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Name(&'static str),
    DirName(&'static str),
    Rooted(Vec<&'static str>),
    Regex(&'static str, Matches),
}

type Matches = fn(&str) -> bool;

/// Regular expressions, and the same in the model's own words.
const REGEXES: [(&str, Matches); 5] = [
    ("^a/", |path| path.starts_with("a/")),
    ("-$", |path| path.ends_with('-')),
    (r"\.[xY]$", |path| path.ends_with(".x") || path.ends_with(".Y")),
    ("^[^/]*$", |path| !path.contains('/')),
    ("a.a", |path| path.as_bytes().windows(3).any(|three| three[0] == b'a' && three[2] == b'a')),
];

impl Pattern {
    fn text(&self) -> String {
        match self {
            Pattern::Name(name) => (*name).to_owned(),
            Pattern::DirName(name) => format!("{name}/"),
            Pattern::Rooted(path) => format!("/{}", path.join("/")),
            Pattern::Regex(regex, _) => (*regex).to_owned(),
        }
    }

    fn matches(&self, path: &[&str], is_dir: bool) -> bool {
        match self {
            Pattern::Name(name) => path.last() == Some(name),
            Pattern::DirName(name) => is_dir && path.last() == Some(name),
            Pattern::Rooted(rooted) => path == rooted,
            Pattern::Regex(_, matches) => matches(&path.join("/")),
        }
    }
}

impl Hide {
    fn fits(&self, path: &[&str], leaf: &Leaf) -> bool {
        let kind = leaf.kind();
        let has_size = self.size.is_none_or(|(min, max)| match leaf {
            Leaf::File(text) => (min..=max).contains(&(text.len() as u64)),
            _ => false,
        });
        self.names.as_ref().is_none_or(|names| names.matches(path, kind == FileKind::Directory))
            && self.types.as_ref().is_none_or(|types| types.contains(&kind))
            && has_size
    }

    fn rule(&self) -> Rule {
        let text =
            |pattern: &Pattern| format!("{}{}", if self.taken_back { "!" } else { "" }, pattern.text());
        let names = match &self.names {
            None => Names::All,
            Some(pattern @ Pattern::Regex(..)) => Names::Regex(text(pattern)),
            Some(pattern) => Names::Pattern(text(pattern)),
        };
        let size = self.size.map(|(min, max)| SizeRange { min, max });
        let conditions = Conditions { types: self.types.clone(), size, ..Conditions::default() };
        named(names, conditions, RuleAction::Hide)
    }
}

impl ModelRules {
    /// What the last that fits says, if one does.
    fn hides(&self, path: &[&str], leaf: &Leaf) -> Option<bool> {
        let last = self.hide.iter().rev().find(|hide| !path.is_empty() && hide.fits(path, leaf));
        last.map(|hide| !hide.taken_back)
    }

    /// Whether another file comes before `name`, of a directory with these leaves.
    fn outranks<'a>(&self, name: &str, leaf: impl Fn(&'static str) -> Option<&'a Leaf>) -> bool {
        self.priority
            .is_some_and(|[first, second]| name == second && matches!(leaf(first), Some(Leaf::File(_))))
    }

    fn rules(&self) -> Vec<Rule> {
        // In lower case, as a user would write them.
        let extension = |name: &str| name.trim_start_matches("a.").to_lowercase();
        let extensions = |names: [&str; 2]| Rule::ExtensionPriority(names.map(extension).to_vec());
        let priority = self.priority.map(extensions);
        self.hide.iter().map(Hide::rule).chain(priority).collect()
    }
}

impl Leaf {
    fn kind(&self) -> FileKind {
        match self {
            Leaf::Dir | Leaf::Opaque => FileKind::Directory,
            Leaf::File(_) => FileKind::Regular,
            Leaf::Link(_) => FileKind::Symlink,
            Leaf::Whiteout => FileKind::Whiteout,
        }
    }
}

type Tree = BTreeMap<Vec<&'static str>, Leaf>;

impl ModelBranch {
    /// What the branch holds: leaves that contradict earlier ones, or that this kind of branch cannot have, left out.
    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for (path, leaf) in &self.leaves {
            let possible = self.of == Of::Layer
                || matches!(leaf, Leaf::File(_))
                || self.of != Of::Inputs && matches!(leaf, Leaf::Dir | Leaf::Link(_));
            let parents = (1..path.len()).map(|end| path[..end].to_vec());
            let blocked = parents
                .clone()
                .any(|dir| tree.get(&dir).is_some_and(|leaf| !matches!(leaf, Leaf::Dir | Leaf::Opaque)));
            if !possible || blocked || tree.contains_key(path) {
                continue;
            }
            for dir in parents {
                tree.entry(dir).or_insert(Leaf::Dir);
            }
            tree.insert(path.clone(), leaf.clone());
        }
        tree
    }

    /// At a path of the view, whatever other names come first.
    fn get_alone<'a>(&self, tree: &'a Tree, path: &[&'static str], view: &ModelRules) -> Option<&'a Leaf> {
        let (leaf, below) = match path.strip_prefix(self.at.as_slice()) {
            Some(below) if !below.is_empty() => (tree.get(below)?, below),
            _ if self.at.starts_with(path) => (&Leaf::Dir, &[][..]),
            _ => return None,
        };
        let hides = view.hides(path, leaf).or_else(|| self.rules.hides(below, leaf));
        (!hides.unwrap_or(false)).then_some(leaf)
    }

    /// At a path of the view.
    fn get(&self, tree: &Tree, path: &[&'static str], view: &ModelRules) -> Option<Leaf> {
        let leaf = self.get_alone(tree, path, view)?;
        let (name, dir) = path.split_last()?;
        let sibling = |name| self.get_alone(tree, &[dir, &[name]].concat(), view);
        let outranked = leaf.kind() == FileKind::Regular && self.rules.outranks(name, sibling);
        (!outranked).then(|| leaf.clone())
    }

    /// As [`ModelBranch::get`], whatever its rules hide.
    fn has(&self, tree: &Tree, path: &[&'static str]) -> bool {
        match path.strip_prefix(self.at.as_slice()) {
            Some(below) => below.is_empty() || tree.contains_key(below),
            None => self.at.starts_with(path),
        }
    }

    fn build(&self, world: &mut World, number: usize) -> BranchSpec {
        let mut spec = match self.of {
            Of::Host => self.build_host(world, number),
            Of::Layer => self.build_layer(world),
            Of::Inputs => self.build_inputs(world, number),
            Of::Skeleton => self.build_skeleton(world),
        };
        spec.label = number.to_string();
        spec.at = self.at.iter().collect();
        spec.rules = self.rules.rules();
        spec
    }

    /// Files of equal content are one file.
    fn build_host(&self, world: &mut World, number: usize) -> BranchSpec {
        let files: Vec<(String, String)> = self
            .tree()
            .into_iter()
            .map(|(path, leaf)| match leaf {
                Leaf::File(text) => (path.join("/"), text),
                Leaf::Link(target) => (path.join("/"), format!("->{target}")),
                _ => (format!("{}/", path.join("/")), String::new()),
            })
            .collect();
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let dir = world.dir(&host_dir(number), &files);
        let mut first = BTreeMap::new();
        for (path, leaf) in self.tree() {
            let Leaf::File(text) = leaf else { continue };
            let file = dir.join(path.join("/"));
            match first.entry(text) {
                Entry::Vacant(entry) => drop(entry.insert(file)),
                Entry::Occupied(first) => {
                    std::fs::remove_file(&file).unwrap();
                    std::fs::hard_link(first.get(), file).unwrap();
                }
            }
        }
        for (path, text) in
            files.iter().filter(|(path, text)| !path.ends_with('/') && !text.starts_with("->"))
        {
            rustix::fs::lsetxattr(dir.join(path), XATTR, text.as_bytes(), XattrFlags::empty()).unwrap();
        }
        let xattrs = if self.passes { Xattrs::Pass(Vec::new()) } else { Xattrs::Off };
        BranchSpec { xattrs, ..world.host(&dir) }
    }

    /// What makes it one file with what is elsewhere in the branch.
    fn file_of(&self, world: &World, number: usize, path: &[&'static str]) -> Option<(usize, u64, u64)> {
        let below = path.strip_prefix(self.at.as_slice()).filter(|_| self.of == Of::Host)?;
        let file = world.path().join(host_dir(number)).join(below.join("/"));
        let file = std::fs::symlink_metadata(file).unwrap();
        (!file.is_dir()).then(|| (number, file.dev(), file.ino()))
    }

    fn build_layer(&self, world: &mut World) -> BranchSpec {
        let entries = self.tree().into_iter().map(|(path, leaf)| {
            let kind = match leaf {
                Leaf::Dir => Kind::Directory { opaque: false },
                Leaf::Opaque => Kind::Directory { opaque: true },
                Leaf::File(text) => world.blob(&text),
                Leaf::Link(target) => Kind::Symlink { target: target.into() },
                Leaf::Whiteout => Kind::Whiteout,
            };
            entry(&path.join("/"), kind)
        });
        let entries = entries.collect();
        world.layer(entries)
    }

    fn build_inputs(&self, world: &mut World, number: usize) -> BranchSpec {
        let base = world.dir(&format!("base-{number}"), &[]);
        let mut files = Vec::new();
        for (index, (path, leaf)) in self.tree().into_iter().enumerate() {
            if let Leaf::File(text) = leaf {
                std::fs::write(base.join(index.to_string()), text).unwrap();
                files.push(format!(r#""{}":"{index}""#, path.join("/")));
            }
        }
        world.inputs(&base, &format!("{{{}}}", files.join(",")))
    }

    fn build_skeleton(&self, world: &mut World) -> BranchSpec {
        let entries = self.tree().into_iter().map(|(path, leaf)| SkeletonEntry {
            path: path.iter().collect(),
            mode: 0o755,
            owner: (0, 0),
            content: match leaf {
                Leaf::File(text) => SkeletonContent::File(text),
                Leaf::Link(target) => SkeletonContent::Symlink(target.into()),
                _ => SkeletonContent::Directory,
            },
        });
        world.skeleton(entries.collect())
    }
}

fn host_dir(number: usize) -> String {
    format!("host-{number}")
}

/// The whole merged tree: path → leaf, and the branches that it comes from.
fn merge(branches: &[ModelBranch], view: &ModelRules) -> BTreeMap<Vec<&'static str>, (Leaf, Vec<usize>)> {
    let trees: Vec<Tree> = branches.iter().map(ModelBranch::tree).collect();
    let mut merged = BTreeMap::new();
    let mut dirs = vec![(Vec::new(), (0..branches.len()).collect::<Vec<_>>())];
    while let Some((dir, here)) = dirs.pop() {
        for name in NAMES {
            let mut path: Vec<&'static str> = dir.clone();
            path.push(name);
            let found: Vec<(usize, Leaf)> = here
                .iter()
                .filter_map(|index| Some((*index, branches[*index].get(&trees[*index], &path, view)?)))
                .collect();
            let Some((_, first)) = found.first() else { continue };
            let mut merging = Vec::new();
            for (index, leaf) in &found {
                match leaf {
                    Leaf::Dir => merging.push(*index),
                    Leaf::Opaque => {
                        merging.push(*index);
                        break;
                    }
                    _ => break,
                }
            }
            if merging.is_empty() {
                merged.insert(path, (first.clone(), vec![found[0].0]));
            } else {
                merged.insert(path.clone(), (Leaf::Dir, merging.clone()));
                dirs.push((path, merging));
            }
        }
        let path = |name| [dir.as_slice(), &[name]].concat();
        let files =
            NAMES.into_iter().filter(|name| matches!(merged.get(&path(name)), Some((Leaf::File(_), _))));
        let leaf = |name| merged.get(&path(name)).map(|(leaf, _)| leaf);
        let outranked = |name: &&str| view.outranks(name, leaf);
        let outranked: Vec<_> = files.filter(outranked).collect();
        for name in outranked {
            merged.remove(&path(name));
        }
    }
    merged
}

/// The whole tree as the segment serves it, through list and lookup.
fn served(segment: &Segment) -> BTreeMap<String, (FileKind, String)> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![(String::new(), segment.root())];
    while let Some((path, dir)) = dirs.pop() {
        for listed in segment.list(&dir).unwrap() {
            let (node, attr) = segment.lookup_attr(&dir, &listed.name).unwrap();
            assert_eq!(listed.kind, node.kind(), "{path}/{:?}", listed.name);
            assert_eq!(listed.ino, attr.ino, "{path}/{:?}", listed.name);
            assert_eq!(attr.kind, node.kind());
            assert_eq!(segment.attr(&node).unwrap(), attr);
            let path = format!("{path}/{}", listed.name.to_str().unwrap());
            let content = match node.kind() {
                FileKind::Regular => read(segment, &path).unwrap(),
                FileKind::Symlink => String::from_utf8(segment.read_link(&node).unwrap()).unwrap(),
                _ => String::new(),
            };
            if node.kind() == FileKind::Regular {
                assert_eq!(attr.size, content.len() as u64, "{path}");
            }
            all.insert(path.clone(), (node.kind(), content));
            if node.kind() == FileKind::Directory {
                dirs.push((path, node));
            }
        }
    }
    all
}

fn path() -> impl Strategy<Value = Vec<&'static str>> {
    // Short ones more often.
    prop_oneof![Just(1), Just(1), Just(2), Just(2), Just(3)]
        .prop_flat_map(|length| prop::collection::vec(prop::sample::select(&OFTEN[..]), length))
}

fn leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![
        4 => "[xyz]{0,3}".prop_map(Leaf::File),
        2 => Just(Leaf::Dir),
        2 => Just(Leaf::Opaque),
        2 => Just(Leaf::Whiteout),
        1 => target().prop_map(Leaf::Link),
    ]
}

fn target() -> impl Strategy<Value = String> {
    let part = prop::sample::select(&["a", "a-", "..", "."][..]);
    (any::<bool>(), prop::collection::vec(part, 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let name = || prop::sample::select(&NAMES[..]);
    prop_oneof![
        name().prop_map(Pattern::Name),
        name().prop_map(Pattern::DirName),
        path().prop_map(Pattern::Rooted),
        prop::sample::select(&REGEXES[..]).prop_map(|(regex, matches)| Pattern::Regex(regex, matches)),
    ]
}

fn hide() -> impl Strategy<Value = Hide> {
    let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink];
    let types = prop::option::weighted(0.2, prop::sample::subsequence(kinds.to_vec(), 1..3));
    let size = prop::option::weighted(0.2, (0..3_u64, 0..4_u64));
    (prop::option::weighted(0.9, pattern()), any::<bool>(), types, size).prop_map(
        |(names, taken_back, types, size)| {
            // What hides everything has nothing to take back.
            let taken_back = taken_back && names.is_some();
            let names =
                if types.is_none() && size.is_none() { names.or(Some(Pattern::Name("a"))) } else { names };
            Hide { names, taken_back, types, size }
        },
    )
}

fn model_rules() -> impl Strategy<Value = ModelRules> {
    let priority = prop::sample::select(&[["a.x", "a.Y"], ["a.Y", "a.x"]][..]);
    (prop::collection::vec(hide(), 0..3), prop::option::of(priority))
        .prop_map(|(hide, priority)| ModelRules { hide, priority })
}

fn branches() -> impl Strategy<Value = Vec<ModelBranch>> {
    let of = prop::sample::select(&[Of::Host, Of::Layer, Of::Layer, Of::Inputs, Of::Skeleton][..]);
    let at = prop_oneof![Just(0), Just(0), Just(0), Just(1), Just(2)]
        .prop_flat_map(|length| prop::collection::vec(prop::sample::select(&NAMES[..]), length));
    let leaves = prop::collection::vec((path(), leaf()), 0..14);
    let branch = (of, at, leaves, model_rules(), any::<bool>())
        .prop_map(|(of, at, leaves, rules, passes)| ModelBranch { of, at, leaves, rules, passes });
    prop::collection::vec(branch, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_segment_is_what_the_model_says(
        branches in branches(),
        view in model_rules(),
        indexed in any::<bool>(),
        bottom in any::<bool>(),
    ) {
        // Directories too young to tell whether they change have no index.
        let wait = || if indexed { settle() };
        let mut world = World::new();
        let specs = branches.iter().enumerate().map(|(number, branch)| branch.build(&mut world, number));
        let specs: Vec<_> = specs.collect();
        let spec = SegmentSpec { branches: specs, rules: view.rules(), bottom, ..SegmentSpec::default() };
        let segment = world.build_spec(spec).unwrap().with_name_indexes(usize::from(indexed));
        let wanted: BTreeMap<String, (FileKind, String)> = merge(&branches, &view)
            .into_iter()
            .filter(|(_, (leaf, _))| !bottom || !matches!(leaf, Leaf::Whiteout))
            .map(|(path, (leaf, _))| (format!("/{}", path.join("/")), match leaf {
                Leaf::Dir | Leaf::Opaque => (FileKind::Directory, String::new()),
                Leaf::File(text) => (FileKind::Regular, text),
                Leaf::Link(target) => (FileKind::Symlink, target),
                Leaf::Whiteout => (FileKind::Whiteout, String::new()),
            }))
            .collect();
        wait();
        prop_assert_eq!(served(&segment), wanted.clone());
        // And nothing can be looked up that is not listed.
        for a in NAMES { for b in NAMES { for c in NAMES {
            for path in [format!("/{a}"), format!("/{a}/{b}"), format!("/{a}/{b}/{c}")] {
                if !wanted.contains_key(&path) {
                    prop_assert!(matches!(kind(&segment, &path), Err(Errno::NOENT | Errno::NOTDIR)), "{}", path);
                }
            }
        }}}
        prop_assert_eq!(segment.faults(), []);
        let passing = |from: &[usize]| from.iter().any(|index| branches[*index].of == Of::Host && branches[*index].passes);
        prop_assert!(segment.needs_xattrs() || !branches.iter().any(|branch| branch.of == Of::Host && branch.passes));
        for (path, (leaf, from)) in merge(&branches, &view) {
            let Leaf::File(text) = leaf else { continue };
            let node = get(&segment, &path.join("/")).unwrap();
            let told = segment.get_xattr(&node, OsStr::new(XATTR)).ok();
            prop_assert_eq!(told, passing(&from).then(|| text.into_bytes()), "{:?}", path);
            prop_assert_eq!(segment.list_xattrs(&node).unwrap().len(), usize::from(passing(&from)), "{:?}", path);
        }
    }

    #[test]
    fn names_show_one_number_exactly_if_they_are_one_file_of_a_host_branch(
        branches in branches(),
        view in model_rules(),
        held_before in any::<u64>(),
    ) {
        let mut world = World::new();
        let specs = branches.iter().enumerate().map(|(number, branch)| branch.build(&mut world, number));
        let specs: Vec<_> = specs.collect();
        let spec = SegmentSpec { branches: specs, rules: view.rules(), ..SegmentSpec::default() };
        let segment = world.build_spec(spec).unwrap();
        let merged = merge(&branches, &view);
        let node = |path: &[&'static str]| get(&segment, &path.join("/")).unwrap();
        let paths = || merged.keys().enumerate();
        let before: Vec<_> = paths()
            .filter(|(index, _)| held_before >> (index % 64) & 1 == 1)
            .map(|(_, path)| node(path))
            .collect();
        let held: Vec<_> = merged.keys().map(|path| node(path)).collect();
        drop(before);
        let (mut files, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for (path, node) in merged.keys().zip(&held) {
            let from = merged[path].1[0];
            let file = branches[from].file_of(&world, from, path);
            let file = (file, file.is_none().then_some(path));
            let number = segment.attr(node).unwrap().ino;
            prop_assert_eq!(*files.entry(file).or_insert(number), number, "{:?}", path);
            prop_assert_eq!(*numbers.entry(number).or_insert(file), file, "{:?}", path);
            let (name, dir) = path.split_last().unwrap();
            let listed = segment.list(&get(&segment, &dir.join("/")).unwrap()).unwrap();
            let listed = listed.iter().find(|entry| entry.name == *name).unwrap();
            prop_assert_eq!(listed.ino, number, "{:?}", path);
        }
        let own: BTreeSet<_> = held.iter().map(|node| node.ino()).collect();
        prop_assert_eq!(own.len(), held.len());
        drop(held);
        prop_assert_eq!(world.context.inodes.len(), 1);
    }

    #[test]
    fn an_explanation_says_what_lookup_does_and_what_every_branch_has(
        branches in branches(),
        view in model_rules(),
    ) {
        let mut world = World::new();
        let specs = branches.iter().enumerate().map(|(number, branch)| branch.build(&mut world, number));
        let specs: Vec<_> = specs.collect();
        let spec = SegmentSpec { branches: specs, rules: view.rules(), ..SegmentSpec::default() };
        let segment = world.build_spec(spec).unwrap();
        let trees: Vec<Tree> = branches.iter().map(ModelBranch::tree).collect();
        let merged = merge(&branches, &view);
        for path in all_paths() {
            let text = path.join("/");
            let explained = segment.explain(Path::new(&text));
            prop_assert_eq!(explained.outcome.map(|outcome| outcome.kind), kind(&segment, &text), "{}", text);
            let having = (0..branches.len()).filter(|index| branches[*index].has(&trees[*index], &path));
            let told: Vec<usize> = explained.accounts.iter().map(|account| account.branch).collect();
            prop_assert_eq!(told, having.collect::<Vec<_>>(), "{}", text);
            let shown = explained.accounts.iter().filter(|account| match account.fate {
                Fate::Shown | Fate::Merged => true,
                Fate::Whiteout => explained.outcome.is_ok_and(|outcome| outcome.kind == FileKind::Whiteout),
                _ => false,
            });
            let from = merged.get(&path).map(|(_, from)| from.clone()).unwrap_or_default();
            prop_assert_eq!(shown.map(|account| account.branch).collect::<Vec<_>>(), from, "{}", text);
        }
    }

    /// Whatever else a segment can do: no model says what is right, but lookup says what is.
    #[test]
    fn an_explanation_agrees_with_lookup_under_links_rules_and_conflicts(
        branches in branches(),
        settings in prop::collection::vec((symlinks(), scope(), action()), 6),
        types in prop::sample::select(&[TypeConflict::First, TypeConflict::Error][..]),
        policy in prop::sample::select(&[Policy::First, Policy::Newest, Policy::Error][..]),
        view_rule in (pattern(), action()),
    ) {
        let mut world = World::new();
        let specs = branches.iter().zip(&settings).enumerate().map(|(number, (branch, (links, scope, action)))| {
            let spec = branch.build(&mut world, number);
            let is_host = branch.of == Of::Host;
            let scope = if *scope == Scope::Host && !is_host { Scope::View } else { *scope };
            let mut spec = following(*links, scope, spec);
            for rule in &mut spec.rules {
                // `only` goes with plain patterns alone.
                if let Rule::Names(rule) = rule
                    && *action != RuleAction::Only
                {
                    rule.action = *action;
                }
            }
            spec
        });
        let specs: Vec<_> = specs.collect();
        let rules = rules(&[(view_rule.0.text().as_str(), view_rule.1)]);
        let spec = SegmentSpec { branches: specs, types, policy, rules, ..SegmentSpec::default() };
        let segment = world.build_spec(spec).unwrap();
        for path in all_paths() {
            let path = path.join("/");
            let explained = segment.explain(Path::new(&path));
            prop_assert_eq!(explained.outcome.map(|outcome| outcome.kind), kind(&segment, &path), "{}", path);
            let count = |of: fn(&Fate) -> bool| explained.accounts.iter().filter(|account| of(&account.fate)).count();
            let shown = count(|fate| matches!(fate, Fate::Shown));
            match explained.outcome {
                Ok(outcome) if outcome.denied => prop_assert_ne!(count(|fate| matches!(fate, Fate::Denied { .. })), 0),
                Ok(outcome) if outcome.kind == FileKind::Whiteout => {
                    prop_assert_ne!(count(|fate| matches!(fate, Fate::Whiteout)), 0);
                }
                Ok(_) => prop_assert_eq!(shown, 1, "{}: {:?}", path, explained),
                Err(_) => prop_assert_eq!(shown, 0, "{}: {:?}", path, explained),
            }
        }
    }

    #[test]
    fn a_stack_of_segments_of_one_branch_each_is_explained_as_all_branches_in_one(branches in branches()) {
        let mut world = World::new();
        let specs = branches.iter().enumerate().map(|(number, branch)| branch.build(&mut world, number));
        let specs: Vec<_> = specs.collect();
        let one = world.build(specs.clone());
        let stack: Vec<Segment> = specs.into_iter().map(|spec| world.build(vec![spec])).collect();
        for path in all_paths() {
            let path = path.join("/");
            let (one, stack) = (one.explain(Path::new(&path)), stack::explain(&stack, Path::new(&path)));
            // A whiteout is something to the overlay above a segment, and nothing in the overlay.
            let kind = |explained: &Explanation| {
                let kind = explained.outcome.ok().map(|outcome| outcome.kind);
                kind.filter(|kind| *kind != FileKind::Whiteout)
            };
            prop_assert_eq!(kind(&one), kind(&stack), "{}", path);
            // An overlay takes a directory's attributes from the first segment, be it there only for what lies below.
            let fates = |explained: Explanation| {
                let fate = |account: Account| match account.fate {
                    Fate::Shown => (account.label, Fate::Merged),
                    fate => (account.label, fate),
                };
                explained.accounts.into_iter().map(fate).collect::<Vec<_>>()
            };
            prop_assert_eq!(fates(one), fates(stack), "{}", path);
        }
    }

    #[test]
    fn links_lead_where_the_kernel_says(
        leaves in prop::collection::vec((path(), prop_oneof![leaf(), target().prop_map(Leaf::Link)]), 0..12),
        mode in prop::sample::select(&[Symlinks::Directory, Symlinks::Regular, Symlinks::All][..]),
        of_view in any::<bool>(),
    ) {
        let mut world = World::new();
        let branch = ModelBranch { of: Of::Host, at: Vec::new(), leaves, rules: ModelRules::default(), passes: false };
        let host = branch.build(&mut world, 0);
        let scope = if of_view { Scope::View } else { Scope::Branch };
        let segment = world.build_spec(SegmentSpec {
            branches: vec![following(mode, scope, host)],
            ..SegmentSpec::default()
        }).unwrap();
        let root = world.path().join("host-0");
        let (mut inos, mut files) = (BTreeSet::new(), BTreeMap::new());
        let mut held = Vec::new();
        for (path, leaf) in branch.tree() {
            let path = path.join("/");
            let node = get(&segment, &path).unwrap();
            let is_link = matches!(leaf, Leaf::Link(_));
            let (wanted, ino) = by_kernel(&root, &path, is_link, mode);
            prop_assert_eq!(node.kind(), wanted, "{}", path);
            prop_assert_eq!(node.shown() as u32, ino as u32, "{}", path);
            prop_assert!(inos.insert(node.ino()), "{} has the inode number of another name", path);
            // A link that is followed is no name of its target.
            let file = (ino, (is_link && wanted != FileKind::Symlink).then(|| path.clone()));
            prop_assert_eq!(files.entry(node.shown()).or_insert_with(|| file.clone()), &file);
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let listed = segment.list(&get(&segment, dir).unwrap()).unwrap();
            let listed = listed.iter().find(|entry| entry.name == OsStr::new(name)).unwrap();
            prop_assert_eq!((listed.kind, listed.ino), (node.kind(), node.shown()), "{}", path);
            held.push(node);
        }
    }
}

fn symlinks() -> impl Strategy<Value = Symlinks> {
    prop::sample::select(&[Symlinks::Never, Symlinks::Directory, Symlinks::Regular, Symlinks::All][..])
}

fn scope() -> impl Strategy<Value = Scope> {
    prop::sample::select(&[Scope::View, Scope::Branch, Scope::Host][..])
}

fn action() -> impl Strategy<Value = RuleAction> {
    prop::sample::select(&[RuleAction::Hide, RuleAction::Deny, RuleAction::Only][..])
}

/// Of one to three names.
fn all_paths() -> Vec<Vec<&'static str>> {
    let longer = |paths: &[Vec<&'static str>]| -> Vec<Vec<&'static str>> {
        let with = |path: &Vec<&'static str>| NAMES.map(|name| [path.as_slice(), &[name]].concat());
        paths.iter().flat_map(with).collect()
    };
    let one = longer(&[Vec::new()]);
    let two = longer(&one);
    [one, two.clone(), longer(&two)].concat()
}

/// Type and inode number of what is to be shown at `path`.
fn by_kernel(root: &Path, path: &str, is_link: bool, mode: Symlinks) -> (FileKind, u64) {
    let own = std::fs::symlink_metadata(root.join(path)).unwrap();
    let kind = |meta: &std::fs::Metadata| match meta.file_type() {
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        kind => {
            assert!(!kind.is_char_device());
            FileKind::Regular
        }
    };
    if !is_link {
        return (kind(&own), own.ino());
    }
    // O_PATH without O_NOFOLLOW: the last link is followed, too.
    let target = beneath::open_in_root(File::open(root).unwrap(), Path::new(path), OFlags::PATH);
    let target = target.ok().map(|fd| File::from(fd).metadata().unwrap());
    let followed = target.filter(|target| match mode {
        Symlinks::Never => false,
        Symlinks::Directory => target.is_dir(),
        Symlinks::Regular => target.is_file(),
        Symlinks::All => true,
    });
    followed.map_or((FileKind::Symlink, own.ino()), |target| (kind(&target), target.ino()))
}
