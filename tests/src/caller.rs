//! A caller: who runs the program. An ordinary user's environment is made in a private mount namespace.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::program;

/// The tests' own user, known only in the private mount namespace.
pub const USER: &str = "vfsruntest";
const UID: u32 = 4242;
/// Its subordinate ids.
const FIRST_SUBID: u32 = 200_000;
const SUBIDS: u32 = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Root,
    User,
}

/// What every caller has as PATH.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Caller {
    /// Why tests cannot run as this caller here.
    pub fn missing(self) -> Option<String> {
        match (self, is_root()) {
            (Caller::Root, false) => Some("needs root".to_owned()),
            (Caller::Root, true) => None,
            (Caller::User, true) => Keeper::get().err(),
            (Caller::User, false) => unusable_fuse(),
        }
    }

    pub fn uid(self) -> u32 {
        match self {
            Caller::Root => 0,
            Caller::User if is_root() => UID,
            Caller::User => nix::unistd::getuid().as_raw(),
        }
    }

    pub fn gid(self) -> u32 {
        match self {
            Caller::Root => 0,
            Caller::User if is_root() => UID,
            Caller::User => nix::unistd::getgid().as_raw(),
        }
    }

    /// The first of 1000 and more subordinate ids of this caller, of users and of groups. Errors, as text: why it has none that can
    /// be used.
    pub fn first_subid(self) -> Result<u32, String> {
        if !Path::new("/usr/bin/newuidmap").exists() && self == Caller::User {
            return Err("uidmap is not installed".to_owned());
        }
        if is_root() {
            return Ok(FIRST_SUBID);
        }
        let user = Command::new("id").arg("-un").output().expect("id can be executed").stdout;
        let user = String::from_utf8_lossy(&user).trim().to_owned();
        let first = |file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let mut own =
                text.lines().filter_map(|line| line.strip_prefix(&user)?.strip_prefix(':')?.split_once(':'));
            own.find(|(_, count)| count.parse().is_ok_and(|count: u32| count >= 1000))?.0.parse().ok()
        };
        match (first("/etc/subuid"), first("/etc/subgid")) {
            (Some(uid), Some(gid)) if uid == gid => Ok(uid),
            (uids, gids) => Err(format!(
                "{user} has not the same 1000 subordinate ids of users and groups: {uids:?}, {gids:?}"
            )),
        }
    }

    /// The program under test, as this caller sees it.
    pub fn program(self) -> PathBuf {
        match self {
            Caller::User if is_root() => PathBuf::from(KEPT_PROGRAM),
            _ => program::path().to_path_buf(),
        }
    }

    /// `program` to be run by this caller in `directory`, with PATH as its only variable. The process that is spawned
    /// becomes the program: its pid is the program's.
    pub fn command(self, program: impl AsRef<OsStr>, directory: &Path) -> Command {
        let mut command = match (self, is_root()) {
            (Caller::User, true) => {
                let mut command = enter_kept_namespace(directory);
                command.args(drop_root()).arg(program);
                command
            }
            _ => {
                let mut command = Command::new(program);
                command.current_dir(directory);
                command
            }
        };
        command.env_clear().env("PATH", PATH);
        command
    }

    /// `program` to be run by root where this caller's programs run, so that they see what it mounts. Needs root.
    pub fn command_as_root(self, program: impl AsRef<OsStr>, directory: &Path) -> Command {
        assert!(is_root(), "only root runs anything as root");
        match self {
            Caller::Root => self.command(program, directory),
            Caller::User => {
                let mut command = enter_kept_namespace(directory);
                command.arg(program).env_clear().env("PATH", PATH);
                command
            }
        }
    }
}

impl Caller {
    /// A shell script of this caller in `directory`, in a mount namespace of its own, in which root ran `setup` first.
    /// Needs root.
    pub fn script_in_namespace(self, setup: &str, script: &str, directory: &Path) -> Command {
        assert!(is_root(), "only root makes mount namespaces");
        let (mut command, dropping) = match self {
            Caller::Root => {
                let mut command = Command::new("unshare");
                command.current_dir(directory);
                (command, String::new())
            }
            Caller::User => {
                let mut command = enter_kept_namespace(directory);
                command.arg("unshare");
                (command, drop_root().join(" "))
            }
        };
        let setup = format!("set -e\n{setup}\nexec {dropping} sh -ec \"$1\"");
        command.args(["--mount", "--propagation", "private", "sh", "-c", setup.as_str(), "setup", script]);
        command.env_clear().env("PATH", PATH);
        command
    }
}

fn enter_kept_namespace(directory: &Path) -> Command {
    let keeper = Keeper::get().expect("a test runs as the user only where there is a keeper");
    let mut command = Command::new("nsenter");
    command.arg("--target").arg(keeper.pid.to_string()).arg("--mount");
    command.arg(format!("--wdns={}", directory.display()));
    command
}

fn drop_root() -> Vec<String> {
    let own = ["setpriv", "--clear-groups", "--inh-caps=-all"].map(str::to_owned);
    own.into_iter().chain([format!("--reuid={UID}"), format!("--regid={UID}")]).collect()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn unusable_fuse() -> Option<String> {
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    open.err().map(|error| format!("/dev/fuse cannot be opened by this user: {error}"))
}

/// Where the program is in the private mount namespace: the clone may lie where the user cannot go.
const KEPT_PROGRAM: &str = "/mnt/vfsrun";

/// The private mount namespace, and the process that keeps it until this one ends.
struct Keeper {
    pid: u32,
    /// Its stdin: closed, it ends.
    _child: Child,
}

/// Run by root in the new namespace: nothing of the host changes. The program is opened before anything is covered.
const KEEP: &str = r#"
set -e
exec 9<"$1"
mount -t tmpfs -o mode=0755 vfsrun-tests /mnt
mknod -m 0666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
touch /mnt/vfsrun
mount --no-canonicalize --bind /proc/self/fd/9 /mnt/vfsrun
exec 9<&-
cp -a /etc /mnt/etc
echo "$2:x:$3:$3::/nonexistent:/bin/sh" >> /mnt/etc/passwd
echo "$2:x:$3:" >> /mnt/etc/group
echo "$2:$4:$5" > /mnt/etc/subuid
echo "$2:$4:$5" > /mnt/etc/subgid
mount --bind /mnt/etc /etc
echo ready
exec cat
"#;

impl Keeper {
    fn get() -> Result<&'static Keeper, String> {
        static KEEPER: OnceLock<Result<Keeper, String>> = OnceLock::new();
        KEEPER.get_or_init(Keeper::start).as_ref().map_err(Clone::clone)
    }

    fn start() -> Result<Keeper, String> {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", KEEP, "keeper"])
            .arg(program::path())
            .args([USER, &UID.to_string(), &FIRST_SUBID.to_string(), &SUBIDS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start unshare: {error}"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let _ = BufReader::new(stdout).read_line(&mut line);
        if line.trim() == "ready" {
            Ok(Keeper { pid: child.id(), _child: child })
        } else {
            Err("no private mount namespace with /dev/fuse for an ordinary user can be made here".to_owned())
        }
    }
}
