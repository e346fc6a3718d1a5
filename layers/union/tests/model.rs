//! A segment against a model: the same random branches merged naively in memory, and links against the kernel.

#[path = "support/model.rs"]
mod model;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use model::*;
use proptest::prelude::*;
use rustix::fs::OFlags;
use support::*;
use vfsrun_sys::beneath;
use vfsrun_union::describe::{
    BranchSpec, Policy, Rule, RuleAction, Scope, SegmentSpec, Symlinks, TypeConflict,
};
use vfsrun_union::spot::Spot;
use vfsrun_union::{Account, Errno, Explanation, Fate, FileKind, Segment, stack};

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

/// Branches that follow links and have rules.
fn specs(
    world: &mut World,
    branches: &[ModelBranch],
    settings: &[(Symlinks, Scope, RuleAction)],
) -> Vec<BranchSpec> {
    let specs =
        branches.iter().zip(settings).enumerate().map(|(number, (branch, (links, scope, action)))| {
            let spec = branch.build(world, number);
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
    specs.collect()
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
        let specs = specs(&mut world, &branches, &settings);
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
    fn a_spot_is_what_an_explanation_says(
        branches in branches(),
        settings in prop::collection::vec((symlinks(), scope(), action()), 6),
        alone in any::<bool>(),
    ) {
        let mut world = World::new();
        let mut specs = specs(&mut world, &branches, &settings);
        // Two branches to a segment, or one.
        let segments = std::iter::from_fn(|| {
            let count = specs.len().min(if alone { 1 } else { 2 });
            (count > 0).then(|| world.build(specs.drain(..count).collect()))
        });
        let segments: Vec<Segment> = segments.collect();
        let root = Spot::root(&segments);
        for path in all_paths() {
            let path = path.join("/");
            let explained = stack::explain(&segments, Path::new(&path));
            let spot = Spot::at(&segments, Path::new(&path));
            let outcome = explained.outcome.map(|outcome| (outcome.kind, outcome.denied));
            prop_assert_eq!(spot.as_ref().map(|spot| (spot.kind(), spot.is_denied())).map_err(|errno| *errno), outcome, "{}", path);
            let shown = explained.accounts.into_iter().find(|account| account.fate == Fate::Shown);
            if let (Ok(spot), Some(shown)) = (spot, shown) {
                prop_assert_eq!(spot.source(), Ok((shown.label, shown.provenance)), "{}", path);
            }
        }
        let mut left = vec![(String::new(), root)];
        while let Some((path, Ok(spot))) = left.pop() {
            let below = spot.below();
            let Ok(listed) = below.list() else { continue };
            for (name, found) in listed {
                let path = format!("{path}/{}", name.to_str().unwrap());
                prop_assert!(stack::explain(&segments, Path::new(&path)).outcome.is_ok(), "{}", path);
                prop_assert_eq!(below.source(&name, &found), found.source(), "{}", path);
                if found.follows() == spot.follows() {
                    left.push((path, Ok(found)));
                }
            }
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
