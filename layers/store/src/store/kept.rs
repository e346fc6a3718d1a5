//! A kept run: what an action wrote, which could not be captured, and how it was to be.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags};
use serde::{Deserialize, Serialize};

use super::LayerStore;
use super::error::StoreError;
use super::run::Run;
use crate::capture::{CaptureError, CaptureOptions, Captured, Hooks, Look, Take, capture};
use crate::fsat;
use crate::ids::IdMap;
use crate::locked_dir::{Claimed, Lasting, LockedDir};

/// What is written down when an upper is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptRecord {
    pub why: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// What the layer was to be called.
    pub name: Option<String>,
    pub ids: IdMap,
    pub clamp_mtime: Option<i64>,
    pub only: Vec<PathBuf>,
    /// The boot in which the upper was kept without being put on disk, for the time of its capture. Empty: an unknown one.
    pub unsynced_in: Option<String>,
}

/// A run whose upper was kept.
#[derive(Debug)]
pub struct Kept {
    pub id: String,
    pub upper: PathBuf,
    pub since: SystemTime,
    /// On the disk. `None`: it cannot be looked through, as files of ids that this process cannot act as.
    pub bytes: Option<u64>,
    /// `None` if there was no room to write it down, or if it was not on the disk when the machine went down.
    pub record: Option<KeptRecord>,
    /// Somebody is capturing or removing it.
    pub is_busy: bool,
}

/// A kept run that is this process's now.
#[derive(Debug)]
pub struct ClaimedRun {
    dir: LockedDir,
    upper: OwnedFd,
    record: Option<KeptRecord>,
    path: PathBuf,
}

/// How a kept run is captured now, where it was not said then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovery<'a> {
    /// What the layer is to be called.
    pub name: Option<&'a str>,
    /// Devices are recorded; otherwise one is an error.
    pub devices: bool,
}

impl KeptRecord {
    /// How it is to be captured.
    pub fn options(&self) -> CaptureOptions {
        CaptureOptions {
            ids: self.ids.clone(),
            clamp_mtime: self.clamp_mtime,
            devices: false,
            only: self.only.clone(),
            take: Take::Move,
            name: self.name.clone(),
        }
    }

    /// Whether the upper has all that was written: the machine has not gone down before that was on disk.
    pub fn is_whole(&self) -> bool {
        self.unsynced_in.as_ref().is_none_or(|boot| !boot.is_empty() && *boot == this_boot())
    }

    /// What is written down: all of it, or what there is always room for. How it is to be captured is more than what it was.
    pub(super) fn texts(&self) -> Vec<Vec<u8>> {
        let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
        let short = KeptRecord {
            why: cut(&self.why, 200),
            command: self.command.iter().take(4).map(|word| cut(word, 50)).collect(),
            ..self.clone()
        };
        [self, &short].iter().filter_map(|record| serde_json::to_vec(record).ok()).collect()
    }
}

impl Kept {
    /// Whether the upper is known to have all that was written. Without a record nobody knows: a power failure that takes one
    /// may have taken more.
    pub fn is_whole(&self) -> bool {
        self.record.as_ref().is_some_and(KeptRecord::is_whole)
    }
}

impl LayerStore {
    /// All kept runs, the oldest first.
    pub fn kept(&self) -> Result<Vec<Kept>, StoreError> {
        let path = self.path.join("runs");
        let mut all = Vec::new();
        for id in LockedDir::kept(&self.runs).map_err(StoreError::io("list", &path))? {
            let run = path.join(&id);
            let failed = || StoreError::io("look at", &run);
            let Some(found) = LockedDir::look(&self.runs, &id).map_err(failed())? else { continue };
            let bytes =
                fsat::open_dir(&found.dir, "upper").map_err(io::Error::from).and_then(|dir| size(&dir));
            all.push(Kept {
                since: UNIX_EPOCH + Duration::from_secs(found.since.try_into().unwrap_or(0)),
                bytes: bytes.ok(),
                record: parse(found.record),
                is_busy: found.is_busy,
                upper: run.join("upper"),
                id,
            });
        }
        all.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        Ok(all)
    }

    /// How many kept runs there are that nobody is capturing.
    pub fn kept_count(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        for id in LockedDir::kept(&self.runs).map_err(StoreError::io("list", self.path.join("runs")))? {
            let found = LockedDir::look(&self.runs, &id);
            let found = found.map_err(StoreError::io("look at", self.path.join("runs").join(id)))?;
            count += usize::from(found.is_some_and(|found| !found.is_busy));
        }
        Ok(count)
    }

    /// Takes over a kept run.
    ///
    /// Errors: none is kept under this id; somebody else is at it.
    pub fn claim_kept(&self, id: &str) -> Result<ClaimedRun, StoreError> {
        let path = self.path.join("runs").join(id);
        let claimed = LockedDir::claim(&self.runs, id).map_err(StoreError::io("take over", &path))?;
        let (dir, record) = match claimed {
            Claimed::Ours { dir, record } => (dir, record),
            Claimed::Busy => return Err(StoreError::KeptBusy { id: id.to_owned() }),
            Claimed::NotKept => return Err(StoreError::NotKept { id: id.to_owned() }),
        };
        let upper = fsat::open_dir(dir.dir(), "upper").map_err(StoreError::io("open", path.join("upper")))?;
        Ok(ClaimedRun { upper, record: parse(record), path, dir })
    }
}

