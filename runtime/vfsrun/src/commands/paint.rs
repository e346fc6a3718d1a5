//! A paint: lines as they come on a terminal, coloured, and with nothing in them that a terminal obeys; into a pipe or a file as they
//! are.

use std::io::{self, BufWriter, Write};

use vfsrun_layers::review::{LineKind, is_unseen};

use crate::cli::When;

pub struct Paint {
    out: BufWriter<Box<dyn Write>>,
    is_coloured: bool,
    is_harmless: bool,
}

impl Paint {
    /// `is_terminal`: what is written ends there, maybe by way of a pager. So does what has colours.
    pub fn new(out: Box<dyn Write>, colour: When, is_terminal: bool) -> Paint {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_coloured = match colour {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                is_terminal
                    && variable("NO_COLOR").is_none()
                    && variable("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Paint { out: BufWriter::new(out), is_coloured, is_harmless: is_terminal || is_coloured }
    }

    pub fn line(&mut self, kind: LineKind, line: &[u8]) -> io::Result<()> {
        let colour = colour(kind).filter(|_| self.is_coloured && !line.is_empty());
        if let Some(colour) = colour {
            write!(self.out, "\x1b[{colour}m")?;
        }
        if self.is_harmless {
            self.out.write_all(harmless(line).as_bytes())?;
        } else {
            self.out.write_all(line)?;
        }
        self.out.write_all(if colour.is_some() { b"\x1b[m\n" } else { b"\n" })
    }

    /// What the next line on the terminal begins with.
    pub fn prompt(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(harmless(text.as_bytes()).as_bytes())?;
        self.out.flush()
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// As git has it.
fn colour(kind: LineKind) -> Option<u8> {
    match kind {
        LineKind::Header => Some(1),
        LineKind::Note => Some(33),
        LineKind::Hunk => Some(36),
        LineKind::Added => Some(32),
        LineKind::Removed => Some(31),
        LineKind::Same => None,
    }
}

fn harmless(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_unseen(character) && character != '\t' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_terminal_obeys_a_line() {
        let hostile = b"\ta\x1b[2J\r\x07\x9b\xc2\x9b31m \xe2\x80\xae\xff\xc3\xa4";
        assert_eq!(harmless(hostile), "\ta\\u{1b}[2J\\r\\u{7}\\x9B\\u{9b}31m \\u{202e}\\xFFä");
    }
}
