//! A snapshot: what lies at a name, a file or a whole tree, as it is expected to be, name by name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vfsrun_sys::lease;

use crate::base::{Identity, SeenKind, escaped};
use crate::{fsat, order};

/// Nothing, or in the order of manifests what is at the name and below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Snapshot {
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// Below the name; empty for what has the name itself.
    #[serde(rename = "p", with = "escaped")]
    pub path: PathBuf,
    #[serde(rename = "t")]
    pub kind: SeenKind,
    #[serde(flatten)]
    pub is: Identity,
}

/// What may have happened to a thing that is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing.
    Nothing,
    /// It was renamed, which changes its ctime, and it had a name more or less.
    Renames,
    /// The same, and a part of it was removed.
    Removals,
}

/// How what is there is another thing than was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Gone,
    Changed,
    /// Nobody expected anything there.
    Unknown,
    Mounted,
    /// Somebody has it open for writing, or mapped.
    Written,
    Failed(Errno),
}

/// Why something was not removed.
#[derive(Debug)]
pub(super) struct Stays {
    /// Of the first thing that stays, below the name.
    pub path: PathBuf,
    pub difference: Difference,
    /// Other things below the name are gone.
    pub is_part: bool,
}

impl Node {
    pub fn of(path: &Path, stat: &Stat) -> Node {
        let kind = SeenKind::of(FileType::from_raw_mode(stat.st_mode));
        Node { path: path.to_owned(), kind, is: Identity::of(stat) }
    }

    /// Where it is, if that is the place of its snapshot.
    pub fn place(&self, top: &Path) -> PathBuf {
        if self.path.as_os_str().is_empty() { top.to_owned() } else { top.join(&self.path) }
    }

    /// Which file it is.
    pub fn file(&self) -> (u64, u64) {
        (self.is.dev, self.is.ino)
    }

    pub fn is(&self, stat: &Stat, since: Since) -> bool {
        let mut now = Identity::of(stat);
        if since != Since::Nothing {
            now.ctime = self.is.ctime;
        }
        // Whoever removes a directory has to be allowed to.
        if since == Since::Removals && self.kind == SeenKind::Directory {
            now.mode = self.is.mode;
        }
        now == self.is && SeenKind::of(FileType::from_raw_mode(stat.st_mode)) == self.kind
    }
}

impl Snapshot {
    pub fn of_one(stat: &Stat) -> Snapshot {
        Snapshot { nodes: vec![Node::of(Path::new(""), stat)] }
    }

    /// Whether it is this file or directory, whatever became of it.
    pub fn is_at(&self, dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<bool, Errno> {
        let stat = fsat::stat(dir, name)?;
        let top = self.top().map(|top| (top.is.dev, top.is.ino));
        Ok(stat.is_some_and(|stat| top == Some((stat.st_dev, stat.st_ino))))
    }

    pub fn top(&self) -> Option<&Node> {
        self.nodes.first()
    }

    /// Whether `name` in `dir` is this, and nobody writes to it. Errors: the first difference and its path.
    pub fn check(&self, dir: impl AsFd, name: &OsStr, since: Since) -> Result<(), (PathBuf, Difference)> {
        self.differences(dir.as_fd(), name, since).into_iter().next().map_or(Ok(()), Err)
    }

    /// All differences, by path below the name.
    pub fn differences(&self, dir: BorrowedFd<'_>, name: &OsStr, since: Since) -> Vec<(PathBuf, Difference)> {
        let Some(top) = self.top() else { return Vec::new() };
        let mut found = Vec::new();
        match look(dir, name, top, since) {
            Err(difference) => found.push((PathBuf::new(), difference)),
            Ok(()) if top.kind == SeenKind::Directory => match fsat::open_dir(dir, name) {
                Ok(tree) => self.differences_below(&tree, since, &mut found),
                Err(errno) => found.push((PathBuf::new(), Difference::Failed(errno))),
            },
            Ok(()) => {}
        }
        found
    }

    fn differences_below(&self, tree: &OwnedFd, since: Since, found: &mut Vec<(PathBuf, Difference)>) {
        let below = self.by_directory();
        for dir in self.nodes.iter().filter(|node| node.kind == SeenKind::Directory) {
            let mut expected: BTreeSet<&OsStr> = BTreeSet::new();
            let open = match open_below(tree, &dir.path) {
                Ok(open) => open,
                // It is told with the directory that it is in.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    found.push((dir.path.clone(), Difference::Failed(errno)));
                    continue;
                }
            };
            for node in below.get(dir.path.as_path()).into_iter().flatten() {
                let name = node.path.file_name().expect("what lies below a directory has a name");
                expected.insert(name);
                let looked = look_below(open.as_fd(), name, node, since);
                found.extend(looked.err().map(|difference| (node.path.clone(), difference)));
            }
            match fsat::names(&open) {
                Ok(names) => {
                    let unknown = names.into_iter().filter(|name| !expected.contains(name.as_os_str()));
                    found.extend(unknown.map(|name| (dir.path.join(name), Difference::Unknown)));
                }
                Err(errno) => found.push((dir.path.clone(), Difference::Failed(errno))),
            }
        }
    }

