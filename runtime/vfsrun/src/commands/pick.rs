//! Choosing changes on a terminal: questions on stderr, answers on stdin, a line each.

use std::io::{self, BufRead, IsTerminal};

use vfsrun_layers::review::{self, Desk, LineKind, Review, ReviewError, Selection};

use super::paint::Paint;
use crate::cli::When;

/// Asks about each change of `review`, with `context` lines around each hunk. The end of stdin is that of the answers.
///
/// Errors: a blob that is missing or damaged, a terminal that is gone.
pub fn pick(review: &Review<'_>, context: usize, colour: When) -> Result<Selection, ReviewError> {
    let paint = Paint::new(Box::new(io::stderr()), colour, io::stderr().is_terminal());
    review::pick(review, context, &mut Terminal { paint, input: io::stdin().lock() })
}

struct Terminal<R> {
    paint: Paint,
    input: R,
}

impl<R: BufRead> Desk for Terminal<R> {
    fn line(&mut self, kind: LineKind, line: &[u8]) -> io::Result<()> {
        self.paint.line(kind, line)
    }

    fn ask(&mut self, question: &str) -> io::Result<Option<String>> {
        self.paint.prompt(question)?;
        let mut answer = Vec::new();
        let length = self.input.read_until(b'\n', &mut answer)?;
        if !answer.ends_with(b"\n") {
            // What comes next begins a line.
            self.paint.line(LineKind::Same, b"")?;
            self.paint.flush()?;
        }
        Ok((length > 0).then(|| String::from_utf8_lossy(&answer).into_owned()))
    }
}
