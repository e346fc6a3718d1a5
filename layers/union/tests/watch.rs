//! What is watched is not looked at again, and every change of it is noticed all the same.

mod support;

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::mount::{MsFlags, mount, umount};
use support::*;
use vfsrun_union::describe::{BranchSpec, Live};
use vfsrun_union::{Context, Effort, FileKind, Node, Segment};

struct Watched {
    world: World,
    tree: PathBuf,
    segment: Segment,
    held: Vec<Arc<Node>>,
}

/// Everything in the tree has been looked at, read, and put under watch; the name `no` was looked for in vain.
fn watched(files: &[(&str, &str)]) -> Watched {
    watched_as(files, |branch| branch)
}

fn watched_as(files: &[(&str, &str)], as_what: impl Fn(BranchSpec) -> BranchSpec) -> Watched {
    let mut world = World::new();
    let tree = world.dir("tree", files);
    settle();
    let branches = vec![as_what(world.host(&tree))];
    let segment = world.build(branches);
    let mut held = Vec::new();
    let mut dirs = vec![segment.root()];
    while let Some(dir) = dirs.pop() {
        assert!(segment.lookup(&dir, "no".as_ref()).is_err());
        for entry in segment.list(&dir).unwrap() {
            let node = segment.lookup(&dir, &entry.name).unwrap();
            match node.kind() {
                FileKind::Directory => dirs.push(node.clone()),
                FileKind::Regular => drop(segment.open(&node).unwrap()),
                _ => {}
            }
            held.push(node);
        }
    }
    segment.settle(Effort::All, || true);
    Watched { world, tree, segment, held }
}

/// The root of the branch has no name by which to watch it; it is always looked at.
const ROOT: usize = 1;

const TREE: [(&str, &str); 4] =
    [("d/f", "content"), ("d/g", "other"), ("d/sub/h", "deep"), ("d/link", "->f")];

#[track_caller]
fn assert_noticed(what: &str, change: impl Fn(&Path)) {
    for live in [Live::Auto, Live::Watch] {
        let watched = watched_as(&TREE, |branch| BranchSpec { live, ..branch });
        assert_eq!(watched.segment.in_doubt(), ROOT, "{live:?}, {what}: everything else is watched");
        assert!(watched.segment.is_current(), "{live:?}, {what}: nothing has changed yet");
        change(&watched.tree);
        assert!(!watched.segment.is_current(), "{live:?}, {what}");
    }
}

