//! Hard links of a host directory, as the kernel shows them: each name a node of its own, all of a file with one number.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use support::{attach_host, eventually, settle, with_rig};

/// More than a listing tells at once.
const FILES: usize = 700;

/// Files `f0`, `f1`, … in `one`, each of them `g0`, … there, too, and `h0`, … in `two`.
fn link_files(host: &Path) {
    for dir in ["one", "two"] {
        fs::create_dir(host.join(dir)).unwrap();
    }
    for n in 0..FILES {
        let file = host.join(format!("one/f{n}"));
        fs::write(&file, n.to_string()).unwrap();
        fs::hard_link(&file, host.join(format!("one/g{n}"))).unwrap();
        fs::hard_link(&file, host.join(format!("two/h{n}"))).unwrap();
    }
}

/// What the listings say of each name below `root`.
fn listed(root: &Path) -> BTreeMap<String, u64> {
    let of = |dir: &str| {
        let entries = fs::read_dir(root.join(dir)).unwrap().map(Result::unwrap);
        entries
            .map(|entry| (format!("{dir}/{}", entry.file_name().display()), entry.ino()))
            .collect::<Vec<_>>()
    };
    ["one", "two"].into_iter().flat_map(of).collect()
}

/// What stat says of each of these names.
fn stated(root: &Path, names: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let ino = |name: &String| fs::symlink_metadata(root.join(name)).unwrap().ino();
    names.keys().map(|name| (name.clone(), ino(name))).collect()
}

#[test]
fn all_names_of_a_file_show_its_number_however_they_are_asked_for() {
    with_rig("one_number", |rig| {
        let host = rig.dir("host");
        link_files(&host);
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let before = view.stats().unwrap();
        let numbers = listed(&root);
        let asked = view.stats().unwrap();
        assert!(asked.readdirplus > before.readdirplus, "{asked:?}");
        assert_eq!(numbers.len(), 3 * FILES);
        // From the end, so that most are not first looked at in the order in which they were listed.
        for (name, number) in numbers.iter().rev() {
            let (seen, real) =
                (fs::metadata(root.join(name)).unwrap(), fs::metadata(host.join(name)).unwrap());
            assert_eq!((seen.ino(), seen.nlink()), (*number, 3), "{name}");
            assert_eq!(seen.ino() as u32, real.ino() as u32, "{name}");
        }
        for n in 0..FILES {
            let [f, g, h] = [format!("one/f{n}"), format!("one/g{n}"), format!("two/h{n}")];
            assert_eq!((numbers[&f], numbers[&g]), (numbers[&h], numbers[&h]));
            assert_eq!(fs::read_to_string(root.join(&h)).unwrap(), n.to_string());
        }
        assert_eq!(listed(&root), numbers);
        // Warm, the kernel answers by itself.
        drop(view);
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        assert!(attached.warm);
        let warm = rig.mounted("warm", &attached);
        let before = view.stats().unwrap();
        assert_eq!((listed(&warm), stated(&warm, &numbers)), (numbers.clone(), numbers));
        let after = view.stats().unwrap();
        assert_eq!((after.lookup, after.getattr), (before.lookup, before.getattr));
    });
}

#[test]
fn names_that_were_looked_up_one_by_one_agree_with_the_listing_after_them() {
    with_rig("one_by_one", |rig| {
        let host = rig.dir("host");
        link_files(&host);
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let names = listed(&host);
        let numbers = stated(&root, &names);
        assert_eq!(listed(&root), numbers);
        assert_eq!(stated(&root, &names), numbers);
    });
}

#[test]
fn names_of_linked_files_cost_no_requests_of_their_own() {
    with_rig("cost_of_links", |rig| {
        let (linked, alone) = (rig.dir("linked"), rig.dir("alone"));
        link_files(&linked);
        for name in listed(&linked).into_keys() {
            fs::create_dir_all(alone.join(&name).parent().unwrap()).unwrap();
            fs::write(alone.join(&name), "x").unwrap();
        }
        settle();
        let requests = |host: &Path, name: &str| {
            let mut view = rig.view();
            let attached = attach_host(&mut view, host);
            let root = rig.mounted(name, &attached);
            let before = view.stats().unwrap();
            stated(&root, &listed(&root));
            let after = view.stats().unwrap();
            (after.lookup - before.lookup, after.getattr - before.getattr)
        };
        let of_linked = requests(&linked, "first");
        assert_eq!(of_linked, requests(&alone, "second"));
        assert!(of_linked.0 < 10, "{of_linked:?}: they are told with the listing");
    });
}

#[test]
fn nothing_is_left_of_linked_names_when_the_kernel_has_forgotten_them() {
    with_rig("links_forgotten", |rig| {
        rig.options.warm_segments = 0;
        let host = rig.dir("host");
        link_files(&host);
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let nodes = |view: &mut vfsrun_fuse::View| view.ping(Duration::from_secs(5)).unwrap().nodes;
        for _ in 0..2 {
            stated(&root, &listed(&root));
        }
        assert!(nodes(&mut view) > 3 * FILES as u64);
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop((attached, view));
        eventually("the kernel forgets them", || nodes(&mut rig.view()) <= 1);
    });
}

#[test]
fn a_file_that_gets_a_name_between_two_runs_shows_the_number_of_both() {
    with_rig("new_name", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("d")).unwrap();
        fs::write(host.join("file"), "x").unwrap();
        settle();
        let look = |name: &str, names: &[&str]| {
            let mut view = rig.view();
            let attached = attach_host(&mut view, &host);
            let root = rig.mounted(name, &attached);
            let seen: Vec<_> = names
                .iter()
                .map(|name| fs::metadata(root.join(name)).unwrap())
                .map(|seen| (seen.ino(), seen.nlink()))
                .collect();
            nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
            (attached.warm, seen)
        };
        let (_, alone) = look("first", &["file"]);
        fs::hard_link(host.join("file"), host.join("d/other")).unwrap();
        settle();
        let (warm, two) = look("second", &["d/other", "file"]);
        assert!(warm);
        assert_eq!((two[0], two[0].1, two[0].0 as u32), (two[1], 2, alone[0].0 as u32));
        fs::remove_file(host.join("file")).unwrap();
        fs::File::create_new(host.join("file")).unwrap().write_all(b"y").unwrap();
        settle();
        let (warm, apart) = look("third", &["file", "d/other"]);
        assert!(warm);
        assert_ne!(apart[0].0, apart[1].0);
        assert_eq!((apart[0].1, apart[1].1), (1, 1));
        assert_eq!(apart[1].0 as u32, alone[0].0 as u32);
    });
}
