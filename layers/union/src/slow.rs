//! A slow place: where an answer waits for somebody who may never give it, another machine or a program. Whoever asks there
//! needs a thread that nobody misses.
//!
//! Found by the table of mounts alone, for the file system itself may be the one that does not answer.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::describe::{BranchSpec, FdIndex, Scope, SegmentSpec, Source, Symlinks};
use crate::mount_table::{Mount, MountId, MountTable, mount_of, path_of};
use crate::node::Node;
use crate::origin::Origin;
use crate::segment::Segment;
use crate::watch::own_mounts;

/// File systems of other machines and of programs, as the table of mounts names them; `fuse.sshfs` is a `fuse`.
const SLOW: [&str; 15] = [
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
];
/// What is mounted below these is the desktop's and the kernel's own: no link of a profile leads there.
const APART: [&str; 3] = ["/proc", "/sys", "/run/user"];

/// Where the branches of a segment are slow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slowness {
    branches: Vec<Extent>,
    /// One of the mounts that make it slow.
    mount: Option<MountId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    Nowhere,
    /// At and below these, relative to the root of the branch.
    Below(Vec<PathBuf>),
    Everywhere,
}

impl Slowness {
    /// Asks no file system.
    pub fn of(spec: &SegmentSpec, fds: &[OwnedFd], table: &MountTable) -> Slowness {
        if table.is_empty() {
            return Slowness { branches: vec![Extent::Nowhere; spec.branches.len()], mount: None };
        }
        let mounts = Mounts::new(table);
        let found = spec.branches.iter().map(|branch| extent(branch, fds, &mounts));
        let (mut branches, mounts): (Vec<_>, Vec<_>) = found.unzip();
        let mount = mounts.into_iter().flatten().min();
        // A link may lead from any branch to any other.
        let follows = |branch: &BranchSpec| branch.symlinks != Symlinks::Never && branch.scope == Scope::View;
        if mount.is_some() && spec.branches.iter().any(follows) {
            branches.fill(Extent::Everywhere);
        }
        Slowness { branches, mount }
    }

    /// Those of the branches, each given by something of its own, that are slow.
    pub fn of_these<T>(&self, branches: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        let all = branches.zip(&self.branches);
        all.filter(|(_, extent)| **extent != Extent::Nowhere).map(|(branch, _)| branch)
    }

    /// What stands for all that may be slow together; `None` if nothing is.
    pub fn mount(&self) -> Option<u64> {
        self.mount
    }
}

impl Segment {
    pub fn slowness(&self) -> &Slowness {
        &self.slowness
    }

    pub fn is_slow(&self) -> bool {
        self.slowness.mount.is_some()
    }

    /// How its slow branches are called.
    pub fn slow_labels(&self) -> impl Iterator<Item = &str> {
        self.slowness.of_these(self.branches.iter().map(|branch| branch.label.as_str()))
    }

    /// Whether a name in `dir` or a listing of it may be slow to be had.
    pub fn may_wait(&self, dir: &Node) -> bool {
        self.is_slow() && dir.origins().iter().any(|origin| self.is_slow_in(dir, origin))
    }

    fn is_slow_in(&self, dir: &Node, origin: &Origin) -> bool {
        match &self.slowness.branches[usize::from(origin.branch)] {
            Extent::Nowhere => false,
            Extent::Everywhere => true,
            Extent::Below(points) => {
                let path = dir.path_from(self.branch(origin.branch).at.len());
                // Also names beside a mount: a listing looks at all of them.
                points.iter().any(|point| path.starts_with(point) || point.parent() == Some(&path))
            }
        }
    }

    /// How the branch is called that `dir` has its slow names of.
    pub(crate) fn slow_label(&self, dir: &Node) -> &str {
        let origins = dir.origins();
        let slow = origins.iter().find(|origin| self.is_slow_in(dir, origin));
        slow.map_or("", |origin| self.branch(origin.branch).label.as_str())
    }
}

/// Whether one of these paths may turn out to lie on a slow file system, whatever links there are on the way. Errors: /proc is
/// not mounted.
pub fn may_be_slow(paths: &[PathBuf]) -> std::io::Result<bool> {
    let table = MountTable::read(&own_mounts()?);
    let slow = Mounts::new(&table).slow;
    Ok(slow
        .iter()
        .any(|(_, mount)| !is_apart(&mount.point) || paths.iter().any(|path| path.starts_with(&mount.point))))
}

