//! `vfsrun which SPEC PATH...`: where a path of the root comes from. The plan's segments are built in this process and
//! asked; nothing is mounted.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;
use vfsrun_plan::plan::{self, Mount, MountKind, Open, Root};
use vfsrun_union::describe::{BranchSpec, SegmentSpec, Source};
use vfsrun_union::explain::{Account, Deletion, Explanation, Fate, Outcome as Shown};
use vfsrun_union::spot::Spot;
use vfsrun_union::{Errno, FileKind, Segment, stack};

use super::{Failure, Outcome, print, print_lines};
use crate::cli::Global;
use crate::decide::{self, Planned};
use crate::run::RunError;
use crate::segments::{self, SegmentsError};
use crate::view::FileLimit;
use vfsrun_sys::chain;

#[derive(Debug, Error)]
pub(super) enum WhichError {
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    #[error("{}: a path in the root is absolute and has no ..", path.display())]
    Path { path: PathBuf },
    #[error("{}: cannot follow the links on the way", path.display())]
    Links { path: PathBuf, source: io::Error },
}

pub fn which(spec: PathBuf, paths: &[PathBuf], as_json: bool, global: &Global) -> Outcome {
    let planned = decide::planned(&super::plan::request(spec, global))
        .map_err(|error: RunError| Failure { message: chain(&error), code: error.exit_code() })?;
    let _limit = FileLimit::raise().map_err(|error| Failure::own(&error))?;
    let answers = answers(&planned, paths).map_err(|error| Failure::own(&error))?;
    if as_json {
        let answers: Vec<Value> = answers.iter().map(Answer::json).collect();
        let text = serde_json::to_string_pretty(&answers).map_err(|error| Failure::own(&error))?;
        print(&text)?;
    } else {
        print_lines(answers.iter().flat_map(Answer::lines))?;
    }
    Ok(if answers.iter().all(Answer::is_there) { 0 } else { 1 })
}

fn answers(planned: &Planned, paths: &[PathBuf]) -> Result<Vec<Answer>, WhichError> {
    let segments = build(planned)?;
    paths.iter().map(|path| Answer::new(&segments, &planned.plan.mounts, path)).collect()
}

fn build(planned: &Planned) -> Result<Vec<Segment>, SegmentsError> {
    let bundle;
    let segments = match &planned.plan.root {
        Root::View { segments, .. } => segments,
        Root::Directory { path, .. } => {
            bundle = [whole_directory(path)];
            bundle.as_slice()
        }
    };
    segments::build(segments, planned.store.as_ref(), &planned.file)
}

/// The root of a plain bundle.
fn whole_directory(path: &Path) -> plan::Segment {
    let at = "root.path";
    let branch = BranchSpec::new(Source::Host { root: 0, host: None }, format!("{at} ({})", path.display()));
    let spec = SegmentSpec { branches: vec![branch], ..SegmentSpec::default() };
    plan::Segment { spec, opens: vec![Open::Path { path: path.into(), at: at.into() }] }
}

struct Answer {
    asked: PathBuf,
    /// With the links on the way followed.
    path: PathBuf,
    explanation: Explanation,
    /// Of what is a link in the root.
    target: Option<PathBuf>,
    cover: Option<Cover>,
}

/// A mount that hides what the branches have.
struct Cover {
    destination: PathBuf,
    kind: String,
    /// Of a bind mount: the host's file at the path, and whether it is there.
    source: Option<(PathBuf, bool)>,
}

impl Answer {
    fn new(segments: &[Segment], mounts: &[Mount], asked: &Path) -> Result<Answer, WhichError> {
        let has_dots = asked.components().any(|name| name == std::path::Component::ParentDir);
        if !asked.is_absolute() || has_dots {
            return Err(WhichError::Path { path: asked.into() });
        }
        let path = stack::follow_directories(segments, asked)
            .map_err(|errno| WhichError::Links { path: asked.into(), source: errno.into() })?;
        let explanation = stack::explain(segments, &path);
        let target = Spot::at(segments, &path).and_then(|spot| spot.read_link()).ok();
        let path = Path::new("/").join(path);
        let cover = cover(mounts, &path);
        Ok(Answer { asked: asked.into(), path, explanation, target, cover })
    }

