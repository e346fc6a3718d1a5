//! A skip: a test that cannot run here says so, however tests are run and whether or not output is captured. Tests of other
//! packages have this file as a module of their own.

use std::fs::OpenOptions;
use std::io::Write;

/// Where `tests/run` collects skips, one line each.
const FILE: &str = "VFSRUN_TESTS_SKIPS";

/// Tells that the test that runs in this thread is skipped and why. The caller returns.
pub fn this_test(reason: &str) {
    loudly(std::thread::current().name().unwrap_or("a test"), reason);
}

/// Tells that `test` is skipped and why. The caller returns.
pub fn loudly(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    // Not eprintln!, which the test harness captures.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os(FILE) {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("VFSRUN_TESTS_SKIPS names a file to append to");
    }
}