impl ClaimedRun {
    pub fn record(&self) -> Option<&KeptRecord> {
        self.record.as_ref()
    }

    /// Captures it as it was to be, under the name that is asked for now, or then; that is for an upper that is whole.
    /// If this fails the run is kept as before; after success, or if it is killed when the layer is in place, it goes with the next sweep.
    pub fn capture(
        self,
        how: Recovery<'_>,
        store: &LayerStore,
    ) -> Result<(Captured, Option<String>), CaptureError> {
        let record = self.record.clone().unwrap_or_default();
        let name = how.name.map(str::to_owned).or(record.name.clone().filter(|_| record.is_whole()));
        let options = CaptureOptions { name: name.clone(), devices: how.devices, ..record.options() };
        let (dir, upper) = (&self.dir, self.upper.as_fd());
        let captured = capture_kept((dir, Lasting::PowerFailures), upper, &options, store, None)?;
        if let Err(error) = self.dir.remove() {
            tracing::debug!(%error, "what was captured is left to the next sweep");
        }
        Ok((captured, name))
    }

    /// Removes what was kept.
    pub fn remove(self) -> Result<(), StoreError> {
        let failed = || StoreError::io("remove", &self.path);
        self.dir.unkeep(Lasting::PowerFailures).map_err(failed())?;
        self.dir.remove().map_err(failed())
    }
}

impl Run {
    /// The upper survives this process, every sweep and a power failure, until it is recovered or removed by somebody who
    /// asks for that. On a full disk a long `record` is cut short.
    pub fn keep(&self, record: &KeptRecord) -> Result<(), StoreError> {
        match self.locked().sync() {
            Ok(()) => self.mark_kept(record, Lasting::PowerFailures),
            Err(error) => {
                tracing::debug!(%error, "an upper is kept without being on disk");
                let unsynced = KeptRecord { unsynced_in: Some(this_boot()), ..record.clone() };
                self.mark_kept(&unsynced, Lasting::Processes)
            }
        }
    }

    fn mark_kept(&self, record: &KeptRecord, lasting: Lasting) -> Result<(), StoreError> {
        self.locked().keep(&record.texts(), lasting).map_err(StoreError::io("keep", self.path()))
    }

    /// Captures what was written as `record` says. From before the first step until the layer is in place the run is kept,
    /// if anything was written, so that a death costs nothing; it is still kept when this has failed.
    pub fn capture(
        &self,
        record: &KeptRecord,
        store: &LayerStore,
        look: &Look<'_>,
    ) -> Result<Captured, CaptureError> {
        let names = fsat::names(self.upper()).map_err(StoreError::io("list", self.path().join("upper")));
        if names.map_err(CaptureError::Keep)?.is_empty() {
            let hooks = Hooks { look: Some(look), ..Hooks::default() };
            return capture(self.upper(), &record.options(), store, hooks);
        }
        // A sync would make every run wait for the disk; whether there was need of one is known afterwards.
        let unsynced = KeptRecord { unsynced_in: Some(this_boot()), ..record.clone() };
        self.mark_kept(&unsynced, Lasting::Processes).map_err(CaptureError::Keep)?;
        // Whose record says after a power failure that files may be missing.
        let kept = (self.locked(), Lasting::Processes);
        capture_kept(kept, self.upper(), &record.options(), store, Some(look))
    }
}

fn capture_kept(
    (dir, lasting): (&LockedDir, Lasting),
    upper: BorrowedFd<'_>,
    options: &CaptureOptions,
    store: &LayerStore,
    look: Option<&Look<'_>>,
) -> Result<Captured, CaptureError> {
    // From then on the upper may lack files, and must never be captured again.
    let path = || store.path.join("runs").join(dir.id());
    let let_go = || dir.unkeep(lasting).map_err(StoreError::io("let go of", path()));
    capture(upper, options, store, Hooks { look, in_place: Some(&let_go) })
}

fn parse(record: Option<Vec<u8>>) -> Option<KeptRecord> {
    serde_json::from_slice(&record?).ok()
}

/// Empty where that cannot be told.
fn this_boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map(|boot| boot.trim_end().to_owned()).unwrap_or_default()
}

fn size(upper: &OwnedFd) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let (mut bytes, mut queue) = (0, vec![PathBuf::new()]);
    while let Some(path) = queue.pop() {
        let dir = vfsrun_sys::beneath::open(upper, &path, flags)?;
        for name in fsat::names(&dir)? {
            let Some(stat) = fsat::stat(&dir, &name)? else { continue };
            bytes += fsat::on_disk(&stat);
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                queue.push(path.join(name));
            }
        }
    }
    Ok(bytes)
}
