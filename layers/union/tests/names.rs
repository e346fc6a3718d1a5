//! Directories of many branches: look-ups by an index of their names.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;

use support::*;
use vfsrun_union::describe::{BranchSpec, Scope, Source, Symlinks, Whiteouts};
use vfsrun_union::{Errno, FileKind, Node, Segment};

/// Twelve host directories, each with `bin/common` and a name of its own there.
fn many() -> (World, Segment) {
    let mut world = World::new();
    let branches: Vec<_> = (0..12).map(|number| host_part(&mut world, number)).collect();
    settle();
    let segment = world.build(branches).with_name_indexes(8);
    (world, segment)
}

fn host_part(world: &mut World, number: u32) -> BranchSpec {
    let root = world.path().join(format!("part-{number}"));
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/common"), format!("{number}")).unwrap();
    fs::write(root.join(format!("bin/own-{number}")), format!("own {number}")).unwrap();
    world.host(&root)
}

/// The directory with an index: the second look-up makes it.
fn indexed(segment: &Segment, path: &str) -> Arc<Node> {
    for _ in 0..2 {
        assert_eq!(kind(segment, &format!("{path}/nobody-has-this")), Err(Errno::NOENT));
    }
    get(segment, path).unwrap()
}

#[test]
fn each_branch_name_is_found_and_the_first_branch_wins() {
    let (_world, segment) = many();
    let _dir = indexed(&segment, "/bin");
    assert_eq!(read(&segment, "/bin/common").unwrap(), "0");
    for number in 0..12 {
        assert_eq!(read(&segment, &format!("/bin/own-{number}")).unwrap(), format!("own {number}"));
    }
    assert_eq!(kind(&segment, "/bin/own-12"), Err(Errno::NOENT));
    assert_eq!(names(&segment, "/bin").len(), 13);
}

/// What shows that there is an index: those who were told that a name is absent and those who ask later are told the same.
#[test]
fn an_absence_holds_until_the_segment_is_brought_up_to_date() {
    let (world, segment) = many();
    let dir = indexed(&segment, "/bin");
    fs::write(world.path().join("part-7/bin/new"), "new").unwrap();
    fs::write(world.path().join("part-3/bin/own-7"), "higher").unwrap();
    assert_eq!(segment.lookup(&dir, "new".as_ref()).unwrap_err(), Errno::NOENT);
    let mut old = String::new();
    let node = segment.lookup(&dir, "own-7".as_ref()).unwrap();
    File::from(segment.open(&node).unwrap()).read_to_string(&mut old).unwrap();
    assert_eq!(old, "own 7");
    assert!(segment.bring_up_to_date(|_| {}));
    for _ in 0..3 {
        assert_eq!(read(&segment, "/bin/new").unwrap(), "new");
        assert_eq!(read(&segment, "/bin/own-7").unwrap(), "higher");
    }
}

#[test]
fn where_few_branches_meet_each_is_asked() {
    let (world, _) = many();
    let segment = world.build((0..7).map(part_again).collect()).with_name_indexes(8);
    let _dir = indexed(&segment, "/bin");
    fs::write(world.path().join("part-5/bin/new"), "new").unwrap();
    assert_eq!(read(&segment, "/bin/new").unwrap(), "new");
}

#[test]
fn on_the_way_to_their_places_branches_are_found_by_the_index() {
    let mut world = World::new();
    let at = |number: u32| format!("way/{}/part-{number}", number % 3);
    let part = |number| BranchSpec { at: at(number).into(), ..host_part(&mut world, number) };
    let branches: Vec<_> = (0..12).map(part).collect();
    settle();
    let segment = world.build(branches).with_name_indexes(4);
    for path in ["", "/way", "/way/0", "/way/1", "/way/2"] {
        let _dir = indexed(&segment, path);
    }
    for number in 0..12 {
        assert_eq!(read(&segment, &format!("/{}/bin/common", at(number))).unwrap(), format!("{number}"));
    }
    assert_eq!(names(&segment, "/way"), ["0", "1", "2"]);
}

/// `World::host` keeps two descriptors for each.
fn part_again(number: usize) -> BranchSpec {
    branch(Source::Host { root: 2 * number, host: Some(2 * number + 1) })
}

#[test]
fn layers_whiteouts_and_followed_links_are_in_the_index() {
    let mut world = World::new();
    let deleting = world.path().join("deleting");
    fs::create_dir_all(deleting.join("bin")).unwrap();
    fs::write(deleting.join("bin/.wh.own-2"), "").unwrap();
    std::os::unix::fs::symlink("common", deleting.join("bin/alias")).unwrap();
    let mut branches = vec![BranchSpec {
        whiteouts: Whiteouts::Oci,
        ..following(Symlinks::All, Scope::View, world.host(&deleting))
    }];
    branches.extend((0..8).map(|number| host_part(&mut world, number)));
    for number in 0..4 {
        let file = world.blob(&format!("layer {number}"));
        branches.push(world.layer(vec![dir("bin"), entry(&format!("bin/layer-{number}"), file)]));
    }
    settle();
    let segment = world.build(branches).with_name_indexes(8);
    let _dir = indexed(&segment, "/bin");
    assert_eq!(kind(&segment, "/bin/own-2"), Ok(FileKind::Whiteout));
    assert_eq!(read(&segment, "/bin/alias").unwrap(), "0");
    assert_eq!(read(&segment, "/bin/layer-3").unwrap(), "layer 3");
    assert_eq!(kind(&segment, "/bin/layer-4"), Err(Errno::NOENT));
    assert_eq!(read(&segment, "/bin/own-7").unwrap(), "own 7");
}

/// A name is listed and looked up in one state, whatever happens between the two.
#[test]
fn a_directory_that_changes_is_indexed_anew() {
    let (world, segment) = many();
    for round in 0..5 {
        let _dir = indexed(&segment, "/bin");
        let name = format!("round-{round}");
        fs::write(world.path().join("part-11/bin").join(&name), &name).unwrap();
        if round > 0 {
            fs::remove_file(world.path().join(format!("part-11/bin/round-{}", round - 1))).unwrap();
        }
        settle();
        assert!(segment.bring_up_to_date(|_| {}));
        for _ in 0..3 {
            assert_eq!(read(&segment, &format!("/bin/{name}")).unwrap(), name);
            assert_eq!(kind(&segment, &format!("/bin/round-{}", round + 1)), Err(Errno::NOENT));
            if round > 0 {
                let before = format!("/bin/round-{}", round - 1);
                assert_eq!(kind(&segment, &before), Err(Errno::NOENT), "{before}");
            }
        }
    }
}