#[test]
fn every_change_is_noticed() {
    let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
    assert_noticed("write", |tree| write(tree.join("d/f"), "changed"));
    assert_noticed("write of the same size and time", |tree| {
        let before = fs::metadata(tree.join("d/f")).unwrap().modified().unwrap();
        let file = OpenOptions::new().write(true).open(tree.join("d/f")).unwrap();
        file.write_all_at(b"CONTENT", 0).unwrap();
        file.set_modified(before).unwrap();
    });
    assert_noticed("truncate by path", |tree| rustix_truncate(&tree.join("d/f")));
    assert_noticed("mode", |tree| {
        fs::set_permissions(tree.join("d/f"), Permissions::from_mode(0o600)).unwrap();
    });
    assert_noticed("mode of a directory", |tree| {
        fs::set_permissions(tree.join("d/sub"), Permissions::from_mode(0o700)).unwrap();
    });
    assert_noticed("times of a directory", |tree| {
        File::open(tree.join("d/sub")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    });
    assert_noticed("time of access of a file", |tree| {
        let epoch = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
        File::open(tree.join("d/f")).unwrap().set_times(epoch).unwrap();
    });
    assert_noticed("removal", |tree| fs::remove_file(tree.join("d/f")).unwrap());
    assert_noticed("rename over", |tree| fs::rename(tree.join("d/g"), tree.join("d/f")).unwrap());
    assert_noticed("rename of a directory", |tree| {
        fs::rename(tree.join("d/sub"), tree.join("d/other")).unwrap();
    });
    assert_noticed("rename of a parent", |tree| fs::rename(tree.join("d"), tree.join("e")).unwrap());
    assert_noticed("what was looked for in vain", |tree| write(tree.join("d/sub/no"), ""));
    assert_noticed("new link", |tree| fs::hard_link(tree.join("d/f"), tree.join("../outside")).unwrap());
    assert_noticed("link target", |tree| {
        symlink("g", tree.join("d/new")).unwrap();
        fs::rename(tree.join("d/new"), tree.join("d/link")).unwrap();
    });
}

#[test]
fn a_flag_of_a_directory_is_noticed() {
    let watched = watched(&TREE);
    assert!(watched.segment.is_current());
    let sub = File::open(watched.tree.join("d/sub")).unwrap();
    let Ok(flags) = rustix::fs::ioctl_getflags(&sub) else {
        return skip::this_test("the file system has no flags");
    };
    rustix::fs::ioctl_setflags(&sub, flags | rustix::fs::IFlags::NODUMP).unwrap();
    assert!(!watched.segment.is_current());
}

fn rustix_truncate(path: &Path) {
    nix::unistd::truncate(path, 2).unwrap();
}

#[test]
fn a_write_by_a_name_outside_of_the_branch_is_noticed() {
    for made_before in [true, false] {
        let mut world = World::new();
        let tree = world.dir("tree", &[("f", "content")]);
        let outside = world.path().join("outside");
        if made_before {
            fs::hard_link(tree.join("f"), &outside).unwrap();
        }
        settle();
        let branches = vec![world.host(&tree)];
        let segment = world.build(branches);
        let node = get(&segment, "f").unwrap();
        segment.open(&node).unwrap();
        segment.settle(Effort::All, || true);
        assert_eq!(segment.in_doubt(), ROOT);
        if !made_before {
            fs::hard_link(tree.join("f"), &outside).unwrap();
        }
        fs::write(&outside, "changed").unwrap();
        assert!(!segment.is_current(), "made before: {made_before}");
    }
}

#[test]
fn a_removed_directory_that_somebody_has_open_is_noticed() {
    let watched = watched(&TREE);
    let _open = File::open(watched.tree.join("d/sub")).unwrap();
    fs::remove_file(watched.tree.join("d/sub/h")).unwrap();
    settle();
    // Twice, for it was too young to tell.
    assert!(watched.segment.bring_up_to_date(|_| {}) && watched.segment.bring_up_to_date(|_| {}));
    watched.segment.settle(Effort::All, || true);
    assert_eq!(watched.segment.in_doubt(), ROOT);
    // The directory's own watch is told of this when it is closed.
    fs::remove_dir(watched.tree.join("d/sub")).unwrap();
    let mut forgotten = Vec::new();
    assert!(watched.segment.bring_up_to_date(|what| forgotten.push(format!("{what:?}"))));
    assert!(forgotten.iter().any(|what| what.contains("\"sub\"")), "{forgotten:?}");
}

#[test]
fn reading_on_the_host_is_no_change() {
    let watched = watched(&TREE);
    fs::read(watched.tree.join("d/f")).unwrap();
    assert!(watched.segment.is_current());
    assert_eq!(watched.segment.in_doubt(), ROOT + 2, "it was opened: to look at, with its directory");
    watched.segment.settle(Effort::All, || true);
    assert_eq!(watched.segment.in_doubt(), ROOT);
}

#[test]
fn a_file_with_a_writer_is_not_watched_until_the_writer_is_gone() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    let writer = OpenOptions::new().append(true).open(tree.join("f")).unwrap();
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let _held = get(&segment, "f").unwrap();
    segment.settle(Effort::All, || true);
    assert_eq!(segment.in_doubt(), ROOT + 1);
    drop(writer);
    segment.settle(Effort::All, || true);
    assert_eq!(segment.in_doubt(), ROOT);
}

#[test]
fn a_writer_is_noticed_before_it_writes() {
    let watched = watched(&TREE);
    let mut writer = OpenOptions::new().append(true).open(watched.tree.join("d/f")).unwrap();
    assert!(!watched.segment.is_current());
    writer.write_all(b"y").unwrap();
    drop(writer);
    assert!(!watched.segment.is_current());
}

