//! Any bytes as a tar: what is imported is a layer whose blobs are there, and comes out of the same bytes again; all else is refused.

#![no_main]

use std::cell::LazyCell;
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use vfsrun_layers::{ImportOptions, Imported, LayerStore, import_tar};

const BLOCK: usize = 512;
/// Of a header: its checksum, and the word by which we know one.
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: std::ops::Range<usize> = 257..262;

thread_local! {
    static STORE: LazyCell<(TempDir, LayerStore)> = LazyCell::new(|| {
        let place = TempDir::new().expect("a temporary directory");
        let store = LayerStore::open(&place.path().join("store")).expect("a new store");
        (place, store)
    });
}

fuzz_target!(|bytes: &[u8]| {
    let tar = with_checksums(bytes);
    let options = ImportOptions {
        devices: true,
        max_entries: 200,
        max_bytes: 1 << 20,
        max_words: 64 << 10,
        max_depth: 20,
        ..ImportOptions::default()
    };
    STORE.with(|kept| {
        let store = &kept.1;
        let import = || import_tar(Cursor::new(&tar), &options, store);
        let Ok(imported) = import() else { return };
        let manifest = store.manifest(&imported.digest).expect("what was imported is a layer");
        store.check_blobs(&manifest).expect("its blobs are there");
        let (files, bytes) = manifest.totals();
        assert_eq!((imported.files, imported.bytes), (files, bytes));
        assert!(bytes <= options.max_bytes && manifest.entries.len() as u64 <= options.max_entries);
        let words: usize = manifest.entries.iter().map(|entry| entry.path.as_os_str().len()).sum();
        assert!(words as u64 <= options.max_words);
        let again: Imported = import().expect("what was imported is imported again");
        assert_eq!(again, imported);
        store.remove(&imported.digest.to_string()).expect("nobody names it");
    });
});

/// No fuzzer finds the right sum of a header.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    for block in tar.chunks_exact_mut(BLOCK).filter(|block| block[MAGIC] == *b"ustar") {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}
