//! A seal over this program's own file: a command that runs as the file's owner could reach it through /proc/PID/exe
//! and change it for every later run (CVE-2019-5736).
//!
//! The program executes itself again from a read-only copy of its mount, or from a sealed copy in memory where it may
//! not mount. Where Landlock keeps the command from writing, nothing need be done.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::AtFlags;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{Landlock, Root};
use vfsrun_spec::vfs::FsRight;
use vfsrun_sys::mount::{self, Attr};

const SELF: &str = "/proc/self/exe";
/// To be done with the pages of a copy.
const FOR_THE_KERNEL: Duration = Duration::from_secs(10);

/// Whether the command of `plan` could reach the program's file.
pub fn is_needed(plan: &Plan) -> bool {
    match plan.root {
        Root::Directory { .. } => true,
        Root::View { .. } => !plan.sandbox.landlock.as_ref().is_some_and(keeps_from_writing),
    }
}

/// The file lies on the host, where no rule can allow anything.
fn keeps_from_writing(rules: &Landlock) -> bool {
    [FsRight::WriteFile, FsRight::Truncate].iter().all(|right| rules.fs.contains(right))
}

/// The digest of a running copy in memory, which has no identity that two runs share. `None` for a file.
pub fn digest_of_copy() -> io::Result<Option<blake3::Hash>> {
    let file = open_self()?;
    if !has_write_seal(&file) {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::from(file))?;
    Ok(Some(hasher.finalize()))
}

/// Returns when the running program cannot be changed through its own file; else executes it again, sealed.
///
/// Errors: neither a read-only mount nor a copy in memory can be executed.
pub fn ensure(privileged: bool) -> io::Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    let sealed = if privileged { read_only_mount()? } else { copy_in_memory()? };
    let strings = |all: Vec<OsString>| {
        all.into_iter().map(|one| CString::new(one.into_vec())).collect::<Result<Vec<_>, _>>()
    };
    let args = strings(std::env::args_os().collect())?;
    let assignment = |(name, value): (OsString, OsString)| {
        let mut entry = name;
        entry.push("=");
        entry.push(value);
        entry
    };
    let env = strings(std::env::vars_os().map(assignment).collect())?;
    let Err(errno) = nix::unistd::execveat(sealed.as_fd(), c"", &args, &env, AtFlags::AT_EMPTY_PATH);
    Err(errno.into())
}

fn is_sealed() -> io::Result<bool> {
    let file = open_self()?;
    let read_only = rustix::fs::fstatvfs(&file)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(read_only || has_write_seal(&file))
}

/// Tells a sealed copy from a file on a tmpfs, which has seals too: the one against more of them.
fn has_write_seal(file: &OwnedFd) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

fn open_self() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_only_mount() -> io::Result<OwnedFd> {
    let file = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let tree = mount::clone_tree(&file, Path::new(""), false)?;
    mount::set_attributes(&tree, Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)?;
    Ok(tree)
}

fn copy_in_memory() -> io::Result<OwnedFd> {
    let copy = rustix::fs::memfd_create("vfsrun", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut to = std::fs::File::from(copy.try_clone()?);
    io::copy(&mut std::fs::File::from(open_self()?), &mut to)?;
    drop(to);
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    let deadline = Instant::now() + FOR_THE_KERNEL;
    loop {
        match rustix::fs::fcntl_add_seals(&copy, seals) {
            // The kernel still has its hands on pages that were just written, on a busy machine for longer than it waits itself.
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            sealed => break sealed?,
        }
    }
    Ok(copy)
}
