//! A place: where a change lies, in the root and on the host, as people name it and as `git apply` wants it.

use std::io;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;
use vfsrun_layers::review::{Review, host_path};
use vfsrun_layers::{Base, Manifest};

#[derive(Debug, Error)]
pub enum PlaceError {
    #[error("cannot tell the current directory: give absolute paths")]
    Here { source: io::Error },
    #[error("cannot find the directory {}", path.display())]
    Dir { path: PathBuf, source: io::Error },
}

/// The paths that were asked for.
pub struct Places {
    places: Vec<Place>,
}

struct Place {
    given: PathBuf,
    meaning: Meaning,
}

enum Meaning {
    /// Relative to it.
    Root(PathBuf),
    /// As it was said, and without links.
    Host(Vec<PathBuf>),
    Nothing,
}

impl Places {
    /// An absolute path is one of the root if something changed there, otherwise one of the host; a relative one is the other way
    /// round.
    pub fn new(paths: &[PathBuf], layer: &Manifest, base: &Base) -> Result<Places, PlaceError> {
        let all =
            || layer.entries.iter().map(|entry| &entry.path).chain(base.seen.iter().map(|seen| &seen.path));
        let place = |given: &PathBuf| {
            let in_root = plain(given);
            let on_host = on_host(given)?;
            let is_in_root = all().any(|path| path.starts_with(&in_root));
            let is_on_host = || {
                all()
                    .filter_map(|path| host_path(base, path))
                    .any(|host| on_host.iter().any(|dir| host.starts_with(dir)))
            };
            let root_first = given.is_absolute();
            let meaning = match (root_first, is_in_root) {
                (true, true) => Meaning::Root(in_root),
                (_, is_in_root) => match (is_on_host(), is_in_root) {
                    (true, _) => Meaning::Host(on_host),
                    (false, true) => Meaning::Root(in_root),
                    (false, false) => Meaning::Nothing,
                },
            };
            Ok(Place { given: given.clone(), meaning })
        };
        Ok(Places { places: paths.iter().map(place).collect::<Result<_, _>>()? })
    }

    /// What nothing is known of.
    pub fn unknown(&self) -> impl Iterator<Item = &Path> {
        let unknown = self.places.iter().filter(|place| matches!(place.meaning, Meaning::Nothing));
        unknown.map(|place| place.given.as_path())
    }

    /// Whether a path of the root was asked for. If none was, all are.
    pub fn has(&self, base: &Base, path: &Path) -> bool {
        let has = |place: &Place| match &place.meaning {
            Meaning::Root(root) => path.starts_with(root),
            Meaning::Host(dirs) => {
                host_path(base, path).is_some_and(|host| dirs.iter().any(|dir| host.starts_with(dir)))
            }
            Meaning::Nothing => false,
        };
        self.places.is_empty() || self.places.iter().any(has)
    }
}

/// A directory that a patch is to be relative to.
pub fn host_dir(dir: &Path) -> Result<PathBuf, PlaceError> {
    dir.canonicalize().map_err(|source| PlaceError::Dir { path: dir.to_owned(), source })
}

/// Where `git apply` would be called: the work tree that the current directory is in, or that itself, if all changes lie there.
pub fn common_dir(review: &Review<'_>) -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let is_work_tree = |dir: &&Path| dir.join(".git").symlink_metadata().is_ok();
    let dir = here.ancestors().find(is_work_tree).unwrap_or(&here);
    let is_below = |path: &Path| host_path(review.base(), path).is_some_and(|host| host.starts_with(dir));
    review.told().all(|item| is_below(item.change.path())).then(|| dir.to_owned())
}

fn on_host(given: &Path) -> Result<Vec<PathBuf>, PlaceError> {
    let said = std::path::absolute(given).map_err(|source| PlaceError::Here { source })?;
    let mut paths = vec![Path::new("/").join(plain(&said))];
    if let (Some(Ok(parent)), Some(name)) = (said.parent().map(Path::canonicalize), said.file_name()) {
        paths.push(parent.join(name));
    }
    Ok(paths)
}

/// Without `.`, `..` and the slash in front.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => _ = plain.pop(),
            _ => {}
        }
    }
    plain
}
