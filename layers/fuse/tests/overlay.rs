//! A kernel overlay over segments, with the options every action's root has.

mod support;

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use support::{Rig, attach_host, host_segment, open_dir, with_rig};
use vfsrun_fuse::{Attached, View};
use vfsrun_layers::{Digest, Entry, Kind, LayerStore, Manifest, Meta};
use vfsrun_union::describe::{Rule, RuleAction, Source};

#[test]
fn a_write_is_copied_up_and_the_host_keeps_its_file() {
    with_rig("copy_up", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("sub")).unwrap();
        fs::write(host.join("sub/file"), "lower").unwrap();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let (root, upper) = rig.overlay(&[&attached]);
        let before = fs::metadata(root.join("sub/file")).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(root.join("sub/file"))
            .unwrap()
            .write_all(b" and upper")
            .unwrap();
        assert_eq!(fs::read_to_string(root.join("sub/file")).unwrap(), "lower and upper");
        assert_eq!(fs::read_to_string(host.join("sub/file")).unwrap(), "lower");
        assert_eq!(fs::read_to_string(upper.join("sub/file")).unwrap(), "lower and upper");
        let after = fs::metadata(root.join("sub/file")).unwrap();
        assert_eq!((after.dev(), after.ino()), (before.dev(), before.ino()), "the same file to the action");
    });
}

#[test]
fn a_removed_directory_that_is_made_again_is_empty() {
    with_rig("removed_directory", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("sub")).unwrap();
        fs::write(host.join("sub/file"), "lower").unwrap();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let (root, upper) = rig.overlay(&[&attached]);
        fs::remove_dir_all(root.join("sub")).unwrap();
        assert!(!root.join("sub").exists());
        assert!(fs::symlink_metadata(upper.join("sub")).unwrap().file_type().is_char_device());
        fs::create_dir(root.join("sub")).unwrap();
        assert_eq!(fs::read_dir(root.join("sub")).unwrap().count(), 0);
        assert!(host.join("sub/file").exists());
    });
}

#[test]
fn programs_execute_and_map_files_through_the_overlay() {
    with_rig("execute", |rig| {
        let host = rig.dir("host");
        fs::copy(support::SERVER, host.join("program")).unwrap();
        fs::set_permissions(host.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let (root, _) = rig.overlay(&[&attached]);
        let output = Command::new(root.join("program")).arg("nonsense").output().unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains("not for use by hand"));
    });
}

#[test]
fn names_of_two_segments_merge_and_the_upper_one_wins() {
    with_rig("two_segments", |rig| {
        let (top, bottom) = (rig.dir("top"), rig.dir("bottom"));
        fs::create_dir(top.join("dir")).unwrap();
        fs::create_dir(bottom.join("dir")).unwrap();
        fs::write(top.join("dir/both"), "top").unwrap();
        fs::write(bottom.join("dir/both"), "bottom").unwrap();
        fs::write(bottom.join("dir/below"), "bottom").unwrap();
        let mut view = rig.view();
        let (upper, lower) = (attach_host(&mut view, &top), attach_host(&mut view, &bottom));
        let (root, _) = rig.overlay(&[&upper, &lower]);
        assert_eq!(fs::read_to_string(root.join("dir/both")).unwrap(), "top");
        assert_eq!(fs::read_to_string(root.join("dir/below")).unwrap(), "bottom");
        assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 2);
    });
}

#[test]
fn a_layers_whiteout_hides_a_name_of_the_segment_below() {
    with_rig("whiteout", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("gone"), "below").unwrap();
        fs::write(host.join("stays"), "below").unwrap();
        let mut view = rig.view();
        let whiteout = entry("gone", Kind::Whiteout, 0);
        let top = attach_layer(rig, &mut view, vec![whiteout]);
        let bottom = attach_host(&mut view, &host);
        let (root, _) = rig.overlay(&[&top, &bottom]);
        assert_eq!(fs::symlink_metadata(root.join("gone")).unwrap_err().kind(), ErrorKind::NotFound);
        let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["stays"]);
    });
}

#[test]
fn a_layers_opaque_directory_hides_what_the_segment_below_has_in_it() {
    with_rig("opaque", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("dir")).unwrap();
        fs::write(host.join("dir/below"), "below").unwrap();
        let mut view = rig.view();
        let opaque = entry("dir", Kind::Directory { opaque: true }, 0o755);
        let top = attach_layer(rig, &mut view, vec![opaque]);
        let bottom = attach_host(&mut view, &host);
        let (root, _) = rig.overlay(&[&top, &bottom]);
        assert!(root.join("dir").is_dir());
        assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 0);
        assert!(!root.join("dir/below").exists());
    });
}

