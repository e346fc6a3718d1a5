//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use rustix::process::Signal;
use vfsrun_plan::facts;

use crate::container::{self, Id, OCI_VERSION};

/// The name under which a spec given first is run; users never type it.
pub const RUN_SPEC: &str = "run-spec";

/// What callers of runc and crun parse.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (own, commit) = (env!("CARGO_PKG_VERSION"), env!("VFSRUN_COMMIT"));
    format!("version {own}\ncommit: {commit}\nspec: {OCI_VERSION}")
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
    /// Who makes cgroups: this program, systemd (this version makes none then), or nobody
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
    /// Import, list, show, export and remove layers
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

/// The commands of an OCI runtime.
#[derive(Debug, Subcommand)]
pub enum Container {
    /// Create a container of a bundle: everything up to its command, which waits for start
    #[command(after_help = "Example:\n  vfsrun create --bundle ./bundle web && vfsrun start web")]
    Create(Create),
    /// Create a container, start it, and wait for its end: it ends with this program
    #[command(
        after_help = "Examples:\n  vfsrun run --bundle ./bundle web\n  vfsrun run --detach --pid-file web.pid web"
    )]
    Run {
        #[command(flatten)]
        create: Create,
        /// Do not wait for its end
        #[arg(short, long)]
        detach: bool,
        /// Keep the state of the ended container, for `state` and `delete`
        #[arg(long)]
        keep: bool,
        /// Accepted: this program takes no orphans
        #[arg(long)]
        no_subreaper: bool,
    },
    /// Let a created container's command begin
    Start { id: Id },
    /// Run another command in a container
    #[command(after_help = "Examples:\n  vfsrun exec web ps\n  vfsrun exec --user 1000 -t web sh")]
    Exec(Box<Exec>),
    /// Print a container's state as JSON
    State { id: Id },
    /// Send a signal to a container's first process
    #[command(after_help = "Examples:\n  vfsrun kill web\n  vfsrun kill web KILL")]
    Kill {
        /// To every process of its cgroup; to its first one where it has none
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        which: Which,
        /// A name, with or without SIG, or a number
        #[arg(default_value = "TERM", value_parser = signal)]
        signal: Signal,
    },
    /// Remove what is kept of a stopped container
    Delete {
        /// End it first if it runs; nothing to remove is no error then
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        which: Which,
    },
    /// List a container's processes, as ps(1) shows them
    #[command(
        after_help = "Examples:\n  vfsrun ps web\n  vfsrun ps web -o pid,rss,args\n  vfsrun ps --format json web"
    )]
    Ps {
        /// As JSON: an array of their numbers alone
        #[arg(short, long, default_value = "table")]
        format: ListFormat,
        id: Id,
        /// What the host's ps is given in place of -ef
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Stop all processes of a container, until it is resumed
    #[command(after_help = "Example:\n  vfsrun pause web && vfsrun resume web")]
    Pause { id: Id },
    /// Let the processes of a paused container go on
    Resume { id: Id },
    /// Not built: ends with an error, whatever is asked
    #[command(disable_help_flag = true)]
    Checkpoint(Anything),
    /// Not built: ends with an error, whatever is asked
    #[command(disable_help_flag = true)]
    Restore(Anything),
    /// Print what of the OCI specification is built, as JSON
    Features,
    /// List containers
    List {
        #[arg(short, long, default_value = "table")]
        format: ListFormat,
        /// Print ids alone
        #[arg(short, long)]
        quiet: bool,
    },
}

/// One container, or several.
#[derive(Debug, Args)]
pub struct Which {
    /// The id is a regular expression: all containers that it is found in
    #[arg(short, long)]
    pub regex: bool,
    pub id: String,
}

