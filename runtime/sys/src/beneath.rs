//! Beneath: opening a path so that it can never leave the directory it starts from.
//!
//! Layers, roots and live directories are hostile: a component may be swapped for a symlink at any time. The kernel
//! resolves these paths in one go (openat2, Linux 5.6), so there is no window between a check and a use.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, mkdirat, openat, openat2,
    readlinkat,
};
use rustix::io::Errno;

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
    make(root.as_fd(), &plain(path))
}

/// The same, but links are followed as [`open_in_root`] does, also where they lead to what is not there: that is made.
pub fn make_dirs_in_root(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    match resolve(&root, path, OFlags::PATH | OFlags::DIRECTORY, IN_ROOT) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Walk::from(root)?.make(path, Made::Directory)
        }
        found => found,
    }
}

/// Makes an empty file with mode 0644 where `path` leads, with the directories that are missing on the way, and opens it
/// (O_PATH). What is there already, and is no directory, is opened as it is.
pub fn make_file_in_root(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Walk::from(root)?.make(path, Made::File)
}

/// What is made at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Directory,
    File,
}

/// A walk that begins at a root and never leaves it: each step looks at one name in a directory that it has open, and what a
/// link says is walked like any other path. So whoever exchanges names meanwhile leads it to other places of the root at most.
struct Walk {
    /// The root, and the directories from there to where the walk is.
    way: Vec<OwnedFd>,
    links: u32,
}

impl Walk {
    fn from(root: impl AsFd) -> io::Result<Walk> {
        let root = openat(root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Walk { way: vec![root], links: 0 })
    }

    fn make(mut self, path: &Path, last: Made) -> io::Result<OwnedFd> {
        // The next one at the end.
        let mut left = steps(path);
        while let Some(name) = left.pop() {
            if name == ".." {
                if self.way.len() > 1 {
                    self.way.pop();
                }
                continue;
            }
            let made = if left.is_empty() { last } else { Made::Directory };
            let found = self.open_or_make(&name, made)?;
            match FileType::from_raw_mode(fstat(&found)?.st_mode) {
                FileType::Directory => self.way.push(found),
                FileType::Symlink => left.extend(self.follow(&found)?),
                _ if made == Made::File => return Ok(found),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        match (last, self.way.pop()) {
            (Made::Directory, Some(here)) => Ok(here),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    fn open_or_make(&self, name: &OsStr, made: Made) -> io::Result<OwnedFd> {
        let here = self.way.last().ok_or(Errno::NOENT)?;
        let mut tries = TRIES;
        loop {
            match openat(here, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                Err(Errno::NOENT) if tries > 0 => tries -= 1,
                opened => return Ok(opened?),
            }
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let done = match made {
                Made::Directory => mkdirat(here, name, Mode::from_raw_mode(0o755)),
                Made::File => openat(here, name, flags, Mode::from_raw_mode(0o644)).map(drop),
            };
            match done {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The steps that a link stands for.
    fn follow(&mut self, link: &OwnedFd) -> io::Result<Vec<OsString>> {
        /// As many as the kernel follows.
        const MOST: u32 = 40;
        self.links += 1;
        // What those of /proc lead to is not what they say.
        if self.links > MOST || fstatfs(link)?.f_type == PROC_SUPER_MAGIC {
            return Err(Errno::LOOP.into());
        }
        let target = readlinkat(link, "", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        if target.is_absolute() {
            self.way.truncate(1);
        }
        Ok(steps(target))
    }
}

/// Names and `..`, the first one at the end.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
    steps.rev().map(|step| step.as_os_str().to_owned()).collect()
}

fn make(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    // Only then is it made: asking to make what is there costs a look-up that no cache answers.
    match (open(root, path, flags), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = make(root, parent)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
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
            Err(Errno::AGAIN) if tries > 0 => tries -= 1,
            Err(Errno::INTR) => {}
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
        let root = dir_fd(temp.path());
        make_dirs_in_root(&root, Path::new("var/here/a/b")).unwrap();
        assert!(temp.path().join("run/here/a/b").is_dir());
        make_dirs(&root, Path::new("var/c")).unwrap_err();
        assert!(!temp.path().join("run/c").exists());
    }

    #[test]
    fn what_links_lead_to_is_made_inside_of_the_root() {
        let temp = tempfile::tempdir().unwrap();
        let inside = temp.path().join("root");
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        // On the way out, to where another one leads, and on beyond what is not there.
        symlink("../../../../x/y", inside.join("a/b/up")).unwrap();
        symlink("/a/b/up", inside.join("first")).unwrap();
        symlink("missing/../here", inside.join("second")).unwrap();
        let root = dir_fd(&inside);
        make_dirs_in_root(&root, Path::new("first/dir")).unwrap();
        make_file_in_root(&root, Path::new("first/file")).unwrap();
        make_file_in_root(&root, Path::new("second")).unwrap();
        assert!(inside.join("x/y/dir").is_dir() && inside.join("x/y/file").is_file());
        assert!(inside.join("here").is_file() && inside.join("missing").is_dir());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_place_is_an_error_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        symlink("two", temp.path().join("one")).unwrap();
        symlink("one", temp.path().join("two")).unwrap();
        std::fs::write(temp.path().join("file"), "old").unwrap();
        let root = dir_fd(temp.path());
        let code = |made: io::Result<OwnedFd>| made.unwrap_err().raw_os_error().unwrap();
        assert_eq!(code(make_file_in_root(&root, Path::new("one"))), libc::ELOOP);
        assert_eq!(code(make_dirs_in_root(&root, Path::new("one/x"))), libc::ELOOP);
        assert_eq!(code(make_dirs_in_root(&root, Path::new("file/x"))), libc::ENOTDIR);
        assert_eq!(code(make_file_in_root(&root, Path::new("new/.."))), libc::EISDIR);
        make_file_in_root(&root, Path::new("file")).unwrap();
        assert_eq!(std::fs::read_to_string(temp.path().join("file")).unwrap(), "old");
    }

    #[test]
    fn links_of_proc_are_not_walked() {
        let proc = dir_fd(Path::new("/proc"));
        let error = make_dirs_in_root(proc, Path::new("self/cwd/made")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
