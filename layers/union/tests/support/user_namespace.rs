//! A test that looks at a directory as root of a user namespace: a copy of the test program runs it once more in there.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip;

/// Set in the copy: the directory to look at.
const TREE: &str = "VFSRUN_UNION_TEST_TREE";

/// In the copy.
pub fn tree_to_look_at() -> Option<PathBuf> {
    std::env::var_os(TREE).map(PathBuf::from)
}

/// Runs `test`, which then has a tree to look at; its failure is the caller's. Where there are no user namespaces, that is
/// said aloud.
pub fn look_again(test: &str, tree: &Path) {
    let inner = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(TREE, tree)
        .output();
    let output = match inner {
        Ok(output) => output,
        Err(error) => return skip::this_test(&format!("unshare(1) cannot be run: {error}")),
    };
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if said.contains("unshare failed") || said.contains("write failed") {
        return skip::this_test(&format!("no user namespaces here: {said}"));
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
