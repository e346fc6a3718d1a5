//! Any text as a seccomp profile.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfsrun_fuzzing::seccomp;
use vfsrun_seccomp::Profile;

fuzz_target!(|text: &str| {
    if let Ok(profile) = Profile::parse(text) {
        seccomp::check(&profile);
    }
});
