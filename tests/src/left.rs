//! What a test that was killed has left: a sandbox whose lock nobody holds. The next test that begins ends it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::caller::Caller;
use crate::cgroups::{below, cgroups_of};
use crate::processes;
use crate::sandbox::{PREFIX, Sandbox};

/// Of the file in a sandbox that its test has locked.
const LOCK: &str = "lock";

/// Marks a new sandbox as one of a test that lives as long as it has the file open. It is locked before it has its name, so that
/// nobody takes a sandbox that is just being made for a dead one's.
pub fn hold(directory: &Path) -> File {
    let unnamed = directory.join("lock.new");
    let lock = File::create(&unnamed).expect("a new file in our own directory");
    lock.lock().expect("a new file can be locked");
    fs::rename(&unnamed, directory.join(LOCK)).expect("our own file takes a name");
    lock
}

/// [`sweep`], once in a process.
pub fn sweep_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
}

/// Ends what tests of this user have left that were killed. What cannot be ended is told, and kept for the next.
pub fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(sandbox) = abandoned(&entry.path())
        {
            end(sandbox);
        }
    }
}

/// The sandbox there, when its test is dead and was this user's. Another user may have made a directory that looks like one.
fn abandoned(directory: &Path) -> Option<Sandbox> {
    let owner = fs::symlink_metadata(directory).ok().filter(fs::Metadata::is_dir)?.uid();
    let caller = [Caller::Root, Caller::User].into_iter().find(|caller| caller.uid() == owner)?;
    let lock =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(directory.join(LOCK)).ok()?;
    let is_ours = lock.metadata().is_ok_and(|file| file.is_file() && file.uid() == geteuid().as_raw());
    // A caller that cannot be had here is none whose containers could be ended.
    (is_ours && caller.missing().is_none() && lock.try_lock().is_ok())
        .then(|| Sandbox::adopted(caller, directory.to_owned(), lock))
}

fn end(sandbox: Sandbox) {
    // Of a view one process unmounts when the other is killed.
    sandbox.end_containers_and_views();
    let home = format!("HOME={}", sandbox.home().display());
    processes::with_variable(&home).into_iter().for_each(kill_at_once);
    // One of those may have been about to make another.
    sandbox.end_containers_and_views();
    if let Err(left) = remove_cgroups(&sandbox.name()) {
        eprintln!("a test that was killed has left {left:?}, which cannot be removed");
        // The next may be able to.
        std::mem::forget(sandbox);
    }
}

/// Removes cgroups with this name, those in them, and their processes. Errors: those that are left.
fn remove_cgroups(name: &str) -> Result<(), Vec<PathBuf>> {
    for _ in 0..100 {
        let named = cgroups_of(name).into_iter();
        let cgroups: Vec<_> = named.flat_map(|named| below(&named).into_iter().chain([named])).collect();
        if cgroups.is_empty() {
            return Ok(());
        }
        for cgroup in &cgroups {
            // A process that is frozen cannot be killed.
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            members.lines().filter_map(|pid| pid.parse().ok()).for_each(kill_at_once);
            let _ = fs::remove_dir(cgroup);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(cgroups_of(name))
}

/// It may have ended by itself since, or not be in sight, which the kernel writes as 0.
fn kill_at_once(pid: i32) {
    if pid > 0 {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
