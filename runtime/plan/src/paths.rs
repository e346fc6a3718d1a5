//! Paths of the spec that name things on the host.

use std::path::{Component, Path, PathBuf};

use vfsrun_spec::Spec;
use vfsrun_spec::vfs::BranchSource;

use crate::PlanError;
use crate::facts::{Facts, PathKind};

/// An absolute path: `~/` is the caller's home, relative ones start at the spec's directory.
pub fn host_path(path: &Path, facts: &Facts) -> PathBuf {
    absolute(path, &facts.spec_directory, facts.caller.home.as_deref())
}

/// What a path is that must be there.
///
/// # Errors
/// It is not there, or cannot be looked at.
pub(crate) fn existing<'a>(path: &Path, at: &str, facts: &'a Facts) -> Result<&'a PathKind, PlanError> {
    let (at, path_buf) = (at.to_owned(), path.to_path_buf());
    match facts.paths.get(path) {
        None | Some(PathKind::Missing) => Err(PlanError::PathMissing { at, path: path_buf }),
        Some(PathKind::Unreachable(reason)) => {
            Err(PlanError::PathUnreachable { at, path: path_buf, reason: reason.clone() })
        }
        Some(kind) => Ok(kind),
    }
}

/// As [`host_path`], for those who gather facts.
pub fn absolute(path: &Path, spec_directory: &Path, home: Option<&Path>) -> PathBuf {
    let joined = match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => spec_directory.join(path),
    };
    // Only `.` goes: `a/..` need not be where it seems when `a` is a symlink.
    joined.components().filter(|component| *component != Component::CurDir).collect()
}

/// Every host path whose kind the plan asks for.
pub fn wanted(spec: &Spec, spec_directory: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/etc/resolv.conf")];
    paths.extend(spec.root.iter().map(|root| root.path.clone()));
    for branch in spec.composed().iter().flat_map(|(vfs, _)| &vfs.branches) {
        if let BranchSource::Path(path) | BranchSource::Inputs(path) = &branch.source {
            paths.push(path.clone());
        }
    }
    paths.extend(
        spec.mounts
            .iter()
            .filter(|mount| is_bind(mount))
            .filter_map(|mount| mount.source.clone())
            .map(PathBuf::from),
    );
    paths.into_iter().map(|path| absolute(&path, spec_directory, home)).collect()
}

/// Whether `path` names something strictly below `directory`, without `..` on the way.
pub(crate) fn is_below(path: &Path, directory: &Path) -> bool {
    path != directory
        && path.starts_with(directory)
        && !path.components().any(|component| component == Component::ParentDir)
}

pub(crate) fn is_bind(mount: &vfsrun_spec::Mount) -> bool {
    let by_option = mount.options.iter().any(|option| option == "bind" || option == "rbind");
    by_option || mount.kind.as_deref() == Some("bind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilde_is_the_callers_home() {
        let path = absolute(Path::new("~/.cache"), Path::new("/spec"), Some(Path::new("/home/ann")));
        assert_eq!(path, Path::new("/home/ann/.cache"));
    }

    #[test]
    fn relative_paths_start_at_the_spec() {
        assert_eq!(absolute(Path::new("./hello"), Path::new("/spec"), None), Path::new("/spec/hello"));
        assert_eq!(absolute(Path::new("../x"), Path::new("/spec"), None), Path::new("/spec/../x"));
    }
}
