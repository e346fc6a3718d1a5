//! What an action sees of a segment: the branch's names and bytes, asked for once and then cached.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use support::{attach_host, host_segment, open_dir, settle, with_rig};
use vfsrun_fuse::Visit;
use vfsrun_union::SegmentSpec;
use vfsrun_union::describe::{BranchSpec, Source, TypeConflict};

#[test]
fn names_bytes_and_links_of_a_host_directory_are_seen_through_the_mount() {
    with_rig("names_bytes_and_links", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("sub")).unwrap();
        fs::write(host.join("sub/file"), "content").unwrap();
        fs::set_permissions(host.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("sub/file", host.join("link")).unwrap();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        assert!(!attached.warm);
        let root = rig.mounted("root", &attached);
        assert_eq!(names(&root), ["link", "sub"]);
        assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "content");
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("sub/file"));
        let (seen, real) =
            (fs::metadata(root.join("sub/file")).unwrap(), fs::metadata(host.join("sub/file")).unwrap());
        assert_eq!(
            (seen.mode(), seen.len(), seen.mtime_nsec()),
            (real.mode(), real.len(), real.mtime_nsec())
        );
        assert_eq!(seen.ino() as u32, real.ino() as u32);
    });
}

#[test]
fn a_warm_segment_is_read_again_without_asking_the_server() {
    with_rig("warm_segment", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("sub")).unwrap();
        fs::write(host.join("sub/file"), "content").unwrap();
        symlink("sub/file", host.join("link")).unwrap();
        let touch = |root: &Path| {
            assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "content");
            assert_eq!(fs::metadata(root.join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(names(root), ["link", "sub"]);
        };
        settle();
        let mut first = rig.view();
        let mount = attach_host(&mut first, &host);
        touch(&rig.mounted("first", &mount));
        drop(first);
        let mut second = rig.view();
        let before = second.stats().unwrap();
        let attached = attach_host(&mut second, &host);
        touch(&rig.mounted("second", &attached));
        let after = second.stats().unwrap();
        assert!(attached.warm);
        assert_eq!(attached.segment, mount.segment);
        assert_eq!(
            (after.lookup, after.getattr, after.read, after.readlink, after.readdir + after.readdirplus),
            (
                before.lookup,
                before.getattr,
                before.read,
                before.readlink,
                before.readdir + before.readdirplus
            ),
        );
    });
}