#[test]
fn two_names_of_one_file_are_watched_together() {
    let mut world = World::new();
    let tree = world.dir("tree", &[("f", "x")]);
    fs::hard_link(tree.join("f"), tree.join("g")).unwrap();
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let held = [get(&segment, "f").unwrap(), get(&segment, "g").unwrap()];
    for node in &held {
        segment.open(node).unwrap();
    }
    segment.settle(Effort::All, || true);
    assert_eq!(segment.in_doubt(), ROOT);
    assert_eq!(world.context.watched(), 1);
    fs::write(tree.join("g"), "y").unwrap();
    assert_eq!(segment.in_doubt(), ROOT, "nobody has listened yet");
    assert!(!segment.is_current());
    assert_eq!(segment.in_doubt(), ROOT + 2);
}

#[test]
fn a_swept_branch_is_never_watched() {
    let watched = watched_as(&TREE, |branch| BranchSpec { live: Live::Sweep, ..branch });
    assert_eq!(watched.segment.in_doubt(), ROOT + watched.held.len());
    assert_eq!(watched.world.context.watched(), 0);
}

#[test]
fn without_a_table_of_mounts_nothing_is_watched() {
    let mut world = World::new();
    world.context = Context::new(None);
    let tree = world.dir("tree", &[("f", "x")]);
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let _held = get(&segment, "f").unwrap();
    segment.settle(Effort::All, || true);
    assert_eq!(world.context.watched(), 0);
}

#[test]
fn what_nobody_holds_is_not_watched_any_more() {
    let mut watched = watched(&TREE);
    assert_eq!(watched.world.context.watched(), watched.held.len());
    watched.held.clear();
    assert_eq!(watched.world.context.watched(), 0);
}

#[test]
fn changes_are_noticed_although_events_were_lost() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let mut world = World::new();
    let tree = world.dir("tree", &[]);
    for n in 0..limit {
        File::create(tree.join(format!("f{n}"))).unwrap();
    }
    settle();
    let branches = vec![world.host(&tree)];
    let segment = world.build(branches);
    let _held: Vec<_> = (0..limit).map(|n| get(&segment, &format!("f{n}")).unwrap()).collect();
    segment.settle(Effort::All, || true);
    assert_eq!(segment.in_doubt(), ROOT);
    for n in 0..limit {
        drop(File::open(tree.join(format!("f{n}"))).unwrap());
    }
    fs::write(tree.join(format!("f{}", limit - 1)), "x").unwrap();
    assert!(!segment.is_current());
    segment.settle(Effort::All, || true);
    assert!(segment.in_doubt() < 10, "watched again");
}

/// In a mount namespace of its own; says so when this machine cannot.
fn with_mounts(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        return skip::this_test("mounting needs root");
    }
    std::thread::scope(|scope| {
        let run = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            test();
        };
        scope.spawn(run).join().unwrap();
    });
}

#[test]
fn a_mount_over_a_directory_and_its_end_are_noticed() {
    with_mounts(|| {
        let watched = watched(&[("d/sub/f", "below"), ("other/f", "above")]);
        let (place, other) = (watched.tree.join("d/sub"), watched.tree.join("other"));
        let bind = || mount(Some(&other), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        assert!(watched.segment.is_current());
        bind();
        assert!(!watched.segment.is_current());
        umount(&place).unwrap();
        assert!(watched.segment.is_current(), "everything is as it was");
        assert_eq!(
            watched.segment.looked_at(),
            watched.held.len() + ROOT,
            "all of it, because of the mounts"
        );
        watched.segment.settle(Effort::All, || true);
        assert!(watched.segment.is_current());
        assert_eq!(watched.segment.looked_at(), ROOT);
        bind();
        fs::write(other.join("f"), "changed").unwrap();
        assert!(!watched.segment.is_current());
        umount(&place).unwrap();
    });
}

#[test]
fn a_directory_that_is_mounted_here_and_removed_elsewhere_is_noticed() {
    with_mounts(|| {
        let mut world = World::new();
        let (tree, other) = (world.dir("tree", &[("d/", "")]), world.dir("other", &[]));
        let place = tree.join("d");
        mount(Some(&other), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        settle();
        let branches = vec![world.host(&tree)];
        let segment = world.build(branches);
        let _held = get(&segment, "d").unwrap();
        segment.settle(Effort::All, || true);
        assert!(segment.is_current());
        fs::remove_dir(&other).unwrap();
        assert!(!segment.is_current());
        umount(&place).unwrap();
    });
}
