//! The mounts of a plan: what each entry of `mounts` comes to, and where nothing may be mounted.

use std::path::{Component, Path, PathBuf};

use vfsrun_spec::{Mount, Spec};

use crate::cgroup::is_guarded;
pub use crate::mount_options::names as options;
use crate::mount_options::{NODEV, Options, RDONLY};
use crate::plan::{self, CgroupMount, Ids, MountKind, SourceLink};
use crate::{Facts, PlanError, paths};

/// Files of /proc that others may stand for, as lxcfs provides them. What else is mounted in there could make this program
/// write its settings of the container somewhere else (CVE-2019-16884, CVE-2019-19921).
const IN_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Who mounts, and for what.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub facts: &'a Facts,
    /// Of a new user namespace.
    pub ids: Option<&'a Ids>,
    /// Of any user namespace.
    pub in_user_namespace: bool,
    pub is_action: bool,
    /// Of the command's own.
    pub cgroup: Option<&'a plan::Cgroup>,
}

impl Setting<'_> {
    /// Whether device nodes can be made where they are wanted.
    pub fn makes_nodes(&self) -> bool {
        self.facts.caller.privileged && !self.in_user_namespace && !self.is_action
    }
}

/// The mounts of a complete config, in its order.
pub(crate) fn all(config: &Spec, setting: Setting<'_>) -> Result<Vec<plan::Mount>, PlanError> {
    config.mounts.iter().enumerate().map(|(index, mount)| one(mount, index, setting)).collect()
}

/// What is not as the specification wants it, and done all the same.
pub(crate) fn notes(config: &Spec) -> Vec<String> {
    let mut notes = Vec::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        if !mount.destination.is_absolute() {
            let (said, taken) = (mount.destination.display(), clean(&mount.destination));
            let note = format!(
                "mounts[{index}].destination: {said} is not absolute, and is taken as {}",
                taken.display()
            );
            notes.push(note);
        }
        let options = if paths::is_bind(mount) {
            Options::of(mount, "", None).unwrap_or_default()
        } else {
            Options::default()
        };
        let ignored = options.data.iter().filter(|option| is_ignored_of_a_bind(option));
        notes.extend(ignored.map(|option| {
            format!(
                "mounts[{index}].options: {option:?} changes nothing: a bind shows a file system as it is"
            )
        }));
    }
    notes
}

fn one(mount: &Mount, index: usize, setting: Setting<'_>) -> Result<plan::Mount, PlanError> {
    let at = format!("mounts[{index}]");
    let options = Options::of(mount, &at, setting.ids)?;
    let destination = clean(&mount.destination);
    let (mut attributes, on_link) = (options.attributes.clone(), options.on_link);
    let what = kind(mount, options, &at, setting)?;
    refuse_in_proc(&destination, &what, &at)?;
    attributes.set |= forced(&what, &destination, setting);
    Ok(plan::Mount { destination, what, attributes, on_link, at })
}

/// Seen in real configs, where crun ignores them: what a file system of its own would take, such as `mode=755`, and the words by
/// which engines relabel. Any other word may be one that we know, misspelt.
fn is_ignored_of_a_bind(option: &str) -> bool {
    option.contains('=') || ["z", "Z"].contains(&option)
}

/// Below `/`, without `.` and `..`.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Whether something else than proc may be mounted at a path in /proc.
pub fn may_cover_proc(destination: &Path) -> bool {
    IN_PROC.iter().any(|file| destination == Path::new(file))
}

fn refuse_in_proc(destination: &Path, what: &MountKind, at: &str) -> Result<(), PlanError> {
    let problem = if destination == Path::new("/proc") {
        // Of a bind it is seen when it is made.
        let is_proc = match what {
            MountKind::FileSystem { name, .. } => name == "proc",
            MountKind::Bind { .. } | MountKind::Remount { .. } => true,
            MountKind::Cgroup(_) => false,
        };
        (!is_proc).then_some("only proc can be mounted at /proc")
    } else {
        let is_remount = matches!(what, MountKind::Remount { .. });
        (destination.starts_with("/proc") && !may_cover_proc(destination) && !is_remount).then_some(
            "nothing can be mounted in /proc but over files that tell of the machine, such as /proc/cpuinfo",
        )
    };
    problem.map_or(Ok(()), |problem| Err(PlanError::Mount { at: at.to_owned(), problem }))
}

