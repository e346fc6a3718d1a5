//! The commands of an OCI runtime.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use rustix::process::Signal;
use vfsrun_sys::signals;

use super::interval::interval;
use super::update::{UPDATE_HELP, Update};
use super::variable;
use crate::container::{self, Id};

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
    Run(Run),
    /// Let a created container's command begin
    Start(One),
    /// Run another command in a container
    #[command(after_help = "Examples:\n  vfsrun exec web ps\n  vfsrun exec --user 1000 -t web sh")]
    Exec(Box<Exec>),
    /// Print a container's state as JSON
    State(One),
    /// Send a signal to a container's first process
    #[command(after_help = "Examples:\n  vfsrun kill web\n  vfsrun kill web KILL")]
    Kill(Kill),
    /// Remove a container that has stopped, or was not started
    #[command(after_help = "Examples:\n  vfsrun delete web\n  vfsrun delete --force --regex '^test-'")]
    Delete(Delete),
    /// List a container's processes, as ps(1) shows them
    #[command(
        after_help = "Examples:\n  vfsrun ps web\n  vfsrun ps web -o pid,rss,args\n  vfsrun ps --format json web"
    )]
    Ps {
        /// As JSON: an array of their numbers alone
        #[arg(short, long, default_value = "table")]
        format: ListFormat,
        /// The container's name
        id: Id,
        /// What the host's ps is given in place of -ef
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Stop all processes of a container, until it is resumed
    #[command(after_help = "Example:\n  vfsrun pause web && vfsrun resume web")]
    Pause(One),
    /// Let the processes of a paused container go on
    Resume(One),
    /// Change the limits of a container that runs, waits for start or is paused
    #[command(after_help = UPDATE_HELP)]
    Update(Box<Update>),
    /// Tell what a container uses and when its memory runs out, as lines of JSON, until it ends
    #[command(
        after_help = "Examples:\n  vfsrun events --stats web\n  vfsrun events --interval 10s web | grep '\"oom\"'"
    )]
    Events {
        /// How often what it uses is told, such as 500ms, 5s or 1m30s
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
        interval: Duration,
        /// Tell it once, at once, and end
        #[arg(long)]
        stats: bool,
        /// The container's name
        id: Id,
    },
    /// Not built: ends with an error, whatever is asked
    #[command(disable_help_flag = true)]
    Checkpoint(Anything),
    /// Not built: ends with an error, whatever is asked
    #[command(disable_help_flag = true)]
    Restore(Anything),
    /// Print what of the OCI specification is built, as JSON
    Features,
    /// List containers
    #[command(
        after_help = "Examples:\n  vfsrun list\n  vfsrun list --format json | jq -r '.[] | select(.status == \"stopped\").id'"
    )]
    List {
        #[arg(short, long, default_value = "table")]
        format: ListFormat,
        /// Print ids alone
        #[arg(short, long)]
        quiet: bool,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the state of the ended container, for `state` and `delete`
    #[arg(long)]
    pub keep: bool,
    /// Accepted: this program takes no orphans
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// To every process of its cgroup; to its first one where it has none
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub which: Which,
    /// A name, with or without SIG, such as TERM or RTMIN+3, or a number
    #[arg(default_value = "TERM", value_parser = signal)]
    pub signal: Signal,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// End it first if it runs; nothing to remove is no error then
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Args)]
pub struct One {
    /// The container's name
    pub id: Id,
}

impl Container {
    /// The parser of one command alone, if it is one of those that engines call for every container: those of all commands take
    /// twenty times as long to make.
    pub fn parser(name: &str) -> Option<clap::Command> {
        type Augment = fn(clap::Command) -> clap::Command;
        let (name, augment): (&'static str, Augment) = match name {
            "create" => ("create", Create::augment_args),
            "run" => ("run", Run::augment_args),
            "exec" => ("exec", Exec::augment_args),
            "start" => ("start", One::augment_args),
            "state" => ("state", One::augment_args),
            "kill" => ("kill", Kill::augment_args),
            "delete" => ("delete", Delete::augment_args),
            _ => return None,
        };
        Some(augment(clap::Command::new(name)))
    }
}

/// One container, or several.
#[derive(Debug, Args)]
pub struct Which {
    /// The id is a regular expression: all containers that it is found in
    #[arg(short, long)]
    pub regex: bool,
    /// The container's name
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
    /// Its working directory, instead of the container's own
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
    /// It gains no privileges by what it executes (set-user-id bits, file capabilities)
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
    /// The container's name
    pub id: Id,
    /// The command and its arguments
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
    /// The container's name: letters, digits, `_`, `+`, `-` and `.`, at most 255
    pub id: Id,
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
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = || format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32);
    let number = text.parse().ok().or_else(named).or_else(|| real_time(name));
    number.and_then(signals::numbered).ok_or_else(|| format!("unknown signal {text:?}"))
}

/// `RTMIN`, `RTMIN+3`, `RTMAX-1`: with the second of them systemd in a container is asked to end.
fn real_time(name: &str) -> Option<i32> {
    let (first, last) = (34, 64);
    let away = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        None => rest.is_empty().then_some(0),
        Some(digits) => digits.parse::<u8>().ok().filter(|_| !digits.starts_with('+')).map(i32::from),
    };
    let number = match name.strip_prefix("RTMIN") {
        Some(rest) => first + away(rest, '+')?,
        None => last - away(name.strip_prefix("RTMAX")?, '-')?,
    };
    (first..=last).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigterm", 15),
            ("9", 9),
            ("37", 37),
            ("SIGRTMIN+3", 37),
            ("rtmin", 34),
            ("RTMAX", 64),
            ("RTMAX-30", 34),
        ] {
            assert_eq!(signal(text).map(Signal::as_raw), Ok(number), "{text}");
        }
        for text in [
            "", "SIG", "0", "-9", "32", "65", "RTMIN+31", "RTMIN-1", "RTMIN3", "RTMIN+", "RTMIN++1",
            "RTMAX+1", "NONSENSE",
        ] {
            assert!(signal(text).is_err(), "{text}");
        }
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
}
