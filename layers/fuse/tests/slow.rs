//! A branch on a file system that does not answer: whoever asks there gets EIO at the deadline, and nobody else waits.

#[path = "support/hanging.rs"]
mod hanging;
mod support;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hanging::{CONTENT, Hanging, Which};
use rustix::process::{Signal, pidfd_send_signal};
use support::{Rig, attach_host, ended_within, eventually, host_segment, open_dir, settle, with_rig};
use vfsrun_fuse::{Attached, ClientError, View};
use vfsrun_union::SegmentSpec;

const SOON: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_millis(500);

/// A branch that hangs when it is told so, and a view of it.
struct Scene {
    hanging: Hanging,
    branch: PathBuf,
    view: View,
    segment: String,
    root: PathBuf,
}

impl Scene {
    fn new(rig: &Rig) -> Scene {
        let branch = rig.dir("branch");
        let hanging = Hanging::mount(&branch).unwrap();
        let mut view = rig.view();
        let attached = attach(&mut view, &branch).unwrap();
        let root = rig.mounted("root", &attached);
        Scene { hanging, branch, view, segment: attached.segment, root }
    }

    fn faults(&mut self) -> Vec<String> {
        self.view.visit(&[&self.segment]).unwrap().faults
    }
}

fn attach(view: &mut View, branch: &Path) -> Result<Attached, ClientError> {
    let spec = SegmentSpec { deadline: Some(DEADLINE.as_millis() as u64), ..host_segment() };
    view.attach(&spec, &[open_dir(branch).as_fd()])
}

fn assert_eio<T: std::fmt::Debug>(outcome: std::io::Result<T>) {
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EIO));
}

/// Processes of their own, which do not keep the test when they are not answered.
fn cat(path: &Path) -> Child {
    Command::new("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_slow_branch_that_answers_is_served_as_any_other() {
    with_rig("slow_answers", |rig| {
        let mut scene = Scene::new(rig);
        assert_eq!(fs::read_to_string(scene.root.join("file")).unwrap(), CONTENT);
        assert_eq!(fs::read_link(scene.root.join("link")).unwrap(), Path::new("file"));
        assert_eq!(fs::read_to_string(scene.root.join("dir/inside")).unwrap(), CONTENT);
        let names = fs::read_dir(&scene.root).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, ["dir", "file", "link"]);
        assert!(!scene.root.join("absent").exists());
        assert!(scene.view.stats().unwrap().slow > 5);
        assert_eq!(scene.faults(), [""; 0]);
    });
}

#[test]
fn look_up_read_and_listing_end_in_eio_at_the_deadline_and_tell_it() {
    with_rig("slow_eio", |rig| {
        let mut scene = Scene::new(rig);
        // So that the kernel knows the file, and has only to read it.
        fs::metadata(scene.root.join("f1")).unwrap();
        fs::metadata(scene.root.join("dir")).unwrap();
        scene.hanging.hang(Which::All);
        let began = Instant::now();
        assert_eio(fs::metadata(scene.root.join("f2")));
        assert!(began.elapsed() >= DEADLINE);
        assert_eio(fs::read(scene.root.join("f1")));
        assert_eio(fs::read_dir(scene.root.join("dir")).and_then(|mut names| names.next().unwrap()));
        assert!(began.elapsed() < SOON);
        let faults = scene.faults();
        for path in ["/f2", "/f1", "/dir"] {
            let expected = format!("{path}: host did not answer within 0.5 s");
            assert!(faults.contains(&expected), "{expected} is not in {faults:?}");
        }
    });
}