#[test]
fn a_name_that_is_an_error_is_listed_among_others_and_the_error_is_told_to_who_uses_it() {
    with_rig("error_listed", |rig| {
        let (one, two) = (rig.dir("one"), rig.dir("two"));
        fs::create_dir(one.join("both")).unwrap();
        fs::write(two.join("both"), "a file here").unwrap();
        for name in ["alone", "last"] {
            fs::write(two.join(name), name).unwrap();
        }
        let branch = |root| BranchSpec::new(Source::Host { root, host: None }, "host");
        let segment = SegmentSpec {
            branches: vec![branch(0), branch(1)],
            types: TypeConflict::Error,
            ..SegmentSpec::default()
        };
        let mut view = rig.view();
        let attached = view.attach(&segment, &[open_dir(&one).as_fd(), open_dir(&two).as_fd()]).unwrap();
        let root = rig.mounted("root", &attached);
        for _ in 0..2 {
            assert_eq!(names(&root), ["alone", "both", "last"]);
            let error = fs::symlink_metadata(root.join("both")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            assert_eq!(fs::read_to_string(root.join("last")).unwrap(), "last");
        }
        let asked = view.stats().unwrap();
        assert!(asked.readdirplus > 0, "{asked:?}");
    });
}

#[test]
fn a_name_that_is_not_there_is_asked_for_once() {
    with_rig("negative", |rig| {
        let host = rig.dir("host");
        let mut view = rig.view();
        let root = rig.mounted("root", &attach_host(&mut view, &host));
        for _ in 0..20 {
            assert_eq!(fs::metadata(root.join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(view.stats().unwrap().negative, 1);
    });
}

#[test]
fn a_changed_file_makes_a_new_generation_and_leaves_the_old_one_to_those_inside() {
    with_rig("changed", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "old").unwrap();
        fs::write(host.join("kept"), "kept").unwrap();
        let mut first = rig.view();
        let before = attach_host(&mut first, &host);
        let old_root = rig.mounted("old", &before);
        assert_eq!(fs::read_to_string(old_root.join("file")).unwrap(), "old");
        assert_eq!(fs::read_to_string(old_root.join("kept")).unwrap(), "kept");
        fs::write(host.join("file"), "new and longer").unwrap();
        let mut second = rig.view();
        let after = attach_host(&mut second, &host);
        assert!(!after.warm);
        assert_ne!(after.segment, before.segment);
        let new_root = rig.mounted("new", &after);
        assert_eq!(fs::read_to_string(new_root.join("file")).unwrap(), "new and longer");
        assert_eq!(fs::read_to_string(old_root.join("kept")).unwrap(), "kept");
        assert_eq!(second.ping(std::time::Duration::from_secs(5)).unwrap().segments, 2);
        drop(first);
        support::eventually("the old generation goes with its last client", || {
            second.ping(std::time::Duration::from_secs(5)).unwrap().segments == 1
        });
        assert_eq!(fs::read_to_string(old_root.join("kept")).unwrap(), "kept", "an action is still inside");
    });
}

#[test]
fn a_change_with_nobody_inside_is_forgotten_alone() {
    with_rig("forgotten_alone", |rig| {
        let host = rig.dir("host");
        for dir in ["edited", "grown", "shrunk", "kept"] {
            fs::create_dir(host.join(dir)).unwrap();
            fs::write(host.join(dir).join("file"), "old").unwrap();
        }
        settle();
        let see = |root: &Path| {
            let mut seen = Vec::new();
            for dir in ["edited", "grown", "shrunk", "kept"] {
                let read = |name| fs::read_to_string(root.join(dir).join(name)).unwrap_or_default();
                seen.push(format!(
                    "{dir}: {:?} {:?} {:?}",
                    names(&root.join(dir)),
                    read("file"),
                    read("new")
                ));
            }
            seen
        };
        let mut first = rig.view();
        let before = attach_host(&mut first, &host);
        see(&rig.mounted("first", &before));
        drop(first);
        fs::write(host.join("edited/file"), "new").unwrap();
        fs::write(host.join("grown/new"), "new").unwrap();
        fs::remove_file(host.join("shrunk/file")).unwrap();
        settle();
        let mut second = rig.view();
        let counted = second.stats().unwrap();
        let after = attach_host(&mut second, &host);
        assert!(after.warm);
        assert_eq!(after.segment, before.segment);
        let root = rig.mounted("second", &after);
        assert_eq!(
            see(&root),
            [
                r#"edited: ["file"] "new" """#,
                r#"grown: ["file", "new"] "old" "new""#,
                r#"shrunk: [] "" """#,
                r#"kept: ["file"] "old" """#,
            ],
        );
        let asked = second.stats().unwrap();
        assert!(asked.lookup - counted.lookup <= 2, "grown/new, unless its listing told, and shrunk/file");
        assert_eq!(asked.read - counted.read, 2, "edited/file and grown/new");
    });
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error_and_a_fault_never_torn() {
    with_rig("torn", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), vec![1; 8 << 20]).unwrap();
        settle();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let root = rig.mounted("root", &attached);
        let file = fs::File::open(root.join("file")).unwrap();
        file.read_exact_at(&mut [0; 4096], 0).unwrap();
        let visit = view.visit(&[&attached.segment]).unwrap();
        assert_eq!(visit, Visit { began: visit.began, ..Visit::default() });
        fs::write(host.join("file"), vec![2; 8 << 20]).unwrap();
        let error = file.read_exact_at(&mut [0; 4096], 6 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let visit = view.visit(&[&attached.segment]).unwrap();
        assert!(visit.refused);
        assert_eq!(Vec::from_iter(visit.changed), [Path::new("file")]);
        assert!(!attach_host(&mut view, &host).warm);
    });
}

#[test]
fn a_directory_too_large_for_one_answer_is_listed_whole() {
    with_rig("large_directory", |rig| {
        let host = rig.dir("host");
        let mut expected: Vec<String> =
            (0..5000).map(|number| format!("{number:05}-{}", "n".repeat(60))).collect();
        for name in &expected {
            fs::write(host.join(name), "").unwrap();
        }
        expected.sort();
        let mut view = rig.view();
        let root = rig.mounted("root", &attach_host(&mut view, &host));
        assert_eq!(names(&root), expected);
        for entry in fs::read_dir(&root).unwrap().take(100) {
            let entry = entry.unwrap();
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), entry.metadata().unwrap().ino());
        }
        let asked = view.stats().unwrap();
        assert!(asked.readdir + asked.readdirplus > 1, "{asked:?}");
    });
}