/// What holds whatever the options say. Where no cgroup denies devices, they are those that the spec names and those bound by
/// name. sysfs checks owners only, and the owner may be the host's root.
fn forced(what: &MountKind, destination: &Path, setting: Setting<'_>) -> u32 {
    match what {
        MountKind::FileSystem { name, .. } if name == "sysfs" && setting.is_action => NODEV | RDONLY,
        // The place of the nodes. Nobody has the capability to make more of them.
        MountKind::FileSystem { name, .. }
            if name == "tmpfs" && destination == Path::new("/dev") && setting.makes_nodes() =>
        {
            0
        }
        MountKind::FileSystem { name, .. } if name != "devpts" && !is_guarded(setting.cgroup) => NODEV,
        // Those of an ordinary caller are its own to write, and would be changed for all of its processes (CVE-2023-25809).
        MountKind::Cgroup(CgroupMount::Callers) => RDONLY,
        _ => 0,
    }
}

fn kind(mount: &Mount, options: Options, at: &str, setting: Setting<'_>) -> Result<MountKind, PlanError> {
    let wrong = |problem| PlanError::Mount { at: at.to_owned(), problem };
    let is_bind = paths::is_bind(mount);
    if options.copies_up && mount.kind.as_deref() != Some("tmpfs") {
        return Err(wrong("tmpcopyup is for tmpfs"));
    }
    if options.ids.is_some() && (!is_bind || options.remount) {
        return Err(wrong("ids can be mapped of binds only"));
    }
    if options.link != SourceLink::Followed && !is_bind {
        return Err(wrong("copy-symlink and src-nofollow are for binds"));
    }
    if options.link == SourceLink::Copied && options.on_link {
        return Err(wrong("copy-symlink makes a link, and dest-nofollow mounts on one"));
    }
    let unknown = options.data.iter().find(|option| !is_ignored_of_a_bind(option));
    if let (true, Some(option)) = (is_bind, unknown) {
        return Err(PlanError::MountOption { at: format!("{at}.options"), option: option.clone() });
    }
    let kernel = || options.superblock.iter().chain(&options.data).cloned().collect();
    if options.remount {
        return Ok(MountKind::Remount { file_system: (!is_bind).then(kernel) });
    }
    if is_bind {
        let source = mount.source.as_deref().ok_or(wrong("a bind mount needs a source"))?;
        if let Some(ids) = &options.ids {
            refuse_ids(ids, at, setting)?;
        }
        return Ok(MountKind::Bind {
            source: paths::host_path(Path::new(source), setting.facts),
            recursive: options.bind.is_some_and(|recursive| recursive.0),
            link: options.link,
            ids: options.ids,
        });
    }
    match mount.kind.as_deref().filter(|kind| !kind.is_empty()) {
        Some("cgroup" | "cgroup2") => {
            let own = setting.cgroup.map(|cgroup| CgroupMount::Own { places: cgroup.places.clone() });
            Ok(MountKind::Cgroup(own.unwrap_or(CgroupMount::Callers)))
        }
        Some(name) => {
            let covers_mode = name == "tmpfs"
                && !setting.is_action
                && !options.data.iter().any(|option| option.starts_with("mode="));
            Ok(MountKind::FileSystem {
                name: name.to_owned(),
                source: mount.source.clone(),
                options: kernel(),
                copies_up: options.copies_up,
                covers_mode,
            })
        }
        None => Err(wrong("has neither a type nor the option bind")),
    }
}

fn refuse_ids(ids: &plan::MountIds, at: &str, setting: Setting<'_>) -> Result<(), PlanError> {
    let wrong = |problem| PlanError::Mount { at: at.to_owned(), problem };
    if !setting.facts.caller.privileged {
        return Err(wrong("only root can have the kernel map the ids of a mount"));
    }
    match &ids.ids {
        None if setting.ids.is_none() => {
            Err(wrong("its ids need uidMappings and gidMappings: the container has no new user namespace"))
        }
        Some(ids) if ids.uids.iter().chain(&ids.gids).any(|extent| extent.count == 0) => {
            Err(wrong("a range of no ids is mapped"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_stay_below_the_root() {
        for (said, taken) in
            [("work", "/work"), ("/a/../../b/./c/", "/b/c"), ("/..", "/"), ("/proc/../etc", "/etc")]
        {
            assert_eq!(clean(Path::new(said)), Path::new(taken), "{said}");
        }
    }
}
