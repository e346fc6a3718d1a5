//! Whether what was served still holds.

mod support;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use support::*;
use vfsrun_union::describe::{Scope, Symlinks};
use vfsrun_union::{Errno, FaultReason, Segment};

/// What was looked up, read or listed, changed by `change`, must no longer be current.
fn seen_after(prepare: &[(&str, &str)], look: impl Fn(&Segment) -> Held, change: impl Fn(&Path)) -> bool {
    let mut world = World::new();
    let tree = world.dir("tree", prepare);
    settle();
    let branches = vec![following(Symlinks::All, Scope::Host, world.host(&tree))];
    let segment = world.build(branches);
    let _held = look(&segment);
    assert!(segment.is_current(), "nothing changed yet");
    assert!(segment.is_current(), "asking changes nothing");
    change(&tree);
    let current = segment.is_current();
    !current
}

type Held = Vec<std::sync::Arc<vfsrun_union::Node>>;

#[test]
fn each_kind_of_change_is_seen() {
    let tree = [("d/f", "x"), ("d/sub/g", "x"), ("link", "->d/f")];
    let node = |path: &'static str| move |segment: &Segment| -> Held { vec![get(segment, path).unwrap()] };
    assert!(seen_after(&tree, node("d/f"), |tree| std::fs::write(tree.join("d/f"), "y").unwrap()));
    assert!(seen_after(&tree, node("d/f"), |tree| {
        std::fs::set_permissions(tree.join("d/f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }));
    assert!(seen_after(&tree, node("d/f"), |tree| std::fs::remove_file(tree.join("d/f")).unwrap()));
    assert!(seen_after(&tree, node("d"), |tree| std::fs::write(tree.join("d/new"), "").unwrap()));
    assert!(seen_after(&tree, node("d/sub/g"), |tree| {
        std::fs::rename(tree.join("d/sub"), tree.join("d/other")).unwrap();
    }));
    assert!(seen_after(&tree, node("link"), |tree| {
        std::fs::remove_file(tree.join("link")).unwrap();
        symlink("d/sub/g", tree.join("link")).unwrap();
    }));
    assert!(seen_after(&tree, node("link"), |tree| std::fs::write(tree.join("d/f"), "target").unwrap()));
}

#[test]
fn what_is_absent_is_proved_by_its_directory() {
    let look = |segment: &Segment| -> Held {
        let dir = get(segment, "d").unwrap();
        assert_eq!(kind(segment, "d/no"), Err(Errno::NOENT));
        vec![dir]
    };
    assert!(seen_after(&[("d/f", "x")], look, |tree| std::fs::write(tree.join("d/no"), "").unwrap()));
}

#[test]
fn a_name_in_a_higher_branch_covers_what_was_served() {
    let mut world = World::new();
    let (one, two) = (world.dir("one", &[("d/", "")]), world.dir("two", &[("d/f", "2")]));
    settle();
    let branches = vec![world.host(&one), world.host(&two)];
    let segment = world.build(branches);
    let _held = get(&segment, "d/f").unwrap();
    assert!(segment.is_current());
    std::fs::write(one.join("d/f"), "1").unwrap();
    assert!(!segment.is_current());
}

#[test]
fn another_access_is_no_change() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("other/", "")]);
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let _held = get(&segment, "f").unwrap();
    assert_eq!(read(&segment, "f").unwrap(), "x");
    std::fs::read(tree.join("f")).unwrap();
    assert!(segment.is_current());
}

#[test]
fn what_nobody_holds_any_more_does_not_matter() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("d/f", "x")]);
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    drop(get(&segment, "d/f").unwrap());
    std::fs::write(tree.join("d/f"), "y").unwrap();
    assert!(segment.is_current());
}

#[test]
fn frozen_branches_are_never_checked() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    settle();
    let mut frozen = world.host(&tree);
    frozen.frozen = true;
    let segment = world.build(vec![frozen]);
    let _held = get(&segment, "f").unwrap();
    std::fs::write(tree.join("f"), "changed").unwrap();
    assert!(segment.is_current());
}