#[test]
fn a_large_file_is_read_whole_and_at_any_offset() {
    with_rig("large_file", |rig| {
        let host = rig.dir("host");
        let content: Vec<u8> =
            (0..9_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(host.join("file"), &content).unwrap();
        let mut view = rig.view();
        let root = rig.mounted("root", &attach_host(&mut view, &host));
        let mut middle = [0; 1000];
        fs::File::open(root.join("file")).unwrap().read_exact_at(&mut middle, 4_567_890).unwrap();
        assert_eq!(middle[..], content[4_567_890..4_568_890]);
        assert!(fs::read(root.join("file")).unwrap() == content);
    });
}

#[test]
fn nothing_can_be_written_through_the_mount() {
    with_rig("read_only", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), "content").unwrap();
        let mut view = rig.view();
        let root = rig.mounted("root", &attach_host(&mut view, &host));
        for error in [
            fs::write(root.join("file"), "x").unwrap_err(),
            fs::write(root.join("new"), "x").unwrap_err(),
            fs::create_dir(root.join("dir")).unwrap_err(),
            fs::remove_file(root.join("file")).unwrap_err(),
            fs::rename(root.join("file"), root.join("other")).unwrap_err(),
            fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o777)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{error}");
        }
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "content");
    });
}

#[test]
fn a_segment_that_cannot_be_built_is_refused_with_its_cause_and_the_client_goes_on() {
    with_rig("refused", |rig| {
        let host = rig.dir("host");
        let mut view = rig.view();
        let error = view.attach(&host_segment(), &[]).unwrap_err();
        assert!(error.to_string().contains("descriptor"), "{error}");
        attach_host(&mut view, &host);
    });
}

#[test]
fn two_directories_are_two_segments_and_neither_shows_the_other() {
    with_rig("two_segments", |rig| {
        let (left, right) = (rig.dir("left-host"), rig.dir("right-host"));
        fs::write(left.join("same"), "left").unwrap();
        fs::write(right.join("same"), "right").unwrap();
        let mut view = rig.view();
        let left_mount = attach_host(&mut view, &left);
        let right_mount = attach_host(&mut view, &right);
        let (left_root, right_root) = (rig.mounted("left", &left_mount), rig.mounted("right", &right_mount));
        assert_eq!(fs::read_to_string(left_root.join("same")).unwrap(), "left");
        assert_eq!(fs::read_to_string(right_root.join("same")).unwrap(), "right");
        let above =
            vfsrun_sys::beneath::open(open_dir(&left_root), Path::new(".."), rustix::fs::OFlags::PATH);
        assert!(above.is_err(), "a detached mount ends at its root");
    });
}

#[test]
fn warm_segments_beyond_the_bound_are_dropped_oldest_first() {
    with_rig("warm_bound", |rig| {
        let mut rig_options = rig.options.clone();
        rig_options.warm_segments = 2;
        let mut view = vfsrun_fuse::View::connect_or_start(rig.domain(), |domain, listener| {
            vfsrun_fuse::spawn_server(domain, listener, Path::new(support::SERVER), &rig_options)
        })
        .unwrap();
        let hosts: Vec<_> = (0..4).map(|number| rig.dir(&format!("host{number}"))).collect();
        settle();
        for host in &hosts {
            attach_host(&mut rig.view(), host);
            // So that the server hears of their ends in this order.
            settle();
        }
        support::eventually("only two segments stay", || {
            view.ping(std::time::Duration::from_secs(5)).unwrap().segments == 2
        });
        assert!(attach_host(&mut view, &hosts[3]).warm);
        assert!(!attach_host(&mut view, &hosts[0]).warm);
    });
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
