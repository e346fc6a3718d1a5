//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' package lies in the repository")
}

/// The target directory of this build.
pub fn target() -> PathBuf {
    let exe = std::env::current_exe().expect("the test program has a path");
    // target/PROFILE/deps/test-program
    exe.ancestors().nth(3).expect("cargo runs tests in target/PROFILE/deps").to_path_buf()
}

/// `VFSRUN_BIN`, or the workspace's own program, built when needed.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("VFSRUN_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = target();
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "vfsrun", "--manifest-path"])
        .arg(repository().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo can be executed");
    assert!(status.success(), "the program does not build");
    target.join("debug/vfsrun")
}