#[test]
fn a_change_between_lookup_and_open_is_an_error_not_a_torn_read() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "before"), ("g", "other")]);
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let (file, other) = (get(&segment, "f").unwrap(), get(&segment, "g").unwrap());
    std::fs::write(tree.join("f"), "after, and longer").unwrap();
    assert_eq!(segment.open(&file).unwrap_err(), Errno::IO);
    segment.open(&other).unwrap();
    assert_eq!(segment.faults().len(), 1);
    assert_eq!(segment.faults()[0].reason, FaultReason::Changed);
    assert!(!segment.is_current());
}

#[test]
fn another_object_under_the_name_is_another_node() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let before = get(&segment, "f").unwrap();
    std::fs::remove_file(tree.join("f")).unwrap();
    std::fs::create_dir(tree.join("f")).unwrap();
    assert_eq!(segment.attr(&before).unwrap_err(), Errno::IO);
    let after = get(&segment, "f").unwrap();
    assert_ne!(before.ino(), after.ino());
    assert_ne!(before.kind(), after.kind());
    assert!(!segment.is_current());
}

#[test]
fn a_file_with_a_writer_is_never_current_once_it_was_read() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x"), ("g", "x")]);
    let writer = OpenOptions::new().append(true).open(tree.join("f")).unwrap();
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let (read_one, not_read) = (get(&segment, "f").unwrap(), get(&segment, "g").unwrap());
    assert!(segment.is_current(), "nothing of it was read yet");
    segment.open(&read_one).unwrap();
    assert!(!segment.is_current());
    drop(writer);
    assert!(!segment.is_current(), "its pages may be from before the last store");
    drop(read_one);
    assert!(segment.is_current());
    drop(not_read);
}

#[test]
fn a_writer_that_came_after_the_read_is_seen_before_it_writes() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let node = get(&segment, "f").unwrap();
    segment.open(&node).unwrap();
    assert!(segment.is_current());
    let mut writer = OpenOptions::new().append(true).open(tree.join("f")).unwrap();
    assert!(!segment.is_current());
    writer.write_all(b"y").unwrap();
    drop(writer);
    assert!(!segment.is_current());
}

#[test]
fn a_file_too_young_to_tell_is_not_current_until_it_is_served_again() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    settle();
    let branches = vec![world.host(&tree)];
    File::create(tree.join("f")).unwrap();
    let segment = world.build(branches);
    let _held = get(&segment, "f").unwrap();
    assert!(!segment.is_current());
    settle();
    assert!(!segment.is_current());
    segment.attr(&segment.root()).unwrap();
    get(&segment, "f").unwrap();
    assert!(segment.is_current());
}

#[test]
fn a_retargeted_link_of_scope_view_is_seen_on_its_way() {
    let mut world = World::new();
    let one = world.dir("one", &[("tool", "->/lib/current/tool")]);
    let two = world.dir("two", &[("current", "->v1"), ("v1/tool", "1"), ("v2/tool", "2")]);
    settle();
    let mut links = following(Symlinks::All, Scope::View, world.host(&one));
    links.frozen = true;
    let branches = vec![links, at("lib", world.host(&two))];
    let segment = world.build(branches);
    let _held = get(&segment, "tool").unwrap();
    assert!(segment.is_current());
    std::fs::remove_file(two.join("current")).unwrap();
    symlink("v2", two.join("current")).unwrap();
    assert!(!segment.is_current());
}

#[test]
fn a_dangling_link_whose_target_appears_is_seen() {
    for scope in [Scope::View, Scope::Branch, Scope::Host] {
        let mut world = World::new();
        let tree = world.dir("tree", &[("d/link", "->../e/f"), ("e/", "")]);
        settle();
        let branches = vec![following(Symlinks::All, scope, world.host(&tree))];
        let segment = world.build(branches);
        let _held = get(&segment, "d/link").unwrap();
        assert!(segment.is_current());
        std::fs::write(tree.join("e/f"), "").unwrap();
        assert!(!segment.is_current(), "{scope:?}");
    }
}

#[test]
fn thousands_of_nodes_are_checked_to_the_last() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    for n in 0..2500 {
        std::fs::write(tree.join(format!("f{n}")), "").unwrap();
    }
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let held: Vec<_> = (0..2500).map(|n| get(&segment, &format!("f{n}")).unwrap()).collect();
    assert!(segment.is_current());
    std::fs::write(tree.join("f2499"), "x").unwrap();
    assert!(!segment.is_current());
    drop(held);
}
