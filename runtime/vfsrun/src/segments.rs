//! The segments of a plan in this process, for whoever asks what they show without a mount.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vfsrun_layers::LayerStore;
use vfsrun_plan::plan;
use vfsrun_union::{Context, Described, Segment, SegmentError};

use crate::view::{self, ViewError};

#[derive(Debug, Error)]
pub enum SegmentsError {
    #[error("{}", file.display())]
    View { file: PathBuf, source: ViewError },
    #[error("{}: cannot read an input manifest", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{}: cannot build the root", file.display())]
    Build { file: PathBuf, source: SegmentError },
}

/// Those of the spec in `file`. Each holds its branches open: see [`view::FileLimit`].
pub fn build(
    segments: &[plan::Segment],
    store: Option<&LayerStore>,
    file: &Path,
) -> Result<Vec<Segment>, SegmentsError> {
    let context = Context::default();
    segments.iter().map(|segment| build_one(segment, store, file, &context)).collect()
}

pub fn build_one(
    segment: &plan::Segment,
    store: Option<&LayerStore>,
    file: &Path,
    context: &Context,
) -> Result<Segment, SegmentsError> {
    let file = || file.to_owned();
    let fds = view::open_all(&segment.opens, store);
    let fds = fds.map_err(|source| SegmentsError::View { file: file(), source })?;
    let described = Described::read(segment.spec.clone(), fds)
        .map_err(|source| SegmentsError::Read { file: file(), source })?;
    Segment::build(described, context).map_err(|source| SegmentsError::Build { file: file(), source })
}
