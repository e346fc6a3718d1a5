//! Verification: every kind of damage is found, and told exactly.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::{World, directory, file};
use vfsrun_layers::verify::{Fault, Problem, Verified, What};
use vfsrun_layers::{Base, Digest, LayerStore, Manifest};

const CONTENT: &[u8] = b"the content of a file";
/// Hashed by another way than small ones.
const LARGE: usize = 200 << 10;

/// A store with two layers that share a blob: `one` (also `also/one`) and one without a name.
struct Store {
    world: World,
    one: Digest,
    unnamed: Digest,
}

fn store() -> Store {
    let world = World::new();
    let large = vec![7; LARGE];
    let writer = world.store.writer().unwrap();
    for content in [CONTENT, &large, b"other"] {
        writer.put_blob(content).unwrap();
    }
    let entries = vec![directory("d"), file("d/a", CONTENT), file("d/b", CONTENT), file("large", &large)];
    let one = writer.put_layer(&Manifest::from_entries(entries).unwrap()).unwrap();
    let entries = vec![file("other", b"other"), file("shared", CONTENT)];
    let unnamed = writer.put_layer(&Manifest::from_entries(entries).unwrap()).unwrap();
    drop(writer);
    for name in ["one", "also/one"] {
        world.store.set_name(name, &one).unwrap();
    }
    Store { world, one, unnamed }
}

impl Store {
    fn verify(&self) -> Verified {
        self.world.store.verify(&|_| {}).unwrap()
    }

    /// The only problem.
    #[track_caller]
    fn problem(&self) -> Problem {
        let problems = self.verify().problems;
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.into_iter().next().unwrap()
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.world.path("store").join(file)
    }
}

/// Changes one bit and leaves no trace in the metadata.
fn flip(path: &Path, bit: usize) {
    let metadata = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, metadata.permissions()).unwrap();
    fs::File::open(path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
}

#[test]
fn a_store_that_is_sound_has_no_problem_and_every_byte_is_read() {
    let store = store();
    let read = std::sync::atomic::AtomicU64::new(0);
    let add = |bytes| _ = read.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    let found = store.world.store.verify(&add).unwrap();
    let bytes = (CONTENT.len() + LARGE + b"other".len()) as u64;
    assert_eq!(found, Verified { layers: 2, blobs: 3, bytes, ..Verified::default() });
    assert_eq!(read.into_inner(), bytes);
}

#[test]
fn every_flipped_bit_of_a_blob_is_found_with_every_layer_that_has_it() {
    let store = store();
    let path = store.world.blob_path(&Digest::of(CONTENT));
    for bit in 0..CONTENT.len() * 8 {
        flip(&path, bit);
        let found = Digest::of(&fs::read(&path).unwrap());
        let problem = store.problem();
        assert_eq!(problem.what, What::Blob(Digest::of(CONTENT)));
        assert_eq!(problem.fault, Fault::Content { found });
        let line = problem.to_string();
        let uses = format!("also/one = one /d/a and 1 more files, {} /shared", store.unnamed);
        let reversed = format!("{} /shared, also/one = one /d/a and 1 more files", store.unnamed);
        assert!(line.contains(&uses) || line.contains(&reversed), "{line}");
        assert!(line.contains("layer import") && !line.contains('\n'), "{line}");
        flip(&path, bit);
    }
    assert_eq!(store.verify().problems, []);
}

#[test]
fn a_flipped_bit_far_into_a_large_blob_is_found() {
    let store = store();
    let blob = Digest::of(&vec![7; LARGE]);
    flip(&store.world.blob_path(&blob), LARGE * 8 - 1);
    assert_eq!(store.problem().what, What::Blob(blob));
}

#[test]
fn every_flipped_bit_of_a_manifest_is_found() {
    let store = store();
    let path = store.path(&format!("layers/{}", store.one.hex()));
    for bit in 0..fs::metadata(&path).unwrap().len() as usize * 8 {
        flip(&path, bit);
        let problem = store.problem();
        assert_eq!(problem.what, What::Layer(store.one));
        assert!(matches!(problem.fault, Fault::Content { .. }), "{problem}");
        assert!(
            problem.to_string().starts_with("layer also/one: ")
                || problem.to_string().starts_with("layer one")
        );
        flip(&path, bit);
    }
}