/// A table with those that are slow picked out once.
struct Mounts<'a> {
    table: &'a MountTable,
    slow: Vec<(MountId, &'a Mount)>,
}

impl Mounts<'_> {
    fn new(table: &MountTable) -> Mounts<'_> {
        Mounts { table, slow: table.mounts().filter(|(_, mount)| is_slow(mount)).collect() }
    }
}

fn extent(branch: &BranchSpec, fds: &[OwnedFd], mounts: &Mounts<'_>) -> (Extent, Option<MountId>) {
    let follows = branch.symlinks != Symlinks::Never;
    // One that is missing is an error of the segment, which says whose it is.
    let of = |index: FdIndex| fds.get(index).map_or((Extent::Nowhere, None), |fd| below(fd, mounts));
    let (found, has_same_paths) = match &branch.source {
        Source::Host { root, .. } => (vec![of(*root)], !follows),
        Source::Inputs { manifest, base, store, .. } => {
            let mut found = vec![alone(of(*manifest))];
            found.extend(base.map(of));
            found.extend(store.map(|store| alone(of(store))));
            (found, false)
        }
        Source::Layer { store, .. } => (vec![alone(of(*store))], false),
        Source::Image { file } => (vec![alone(of(*file))], false),
        Source::Skeleton { .. } => (Vec::new(), false),
    };
    match found.into_iter().find(|(extent, _)| *extent != Extent::Nowhere) {
        // Below its root only what has the same path there as in the view is known to be there.
        Some((_, mount)) if !has_same_paths => (Extent::Everywhere, mount),
        Some(found) => found,
        None if follows && branch.scope == Scope::Host => anywhere(mounts),
        None => (Extent::Nowhere, None),
    }
}

/// Of links that may lead to any place of the host.
fn anywhere(mounts: &Mounts<'_>) -> (Extent, Option<MountId>) {
    let slow = mounts.slow.iter().filter(|(_, mount)| !is_apart(&mount.point));
    // The same one each time.
    match slow.map(|(id, _)| *id).min() {
        Some(id) => (Extent::Everywhere, Some(id)),
        None => (Extent::Nowhere, None),
    }
}

/// Of a file of its own, below which nothing lies, and of a store.
fn alone((extent, mount): (Extent, Option<MountId>)) -> (Extent, Option<MountId>) {
    if extent == Extent::Everywhere { (extent, mount) } else { (Extent::Nowhere, None) }
}

fn below(fd: &OwnedFd, mounts: &Mounts<'_>) -> (Extent, Option<MountId>) {
    let Some(id) = mount_of(fd.as_fd()) else { return (Extent::Nowhere, None) };
    // Of another mount namespace nothing is known.
    if mounts.table.get(id).is_none_or(is_slow) {
        return (Extent::Everywhere, Some(id));
    }
    if mounts.slow.is_empty() {
        return (Extent::Nowhere, None);
    }
    let Some(root) = path_of(fd) else { return (Extent::Nowhere, None) };
    let relative = |mount: &Mount| Some(mount.point.strip_prefix(&root).ok()?.to_path_buf());
    let mut points: Vec<_> = mounts
        .slow
        .iter()
        .filter_map(|(id, mount)| Some((relative(mount)?, *id)))
        .filter(|(point, _)| !point.as_os_str().is_empty())
        .collect();
    points.sort_unstable();
    let mount = points.first().map(|(_, id)| *id);
    let points: Vec<_> = points.into_iter().map(|(point, _)| point).collect();
    if points.is_empty() { (Extent::Nowhere, None) } else { (Extent::Below(points), mount) }
}

fn is_slow(mount: &Mount) -> bool {
    let name = mount.file_system.split('.').next().unwrap_or_default();
    // That of the kernel's own formats of programs is systemd's, and waits for nobody else.
    SLOW.contains(&name) && !(name == "autofs" && mount.point.starts_with("/proc"))
}

