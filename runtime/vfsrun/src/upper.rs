//! An upper: where an action's writes go, and how they become a layer.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use vfsrun_layers::base::Seen;
use vfsrun_layers::{
    Base, CaptureError, CaptureOptions, Captured, Digest, Hooks, IdExtent, IdMap, KeptRecord, LayerStore,
    Manifest, Run, StoreError, Take,
};
use vfsrun_plan::Plan;
use vfsrun_plan::plan::{self, Root, RootLayer, UpperOn};
use vfsrun_sys::process::Process;
use vfsrun_union::describe::Source;

use crate::base::{self, Meanwhile};
use crate::kept_root;
use crate::log::note;
use crate::root::view::UpperPlace;
use crate::root_layer;
use crate::run::RunError;

/// Where an action's writes are while it runs.
#[derive(Debug)]
pub enum Upper {
    Disk(Run),
    /// Init makes the directory, and hands it over.
    Memory {
        size: Option<u64>,
        directory: Option<OwnedFd>,
    },
    /// The layer of a bundle's root.
    Root(root_layer::Claimed),
}

impl Upper {
    pub fn create(
        planned: &plan::Upper,
        layer: Option<&RootLayer>,
        store: &LayerStore,
    ) -> Result<Upper, RunError> {
        Ok(match (planned.on, layer) {
            (UpperOn::Memory, _) => Upper::Memory { size: planned.size, directory: None },
            (UpperOn::Root, Some(layer)) => Upper::Root(root_layer::Claimed::new(layer)?),
            (UpperOn::Disk | UpperOn::Root, _) => Upper::Disk(store.new_run()?),
        })
    }

    pub fn place(&self) -> UpperPlace {
        match self {
            Upper::Disk(run) => UpperPlace::Disk(run.path().to_path_buf()),
            Upper::Memory { size, .. } => UpperPlace::Memory { size: *size },
            Upper::Root(claimed) => UpperPlace::Root { layer: claimed.layer().clone(), work: claimed.work() },
        }
    }

    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Upper::Disk(run) => Some(run.upper()),
            Upper::Memory { directory, .. } => directory.as_ref().map(AsFd::as_fd),
            Upper::Root(_) => None,
        }
    }

    /// The directory in the store where it lies.
    pub fn run(&self) -> Option<&Path> {
        match self {
            Upper::Disk(run) => Some(run.path()),
            Upper::Memory { .. } | Upper::Root(_) => None,
        }
    }

    /// Whether nothing was written, as far as that can be told.
    pub fn is_empty(&self) -> bool {
        self.directory().is_none_or(|directory| kept_root::is_empty(directory).unwrap_or(false))
    }

    /// All that it is reached by.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Upper::Disk(run) => run.descriptors().into(),
            Upper::Memory { directory, .. } => directory.iter().map(AsFd::as_fd).collect(),
            Upper::Root(claimed) => vec![claimed.as_fd()],
        }
    }

    /// Throws away what was written. Nothing may be mounted on it any more.
    pub fn discard(self) -> Result<(), RunError> {
        match self {
            Upper::Disk(run) => Ok(run.remove()?),
            Upper::Memory { .. } => Ok(()),
            Upper::Root(claimed) => Ok(claimed.let_go()?),
        }
    }

    /// So long as `process` lives, what is written stays, also after this process's death.
    pub fn keep_while(&self, process: Process) -> Result<(), RunError> {
        match self {
            Upper::Disk(run) => Ok(run.keep_while(process)?),
            Upper::Root(claimed) => Ok(claimed.keep_while(process)?),
            Upper::Memory { .. } => Ok(()),
        }
    }

    /// The process has ended.
    pub fn keep_no_longer(&self) -> Result<(), RunError> {
        match self {
            Upper::Disk(run) => Ok(run.keep_no_longer()?),
            Upper::Memory { .. } | Upper::Root(_) => Ok(()),
        }
    }

    /// Leaves what was written where it is, because of an error, and says how it is got at; an upper in memory is gone with its action.
    pub fn keep(&self, plan: &Plan, why: String, name: Option<String>) -> Option<Kept> {
        match self {
            Upper::Disk(run) => {
                let failed = run.keep(&record(plan, why, name)).err().map(Box::new);
                Some(Kept { id: run.id().to_owned(), run: run.path().to_path_buf(), failed })
            }
            // What is the root's is where it belongs.
            Upper::Memory { .. } | Upper::Root(_) => None,
        }
    }
}

/// An upper that was left where it is.
#[derive(Debug)]
pub struct Kept {
    id: String,
    /// Its directory in the store.
    run: PathBuf,
    /// Why it could not be marked as kept. That is told beside the error which it was to be kept because of, never instead.
    failed: Option<Box<StoreError>>,
}

