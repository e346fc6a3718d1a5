//! Segments over temporary directories, and short ways to ask them things.

#![allow(dead_code, reason = "each test program uses its part")]

#[path = "../../../../tests/src/skip.rs"]
pub mod skip;
pub mod user_namespace;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use vfsrun_layers::{Digest, Entry, Kind, LayerStore, Manifest, Meta};
use vfsrun_union::describe::{
    BranchSpec, Conditions, NameRule, Names, Rule, RuleAction, Scope, SegmentSpec, SkeletonEntry, Source,
    Symlinks,
};
use vfsrun_union::{Context, Described, Errno, FileKind, Node, Segment, SegmentError};

pub struct World {
    temp: TempDir,
    pub store: LayerStore,
    pub context: Context,
    fds: Vec<OwnedFd>,
}

impl World {
    pub fn new() -> World {
        let temp = tempfile::tempdir().unwrap();
        let store = LayerStore::open(&temp.path().join("store")).unwrap();
        World { temp, store, context: Context::default(), fds: Vec::new() }
    }

    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// A new directory `name` with these files; a content that starts with `->` is a symlink, a path that ends with
    /// a slash a directory.
    pub fn dir(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for (path, content) in files {
            let file = dir.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            if path.ends_with('/') {
                std::fs::create_dir_all(&file).unwrap();
            } else if let Some(target) = content.strip_prefix("->") {
                std::os::unix::fs::symlink(target, &file).unwrap();
            } else {
                std::fs::write(&file, content).unwrap();
            }
        }
        dir
    }

    pub fn fd(&mut self, path: &Path) -> usize {
        self.fds.push(File::open(path).unwrap().into());
        self.fds.len() - 1
    }

    pub fn host(&mut self, path: &Path) -> BranchSpec {
        let (root, host) = (self.fd(path), self.fd(Path::new("/")));
        branch(Source::Host { root, host: Some(host) })
    }

    pub fn layer(&mut self, entries: Vec<Entry>) -> BranchSpec {
        let manifest = Manifest::from_entries(entries).unwrap();
        let digest = self.store.put_layer(&manifest).unwrap().to_string();
        let store = self.fd(&self.path().join("store"));
        branch(Source::Layer { digest, store })
    }

    pub fn blob(&self, content: &str) -> Kind {
        let (digest, size) = self.store.put_blob(content.as_bytes()).unwrap();
        Kind::File { digest, size }
    }

    /// `files` is the value of that key; relative host files are in the directory `base`.
    pub fn inputs(&mut self, base: &Path, files: &str) -> BranchSpec {
        let path = self.path().join(format!("inputs-{}.json", self.fds.len()));
        std::fs::write(&path, format!(r#"{{"version":1,"files":{files}}}"#)).unwrap();
        let (manifest, base) = (self.fd(&path), self.fd(base));
        let (host, store) = (self.fd(Path::new("/")), self.fd(&self.path().join("store")));
        branch(Source::Inputs { manifest, base: Some(base), host, store: Some(store) })
    }

    pub fn skeleton(&mut self, entries: Vec<SkeletonEntry>) -> BranchSpec {
        branch(Source::Skeleton { entries })
    }

    pub fn build(&self, branches: Vec<BranchSpec>) -> Segment {
        self.build_spec(SegmentSpec { branches, ..SegmentSpec::default() }).unwrap()
    }

    pub fn build_spec(&self, spec: SegmentSpec) -> Result<Segment, SegmentError> {
        Segment::build(Described::read(spec, self.clone_fds()).unwrap(), &self.context)
    }

    pub fn clone_fds(&self) -> Vec<OwnedFd> {
        self.fds.iter().map(|fd| fd.try_clone().unwrap()).collect()
    }
}

pub fn branch(source: Source) -> BranchSpec {
    BranchSpec::new(source, "test")
}

pub fn at(place: &str, branch: BranchSpec) -> BranchSpec {
    BranchSpec { at: place.into(), ..branch }
}

pub fn following(symlinks: Symlinks, scope: Scope, branch: BranchSpec) -> BranchSpec {
    BranchSpec { symlinks, scope, ..branch }
}

pub fn rules(list: &[(&str, RuleAction)]) -> Vec<Rule> {
    list.iter().map(|(pattern, action)| Rule::pattern(*pattern, *action)).collect()
}

pub fn named(names: Names, conditions: Conditions, action: RuleAction) -> Rule {
    Rule::Names(NameRule { names, conditions, action })
}

pub fn of_types(types: &[FileKind]) -> Conditions {
    Conditions { types: Some(types.to_vec()), ..Conditions::default() }
}

pub fn priority(extensions: &[&str]) -> Rule {
    Rule::ExtensionPriority(extensions.iter().map(|extension| (*extension).to_owned()).collect())
}

pub fn entry(path: &str, kind: Kind) -> Entry {
    let mode = match &kind {
        Kind::Directory { .. } => 0o755,
        Kind::Symlink { .. } => 0o777,
        Kind::Whiteout => 0,
        _ => 0o644,
    };
    let mtime = if kind == Kind::Whiteout { (0, 0) } else { (7, 0) };
    Entry { path: path.into(), kind, meta: Meta { mode, mtime, ..Meta::default() } }
}

pub fn dir(path: &str) -> Entry {
    entry(path, Kind::Directory { opaque: false })
}

pub fn with_xattrs(mut entry: Entry, xattrs: &[(&str, &str)]) -> Entry {
    let xattrs: BTreeMap<_, _> =
        xattrs.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect();
    entry.meta.xattrs = xattrs;
    entry
}

pub fn get(segment: &Segment, path: &str) -> Result<Arc<Node>, Errno> {
    let mut names = path.split('/').filter(|name| !name.is_empty());
    names.try_fold(segment.root(), |dir, name| segment.lookup(&dir, OsStr::new(name)))
}

pub fn kind(segment: &Segment, path: &str) -> Result<FileKind, Errno> {
    get(segment, path).map(|node| node.kind())
}

pub fn read(segment: &Segment, path: &str) -> Result<String, Errno> {
    let mut text = String::new();
    File::from(segment.open(&*get(segment, path)?)?).read_to_string(&mut text).unwrap();
    Ok(text)
}

pub fn names(segment: &Segment, path: &str) -> Vec<String> {
    let entries = segment.list(&get(segment, path).unwrap()).unwrap();
    entries.into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
}

/// Until a change made now shows in a file's ctime.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(40));
}

pub fn no_digest() -> Digest {
    Digest::of(b"nobody stored this")
}
