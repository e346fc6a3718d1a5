//! Files that the kernel reads from where they lie, through an overlay as every action's root has it.

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use rustix::fs::{Advice, fadvise};
use support::{Rig, SERVER, host_segment, open_dir, settle, skip, with_rig};
use vfsrun_fuse::{Attached, ServerOptions, TraceMode, View, spawn_server};
use vfsrun_layers::{Digest, Entry, Kind, LayerStore, Manifest, Meta};
use vfsrun_sys::mount::{self, Attr, NewMount};
use vfsrun_trace::{Outcome, Trace};
use vfsrun_union::SegmentSpec;
use vfsrun_union::describe::{BranchSpec, Passthrough, Source};

const SIZE: usize = 4 << 20;

/// As `with_rig`, where the kernel can pass files of the rig's directories through.
fn with_passing_rig(name: &str, test: impl FnOnce(&mut Rig) + Send) {
    with_rig(name, |rig| match impossible(&rig.dir("host")) {
        None => test(rig),
        Some(why) => skip::loudly(name, why),
    });
}

fn impossible(dir: &Path) -> Option<&'static str> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).flat_map(str::parse::<u32>);
    if (numbers.next(), numbers.next()) < (Some(6), Some(9)) {
        return Some("passthrough needs Linux 6.9");
    }
    if statfs(dir).unwrap().filesystem_type() == OVERLAYFS_SUPER_MAGIC {
        return Some("the temporary directory is in an overlay");
    }
    (!vfsrun_fuse::may_pass_through()).then_some("this is not the first user namespace")
}

/// Bytes of which no two pages are alike.
fn content() -> Vec<u8> {
    (0..SIZE as u64 / 8).flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect()
}

fn frozen_segment() -> SegmentSpec {
    let mut spec = SegmentSpec { passthrough: Passthrough::Always, ..host_segment() };
    spec.branches[0].frozen = true;
    spec
}

fn attach_frozen(view: &mut View, host: &Path) -> Attached {
    view.attach(&frozen_segment(), &[open_dir(host).as_fd()]).unwrap()
}

/// How many bytes of the file are in the page cache.
fn cached(file: &Path) -> usize {
    let output =
        Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(file).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
}

/// Takes the file's own pages out of the page cache.
fn evict(file: &Path) {
    let file = File::open(file).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

#[test]
fn a_frozen_file_is_read_without_a_request_and_kept_once() {
    with_passing_rig("kept_once", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), content()).unwrap();
        let mut view = rig.view();
        let attached = attach_frozen(&mut view, &host);
        let (root, _) = rig.overlay(&[&attached]);
        assert!(fs::read(root.join("file")).unwrap() == content());
        evict(&host.join("file"));
        assert_eq!(cached(&host.join("file")), 0);
        // Pages of the view's own would be read now.
        assert!(fs::read(root.join("file")).unwrap() == content());
        assert_eq!(cached(&host.join("file")), SIZE);
        let stats = view.stats().unwrap();
        assert_eq!((stats.read, stats.open), (0, 2));
    });
}

#[test]
fn a_program_of_a_layer_executes_and_is_mapped_without_a_request() {
    with_passing_rig("execute", |rig| {
        let store = LayerStore::open(&rig.dir("store")).unwrap();
        let digest = put_file(&store, "program", &fs::read(SERVER).unwrap());
        let mut view = rig.view();
        let mut spec = SegmentSpec { passthrough: Passthrough::Always, ..host_segment() };
        spec.branches[0].source = Source::Layer { digest: digest.to_string(), store: 0 };
        let attached = view.attach(&spec, &[open_dir(&rig.dir("store")).as_fd()]).unwrap();
        let (root, _) = rig.overlay(&[&attached]);
        let output = Command::new(root.join("program")).arg("nonsense").output().unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains("not for use by hand"));
        assert_eq!(view.stats().unwrap().read, 0);
    });
}

#[test]
fn a_write_in_the_root_copies_what_is_passed_through() {
    with_passing_rig("copy_up", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), content()).unwrap();
        let mut view = rig.view();
        let attached = attach_frozen(&mut view, &host);
        let (root, upper) = rig.overlay(&[&attached]);
        let open = File::open(root.join("file")).unwrap();
        fs::OpenOptions::new().append(true).open(root.join("file")).unwrap().write_all(b"more").unwrap();
        let expected = [content(), b"more".to_vec()].concat();
        assert!(fs::read(root.join("file")).unwrap() == expected);
        assert!(fs::read(upper.join("file")).unwrap() == expected);
        assert!(fs::read(host.join("file")).unwrap() == content());
        drop(open);
    });
}

