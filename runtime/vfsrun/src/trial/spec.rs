//! The spec of a trial: the whole host as one branch, and everything else as it is for the caller.

use std::path::{Path, PathBuf};

use vfsrun_spec::oci::{Capabilities, Namespace, NamespaceType, User};
use vfsrun_spec::vfs::{
    Branch, BranchSource, Capture, CaptureBase, CaptureForm, CaptureLayer, CaptureWhen, Environment, Network,
    Xattrs,
};
use vfsrun_spec::{Linux, Mount, Process, Spec, Vfs};

use super::patterns;

/// What a container of root's has by default, but for devices and audit.
const ROOTS: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_SETFCAP",
];

/// What is asked for, and what is true of the caller.
pub struct Trial {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
    /// All three standard descriptors are a terminal.
    pub terminal: bool,
    /// Earlier proposals whose changes are there already, the last one first.
    pub on: Vec<String>,
    /// Patterns from the root on.
    pub hide: Vec<String>,
    /// Directories of this program's own.
    pub own: Vec<PathBuf>,
    pub sockets: Vec<PathBuf>,
    pub network: bool,
    pub name: String,
}

impl Trial {
    pub fn spec(self) -> Spec {
        let mut host = Branch::new(BranchSource::Path("/".into()));
        host.xattrs = Xattrs::Pass;
        host.hide = self.hide;
        host.hide.extend(self.own.iter().map(|path| format!("{}/", patterns::literal(path))));
        let layers = self.on.into_iter().map(|name| Branch::new(BranchSource::Layer(name)));
        let sockets = self.sockets.iter().map(|path| bound(path, "bind", "ro"));
        let capture = CaptureLayer {
            name: Some(self.name),
            when: CaptureWhen::Always,
            form: CaptureForm::Raw,
            base: CaptureBase::Contents,
            ..CaptureLayer::default()
        };
        let vfs = Vfs {
            branches: layers.chain([host]).collect(),
            capture: Capture::Layer(capture),
            network: self.network.then_some(Network::Host),
            stdin: true,
            env: Environment::Exact,
            ..Vfs::default()
        };
        let process = Process {
            terminal: self.terminal,
            user: Some(User { uid: self.uid, gid: self.gid, umask: Some(self.umask), ..User::default() }),
            args: self.args,
            env: self.env,
            cwd: Some(self.cwd),
            capabilities: (self.uid == 0).then(capabilities),
            ..Process::default()
        };
        Spec {
            process: Some(process),
            // What the kernel tells of itself no copy on write could hold.
            mounts: [unmounted("/tmp"), bound(Path::new("/sys"), "rbind", "rro")]
                .into_iter()
                .chain(sockets)
                .collect(),
            linux: Some(Linux { namespaces: Some(namespaces(self.network)), ..Linux::default() }),
            vfs: Some(vfs),
            ..Spec::default()
        }
    }
}

/// Root's own, over what is its own there: nothing of the host.
fn capabilities() -> Capabilities {
    let names = ROOTS.map(str::to_owned).to_vec();
    Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        ..Capabilities::default()
    }
}

/// The host's name stays, and its network, unless it is not wanted.
fn namespaces(network: bool) -> Vec<Namespace> {
    use NamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User};
    let kinds = [User, Mount, Pid, Ipc, Cgroup].into_iter().chain((!network).then_some(Network));
    kinds.map(|kind| Namespace { kind, path: None }).collect()
}

/// The host's is seen there.
fn unmounted(destination: &str) -> Mount {
    Mount { destination: destination.into(), kind: Some("none".to_owned()), ..Mount::default() }
}

/// What is the host's own. One may connect to a socket all the same, and not change its rights.
fn bound(path: &Path, bind: &str, read_only: &str) -> Mount {
    Mount {
        destination: path.to_owned(),
        kind: Some("bind".to_owned()),
        source: Some(path.to_string_lossy().into_owned()),
        options: [bind, read_only, "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
        ..Mount::default()
    }
}