#[test]
fn other_segments_of_the_server_are_served_meanwhile_and_take_no_errand() {
    with_rig("slow_others", |rig| {
        rig.options.threads = 1;
        let scene = Scene::new(rig);
        scene.hanging.hang(Which::All);
        let mut readers: Vec<_> = (0..8).map(|n| cat(&scene.root.join(format!("f{n}")))).collect();
        eventually("the questions are asked", || scene.hanging.unanswered() > 0);
        let host = rig.dir("host");
        for n in 0..100 {
            fs::write(host.join(format!("f{n}")), "x").unwrap();
        }
        let mut other = rig.view();
        let before = other.stats().unwrap().slow;
        let began = Instant::now();
        let root = rig.mounted("other", &attach_host(&mut other, &host));
        for n in 0..100 {
            assert_eq!(fs::read_to_string(root.join(format!("f{n}"))).unwrap(), "x");
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        assert_eq!(other.stats().unwrap().slow, before);
        for reader in &mut readers {
            eventually("the reader ends", || reader.try_wait().unwrap().is_some());
        }
    });
}

#[test]
fn more_questions_than_there_may_be_errands_are_errors_and_the_server_answers() {
    with_rig("slow_many", |rig| {
        let mut scene = Scene::new(rig);
        scene.hanging.hang(Which::All);
        let mut readers: Vec<_> = (0..150).map(|n| cat(&scene.root.join(format!("f{n}")))).collect();
        for reader in &mut readers {
            scene.view.ping(Duration::from_secs(5)).unwrap();
            eventually("the reader ends", || reader.try_wait().unwrap().is_some());
            assert!(!reader.wait().unwrap().success());
        }
        let began = Instant::now();
        assert_eio(fs::metadata(scene.root.join("f1000")));
        assert!(began.elapsed() < DEADLINE, "with all errands lost nobody waits");
        let threads = fs::read_dir(format!("/proc/{}/task", scene.view.server_pid())).unwrap().count();
        assert!(threads < 64, "{threads} threads");
    });
}

#[test]
fn attaching_a_branch_that_does_not_answer_ends_in_an_error_that_names_it() {
    with_rig("slow_attach", |rig| {
        let branch = rig.dir("branch");
        let hanging = Hanging::mount(&branch).unwrap();
        let root = open_dir(&branch);
        hanging.hang(Which::All);
        let mut view = rig.view();
        let spec = SegmentSpec { deadline: Some(DEADLINE.as_millis() as u64), ..host_segment() };
        let error = view.attach(&spec, &[root.as_fd()]).unwrap_err();
        assert_eq!(error.to_string(), "the view server refused: host did not answer within 0.5 s");
        hanging.go_on();
        let root = rig.mounted("root", &attach(&mut view, &branch).unwrap());
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), CONTENT);
    });
}

#[test]
fn a_warm_segment_whose_branch_does_not_answer_any_more_is_an_error_and_later_a_new_one() {
    with_rig("slow_warm", |rig| {
        let mut scene = Scene::new(rig);
        fs::read(scene.root.join("file")).unwrap();
        scene.hanging.hang(Which::All);
        let root = open_dir(&scene.branch);
        let spec = SegmentSpec { deadline: Some(DEADLINE.as_millis() as u64), ..host_segment() };
        scene.view.attach(&spec, &[root.as_fd()]).unwrap_err();
        // How it was for those inside cannot be known, either.
        assert_eq!(scene.faults(), ["/: host did not answer within 0.5 s"]);
        scene.hanging.go_on();
        let again = attach(&mut scene.view, &scene.branch).unwrap();
        assert!(!again.warm && again.segment != scene.segment);
    });
}

#[test]
fn when_the_branch_answers_again_everything_works() {
    with_rig("slow_again", |rig| {
        let mut scene = Scene::new(rig);
        scene.hanging.hang(Which::All);
        let mut readers: Vec<_> = (0..80).map(|n| cat(&scene.root.join(format!("f{n}")))).collect();
        for reader in &mut readers {
            eventually("the reader ends", || reader.try_wait().unwrap().is_some());
        }
        scene.hanging.go_on();
        // What was given up has to come back first.
        eventually("the old segment works", || fs::metadata(scene.root.join("f1")).is_ok());
        assert_eq!(fs::read_to_string(scene.root.join("file")).unwrap(), CONTENT);
        let again = attach(&mut scene.view, &scene.branch).unwrap();
        assert!(!again.warm, "its faults are not those of the next");
        let root = rig.mounted("again", &again);
        assert_eq!(fs::read_to_string(root.join("f1")).unwrap(), CONTENT);
        let names = scene.view.ping(SOON).unwrap().nodes;
        drop(scene.view);
        let mut view = rig.view();
        assert!(view.ping(SOON).unwrap().nodes <= names);
        assert_eq!(view.visit(&[]).unwrap().faults, [""; 0]);
    });
}