#[test]
fn every_flipped_bit_of_a_name_is_found() {
    let store = store();
    let path = store.path("names/also%one");
    for bit in 0..fs::metadata(&path).unwrap().len() as usize * 8 {
        flip(&path, bit);
        let problem = store.problem();
        assert_eq!(problem.what, What::Name("also/one".into()));
        assert!(matches!(problem.fault, Fault::NoDigest | Fault::Dangling { .. }), "{problem}");
        assert!(problem.to_string().contains("vfsrun layer rm also/one"), "{problem}");
        flip(&path, bit);
    }
    assert_eq!(store.verify().problems, []);
}

#[test]
fn every_flipped_bit_of_the_version_is_found_or_means_the_same() {
    let store = store();
    for bit in 0..8 {
        flip(&store.path("version"), bit);
        assert!(LayerStore::open(&store.path("")).is_err(), "bit {bit}");
        flip(&store.path("version"), bit);
    }
}

#[test]
fn a_name_that_is_damaged_or_leads_nowhere_can_be_removed_and_nothing_goes_with_it() {
    let store = store();
    flip(&store.path("names/one"), 30);
    assert!(matches!(store.problem().fault, Fault::Dangling { .. } | Fault::NoDigest));
    store.world.store.remove("one").unwrap();
    fs::write(store.path("names/one"), "b3:").unwrap();
    assert_eq!(store.problem().fault, Fault::NoDigest);
    store.world.store.remove("one").unwrap();
    assert_eq!(store.verify(), Verified { layers: 2, ..store.verify() });
    assert_eq!(store.verify().problems, []);
}

#[test]
fn what_has_the_name_of_a_blob_that_no_layer_has_and_is_no_file_is_to_be_removed() {
    let store = store();
    let path = store.world.blob_path(&Digest::of(b"nobody's"));
    fs::create_dir_all(&path).unwrap();
    let problem = store.problem();
    assert_eq!((&problem.what, &problem.fault), (&What::Stray, &Fault::NoFile));
    assert!(problem.to_string().ends_with("is no file; it does not belong here: remove it"), "{problem}");
    assert_eq!(store.verify().unreferenced, (0, 0));
    fs::remove_dir(&path).unwrap();
    assert_eq!(store.verify().problems, []);
}

#[test]
fn missing_shortened_and_replaced_blobs_are_found() {
    let store = store();
    let blob = Digest::of(b"other");
    let path = store.world.blob_path(&blob);
    fs::remove_file(&path).unwrap();
    assert_eq!(store.problem().fault, Fault::Missing);
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(store.problem().fault, Fault::NoFile);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(store.problem().fault, Fault::NoFile);
    assert!(store.problem().remedy().starts_with("remove it: "), "an import puts no file over a directory");
    fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert_eq!(store.problem().fault, Fault::NoFile, "and nobody waits for its other end");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "othe").unwrap();
    assert_eq!(store.problem().fault, Fault::Size { wanted: 5, found: 4 });
}

#[test]
fn a_mode_that_somebody_set_is_found_and_one_that_a_capture_left_is_told() {
    let store = store();
    let path = store.world.blob_path(&Digest::of(b"other"));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let problem = store.problem();
    assert_eq!(problem.fault, Fault::Mode { found: 0o644 });
    assert!(problem.to_string().contains(&format!("chmod 0444 {}", problem.file.display())), "{problem}");
    fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let found = store.verify();
    assert_eq!((found.problems, found.unsettled), (vec![], 1));
    fs::set_permissions(store.path(&format!("layers/{}", store.one.hex())), Permissions::from_mode(0o600))
        .unwrap();
    assert_eq!(store.problem().what, What::Layer(store.one));
}

