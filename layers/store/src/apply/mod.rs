//! Apply: what a run changed, brought to the files that it was made from.
//!
//! A [`Plan`] says what is done at each path, and which are left alone: those that are not any more what the command saw.
//! Everything that is new is made first, in directories `.vfsrun-apply-ID` beside its places, and what goes is put into the store.
//! Then names are exchanged, and what came out is looked at once more: it goes back if somebody has changed it. A [`journal`] has
//! all of it, so that a death at any moment leaves what is completed or taken back by [`LayerStore::settle_applies`].
//!
//! ```text
//! plan -> stage -> commit -> finish
//!            \________\-> roll back
//! ```

mod carry;
mod choose;
mod commit;
mod contents;
mod decide;
mod finish;
mod journal;
mod look;
mod make;
mod outcomes;
mod plan;
mod put_back;
mod refresh;
mod snapshot;
mod stage;
mod step;
mod trees;
mod undo;
mod why;

use std::path::PathBuf;
use std::{fmt, io};

use thiserror::Error;

use crate::manifest::ManifestError;
use crate::store::StoreError;

pub use carry::Applied;
pub use choose::choose;
pub(crate) use journal::DIRECTORY;
pub use plan::{Item, Options, Outcome, Plan, Sort};
pub use why::Why;

/// What the last apply replaced and removed, and how it can be taken back: by applying this.
pub const UNDO: &str = "apply/undo";

#[derive(Debug, Error)]
pub enum ApplyError {
    #[error("another apply is at work with this store: wait until it has ended")]
    Busy,
    #[error("cannot {attempt} {}", path.display())]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("what was there before is no layer")]
    Undo { source: ManifestError },
    #[error(
        "the file system of {} cannot exchange two names (renameat2), and nothing can be applied there without: use --to",
        path.display()
    )]
    NoExchange { path: PathBuf },
    #[error(
        "{} is not the directory that was made there: give that one its name again, or apply where nobody else may rename",
        path.display()
    )]
    Swapped { path: PathBuf },
    #[error(
        "{} belongs to somebody else, or others may write to it: what it says of an apply that was killed is not done; let its \
         owner use the store, and take the right from others",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error("nothing was applied{notes}")]
    Failed { source: Box<ApplyError>, notes: Notes },
}

impl ApplyError {
    pub(crate) fn io<E: Into<io::Error>>(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> ApplyError {
        let path = path.into();
        move |error| ApplyError::Io { attempt, path, source: error.into() }
    }
}

/// What its user has to know of what is on the host now: what somebody changed while it was applied, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes(pub Vec<String>);

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}
