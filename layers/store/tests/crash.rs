//! Death in the middle of a capture: the store can be swept, the upper or the layer is whole.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{World, open};
use vfsrun_layers::{CaptureOptions, Hooks, Kind, LayerStore, capture};

const FILES: usize = 3000;
const UPPER: &str = "VFSRUN_TEST_UPPER";
const STORE: &str = "VFSRUN_TEST_STORE";

fn make_upper(upper: &Path) {
    for index in 0..FILES {
        let dir = upper.join(format!("d{}", index % 10));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{index}")), format!("content of {index}")).unwrap();
    }
}

/// A file system that need not wait for a disk, so that the time goes into the steps to be interrupted.
fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

fn options() -> CaptureOptions {
    CaptureOptions { clamp_mtime: Some(1), ..CaptureOptions::default() }
}

/// The process that the other test kills: captures the upper that the environment names, else one of its own.
#[test]
fn an_upper_of_many_files_is_captured() {
    // In the other test's child there is nothing of its own, which nobody would remove.
    let mut own = None;
    let (upper, store) = match (std::env::var_os(UPPER), std::env::var_os(STORE)) {
        (Some(upper), Some(store)) => (upper.into(), store.into()),
        _ => {
            let world = own.insert(World::new());
            make_upper(&world.dir("upper"));
            (world.path("upper"), world.path("store"))
        }
    };
    let store = LayerStore::open(&store).unwrap();
    let captured =
        capture(std::os::fd::AsFd::as_fd(&open(&upper)), &options(), &store, Hooks::default()).unwrap();
    assert_eq!(captured.files, FILES as u64);
}

#[test]
fn a_killed_capture_loses_nothing() {
    let mut interrupted = 0;
    // From the first link to the last settled blob, in steps.
    for step in 0..12 {
        let world = World::beneath(memory());
        let upper = world.dir("upper");
        make_upper(&upper);
        interrupted += usize::from(kill_capture(&world, &upper, Duration::from_millis(step * step * 3)));
        let store = LayerStore::open(&world.path("store")).unwrap();
        let swept = store.sweep().unwrap();
        assert!(swept.scratch <= 1, "{swept:?}");
        let left: Vec<_> =
            fs::read_dir(world.path("store/tmp")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| name == ".lock"), "{left:?}");

        match store.list().unwrap().as_slice() {
            [] => check_upper(&upper),
            [layer] => {
                assert_eq!(layer.files, Some(FILES as u64));
                let manifest = store.manifest(&layer.digest).unwrap();
                store.check_blobs(&manifest).unwrap();
                let files = manifest.entries.iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
                assert_eq!(files.count(), FILES);
                continue;
            }
            layers => panic!("{layers:?}"),
        }
        let captured = world.capture(&upper, &options()).unwrap();
        store.check_blobs(&store.manifest(&captured.digest).unwrap()).unwrap();
    }
    assert!(interrupted >= 3, "only {interrupted} captures were caught in the middle");
}

/// Starts a capture, kills it `delay` after its first sign of life in the store. Whether it was still running.
fn kill_capture(world: &World, upper: &Path, delay: Duration) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_upper_of_many_files_is_captured"])
        .env(UPPER, upper)
        .env(STORE, world.path("store"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while world.blobs() == 0 && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < limit, "the capture did not start");
    }
    std::thread::sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// All files, with the content, mode and time that they had.
fn check_upper(upper: &Path) {
    for index in 0..FILES {
        let path = upper.join(format!("d{}/f{index}", index % 10));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("content of {index}"));
        let stat = fs::metadata(&path).unwrap();
        assert!(std::os::unix::fs::MetadataExt::mtime(&stat) > 1);
        assert_ne!(std::os::unix::fs::MetadataExt::mode(&stat) & 0o200, 0);
    }
}
