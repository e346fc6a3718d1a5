//! Id maps: writing them for a process that has just been cloned into a user namespace.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Pid;
use thiserror::Error;
use vfsrun_plan::ids::Extent;

use crate::probe::subids;

#[derive(Debug, Error)]
pub enum IdMapError {
    #[error("cannot write {} ({text:?})", path.display())]
    Write { path: PathBuf, text: String, source: io::Error },
    #[error("cannot run {}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("{} refused the ids: {said}", program.display())]
    Refused { program: PathBuf, said: String },
    #[error("{program} is not installed; Debian's package uidmap has it")]
    NoHelper { program: &'static str },
}

/// Writes the maps with this process's own rights over `pid`'s parent namespace.
pub fn write(pid: Pid, uids: &[Extent], gids: &[Extent], deny_setgroups: bool) -> Result<(), IdMapError> {
    if deny_setgroups {
        put(pid, "setgroups", "deny")?;
    }
    put(pid, "uid_map", &lines(uids))?;
    put(pid, "gid_map", &lines(gids))
}

/// Writes the maps with the rights that newuidmap and newgidmap lend; a single own id needs no help.
pub fn write_with_helpers(pid: Pid, uids: &[Extent], gids: &[Extent]) -> Result<(), IdMapError> {
    let single = |map: &[Extent]| matches!(map, [Extent { count: 1, .. }]);
    if single(uids) && single(gids) {
        // An ordinary user may not keep supplementary groups out of reach of itself (user_namespaces(7)).
        return write(pid, uids, gids, true);
    }
    run_helper("newuidmap", pid, uids)?;
    run_helper("newgidmap", pid, gids)
}

fn put(pid: Pid, file: &str, text: &str) -> Result<(), IdMapError> {
    let path = PathBuf::from(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
    std::fs::write(&path, text).map_err(|source| IdMapError::Write { path, text: text.into(), source })
}

fn lines(map: &[Extent]) -> String {
    map.iter().fold(String::new(), |mut text, extent| {
        let _ = writeln!(text, "{} {} {}", extent.inside, extent.outside, extent.count);
        text
    })
}

fn run_helper(program: &'static str, pid: Pid, map: &[Extent]) -> Result<(), IdMapError> {
    let path = subids::helper(program).ok_or(IdMapError::NoHelper { program })?;
    let numbers = map.iter().flat_map(|e| [e.inside, e.outside, e.count]).map(|number| number.to_string());
    let output = Command::new(&path).arg(pid.as_raw_nonzero().to_string()).args(numbers).output();
    let output = output.map_err(|source| IdMapError::Run { program: path.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(IdMapError::Refused {
        program: path,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
