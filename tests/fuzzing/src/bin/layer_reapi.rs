//! Any bytes as messages of an input root: what is imported is a layer whose blobs are there, within the limits, and comes back from its
//! own export; all else is refused.

#![no_main]

use std::cell::LazyCell;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use vfsrun_layers::{
    Digest, DigestFunction, ImportOptions, Imported, Kind, LayerStore, Manifest, ReapiError, export_reapi,
    import_reapi,
};

/// Between two messages; no text has it.
const SEPARATOR: &[u8] = &[0xFF, 0xFE];
/// Each message may name those before it, by one digit for each.
const MESSAGES: usize = 15;
/// Digits of the file that is there from the beginning.
const FILE: u8 = b'f';
const CONTENT: &[u8] = b"x";
const DIGITS: usize = 64;

struct Place {
    _temp: TempDir,
    store: LayerStore,
    cas: PathBuf,
    out: PathBuf,
}

thread_local! {
    static PLACE: LazyCell<Place> = LazyCell::new(|| {
        let temp = TempDir::new().expect("a temporary directory");
        let [cas, out] = ["cas", "out"].map(|name| temp.path().join(name));
        fs::create_dir_all(cas.join("blobs")).expect("a directory");
        put(&cas, CONTENT);
        let store = LayerStore::open(&temp.path().join("store")).expect("a new store");
        Place { _temp: temp, store, cas, out }
    });
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&form, bytes)) = bytes.split_first() else { return };
    let messages = linked(bytes);
    let Some((last, others)) = messages.split_last() else { return };
    let root = if form & 1 == 0 { last.clone() } else { tree(last, others) };
    let options = ImportOptions {
        max_entries: 200,
        max_bytes: 1 << 10,
        max_words: 16 << 10,
        max_depth: 20,
        ..ImportOptions::default()
    };
    PLACE.with(|place| {
        let mut made: Vec<PathBuf> = others.iter().map(|message| put(&place.cas, message)).collect();
        made.push(put(&place.cas, &root));
        let import = || imported(&place.cas, &Digest::of(&root).hex(), &options, &place.store);
        if let Ok(done) = import() {
            check(&done, &options, place);
            let again = import().expect("what was imported is imported again");
            assert_eq!(again, done);
            place.store.remove(&done.digest.to_string()).expect("nobody names it");
        }
        for blob in made {
            // One may be there twice.
            let _ = fs::remove_file(blob);
        }
        // It may have been one of them.
        put(&place.cas, CONTENT);
    });
});

fn check(done: &Imported, options: &ImportOptions, place: &Place) {
    let manifest = place.store.manifest(&done.digest).expect("what was imported is a layer");
    place.store.check_blobs(&manifest).expect("its blobs are there");
    assert_eq!((done.files, done.bytes), manifest.totals());
    assert!(done.bytes <= options.max_bytes && manifest.entries.len() as u64 <= options.max_entries);
    let words: usize = manifest.entries.iter().map(|entry| entry.path.as_os_str().len()).sum();
    assert!(words as u64 <= options.max_words);
    let function = DigestFunction::Blake3;
    let exported =
        export_reapi(&manifest, &place.store, function, &place.out).expect("it has names that are UTF-8");
    for root in [&exported.root, &exported.tree] {
        let again = imported(&place.out, root, &ImportOptions::default(), &place.store);
        let again = again.expect("what was exported is imported");
        let other = place.store.manifest(&again.digest).expect("what was imported is a layer");
        assert_eq!(without_properties(other), without_properties(manifest.clone()));
        if again.digest != done.digest {
            place.store.remove(&again.digest.to_string()).expect("nobody names it");
        }
    }
    fs::remove_dir_all(&place.out).expect("it was made");
}

/// An export has no times, and of modes one bit of files.
fn without_properties(mut manifest: Manifest) -> Manifest {
    for entry in &mut manifest.entries {
        entry.meta.mtime = (0, 0);
        entry.meta.mode &= if matches!(entry.kind, Kind::File { .. }) { 0o100 } else { 0 };
    }
    manifest
}

fn imported(
    dir: &Path,
    root: &str,
    options: &ImportOptions,
    store: &LayerStore,
) -> Result<Imported, ReapiError> {
    let dir = File::open(dir).expect("the directory is there");
    let root = root.parse().expect("a digest");
    import_reapi(dir.as_fd(), &root, DigestFunction::Blake3, options, store, |_| ())
}

fn put(cas: &Path, bytes: &[u8]) -> PathBuf {
    let blob = cas.join("blobs").join(Digest::of(bytes).hex());
    fs::write(&blob, bytes).expect("a blob is written");
    blob
}

/// The messages, in which sixty-four times the digit 0 is the digest of the first, and so on: no fuzzer finds a digest.
fn linked(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for part in split(bytes).into_iter().take(MESSAGES) {
        let mut message = part.to_vec();
        for place in 0..message.len().saturating_sub(DIGITS - 1) {
            let digit = message[place];
            let named = match digit {
                FILE => CONTENT,
                b'0'..=b'9' => messages.get(usize::from(digit - b'0')).map_or(&[][..], Vec::as_slice),
                b'a'..=b'e' => messages.get(usize::from(digit - b'a') + 10).map_or(&[][..], Vec::as_slice),
                _ => continue,
            };
            if message[place..place + DIGITS].iter().all(|byte| *byte == digit) {
                let (hex, size) = (Digest::of(named).hex(), named.len());
                message[place..place + DIGITS].copy_from_slice(hex.as_bytes());
                // The size after it, where it has one byte.
                if let Some([0x10, found]) = message.get_mut(place + DIGITS..place + DIGITS + 2)
                    && (1..0x80).contains(&size)
                {
                    *found = size as u8;
                }
            }
        }
        messages.push(message);
    }
    messages
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.windows(SEPARATOR.len()).position(|at| at == SEPARATOR) {
        parts.push(&rest[..end]);
        rest = &rest[end + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

/// A Tree of these.
fn tree(root: &[u8], children: &[Vec<u8>]) -> Vec<u8> {
    let mut tree = Vec::new();
    for (tag, message) in
        [(0x0A, root)].into_iter().chain(children.iter().map(|child| (0x12, child.as_slice())))
    {
        tree.push(tag);
        let mut length = message.len();
        while length >= 0x80 {
            tree.push(length as u8 | 0x80);
            length >>= 7;
        }
        tree.push(length as u8);
        tree.extend(message);
    }
    tree
}
