//! The filter cache: compiled seccomp filters in files of the runtime directory, each named by its key.
//!
//! A file there decides what a container may ask of the kernel, and its digest is no proof: whoever writes the program can
//! write the digest. What proves that this program wrote it is who owns the directory and the file, and that nobody else
//! may write to either; both are asked of the descriptors that are then used. Anything else than that is no error but no
//! entry: the filter is compiled, as if there were no cache.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;
use vfsrun_seccomp::stored::{MAX_STORED, NotStored};
use vfsrun_seccomp::{Filter, Key};
use vfsrun_sys::{beneath, chain};

/// Where it lies in the runtime directory.
const NAME: &str = "filters";

/// Where an entry is written before it gets its name. One name is enough, for one process writes at a time, and what a
/// killed one left is there to be removed by the next.
const UNFINISHED: &str = "unfinished";

/// A filter of podman's profile is 2.5 KiB, the largest is 33.
const MAX_ENTRIES: usize = 128;

/// Opening a file without changing its access time is for its owner alone, by the kernel's own numbers: in a user
/// namespace stat(2) shows all owners without a number there as the same one.
const OWNED: OFlags = OFlags::NOATIME;

pub struct FilterCache {
    directory: OwnedFd,
}

/// Why there is no cache, or why an entry is none.
#[derive(Debug, Error)]
pub enum Unusable {
    #[error("cannot {what}")]
    Step { what: &'static str, source: io::Error },
    #[error("{what} belongs to uid {owner} or is open to others")]
    NotOurs { what: &'static str, owner: u32 },
    #[error("the entry is no file of one name and of at most {MAX_STORED} bytes")]
    NoFile,
    #[error("the entry is not what it should be")]
    Content(#[source] NotStored),
}

impl FilterCache {
    /// The cache in the runtime directory, made when missing.
    pub fn open(runtime: &Path) -> Result<FilterCache, Unusable> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OWNED;
        let runtime = rustix::fs::open(runtime, flags, Mode::empty());
        let runtime = runtime.map_err(|errno| step("open the runtime directory")(errno.into()))?;
        ours(&runtime, "the runtime directory")?;
        let open = || beneath::open(&runtime, Path::new(NAME), flags);
        let directory = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&runtime, NAME, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => open(),
                    Err(errno) => Err(errno.into()),
                }
            }
            other => other,
        };
        let directory = directory.map_err(step("open the directory of filters"))?;
        ours(&directory, "the directory of filters")?;
        Ok(FilterCache { directory })
    }

    /// The filter that was compiled from what `key` stands for.
    pub fn get(&self, key: &Key) -> Option<Filter> {
        match self.read(key) {
            Ok(filter) => Some(filter),
            Err(Unusable::Step { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::debug!(%key, error = chain(&error), "a kept seccomp filter is not used");
                None
            }
        }
    }

    fn read(&self, key: &Key) -> Result<Filter, Unusable> {
        // Nothing is waited for: it may be a fifo. Nor is a link followed, whoever made it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OWNED;
        let file = beneath::open(&self.directory, Path::new(&key.to_string()), flags);
        let file = file.map_err(step("open the entry"))?;
        let stat = ours(&file, "the entry")?;
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if !is_file || stat.st_nlink != 1 || size > MAX_STORED {
            return Err(Unusable::NoFile);
        }
        let mut stored = Vec::with_capacity(size + 1);
        // Never more than that, even if it grows.
        File::from(file)
            .take(MAX_STORED as u64 + 1)
            .read_to_end(&mut stored)
            .map_err(step("read the entry"))?;
        Filter::from_stored(&stored, key).map_err(Unusable::Content)
    }

    /// Keeps a filter for the next time, unless another process is just keeping one.
    pub fn put(&self, key: &Key, filter: &Filter) {
        let kept = rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| step("lock the directory of filters")(errno.into()))
            .and_then(|()| {
                let kept = self.write(key, filter).and_then(|()| self.forget_oldest());
                // Not left to the descriptor's end: a process that is just being forked has it, too.
                let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
                kept
            });
        if let Err(error) = kept {
            tracing::debug!(%key, error = chain(&error), "the seccomp filter is not kept");
        }
    }

    /// Under the directory's lock, which ends with this process if nothing else ends it. Nothing is synced: what a crash
    /// of the machine leaves half-written is seen by its digest.
    fn write(&self, key: &Key, filter: &Filter) -> Result<(), Unusable> {
        match rustix::fs::unlinkat(&self.directory, UNFINISHED, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(step("remove what was left unfinished")(errno.into())),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, UNFINISHED, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|errno| step("make the entry")(errno.into()))?;
        File::from(file).write_all(&filter.to_stored(key)).map_err(step("write the entry"))?;
        rustix::fs::renameat(&self.directory, UNFINISHED, &self.directory, key.to_string())
            .map_err(|errno| step("name the entry")(errno.into()))
    }

    /// How many filters are kept.
    pub fn entries(&self) -> Result<usize, Unusable> {
        Ok(self.names()?.len())
    }

    fn forget_oldest(&self) -> Result<(), Unusable> {
        let names = self.names()?;
        if names.len() <= MAX_ENTRIES {
            return Ok(());
        }
        let age = |name: PathBuf| {
            let stat = rustix::fs::statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some(((stat.st_mtime, stat.st_mtime_nsec), name))
        };
        let mut aged: Vec<_> = names.into_iter().filter_map(age).collect();
        aged.sort();
        let excess = aged.len().saturating_sub(MAX_ENTRIES);
        for (_, name) in aged.into_iter().take(excess) {
            rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
                .map_err(|errno| step("remove the oldest entry")(errno.into()))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<PathBuf>, Unusable> {
        let list = || -> rustix::io::Result<Vec<PathBuf>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.directory)? {
                let name = PathBuf::from(OsStr::from_bytes(entry?.file_name().to_bytes()));
                if ![".", "..", UNFINISHED].iter().any(|other| name == Path::new(other)) {
                    names.push(name);
                }
            }
            Ok(names)
        };
        list().map_err(|errno| step("list the entries")(errno.into()))
    }
}

