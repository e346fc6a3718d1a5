//! A seccomp agent: the program that answers the calls a filter asks about (SCMP_ACT_NOTIFY). It gets the filter's
//! listener over its socket, with the container process state of runtime-spec config-linux.md.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;
use serde::Serialize;
use thiserror::Error;
use vfsrun_plan::plan;
use vfsrun_sys::fd_passing;

use crate::container::OCI_VERSION;
use crate::oci_state::OciState;

/// How long it may take to read a message that fits its socket's buffer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("linux.seccomp.listenerPath: no agent listens at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("linux.seccomp.listenerPath: the agent at {} does not take the listener", path.display())]
    HandOver { path: PathBuf, source: io::Error },
}

/// An agent that has been called, and not told anything yet.
pub struct Agent {
    path: PathBuf,
    socket: UnixStream,
    metadata: Option<String>,
    annotations: BTreeMap<String, String>,
    bundle: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'static str,
    /// What the descriptors of the message are.
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: OciState<'a>,
}

impl Agent {
    /// `bundle` is the directory of the spec. Before anything is started: without its agent nothing can run.
    pub fn connect(
        plan: &plan::Agent,
        annotations: &BTreeMap<String, String>,
        bundle: &Path,
    ) -> Result<Agent, AgentError> {
        let connected = UnixStream::connect(&plan.socket).and_then(|socket| {
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        });
        let socket = connected.map_err(|source| AgentError::Connect { path: plan.socket.clone(), source })?;
        Ok(Agent {
            path: plan.socket.clone(),
            socket,
            metadata: plan.metadata.clone(),
            annotations: annotations.clone(),
            bundle: bundle.into(),
        })
    }

    /// Gives it the listener of `workload`, which has not executed the command yet.
    pub fn hand_over(&self, listener: &OwnedFd, workload: Pid) -> Result<(), AgentError> {
        let pid = workload.as_raw_nonzero().get();
        let id = format!("vfsrun-{}", std::process::id());
        let state = ContainerProcessState {
            oci_version: OCI_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: self.metadata.as_deref(),
            state: OciState::new(&id, "creating", Some(pid), &self.bundle, &self.annotations),
        };
        let told = serde_json::to_vec(&state).map_err(io::Error::from);
        told.and_then(|text| fd_passing::send(&self.socket, &text, &[listener.as_fd()]))
            .map_err(|source| AgentError::HandOver { path: self.path.clone(), source })
    }
}