#[test]
fn blobs_of_no_layer_are_told_and_a_damaged_one_is_found() {
    let store = store();
    let (blob, size) = store.world.store.put_blob(&b"of nobody"[..]).unwrap();
    let found = store.verify();
    assert_eq!((found.problems, found.unreferenced), (vec![], (1, size)));
    // The next capture of this content would believe in it.
    flip(&store.world.blob_path(&blob), 5);
    let problem = store.problem();
    assert_eq!((&problem.what, problem.uses.len()), (&What::Blob(blob), 0));
    assert!(problem.to_string().contains("vfsrun layer gc"), "{problem}");
}

#[test]
fn files_that_do_not_belong_are_found_each() {
    let store = store();
    let strays = [
        "stray",
        "layers/stray",
        "names/Stray",
        "names/a b",
        "blobs/stray",
        "blobs/00/stray",
        "runs/stray",
        "tmp/stray",
    ];
    fs::create_dir_all(store.path("blobs/00")).unwrap();
    for stray in strays {
        fs::write(store.path(stray), "").unwrap();
    }
    fs::create_dir(store.path("runs/directory")).unwrap();
    fs::create_dir_all(store.path("blobs/xyz/0")).unwrap();
    let problems = store.verify().problems;
    assert!(problems.iter().all(|problem| problem.what == What::Stray && problem.fault == Fault::Stray));
    let mut files: Vec<_> = problems.iter().map(|problem| problem.file.to_str().unwrap()).collect();
    files.sort_unstable();
    let mut expected = [&strays[..], &["runs/directory", "blobs/xyz"]].concat();
    expected.sort_unstable();
    assert_eq!(files, expected);
    // None of them is in anybody's way.
    store.world.store.collect(&Default::default(), vfsrun_layers::Really::Do).unwrap();
    assert_eq!(store.verify().problems.len(), expected.len());
}

#[test]
fn only_the_layers_that_are_asked_for_are_looked_at() {
    let store = store();
    flip(&store.world.blob_path(&Digest::of(b"other")), 0);
    let verify = |layer: &str| store.world.store.verify_layers(&[layer.to_owned()], &|_| {}).unwrap();
    assert_eq!((verify("one").problems, verify("one").blobs), (vec![], 2));
    assert_eq!(verify(&store.unnamed.to_string()).problems.len(), 1);
    assert!(store.world.store.verify_layers(&["two".to_owned()], &|_| {}).is_err());
}

#[test]
fn directories_of_living_processes_are_no_problem_and_those_of_dead_ones_are_told() {
    let store = store();
    let run = store.world.store.new_run().unwrap();
    assert_eq!((store.verify().problems, store.verify().dead), (vec![], 0));
    drop(run);
    assert_eq!((store.verify().problems, store.verify().dead), (vec![], 1));
    store.world.store.new_run().unwrap().remove().unwrap();
    assert_eq!(store.verify().problems, [], "an idle run is none");
}

#[test]
fn a_flipped_bit_of_a_base_is_found_and_its_name_still_leads_to_the_layer() {
    let store = store();
    let base = Base { over: vec![store.unnamed], ..Base::new(store.one) };
    store.world.store.set_name_with_base("one", &base).unwrap();
    assert_eq!(store.verify().problems, []);
    let file = store.path("names/one");
    let whole = fs::read(&file).unwrap();
    for bit in (68 * 8..whole.len() * 8).step_by(7) {
        flip(&file, bit);
        assert_eq!(store.problem().what, What::Base("one".into()), "bit {bit}");
        assert_eq!(store.world.store.resolve("one").unwrap(), store.one);
        fs::write(&file, &whole).unwrap();
    }
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(store.problem().what, What::Base("one".into()), "cut short");
    fs::write(&file, &whole).unwrap();
    let other = Base::new(store.unnamed);
    fs::write(&file, format!("{}\n{}", store.one, other.to_text())).unwrap();
    assert!(store.problem().to_string().contains("is the base of another layer"));
    fs::write(&file, &whole).unwrap();
    assert_eq!(store.world.store.base("one").unwrap(), Some(base));
    assert_eq!(store.world.store.base("also/one").unwrap(), None);
}