    fn by_directory(&self) -> BTreeMap<&Path, Vec<&Node>> {
        let mut below: BTreeMap<&Path, Vec<&Node>> = BTreeMap::new();
        for node in &self.nodes {
            if let Some(parent) = node.path.parent() {
                below.entry(parent).or_default().push(node);
            }
        }
        below
    }

    /// Removes what is known by name, each looked at once more just before it goes, and leaves what is not as it is: `Err` has the
    /// first thing that stays.
    pub fn remove(&self, dir: impl AsFd, name: &OsStr) -> Result<(), Stays> {
        let differences = self.differences(dir.as_fd(), name, Since::Removals);
        let (gone, others): (Vec<_>, Vec<_>) =
            differences.into_iter().partition(|(_, difference)| *difference == Difference::Gone);
        // Somebody else, or who was killed, may have begun.
        let mut is_part = !gone.is_empty();
        if let Some((path, difference)) = others.into_iter().next() {
            return Err(Stays { path, difference, is_part });
        }
        let Some(top) = self.top() else { return Ok(()) };
        let stays = |path: &Path, is_part| {
            let path = path.to_owned();
            move |difference| Stays { path, difference, is_part }
        };
        let failed = |path: &Path, is_part| {
            let stays = stays(path, is_part);
            move |errno| stays(Difference::Failed(errno))
        };
        if top.kind != SeenKind::Directory {
            return fsat::unlink(&dir, name).map_err(failed(Path::new(""), is_part));
        }
        let tree = match fsat::open_dir(&dir, name) {
            Err(Errno::NOENT) => return Ok(()),
            tree => tree.map_err(failed(Path::new(""), is_part))?,
        };
        for node in self.nodes[1..].iter().rev() {
            let parent = node.path.parent().unwrap_or(Path::new(""));
            let open = match open_below(&tree, parent) {
                Err(Errno::NOENT) => continue,
                open => open.map_err(failed(parent, is_part))?,
            };
            let own = node.path.file_name().expect("what lies below a directory has a name");
            match look_below(open.as_fd(), own, node, Since::Removals) {
                Err(Difference::Gone) => continue,
                looked => looked.map_err(stays(&node.path, is_part))?,
            }
            remove_one(&open, own, node.kind).map_err(failed(&node.path, is_part))?;
            is_part = true;
        }
        rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).map_err(failed(Path::new(""), is_part))
    }

    /// Sorted, as they are found by several hands.
    pub fn from_nodes(mut nodes: Vec<Node>) -> Snapshot {
        nodes.sort_by(|a, b| order::compare(&a.path, &b.path));
        Snapshot { nodes }
    }
}

/// Of what is known to be gone soon: whoever owns a directory may not be allowed to write to it.
fn remove_one(dir: &OwnedFd, name: &OsStr, kind: SeenKind) -> Result<(), Errno> {
    let flags = if kind == SeenKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let removed = match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(dir, Mode::from_raw_mode(0o700))?;
            rustix::fs::unlinkat(dir, name, flags)
        }
        other => other,
    };
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}

