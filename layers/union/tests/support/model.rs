//! The model of a segment: random branches, and what they are when merged naively in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use rustix::fs::XattrFlags;
use vfsrun_layers::Kind;
use vfsrun_union::FileKind;
use vfsrun_union::describe::{
    BranchSpec, Conditions, Names, Rule, RuleAction, Scope, SizeRange, SkeletonContent, SkeletonEntry,
    Symlinks, Xattrs,
};

use crate::support::*;

/// Few, so that branches meet; `a-` sorts between `a` and what is below it, the last two are rivals.
pub const NAMES: [&str; 4] = ["a", "a-", "a.x", "a.Y"];
/// Those with an extension less often.
pub const OFTEN: [&str; 6] = ["a", "a", "a-", "a-", "a.x", "a.Y"];

#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    Dir,
    Opaque,
    File(String),
    Link(String),
    Whiteout,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Of {
    Host,
    Layer,
    Inputs,
    Skeleton,
}

#[derive(Clone, Debug)]
pub struct ModelBranch {
    pub of: Of,
    pub at: Vec<&'static str>,
    pub leaves: Vec<(Vec<&'static str>, Leaf)>,
    pub rules: ModelRules,
    /// Whether the extended attributes of a host's files are shown.
    pub passes: bool,
}

/// Every file of the host has it, with its text as the value.
pub const XATTR: &str = "user.text";

/// Of a branch or of the view: what hides, and of two rivals the one that comes first.
#[derive(Clone, Debug, Default)]
pub struct ModelRules {
    pub hide: Vec<Hide>,
    pub priority: Option<[&'static str; 2]>,
}

#[derive(Clone, Debug)]
pub struct Hide {
    pub names: Option<Pattern>,
    pub taken_back: bool,
    pub types: Option<Vec<FileKind>>,
    pub size: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub enum Pattern {
    Name(&'static str),
    DirName(&'static str),
    Rooted(Vec<&'static str>),
    Regex(&'static str, Matches),
}

pub type Matches = fn(&str) -> bool;

/// Regular expressions, and the same in the model's own words.
pub const REGEXES: [(&str, Matches); 5] = [
    ("^a/", |path| path.starts_with("a/")),
    ("-$", |path| path.ends_with('-')),
    (r"\.[xY]$", |path| path.ends_with(".x") || path.ends_with(".Y")),
    ("^[^/]*$", |path| !path.contains('/')),
    ("a.a", |path| path.as_bytes().windows(3).any(|three| three[0] == b'a' && three[2] == b'a')),
];

impl Pattern {
    pub fn text(&self) -> String {
        match self {
            Pattern::Name(name) => (*name).to_owned(),
            Pattern::DirName(name) => format!("{name}/"),
            Pattern::Rooted(path) => format!("/{}", path.join("/")),
            Pattern::Regex(regex, _) => (*regex).to_owned(),
        }
    }

    pub fn matches(&self, path: &[&str], is_dir: bool) -> bool {
        match self {
            Pattern::Name(name) => path.last() == Some(name),
            Pattern::DirName(name) => is_dir && path.last() == Some(name),
            Pattern::Rooted(rooted) => path == rooted,
            Pattern::Regex(_, matches) => matches(&path.join("/")),
        }
    }
}

impl Hide {
    pub fn fits(&self, path: &[&str], leaf: &Leaf) -> bool {
        let kind = leaf.kind();
        let has_size = self.size.is_none_or(|(min, max)| match leaf {
            Leaf::File(text) => (min..=max).contains(&(text.len() as u64)),
            _ => false,
        });
        self.names.as_ref().is_none_or(|names| names.matches(path, kind == FileKind::Directory))
            && self.types.as_ref().is_none_or(|types| types.contains(&kind))
            && has_size
    }

    pub fn rule(&self) -> Rule {
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
    pub fn hides(&self, path: &[&str], leaf: &Leaf) -> Option<bool> {
        let last = self.hide.iter().rev().find(|hide| !path.is_empty() && hide.fits(path, leaf));
        last.map(|hide| !hide.taken_back)
    }

    /// Whether another file comes before `name`, of a directory with these leaves.
    pub fn outranks<'a>(&self, name: &str, leaf: impl Fn(&'static str) -> Option<&'a Leaf>) -> bool {
        self.priority
            .is_some_and(|[first, second]| name == second && matches!(leaf(first), Some(Leaf::File(_))))
    }

    pub fn rules(&self) -> Vec<Rule> {
        // In lower case, as a user would write them.
        let extension = |name: &str| name.trim_start_matches("a.").to_lowercase();
        let extensions = |names: [&str; 2]| Rule::ExtensionPriority(names.map(extension).to_vec());
        let priority = self.priority.map(extensions);
        self.hide.iter().map(Hide::rule).chain(priority).collect()
    }
}

impl Leaf {
    pub fn kind(&self) -> FileKind {
        match self {
            Leaf::Dir | Leaf::Opaque => FileKind::Directory,
            Leaf::File(_) => FileKind::Regular,
            Leaf::Link(_) => FileKind::Symlink,
            Leaf::Whiteout => FileKind::Whiteout,
        }
    }
}

pub type Tree = BTreeMap<Vec<&'static str>, Leaf>;

impl ModelBranch {
    /// What the branch holds: leaves that contradict earlier ones, or that this kind of branch cannot have, left out.
    pub fn tree(&self) -> Tree {
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
    pub fn get_alone<'a>(
        &self,
        tree: &'a Tree,
        path: &[&'static str],
        view: &ModelRules,
    ) -> Option<&'a Leaf> {
        let (leaf, below) = match path.strip_prefix(self.at.as_slice()) {
            Some(below) if !below.is_empty() => (tree.get(below)?, below),
            _ if self.at.starts_with(path) => (&Leaf::Dir, &[][..]),
            _ => return None,
        };
        let hides = view.hides(path, leaf).or_else(|| self.rules.hides(below, leaf));
        (!hides.unwrap_or(false)).then_some(leaf)
    }

    /// At a path of the view.
    pub fn get(&self, tree: &Tree, path: &[&'static str], view: &ModelRules) -> Option<Leaf> {
        let leaf = self.get_alone(tree, path, view)?;
        let (name, dir) = path.split_last()?;
        let sibling = |name| self.get_alone(tree, &[dir, &[name]].concat(), view);
        let outranked = leaf.kind() == FileKind::Regular && self.rules.outranks(name, sibling);
        (!outranked).then(|| leaf.clone())
    }

    /// As [`ModelBranch::get`], whatever its rules hide.
    pub fn has(&self, tree: &Tree, path: &[&'static str]) -> bool {
        match path.strip_prefix(self.at.as_slice()) {
            Some(below) => below.is_empty() || tree.contains_key(below),
            None => self.at.starts_with(path),
        }
    }

    pub fn build(&self, world: &mut World, number: usize) -> BranchSpec {
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
    pub fn build_host(&self, world: &mut World, number: usize) -> BranchSpec {
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
    pub fn file_of(&self, world: &World, number: usize, path: &[&'static str]) -> Option<(usize, u64, u64)> {
        let below = path.strip_prefix(self.at.as_slice()).filter(|_| self.of == Of::Host)?;
        let file = world.path().join(host_dir(number)).join(below.join("/"));
        let file = std::fs::symlink_metadata(file).unwrap();
        (!file.is_dir()).then(|| (number, file.dev(), file.ino()))
    }

    pub fn build_layer(&self, world: &mut World) -> BranchSpec {
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

    pub fn build_inputs(&self, world: &mut World, number: usize) -> BranchSpec {
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

    pub fn build_skeleton(&self, world: &mut World) -> BranchSpec {
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

pub fn host_dir(number: usize) -> String {
    format!("host-{number}")
}

/// The whole merged tree: path → leaf, and the branches that it comes from.
pub fn merge(branches: &[ModelBranch], view: &ModelRules) -> BTreeMap<Vec<&'static str>, (Leaf, Vec<usize>)> {
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

pub fn path() -> impl Strategy<Value = Vec<&'static str>> {
    // Short ones more often.
    prop_oneof![Just(1), Just(1), Just(2), Just(2), Just(3)]
        .prop_flat_map(|length| prop::collection::vec(prop::sample::select(&OFTEN[..]), length))
}

pub fn leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![
        4 => "[xyz]{0,3}".prop_map(Leaf::File),
        2 => Just(Leaf::Dir),
        2 => Just(Leaf::Opaque),
        2 => Just(Leaf::Whiteout),
        1 => target().prop_map(Leaf::Link),
    ]
}

pub fn target() -> impl Strategy<Value = String> {
    let part = prop::sample::select(&["a", "a-", "..", "."][..]);
    (any::<bool>(), prop::collection::vec(part, 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

pub fn pattern() -> impl Strategy<Value = Pattern> {
    let name = || prop::sample::select(&NAMES[..]);
    prop_oneof![
        name().prop_map(Pattern::Name),
        name().prop_map(Pattern::DirName),
        path().prop_map(Pattern::Rooted),
        prop::sample::select(&REGEXES[..]).prop_map(|(regex, matches)| Pattern::Regex(regex, matches)),
    ]
}

pub fn hide() -> impl Strategy<Value = Hide> {
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

pub fn model_rules() -> impl Strategy<Value = ModelRules> {
    let priority = prop::sample::select(&[["a.x", "a.Y"], ["a.Y", "a.x"]][..]);
    (prop::collection::vec(hide(), 0..3), prop::option::of(priority))
        .prop_map(|(hide, priority)| ModelRules { hide, priority })
}

pub fn branches() -> impl Strategy<Value = Vec<ModelBranch>> {
    let of = prop::sample::select(&[Of::Host, Of::Layer, Of::Layer, Of::Inputs, Of::Skeleton][..]);
    let at = prop_oneof![Just(0), Just(0), Just(0), Just(1), Just(2)]
        .prop_flat_map(|length| prop::collection::vec(prop::sample::select(&NAMES[..]), length));
    let leaves = prop::collection::vec((path(), leaf()), 0..14);
    let branch = (of, at, leaves, model_rules(), any::<bool>())
        .prop_map(|(of, at, leaves, rules, passes)| ModelBranch { of, at, leaves, rules, passes });
    prop::collection::vec(branch, 0..6)
}

pub fn symlinks() -> impl Strategy<Value = Symlinks> {
    prop::sample::select(&[Symlinks::Never, Symlinks::Directory, Symlinks::Regular, Symlinks::All][..])
}

pub fn scope() -> impl Strategy<Value = Scope> {
    prop::sample::select(&[Scope::View, Scope::Branch, Scope::Host][..])
}

pub fn action() -> impl Strategy<Value = RuleAction> {
    prop::sample::select(&[RuleAction::Hide, RuleAction::Deny, RuleAction::Only][..])
}

/// Of one to three names.
pub fn all_paths() -> Vec<Vec<&'static str>> {
    let longer = |paths: &[Vec<&'static str>]| -> Vec<Vec<&'static str>> {
        let with = |path: &Vec<&'static str>| NAMES.map(|name| [path.as_slice(), &[name]].concat());
        paths.iter().flat_map(with).collect()
    };
    let one = longer(&[Vec::new()]);
    let two = longer(&one);
    [one, two.clone(), longer(&two)].concat()
}
