//! Mount options: what the words of a mount mean to the kernel, as runc and crun have them.

use vfsrun_spec::Mount;

use crate::PlanError;
use crate::plan::{Attributes, Ids, MountIds, SourceLink};

// MOUNT_ATTR_* of mount_setattr(2).
pub(crate) const RDONLY: u32 = 0x1;
const NOSUID: u32 = 0x2;
pub(crate) const NODEV: u32 = 0x4;
const NOEXEC: u32 = 0x8;
const ATIME: u32 = 0x70;
const NOATIME: u32 = 0x10;
const STRICTATIME: u32 = 0x20;
const NODIRATIME: u32 = 0x80;
const NOSYMFOLLOW: u32 = 0x20_0000;

/// Word, bits to set, bits to clear. With an `r` before it, it holds for everything mounted below too.
const ATTRIBUTES: [(&str, u32, u32); 18] = [
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
    ("nostrictatime", 0, ATIME),
    ("relatime", 0, ATIME),
    ("norelatime", 0, ATIME),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
];

/// What a whole file system is; a bind has no say in it, whether with an `r` before it or not.
const SUPERBLOCK: [&str; 7] = ["sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime"];

const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// Words that say what is so anyway. File systems that count versions of inodes always do.
const PLAIN: [&str; 5] = ["defaults", "silent", "loud", "iversion", "noiversion"];

/// Words that say what kind of mount it is.
const KIND: [&str; 9] = [
    "bind",
    "rbind",
    "remount",
    "tmpcopyup",
    "idmap",
    "ridmap",
    "copy-symlink",
    "src-nofollow",
    "dest-nofollow",
];

/// Every word that a mount may have beside what is for its file system alone, sorted.
pub fn names() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(word, ..)| word);
    let recursive = attributes.clone().chain(SUPERBLOCK.iter().filter(|word| !word.contains("lazy")));
    let all = attributes.chain(&SUPERBLOCK).chain(&PROPAGATION).chain(&PLAIN).chain(&KIND);
    let mut words: Vec<_> = all.map(|word| (*word).to_owned()).collect();
    words.extend(recursive.map(|word| format!("r{word}")));
    words.sort();
    words
}

/// What the options of one mount say.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub attributes: Attributes,
    /// `rbind` is recursive.
    pub bind: Option<Recursive>,
    pub remount: bool,
    pub copies_up: bool,
    pub ids: Option<MountIds>,
    pub link: SourceLink,
    pub on_link: bool,
    /// For the superblock, in the kernel's words.
    pub superblock: Vec<String>,
    /// For the file system: words that nobody else knows.
    pub data: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recursive(pub bool);

impl Options {
    /// # Errors
    /// A word that is known is used wrongly.
    pub fn of(mount: &Mount, at: &str, container: Option<&Ids>) -> Result<Options, PlanError> {
        let mut options = Options::default();
        for word in &mount.options {
            options.add(word, at, container)?;
        }
        if !mount.uid_mappings.is_empty() {
            let ids = Ids { uids: extents(&mount.uid_mappings), gids: extents(&mount.gid_mappings) };
            options.ids.get_or_insert_default().ids = Some(ids);
        }
        Ok(options)
    }

    fn add(&mut self, word: &str, at: &str, container: Option<&Ids>) -> Result<(), PlanError> {
        let recursive = word.strip_prefix('r');
        match word {
            "bind" => self.bind = self.bind.or(Some(Recursive(false))),
            "rbind" => self.bind = Some(Recursive(true)),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copies_up = true,
            "copy-symlink" => self.link = SourceLink::Copied,
            "src-nofollow" => self.link = SourceLink::Shown,
            "dest-nofollow" => self.on_link = true,
            _ if PLAIN.contains(&word) => {}
            _ if PROPAGATION.contains(&word) => self.attributes.propagation.push(word.to_owned()),
            _ if attribute(word, &mut self.attributes) => {}
            _ if SUPERBLOCK.contains(&word) => self.superblock.push(word.to_owned()),
            _ if recursive.is_some_and(|word| SUPERBLOCK.contains(&word)) => {
                self.superblock.extend(recursive.map(str::to_owned));
            }
            _ => match id_map(word) {
                Some((recursive, said)) => self.ids = Some(id_map_of(recursive, said, word, at, container)?),
                None => self.data.push(word.to_owned()),
            },
        }
        Ok(())
    }
}

fn attribute(word: &str, attributes: &mut Attributes) -> bool {
    let find = |word: &str| ATTRIBUTES.iter().find(|(name, ..)| *name == word);
    let (entry, set, clear) = match (find(word), word.strip_prefix('r').and_then(find)) {
        (Some(entry), _) => (entry, &mut attributes.set, &mut attributes.clear),
        (None, Some(entry)) => (entry, &mut attributes.recursive_set, &mut attributes.recursive_clear),
        (None, None) => return false,
    };
    let (_, sets, clears) = entry;
    *set = (*set & !clears) | sets;
    // The kernel wants all bits of the access time cleared whenever one is set.
    *clear = ((*clear | clears) & !sets) | (clears & ATIME);
    true
}

/// `idmap`, `ridmap`, and what follows an equals sign.
fn id_map(word: &str) -> Option<(bool, Option<&str>)> {
    let (name, said) = match word.split_once('=') {
        Some((name, said)) => (name, Some(said)),
        None => (word, None),
    };
    let recursive = match name {
        "idmap" => false,
        "ridmap" => true,
        _ => return None,
    };
    Some((recursive, said.filter(|said| !said.is_empty())))
}