fn is_apart(point: &Path) -> bool {
    APART.iter().any(|apart| point.starts_with(apart))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::describe::BranchSpec;

    /// Of a branch that is a directory, on `file_system` and with these mounts besides. Paths that start with `./` are below it.
    fn found(file_system: &str, others: &[(&str, &str)], change: impl Fn(&mut BranchSpec)) -> Slowness {
        let temp = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(File::open(temp.path()).unwrap());
        let mut text = format!("{} 1 0:1 / / rw - {file_system} x rw\n", mount_of(fd.as_fd()).unwrap());
        for (number, (point, file_system)) in others.iter().enumerate() {
            let point = temp.path().join(point.trim_start_matches("./"));
            text.push_str(&format!(
                "{} 1 0:1 / {} rw - {file_system} x rw\n",
                1_000_000 + number,
                point.display()
            ));
        }
        let mut branch = BranchSpec::new(Source::Host { root: 0, host: None }, "host");
        change(&mut branch);
        let spec = SegmentSpec { branches: vec![branch], ..SegmentSpec::default() };
        Slowness::of(&spec, &[fd], &MountTable::parse(text.as_bytes()))
    }

    fn extent(slowness: Slowness) -> Extent {
        assert_eq!(slowness.branches[0] != Extent::Nowhere, slowness.mount.is_some());
        slowness.branches.into_iter().next().unwrap()
    }

    #[test]
    fn a_branch_is_slow_on_file_systems_of_other_machines_and_of_programs() {
        for slow in ["nfs", "nfs4", "cifs", "9p", "ceph", "fuse", "fuse.sshfs", "fuseblk", "autofs", "lustre"]
        {
            assert_eq!(extent(found(slow, &[], |_| {})), Extent::Everywhere, "{slow}");
        }
        for quick in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fusectl", "erofs"] {
            assert_eq!(extent(found(quick, &[], |_| {})), Extent::Nowhere, "{quick}");
        }
    }

    #[test]
    fn a_branch_is_slow_where_something_slow_is_mounted_below_it() {
        let mounts = [("./a/b", "nfs4"), ("./c", "ext4"), ("/net", "nfs4"), ("./d", "fuse.sshfs")];
        let below = Extent::Below(vec!["a/b".into(), "d".into()]);
        assert_eq!(extent(found("ext4", &mounts, |_| {})), below);
        assert_eq!(extent(found("ext4", &[("/net", "nfs4")], |_| {})), Extent::Nowhere);
    }

    #[test]
    fn a_link_that_is_followed_may_lead_to_what_is_slow_in_its_scope() {
        let follow =
            |scope| move |branch: &mut BranchSpec| (branch.symlinks, branch.scope) = (Symlinks::All, scope);
        let below = [("./a", "nfs4")];
        assert_eq!(extent(found("ext4", &below, follow(Scope::Branch))), Extent::Everywhere);
        let elsewhere = [("/net", "nfs4")];
        assert_eq!(extent(found("ext4", &elsewhere, follow(Scope::Branch))), Extent::Nowhere);
        assert_eq!(extent(found("ext4", &elsewhere, follow(Scope::Host))), Extent::Everywhere);
        let apart = [("/run/user/1000/gvfs", "fuse.gvfsd-fuse"), ("/proc/sys/fs/binfmt_misc", "autofs")];
        assert_eq!(extent(found("ext4", &apart, follow(Scope::Host))), Extent::Nowhere);
    }

    #[test]
    fn an_input_manifest_is_slow_where_relative_paths_may_lead_to_what_is_slow() {
        let inputs = |branch: &mut BranchSpec| {
            branch.source = Source::Inputs { manifest: 0, base: Some(0), host: 0, store: None };
        };
        assert_eq!(extent(found("ext4", &[("./a", "nfs4")], inputs)), Extent::Everywhere);
        assert_eq!(extent(found("nfs4", &[], inputs)), Extent::Everywhere);
        assert_eq!(extent(found("ext4", &[("/net", "nfs4")], inputs)), Extent::Nowhere);
    }

    #[test]
    fn of_a_mount_that_is_not_in_the_table_nothing_is_known() {
        let fd = OwnedFd::from(File::open("/").unwrap());
        let branch = BranchSpec::new(Source::Host { root: 0, host: None }, "host");
        let spec = SegmentSpec { branches: vec![branch], ..SegmentSpec::default() };
        let of = |table: &str| {
            Slowness::of(&spec, std::slice::from_ref(&fd), &MountTable::parse(table.as_bytes()))
        };
        assert_eq!(extent(of("1000000 1 0:1 / /x rw - ext4 x rw\n")), Extent::Everywhere);
        assert_eq!(extent(of("")), Extent::Nowhere, "without a table");
    }
}
