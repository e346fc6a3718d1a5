//! A directory of the host that a command saw as `/src`, and what it made of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use vfsrun_layers::apply::{Applied, ApplyError, Options, Outcome, Plan, UNDO};
use vfsrun_layers::base::{Access, Identity, Place, Seen, SeenKind};
use vfsrun_layers::{Base, Entry, Kind, Manifest, Meta, order};

use super::World;

pub const MTIME: (i64, u32) = (1_500_000_000, 5);

pub struct Scene {
    pub world: World,
    pub host: PathBuf,
}

impl Scene {
    pub fn new() -> Scene {
        Scene::of(World::new())
    }

    pub fn of(world: World) -> Scene {
        let host = world.dir("host").canonicalize().unwrap();
        Scene { world, host }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.host.join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// With the directories around them.
    pub fn layer(&self, entries: impl IntoIterator<Item = Entry>) -> Manifest {
        let mut all: BTreeMap<PathBuf, Entry> =
            entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        let paths: Vec<PathBuf> = all.keys().cloned().collect();
        for way in paths.iter().flat_map(|path| path.ancestors().skip(1)) {
            let host =
                way.strip_prefix("src").map(|below| self.host.join(below)).unwrap_or(self.host.clone());
            let mode = fs::symlink_metadata(host).map_or(0o755, |stat| stat.mode() & 0o7777);
            all.entry(way.to_owned()).or_insert_with(|| {
                let way = way.to_str().unwrap();
                entry(way.strip_prefix("src/").map_or(way, |_| way), Kind::Directory { opaque: false }, mode)
            });
        }
        let manifest = Manifest::from_entries(all.into_values().collect()).unwrap();
        self.world.store.put_layer(&manifest).unwrap();
        manifest
    }

    /// What the command saw at the paths that `layer` changes, if it saw all that is there.
    pub fn base(&self, layer: &Manifest) -> Base {
        self.base_without(layer, |_| false)
    }

    pub fn base_without(&self, layer: &Manifest, is_hidden: impl Fn(&Path) -> bool) -> Base {
        let fixed = Place::Fixed { name: "the program".into(), content: None };
        let access = Access { mode: 0o755, uid: 0, gid: 0 };
        let kind = SeenKind::Directory;
        let mut seen = vec![Seen { path: "".into(), kind, access, place: fixed }];
        for host in tree(&self.host) {
            let below = host.strip_prefix(&self.host).unwrap();
            let path = if below == Path::new("") { "src".into() } else { Path::new("src").join(below) };
            let has = |path: &Path| layer.entries.iter().find(|entry| entry.path == path);
            let mut above = path.ancestors().skip(1).filter_map(has);
            let goes = above.any(|above| above.kind != Kind::Directory { opaque: false });
            if (has(&path).is_some() || goes) && !is_hidden(below) {
                seen.push(self.seen(path, &host));
            }
        }
        seen.sort_by(|a, b| order::compare(&a.path, &b.path));
        Base { raw: true, seen, ..Base::new(layer.digest()) }
    }

    pub fn seen(&self, path: PathBuf, host: &Path) -> Seen {
        let stat = rustix::fs::lstat(host).unwrap();
        let access = Access { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid };
        let kind = SeenKind::of(rustix::fs::FileType::from_raw_mode(stat.st_mode));
        let place = Place::Host { path: host.to_owned(), was: Identity::of(&stat), changed: false };
        Seen { path, kind, access, place }
    }

    pub fn plan(&self, layer: &Manifest, base: &Base) -> Plan<'_> {
        Plan::new(&self.world.store, layer.clone(), base, Options::default())
    }

    pub fn try_apply(&self, layer: &Manifest, base: &Base) -> Result<Applied, ApplyError> {
        self.plan(layer, base).apply(&|_| ())
    }

    /// Nothing of its work may be left.
    pub fn apply(&self, layer: &Manifest, base: &Base) -> Applied {
        let applied = self.try_apply(layer, base).unwrap();
        self.assert_clean();
        applied
    }

    pub fn undo(&self) -> Applied {
        let base = self.world.store.base(UNDO).unwrap().unwrap();
        let layer = self.world.store.manifest(&base.layer).unwrap();
        self.apply(&layer, &base)
    }

    #[track_caller]
    pub fn assert_clean(&self) {
        self.assert_clean_but("nothing of this name");
    }

    #[track_caller]
    pub fn assert_clean_but(&self, allowed: &str) {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let left: Vec<_> = tree(&self.host)
            .into_iter()
            .filter(|path| name(path).contains("vfsrun-") && !name(path).contains(allowed))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let applies = fs::read_dir(self.world.path("store/applies"))
            .map_or(0, |names| names.filter(|name| name.as_ref().unwrap().file_name() != "lock").count());
        assert_eq!(applies, 0);
        let verified = self.world.store.verify(&|_| ()).unwrap();
        assert!(verified.problems.is_empty(), "{:?}", verified.problems);
    }

    /// What is at `name` and below it.
    pub fn state(&self, name: &str) -> Vec<String> {
        state(&self.path(name))
    }

    pub fn file(&self, name: &str, text: &str) -> Entry {
        let (digest, size) = self.world.store.put_blob(text.as_bytes()).unwrap();
        entry(&format!("src/{name}"), Kind::File { digest, size }, 0o644)
    }
}

/// At a path of the root, of whoever runs the test.
pub fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let meta = match kind {
        Kind::Whiteout => Meta::default(),
        _ => Meta { mode, uid, gid, mtime: MTIME, ..Meta::default() },
    };
    Entry { path: path.into(), kind, meta }
}

pub fn at(name: &str, kind: Kind, mode: u32) -> Entry {
    entry(&format!("src/{name}"), kind, mode)
}

pub fn gone(name: &str) -> Entry {
    at(name, Kind::Whiteout, 0)
}

pub fn whys(applied: &Applied) -> Vec<String> {
    let why = |item: &vfsrun_layers::apply::Item| match &item.outcome {
        Outcome::Conflict(why) => Some(format!("{}: {why}", item.path.display())),
        _ => None,
    };
    applied.items.iter().filter_map(why).collect()
}

fn tree(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    if fs::symlink_metadata(top).is_ok_and(|stat| stat.is_dir()) {
        for name in fs::read_dir(top).unwrap() {
            all.extend(tree(&name.unwrap().path()));
        }
    }
    all
}

/// Of directories not the times, which say what names came and went.
pub fn state(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for path in tree(top) {
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        let kind = stat.file_type();
        let content = if kind.is_file() {
            format!("file {:?} {} links", String::from_utf8_lossy(&fs::read(&path).unwrap()), stat.nlink())
        } else if kind.is_symlink() {
            format!("link to {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_dir() {
            "directory".into()
        } else {
            let device = if kind.is_char_device() { stat.rdev() } else { 0 };
            format!("{:o} {device}", stat.mode() & 0o170_000)
        };
        let mode = if kind.is_symlink() { 0 } else { stat.mode() & 0o7777 };
        let time = if kind.is_dir() { (0, 0) } else { (stat.mtime(), stat.mtime_nsec()) };
        let below = path.strip_prefix(top).unwrap().to_owned();
        lines.push(format!(
            "{below:?} {content} {mode:o} {}:{} {time:?} {}",
            stat.uid(),
            stat.gid(),
            attributes(&path)
        ));
    }
    lines.sort();
    lines
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut all: Vec<String> = names
        .map(|name| {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            format!("{name}={:?}", String::from_utf8_lossy(&value[..length]))
        })
        .collect();
    all.sort();
    all.join(",")
}
