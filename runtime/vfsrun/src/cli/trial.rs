//! `vfsrun try`.

use std::path::PathBuf;

use clap::Args;

use super::Whose;
use crate::trial::sockets::Socket;

pub const EXAMPLES: &str = "\
What the command would change is listed when it has ended, and you are asked; without a terminal it is kept, and the message says under
which name. PATTERN is a line of gitignore: `*.o` and `build/` fit anywhere, `src/*.o` and `./x` from the current directory on, `/etc/`
from the root on.

The exit status is the command's; with --check 1 if it is 0 and something would change; 1 if something could not be applied; 125 on
trouble.

Examples:
  vfsrun try -- make install                  look at what it would do, and say yes or no
  vfsrun try --yes --only src/ -- npx prettier --write .
  vfsrun try --check -- rustfmt src/main.rs   for CI: 1 if it would change anything
  vfsrun try --keep step1 -- ./configure && vfsrun try --on step1 --keep step2 -- make
  vfsrun diff step2 && vfsrun apply step2
  vfsrun try --on step2 --explore             a shell in the result";

#[derive(Debug, Args)]
pub struct Try {
    /// Apply the changes without a question
    #[arg(short, long, group = "end")]
    pub yes: bool,
    /// Throw the changes away without a question
    #[arg(short, long, group = "end")]
    pub no: bool,
    /// Throw the changes away; the exit status is 1 if there are any and the command's own is 0
    #[arg(long, group = "end")]
    pub check: bool,
    /// Keep the changes under this name without a question; see vfsrun changes, diff and apply
    #[arg(short, long, value_name = "NAME", group = "end")]
    pub keep: Option<String>,
    /// Begin with the changes that are kept under this name; both together are the new changes
    #[arg(long, value_name = "NAME")]
    pub on: Option<String>,
    /// Start a shell in what the command left ($SHELL); what is done there belongs to the changes
    #[arg(short, long)]
    pub explore: bool,
    /// What matches is not there for the command
    #[arg(long, value_name = "PATTERN")]
    pub hide: Vec<String>,
    /// Changes to nothing else are wanted
    #[arg(long, value_name = "PATTERN")]
    pub only: Vec<String>,
    /// Changes to what matches are not wanted
    #[arg(long, value_name = "PATTERN")]
    pub ignore: Vec<String>,
    /// A network with nothing but loopback
    #[arg(short = 'x', long)]
    pub no_network: bool,
    /// The host's sockets that the command may use [default: $VFSRUN_SOCKETS, or ssh-agent]
    #[arg(long, value_name = "WHICH", value_enum, value_delimiter = ',')]
    pub sockets: Option<Vec<Socket>>,
    /// Record every path that the command looks at: of the whole command (the default), or of each process
    #[arg(long, value_name = "WHOSE", num_args = 0..=1, require_equals = true, default_missing_value = "action")]
    pub trace: Option<Whose>,
    /// Where the trace goes [default: try.trace]
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub trace_log: Option<PathBuf>,
    /// Write what happened as JSON; see docs/spec.md
    #[arg(long, value_name = "FILE")]
    pub result: Option<PathBuf>,
    /// Do not list the changes
    #[arg(short, long)]
    pub quiet: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "explore")]
    pub args: Vec<String>,
}
