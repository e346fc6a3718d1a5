//! Tells the compiler's sources by one digest, so that no filter of another compiler is ever taken for this one's: a
//! number would have to be raised by hand with each change.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    let entries = std::fs::read_dir("src").expect("list src");
    let mut sources: Vec<PathBuf> = entries.map(|entry| entry.expect("list src").path()).collect();
    sources.sort();
    let mut hasher = blake3::Hasher::new();
    for source in &sources {
        let name = Path::to_str(source).expect("names of sources are ASCII");
        let text = std::fs::read(source).expect("read a source");
        for part in [name.as_bytes(), &text] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
    println!("cargo::rustc-env=VFSRUN_SECCOMP_SOURCES={}", hasher.finalize());
}