#[test]
fn a_file_that_is_opened_and_closed_by_many_at_once_is_never_an_error() {
    with_passing_rig("many_at_once", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), content()).unwrap();
        let mut view = rig.view();
        let attached = attach_frozen(&mut view, &host);
        let (root, _) = rig.overlay(&[&attached]);
        let file = root.join("file");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for round in 0..300 {
                        let at = (thread * 300 + round) * 64;
                        let mut read = [0; 64];
                        File::open(file).unwrap().read_exact_at(&mut read, at as u64).unwrap();
                        assert_eq!(read, content_at(at));
                    }
                });
            }
        });
        assert_eq!(view.stats().unwrap().read, 0);
    });
}

fn content_at(at: usize) -> [u8; 64] {
    let word = |word: usize| (word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    let bytes: Vec<u8> = (at / 8..at / 8 + 8).flat_map(word).collect();
    bytes.try_into().unwrap()
}

#[test]
fn a_live_file_beside_frozen_ones_is_an_error_if_it_changes_while_it_is_read() {
    with_passing_rig("live_beside", |rig| {
        let (frozen, live) = (rig.dir("host"), rig.dir("live"));
        fs::write(frozen.join("frozen"), content()).unwrap();
        fs::write(live.join("live"), content()).unwrap();
        settle();
        let mut spec = frozen_segment();
        spec.branches.push(BranchSpec::new(Source::Host { root: 1, host: None }, "live"));
        let mut view = rig.view();
        let roots = [open_dir(&frozen), open_dir(&live)];
        let attached = view.attach(&spec, &[roots[0].as_fd(), roots[1].as_fd()]).unwrap();
        let (root, _) = rig.overlay(&[&attached]);
        let mut file = File::open(root.join("live")).unwrap();
        file.read_exact(&mut [0; 4096]).unwrap();
        let reads = view.stats().unwrap().read;
        assert!(reads > 0, "its content is asked for");
        fs::OpenOptions::new().write(true).open(live.join("live")).unwrap().write_all(b"changed").unwrap();
        let error = file.read_exact_at(&mut [0; 4096], SIZE as u64 - 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(view.visit(&[&attached.segment]).unwrap().changed.contains(OsStr::new("live")));
        let reads = view.stats().unwrap().read;
        assert!(fs::read(root.join("frozen")).unwrap() == content());
        assert_eq!(view.stats().unwrap().read, reads, "the frozen one is passed through");
    });
}

#[test]
fn a_file_that_the_kernel_does_not_take_is_read_by_the_server() {
    with_passing_rig("stacked", |rig| {
        let lower = rig.dir("host");
        fs::write(lower.join("file"), content()).unwrap();
        let stacked = rig.dir("stacked");
        let mut overlay = NewMount::of(c"overlay").unwrap();
        overlay = overlay
            .option(c"lowerdir", format!("{}:{}", lower.display(), rig.dir("none").display()).as_bytes())
            .unwrap();
        mount::attach(overlay.create(Attr::empty()).unwrap(), open_dir(&stacked)).unwrap();
        let mut view = rig.view();
        let attached = attach_frozen(&mut view, &stacked);
        let (root, _) = rig.overlay(&[&attached]);
        let first = File::open(root.join("file")).unwrap();
        assert!(fs::read(root.join("file")).unwrap() == content());
        assert!(view.stats().unwrap().read > 0);
        drop(first);
    });
}

#[test]
fn segments_that_want_no_passthrough_are_served_without_a_request_at_an_open() {
    with_passing_rig("not_wanted", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), content()).unwrap();
        let mut view = rig.view();
        let passed = attach_frozen(&mut view, &host);
        let mut spec = frozen_segment();
        spec.passthrough = Passthrough::Auto;
        let plain = view.attach(&spec, &[open_dir(&host).as_fd()]).unwrap();
        let plain = rig.mounted("plain", &plain);
        assert!(fs::read(plain.join("file")).unwrap() == content());
        let stats = view.stats().unwrap();
        assert!(stats.read > 0);
        assert!(fs::read(plain.join("file")).unwrap() == content());
        assert_eq!(view.stats().unwrap().open, stats.open, "the kernel was told that it need not ask");
        let passed = rig.mounted("passed", &passed);
        assert!(fs::read(passed.join("file")).unwrap() == content());
        assert_eq!(view.stats().unwrap().read, stats.read);
    });
}