#[test]
fn a_denied_name_of_a_merged_directory_is_listed_and_refuses_every_use() {
    with_rig("denied", |rig| {
        let (top, bottom) = (rig.dir("top"), rig.dir("bottom"));
        for dir in [&top, &bottom] {
            fs::create_dir_all(dir.join("project/secret.dir")).unwrap();
            fs::write(dir.join("project/secret.dir/f"), "secret").unwrap();
            fs::write(dir.join("project/secret.file"), "secret").unwrap();
            symlink("/etc/secret", dir.join("project/secret.link")).unwrap();
        }
        fs::write(bottom.join("project/open"), "open").unwrap();
        let mut view = rig.view();
        let mut spec = host_segment();
        let rule = Rule::pattern("secret.*", RuleAction::Deny);
        spec.branches[0].rules.push(rule);
        let upper = view.attach(&spec, &[open_dir(&top).as_fd()]).unwrap();
        let lower = attach_host(&mut view, &bottom);
        let (root, upper) = rig.overlay(&[&upper, &lower]);
        let project = root.join("project");
        let mut names: Vec<_> =
            fs::read_dir(&project).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["open", "secret.dir", "secret.file", "secret.link"]);
        let [file, link, dir] = ["secret.file", "secret.link", "secret.dir"].map(|name| project.join(name));
        for path in [&file, &link, &dir] {
            let seen = fs::symlink_metadata(path).unwrap();
            assert_eq!((seen.mode() & 0o7777, seen.blocks(), seen.mtime()), (0, 0, 0), "{path:?}");
        }
        // As root, whom no mode stops: the server refuses.
        let refused = |what: &str, outcome: std::io::Result<()>| {
            assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::PermissionDenied), "{what}");
        };
        refused("read", fs::read(&file).map(drop));
        refused("append", fs::OpenOptions::new().append(true).open(&file).map(drop));
        refused("truncate", fs::write(&file, "x"));
        refused("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o644)));
        refused("chmod of a directory", fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)));
        refused("rename", fs::rename(&file, project.join("taken")));
        refused("rename of a link", fs::rename(&link, project.join("taken")));
        refused("link", fs::hard_link(&file, project.join("taken")));
        refused("readlink", fs::read_link(&link).map(drop));
        refused("follow", fs::read(&link).map(drop));
        refused("list", fs::read_dir(&dir).and_then(|mut dir| dir.next().unwrap().map(drop)));
        refused("look up", fs::symlink_metadata(dir.join("f")).map(drop));
        refused("make", fs::write(dir.join("new"), "x"));
        let none: &mut [u8] = &mut [];
        refused("listxattr", rustix::fs::llistxattr(&file, none).map(drop).map_err(Into::into));
        assert_eq!(fs::read_dir(upper.join("project")).map(|names| names.count()).unwrap_or(0), 0);
        assert_eq!(fs::read_to_string(project.join("open")).unwrap(), "open");
    });
}

#[test]
fn a_damaged_blob_is_an_error_and_the_next_attach_gets_a_segment_without_the_fault() {
    with_rig("damaged_blob", |rig| {
        let (store_dir, mut view) = (rig.dir("store"), rig.view());
        let store = LayerStore::open(&store_dir).unwrap();
        let (digest, size) = store.put_blob(&b"stored"[..]).unwrap();
        let blob = store_dir.join("blobs").join(&digest.hex()[..2]).join(&digest.hex()[2..]);
        let file = entry("file", Kind::File { digest, size }, 0o644);
        let overwrite = |content: &str| {
            fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&blob, content).unwrap();
        };
        let layer = store.put_layer(&Manifest::from_entries(vec![file]).unwrap()).unwrap();
        overwrite("forged");
        let first = attach_digest(rig, &mut view, &layer);
        let error = fs::read(rig.mounted("first", &first).join("file")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let faults = view.visit(&[&first.segment]).unwrap().faults;
        assert!(
            faults[0].starts_with(&format!("/file: cannot use blob {digest}: it is damaged")),
            "{faults:?}"
        );
        overwrite("stored");
        let second = attach_digest(rig, &mut view, &layer);
        assert!(!second.warm);
        assert_ne!(second.segment, first.segment);
        assert_eq!(view.visit(&[&second.segment]).unwrap().faults, [""; 0]);
        assert_eq!(fs::read_to_string(rig.mounted("second", &second).join("file")).unwrap(), "stored");
        assert!(!view.visit(&[&first.segment]).unwrap().faults.is_empty(), "those inside keep theirs");
        let third = attach_digest(rig, &mut view, &layer);
        assert_eq!((third.warm, &third.segment), (true, &second.segment), "nothing is wrong with it");
    });
}

