//! Rules on names of a segment.

mod support;

use support::*;
use vfsrun_union::describe::{RuleAction, SegmentSpec};
use vfsrun_union::{Errno, SegmentError};

#[test]
fn hidden_names_do_not_exist_and_denied_ones_are_listed() {
    let mut world = World::new();
    let tree = world.dir("tree", &[(".git/config", "x"), ("a.o", "x"), ("keep.o", "x"), (".envrc", "x")]);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[
        (".git/", RuleAction::Hide),
        ("*.o", RuleAction::Hide),
        ("!keep.o", RuleAction::Hide),
        (".envrc", RuleAction::Deny),
    ]);
    let segment = world.build(vec![tree]);
    assert_eq!(names(&segment, ""), [".envrc", "keep.o"]);
    assert_eq!(kind(&segment, ".git"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, ".git/config"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "a.o"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, ".envrc"), Err(Errno::ACCESS));
}

#[test]
fn what_one_branch_hides_shows_from_the_next_and_what_the_view_hides_does_not() {
    let mut world = World::new();
    let one = world.dir("one", &[("f", "1"), ("g", "1"), ("d/x", "1")]);
    let two = world.dir("two", &[("f", "2"), ("g", "2"), ("d/y", "2")]);
    let (mut one, two) = (world.host(&one), world.host(&two));
    one.rules = rules(&[("f", RuleAction::Hide), ("d/", RuleAction::Hide)]);
    let branches = vec![one, two];
    let view = rules(&[("g", RuleAction::Hide)]);
    let segment = world.build_spec(SegmentSpec { branches, rules: view, ..SegmentSpec::default() }).unwrap();
    assert_eq!(read(&segment, "f").unwrap(), "2");
    assert_eq!(kind(&segment, "g"), Err(Errno::NOENT));
    assert_eq!(names(&segment, "d"), ["y"]);
    assert_eq!(names(&segment, ""), ["d", "f"]);
}

#[test]
fn patterns_of_a_branch_start_at_its_place_and_those_of_the_view_at_the_root() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("a", "x"), ("b", "x"), ("c", "x")]);
    let mut tree = at("src", world.host(&tree));
    tree.rules = rules(&[("/a", RuleAction::Hide), ("/src/b", RuleAction::Hide)]);
    let view = rules(&[("/src/c", RuleAction::Hide)]);
    let spec = SegmentSpec { branches: vec![tree], rules: view, ..SegmentSpec::default() };
    let segment = world.build_spec(spec).unwrap();
    assert_eq!(names(&segment, "src"), ["b"]);
}

#[test]
fn only_shows_its_matches_and_the_directories_on_the_way() {
    let mut world = World::new();
    let files = [("usr/include/a.h", "x"), ("usr/include/sub/b.h", "x"), ("usr/bin/x", "x"), ("etc/x", "x")];
    let tree = world.dir("tree", &files);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("/usr/include/", RuleAction::Only)]);
    let segment = world.build(vec![tree]);
    assert_eq!(names(&segment, ""), ["usr"]);
    assert_eq!(names(&segment, "usr"), ["include"]);
    assert_eq!(names(&segment, "usr/include"), ["a.h", "sub"]);
    assert_eq!(read(&segment, "usr/include/sub/b.h").unwrap(), "x");
    assert_eq!(kind(&segment, "usr/bin"), Err(Errno::NOENT));
    assert_eq!(kind(&segment, "usr/bin/x"), Err(Errno::NOENT));
}

#[test]
fn a_pattern_that_is_none_names_its_branch() {
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    let mut tree = world.host(&tree);
    tree.rules = rules(&[("{a", RuleAction::Hide)]);
    let spec = SegmentSpec { branches: vec![tree], ..SegmentSpec::default() };
    let error = world.build_spec(spec).err().unwrap();
    assert!(matches!(&error, SegmentError::Rule { pattern, .. } if pattern == "{a"), "{error}");
    assert_eq!(error.to_string(), r#"branch test: rule "{a" is not a pattern"#);
}