/// What the descriptor is open on belongs to this process's user, and only that user may write to it. An access control
/// list that lets somebody else write shows in the group's bits.
fn ours(file: &OwnedFd, what: &'static str) -> Result<Stat, Unusable> {
    let stat = rustix::fs::fstat(file).map_err(|errno| step("look at the owner")(errno.into()))?;
    if stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0 {
        Ok(stat)
    } else {
        Err(Unusable::NotOurs { what, owner: stat.st_uid })
    }
}

fn step(what: &'static str) -> impl FnOnce(io::Error) -> Unusable {
    move |source| Unusable::Step { what, source }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use proptest::prelude::*;
    use tempfile::TempDir;
    use vfsrun_seccomp::{Arch, NewerCalls, Profile, compile};

    use super::*;

    /// A runtime directory with one kept filter, and what was kept.
    struct Kept {
        runtime: TempDir,
        key: Key,
        filter: Filter,
    }

    impl Kept {
        fn new() -> Kept {
            let runtime = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir();
            let (key, filter) = compiled(1);
            let kept = Kept { runtime: runtime.unwrap(), key, filter };
            kept.put();
            assert_eq!(kept.get(), Some(kept.filter.clone()));
            kept
        }

        fn put(&self) {
            FilterCache::open(self.runtime.path()).unwrap().put(&self.key, &self.filter);
        }

        fn get(&self) -> Option<Filter> {
            FilterCache::open(self.runtime.path()).ok()?.get(&self.key)
        }

        fn directory(&self) -> PathBuf {
            self.runtime.path().join(NAME)
        }

        fn entry(&self) -> PathBuf {
            self.directory().join(self.key.to_string())
        }

        /// The next run keeps the filter in the place of whatever was there.
        fn heals(&self) {
            assert_eq!(self.get(), None);
            self.put();
            assert_eq!(self.get(), Some(self.filter.clone()));
        }
    }

    fn profile(errno: u32) -> Profile {
        let rule = format!(r#"{{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": {errno} }}"#);
        Profile::parse(&format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}] }}"#)).unwrap()
    }

    fn compiled(errno: u32) -> (Key, Filter) {
        let native = Arch::native().expect("tests run where filters can be compiled");
        let profile = profile(errno);
        (Key::new(&profile, native, NewerCalls::Enosys), compile(&profile, native).unwrap())
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Another user's; `false` where only root can do that.
    fn give_away(path: &Path) -> bool {
        std::os::unix::fs::lchown(path, Some(12_345), None).is_ok()
    }

    #[test]
    fn entry_and_directory_are_for_their_owner_alone() {
        let kept = Kept::new();
        assert_eq!(fs::metadata(kept.directory()).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(kept.entry()).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(FilterCache::open(kept.runtime.path()).unwrap().entries().unwrap(), 1);
    }

    #[test]
    fn entry_of_another_profile_is_not_used() {
        let kept = Kept::new();
        let (key, filter) = compiled(2);
        fs::write(kept.entry(), filter.to_stored(&key)).unwrap();
        kept.heals();
    }

    #[test]
    fn entry_that_others_may_write_is_not_used() {
        for mode in [0o620, 0o602, 0o666] {
            let kept = Kept::new();
            set_mode(&kept.entry(), mode);
            kept.heals();
        }
    }

    #[test]
    fn entry_that_an_access_list_lets_others_write_is_not_used() {
        let kept = Kept::new();
        let setfacl =
            std::process::Command::new("setfacl").args(["-m", "u:12345:rw"]).arg(kept.entry()).status();
        if !setfacl.is_ok_and(|status| status.success()) {
            crate::skip::this_test("setfacl cannot be used here");
            return;
        }
        kept.heals();
    }

    #[test]
    fn entry_of_another_user_is_not_used() {
        let kept = Kept::new();
        if !give_away(&kept.entry()) {
            crate::skip::this_test("needs root");
            return;
        }
        kept.heals();
    }

    #[test]
    fn entry_with_two_names_is_not_used() {
        let kept = Kept::new();
        fs::hard_link(kept.entry(), kept.runtime.path().join("other")).unwrap();
        kept.heals();
    }

    #[test]
    fn entry_that_is_a_link_is_not_followed() {
        let kept = Kept::new();
        let target = kept.runtime.path().join("target");
        fs::rename(kept.entry(), &target).unwrap();
        symlink(&target, kept.entry()).unwrap();
        kept.heals();
        assert!(fs::symlink_metadata(kept.entry()).unwrap().is_file());
    }

    #[test]
    fn fifo_for_an_entry_is_not_waited_for() {
        let kept = Kept::new();
        fs::remove_file(kept.entry()).unwrap();
        nix::unistd::mkfifo(&kept.entry(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        kept.heals();
    }

    #[test]
    fn directory_for_an_entry_hinders_nobody() {
        let kept = Kept::new();
        fs::remove_file(kept.entry()).unwrap();
        fs::create_dir(kept.entry()).unwrap();
        assert_eq!(kept.get(), None);
        kept.put();
        assert_eq!(kept.get(), None);
    }

    #[test]
    fn huge_entry_is_not_read() {
        let kept = Kept::new();
        let file = File::options().write(true).open(kept.entry()).unwrap();
        file.set_len(1 << 40).unwrap();
        kept.heals();
    }

    #[test]
    fn truncated_entry_is_not_used() {
        for length in [0, 1, 80, 90] {
            let kept = Kept::new();
            File::options().write(true).open(kept.entry()).unwrap().set_len(length).unwrap();
            kept.heals();
        }
    }

    #[test]
    fn directory_that_others_may_write_to_is_not_used() {
        for mode in [0o720, 0o702, 0o1777] {
            let kept = Kept::new();
            set_mode(&kept.directory(), mode);
            assert_eq!(kept.get(), None);
            set_mode(&kept.directory(), 0o700);
            set_mode(kept.runtime.path(), mode);
            assert_eq!(kept.get(), None);
        }
    }

    #[test]
    fn directory_that_is_a_link_is_not_followed() {
        let kept = Kept::new();
        let target = kept.runtime.path().join("target");
        fs::rename(kept.directory(), &target).unwrap();
        symlink(&target, kept.directory()).unwrap();
        assert_eq!(kept.get(), None);
    }

    #[test]
    fn directory_of_another_user_is_not_used() {
        let kept = Kept::new();
        if !give_away(&kept.directory()) {
            crate::skip::this_test("needs root");
            return;
        }
        assert_eq!(kept.get(), None);
    }

    #[test]
    fn file_for_the_directory_is_no_cache() {
        let kept = Kept::new();
        fs::remove_dir_all(kept.directory()).unwrap();
        fs::write(kept.directory(), "").unwrap();
        assert_eq!(kept.get(), None);
    }

    #[test]
    fn what_a_killed_process_left_is_replaced() {
        let kept = Kept::new();
        fs::remove_file(kept.entry()).unwrap();
        fs::write(kept.directory().join(UNFINISHED), "half").unwrap();
        kept.heals();
        assert!(!kept.directory().join(UNFINISHED).exists());
    }

    #[test]
    fn link_in_the_place_of_an_unfinished_entry_is_not_written_through() {
        let kept = Kept::new();
        let victim = kept.runtime.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, kept.directory().join(UNFINISHED)).unwrap();
        fs::remove_file(kept.entry()).unwrap();
        kept.heals();
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }

    #[test]
    fn nobody_waits_for_another_writer() {
        let kept = Kept::new();
        fs::remove_file(kept.entry()).unwrap();
        let other = FilterCache::open(kept.runtime.path()).unwrap();
        rustix::fs::flock(&other.directory, FlockOperation::NonBlockingLockExclusive).unwrap();
        kept.put();
        assert_eq!(kept.get(), None);
        rustix::fs::flock(&other.directory, FlockOperation::Unlock).unwrap();
        kept.heals();
    }

    #[test]
    fn the_oldest_of_too_many_go() {
        let kept = Kept::new();
        let old = std::time::SystemTime::UNIX_EPOCH;
        File::open(kept.entry()).unwrap().set_modified(old).unwrap();
        let cache = FilterCache::open(kept.runtime.path()).unwrap();
        for errno in 2..MAX_ENTRIES as u32 + 20 {
            let (key, filter) = compiled(errno);
            cache.put(&key, &filter);
        }
        assert_eq!(cache.entries().unwrap(), MAX_ENTRIES);
        assert!(!kept.entry().exists());
        let (newest, filter) = compiled(MAX_ENTRIES as u32 + 19);
        assert_eq!(cache.get(&newest), Some(filter));
    }

    #[test]
    fn readers_and_writers_at_once_see_whole_filters() {
        let kept = Kept::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..200 {
                        if turn % 3 == 0 {
                            kept.put();
                        }
                        // An entry that was just replaced has no name any more.
                        assert!(kept.get().is_none_or(|filter| filter == kept.filter));
                    }
                });
            }
        });
        assert_eq!(kept.get(), Some(kept.filter.clone()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_bytes_an_entry_has_no_other_filter_comes_of_it(
            at in any::<prop::sample::Index>(),
            bytes in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let kept = Kept::new();
            let mut stored = fs::read(kept.entry()).unwrap();
            let at = at.index(stored.len());
            stored.splice(at..(at + bytes.len()).min(stored.len()), bytes);
            fs::write(kept.entry(), stored).unwrap();
            prop_assert!(kept.get().is_none_or(|filter| filter == kept.filter));
        }
    }
}
