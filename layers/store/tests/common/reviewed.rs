//! A directory of the host, and a layer of what a command made of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use vfsrun_layers::base::{Access, Base, Identity, Place, Seen, SeenKind};
use vfsrun_layers::review::{Form, Patch, Review};
use vfsrun_layers::{Digest, Entry, Kind, Manifest, Meta, order};

use super::World;

pub struct Reviewed {
    pub world: World,
    pub over: Vec<Digest>,
    contents: Option<Digest>,
    entries: Vec<Entry>,
    seen: Vec<Seen>,
}

impl Reviewed {
    pub fn new() -> Reviewed {
        let mut reviewed = Reviewed {
            world: World::new(),
            over: Vec::new(),
            contents: None,
            entries: Vec::new(),
            seen: Vec::new(),
        };
        reviewed.world.dir("host");
        reviewed.note(Path::new(""));
        reviewed
    }

    pub fn host(&self, path: impl AsRef<Path>) -> PathBuf {
        let host = self.world.path("host").canonicalize().unwrap();
        if path.as_ref().as_os_str().is_empty() { host } else { host.join(path) }
    }

    /// A file that the command sees.
    pub fn had(&mut self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> &mut Reviewed {
        let path = Path::new(OsStr::from_bytes(path.as_ref())).to_owned();
        fs::write(self.host(&path), content).unwrap();
        fs::set_permissions(self.host(&path), fs::Permissions::from_mode(0o644)).unwrap();
        self.note(&path);
        self
    }

    pub fn had_link(&mut self, path: &str, target: &str) -> &mut Reviewed {
        symlink(target, self.host(path)).unwrap();
        self.note(Path::new(path));
        self
    }

    /// A directory, which stays: its entry is there too.
    pub fn had_dir(&mut self, path: &str) -> &mut Reviewed {
        fs::create_dir(self.host(path)).unwrap();
        self.note(Path::new(path));
        self
    }

    /// It is seen as it is now.
    pub fn note(&mut self, path: &Path) {
        let stat = rustix::fs::lstat(self.host(path)).unwrap();
        let kind = SeenKind::of(rustix::fs::FileType::from_raw_mode(stat.st_mode));
        let access = Access { mode: stat.st_mode & 0o7777, uid: 0, gid: 0 };
        let place = Place::Host { path: self.host(path), was: Identity::of(&stat), changed: false };
        if kind == SeenKind::Directory {
            let meta = Meta { mode: access.mode, ..Meta::default() };
            let entry = Entry { path: path.to_owned(), kind: Kind::Directory { opaque: false }, meta };
            self.entries.push(entry);
        }
        self.seen.push(Seen { path: path.to_owned(), kind, access, place });
    }

    /// What the files hold now is kept.
    pub fn keep(&mut self) -> &mut Reviewed {
        self.contents = self.world.store.put_seen_contents(&self.base().seen).unwrap();
        self
    }

    /// What is known of a path that was seen is something else.
    pub fn seen(&mut self, path: &str, change: impl FnOnce(&mut Seen)) -> &mut Reviewed {
        change(self.seen.iter_mut().find(|seen| seen.path == Path::new(path)).unwrap());
        self
    }

    /// The command leaves a file there.
    pub fn has(&mut self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> &mut Reviewed {
        let (digest, size) = self.world.store.put_blob(content.as_ref()).unwrap();
        self.left(path, Kind::File { digest, size }, 0o644)
    }

    pub fn left(&mut self, path: impl AsRef<[u8]>, kind: Kind, mode: u32) -> &mut Reviewed {
        let path = Path::new(OsStr::from_bytes(path.as_ref())).to_owned();
        let meta = Meta { mode: if kind == Kind::Whiteout { 0 } else { mode }, ..Meta::default() };
        self.entries.push(Entry { path, kind, meta });
        self
    }

    pub fn entry(&mut self, path: &str, change: impl FnOnce(&mut Entry)) -> &mut Reviewed {
        change(self.entries.iter_mut().find(|entry| entry.path == Path::new(path)).unwrap());
        self
    }

    pub fn lost(&mut self, path: impl AsRef<[u8]>) -> &mut Reviewed {
        self.left(path, Kind::Whiteout, 0)
    }

    pub fn layer(&self) -> Manifest {
        Manifest::from_entries(self.entries.clone()).unwrap()
    }

    pub fn base(&self) -> Base {
        let mut seen = self.seen.clone();
        seen.sort_by(|a, b| order::compare(&a.path, &b.path));
        Base { seen, over: self.over.clone(), contents: self.contents, ..Base::new(self.layer().digest()) }
    }

    pub fn people(&self) -> String {
        self.patch(&Patch { form: Form::People, context: 3, relative: None }).0
    }

    /// For git in the host's directory.
    pub fn git(&self) -> (String, Vec<String>) {
        self.patch(&Patch { form: Form::Git, context: 3, relative: Some(self.host("")) })
    }

    /// The patch, and what is not in it.
    pub fn patch(&self, patch: &Patch) -> (String, Vec<String>) {
        let (bytes, missing) = self.patch_bytes(patch);
        (String::from_utf8(bytes).unwrap(), missing)
    }

    pub fn patch_bytes(&self, patch: &Patch) -> (Vec<u8>, Vec<String>) {
        let (layer, base) = (self.layer(), self.base());
        let review = Review::new(&self.world.store, &layer, &base, |_| true, true).unwrap();
        let mut bytes = Vec::new();
        let written = patch.write(&review, &mut |_, line| {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
            Ok(())
        });
        (bytes, written.unwrap())
    }
}
