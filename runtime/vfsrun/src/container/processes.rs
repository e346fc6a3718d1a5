//! The processes of a container, by their numbers in the caller's /proc.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use vfsrun_sys::process;

use super::{Container, ContainerError, Status};

impl Container {
    /// Those of its cgroup; where it has none those of its pid namespace and what they started.
    pub fn processes(&self) -> Result<Vec<i32>, ContainerError> {
        let mut found: Vec<_> = match self.cgroup()? {
            Some(kept) => {
                let processes = kept.open()?.processes()?;
                processes.into_iter().map(|process| process.as_raw_nonzero().get()).collect()
            }
            None if self.status()? == Status::Stopped => Vec::new(),
            None => relatives(self.record.process.pid)
                .map_err(ContainerError::file("list the processes in", "/proc".as_ref()))?,
        };
        found.sort_unstable();
        Ok(found)
    }
}

/// Another process, as far as it can be seen.
struct Other {
    pid: i32,
    parent: i32,
    /// Of its pid namespace. `None`: the caller may not know.
    namespace: Option<PathBuf>,
}

/// A container may share the pid namespace of its caller, in which most processes are others'.
fn relatives(first: i32) -> io::Result<Vec<i32>> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&first.to_string()).filter(|own| Some(own) != namespace("self").as_ref());
    let others: Vec<_> = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let pid = name.parse().ok()?;
            let parent = process::parent(pid)?;
            Some(Other { pid, parent, namespace: namespace(&name) })
        })
        .collect();
    let is_within = |other: &&Other| other.pid == first || (own.is_some() && other.namespace == own);
    let mut found: BTreeSet<_> = others.iter().filter(is_within).map(|other| other.pid).collect();
    loop {
        let known = found.len();
        found.extend(
            others
                .iter()
                .filter(|other| found.contains(&other.parent))
                .map(|other| other.pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == known {
            return Ok(found.into_iter().collect());
        }
    }
}