#[test]
fn an_answer_that_came_too_late_is_not_remembered() {
    with_rig("slow_late", |rig| {
        let mut scene = Scene::new(rig);
        fs::metadata(scene.root.join("file")).unwrap();
        let before = scene.view.ping(SOON).unwrap().nodes;
        scene.hanging.hang(Which::All);
        assert_eio(fs::metadata(scene.root.join("f1")));
        scene.hanging.go_on();
        // Another errand, behind that one.
        fs::read_dir(&scene.root).unwrap().for_each(drop);
        assert_eq!(scene.view.ping(SOON).unwrap().nodes, before);
    });
}

#[test]
fn a_killed_server_frees_everybody_whatever_its_errands_wait_for() {
    with_rig("slow_killed", |rig| {
        let scene = Scene::new(rig);
        scene.hanging.hang(Which::All);
        let mut readers: Vec<_> = (0..4).map(|n| cat(&scene.root.join(format!("f{n}")))).collect();
        eventually("the questions are asked", || scene.hanging.unanswered() >= 4);
        let began = Instant::now();
        pidfd_send_signal(scene.view.server_pidfd(), Signal::KILL).unwrap();
        for reader in &mut readers {
            eventually("the reader is free", || reader.try_wait().unwrap().is_some());
        }
        assert!(began.elapsed() < SOON);
        // The process itself is gone when the file system lets its threads go.
        let server = scene.view.server_pidfd().try_clone_to_owned().unwrap();
        scene.hanging.go_on();
        assert!(ended_within(server.as_fd(), SOON));
    });
}

#[test]
fn only_what_lies_below_a_slow_mount_is_asked_by_errands() {
    with_rig("slow_below", |rig| {
        let host = rig.dir("host");
        fs::create_dir_all(host.join("a/mnt")).unwrap();
        fs::create_dir_all(host.join("b")).unwrap();
        fs::write(host.join("b/file"), "x").unwrap();
        let hanging = Hanging::mount(&host.join("a/mnt")).unwrap();
        let mut view = rig.view();
        let root = rig.mounted("root", &attach(&mut view, &host).unwrap());
        let before = view.stats().unwrap().slow;
        assert_eq!(fs::read_to_string(root.join("b/file")).unwrap(), "x");
        assert_eq!(view.stats().unwrap().slow, before);
        assert_eq!(fs::read_to_string(root.join("a/mnt/file")).unwrap(), CONTENT);
        assert!(view.stats().unwrap().slow > before);
        hanging.hang(Which::All);
        assert_eio(fs::metadata(root.join("a/mnt/f1")));
        assert_eq!(fs::read_dir(root.join("b")).unwrap().count(), 1);
    });
}

#[test]
fn a_slow_file_system_mounted_since_makes_a_new_segment_that_knows_it() {
    with_rig("slow_mounted", |rig| {
        let host = rig.dir("host");
        fs::create_dir_all(host.join("mnt")).unwrap();
        let mut view = rig.view();
        let first = attach(&mut view, &host).unwrap();
        let _hanging = Hanging::mount(&host.join("mnt")).unwrap();
        let second = attach(&mut view, &host).unwrap();
        assert_ne!(first.segment, second.segment);
        let root = rig.mounted("root", &second);
        let before = view.stats().unwrap().slow;
        assert_eq!(fs::read_to_string(root.join("mnt/file")).unwrap(), CONTENT);
        assert!(view.stats().unwrap().slow > before);
    });
}

#[test]
fn a_deadline_makes_no_other_segment_where_nothing_is_slow() {
    with_rig("slow_deadline", |rig| {
        let host = rig.dir("host");
        settle();
        let mut view = rig.view();
        let first = attach(&mut view, &host).unwrap();
        assert_eq!(attach_host(&mut view, &host).segment, first.segment);
        let scene = Scene::new(rig);
        assert_ne!(attach_host(&mut view, &scene.branch).segment, scene.segment);
        let same = SegmentSpec { deadline: Some(DEADLINE.as_millis() as u64), ..host_segment() };
        let again = view.attach(&same, &[open_dir(&scene.branch).as_fd()]).unwrap();
        assert!(again.warm && again.segment == scene.segment);
    });
}
