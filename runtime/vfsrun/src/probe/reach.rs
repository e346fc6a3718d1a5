//! Reaching: whether the files that a spec names answer at all. Where another machine or a program has to answer, they are
//! looked at first by a process that nobody misses: who waits in the kernel for an answer may be beyond all signals.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Signal, WaitOptions, pidfd_send_signal, set_parent_process_death_signal, waitpid};
use thiserror::Error;
use vfsrun_plan::paths;
use vfsrun_spec::Spec;
use vfsrun_spec::vfs::{BranchSource, image_parts};
use vfsrun_sys::clone::{Child, Cloned, Namespaces, clone, exit_now};
use vfsrun_sys::fd_passing;
use vfsrun_union::describe::DEADLINE;

#[derive(Debug, Error)]
pub enum ReachError {
    #[error("{}: no answer within {} s from the file system it lies on", path.display(), within.as_secs_f64())]
    NoAnswer { path: PathBuf, within: Duration },
    #[error("cannot look for slow file systems")]
    Look { source: io::Error },
}

/// Returns when all that the spec names has answered, be it that it is not there. Asks nobody where nothing is slow.
///
/// Stage: main, before any of these files is looked at.
pub fn reach(spec: &Spec, spec_directory: &Path) -> Result<(), ReachError> {
    let failed = |source| ReachError::Look { source };
    let named = named(spec, spec_directory);
    if !vfsrun_union::may_be_slow(&named).map_err(failed)? {
        return Ok(());
    }
    let within = spec.composed().and_then(|(vfs, _)| vfs.deadline).unwrap_or(DEADLINE);
    let (told, tell) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    match clone(Namespaces::NONE).map_err(failed)? {
        Cloned::Child => {
            drop(told);
            look_at(&named, tell);
            exit_now(0)
        }
        Cloned::Parent(child) => {
            drop(tell);
            let missing = listen(told, within).map_err(failed)?;
            end(&child, missing.is_some());
            match missing.and_then(|index| named.into_iter().nth(index)) {
                Some(path) => Err(ReachError::NoAnswer { path, within }),
                None => Ok(()),
            }
        }
    }
}

/// All that is going to be looked at, or a directory on the way to it.
fn named(spec: &Spec, spec_directory: &Path) -> Vec<PathBuf> {
    let caller = super::caller();
    let home = caller.home.as_deref();
    let mut named = paths::wanted(spec, spec_directory, home);
    for branch in super::branches(spec) {
        match &branch.source {
            BranchSource::Glob(pattern) => {
                let is_plain = |part: &std::path::Component| {
                    !part.as_os_str().to_string_lossy().contains(['*', '?', '['])
                };
                let start: PathBuf = Path::new(pattern).components().take_while(is_plain).collect();
                named.push(paths::absolute(&start, spec_directory, home));
            }
            BranchSource::Image(image) => {
                named.push(paths::absolute(image_parts(image).0, spec_directory, home))
            }
            _ => {}
        }
    }
    named
}

/// Says a byte for each that has answered.
///
/// Stage: a process of its own.
fn look_at(named: &[PathBuf], tell: OwnedFd) {
    // Not even a reader of our output waits for this process.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err()
        || fd_passing::keep_only(&[tell.as_fd()]).is_err()
    {
        return;
    }
    let mut tell = File::from(tell);
    for path in named {
        // Manifests are read later.
        if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            drop(File::open(path));
        }
        if tell.write_all(b".").is_err() {
            return;
        }
    }
}

/// Which one has not answered in time; `None`: there is none.
fn listen(told: OwnedFd, within: Duration) -> io::Result<Option<usize>> {
    let mut told = File::from(told);
    let (mut count, mut heard) = (0, Instant::now());
    loop {
        let left = within.saturating_sub(heard.elapsed());
        let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(told.as_fd(), PollFlags::POLLIN)], wait) {
            Ok(0) if heard.elapsed() >= within => return Ok(Some(count)),
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match told.read(&mut [0; 64])? {
            0 => return Ok(None),
            more => (count, heard) = (count + more, Instant::now()),
        }
    }
}

fn end(child: &Child, is_stuck: bool) {
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    // One that cannot even be killed is left to whoever inherits it.
    let options = if is_stuck { WaitOptions::NOHANG } else { WaitOptions::empty() };
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(child.pid), options));
}
