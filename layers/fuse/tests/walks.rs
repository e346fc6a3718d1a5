//! Walks through trees: what is worked out before it is asked for is what would have been found then.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use support::{attach_host, settle, with_rig};
use vfsrun_fuse::Visit;

/// Long enough for the server to have worked ahead.
const PAUSE: Duration = Duration::from_millis(20);

/// Directories `d00`, `d01`, … with files `f0`, `f1`, … of which each has a size of its own.
fn make_tree(root: &Path, directories: usize, files: usize) {
    for dir in 0..directories {
        let path = root.join(format!("d{dir:02}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..files {
            fs::write(path.join(format!("f{file}")), "x".repeat(dir * files + file)).unwrap();
        }
    }
}

/// Mode, links, size, time and target of each name, found as a walk finds it.
fn walked(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    walk(root, Path::new(""), &mut found);
    found
}

fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for name in names(&root.join(dir)) {
        let path = dir.join(name);
        let stat = fs::symlink_metadata(root.join(&path)).unwrap();
        let size = if stat.is_dir() { 0 } else { stat.size() };
        let (mode, links, time) = (stat.mode(), stat.nlink(), (stat.mtime(), stat.mtime_nsec()));
        let target = fs::read_link(root.join(&path)).ok();
        found.insert(path.clone(), format!("{mode:o} {links} {size} {time:?} {target:?}"));
        if stat.is_dir() {
            walk(root, &path, found);
        }
    }
}

/// Lists a directory as an action would, without a look at its names.
fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Goes out of what is mounted there.
fn leave(root: &Path) {
    nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_walk_finds_what_is_there() {
    with_rig("walk", |rig| {
        let host = rig.dir("host");
        make_tree(&host, 80, 3);
        // More than a listing tells at once, and more than is listed ahead.
        make_tree(&host.join("d20/large"), 1, 700);
        make_tree(&host.join("d30/huge"), 1, 5000);
        make_tree(&host.join("d40/deep/er"), 3, 3);
        fs::create_dir(host.join("d50/empty")).unwrap();
        symlink("f1", host.join("d50/link")).unwrap();
        fs::hard_link(host.join("d50/f1"), host.join("d50/also")).unwrap();
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        assert_eq!(walked(&root), walked(&host));
        let visit = view.visit(&[&attached.segment]).unwrap();
        assert_eq!(visit, Visit { began: visit.began, ..Visit::default() });
    });
}

#[test]
fn the_next_directory_of_a_walk_is_ready() {
    with_rig("ready", |rig| {
        let host = rig.dir("host");
        make_tree(&host, 100, 3);
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let list = |dirs: std::ops::Range<usize>| {
            for dir in dirs {
                assert_eq!(names(&root.join(format!("d{dir:02}"))), ["f0", "f1", "f2"]);
                sleep(PAUSE);
            }
        };
        // Whoever lists a directory alone is no walk.
        list(50..51);
        assert_eq!(view.stats().unwrap().ahead, 0);
        assert_eq!(names(&root).len(), 100);
        list(0..50);
        let ahead = view.stats().unwrap().ahead;
        assert!(ahead > 25, "{ahead}");
    });
}

#[test]
fn what_changed_before_the_next_action_came_is_not_told_as_it_was() {
    with_rig("next_action", |rig| {
        let host = rig.dir("host");
        make_tree(&host, 9, 3);
        settle();
        for round in 1..8 {
            let mut view = rig.view();
            let attached = attach_host(&mut view, &host);
            let root = rig.mounted(&format!("root{round}"), &attached);
            let [one, two] = [round, round + 1].map(|dir| format!("d0{dir}"));
            names(&root);
            names(&root.join(&one));
            sleep(PAUSE);
            view.visit(&[&attached.segment]).unwrap();
            leave(&root);
            drop((view, attached));
            fs::write(host.join(&two).join("f1"), "y".repeat(1000 + round)).unwrap();
            fs::write(host.join(&two).join("new"), "").unwrap();
            let mut view = rig.view();
            let attached = attach_host(&mut view, &host);
            let root = rig.mounted(&format!("again{round}"), &attached);
            assert_eq!(names(&root.join(&two)), ["f0", "f1", "f2", "new"]);
            assert_eq!(fs::metadata(root.join(&two).join("f1")).unwrap().size(), 1000 + round as u64);
            leave(&root);
        }
    });
}

#[test]
fn a_change_after_the_look_ahead_is_a_change_during_the_visit_if_somebody_was_told() {
    with_rig("change", |rig| {
        let host = rig.dir("host");
        make_tree(&host, 4, 3);
        settle();
        for (is_listed, changed) in [(false, vec![]), (true, vec![PathBuf::from("d01/f1")])] {
            let mut view = rig.view();
            let attached = attach_host(&mut view, &host);
            let root = rig.mounted(&format!("root{is_listed}"), &attached);
            names(&root);
            names(&root.join("d00"));
            sleep(PAUSE);
            // In place: the directory stays as it is.
            let file = fs::OpenOptions::new().write(true).open(host.join("d01/f1")).unwrap();
            file.write_at(b"changed", 0).unwrap();
            if is_listed {
                names(&root.join("d01"));
            }
            let visit = view.visit(&[&attached.segment]).unwrap();
            assert_eq!(Vec::from_iter(visit.changed), changed);
            leave(&root);
            // The next one is to be cold.
            drop((view, attached));
            fs::rename(host.join("d00"), host.join("d")).unwrap();
            fs::rename(host.join("d"), host.join("d00")).unwrap();
            settle();
        }
    });
}
