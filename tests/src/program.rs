//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' package lies in the repository")
}

/// The directory of this build below the target directory.
pub fn target() -> PathBuf {
    let exe = std::env::current_exe().expect("the test program has a path");
    // target[/TRIPLE]/PROFILE/deps/test-program
    exe.ancestors().nth(3).expect("cargo runs tests in PROFILE/deps").to_path_buf()
}

/// `VFSRUN_BIN`, or the workspace's own program, built when needed.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("VFSRUN_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// Cargo says where it put the program, which depends on its configuration.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "vfsrun", "--message-format", "json", "--manifest-path"])
        .arg(repository().join("Cargo.toml"))
        .current_dir(repository())
        .output()
        .expect("cargo can be executed");
    assert!(
        output.status.success(),
        "the program does not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    programs.next_back().expect("cargo names what it built")
}
