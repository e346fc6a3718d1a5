//! The command line.

mod apply;
mod diff;
mod export;
mod interval;
mod layer_care;
mod runtime;
mod trial;
mod update;
mod words;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use vfsrun_layers::RootDigest;
use vfsrun_plan::facts;

pub use self::apply::Apply;
pub use self::diff::{Diff, When};
use self::export::Function;
pub use self::export::{Export, Format};
pub use self::layer_care::LayerCare;
pub use self::runtime::{Container, Create, Delete, Exec, Kill, ListFormat, One, Run, Which};
pub use self::trial::Try;
pub use self::update::Update;
pub use self::words::{arguments, call_runtime, global_alone, in_one_line, meant_spec, parse};
use crate::container::OCI_VERSION;

/// The name under which a spec given first is run; users never type it.
pub const RUN_SPEC: &str = "run-spec";

/// In crun's words, of which its tests look for some.
const BUILT: &str = "+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF";

/// What callers of runc and crun parse.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (own, commit) = (env!("CARGO_PKG_VERSION"), env!("VFSRUN_COMMIT"));
    format!("version {own}\ncommit: {commit}\nspec: {OCI_VERSION}\n{BUILT}")
});

const USAGE: &str = "vfsrun [OPTIONS] SPEC [-e K=V]... [-- ARGS...]\n       vfsrun [OPTIONS] COMMAND";

const EXAMPLES: &str = "\
Examples:
  vfsrun new > spec.json                  write a short spec to start from
  vfsrun spec.json                        run it
  vfsrun spec.json -e LANG=C -- make all  run it with another variable and command
  vfsrun spec.json --trace                record what it looks at; vfsrun trace show spec.trace
  vfsrun spec.json --help                 the options of a run
  vfsrun plan spec.json                   show every decision and do nothing
  vfsrun which spec.json /usr/bin/cc      say where a path of the root comes from
  vfsrun try -- make install              see what a command would change, and decide
  vfsrun layer import debian-12 root.tar  make a layer of a distro's root
  vfsrun doctor                           what this kernel and user can do";

/// Runs any command in any root you compose, and hands you what it wrote as a layer.
///
/// A first argument with a `/`, ending in `.json`, a directory or `-` is a spec to run; anything else is a command.
#[derive(Debug, Parser)]
#[command(name = "vfsrun", version = VERSION.as_str(), disable_version_flag = true, args_override_self = true, after_help = EXAMPLES, override_usage = USAGE)]
pub struct Cli {
    /// Print the version, as runc and crun do
    #[arg(short, long, short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where state that lives until reboot is kept [default: /run/vfsrun, or the user's runtime directory]
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// Where layers are kept [default: $VFSRUN_STORE, /var/lib/vfsrun, or the user's data directory]
    #[arg(long, value_name = "DIR", global = true)]
    pub store: Option<PathBuf>,
    /// Append errors to this file (also as file:FILE)
    #[arg(long, value_name = "FILE", global = true, value_parser = log_file)]
    pub log: Option<PathBuf>,
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Tell every step
    #[arg(long, global = true)]
    pub debug: bool,
    /// `debug` is --debug; what went wrong is told at every level
    #[arg(long, value_name = "LEVEL", default_value = "warning", global = true)]
    pub log_level: LogLevel,
    /// Who makes cgroups: this program, systemd (as scopes; the user's own for an ordinary user), or nobody
    #[arg(long, value_name = "WHO", default_value = "cgroupfs", global = true)]
    cgroup_manager: CgroupManager,
    /// The same as --cgroup-manager systemd
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Accepted, as callers of runc say it: what this user may do is found out
    #[arg(long, value_name = "BOOL", hide = true)]
    pub rootless: Option<String>,
}

