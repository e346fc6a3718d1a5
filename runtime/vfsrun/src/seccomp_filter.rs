//! A seccomp filter, without compiling it where that can be spared: the action's and those of engines' own profiles were
//! compiled when the program was built, others are kept when they have been compiled once.

use std::path::Path;

use vfsrun_seccomp::{Arch, Filter, Key, NewerCalls, Profile, SeccompError, compile, stored};
use vfsrun_sys::chain;

use crate::filter_cache::FilterCache;

/// The filter of `profile` for this machine. It is looked for, and kept, in the runtime directory.
pub fn of(profile: &Profile, native: Arch, runtime: &Path) -> Result<Filter, SeccompError> {
    let key = Key::new(profile, native, NewerCalls::Enosys);
    if let Some(filter) = ready(&key) {
        tracing::debug!(%key, "the seccomp filter is part of the program");
        return Ok(filter);
    }
    let cache = FilterCache::open(runtime);
    let cache =
        cache.inspect_err(|error| tracing::debug!(error = chain(error), "no seccomp filter is kept")).ok();
    if let Some(filter) = cache.as_ref().and_then(|cache| cache.get(&key)) {
        tracing::debug!(%key, "the seccomp filter was kept");
        return Ok(filter);
    }
    let filter = compile(profile, native)?;
    tracing::debug!(%key, "the seccomp filter was compiled");
    if let Some(cache) = cache {
        cache.put(&key, &filter);
    }
    Ok(filter)
}

/// The action's filter. `None` for an architecture that no filter can be compiled for.
pub fn action() -> Option<Filter> {
    /// Instructions as the build script wrote them.
    static ACTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/action.bpf"));
    let program = stored::from_bytes(ACTION);
    (!program.is_empty()).then(|| Filter::new(program, 0))
}

/// A filter that the build script compiled.
struct Ready {
    key: [u8; 32],
    flags: u32,
    program: &'static [u8],
}

static READY: &[Ready] = include!(concat!(env!("OUT_DIR"), "/ready.rs"));

fn ready(key: &Key) -> Option<Filter> {
    let found = READY.iter().find(|ready| ready.key == *key.as_bytes())?;
    Some(Filter::new(stored::from_bytes(found.program), found.flags))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use serde::Deserialize;
    use vfsrun_seccomp::{Action, Flag, action::action_profile, engines};

    use super::*;

    fn native() -> Arch {
        Arch::native().expect("tests run where filters can be compiled")
    }

    #[test]
    fn the_built_in_filter_is_the_action_profiles() {
        assert_eq!(action().unwrap(), compile(&action_profile(), native()).unwrap());
    }

    #[test]
    fn engines_profiles_are_ready_and_what_compiling_them_gives() {
        let nothing = Path::new("/nonexistent");
        for profile in engines::profiles(native()) {
            let key = Key::new(&profile, native(), NewerCalls::Enosys);
            assert!(ready(&key).is_some());
            assert_eq!(of(&profile, native(), nothing).unwrap(), compile(&profile, native()).unwrap());
        }
    }

    #[test]
    fn a_profile_that_differs_in_anything_is_not_taken_for_the_engines() {
        let profile = engines::profiles(native()).swap_remove(0);
        let changes: [fn(&mut Profile); 4] = [
            |profile| profile.flags = Some(vec![Flag::Log]),
            |profile| profile.default_action = Action::Allow,
            |profile| profile.syscalls[0].errno_ret = Some(2),
            |profile| profile.syscalls.swap(0, 1),
        ];
        for change in changes {
            let mut other = profile.clone();
            change(&mut other);
            assert!(ready(&Key::new(&other, native(), NewerCalls::Enosys)).is_none());
        }
    }

    /// The least of many, for the machine may have others to serve.
    fn least<T>(work: impl Fn() -> T) -> Duration {
        let times = (0..2000).map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        });
        times.min().expect("it was done more than once")
    }

    /// The middle of many, each after work that leaves nothing of ours in the processor's caches.
    fn after_other_work<T>(work: impl Fn() -> T) -> Duration {
        let mut others = vec![0u8; 64 << 20];
        let mut times: Vec<_> = (0..51)
            .map(|_| {
                others.iter_mut().for_each(|byte| *byte = black_box(byte.wrapping_add(1)));
                let start = Instant::now();
                black_box(work());
                start.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    }

    /// `cargo test --release -p vfsrun what_a_filter_costs -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn what_a_filter_costs() {
        let runtime = tempfile::tempdir().unwrap();
        for mut profile in engines::profiles(native()) {
            let json = serde_json::to_string(&profile).unwrap();
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            let is_ready = least(|| of(&profile, native(), runtime.path()));
            // The same but for a flag, which nobody has compiled beforehand.
            profile.flags = Some(vec![Flag::Log]);
            let key = Key::new(&profile, native(), NewerCalls::Enosys);
            let filter = of(&profile, native(), runtime.path()).unwrap();
            let stored = filter.to_stored(&key);
            println!(
                "{} rules, {} instructions: text to value {:?}, value to profile {:?}, key {:?}, ready {:?}, \
                 kept {:?}, of it reading {:?}, understanding {:?}; compiled {:?}; \
                 after other work kept {:?}, compiled {:?}",
                profile.syscalls.len(),
                filter.program.len(),
                least(|| serde_json::from_str::<serde_json::Value>(&json)),
                least(|| Profile::deserialize(&value)),
                least(|| Key::new(&profile, native(), NewerCalls::Enosys)),
                is_ready,
                least(|| of(&profile, native(), runtime.path())),
                least(|| FilterCache::open(runtime.path()).unwrap().get(&key)),
                least(|| Filter::from_stored(&stored, &key)),
                least(|| compile(&profile, native())),
                after_other_work(|| of(&profile, native(), runtime.path())),
                after_other_work(|| compile(&profile, native())),
            );
        }
    }
}
