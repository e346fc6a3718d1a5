//! A segment against a model: the same random branches merged naively in memory, and links against the kernel.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::OFlags;
use support::*;
use vfsrun_layers::Kind;
use vfsrun_sys::beneath;
use vfsrun_union::describe::{
    BranchSpec, RuleAction, Scope, SegmentSpec, SkeletonContent, SkeletonEntry, Symlinks,
};
use vfsrun_union::{Errno, FileKind, Segment};

/// Few, so that branches meet; `a-` sorts between `a` and what is below it.
const NAMES: [&str; 2] = ["a", "a-"];

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
    /// Pattern and whether it is taken back.
    hide: Vec<(Pattern, bool)>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Name(&'static str),
    DirName(&'static str),
    Rooted(Vec<&'static str>),
}

impl Pattern {
    fn text(&self) -> String {
        match self {
            Pattern::Name(name) => (*name).to_owned(),
            Pattern::DirName(name) => format!("{name}/"),
            Pattern::Rooted(path) => format!("/{}", path.join("/")),
        }
    }

    fn matches(&self, path: &[&str], is_dir: bool) -> bool {
        match self {
            Pattern::Name(name) => path.last() == Some(name),
            Pattern::DirName(name) => is_dir && path.last() == Some(name),
            Pattern::Rooted(rooted) => path == rooted,
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

    fn hides(&self, path: &[&str], is_dir: bool) -> bool {
        let last = self.hide.iter().rev().find(|(pattern, _)| pattern.matches(path, is_dir));
        last.is_some_and(|(_, taken_back)| !taken_back)
    }

    /// At a path of the view.
    fn get(&self, tree: &Tree, path: &[&'static str]) -> Option<Leaf> {
        if path.len() <= self.at.len() {
            return self.at.starts_with(path).then_some(Leaf::Dir);
        }
        let below = path.strip_prefix(self.at.as_slice())?;
        let leaf = tree.get(below)?.clone();
        let is_dir = matches!(leaf, Leaf::Dir | Leaf::Opaque);
        (!self.hides(below, is_dir)).then_some(leaf)
    }

    fn build(&self, world: &mut World, number: usize) -> BranchSpec {
        let mut spec = match self.of {
            Of::Host => self.build_host(world, number),
            Of::Layer => self.build_layer(world),
            Of::Inputs => self.build_inputs(world, number),
            Of::Skeleton => self.build_skeleton(world),
        };
        spec.at = self.at.iter().collect();
        let patterns: Vec<String> = self
            .hide
            .iter()
            .map(|(pattern, taken_back)| format!("{}{}", if *taken_back { "!" } else { "" }, pattern.text()))
            .collect();
        let list: Vec<_> = patterns.iter().map(|pattern| (pattern.as_str(), RuleAction::Hide)).collect();
        spec.rules = rules(&list);
        spec
    }

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
        let dir = world.dir(&format!("host-{number}"), &files);
        world.host(&dir)
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

/// The whole merged tree: path → leaf.
fn merge(branches: &[ModelBranch]) -> Tree {
    let trees: Vec<Tree> = branches.iter().map(ModelBranch::tree).collect();
    let mut merged = Tree::new();
    let mut dirs = vec![(Vec::new(), (0..branches.len()).collect::<Vec<_>>())];
    while let Some((dir, here)) = dirs.pop() {
        for name in NAMES {
            let mut path: Vec<&'static str> = dir.clone();
            path.push(name);
            let found: Vec<(usize, Leaf)> = here
                .iter()
                .filter_map(|index| Some((*index, branches[*index].get(&trees[*index], &path)?)))
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
                merged.insert(path, first.clone());
            } else {
                merged.insert(path.clone(), Leaf::Dir);
                dirs.push((path, merging));
            }
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
        .prop_flat_map(|length| prop::collection::vec(prop::sample::select(&NAMES[..]), length))
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
    ]
}

fn branches() -> impl Strategy<Value = Vec<ModelBranch>> {
    let of = prop::sample::select(&[Of::Host, Of::Layer, Of::Layer, Of::Inputs, Of::Skeleton][..]);
    let at = prop_oneof![Just(0), Just(0), Just(0), Just(1), Just(2)]
        .prop_flat_map(|length| prop::collection::vec(prop::sample::select(&NAMES[..]), length));
    let leaves = prop::collection::vec((path(), leaf()), 0..10);
    let hide = prop::collection::vec((pattern(), any::<bool>()), 0..3);
    let branch =
        (of, at, leaves, hide).prop_map(|(of, at, leaves, hide)| ModelBranch { of, at, leaves, hide });
    prop::collection::vec(branch, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_segment_is_what_the_model_says(branches in branches()) {
        let mut world = World::new();
        let specs = branches.iter().enumerate().map(|(number, branch)| branch.build(&mut world, number));
        let specs: Vec<_> = specs.collect();
        let segment = world.build(specs);
        let wanted: BTreeMap<String, (FileKind, String)> = merge(&branches)
            .into_iter()
            .map(|(path, leaf)| (format!("/{}", path.join("/")), match leaf {
                Leaf::Dir | Leaf::Opaque => (FileKind::Directory, String::new()),
                Leaf::File(text) => (FileKind::Regular, text),
                Leaf::Link(target) => (FileKind::Symlink, target),
                Leaf::Whiteout => (FileKind::Whiteout, String::new()),
            }))
            .collect();
        prop_assert_eq!(served(&segment), wanted.clone());
        // And nothing can be looked up that is not listed.
        for a in NAMES { for b in NAMES { for c in NAMES {
            let path = format!("/{a}/{b}/{c}");
            if !wanted.contains_key(&path) {
                prop_assert!(matches!(kind(&segment, &path), Err(Errno::NOENT | Errno::NOTDIR)), "{}", path);
            }
        }}}
        prop_assert_eq!(segment.faults(), []);
    }

    #[test]
    fn links_lead_where_the_kernel_says(
        leaves in prop::collection::vec((path(), prop_oneof![leaf(), target().prop_map(Leaf::Link)]), 0..12),
        mode in prop::sample::select(&[Symlinks::Directory, Symlinks::Regular, Symlinks::All][..]),
        of_view in any::<bool>(),
    ) {
        let mut world = World::new();
        let branch = ModelBranch { of: Of::Host, at: Vec::new(), leaves, hide: Vec::new() };
        let host = branch.build(&mut world, 0);
        let scope = if of_view { Scope::View } else { Scope::Branch };
        let segment = world.build_spec(SegmentSpec {
            branches: vec![following(mode, scope, host)],
            ..SegmentSpec::default()
        }).unwrap();
        let root = world.path().join("host-0");
        let mut inos = BTreeSet::new();
        let mut held = Vec::new();
        for (path, leaf) in branch.tree() {
            let path = path.join("/");
            let node = get(&segment, &path).unwrap();
            let (wanted, ino) = by_kernel(&root, &path, matches!(leaf, Leaf::Link(_)), mode);
            prop_assert_eq!(node.kind(), wanted, "{}", path);
            prop_assert_eq!(node.ino() as u32, ino as u32, "{}", path);
            prop_assert!(inos.insert(node.ino()), "{} has the inode number of another name", path);
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let listed = segment.list(&get(&segment, dir).unwrap()).unwrap();
            let listed = listed.iter().find(|entry| entry.name == OsStr::new(name)).unwrap();
            prop_assert_eq!((listed.kind, listed.ino), (node.kind(), node.ino()), "{}", path);
            held.push(node);
        }
    }
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