impl Global {
    pub fn cgroup_manager(&self) -> facts::CgroupManager {
        match self.cgroup_manager {
            _ if self.systemd_cgroup => facts::CgroupManager::Systemd,
            CgroupManager::Cgroupfs => facts::CgroupManager::Cgroupfs,
            CgroupManager::Systemd => facts::CgroupManager::Systemd,
            CgroupManager::Disabled => facts::CgroupManager::Disabled,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    #[value(alias = "warn")]
    Warning,
    Info,
    Debug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(name = RUN_SPEC, hide = true, override_usage = USAGE, after_help = EXAMPLES)]
    RunSpec(RunSpec),
    /// Print every decision about a run, and do nothing
    #[command(after_help = "Example:\n  vfsrun plan spec.json | jq .root")]
    Plan {
        /// A spec, a directory with config.json, or - for stdin
        spec: PathBuf,
    },
    /// Write a bundle's config.json to start from; or print a SPEC, with --resolve as the complete config that other
    /// runtimes accept
    #[command(
        after_help = "Examples:\n  vfsrun spec                                          write ./config.json\n  vfsrun spec --bundle ./bundle --rootless             for an ordinary user\n  vfsrun spec --resolve spec.json > bundle/config.json"
    )]
    Spec(Spec),
    /// Say which branch a path of the root comes from, what it shadows, and which rule hides it
    #[command(
        after_help = "Exit status 0 if all paths are there, 1 if one is not; with --odd 1 if there are odd names.\n\nExamples:\n  vfsrun which spec.json /etc/passwd /usr/bin/make\n  vfsrun which --odd spec.json"
    )]
    Which {
        /// Look through the whole root for names of one directory that differ in case alone, and for names that are no UTF-8
        #[arg(long, conflicts_with_all = ["json", "paths"])]
        odd: bool,
        /// Print an array with an object per path
        #[arg(long)]
        json: bool,
        /// A spec, a directory with config.json, or - for stdin
        spec: PathBuf,
        /// Absolute, in the root
        #[arg(required_unless_present = "odd")]
        paths: Vec<PathBuf>,
    },
    /// Mount a spec's branches at a directory, to look at them without a run
    #[command(subcommand)]
    View(View),
    /// Print a short spec to start from
    #[command(after_help = "Example:\n  vfsrun new > spec.json && vfsrun spec.json")]
    New {
        /// The command it runs
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Say what this kernel, user and container can do, and how to get what is missing
    Doctor,
    /// List what a run's layer changes of what its command saw: + added, - removed, ~ modified, ! another type
    #[command(after_help = "Example:\n  vfsrun fmt.json && vfsrun changes formatted")]
    Changes {
        /// Print an array with an object per path
        #[arg(long)]
        json: bool,
        /// Print names below the directory that they are in
        #[arg(long, conflicts_with = "json")]
        tree: bool,
        /// What the spec's capture.name says
        name: String,
    },
    /// Bring what a run's layer changes to the files that it was made from, so far as they are what its command saw
    Apply(Apply),
    /// Show what a run's layer changes of what its command saw, with contents: as text, as a patch for git, as JSON
    #[command(after_help = diff::EXAMPLES)]
    Diff(Diff),
    /// Run a command on the whole host, look at what it would change, and take what you want
    #[command(after_help = trial::EXAMPLES)]
    Try(Box<Try>),
    /// Import, list, compare, check, export and remove layers
    #[command(subcommand)]
    Layer(Layer),
    /// Keep input manifests in the layer store
    #[command(subcommand)]
    Inputs(Inputs),
    /// Show what traced actions looked at
    #[command(subcommand)]
    Trace(Trace),
    #[command(flatten)]
    Container(Container),
    /// Serve views; started by a run that finds no server
    #[command(name = vfsrun_fuse::options::SUBCOMMAND, hide = true)]
    ViewServer { options: String },
}

#[derive(Debug, Args)]
pub struct Spec {
    /// The directory that the config is written to
    #[arg(short, long, value_name = "DIR", conflicts_with = "spec")]
    pub bundle: Option<PathBuf>,
    /// Another name than config.json; relative to the bundle
    #[arg(short, long, value_name = "FILE", conflicts_with = "spec")]
    pub file: Option<PathBuf>,
    /// With a user namespace, in which the caller is root
    #[arg(long, conflicts_with = "spec")]
    pub rootless: bool,
    /// Fill in every default of the SPEC
    #[arg(long, requires = "spec")]
    pub resolve: bool,
    /// Print the JSON Schema of specs
    #[arg(long, conflicts_with_all = ["bundle", "file", "rootless", "resolve", "spec"])]
    pub schema: bool,
    /// A spec, a directory with config.json, or - for stdin
    pub spec: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RunSpec {
    /// A spec, a directory with config.json, or - for stdin
    pub spec: PathBuf,
    /// Set a variable of the command's environment
    #[arg(short, long = "env", value_name = "K=V", value_parser = variable)]
    pub env: Vec<String>,
    /// Let the command read our standard input instead of /dev/null
    #[arg(long)]
    pub stdin: bool,
    /// Fail if a live branch changes while the command runs; see inputsChangedDuringRun of --result
    #[arg(long)]
    pub strict: bool,
    /// Record every path of the inputs that the command looks at, with its outcome, as `vfsrun trace show` prints it: of the
    /// whole action (the default), or at its cost of each process
    #[arg(long, value_name = "WHOSE", num_args = 0..=1, require_equals = true, default_missing_value = "action")]
    pub trace: Option<Whose>,
    /// Where the trace goes; an earlier trace there is replaced, nothing else [default: the spec's name with .trace, in the current directory]
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub trace_log: Option<PathBuf>,
    /// Write what happened as JSON
    #[arg(long, value_name = "FILE")]
    pub result: Option<PathBuf>,
    /// Do not print the summary line
    #[arg(short, long)]
    pub quiet: bool,
    /// The command and its arguments, instead of the spec's
    #[arg(last = true)]
    pub args: Vec<String>,
}

/// Of whom a trace is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Whose {
    Action,
    Process,
}

