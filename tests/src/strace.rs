//! What strace says that a process asked of paths: `strace -ff -y -s 4096 -e trace=%file,getdents64 -o PREFIX`. And programs below it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The arguments before those that say where and what.
pub const STRACE: &str = "strace -ff -y -s 4096 -e trace=%file,getdents64";

/// `command` below strace, which has these arguments besides and writes to `log`.
pub fn below(command: &Command, arguments: &[&str], log: &Path) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-qq", "-s", "4096"]).args(arguments).arg("-o").arg(log);
    traced.arg(command.get_program()).args(command.get_args());
    traced.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        traced.current_dir(directory);
    }
    traced
}

/// A call that names a path, or lists what a descriptor stands for.
#[derive(Clone, Debug)]
pub struct Call {
    /// As strace wrote it.
    pub line: String,
    pub name: String,
    /// Where a relative path starts; `None` for a call that says nothing of it.
    pub base: Option<PathBuf>,
    pub path: PathBuf,
    /// The last name is not followed if it is a link.
    pub keeps_link: bool,
    /// The name of an error, or what follows the equals sign.
    pub result: Result<String, String>,
}

impl Call {
    /// `None` for what names no path: signals, the end, and descriptors alone.
    pub fn parse(line: &str) -> Option<Call> {
        let (name, rest) = line.split_once('(')?;
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let result = match result.strip_prefix("-1 ") {
            Some(error) => Err(error.split(' ').next()?.to_owned()),
            None => Ok(result.to_owned()),
        };
        let base = descriptor(arguments);
        let path = if name == "getdents64" { "" } else { quoted(arguments)? };
        if path.is_empty() && base.is_none() {
            return None;
        }
        let keeps_link = ["lstat", "readlink", "readlinkat", "lgetxattr", "llistxattr"].contains(&name)
            || ["O_NOFOLLOW", "AT_SYMLINK_NOFOLLOW"].iter().any(|flag| arguments.contains(flag));
        let (line, name, path) = (line.to_owned(), name.to_owned(), PathBuf::from(path));
        Some(Call { line, name, base, path, keeps_link, result })
    }

    /// What a descriptor that was opened stands for.
    pub fn opened(&self) -> Option<&Path> {
        let result = self.result.as_ref().ok()?;
        result.split_once('<')?.1.strip_suffix('>').map(Path::new)
    }

    /// The target that readlink gave.
    pub fn target(&self) -> Option<&str> {
        let after = self.line.split_once(&format!("\"{}\", ", self.path.display()))?.1;
        quoted(after)
    }

    pub fn has(&self, flag: &str) -> bool {
        self.line.contains(flag)
    }
}

/// Of the descriptor that is the first argument: `3</src>, …` or `AT_FDCWD</src>, …`.
fn descriptor(arguments: &str) -> Option<PathBuf> {
    let first = arguments.split(", ").next()?;
    let (_, path) = first.split_once('<')?;
    path.strip_suffix('>').filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The first string. Those of the tests need no escapes.
fn quoted(arguments: &str) -> Option<&str> {
    arguments.split('"').nth(1)
}