/// For callers that conclude from `--help` what is built.
#[derive(Debug, Args)]
pub struct Anything {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub anything: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// A file with a `process` of the OCI specification, instead of the container's own with what the other options say
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["cwd", "env", "user", "group", "cap", "no_new_privs", "apparmor", "process_label", "args"])]
    pub process: Option<PathBuf>,
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set a variable of the command's environment
    #[arg(short, long, value_name = "K=V", value_parser = variable)]
    pub env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// As numbers of the container
    #[arg(short, long, value_name = "UID[:GID]", value_parser = user)]
    pub user: Option<(u32, Option<u32>)>,
    /// Another group; may be repeated
    #[arg(short = 'g', long = "additional-gids", value_name = "GID")]
    pub group: Vec<u32>,
    /// Another capability; may be repeated
    #[arg(short, long, value_name = "CAP_X")]
    pub cap: Vec<String>,
    #[arg(long)]
    pub no_new_privs: bool,
    /// The command's AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// The command's SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Write its pid there, when it runs
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// A Unix socket to which its terminal is sent
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A Unix socket to which its pidfd is sent
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// It inherits so many descriptors above stderr
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = preserved())]
    pub preserve_fds: u32,
    /// The command of a paused container begins when that is resumed; without this it is refused
    #[arg(long)]
    pub ignore_paused: bool,
    /// A cgroup in the container's own, for it to run in; with controllers of version 1, in theirs alone. May be repeated
    #[arg(long, value_name = "[CONTROLLER,...:]PATH")]
    pub cgroup: Vec<container::SubCgroup>,
    pub id: Id,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "process")]
    pub args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct Create {
    /// The directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Another file than config.json; relative to the bundle
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A Unix socket to which the container's terminal is sent
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write the pid of the container's first process there
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The command inherits so many descriptors above stderr
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = preserved())]
    pub preserve_fds: u32,
    /// A Unix socket to which the pidfd of the container's first process is sent
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Accepted: the root is pivoted to all the same, or there is no container
    #[arg(long)]
    pub no_pivot: bool,
    /// Its processes keep the session keyring of whoever starts them; else they have one of the container's own
    #[arg(long)]
    pub no_new_keyring: bool,
    pub id: Id,
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
    /// Make a layer of a directory or of a tar (plain, gzip, zstd)
    #[command(
        after_help = "Examples:\n  vfsrun layer import debian-12 ./rootfs\n  vfsrun layer import debian-12 rootfs.tar.zst"
    )]
    Import { name: String, source: PathBuf },
    /// List layers
    Ls,
    /// Print what a layer holds
    Show {
        /// A name or digest
        layer: String,
    },
    /// Write a layer's files into a new directory
    #[command(after_help = "Example:\n  vfsrun layer export hello ./out")]
    Export { layer: String, directory: PathBuf },
    /// Remove a name, and the layer when nothing else names it
    Rm { layer: String },
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

/// Decimal digits alone: nothing else may come to be read as root (CVE-2026-30892).
fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u32>().ok().filter(|number| *number != u32::MAX),
        false => None,
    };
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (number(uid), number(gid).map(Some)),
        None => (number(text), Some(None)),
    };
    uid.zip(gid).ok_or_else(|| "expected UID or UID:GID, as decimal numbers".to_owned())
}

/// No process has more (fs.nr_open may be set higher; the default of the kernel is this).
fn preserved() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(..=1_048_576)
}

fn signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let named = || {
        let name = if name.starts_with("SIG") { name.clone() } else { format!("SIG{name}") };
        name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    let number = text.parse().ok().or_else(named);
    number.and_then(Signal::from_named_raw).ok_or_else(|| format!("unknown signal {text:?}"))
}

fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Puts the hidden command, whose options may stand anywhere, before everything else when the first word is a spec.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.into_iter().collect();
    let Some(position) = first_word(&arguments) else { return arguments };
    if is_spec(&arguments[position]) {
        arguments.insert(1, RUN_SPEC.into());
    } else if is_of_runtime(&arguments[position]) {
        name_as_go_does(&mut arguments, position);
    }
    arguments
}

/// The options of every command, of a command line that is otherwise none.
pub fn global_alone(arguments: &[OsString]) -> Option<Global> {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    Global::from_arg_matches(&matches).ok()
}

/// Without the advice that follows.
pub fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<_> = first.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

fn is_of_runtime(command: &OsStr) -> bool {
    command.to_str().is_some_and(Container::has_subcommand)
}

/// Whether these are of a command of an OCI runtime. So is what is nobody's: a caller may know commands that this version does not.
pub fn call_runtime(arguments: &[OsString]) -> bool {
    first_word(arguments).is_some_and(|position| {
        let word = &arguments[position];
        is_of_runtime(word) || Cli::command().find_subcommand(word).is_none()
    })
}

/// Go's programs take `-option` for `--option`, and some callers of runc say it so. What follows the id is left alone: it
/// may be a command's own.
fn name_as_go_does(arguments: &mut [OsString], command: usize) {
    let is_one_dash = |text: &OsString| {
        let text = text.as_encoded_bytes();
        text.len() > 2 && text[0] == b'-' && text[1] != b'-'
    };
    if !arguments.iter().any(is_one_dash) {
        return;
    }
    let mut all = Cli::command();
    all.build();
    let Some(own) = arguments[command].to_str().and_then(|name| all.find_subcommand(name)) else { return };
    let mut index = 1;
    while index < arguments.len() {
        let text = arguments[index].to_string_lossy().into_owned();
        let word = text.trim_start_matches('-');
        let name = word.split('=').next().unwrap_or(word);
        if text == "--" || (index > command && word == text) {
            return;
        }
        let option = own.get_arguments().find(|option| match name.len() {
            1 => option.get_short().is_some_and(|short| name.starts_with(short)),
            _ => option.get_long() == Some(name),
        });
        if option.is_some() && is_one_dash(&arguments[index]) && name.len() > 1 {
            arguments[index] = format!("-{text}").into();
        }
        let takes_next = option.is_some_and(|option| option.get_action().takes_values()) && name == word;
        index += if takes_next && index != command { 2 } else { 1 };
    }
}

