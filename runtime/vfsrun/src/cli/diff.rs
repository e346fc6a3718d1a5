//! The command line of `vfsrun diff`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub const EXAMPLES: &str = "\
Exit status 0; with --exit-code 1 if there are changes; with --git 1 if a change is not in the patch, which stderr names.

Examples:
  vfsrun fmt.json && vfsrun diff formatted           look at what it proposes
  vfsrun diff formatted src/main.rs --stat           count lines of one file
  vfsrun diff --git formatted | git apply            bring it to the work tree
  vfsrun diff --pick --git formatted | git apply     bring some of it there
  vfsrun diff --conflicts formatted                  what changed on both sides";

#[derive(Debug, Args)]
pub struct Diff {
    /// Write a patch for `git apply`
    #[arg(long, conflicts_with_all = ["stat", "name_only", "json", "conflicts"])]
    pub git: bool,
    /// The host's directory in which the patch is applied; what lies elsewhere is left out [default: the git work tree that the
    /// current directory is in, or else that directory, if all changes lie there; otherwise the names are those in the root]
    #[arg(long, value_name = "DIR", requires = "git")]
    pub relative: Option<PathBuf>,
    /// Lines shown around a change
    #[arg(short = 'U', long = "unified", value_name = "N", default_value_t = 3)]
    pub context: usize,
    /// Count lines instead
    #[arg(long, conflicts_with_all = ["name_only", "json", "conflicts"])]
    pub stat: bool,
    /// Print the paths alone
    #[arg(long, conflicts_with_all = ["json", "conflicts"])]
    pub name_only: bool,
    /// Print an array with an object per path, with its hunks
    #[arg(long, conflicts_with = "conflicts")]
    pub json: bool,
    /// Show, of each path that is not any more what the command saw, what both sides made of it
    #[arg(long)]
    pub conflicts: bool,
    /// Ask about each change and each hunk, as `git add -p` does, and show what was chosen; questions are on stderr, answers on stdin
    #[arg(short, long, conflicts_with = "conflicts")]
    pub pick: bool,
    /// Show a renamed file as a removed and an added one
    #[arg(long)]
    pub no_renames: bool,
    /// Exit with 1 if there are changes
    #[arg(long)]
    pub exit_code: bool,
    /// NO_COLOR is honoured by auto
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: When,
    /// Do not start $VFSRUN_PAGER, $PAGER or less
    #[arg(long)]
    pub no_pager: bool,
    /// What the spec's capture.name says
    pub name: String,
    /// What lies there or below: paths in the root, or on the host
    pub paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}
