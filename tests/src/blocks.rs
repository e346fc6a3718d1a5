//! Fenced blocks of a document that tests run.
//!
//! A line `<!-- test: NAME -->` before a fence marks it. A ```` ```sh ```` block is a script. In a ```` ```console ````
//! block lines after `$ ` are commands, and the lines that follow are what they print on stdout and stderr; `…` in
//! such a line stands for any text, and a line of `…` alone for any lines.

/// A marked block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub name: String,
    /// `sh` or `console`.
    pub language: String,
    /// The number of the fence's line, from 1.
    pub line: usize,
    pub text: String,
}

/// A command of a console block and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub output: Vec<String>,
}

/// The marked blocks of `document`. Errors, as text: a marker that no fence follows, a block that does not end, a
/// language that cannot be run, a name that comes twice.
pub fn marked(document: &str) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some(name) = marker(line) else { continue };
        let at = format!("line {}: test {name:?}", index + 1);
        let Some((fence_index, fence)) = lines.by_ref().find(|(_, line)| !line.trim().is_empty()) else {
            return Err(format!("{at}: no block follows"));
        };
        let language = fence.strip_prefix("```").ok_or_else(|| format!("{at}: no block follows"))?.trim();
        if !matches!(language, "sh" | "console") {
            return Err(format!("{at}: a {language:?} block cannot be run"));
        }
        let mut text = String::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, line)) => text.extend([line, "\n"]),
                None => return Err(format!("{at}: the block does not end")),
            }
        }
        if blocks.iter().any(|block| block.name == name) {
            return Err(format!("{at}: the name comes twice"));
        }
        blocks.push(Block {
            name: name.to_owned(),
            language: language.to_owned(),
            line: fence_index + 1,
            text,
        });
    }
    Ok(blocks)
}

fn marker(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix("<!-- test:")?.strip_suffix("-->")?.trim())
}

/// The commands of a console block. A command goes on in the next line after `\`.
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (_, Some(step)) if goes_on => step.command.extend(["\n", line]),
            (Some(command), _) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
            (None, Some(step)) => step.output.push(line.to_owned()),
            (None, None) => {}
        }
        goes_on = line.ends_with('\\') && steps.last().is_some_and(|step| step.output.is_empty());
    }
    steps
}

/// Whether `printed` is what the document shows.
pub fn matches(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed
            .split_first()
            .is_some_and(|(line, others)| line_matches(first, line) && matches(rest, others)),
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let parts: Vec<&str> = shown.trim_end().split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return shown.trim_end() == printed.trim_end() };
    let Some(mut rest) = printed.trim_end().strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn only_marked_blocks_are_found() {
        let text = "```sh\nfalse\n```\n<!-- test: one -->\n```console\n$ true\n```\n";
        let blocks = marked(text).unwrap();
        assert_eq!(blocks.len(), 1);
        assert_eq!(
            (blocks[0].name.as_str(), blocks[0].line, blocks[0].text.as_str()),
            ("one", 5, "$ true\n")
        );
    }

    #[test]
    fn a_marker_without_a_block_is_an_error() {
        assert!(marked("<!-- test: one -->\ntext\n").is_err());
        assert!(marked("<!-- test: one -->\n").is_err());
        assert!(marked("<!-- test: one -->\n```sh\ntrue\n").is_err());
        assert!(marked("<!-- test: one -->\n```json\n{}\n```\n").is_err());
    }

    #[test]
    fn a_name_that_comes_twice_is_an_error() {
        let block = "<!-- test: one -->\n```sh\ntrue\n```\n";
        assert!(marked(&block.repeat(2)).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_console_block_is_commands_and_their_output() {
        let steps = steps("$ a \\\n  b\nout\n$ c\n");
        assert_eq!(steps[0], Step { command: "a \\\n  b".into(), output: vec!["out".into()] });
        assert_eq!(steps[1], Step { command: "c".into(), output: vec![] });
    }

    #[test]
    fn an_ellipsis_stands_for_anything() {
        assert!(matches(&lines("layer b3:… +3, … s"), &lines("layer b3:1a2b +3, 0.41 s")));
        assert!(matches(&lines("a\n…\nz"), &lines("a\nb\nc\nz")));
        assert!(!matches(&lines("layer b3:… +3"), &lines("layer b3:1a2b +4")));
        assert!(!matches(&lines("a"), &lines("a\nb")));
    }
}