#[derive(Debug, Subcommand)]
pub enum Trace {
    /// Print a trace: of each process what it looked at
    #[command(
        after_help = "Examples:\n  vfsrun spec.json --trace && vfsrun trace show spec.trace\n  vfsrun trace show --paths spec.trace | grep ^absent"
    )]
    Show {
        /// One JSON object for the trace, for each process, and for each path that it looked at
        #[arg(long, conflicts_with = "paths")]
        json: bool,
        /// Each path once, with its outcome, sorted
        #[arg(long)]
        paths: bool,
        /// What `--trace-log` named
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Layer {
    /// Make a layer of a directory, of a tar (plain, gzip, zstd) or of an input root
    #[command(
        after_help = "Examples:\n  vfsrun layer import debian-12 ./rootfs\n  vfsrun layer import debian-12 rootfs.tar.zst\n  vfsrun layer import --overlay change ./upper\n  vfsrun layer import --reapi 7d3a…/164 sources ./out      what layer export --format reapi wrote"
    )]
    Import {
        name: String,
        /// A directory or a tar; - is stdin
        source: PathBuf,
        /// The directory is an upper of overlayfs: its whiteouts and opaque directories mean something
        #[arg(long)]
        overlay: bool,
        /// Devices are recorded, and not left out
        #[arg(long)]
        devices: bool,
        /// The directory has blobs of the Remote Execution API, and this is the root Directory's or Tree's digest
        #[arg(long, value_name = "HEX[/SIZE]", conflicts_with_all = ["overlay", "devices"])]
        reapi: Option<RootDigest>,
        /// What the blobs are named by [default: sha256]
        #[arg(long, value_name = "FUNCTION", requires = "reapi")]
        digest: Option<Function>,
    },
    /// List layers
    ///
    /// SIZE is that of the files, OWN what the disk has for this layer alone, USED when an action, a view or an export used it
    /// last (to the hour).
    Ls {
        /// Print an array with an object per layer
        #[arg(long)]
        json: bool,
    },
    /// Print what a layer holds
    #[command(after_help = "Examples:\n  vfsrun layer show hello\n  vfsrun layer show --base hello")]
    Show {
        /// Print what the command that wrote it had seen at the paths that it changed, as JSON lines; of a name
        #[arg(long)]
        base: bool,
        /// A name or digest
        layer: String,
    },
    /// Write a layer as files, as a tar, as an image, or as a list
    #[command(after_help = export::EXAMPLES)]
    Export(Export),
    /// Remove names, and each layer when nothing else names it
    ///
    /// A layer that an action or a view uses loses its name; the first `vfsrun layer gc` afterwards removes it.
    Rm {
        /// Names, or digests of layers without one
        #[arg(required = true, value_name = "LAYER")]
        layers: Vec<String>,
    },
    #[command(flatten)]
    Care(LayerCare),
}

#[derive(Debug, Subcommand)]
pub enum Inputs {
    /// Put a manifest into the store and print its digest, by which a spec can name it
    ///
    /// It is kept, with the blobs that it names, under the name of a layer: `vfsrun layer rm NAME` lets it go.
    #[command(
        after_help = "Example:\n  vfsrun inputs add hello/inputs manifest.json\n  # { \"inputs\": \"b3:…\" } in the spec's branches"
    )]
    Add {
        name: String,
        /// A file whose host paths are absolute
        manifest: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum View {
    /// Mount what a command would see of the spec's branches, read-only
    #[command(after_help = "Example:\n  mkdir look && vfsrun view mount spec.json look && ls look")]
    Mount {
        /// A spec, a directory with config.json, or - for stdin
        spec: PathBuf,
        /// An existing directory
        directory: PathBuf,
    },
    /// Show the branches of another or of a changed spec at a mounted view
    #[command(after_help = "Example:\n  vfsrun view update other.json look")]
    Update { spec: PathBuf, directory: PathBuf },
    /// Unmount a view
    #[command(after_help = "Example:\n  vfsrun view umount look")]
    Umount { directory: PathBuf },
}

/// crun has also journals; a file of such a name would not be meant.
fn log_file(text: &str) -> Result<PathBuf, String> {
    match text.split_once(':') {
        Some(("file", path)) => Ok(path.into()),
        Some((kind @ ("journald" | "syslog"), _)) => Err(format!("{kind} is not built; name a file")),
        _ => Ok(text.into()),
    }
}

fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn version_is_that_of_the_state_too() {
        assert!(VERSION.contains(&format!("\nspec: {}\n", crate::container::OCI_VERSION)));
    }
}