/// A tracing server, a root of one frozen directory that it serves, and the log.
fn traced(rig: &Rig, passthrough: bool) -> (View, PathBuf, PathBuf) {
    let options = ServerOptions { passthrough, ..rig.options.clone().traced(TraceMode::Action) };
    let mut view = View::start_own(rig.domain(), |domain, listener| {
        spawn_server(domain, listener, Path::new(SERVER), &options)
    })
    .unwrap();
    let log = rig.dir("logs").join("log");
    view.begin_trace(&[File::create(&log).unwrap().as_fd()], vec!["host".to_owned()]).unwrap();
    let spec = SegmentSpec { passthrough: Passthrough::Auto, ..frozen_segment() };
    let attached = view.attach(&spec, &[open_dir(&rig.dir("host")).as_fd()]).unwrap();
    let (root, _) = rig.overlay(&[&attached]);
    (view, root, log)
}

#[test]
fn a_trace_tells_what_was_read_without_a_request() {
    with_passing_rig("traced", |rig| {
        fs::write(rig.dir("host").join("file"), content()).unwrap();
        let (mut view, root, log) = traced(rig, true);
        assert!(fs::read(root.join("file")).unwrap() == content());
        assert_eq!(view.stats().unwrap().read, 0);
        view.end_trace().unwrap();
        let trace = Trace::read(File::open(&log).unwrap()).unwrap();
        let mut of_file = trace.seen.iter().filter(|seen| trace.path(seen.path) == Path::new("/file"));
        assert!(of_file.any(|seen| seen.outcome == Outcome::Read), "{:?}", trace.seen);
    });
}

#[test]
fn only_a_root_of_which_nothing_is_passed_can_lie_below_another_overlay() {
    for passthrough in [true, false] {
        with_passing_rig("two_overlays", |rig| {
            let host = rig.dir("host");
            fs::create_dir(host.join("one")).unwrap();
            fs::create_dir(host.join("two")).unwrap();
            fs::write(host.join("file"), content()).unwrap();
            let (mut view, root, _) = traced(rig, passthrough);
            assert!(fs::read(root.join("file")).unwrap() == content());
            assert_eq!(view.stats().unwrap().read == 0, passthrough);
            let lower = format!("{0}/one:{0}/two", root.display());
            let second = NewMount::of(c"overlay").unwrap().option(c"lowerdir", lower.as_bytes()).unwrap();
            assert_eq!(second.create(Attr::empty()).is_ok(), !passthrough);
        });
    }
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_is_read_to_its_end() {
    with_passing_rig("deleted", |rig| {
        let host = rig.dir("host");
        fs::write(host.join("file"), content()).unwrap();
        let mut view = rig.view();
        let attached = attach_frozen(&mut view, &host);
        let (root, _) = rig.overlay(&[&attached]);
        let mut open = File::open(root.join("file")).unwrap();
        fs::remove_file(host.join("file")).unwrap();
        let mut read = Vec::new();
        open.read_to_end(&mut read).unwrap();
        assert!(read == content());
    });
}

#[test]
fn nothing_stays_open_when_nobody_is_inside() {
    with_passing_rig("left", |rig| {
        let disk = rig.dir("disk");
        let tmpfs = NewMount::of(c"tmpfs").unwrap().create(Attr::empty()).unwrap();
        mount::attach(tmpfs, open_dir(&disk)).unwrap();
        let host = disk.join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("file"), content()).unwrap();
        let mut view = rig.view();
        let attached = attach_frozen(&mut view, &host);
        let root = rig.mounted("root", &attached);
        assert!(fs::read(root.join("file")).unwrap() == content());
        assert_eq!(view.stats().unwrap().read, 0);
        fs::remove_file(host.join("file")).unwrap();
        let is_held = || rustix::fs::statvfs(&disk).unwrap();
        let before = is_held().f_bfree;
        nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
        drop((attached, view));
        support::eventually("the deleted file is let go", || is_held().f_bfree > before);
    });
}

fn put_file(store: &LayerStore, path: &str, bytes: &[u8]) -> Digest {
    let (digest, _) = store.put_blob(bytes).unwrap();
    let kind = Kind::File { digest, size: bytes.len() as u64 };
    let entry = Entry { path: path.into(), kind, meta: Meta { mode: 0o755, ..Meta::default() } };
    store.put_layer(&Manifest::from_entries(vec![entry]).unwrap()).unwrap()
}
