//! `vfsrun view`: a spec's branches at a directory of the host, with nothing running in them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vfsrun_fuse::bare::{self, BareError};
use vfsrun_plan::plan::{Open, Segment};
use vfsrun_sys::chain;
use vfsrun_union::Described;
use vfsrun_union::describe::Source;

use super::{Failure, Outcome};
use crate::cli::{Global, View};
use crate::decide::{self, Branches};
use crate::view::{self, FileLimit, ViewError};

#[derive(Debug, Error)]
enum BareViewError {
    #[error("{}", file.display())]
    Open { file: PathBuf, source: ViewError },
    #[error("{}: cannot read an input manifest", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}", file.display())]
    Show { file: PathBuf, source: BareError },
    #[error(transparent)]
    Unmount(#[from] BareError),
    #[error("{}: cannot mount there", at.display())]
    Directory { at: PathBuf, source: io::Error },
    #[error("{}: it lies in {label}, which would show the view in itself", at.display())]
    InItself { at: PathBuf, label: String },
}

pub fn view(command: &View, global: &Global) -> Outcome {
    let _limit = FileLimit::raise().map_err(|error| Failure::own(&error))?;
    let done = match command {
        View::Mount { spec, directory } => mount(&branches(spec, global)?, directory),
        View::Update { spec, directory } => update(&branches(spec, global)?, directory),
        View::Umount { directory } => bare::unmount(&place(directory)).map_err(BareViewError::from),
    };
    done.map(|()| 0).map_err(|error| Failure::own(&error))
}

fn branches(spec: &Path, global: &Global) -> Result<Branches, Failure> {
    decide::branches(&super::plan::request(spec.to_path_buf(), global))
        .map_err(|error| Failure { message: chain(&error), code: error.exit_code() })
}

fn mount(branches: &Branches, directory: &Path) -> Result<(), BareViewError> {
    let wrong = |source| BareViewError::Directory { at: directory.to_path_buf(), source };
    let at = directory.canonicalize().map_err(wrong)?;
    if !at.is_dir() {
        return Err(wrong(rustix::io::Errno::NOTDIR.into()));
    }
    refuse_in_itself(&branches.segment, &at)?;
    let file = branches.file.clone();
    let described = Described::read(branches.segment.spec.clone(), open(branches)?)
        .map_err(|source| BareViewError::Read { file: file.clone(), source })?;
    bare::mount(described, &at).map_err(|source| BareViewError::Show { file, source })
}

fn update(branches: &Branches, directory: &Path) -> Result<(), BareViewError> {
    let at = place(directory);
    refuse_in_itself(&branches.segment, &at)?;
    let fds = open(branches)?;
    bare::update(branches.segment.spec.clone(), &fds, &at)
        .map_err(|source| BareViewError::Show { file: branches.file.clone(), source })
}

fn open(branches: &Branches) -> Result<Vec<OwnedFd>, BareViewError> {
    view::note_uses([&branches.segment], branches.store.as_ref());
    view::open_all(&branches.segment.opens, branches.store.as_ref())
        .map_err(|source| BareViewError::Open { file: branches.file.clone(), source })
}

/// The server would ask itself, and wait for the answer.
fn refuse_in_itself(segment: &Segment, at: &Path) -> Result<(), BareViewError> {
    for branch in &segment.spec.branches {
        let Source::Host { root, .. } = branch.source else { continue };
        let Some(Open::Path { path, .. }) = segment.opens.get(root) else { continue };
        if path.canonicalize().is_ok_and(|path| at.starts_with(path)) {
            return Err(BareViewError::InItself { at: at.to_path_buf(), label: branch.label.clone() });
        }
    }
    Ok(())
}

/// As the table of mounts has it. The server of what is mounted there may be dead, so that nothing can be asked of it.
fn place(directory: &Path) -> PathBuf {
    directory.canonicalize().unwrap_or_else(|_| {
        let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
        let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
        match (parent, absolute.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => absolute,
        }
    })
}
