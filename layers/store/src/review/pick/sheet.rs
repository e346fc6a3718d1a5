//! A sheet: the questions about one change, and what was answered so far.

use std::io;

use regex::bytes::Regex;

use super::{Chosen, Desk};
use crate::review::{Hunks, LineKind, Sign};

const HELP: [(char, &str); 11] = [
    ('y', "take this"),
    ('n', "do not take this"),
    ('q', "end; take neither this nor what was not asked about"),
    ('a', "take this and all later hunks of this file"),
    ('d', "take neither this nor a later hunk of this file"),
    ('j', "leave this undecided, go to the next undecided hunk"),
    ('k', "leave this undecided, go to the previous undecided hunk"),
    ('g', "go to a hunk by its number"),
    ('/', "go to the next hunk that fits a regular expression"),
    ('s', "split this hunk into smaller ones"),
    ('?', "print this help"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is another question.
    On,
    /// About this change nothing is left to ask.
    Done,
    Quit,
}

pub(super) struct Sheet<'a> {
    /// The change, and the path, as they are called in a question.
    names: [String; 2],
    hunks: Option<Hunks<'a>>,
    /// The first question is about mode and owner; those about hunks follow.
    asks_access: bool,
    /// Of each question the answer.
    answers: Vec<Option<bool>>,
    at: usize,
    is_shown: bool,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(names: [String; 2], hunks: Option<Hunks<'a>>, has_other_access: bool) -> Sheet<'a> {
        let asks_access = hunks.is_some() && has_other_access;
        let count = hunks.as_ref().map_or(1, |hunks| hunks.hunks().len()) + usize::from(asks_access);
        Sheet { names, hunks, asks_access, answers: vec![None; count], at: 0, is_shown: false }
    }

    /// Asks until nothing is left.
    pub(super) fn fill(&mut self, desk: &mut dyn Desk) -> io::Result<Step> {
        loop {
            if !self.is_shown {
                self.show(desk)?;
            }
            let Some(answer) = desk.ask(&self.question())? else { return Ok(Step::Quit) };
            let step = self.answer(answer.trim(), desk)?;
            if step != Step::On {
                return Ok(step);
            }
        }
    }

    /// What is chosen of the change.
    pub(super) fn chosen(&self) -> Option<Chosen> {
        let takes = |answer: &Option<bool>| *answer == Some(true);
        if !self.answers.iter().any(takes) {
            return None;
        }
        let Some(hunks) = self.hunks.as_ref().filter(|_| !self.answers.iter().all(takes)) else {
            return Some(Chosen::Whole);
        };
        let first = self.first_hunk();
        let is_chosen: Vec<bool> = self.answers[first..].iter().map(takes).collect();
        let access = !self.asks_access || takes(&self.answers[0]);
        Some(Chosen::Half { content: hunks.chosen(&is_chosen), access })
    }

    fn question(&self) -> String {
        let [whole, path] = &self.names;
        let what = match self.hunk() {
            Some(_) => format!("this hunk of {path}"),
            None if self.asks_access => format!("the new mode, owner and attributes of {path}"),
            None => whole.clone(),
        };
        let keys: Vec<String> =
            HELP.iter().filter(|(key, _)| self.allows(*key)).map(|(key, _)| key.to_string()).collect();
        format!("({}/{}) Take {what} [{}]? ", self.at + 1, self.answers.len(), keys.join(","))
    }

    fn allows(&self, key: char) -> bool {
        match key {
            'j' => self.undecided_after().is_some(),
            'k' => self.undecided_before().is_some(),
            'g' | '/' => self.answers.len() > 1,
            's' => self.hunk().is_some_and(|index| {
                self.hunks.as_ref().is_some_and(|hunks| hunks.hunks()[index].split().len() > 1)
            }),
            _ => true,
        }
    }

    fn answer(&mut self, answer: &str, desk: &mut dyn Desk) -> io::Result<Step> {
        let mut rest = answer.chars();
        let key = rest.next().map_or(' ', |key| key.to_ascii_lowercase());
        let rest = rest.as_str().trim();
        if !HELP.iter().any(|(known, _)| *known == key) || !(rest.is_empty() || matches!(key, 'g' | '/')) {
            return self.help(desk);
        }
        if !self.allows(key) {
            desk.line(LineKind::Note, format!("{key} has nothing to do here").as_bytes())?;
            return Ok(Step::On);
        }
        match key {
            'y' | 'n' => {
                self.answers[self.at] = Some(key == 'y');
                Ok(self.go_on())
            }
            'a' | 'd' => {
                self.answers[self.at] = Some(key == 'a');
                for answer in &mut self.answers[self.at..] {
                    answer.get_or_insert(key == 'a');
                }
                Ok(self.go_on())
            }
            'q' => Ok(Step::Quit),
            'j' => Ok(self.go(self.undecided_after())),
            'k' => Ok(self.go(self.undecided_before())),
            'g' => self.go_to(rest, desk),
            '/' => self.search(rest, desk),
            's' => self.split(desk),
            _ => self.help(desk),
        }
    }

    fn go_on(&mut self) -> Step {
        let next = self.undecided_after().or_else(|| self.answers.iter().position(Option::is_none));
        if next.is_none() { Step::Done } else { self.go(next) }
    }

    fn go(&mut self, to: Option<usize>) -> Step {
        if let Some(to) = to {
            self.at = to;
            self.is_shown = false;
        }
        Step::On
    }

    fn undecided_after(&self) -> Option<usize> {
        (self.at + 1..self.answers.len()).find(|index| self.answers[*index].is_none())
    }

    fn undecided_before(&self) -> Option<usize> {
        (0..self.at).rev().find(|index| self.answers[*index].is_none())
    }

    fn go_to(&mut self, number: &str, desk: &mut dyn Desk) -> io::Result<Step> {
        let mut number = number.to_owned();
        if number.is_empty() {
            self.list(desk)?;
            number = desk.ask("Go to which? ")?.unwrap_or_default();
        }
        match number.trim().parse::<usize>().ok().filter(|number| (1..=self.answers.len()).contains(number)) {
            Some(number) => Ok(self.go(Some(number - 1))),
            None => {
                let line = format!("there is no {:?}: 1 to {}", number.trim(), self.answers.len());
                desk.line(LineKind::Note, line.as_bytes())?;
                Ok(Step::On)
            }
        }
    }

    /// A line for each question: what was answered, where it is, and the first line that it changes.
    fn list(&self, desk: &mut dyn Desk) -> io::Result<()> {
        for (index, answer) in self.answers.iter().enumerate() {
            let sign = match answer {
                None => ' ',
                Some(true) => '+',
                Some(false) => '-',
            };
            let mut line = format!("{sign}{:3}: ", index + 1).into_bytes();
            match index.checked_sub(self.first_hunk()).zip(self.hunks.as_ref()) {
                Some((index, hunks)) => {
                    let hunk = &hunks.hunks()[index];
                    line.extend(hunk.header().bytes());
                    let changed = hunks.diff().lines(hunk).find(|(sign, _)| *sign != Sign::Same);
                    if let Some((sign, text)) = changed {
                        line.extend([b' ', sign.byte()]);
                        line.extend(text.trim_ascii_end());
                    }
                }
                None => line.extend(b"mode and owner"),
            }
            desk.line(LineKind::Same, &line)?;
        }
        Ok(())
    }

    fn search(&mut self, pattern: &str, desk: &mut dyn Desk) -> io::Result<Step> {
        let mut pattern = pattern.to_owned();
        if pattern.is_empty() {
            pattern =
                desk.ask("Search for which regular expression? ")?.unwrap_or_default().trim().to_owned();
        }
        let regex = match Regex::new(&pattern) {
            Ok(regex) => regex,
            Err(error) => {
                // Its last line says what is wrong.
                let told = error.to_string();
                let told = format!("{pattern:?}: {}", told.lines().last().unwrap_or_default());
                desk.line(LineKind::Note, told.as_bytes())?;
                return Ok(Step::On);
            }
        };
        let count = self.answers.len();
        let order = (self.at + 1..count).chain(0..=self.at);
        let found = order.into_iter().find(|index| self.fits(*index, &regex));
        if found.is_none() {
            desk.line(LineKind::Note, format!("no hunk fits {pattern:?}").as_bytes())?;
        }
        Ok(self.go(found))
    }

    fn fits(&self, index: usize, regex: &Regex) -> bool {
        let (Some(index), Some(hunks)) = (index.checked_sub(self.first_hunk()), &self.hunks) else {
            return false;
        };
        hunks.diff().lines(&hunks.hunks()[index]).any(|(_, line)| regex.is_match(line))
    }

    fn split(&mut self, desk: &mut dyn Desk) -> io::Result<Step> {
        if let (Some(index), Some(hunks)) = (self.hunk(), &mut self.hunks) {
            let count = hunks.split(index);
            self.answers.splice(self.at..=self.at, vec![None; count]);
            desk.line(LineKind::Note, format!("Split into {count} hunks.").as_bytes())?;
            self.is_shown = false;
        }
        Ok(Step::On)
    }

    fn help(&self, desk: &mut dyn Desk) -> io::Result<Step> {
        for (key, help) in HELP.iter().filter(|(key, _)| self.allows(*key)) {
            desk.line(LineKind::Note, format!("{key} - {help}").as_bytes())?;
        }
        Ok(Step::On)
    }

    fn show(&mut self, desk: &mut dyn Desk) -> io::Result<()> {
        self.is_shown = true;
        match (self.hunk(), &self.hunks) {
            (Some(index), Some(hunks)) => hunks.write(index, &mut |kind, line| desk.line(kind, line)),
            _ => Ok(()),
        }
    }

    /// That is asked about.
    fn hunk(&self) -> Option<usize> {
        self.hunks.as_ref().and_then(|_| self.at.checked_sub(self.first_hunk()))
    }

    fn first_hunk(&self) -> usize {
        usize::from(self.asks_access)
    }
}