#[test]
fn a_blob_written_to_while_the_server_has_it_open_is_an_error_and_a_fault() {
    with_rig("blob_written_to", |rig| {
        let (store_dir, mut view) = (rig.dir("store"), rig.view());
        let store = LayerStore::open(&store_dir).unwrap();
        let (digest, size) = store.put_blob(&vec![1; 8 << 20][..]).unwrap();
        let blob = store_dir.join("blobs").join(&digest.hex()[..2]).join(&digest.hex()[2..]);
        let attached = attach_layer(rig, &mut view, vec![entry("file", Kind::File { digest, size }, 0o644)]);
        let file = fs::File::open(rig.mounted("mounted", &attached).join("file")).unwrap();
        file.read_exact_at(&mut [0; 4096], 0).unwrap();
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&blob, vec![2; 8 << 20]).unwrap();
        let error = file.read_exact_at(&mut [0; 4096], 6 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let faults = view.visit(&[&attached.segment]).unwrap().faults;
        assert!(faults[0].contains("it is damaged: it hashes to"), "{faults:?}");
    });
}

#[test]
fn an_old_root_keeps_working_after_its_segment_was_dropped() {
    with_rig("dropped_below_overlay", |rig| {
        let host = rig.dir("host");
        fs::create_dir(host.join("dir")).unwrap();
        fs::write(host.join("dir/seen"), "content").unwrap();
        fs::write(host.join("dir/unseen"), "content").unwrap();
        let mut view = rig.view();
        let attached = attach_host(&mut view, &host);
        let (root, _) = rig.overlay(&[&attached]);
        assert_eq!(fs::read_to_string(root.join("dir/seen")).unwrap(), "content");
        // A change makes the next attach supersede the segment, which then loses its client.
        fs::write(host.join("other"), "").unwrap();
        let mut later = rig.view();
        assert!(!attach_host(&mut later, &host).warm);
        drop(view);
        support::eventually("the old generation goes", || {
            later.ping(std::time::Duration::from_secs(5)).unwrap().segments == 1
        });
        assert_eq!(fs::read_to_string(root.join("dir/seen")).unwrap(), "content");
        assert_eq!(fs::read_to_string(root.join("dir/unseen")).unwrap(), "content");
        fs::write(root.join("dir/seen"), "written").unwrap();
        assert_eq!(fs::read_to_string(host.join("dir/seen")).unwrap(), "content");
    });
}

#[test]
fn a_server_in_a_user_namespace_serves_clients_who_enter_it() {
    with_rig("user_namespace", |rig| {
        let (host, scratch) = (rig.dir("host"), rig.dir("scratch"));
        fs::create_dir(host.join("dir")).unwrap();
        fs::write(host.join("dir/file"), "").unwrap();
        fs::write(host.join("file"), "lower").unwrap();
        let view = View::connect_or_start(rig.domain(), |domain, listener| {
            let [_, options] = rig.options.arguments();
            let status = Command::new(support::SERVER)
                .args(["in-user-namespace".as_ref(), options.as_os_str()])
                .stdin(listener)
                .stderr(domain.new_log()?)
                .status()?;
            assert!(status.success(), "{}", domain.log_tail());
            Ok(())
        })
        .unwrap();
        let theirs = vfsrun_fuse::namespace::id(view.user_namespace()).unwrap();
        assert_ne!(theirs, rig.options.clients, "the server's user namespace is its own");
        let output = Command::new(support::SERVER)
            .arg("client-of-user-namespace")
            .args([rig.domain(), host.as_path(), scratch.as_path()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "lower and upper, 0 left\n", "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "lower");
    });
}

fn attach_layer(rig: &Rig, view: &mut View, entries: Vec<Entry>) -> Attached {
    let store = LayerStore::open(&rig.dir("store")).unwrap();
    let digest = store.put_layer(&Manifest::from_entries(entries).unwrap()).unwrap();
    attach_digest(rig, view, &digest)
}

fn attach_digest(rig: &Rig, view: &mut View, digest: &Digest) -> Attached {
    let mut spec = host_segment();
    spec.branches[0].source = Source::Layer { digest: digest.to_string(), store: 0 };
    view.attach(&spec, &[open_dir(&rig.dir("store")).as_fd()]).unwrap()
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry { path: path.into(), kind, meta: Meta { mode, ..Meta::default() } }
}
