//! A hierarchy: one tree of cgroups that is mounted here. Version 1 has several, each with some of the controllers or a name;
//! version 2 has one, and on a hybrid machine there are both.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use vfsrun_sys::mountinfo::{self, Line};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Version {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hierarchy {
    pub version: Version,
    /// Of version 1: controllers, or `name=systemd` and its like. Version 2 names none.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The caller's own cgroup, below the mount.
    pub own: PathBuf,
    pub readonly: bool,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// Where the cgroup of `path` is, below the mount: an absolute path begins there, any other at the caller's own cgroup. In version 2 a
    /// cgroup that has processes passes no controllers on, and the caller's has: there it begins beside the caller's own.
    pub fn below(&self, path: &Path) -> PathBuf {
        let begin = match (path.is_absolute(), self.version) {
            (true, _) => Path::new(""),
            (false, Version::V1) => &self.own,
            (false, Version::V2) => self.own.parent().unwrap_or(Path::new("")),
        };
        let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
        begin.components().chain(names).collect()
    }
}

/// Those that are mounted here and in sight.
pub fn all() -> io::Result<Vec<Hierarchy>> {
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    let own = std::fs::read("/proc/self/cgroup")?;
    Ok(choose(&mounts, &own, is_in_sight))
}

/// Whether what lies at the mount's place is this mount, and not one that covers it.
fn is_in_sight(mount: &Mount<'_>) -> bool {
    let stat = rustix::fs::stat(mount.point.as_path());
    let device = stat.map(|stat| (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)));
    device.is_ok_and(|device| device == mount.device)
}

/// A mount of a hierarchy.
struct Mount<'a> {
    device: (u32, u32),
    /// What of the hierarchy is mounted, as the reader's cgroup namespace shows it.
    root: PathBuf,
    point: PathBuf,
    readonly: bool,
    version: Version,
    /// Sorted.
    controllers: Vec<&'a str>,
}

/// One mount of each hierarchy: that which shows the most of it.
fn choose(mountinfo: &[u8], own: &[u8], is_in_sight: impl Fn(&Mount<'_>) -> bool) -> Vec<Hierarchy> {
    let own = own_cgroups(own);
    let mut mounts: Vec<_> = mountinfo::lines(mountinfo).filter_map(|line| mount(&line)).collect();
    mounts.sort_by_key(|mount| mount.root.components().count());
    let mut chosen: Vec<Hierarchy> = Vec::new();
    for mount in mounts {
        let is_other = |known: &Hierarchy| {
            known.version != mount.version || known.controllers.iter().ne(mount.controllers.iter())
        };
        if chosen.iter().all(is_other) && is_in_sight(&mount) {
            // What is mounted in a container is a part of the hierarchy, and the caller's own cgroup lies in that.
            let own = mount.controllers.first().or(Some(&"")).and_then(|name| own.get(name.as_bytes()));
            let own = own.and_then(|own| own.strip_prefix(&mount.root).ok()).unwrap_or(Path::new(""));
            chosen.push(Hierarchy {
                version: mount.version,
                controllers: mount.controllers.iter().map(|name| (*name).to_owned()).collect(),
                own: own.to_path_buf(),
                mount: mount.point,
                readonly: mount.readonly,
            });
        }
    }
    chosen
}

/// By controller; version 2's is that of the empty name.
fn own_cgroups(text: &[u8]) -> BTreeMap<&[u8], &Path> {
    let mut own = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.splitn(3, |byte| *byte == b':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
        for name in names.split(|byte| *byte == b',') {
            own.insert(name, Path::new(std::ffi::OsStr::from_bytes(path)));
        }
    }
    own
}

/// `None` for what is no cgroup's.
fn mount<'a>(line: &Line<'a>) -> Option<Mount<'a>> {
    let version = match &*line.kind() {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let superblock = || line.super_options().filter_map(|word| std::str::from_utf8(word).ok());
    let mut controllers: Vec<_> = match version {
        Version::V1 => superblock().filter(|word| is_controller(word)).collect(),
        Version::V2 => Vec::new(),
    };
    controllers.sort_unstable();
    Some(Mount {
        device: line.device,
        root: line.root(),
        point: line.point(),
        readonly: line.options().chain(line.super_options()).any(|option| option == b"ro"),
        version,
        controllers,
    })
}

/// The other words are options of the mount.
fn is_controller(word: &str) -> bool {
    const OPTIONS: [&str; 9] = [
        "rw",
        "ro",
        "none",
        "noprefix",
        "clone_children",
        "cpuset_v2_mode",
        "xattr",
        "favordynmods",
        "seclabel",
    ];
    !OPTIONS.contains(&word) && (word.starts_with("name=") || !word.contains('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
        choose(mountinfo.as_bytes(), own.as_bytes(), |_| true)
    }

    #[test]
    fn a_hybrid_machine_has_both() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified ro,relatime - cgroup2 cgroup2 rw,nsdelegate";
        let found = chosen(mounts, "2:cpu,cpuacct:/job/7\n1:name=systemd:/\n0::/user.slice/a.scope\n");
        let names: Vec<_> = found.iter().map(|hierarchy| hierarchy.controllers.join("+")).collect();
        assert_eq!(names, ["cpu+cpuacct", "name=systemd", ""]);
        assert_eq!(found[0].own, Path::new("job/7"));
        assert_eq!((found[2].version, found[2].readonly), (Version::V2, true));
        assert_eq!(found[2].own, Path::new("user.slice/a.scope"));
    }

    #[test]
    fn in_a_container_the_mounts_root_is_no_part_of_the_path() {
        let mounts = "\
50 49 0:29 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
51 49 0:29 /docker /a\\040mount rw - cgroup cgroup rw,memory";
        let found = chosen(mounts, "4:memory:/docker/abc/inner\n");
        // That which shows the most.
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mount, Path::new("/a mount"));
        assert_eq!(found[0].own, Path::new("abc/inner"));
        // A cgroup that the mount does not show is none of ours.
        assert_eq!(chosen(mounts, "4:memory:/elsewhere\n")[0].own, Path::new(""));
    }

    #[test]
    fn what_is_covered_is_not_taken() {
        let mounts = "\
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        let found = choose(mounts.as_bytes(), b"0::/\n1:cpu:/\n", |mount| mount.device == (0, 29));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, Version::V1);
    }

    #[test]
    fn paths_begin_where_their_first_letter_says() {
        let mut hierarchy = Hierarchy {
            version: Version::V1,
            controllers: Vec::new(),
            mount: "/m".into(),
            own: "job/step".into(),
            readonly: false,
        };
        assert_eq!(hierarchy.below(Path::new("/a//b/./c")), Path::new("a/b/c"));
        assert_eq!(hierarchy.below(Path::new("a")), Path::new("job/step/a"));
        hierarchy.version = Version::V2;
        assert_eq!(hierarchy.below(Path::new("a")), Path::new("job/a"));
        // Refused where the spec is read; here they lead nowhere.
        assert_eq!(hierarchy.below(Path::new("/../a")), Path::new("a"));
        hierarchy.own = PathBuf::new();
        assert_eq!(hierarchy.below(Path::new("a")), Path::new("a"));
        assert_eq!(hierarchy.below(Path::new("/")), Path::new(""));
    }
}
