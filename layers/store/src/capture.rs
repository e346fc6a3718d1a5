//! A capture: what an action wrote, read from its overlayfs upper and stored as a layer.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::base::Base;
use crate::digest::Digest;
use crate::ids::IdMap;
use crate::intake::{Devices, Intake, Owner, Rules};
use crate::manifest::{Kind, Manifest};
use crate::store::{LayerStore, StoreError};

pub use crate::intake::{IntakeError as CaptureError, Take};

/// The default records everything but devices, with owners and times as they are, and moves files into the store.
#[derive(Clone, Debug, Default)]
pub struct CaptureOptions {
    /// From the ids that stat shows to the ids that the action saw.
    pub ids: IdMap,
    /// Seconds since the epoch. Later times are recorded as this, with 0 nanoseconds: what the action wrote has no
    /// time of its own then, and equal runs give equal layers.
    pub clamp_mtime: Option<i64>,
    /// Devices are recorded; otherwise one is an error.
    pub devices: bool,
    /// Paths in the root of the action; only they and what lies below them is recorded. Their parents are recorded as
    /// plain directories, and if one of those was deleted or replaced, that what was wanted below it is gone. Empty for
    /// everything.
    pub only: Vec<PathBuf>,
    pub take: Take,
    /// Is pointed at the layer, before anything is taken out of the upper.
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub digest: Digest,
    /// Paths that the action made: no copy of a lower one. Directories that were copied up count as nothing, as the
    /// upper does not say whether more than their content changed.
    pub added: u64,
    /// Files that were copied up from a lower one (hard links and, under `userxattr`, symlinks have no record of that
    /// and count as added).
    pub changed: u64,
    /// Whiteouts.
    pub removed: u64,
    /// Regular files in the layer, hard links not counted, and the sum of their sizes.
    pub files: u64,
    pub bytes: u64,
    /// Sum of the sizes of changed files: what opening them for writing made the kernel copy.
    pub copied_up_bytes: u64,
    /// Sockets are not part of a layer.
    pub sockets_skipped: u64,
}

/// Says what was there before at the paths of a layer, which has this digest.
pub type Look<'a> = dyn Fn(Digest, &Manifest) -> Result<Base, Box<dyn std::error::Error + Send + Sync>> + 'a;

/// What is done when a layer is in place, and nothing has been taken out of the upper yet. If it fails the capture has.
#[derive(Clone, Copy, Default)]
pub struct Hooks<'a> {
    /// The layer's name keeps what this says.
    pub look: Option<&'a Look<'a>>,
    /// Called when it has its name.
    pub in_place: Option<&'a dyn Fn() -> Result<(), StoreError>>,
}

/// Stores what lies in `upper`, to which nobody may be writing any more, as a layer.
///
/// The upper is read directly. On an error it is complete and unchanged, so that it can be kept and captured again.
/// After success with [`Take::Move`] its files are gone.
///
/// Errors: a file that cannot be read or stored (see [`crate::StoreError::is_full`]), one that somebody writes or has open for writing
/// and does not let go of within two seconds, an owner outside of the map, a device, overlayfs's redirect or metacopy marks.
pub fn capture(
    upper: BorrowedFd<'_>,
    options: &CaptureOptions,
    store: &LayerStore,
    hooks: Hooks<'_>,
) -> Result<Captured, CaptureError> {
    let owner = Owner::Keep(options.ids.clone());
    let rules = Rules {
        overlay: true,
        // It has to be fast, and what it brings is nothing that anybody had put before.
        doubts: false,
        without_writers: true,
        owner: &owner,
        clamp_mtime: options.clamp_mtime,
        devices: if options.devices { Devices::Record } else { Devices::Refuse },
        only: &options.only,
        take: options.take,
    };
    let intake = Intake::read(upper, &rules, store, |intake| {
        if let Some(name) = &options.name {
            give_name(name, intake, hooks.look, store)?;
        }
        hooks.in_place.map_or(Ok(()), |in_place| in_place()).map_err(CaptureError::Keep)
    })?;
    let removed = intake.manifest.entries.iter().filter(|entry| entry.kind == Kind::Whiteout).count();
    let (files, bytes) = intake.manifest.totals();
    Ok(Captured {
        digest: intake.digest,
        added: intake.added,
        changed: intake.changed,
        removed: removed as u64,
        files,
        bytes,
        copied_up_bytes: intake.copied_up_bytes,
        sockets_skipped: intake.sockets,
    })
}

fn give_name(
    name: &str,
    intake: &Intake,
    look: Option<&Look<'_>>,
    store: &LayerStore,
) -> Result<(), CaptureError> {
    let named = match look {
        Some(look) => {
            let base = look(intake.digest, &intake.manifest);
            store.set_name_with_base(name, &base.map_err(|source| CaptureError::Base { source })?)
        }
        None => store.set_name(name, &intake.digest),
    };
    named.map(drop).map_err(|source| CaptureError::Name { name: name.to_owned(), source })
}