    fn is_there(&self) -> bool {
        match &self.cover {
            Some(cover) => cover.source.as_ref().is_none_or(|(_, exists)| *exists),
            None => self.explanation.outcome.is_ok(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let asked = self.asked.display();
        let name = if self.path == self.asked {
            asked.to_string()
        } else {
            format!("{asked} = {}", self.path.display())
        };
        let what = match &self.cover {
            Some(cover) => cover.text(),
            None => what(&self.explanation, self.target.as_deref()),
        };
        let branches = self.explanation.accounts.iter().map(|account| {
            let file = behind(account).map(|file| format!(": {file}")).unwrap_or_default();
            let reason = reason(account, &self.path).map(|reason| format!(", {reason}")).unwrap_or_default();
            format!("  {} {}{file}{reason}", fate(account), account.label)
        });
        std::iter::once(format!("{name}: {what}")).chain(branches).collect()
    }

    fn json(&self) -> Value {
        let outcome = self.explanation.outcome;
        let branches: Vec<Value> = self.explanation.accounts.iter().map(branch_json).collect();
        json!({
            "path": lossy(&self.asked),
            "resolved": lossy(&self.path),
            "there": self.is_there(),
            "kind": outcome.ok().map(|shown| kind(shown.kind)),
            "denied": outcome.is_ok_and(|shown| shown.denied),
            "target": self.target.as_deref().map(lossy),
            "mount": self.cover.as_ref().map(Cover::json),
            "branches": branches,
        })
    }
}

impl Cover {
    fn text(&self) -> String {
        let at = self.destination.display();
        match &self.source {
            Some((source, true)) => format!("covered by the mount at {at}: {}", source.display()),
            Some((source, false)) => {
                format!("not there: covered by the mount at {at}, and there is no {}", source.display())
            }
            None => format!("covered by the mount of {} at {at}", self.kind),
        }
    }

    fn json(&self) -> Value {
        let source = self.source.as_ref().map(|(source, _)| lossy(source));
        json!({ "destination": lossy(&self.destination), "kind": self.kind, "source": source })
    }
}

/// The last mount at or above the path.
fn cover(mounts: &[Mount], path: &Path) -> Option<Cover> {
    let is_mount = |mount: &&Mount| !matches!(mount.what, MountKind::Remount { .. });
    let covers = mounts.iter().filter(is_mount).filter(|mount| path.starts_with(&mount.destination));
    let mount = covers.max_by_key(|mount| mount.destination.components().count())?;
    let (kind, source) = match &mount.what {
        MountKind::Bind { source, .. } => {
            let below = path.strip_prefix(&mount.destination).unwrap_or(Path::new(""));
            let source = if below.as_os_str().is_empty() { source.clone() } else { source.join(below) };
            let exists = source.symlink_metadata().is_ok();
            ("bind", Some((source, exists)))
        }
        MountKind::Cgroup(_) => ("cgroup", None),
        MountKind::FileSystem { name, .. } => (name.as_str(), None),
        MountKind::Remount { .. } => return None,
    };
    Some(Cover { destination: mount.destination.clone(), kind: kind.to_owned(), source })
}

fn what(explanation: &Explanation, target: Option<&Path>) -> String {
    match explanation.outcome {
        Ok(Shown { denied: true, kind: shown, .. }) => format!("{}, using it is denied", kind(shown)),
        Ok(Shown { kind: shown, .. }) => match target {
            Some(target) => format!("{} to {}", kind(shown), target.display()),
            None => kind(shown).to_owned(),
        },
        Err(Errno::NOENT | Errno::NOTDIR) => "not there".to_owned(),
        Err(Errno::ACCESS) => "below a denied directory".to_owned(),
        Err(errno) => format!("cannot be used: {}", io::Error::from(errno)),
    }
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Directory => "directory",
        FileKind::Regular => "file",
        FileKind::Symlink => "link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::Whiteout => "whiteout",
    }
}

fn fate(account: &Account) -> &'static str {
    match account.fate {
        Fate::Shown => "shown",
        Fate::Merged => "merged",
        Fate::Whiteout => "whiteout",
        Fate::Shadowed { .. } => "shadowed",
        Fate::Deleted { .. } => "deleted",
        Fate::Hidden { .. } => "hidden",
        Fate::Denied { .. } => "denied",
        Fate::Conflict { .. } => "conflict",
        Fate::Failed { .. } => "failed",
    }
}

/// The file of the host, or the layer's digest and the path in it.
fn behind(account: &Account) -> Option<String> {
    let provenance = &account.provenance;
    match (&provenance.path, &provenance.digest) {
        (Some(path), _) => Some(path.display().to_string()),
        (None, Some(digest)) => Some(digest.to_string()),
        (None, None) if account.implied => Some("only what lies below it".to_owned()),
        (None, None) => None,
    }
}

/// What decided about the branch, and where, if that was above the path.
fn cause(account: &Account) -> Option<String> {
    Some(match &account.fate {
        Fate::Shown | Fate::Merged | Fate::Whiteout => return None,
        Fate::Shadowed { by, .. } | Fate::Hidden { by, .. } | Fate::Denied { by, .. } => by.clone(),
        Fate::Deleted { by, how: Deletion::Whiteout, .. } => format!("a whiteout of {by}"),
        Fate::Deleted { by, how: Deletion::Opaque, .. } => format!("an opaque directory of {by}"),
        Fate::Conflict { with, .. } => with.clone(),
        Fate::Failed { errno, .. } => io::Error::from(*errno).to_string(),
    })
}

fn reason(account: &Account, path: &Path) -> Option<String> {
    let leads_to = account.leads_to.as_ref().map(|to| format!("by a link to /{}", to.display()));
    let Some(cause) = cause(account) else { return leads_to };
    let word = match account.fate {
        Fate::Conflict { .. } => "with ",
        Fate::Failed { .. } => "",
        _ => "by ",
    };
    let at = account.fate.at().map(|at| Path::new("/").join(at)).filter(|at| at != path);
    let at = at.map(|at| format!(" at {}", at.display())).unwrap_or_default();
    Some(format!("{word}{cause}{at}"))
}

fn branch_json(account: &Account) -> Value {
    json!({
        "branch": account.label,
        "fate": fate(account),
        "by": cause(account),
        "at": account.fate.at().map(|at| lossy(&Path::new("/").join(at))),
        "kind": account.kind.map(kind),
        "file": account.provenance.path.as_deref().map(lossy),
        "digest": account.provenance.digest.map(|digest| digest.to_string()),
        "leadsTo": account.leads_to.as_ref().map(|to| lossy(&Path::new("/").join(to))),
    })
}

/// JSON is UTF-8, names need not be.
fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