impl Kept {
    /// That of an action whose process was killed, if it is kept in `run`. What cannot be looked at is not.
    pub fn look(run: &Path) -> Option<Kept> {
        // A store is made where none is.
        let run = Some(run).filter(|run| run.is_absolute() && run.is_dir())?;
        let (store, id) = (run.ancestors().nth(2)?, run.file_name()?.to_str()?);
        let kept = LayerStore::open(store).and_then(|store| store.kept()).ok()?;
        let is_kept = kept.iter().any(|kept| kept.id == id);
        is_kept.then(|| Kept { id: id.to_owned(), run: run.to_owned(), failed: None })
    }
}

/// Where it is, and the command that makes a layer of it.
impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upper = self.run.join("upper");
        if let Some(error) = &self.failed {
            let why = vfsrun_sys::chain(error);
            let upper = upper.display();
            return write!(
                f,
                "is in {upper} and cannot be kept ({why}); copy it: the next run may remove it"
            );
        }
        let store = self.run.ancestors().nth(2).unwrap_or(Path::new("/"));
        let command = format!("vfsrun --store {} layer recover {}", in_shell(store), self.id);
        write!(f, "is kept in {}, and `{command}` makes it a layer", upper.display())
    }
}

/// As a word for a shell.
fn in_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@,".contains(letter);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What the action wrote becomes a layer. Its name is repointed last, if it `names` what it is worth, and has what the command saw
/// of it before.
pub fn capture(
    plan: &Plan,
    names: bool,
    upper: &Upper,
    store: &LayerStore,
    (file, meanwhile): (&Path, &Meanwhile<'_>),
) -> Result<(Option<Captured>, Option<String>), RunError> {
    let Some(how) = &plan.capture else { return Ok((None, None)) };
    let name = how.name.clone().filter(|_| names);
    let look = |layer: Digest, manifest: &Manifest| {
        let seen = match &plan.root {
            Root::View { segments, .. } => {
                base::of(manifest, segments, store, file, &id_map(plan), meanwhile)?
            }
            // Nothing of it lies anywhere else.
            Root::Directory { .. } => Vec::new(),
        };
        let contents = if how.keep_contents { contents(store, &seen) } else { None };
        Ok(Base { layer, raw: how.clamp_time.is_none(), over: layers(&plan.root), contents, seen })
    };
    let killed = record(plan, "this program was killed while it captured it".to_owned(), name.clone());
    let captured = match upper {
        Upper::Disk(run) => run.capture(&killed, store, &look),
        _ => {
            let Some(directory) = upper.directory() else {
                return Err(RunError::Upper { source: io::ErrorKind::NotFound.into() });
            };
            let options = CaptureOptions { take: Take::Copy, ..killed.options() };
            vfsrun_layers::capture(
                directory,
                &options,
                store,
                Hooks { look: Some(&look), ..Hooks::default() },
            )
        }
    };
    let why = |source: &CaptureError| vfsrun_sys::chain(source);
    let captured = captured.map_err(|source| match upper.keep(plan, why(&source), name.clone()) {
        Some(kept) => RunError::Capture { kept, source },
        None => RunError::CaptureMemory { source },
    })?;
    Ok((Some(captured), name))
}

/// The changes are worth as much without what was there before, so that no failure is the run's.
fn contents(store: &LayerStore, seen: &[Seen]) -> Option<Digest> {
    store.put_seen_contents(seen).unwrap_or_else(|error| {
        note(&format!("what the command saw is not kept: {}", vfsrun_sys::chain(&error)));
        None
    })
}

/// Of an upper: how it is to be captured, should that be done later.
fn record(plan: &Plan, why: String, name: Option<String>) -> KeptRecord {
    let how = plan.capture.as_ref();
    KeptRecord {
        why,
        command: plan.command.args.clone(),
        name,
        ids: id_map(plan),
        clamp_mtime: how.and_then(|how| how.clamp_time),
        only: how.map(|how| how.only.clone()).unwrap_or_default(),
        unsynced_in: None,
    }
}

/// Of which the root is made, first on top, each once.
fn layers(root: &Root) -> Vec<Digest> {
    let Root::View { segments, .. } = root else { return Vec::new() };
    let mut layers = Vec::new();
    for branch in segments.iter().flat_map(|segment| &segment.spec.branches) {
        if let Source::Layer { digest, .. } = &branch.source
            && let Ok(digest) = digest.parse()
            && !layers.contains(&digest)
        {
            layers.push(digest);
        }
    }
    layers
}

pub fn id_map(plan: &Plan) -> IdMap {
    let convert = |map: &[vfsrun_plan::ids::Extent]| {
        map.iter().map(|e| IdExtent { inside: e.inside, outside: e.outside, count: e.count }).collect()
    };
    plan.ids
        .as_ref()
        .map(|ids| IdMap { uids: convert(&ids.uids), gids: convert(&ids.gids) })
        .unwrap_or_default()
}
