//! Inode numbers: one per file, stable, the host's low half, unique among all segments of a server.

mod support;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{Scope, Symlinks};
use vfsrun_union::{FileKind, Node, Segment};

#[test]
fn host_files_keep_the_low_half_and_two_places_of_one_file_differ() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    let branches = vec![world.host(&tree), at("again", world.host(&tree))];
    let segment = world.build(branches.clone());
    let other = world.build(branches);
    let host = std::fs::metadata(tree.join("d/f")).unwrap().ino();
    let nodes = [
        get(&segment, "d/f").unwrap(),
        get(&segment, "again/d/f").unwrap(),
        get(&other, "d/f").unwrap(),
        get(&other, "again/d/f").unwrap(),
    ];
    for node in &nodes {
        assert_eq!(node.ino() as u32, host as u32);
        assert!(node.ino() < 1 << 48);
    }
    assert_eq!(nodes.iter().map(|node| node.ino()).collect::<HashSet<_>>().len(), 4);
}

#[test]
fn a_name_looked_up_twice_is_one_node_and_keeps_its_number_when_it_comes_back() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    let branches = vec![world.host(&tree), world.layer(vec![dir("l"), entry("l/f", world.blob("x"))])];
    let segment = world.build(branches);
    for path in ["d/f", "l/f"] {
        let first = get(&segment, path).unwrap();
        let second = get(&segment, path).unwrap();
        assert!(Arc::ptr_eq(&first, &second), "{path}");
        let (ino, hash) = (first.ino(), first.path_hash());
        drop((first, second));
        let again = get(&segment, path).unwrap();
        assert_eq!((again.ino(), again.path_hash()), (ino, hash), "{path}");
    }
}

/// Every name below a directory with the number that listings tell.
fn listed(segment: &Segment, dir: &str, all: &mut Vec<(String, u64)>) {
    for entry in segment.list(&get(segment, dir).unwrap()).unwrap() {
        let path = format!("{dir}/{}", entry.name.to_str().unwrap());
        all.push((path.clone(), entry.ino));
        if entry.kind == FileKind::Directory {
            listed(segment, &path, all);
        }
    }
}

/// All names below the root with the numbers that listings tell and those that looks tell later, in the order of the looks
/// or backwards.
fn numbers(segment: &Segment, backwards: bool) -> [Vec<(String, u64)>; 2] {
    let mut told = Vec::new();
    listed(segment, "", &mut told);
    if backwards {
        told.reverse();
    }
    let nodes: Vec<_> = told.iter().map(|(path, _)| get(segment, path).unwrap()).collect();
    let seen = told.iter().zip(&nodes).map(|((path, _), node)| (path.clone(), shown(segment, node)));
    let mut both = [seen.collect(), told];
    both.iter_mut().for_each(|names| names.sort());
    both
}

#[test]
fn listings_tell_the_numbers_of_followed_links_and_of_what_they_lead_to_whoever_is_looked_at_first() {
    let mut world = World::new();
    let tree = world.dir(
        "tree",
        &[("real/a", "x"), ("real/d/b", "x"), ("links/dir", "->../real"), ("links/a", "->../real/a")],
    );
    fs::hard_link(tree.join("real/a"), tree.join("real/hard")).unwrap();
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let branch = following(Symlinks::All, scope, world.host(&tree));
        let [seen, told] = numbers(&world.build(vec![branch.clone()]), false);
        assert_eq!((seen.len(), &seen), (12, &told), "{scope:?}");
        let [seen_backwards, told_backwards] = numbers(&world.build(vec![branch]), true);
        assert_eq!((&seen_backwards, &told_backwards), (&seen, &told), "{scope:?}");
        // Those of the tree itself are the host's, those of links have its low half.
        let number = |path: &str| seen.iter().find(|(name, _)| name == path).unwrap().1;
        for (path, link) in [("/real/a", "/links/a"), ("/real/a", "/links/dir/a"), ("/real", "/links/dir")] {
            let host = u64::from(fs::metadata(tree.join(&path[1..])).unwrap().ino() as u32);
            assert_eq!((number(path), number(link) & 0xffff_ffff), (host, host), "{scope:?} {link}");
            assert!(number(link) > 1 << 32 && number(link) < 1 << 47, "{scope:?} {link}");
        }
        assert_eq!(number("/real/a"), number("/real/hard"), "{scope:?}");
        assert_ne!(number("/links/a"), number("/links/dir/a"), "{scope:?}");
    }
}