/// The index of the first argument that is neither an option nor an option's value; none if the program is asked about
/// itself before.
fn first_word(arguments: &[OsString]) -> Option<usize> {
    const WITH_VALUE: [&str; 11] = [
        "--root",
        "--store",
        "--log",
        "--log-format",
        "--log-level",
        "--cgroup-manager",
        "--rootless",
        "-e",
        "--env",
        "--result",
        "--trace-log",
    ];
    let mut index = 1;
    while let Some(argument) = arguments.get(index) {
        let text = argument.to_string_lossy();
        if matches!(text.as_ref(), "-h" | "--help" | "-v" | "-V" | "--version") {
            return None;
        }
        // Go's callers may say a long one with one dash.
        if WITH_VALUE.iter().any(|option| *option == text || option.strip_prefix('-') == Some(&*text)) {
            index += 2;
        } else if text.starts_with('-') && text != "-" {
            index += 1;
        } else {
            return Some(index);
        }
    }
    None
}

fn is_spec(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    text == "-" || text.contains('/') || text.ends_with(".json") || is_bundle(Path::new(argument))
}

fn is_bundle(path: &Path) -> bool {
    // A directory named like a command is not meant when the command is typed.
    path.is_dir() && path.join("config.json").exists()
}

/// `vfsrun run x.json`: what runc's users type.
pub fn meant_spec(arguments: &[OsString]) -> Option<String> {
    let position = first_word(arguments)?;
    if arguments[position] != "run" {
        return None;
    }
    let next = arguments.get(position + 1)?;
    is_spec(next).then(|| format!("did you mean: vfsrun {}", next.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_spec_is_recognised_after_options() {
        let given = arguments(words("vfsrun --store /s --debug -e P=/bin --quiet spec.json -- make"));
        assert_eq!(given, words("vfsrun run-spec --store /s --debug -e P=/bin --quiet spec.json -- make"));
        Cli::try_parse_from(given).unwrap();
    }

    #[test]
    fn what_follows_trace_is_not_its_value() {
        let given = arguments(words("vfsrun --trace --trace-log log spec.json"));
        let Command::RunSpec(run) = Cli::try_parse_from(given).unwrap().command else {
            panic!("a spec is run")
        };
        assert_eq!((run.trace, run.spec), (Some(Whose::Action), "spec.json".into()));
        let given = arguments(words("vfsrun spec.json --trace=process"));
        let Command::RunSpec(run) = Cli::try_parse_from(given).unwrap().command else {
            panic!("a spec is run")
        };
        assert_eq!(run.trace, Some(Whose::Process));
    }

    #[test]
    fn long_options_of_a_runtime_may_have_one_dash() {
        let given = |text| arguments(words(text));
        assert_eq!(
            given("vfsrun -log-format json -root=/r run -no-pivot -bundle b -d -keep web"),
            words("vfsrun --log-format json --root=/r run --no-pivot --bundle b -d --keep web")
        );
        // A value, and a command's own options.
        assert_eq!(given("vfsrun run --pid-file -keep web"), words("vfsrun run --pid-file -keep web"));
        assert_eq!(given("vfsrun exec -tty web find -user x"), words("vfsrun exec --tty web find -user x"));
        assert_eq!(given("vfsrun exec -td web sh -c x"), words("vfsrun exec -td web sh -c x"));
        assert_eq!(given("vfsrun run -- -keep"), words("vfsrun run -- -keep"));
    }

    #[test]
    fn user_is_decimal_numbers_alone() {
        assert_eq!(user("0"), Ok((0, None)));
        assert_eq!(user("4294967294:7"), Ok((u32::MAX - 1, Some(7))));
        for text in [
            "",
            "0x0",
            " 0",
            "0 ",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "1:",
            ":1",
            "1:-1",
            "1:2:3",
            "root",
            "1:root",
            "1.0",
            "٣",
            "1\n",
        ] {
            assert!(user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn version_is_that_of_the_state_too() {
        assert!(VERSION.ends_with(&format!("spec: {}", crate::container::OCI_VERSION)));
    }

    #[test]
    fn version_comes_before_any_spec() {
        let given = arguments(words("vfsrun --version ./spec.json"));
        let answer = Cli::try_parse_from(given).unwrap_err();
        assert_eq!(answer.kind(), clap::error::ErrorKind::DisplayVersion);
    }

    #[test]
    fn a_command_is_left_alone() {
        assert_eq!(arguments(words("vfsrun layer ls")), words("vfsrun layer ls"));
        assert_eq!(arguments(words("vfsrun plan ./spec.json")), words("vfsrun plan ./spec.json"));
    }

    #[test]
    fn run_before_a_spec_is_answered_with_what_was_meant() {
        let hint = meant_spec(&words("vfsrun run x.json")).unwrap();
        assert_eq!(hint, "did you mean: vfsrun x.json");
        assert!(meant_spec(&words("vfsrun run container-id")).is_none());
    }
}