/// crun's `uids=0-1-10#10-11-10;gids=0-100-10`: id in the file system, id on the host, how many. With `@` the second is one
/// of the container's.
fn id_map_of(
    recursive: bool,
    said: Option<&str>,
    word: &str,
    at: &str,
    container: Option<&Ids>,
) -> Result<MountIds, PlanError> {
    let Some(said) = said else { return Ok(MountIds { recursive, ids: None }) };
    let wrong = || PlanError::MountIds { at: at.to_owned(), option: word.to_owned() };
    let mut ids = Ids::default();
    for part in said.split(';') {
        let (which, ranges) = part.split_once('=').ok_or_else(wrong)?;
        let (map, own) = match which {
            "uids" => (&mut ids.uids, container.map(|ids| &ids.uids)),
            "gids" => (&mut ids.gids, container.map(|ids| &ids.gids)),
            _ => return Err(wrong()),
        };
        for range in ranges.split('#').filter(|range| !range.is_empty()) {
            let (range, relative) = range.strip_prefix('@').map_or((range, false), |range| (range, true));
            let numbers: Result<Vec<u32>, _> = range.split('-').map(str::parse).collect();
            let Ok(&[inside, host, count]) = numbers.as_deref() else { return Err(wrong()) };
            let outside = match (relative, own) {
                (false, _) => host,
                (true, Some(own)) => crate::ids::outside(own, host).ok_or_else(wrong)?,
                (true, None) => return Err(wrong()),
            };
            map.push(crate::ids::Extent { inside, outside, count });
        }
    }
    if ids.uids.is_empty() || ids.gids.is_empty() {
        return Err(wrong());
    }
    Ok(MountIds { recursive, ids: Some(ids) })
}

fn extents(mappings: &[vfsrun_spec::oci::IdMapping]) -> Vec<crate::ids::Extent> {
    let extent = |m: &vfsrun_spec::oci::IdMapping| crate::ids::Extent {
        inside: m.container_id,
        outside: m.host_id,
        count: m.size,
    };
    mappings.iter().map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Extent;

    fn options(words: &[&str]) -> Result<Options, PlanError> {
        let container = Ids {
            uids: vec![
                Extent { inside: 0, outside: 0, count: 1 },
                Extent { inside: 1, outside: 2, count: 1000 },
            ],
            gids: vec![Extent { inside: 0, outside: 500, count: 1000 }],
        };
        let options = words.iter().map(|word| (*word).to_owned()).collect();
        Options::of(&Mount { options, ..Mount::default() }, "mounts[0]", Some(&container))
    }

    fn attributes(words: &[&str]) -> Attributes {
        options(words).unwrap().attributes
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(attributes(&["ro", "rw"]).set & RDONLY, 0);
        assert_eq!(attributes(&["rw", "ro"]).set & RDONLY, RDONLY);
        assert_eq!(attributes(&["rw", "ro"]).clear & RDONLY, 0);
        let recursive = attributes(&["rro", "rrw"]);
        assert_eq!((recursive.recursive_set, recursive.recursive_clear), (0, RDONLY));
    }

    #[test]
    fn an_access_time_word_replaces_the_others() {
        let plain = attributes(&["noatime", "strictatime"]);
        assert_eq!((plain.set & ATIME, plain.clear & ATIME), (STRICTATIME, ATIME));
        let recursive = attributes(&["rstrictatime", "rnoatime"]);
        assert_eq!((recursive.recursive_set, recursive.recursive_clear), (NOATIME, ATIME));
    }

    #[test]
    fn recursive_words_are_kept_apart() {
        let attributes = attributes(&["rro", "rnosuid"]);
        assert_eq!((attributes.set, attributes.recursive_set), (0, RDONLY | NOSUID));
    }

    #[test]
    fn words_of_a_file_system_are_data() {
        let words = ["size=64k", "mode=755", "newinstance", "remote", "rx", "idmapped"];
        assert_eq!(options(&words).unwrap().data, words);
        assert_eq!(attributes(&words), Attributes::default());
    }

    #[test]
    fn every_name_is_known() {
        for name in names() {
            assert_eq!(options(&[&name]).unwrap().data, Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn ids_are_those_that_crun_reads() {
        let ids = options(&["idmap=uids=0-1-10#10-@11-10;gids=0-100-10"]);
        assert!(matches!(ids, Err(PlanError::MountIds { .. })), "the sign stands before all three numbers");
        let MountIds { recursive, ids } =
            options(&["ridmap=uids=5-1-10#@1-3-10;gids=0-100-10"]).unwrap().ids.unwrap();
        let extent = |inside, outside, count| Extent { inside, outside, count };
        assert!(recursive);
        let ids = ids.unwrap();
        assert_eq!(ids.uids, [extent(5, 1, 10), extent(1, 4, 10)]);
        assert_eq!(ids.gids, [extent(0, 100, 10)]);
    }

    #[test]
    fn ids_that_are_none_are_refused() {
        for word in
            ["idmap=1-2-3", "idmap=uids=0-1-2", "idmap=uids=0-1;gids=0-1-1", "idmap=uids=a-1-1;gids=0-1-1"]
        {
            let error = options(&[word]).unwrap_err().to_string();
            assert!(error.starts_with("mounts[0].options: ") && error.contains(word), "{error}");
        }
    }
}
