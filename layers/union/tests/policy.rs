//! What is shown of several files of one name, in which order, and with which times.

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use support::*;
use vfsrun_layers::Kind;
use vfsrun_union::describe::{BranchSpec, Order, Policy, SegmentSpec};
use vfsrun_union::{Errno, FaultReason, FileKind, Segment, Time};

fn with_policy(world: &World, policy: Policy, branches: Vec<BranchSpec>) -> Segment {
    world.build_spec(SegmentSpec { branches, policy, ..SegmentSpec::default() }).unwrap()
}

fn set_mtime(path: &Path, seconds: u64) {
    let file = File::open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

#[test]
fn the_newest_file_is_shown_and_the_first_of_equally_new_ones() {
    let mut world = World::new();
    let one = world.dir("one", &[("d/a", "one"), ("d/b", "one"), ("d/same", "one"), ("d/only", "one")]);
    let two = world.dir("two", &[("d/a", "two"), ("d/b", "two"), ("d/same", "two")]);
    let three = world.dir("three", &[("d/a", "three")]);
    let times = [(&one, "a", 5), (&two, "a", 7), (&three, "a", 6), (&one, "b", 7), (&two, "b", 5)];
    times.iter().for_each(|(dir, name, time)| set_mtime(&dir.join("d").join(name), *time));
    [&one, &two].iter().for_each(|dir| set_mtime(&dir.join("d/same"), 9));
    let branches = vec![world.host(&one), world.host(&two), world.host(&three)];
    let segment = with_policy(&world, Policy::Newest, branches);
    assert_eq!(names(&segment, "d"), ["a", "b", "only", "same"]);
    let seen = ["a", "b", "only", "same"].map(|name| read(&segment, &format!("d/{name}")).unwrap());
    assert_eq!(seen, ["two", "one", "one", "one"]);
}

#[test]
fn a_newer_link_takes_the_place_of_a_file_in_lookup_and_listing() {
    let mut world = World::new();
    let one = world.dir("one", &[("x", "one")]);
    let two = world.dir("two", &[("x", "->elsewhere")]);
    set_mtime(&one.join("x"), 5);
    let branches = vec![world.host(&one), world.host(&two)];
    let segment = with_policy(&world, Policy::Newest, branches);
    assert_eq!(kind(&segment, "x"), Ok(FileKind::Symlink));
    let listed = segment.list(&segment.root()).unwrap();
    assert_eq!(listed[0].kind, FileKind::Symlink);
    assert_eq!(listed[0].ino, get(&segment, "x").unwrap().ino());
}

#[test]
fn a_whiteout_or_a_directory_ends_the_search_for_something_newer() {
    let mut world = World::new();
    let one = world.dir("one", &[("gone", "one"), ("x", "one")]);
    ["gone", "x"].iter().for_each(|name| set_mtime(&one.join(name), 1));
    let layer = world.layer(vec![entry("gone", Kind::Whiteout), dir("x")]);
    let three = world.dir("three", &[("gone", "three"), ("x", "three")]);
    let branches = vec![world.host(&one), layer, world.host(&three)];
    let segment = with_policy(&world, Policy::Newest, branches);
    assert_eq!(read(&segment, "gone").unwrap(), "one");
    assert_eq!(read(&segment, "x").unwrap(), "one");
}

#[test]
fn a_change_that_makes_another_branch_the_newest_is_noticed() {
    let mut world = World::new();
    let one = world.dir("one", &[("x", "one"), ("y", "one")]);
    let two = world.dir("two", &[("x", "two")]);
    set_mtime(&one.join("x"), 7);
    set_mtime(&two.join("x"), 5);
    settle();
    let branches = vec![world.host(&one), world.host(&two)];
    let segment = with_policy(&world, Policy::Newest, branches);
    let held = [get(&segment, "x").unwrap(), get(&segment, "y").unwrap()];
    segment.settle(vfsrun_union::Effort::All, || true);
    assert!(segment.is_current());
    set_mtime(&two.join("x"), 9);
    assert!(!segment.is_current());
    let mut forgotten = 0;
    assert!(segment.bring_up_to_date(|_| forgotten += 1));
    assert!(forgotten > 0);
    drop(held);
    assert_eq!(read(&segment, "x").unwrap(), "two");
}

#[test]
fn two_files_of_one_name_are_an_error_where_that_is_asked_for() {
    let mut world = World::new();
    let one = world.dir("one", &[("d/x", "one"), ("d/y", "one")]);
    let two = world.dir("two", &[("d/x", "two"), ("d/z", "two")]);
    let branches = vec![world.host(&one), world.host(&two)];
    let segment = with_policy(&world, Policy::Error, branches);
    assert_eq!(kind(&segment, "d/x"), Err(Errno::IO));
    assert_eq!(read(&segment, "d/y").unwrap() + &read(&segment, "d/z").unwrap(), "onetwo");
    assert_eq!(names(&segment, "d"), ["x", "y", "z"]);
    let faults = segment.faults();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].path.to_str(), Some("d/x"));
    assert!(matches!(faults[0].reason, FaultReason::SeveralFiles { .. }));
}

#[test]
fn listings_have_the_order_that_was_asked_for() {
    let mut world = World::new();
    let all: Vec<String> = (0..20).map(|n| format!("n{n:02}")).collect();
    let files: Vec<(&str, &str)> = all.iter().rev().map(|name| (name.as_str(), "")).collect();
    let (low, high) = files.split_at(10);
    let branches = [world.dir("one", low), world.dir("two", high)].map(|dir| world.host(&dir));
    let listed = |order| {
        let spec = SegmentSpec { branches: branches.to_vec(), order, ..SegmentSpec::default() };
        names(&world.build_spec(spec).unwrap(), "")
    };
    assert_eq!(listed(Order::Sorted), all);
    let native = listed(Order::Native);
    assert_eq!(native, on_host(&world, "one").into_iter().chain(on_host(&world, "two")).collect::<Vec<_>>());
    let shuffled = listed(Order::Shuffled(1));
    assert_eq!(shuffled, listed(Order::Shuffled(1)));
    assert_ne!(shuffled, listed(Order::Shuffled(2)));
    assert_ne!(shuffled, all);
    let mut sorted = shuffled;
    sorted.sort();
    assert_eq!(sorted, all);
}

fn on_host(world: &World, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(world.path().join(dir)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn no_time_is_shown_that_is_later_than_described() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("old", ""), ("new", "")]);
    set_mtime(&tree.join("old"), 7);
    let branches = vec![world.host(&tree)];
    let latest = Some(1000);
    let segment = world.build_spec(SegmentSpec { branches, latest, ..SegmentSpec::default() }).unwrap();
    let shown = |name| segment.as_shown(segment.attr(&get(&segment, name).unwrap()).unwrap());
    let at = |sec| Time { sec, nsec: 0 };
    assert_eq!((shown("old").mtime, shown("old").ctime), (at(7), at(1000)));
    assert_eq!((shown("new").mtime, shown("new").atime), (at(1000), at(1000)));
}
