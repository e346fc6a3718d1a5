//! Beneath: opening a path so that it can never leave the directory it starts from.
//!
//! Layers, roots and live directories are hostile: a component may be swapped for a symlink at any time. The kernel
//! resolves these paths in one go (openat2, Linux 5.6), so there is no window between a check and a use.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

const NO_LINKS: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path` beneath `root` without following any symlink. With `OFlags::PATH | OFlags::NOFOLLOW` a symlink in
/// the last place is opened itself. An empty path is `root`. Always close-on-exec.
///
/// Errors: ELOOP for a symlink on the way, EXDEV for a path that leaves `root`, else those of openat2(2).
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(root, path, flags, NO_LINKS)
}

/// Opens `path` as a process whose root is `root` would: symlinks are followed, absolute ones start again at `root`,
/// and `..` stops there. Magic links of /proc are refused. Always close-on-exec.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(root, path, flags, IN_ROOT)
}

/// Makes every missing directory of `path` beneath `root` with mode 0755 and opens the last one (O_PATH).
/// Existing symlinks are refused, not followed.
pub fn make_dirs(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    make(root.as_fd(), &plain(path), NO_LINKS)
}

/// The same, but links in the part of the path that is there are followed as [`open_in_root`] does.
pub fn make_dirs_in_root(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    make(root.as_fd(), &plain(path), IN_ROOT)
}

fn make(root: BorrowedFd<'_>, path: &Path, how: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    // Only then is it made: asking to make what is there costs a look-up that no cache answers.
    match (resolve(root, path, flags, how), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = make(root, parent, how)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            open(&parent, Path::new(name), flags | OFlags::NOFOLLOW)
        }
        (found, ..) => found,
    }
}

fn plain(path: &Path) -> PathBuf {
    path.components().filter(|component| matches!(component, Component::Normal(_))).collect()
}

fn resolve(root: impl AsFd, path: &Path, flags: OFlags, how: ResolveFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut tries = TRIES;
    loop {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            // The kernel asks for another try when a rename or mount raced with `..` (openat2(2), EAGAIN).
            Err(rustix::io::Errno::AGAIN) if tries > 0 => tries -= 1,
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Somebody who renames without end must not keep us here without end.
const TRIES: u32 = 1000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn dir_fd(path: &Path) -> OwnedFd {
        std::fs::File::open(path).expect("open the test directory").into()
    }

    #[test]
    fn a_symlink_on_the_way_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("real")).unwrap();
        std::fs::write(temp.path().join("real/file"), "x").unwrap();
        symlink("real", temp.path().join("link")).unwrap();
        let root = dir_fd(temp.path());
        open(&root, Path::new("real/file"), OFlags::RDONLY).unwrap();
        let error = open(&root, Path::new("link/file"), OFlags::RDONLY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn dot_dot_cannot_leave() {
        let temp = tempfile::tempdir().unwrap();
        let root = dir_fd(temp.path());
        let error = open(&root, Path::new("../etc/passwd"), OFlags::RDONLY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
    }

    #[test]
    fn absolute_links_start_again_at_the_root() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("etc")).unwrap();
        std::fs::write(temp.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", temp.path().join("link")).unwrap();
        let fd = open_in_root(dir_fd(temp.path()), Path::new("link"), OFlags::RDONLY).unwrap();
        let text = std::io::read_to_string(std::fs::File::from(fd)).unwrap();
        assert_eq!(text, "inside");
    }

    #[test]
    fn make_dirs_does_not_follow_a_link_out() {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), temp.path().join("a")).unwrap();
        make_dirs(dir_fd(temp.path()), Path::new("a/b")).unwrap_err();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_are_made_where_links_lead_inside_of_the_root() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("run/here")).unwrap();
        symlink("/run", temp.path().join("var")).unwrap();
        symlink("/nowhere", temp.path().join("dangling")).unwrap();
        let root = dir_fd(temp.path());
        make_dirs_in_root(&root, Path::new("var/here/a/b")).unwrap();
        assert!(temp.path().join("run/here/a/b").is_dir());
        make_dirs_in_root(&root, Path::new("dangling/a")).unwrap_err();
        make_dirs(&root, Path::new("var/c")).unwrap_err();
        assert!(!temp.path().join("nowhere").exists() && !temp.path().join("run/c").exists());
    }
}