pub(super) fn open_below(tree: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    vfsrun_sys::beneath::open(tree, path, flags)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn look(dir: BorrowedFd<'_>, name: &OsStr, node: &Node, since: Since) -> Result<(), Difference> {
    let stat = fsat::stat(dir, name).map_err(Difference::Failed)?.ok_or(Difference::Gone)?;
    if !node.is(&stat, since) {
        return Err(Difference::Changed);
    }
    if node.kind == SeenKind::File && is_written(dir, name) {
        return Err(Difference::Written);
    }
    Ok(())
}

/// In a tree that is moved as a whole.
fn look_below(dir: BorrowedFd<'_>, name: &OsStr, node: &Node, since: Since) -> Result<(), Difference> {
    look(dir, name, node, since)?;
    if node.kind != SeenKind::Symlink && is_mounted(dir, name).map_err(Difference::Failed)? {
        return Err(Difference::Mounted);
    }
    Ok(())
}

/// Asked last: whoever opened it before is seen, and whoever opens it later finds it by another name.
fn is_written(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    // One that may not be read has no lease to ask for; EWOULDBLOCK is somebody's lease.
    match fsat::open_file(dir, name) {
        Ok(file) => lease::writer(&file) == lease::Writer::Some,
        Err(errno) => errno == Errno::WOULDBLOCK,
    }
}

pub(super) fn is_mounted(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(dir, name, flags, StatxFlags::TYPE)?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The names in a directory that are not among `expected`.
pub(super) fn unknown_names(dir: &OwnedFd, expected: &BTreeSet<&OsStr>) -> Result<Vec<OsString>, Errno> {
    let names = fsat::names(dir)?.into_iter();
    Ok(names.filter(|name| !expected.contains(name.as_os_str())).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    fn snapshot(top: &Path, names: &[String]) -> Snapshot {
        let stat = |path: &Path| rustix::fs::lstat(path).unwrap();
        let nodes = names.iter().map(|name| Node::of(Path::new(name), &stat(&top.join(name))));
        Snapshot::from_nodes(nodes.chain([Node::of(Path::new(""), &stat(top))]).collect())
    }

    #[test]
    fn what_is_saved_while_a_tree_is_removed_stays() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("tree");
        fs::create_dir(&top).unwrap();
        let names: Vec<String> = (0..4000).map(|number| format!("{number:04}")).collect();
        names.iter().for_each(|name| fs::write(top.join(name), "old").unwrap());
        let known = snapshot(&top, &names);
        let (first, last) = (top.join("0000"), top.join("3999"));
        // The last goes first. Whoever finds the first one after that saves into it.
        let removed = thread::scope(|scope| {
            let saver = scope.spawn(|| {
                while last.exists() {
                    thread::yield_now();
                }
                fs::OpenOptions::new().write(true).open(&first).map(|_| fs::write(&first, "saved"))
            });
            let removed = known.remove(open(temp.path()), OsStr::new("tree"));
            (removed, saver.join().unwrap().is_ok())
        });
        match removed {
            (Err(stays), true) => {
                assert!(stays.is_part && stays.path == Path::new("0000"), "{stays:?}");
                assert!(matches!(stays.difference, Difference::Changed | Difference::Written), "{stays:?}");
                assert_eq!(fs::read_to_string(&first).unwrap(), "saved");
            }
            (removed, saved) => assert!(!saved && removed.is_ok(), "{removed:?} {saved}"),
        }
    }

    #[test]
    fn what_is_gone_from_a_tree_makes_the_rest_a_part() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("tree");
        fs::create_dir(&top).unwrap();
        let names = ["a", "b"].map(str::to_owned);
        names.iter().for_each(|name| fs::write(top.join(name), "old").unwrap());
        let known = snapshot(&top, &names);
        fs::remove_file(top.join("b")).unwrap();
        fs::write(top.join("a"), "saved").unwrap();
        let stays = known.remove(open(temp.path()), OsStr::new("tree")).unwrap_err();
        assert!(stays.is_part && stays.path == Path::new("a"), "{stays:?}");
        fs::write(top.join("b"), "another").unwrap();
        let stays = known.remove(open(temp.path()), OsStr::new("tree")).unwrap_err();
        assert!(!stays.is_part, "{stays:?}");
    }
}