#[test]
fn listings_tell_the_numbers_of_inputs() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x")]);
    let branch = world.inputs(&tree, r#"{"one":"a","d/two":"a"}"#);
    let [seen, told] = numbers(&world.build(vec![branch.clone()]), false);
    assert_eq!(seen, told);
    assert_eq!(numbers(&world.build(vec![branch]), true), [seen, told]);
}

#[test]
fn a_directory_above_a_branch_is_listed_with_the_number_of_the_same_one_in_another_branch() {
    let mut world = World::new();
    let (tree, over) = (world.dir("tree", &[("a/b/f", "x")]), world.dir("over", &[("g", "x")]));
    let files = format!(r#"{{"a/b/h":"{}"}}"#, tree.join("a/b/f").display());
    let branches = vec![at("a/b/c", world.host(&over)), world.inputs(&tree, &files), world.host(&tree)];
    let [seen, told] = numbers(&world.build(branches), false);
    assert_eq!(seen, told);
    let host = u64::from(fs::metadata(tree.join("a/b")).unwrap().ino() as u32);
    assert_eq!(seen.iter().find(|(path, _)| path == "/a/b").unwrap().1, host);
}

#[test]
fn nobody_s_nodes_cost_nothing() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a/b/c/d", "x")]);
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let held = get(&segment, "a/b/c/d").unwrap();
    assert_eq!(segment.live_nodes(), 5);
    assert_eq!(world.context.inodes.len(), 5);
    drop(held);
    assert_eq!(segment.live_nodes(), 1);
    assert_eq!(world.context.inodes.len(), 1);
    drop(segment);
    assert!(world.context.inodes.is_empty());
}

#[test]
fn hard_links_of_a_layer_are_one_node_with_their_count() {
    let mut world = World::new();
    let link = |path: &str| entry(path, Kind::HardLink { to: "a".into() });
    let entries = vec![
        entry("a", world.blob("same")),
        link("b"),
        dir("d"),
        link("d/c"),
        entry("x", world.blob("same")),
    ];
    let branches = vec![world.layer(entries)];
    let segment = world.build(branches);
    let nodes = ["a", "b", "d/c"].map(|path| get(&segment, path).unwrap());
    for node in &nodes {
        assert_eq!(node.ino(), nodes[0].ino());
        assert_eq!(segment.attr(node).unwrap().nlink, 3);
    }
    assert_eq!(read(&segment, "d/c").unwrap(), "same");
    // Equal content is no reason to share an inode.
    let other = get(&segment, "x").unwrap();
    assert_ne!(other.ino(), nodes[0].ino());
    assert_eq!(segment.attr(&other).unwrap().nlink, 1);
    let listed = segment.list(&segment.root()).unwrap();
    let ino = |name: &str| listed.iter().find(|entry| entry.name == name).unwrap().ino;
    assert_eq!(ino("a"), ino("b"));
    assert_ne!(ino("a"), ino("x"));
}

#[test]
fn a_hard_link_whose_first_name_is_covered_is_still_served() {
    let mut world = World::new();
    let entries = vec![entry("a", world.blob("group")), entry("b", Kind::HardLink { to: "a".into() })];
    let over = world.dir("over", &[("a", "over")]);
    let branches = vec![world.host(&over), world.layer(entries)];
    let segment = world.build(branches);
    assert_eq!(read(&segment, "a").unwrap(), "over");
    assert_eq!(read(&segment, "b").unwrap(), "group");
    assert_ne!(get(&segment, "a").unwrap().ino(), get(&segment, "b").unwrap().ino());
}

#[test]
fn a_listing_has_the_numbers_that_lookup_gives() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("d/", "")]);
    let branches = vec![world.host(&tree), world.layer(vec![entry("l", world.blob("l"))])];
    let segment = world.build(branches);
    let root = segment.root();
    let before: Vec<u64> = segment.list(&root).unwrap().iter().map(|entry| entry.ino).collect();
    let nodes: Vec<_> = ["d", "f", "l"].map(|path| get(&segment, path).unwrap()).into_iter().collect();
    assert_eq!(before, nodes.iter().map(|node| node.ino()).collect::<Vec<_>>());
}

#[test]
fn many_threads_get_one_node_for_one_name() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let (one, two) = (get(&segment, "d/f").unwrap(), get(&segment, "d/f").unwrap());
                    assert!(Arc::ptr_eq(&one, &two));
                }
            });
        }
    });
    assert_eq!(segment.live_nodes(), 1);
    assert_eq!(world.context.inodes.len(), 1);
}

