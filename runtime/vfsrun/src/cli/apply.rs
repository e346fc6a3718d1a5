//! The command line of `vfsrun apply`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Exit status 0 if all is as it is to be, 1 if a path was left alone.

Examples:
  vfsrun fmt.json && vfsrun apply formatted
  vfsrun apply formatted --dry-run           only say what would be done
  vfsrun apply formatted /src/lib            some of it
  vfsrun apply --patch formatted             what you say yes to
  vfsrun apply --undo                        take the last one back";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Apply {
    /// What the spec's capture.name says
    #[arg(required_unless_present = "undo", conflicts_with = "undo")]
    pub name: Option<String>,
    /// What lies there or below: paths in the root, or on the host; otherwise all
    #[arg(conflicts_with = "undo")]
    pub paths: Vec<PathBuf>,
    /// Bring them to the same paths below this directory instead, where they have to hold what the command saw
    #[arg(long, value_name = "DIR", conflicts_with = "undo")]
    pub to: Option<PathBuf>,
    /// Do nothing if a path would be left alone
    #[arg(long)]
    pub whole: bool,
    /// Ask about each change, and each hunk of it, as `git add -p` does
    #[arg(short, long, conflicts_with = "json")]
    pub patch: bool,
    /// Print what would be done to each path, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print an array with an object per path
    #[arg(long)]
    pub json: bool,
    /// Take the last apply back; once more does it again
    #[arg(long)]
    pub undo: bool,
}
