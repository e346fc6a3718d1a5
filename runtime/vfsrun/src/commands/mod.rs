//! Commands: one file each.

pub mod apply;
pub mod changes;
pub mod container;
pub mod diff;
pub mod doctor;
pub mod features;
pub mod inputs;
pub mod layer;
pub mod new;
pub mod odd;
pub mod paint;
pub mod pick;
mod places;
pub mod plan;
pub mod ps;
pub mod run;
pub mod spec;
pub mod trace;
pub mod trial;
pub mod view;
pub mod which;

use std::error::Error;
use std::io::{self, Write};

use vfsrun_spec::one_line;
use vfsrun_sys::chain;

/// A command's failure, as it leaves the program.
pub struct Failure {
    pub message: String,
    pub code: u8,
}

impl Failure {
    /// With the exit code of a failure of our own.
    pub fn own(error: &dyn Error) -> Failure {
        Failure { message: chain(error), code: 125 }
    }

    /// Of an OCI runtime's command. podman takes the kernel's words for ENOENT, wherever they stand, for a command that is
    /// not there (its exit code 127), so that they are said of the command alone.
    pub fn of_runtime(error: &dyn Error, code: u8) -> Failure {
        let message = chain(error);
        if message.contains("process.args[0]") {
            return Failure { message, code };
        }
        Failure {
            message: message.replace("No such file or directory (os error 2)", "nothing there (ENOENT)"),
            code,
        }
    }
}

/// Of an OCI runtime's commands.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::of_runtime(&error, 1)
    }
}

pub type Outcome = Result<u8, Failure>;

/// Prints what programs read, as it is. Ends quietly when nobody reads any more (`| head`).
fn print(text: &str) -> Outcome {
    match write_out(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::own(&error)),
        _ => Ok(0),
    }
}

/// Prints what people read: whatever is named in a line, it begins no other one, and no terminal obeys it.
fn print_lines(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Outcome {
    let lines: Vec<_> = lines.into_iter().map(|line| one_line(line.as_ref())).collect();
    print(&lines.join("\n"))
}

fn write_out(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", text.strip_suffix('\n').unwrap_or(text))
}