/// As stat shows it.
fn shown(segment: &Segment, node: &Node) -> u64 {
    segment.attr(node).unwrap().ino
}

#[test]
fn hard_links_of_a_host_branch_are_nodes_of_their_own_that_show_one_number() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "same"), ("d/", ""), ("x", "same"), ("s", "->a")]);
    let link = |from: &str, to: &str| fs::hard_link(tree.join(from), tree.join(to)).unwrap();
    link("a", "b");
    link("a", "d/c");
    link("s", "t");
    let branches = vec![world.host(&tree), at("again", world.host(&tree))];
    let segment = world.build(branches);
    let nodes = ["a", "b", "d/c"].map(|path| get(&segment, path).unwrap());
    let number = shown(&segment, &nodes[0]);
    assert_eq!(number as u32, fs::metadata(tree.join("a")).unwrap().ino() as u32);
    for node in &nodes {
        assert_eq!((shown(&segment, node), node.shown()), (number, number));
        assert_eq!(segment.attr(node).unwrap().nlink, 3);
    }
    assert_eq!(nodes.iter().map(|node| node.ino()).collect::<HashSet<_>>().len(), 3);
    let links = ["s", "t"].map(|path| get(&segment, path).unwrap());
    assert_eq!(shown(&segment, &links[0]), shown(&segment, &links[1]));
    // Another file, and the same one in another branch.
    let others = ["x", "again/a"].map(|path| get(&segment, path).unwrap());
    for other in &others {
        assert_ne!(shown(&segment, other), number, "{other:?}");
    }
    let also_there = get(&segment, "again/b").unwrap();
    assert_eq!(shown(&segment, &also_there), shown(&segment, &others[1]));
    let listed = segment.list(&segment.root()).unwrap();
    let ino = |name: &str| listed.iter().find(|entry| entry.name == name).unwrap().ino;
    assert_eq!((ino("a"), ino("b")), (number, number));
}

#[test]
fn the_number_of_hard_links_stays_while_one_of_them_is_held() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x")]);
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    let (branches, others) = (vec![world.host(&tree)], vec![world.host(&tree)]);
    let segment = world.build(branches);
    let (first, second) = (get(&segment, "a").unwrap(), get(&segment, "b").unwrap());
    let number = first.shown();
    drop(first);
    // Of another segment, and so a number that is free.
    let other_segment = world.build(others);
    let other = get(&other_segment, "a").unwrap();
    assert_ne!(other.shown(), number);
    assert_eq!(get(&segment, "a").unwrap().shown(), number);
    drop((second, other, other_segment));
    assert_eq!(world.context.inodes.len(), 1, "the root's");
}

#[test]
fn a_file_that_gets_and_loses_names_while_it_is_held_shows_the_number_of_them_all() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x")]);
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let first = get(&segment, "a").unwrap();
    let number = shown(&segment, &first);
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    assert_eq!(segment.attr(&first).unwrap().nlink, 2);
    let second = get(&segment, "b").unwrap();
    assert_eq!((shown(&segment, &first), shown(&segment, &second)), (number, number));
    fs::remove_file(tree.join("b")).unwrap();
    assert_eq!(shown(&segment, &first), number);
    // A file in the place of one of the names is another one.
    fs::write(tree.join("b"), "y").unwrap();
    let other = get(&segment, "b").unwrap();
    assert_ne!(shown(&segment, &other), number);
    assert_eq!(other.shown(), other.ino());
}

#[test]
fn a_name_that_is_looked_at_after_a_new_one_shows_the_same_number() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x")]);
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let first = get(&segment, "a").unwrap();
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    let second = get(&segment, "b").unwrap();
    let (_, attr) = segment.lookup_attr(&segment.root(), OsStr::new("a")).unwrap();
    assert_eq!(attr.ino, shown(&segment, &second));
    assert_eq!(shown(&segment, &first), attr.ino);
    drop((first, second));
    assert_eq!(world.context.inodes.len(), 1, "the root's");
}

#[test]
fn inputs_are_no_hard_links() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x")]);
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    let branches = vec![world.inputs(&tree, r#"{"one":"a","two":"b"}"#)];
    let segment = world.build(branches);
    let [one, two] = ["one", "two"].map(|path| get(&segment, path).unwrap());
    assert_ne!(shown(&segment, &one), shown(&segment, &two));
    assert_eq!((segment.attr(&one).unwrap().nlink, one.shown()), (1, one.ino()));
}
