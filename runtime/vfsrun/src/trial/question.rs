//! The question at the end of a trial: what becomes of the changes.

use std::io::{self, BufRead, Write};

use vfsrun_layers::check_name;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All of them are applied.
    Yes,
    /// None is.
    No,
    /// Hunk by hunk.
    Pick,
    Diff,
    Explore,
    /// Under this name, or the one that they have.
    Keep(Option<String>),
}

/// What a command may have left a terminal in, by what it printed, ends: strings, other screens, colours, character sets. What was typed
/// before is no answer.
pub fn calm(mut output: impl Write) -> io::Result<()> {
    // CAN, the end of a string, the first screen, a soft reset, a new line.
    output.write_all(b"\x18\x1b\\\x1b[?1049l\x1b[!p\x1b[m\r\n")?;
    output.flush()?;
    Ok(rustix::termios::tcflush(io::stdin(), rustix::termios::QueueSelector::IFlush)?)
}

const HELP: &str = "\
y: apply them
n: throw them away
p: choose, change by change
d: show what they are
e: look around in a shell, and ask again
k [NAME]: keep them";

/// Asks until there is an answer. Nobody who could give one any more keeps them.
pub fn ask(question: &str, mut input: impl BufRead, mut output: impl Write) -> io::Result<Answer> {
    loop {
        write!(output, "{question} [y,n,p,d,e,k,?] ")?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(output)?;
            return Ok(Answer::Keep(None));
        }
        match understood(&line) {
            Some(Answer::Keep(Some(name))) if check_name(&name).is_err() => {
                writeln!(output, "no name for a layer: a-z, 0-9 and . _ / - in it, at most 200 bytes")?;
            }
            Some(answer) => return Ok(answer),
            None => writeln!(output, "{HELP}")?,
        }
    }
}

fn understood(line: &str) -> Option<Answer> {
    let mut words = line.split_whitespace();
    let (first, second) = (words.next()?, words.next());
    let answer = match first.to_ascii_lowercase().as_str() {
        "y" | "yes" => Answer::Yes,
        "n" | "no" => Answer::No,
        "p" | "patch" => Answer::Pick,
        "d" | "diff" => Answer::Diff,
        "e" | "explore" => Answer::Explore,
        "k" | "keep" => return words.next().is_none().then(|| Answer::Keep(second.map(str::to_owned))),
        _ => return None,
    };
    second.is_none().then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(input: &str) -> (Answer, String) {
        let mut output = Vec::new();
        let answer = ask("apply?", input.as_bytes(), &mut output).unwrap();
        (answer, String::from_utf8(output).unwrap())
    }

    #[test]
    fn a_word_or_its_first_letter_answers() {
        assert_eq!(answer("y\n").0, Answer::Yes);
        assert_eq!(answer("No\n").0, Answer::No);
        assert_eq!(answer("k\n").0, Answer::Keep(None));
        assert_eq!(answer("keep mine\n").0, Answer::Keep(Some("mine".into())));
    }

    #[test]
    fn whatever_is_no_answer_is_asked_again_and_never_a_yes() {
        let (given, said) = answer("\nyy\ny n\nk a b\nd\n");
        assert_eq!(given, Answer::Diff);
        assert_eq!(said.matches("apply?").count(), 5);
        assert_eq!(said.matches("y: apply them").count(), 4);
        assert_eq!(answer("").0, Answer::Keep(None));
        let (given, said) = answer("k Mine\nk mine\n");
        assert_eq!(given, Answer::Keep(Some("mine".into())));
        assert!(said.contains("no name for a layer"), "{said}");
    }
}
