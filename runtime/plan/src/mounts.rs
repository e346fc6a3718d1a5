//! Mount options: what the words of a config mean to the kernel.

use std::path::Path;

use vfsrun_spec::{Mount, Spec};

use crate::cgroup::is_guarded;
use crate::plan::{self, Attributes, CgroupMount, MountKind};
use crate::{Facts, PlanError, paths};

// MOUNT_ATTR_* of mount_setattr(2).
const RDONLY: u32 = 0x1;
const NOSUID: u32 = 0x2;
const NODEV: u32 = 0x4;
const NOEXEC: u32 = 0x8;
const ATIME: u32 = 0x70;
const NOATIME: u32 = 0x10;
const STRICTATIME: u32 = 0x20;
const NODIRATIME: u32 = 0x80;
const NOSYMFOLLOW: u32 = 0x20_0000;

/// Word, bits to set, bits to clear. With an `r` before it, it holds for everything mounted below too.
const ATTRIBUTES: [(&str, u32, u32); 16] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("noatime", NOATIME, ATIME),
    ("atime", 0, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("relatime", 0, ATIME),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
];

const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// Words that say what is so anyway, or what kind of mount it is.
const PLAIN: [&str; 6] = ["defaults", "bind", "rbind", "silent", "loud", "async"];

/// Every word that a mount may have beside what is for its file system alone, sorted; one is for tmpfs.
pub fn options() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().flat_map(|(word, ..)| [(*word).to_owned(), format!("r{word}")]);
    let others = PROPAGATION.iter().chain(&PLAIN).chain(&["tmpcopyup"]).map(|word| (*word).to_owned());
    let mut words: Vec<_> = attributes.chain(others).collect();
    words.sort();
    words
}

/// The mounts of a complete config, in its order.
pub(crate) fn all(
    config: &Spec,
    cgroup: Option<&plan::Cgroup>,
    facts: &Facts,
) -> Result<Vec<plan::Mount>, PlanError> {
    let is_action = config.vfs.is_some();
    let one = |(index, mount)| one(mount, index, is_action, cgroup, facts);
    config.mounts.iter().enumerate().map(one).collect()
}

fn one(
    mount: &Mount,
    index: usize,
    is_action: bool,
    cgroup: Option<&plan::Cgroup>,
    facts: &Facts,
) -> Result<plan::Mount, PlanError> {
    let at = format!("mounts[{index}]");
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(PlanError::Mount { at, problem: "this version does not build id-mapped mounts" });
    }
    let mut attributes = Attributes::default();
    let mut data = Vec::new();
    for option in &mount.options {
        match option.as_str() {
            "tmpcopyup" if mount.kind.as_deref() == Some("tmpfs") => {}
            "tmpcopyup" | "idmap" | "ridmap" => {
                return Err(PlanError::MountOption { at: format!("{at}.options"), option: option.clone() });
            }
            word if PLAIN.contains(&word) => {}
            word if PROPAGATION.contains(&word) => attributes.propagation = Some(word.to_owned()),
            word if attribute(word, &mut attributes) => {}
            _ => data.push(option.clone()),
        }
    }
    let what = kind(mount, &at, data, cgroup, facts)?;
    attributes.set |= forced(&what, is_action, is_guarded(cgroup));
    Ok(plan::Mount { destination: mount.destination.clone(), what, attributes, at })
}

/// What holds whatever the options say. Where no cgroup denies devices, they are the six of /dev and those bound by name.
/// sysfs checks owners only, and the owner may be the host's root.
fn forced(what: &MountKind, is_action: bool, guarded: bool) -> u32 {
    match what {
        MountKind::FileSystem { name, .. } if name == "sysfs" && is_action => NODEV | RDONLY,
        MountKind::FileSystem { name, .. } if name != "devpts" && !guarded => NODEV,
        // Those of an ordinary caller are its own to write, and would be changed for all of its processes (CVE-2023-25809).
        MountKind::Cgroup(CgroupMount::Callers) => RDONLY,
        _ => 0,
    }
}

fn attribute(word: &str, attributes: &mut Attributes) -> bool {
    let find = |word: &str| ATTRIBUTES.iter().find(|(name, ..)| *name == word);
    if let Some((_, set, clear)) = find(word) {
        attributes.clear = (attributes.clear | clear) & !set;
        attributes.set = (attributes.set & !clear) | set;
        attributes.clear |= clear & ATIME;
        return true;
    }
    match word.strip_prefix('r').and_then(find) {
        Some((_, set, clear)) => {
            attributes.recursive_set |= set;
            attributes.recursive_clear |= clear;
            true
        }
        None => false,
    }
}

fn kind(
    mount: &Mount,
    at: &str,
    data: Vec<String>,
    cgroup: Option<&plan::Cgroup>,
    facts: &Facts,
) -> Result<MountKind, PlanError> {
    if paths::is_bind(mount) {
        let source = mount
            .source
            .as_deref()
            .ok_or(PlanError::Mount { at: at.to_owned(), problem: "a bind mount needs a source" })?;
        if let Some(option) = data.into_iter().next() {
            return Err(PlanError::MountOption { at: format!("{at}.options"), option });
        }
        let recursive = mount.options.iter().any(|option| option == "rbind");
        return Ok(MountKind::Bind { source: paths::host_path(Path::new(source), facts), recursive });
    }
    match mount.kind.as_deref() {
        Some("proc") => Ok(MountKind::Proc),
        Some("cgroup" | "cgroup2") => {
            let own = cgroup.map(|cgroup| CgroupMount::Own { places: cgroup.places.clone() });
            Ok(MountKind::Cgroup(own.unwrap_or(CgroupMount::Callers)))
        }
        Some(name) => {
            let copies_up = mount.options.iter().any(|option| option == "tmpcopyup");
            let source = mount.source.clone();
            Ok(MountKind::FileSystem { name: name.to_owned(), source, options: data, copies_up })
        }
        None => {
            Err(PlanError::Mount { at: at.to_owned(), problem: "has neither a type nor the option bind" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(words: &[&str]) -> Attributes {
        let mut attributes = Attributes::default();
        for word in words {
            assert!(attribute(word, &mut attributes), "{word}");
        }
        attributes
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(attributes(&["ro", "rw"]).set & RDONLY, 0);
        assert_eq!(attributes(&["rw", "ro"]).set & RDONLY, RDONLY);
        assert_eq!(attributes(&["rw", "ro"]).clear & RDONLY, 0);
    }

    #[test]
    fn an_access_time_word_replaces_the_others() {
        let attributes = attributes(&["noatime", "strictatime"]);
        assert_eq!((attributes.set & ATIME, attributes.clear & ATIME), (STRICTATIME, ATIME));
    }

    #[test]
    fn recursive_words_are_kept_apart() {
        let attributes = attributes(&["rro", "rnosuid"]);
        assert_eq!((attributes.set, attributes.recursive_set), (0, RDONLY | NOSUID));
    }

    #[test]
    fn words_of_a_file_system_are_not_attributes() {
        for word in ["size=64k", "mode=755", "newinstance", "remote", "rx"] {
            assert!(!attribute(word, &mut Attributes::default()), "{word}");
        }
    }
}
