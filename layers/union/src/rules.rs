//! Rules: which names of a branch or of the whole view are shown, hidden or denied.
//!
//! Of all hide and deny rules of a branch, followed by those of the view, the last one that fits the name itself
//! decides; what lies below a hidden directory is never reached. Patterns have gitignore syntax. Where a list has `only`
//! rules, a name must also be one that these show.

use std::cell::Cell;
use std::collections::HashMap;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

use crate::attr::{Attr, FileKind};
use crate::describe::{Conditions, LogRule, NameRule, Names, Rule, RuleAction};
use crate::only::Only;
use crate::priority::Priority;

#[derive(Debug, Error)]
pub enum PatternError {
    #[error("it is empty or a comment; write \\# for a name that starts with #")]
    Comment,
    #[error("{cause}")]
    Glob { cause: String },
    #[error("{cause}")]
    Regex { cause: String },
    #[error("only a pattern without conditions can be all that is shown")]
    Only,
}

impl From<ignore::Error> for PatternError {
    /// Without the pattern, which whoever tells the error names.
    fn from(error: ignore::Error) -> PatternError {
        let cause = match error {
            ignore::Error::Glob { err, .. } => err,
            other => other.to_string(),
        };
        PatternError::Glob { cause }
    }
}

/// What is to become of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Show,
    Hide(By),
    Deny(By),
}

/// What refuses a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The rule at this position of the list.
    Rule(List, usize),
    /// The list has `only` rules, and none of them matches.
    Only(List),
    /// The list prefers a name with another extension.
    Extension(List),
    /// A deny rule for a name on the way of a followed link.
    Link,
}

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Branch,
    View,
}

impl Verdict {
    pub(crate) fn hides(self) -> bool {
        matches!(self, Verdict::Hide(_))
    }

    /// For a name with two paths: the stricter of the two.
    pub(crate) fn or(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Hide(by), _) | (_, Verdict::Hide(by)) => Verdict::Hide(by),
            (Verdict::Deny(by), _) | (_, Verdict::Deny(by)) => Verdict::Deny(by),
            (Verdict::Show, Verdict::Show) => Verdict::Show,
        }
    }
}

/// What lies at the path that is judged, as far as it is known.
pub(crate) struct Subject<'a> {
    kind: FileKind,
    attr: Option<&'a Attr>,
    asked_for_type: Cell<bool>,
    looked_closer: Cell<bool>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(attr: &'a Attr) -> Subject<'a> {
        Subject { attr: Some(attr), ..Subject::of_kind(attr.kind) }
    }

    /// Of which only the type is known: the verdict does not count if a rule looked closer.
    pub(crate) fn of_kind(kind: FileKind) -> Subject<'a> {
        Subject { kind, attr: None, asked_for_type: Cell::default(), looked_closer: Cell::default() }
    }

    /// Whether a rule asked for what may change while the directory stays as it is: owner, group or size.
    pub(crate) fn was_looked_at(&self) -> bool {
        self.looked_closer.get()
    }

    pub(crate) fn was_asked_for_type(&self) -> bool {
        self.asked_for_type.get()
    }

    fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    fn fulfils(&self, conditions: &Conditions) -> bool {
        let Conditions { types, owners, groups, size } = conditions;
        let is_one = |ids: &Option<Vec<u32>>, id| ids.as_ref().is_none_or(|ids| ids.contains(&id));
        if let Some(types) = types {
            self.asked_for_type.set(true);
            if !types.contains(&self.kind) {
                return false;
            }
        }
        if size.is_some() && self.kind != FileKind::Regular {
            return false;
        }
        if !looks_closer(conditions) {
            return true;
        }
        self.looked_closer.set(true);
        self.attr.is_some_and(|attr| {
            let has_size = size.is_none_or(|size| (size.min..=size.max).contains(&attr.size));
            is_one(owners, attr.uid) && is_one(groups, attr.gid) && has_size
        })
    }
}

/// The rules of one branch or of the view.
#[derive(Debug)]
pub(crate) struct Rules {
    steps: Vec<Step>,
    /// Each rule as it was written.
    names: Vec<String>,
    only: Option<Only>,
    pub(crate) priorities: Vec<Priority>,
    /// Whether a verdict may change while the directory stays as it is.
    pub(crate) look_closer: bool,
}

/// What is asked as one question.
#[derive(Debug)]
enum Step {
    /// Consecutive rules without conditions. The actions are by pattern text: equal patterns match equally, so that the
    /// last one of them is always the one that counts.
    Patterns {
        all: Gitignore,
        actions: HashMap<String, (RuleAction, usize)>,
    },
    One {
        names: Matcher,
        conditions: Conditions,
        action: RuleAction,
        position: usize,
    },
}

#[derive(Debug)]
enum Matcher {
    Pattern(Gitignore),
    Regex { regex: Regex, takes_back: bool },
    All,
}

impl Rules {
    /// Errors: the pattern that is none, and why.
    pub(crate) fn new(rules: &[Rule]) -> Result<Rules, (String, PatternError)> {
        let (mut named, mut priorities) = (Vec::new(), Vec::new());
        for rule in rules {
            match rule {
                Rule::Names(rule) => named.push(rule),
                Rule::ExtensionPriority(extensions) => priorities.push(Priority::new(extensions)),
            }
        }
        let mut steps = Vec::new();
        let mut position = 0;
        for rules in named.chunk_by(|one, two| one.plain_pattern().is_some() && two.plain_pattern().is_some())
        {
            let patterns: Vec<_> = rules.iter().filter_map(|rule| rule.plain_pattern()).collect();
            if let [rule] = rules
                && patterns.is_empty()
            {
                steps.push(Step::one(rule, position)?);
            } else {
                let actions = rules.iter().zip(&patterns).zip(position..);
                let actions = actions.map(|((rule, pattern), position)| {
                    (trimmed(pattern).to_owned(), (rule.action, position))
                });
                steps.push(Step::Patterns { all: gitignore(&patterns)?, actions: actions.collect() });
            }
            position += rules.len();
        }
        let only = named.iter().filter(|rule| rule.action == RuleAction::Only);
        let only = only.map(|rule| rule.plain_pattern().ok_or((rule.names.to_string(), PatternError::Only)));
        Ok(Rules {
            steps,
            names: named.iter().map(|rule| rule.names.to_string()).collect(),
            only: Only::new(&only.collect::<Result<Vec<_>, _>>()?)?,
            priorities,
            look_closer: named.iter().any(|rule| looks_closer(&rule.conditions)),
        })
    }

    /// Whether no path has to be judged.
    pub(crate) fn judge_nothing(&self) -> bool {
        self.steps.is_empty()
    }

    /// What the last rule that fits says: `None` if none does.
    fn last_match(&self, path: &Path, subject: &Subject) -> Option<Said> {
        self.steps.iter().rev().find_map(|step| step.says(path, subject))
    }

    /// As it was written.
    pub(crate) fn pattern(&self, position: usize) -> &str {
        &self.names[position]
    }

    fn only_shows(&self, path: &Path, is_dir: bool) -> bool {
        self.only.as_ref().is_none_or(|only| only.shows(path, is_dir))
    }
}

impl Step {
    fn one(rule: &NameRule, position: usize) -> Result<Step, (String, PatternError)> {
        let names = match &rule.names {
            Names::Pattern(pattern) => Matcher::Pattern(gitignore(&[pattern])?),
            Names::Regex(text) => {
                let body = text.strip_prefix('!');
                let regex = regex(body.unwrap_or(text)).map_err(|error| (text.clone(), error))?;
                Matcher::Regex { regex, takes_back: body.is_some() }
            }
            Names::All => Matcher::All,
        };
        Ok(Step::One { names, conditions: rule.conditions.clone(), action: rule.action, position })
    }

    fn says(&self, path: &Path, subject: &Subject) -> Option<Said> {
        match self {
            Step::Patterns { all, actions } => match all.matched(path, subject.is_dir()) {
                Match::None => None,
                Match::Whitelist(_) => Some(Said::TakenBack),
                Match::Ignore(glob) => {
                    actions.get(glob.original()).map(|(action, position)| Said::Action(*action, *position))
                }
            },
            Step::One { names, conditions, action, position } => {
                let takes_back = names.fits(path, subject)?;
                let said = if takes_back { Said::TakenBack } else { Said::Action(*action, *position) };
                subject.fulfils(conditions).then_some(said)
            }
        }
    }
}

impl Matcher {
    /// Whether a match is taken back; `None`: there is none.
    fn fits(&self, path: &Path, subject: &Subject) -> Option<bool> {
        match self {
            Matcher::Pattern(pattern) => match pattern.matched(path, subject.is_dir()) {
                Match::None => None,
                found => Some(found.is_whitelist()),
            },
            Matcher::Regex { regex, takes_back } => {
                regex.is_match(path.as_os_str().as_bytes()).then_some(*takes_back)
            }
            Matcher::All => Some(false),
        }
    }
}

/// Rules that refuse nothing: they say of a path that was used whether one of them fits it.
#[derive(Debug)]
pub struct LogRules(Rules);

impl LogRules {
    /// Errors: the pattern that is none, and why.
    pub fn new(rules: &[LogRule]) -> Result<LogRules, (String, PatternError)> {
        let any_action = RuleAction::Hide;
        let rules = rules.iter().cloned().map(|LogRule { names, types }| {
            let conditions = Conditions { types, ..Conditions::default() };
            Rule::Names(NameRule { names, conditions, action: any_action })
        });
        Ok(LogRules(Rules::new(&rules.collect::<Vec<_>>())?))
    }

    /// The rule that fits `path` (relative to the root) with what lies there, as it was written. What fits a directory
    /// fits all that is below, unless a rule says otherwise of a name further down.
    pub fn fitting(&self, path: &Path, kind: Option<FileKind>) -> Option<&str> {
        // No rule asks for whiteouts: what is not there is of no type.
        let own = (path, kind.unwrap_or(FileKind::Whiteout));
        let above = path.ancestors().skip(1).map(|directory| (directory, FileKind::Directory));
        let said = iter::once(own)
            .chain(above)
            .find_map(|(path, kind)| last((&self.0, path), &Subject::of_kind(kind)));
        match said? {
            Said::Action(_, position) => Some(self.0.pattern(position)),
            Said::TakenBack => None,
        }
    }
}

enum Said {
    /// Of the rule at this position.
    Action(RuleAction, usize),
    TakenBack,
}

/// A path under the rules of a branch (relative to its place) and of the view (relative to its root).
pub(crate) struct Judged<'a> {
    pub(crate) branch: Option<(&'a Rules, &'a Path)>,
    pub(crate) view: (&'a Rules, &'a Path),
}

impl Judged<'_> {
    /// All rules, for the name as it is shown.
    pub(crate) fn verdict(&self, subject: &Subject) -> Verdict {
        match self.refused(subject) {
            Verdict::Show => {}
            refused => return refused,
        }
        let branch = self.branch.map(|branch| (List::Branch, branch));
        let mut lists = branch.into_iter().chain([(List::View, self.view)]);
        match lists.find(|(_, (rules, path))| !rules.only_shows(path, subject.is_dir())) {
            Some((list, _)) => Verdict::Hide(By::Only(list)),
            None => Verdict::Show,
        }
    }

    /// Hide and deny rules alone, for a link before it is followed: whether `only` shows it depends on its target.
    pub(crate) fn refused(&self, subject: &Subject) -> Verdict {
        let of = |list| move |said| (list, said);
        let said = last(self.view, subject).map(of(List::View));
        let said = said.or_else(|| last(self.branch?, subject).map(of(List::Branch)));
        match said {
            Some((list, Said::Action(RuleAction::Hide, rule))) => Verdict::Hide(By::Rule(list, rule)),
            Some((list, Said::Action(RuleAction::Deny, rule))) => Verdict::Deny(By::Rule(list, rule)),
            Some((_, Said::Action(RuleAction::Only, _) | Said::TakenBack)) | None => Verdict::Show,
        }
    }
}

fn last((rules, path): (&Rules, &Path), subject: &Subject) -> Option<Said> {
    // The place of a branch itself has no name within the branch.
    if path.as_os_str().is_empty() { None } else { rules.last_match(path, subject) }
}

fn looks_closer(conditions: &Conditions) -> bool {
    conditions.owners.is_some() || conditions.groups.is_some() || conditions.size.is_some()
}

/// A regular expression over the bytes of a path, none of which is special: `.` is any of them.
pub fn regex(text: &str) -> Result<Regex, PatternError> {
    let built = RegexBuilder::new(text).unicode(false).dot_matches_new_line(true).build();
    built.map_err(|error| {
        // The lines above the last one show where it is.
        let message = error.to_string();
        let line = message.lines().last().unwrap_or_default();
        PatternError::Regex { cause: line.strip_prefix("error: ").unwrap_or(line).to_owned() }
    })
}

pub(crate) fn gitignore(patterns: &[impl AsRef<str>]) -> Result<Gitignore, (String, PatternError)> {
    // The root "." keeps the matcher from stripping anything off the paths.
    let mut builder = GitignoreBuilder::new(".");
    for pattern in patterns.iter().map(AsRef::as_ref) {
        let bad = |error: PatternError| (pattern.to_owned(), error);
        let body = trimmed(pattern);
        if matches!(body, "" | "!" | "/" | "!/") || body.starts_with('#') {
            return Err(bad(PatternError::Comment));
        }
        builder.add_line(None, pattern).map_err(|error| bad(error.into()))?;
    }
    builder.build().map_err(|error| (String::new(), error.into()))
}

/// As gitignore reads a line: spaces at the end do not count unless escaped.
pub(crate) fn trimmed(pattern: &str) -> &str {
    if pattern.ends_with("\\ ") { pattern } else { pattern.trim_end() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(&str, RuleAction)]) -> Rules {
        let list: Vec<_> = list.iter().map(|(pattern, action)| Rule::pattern(*pattern, *action)).collect();
        Rules::new(&list).unwrap()
    }

    fn verdict(branch: &Rules, view: &Rules, path: &str, is_dir: bool) -> Verdict {
        let path = Path::new(path);
        let subject = Subject::of_kind(if is_dir { FileKind::Directory } else { FileKind::Regular });
        Judged { branch: Some((branch, path)), view: (view, path) }.verdict(&subject)
    }

    /// By the rule at this position of the branch's list.
    fn own(rule: usize) -> By {
        By::Rule(List::Branch, rule)
    }

    #[test]
    fn the_last_match_wins() {
        use RuleAction::*;
        let (none, branch) = (rules(&[]), rules(&[("*.o", Hide), ("!keep.o", Hide), ("secret", Deny)]));
        assert_eq!(verdict(&branch, &none, "a/x.o", false), Verdict::Hide(own(0)));
        assert_eq!(verdict(&branch, &none, "a/keep.o", false), Verdict::Show);
        assert_eq!(verdict(&branch, &none, "secret", false), Verdict::Deny(own(2)));
        let view = rules(&[("keep.o", Hide), ("!secret", Deny)]);
        assert_eq!(verdict(&branch, &view, "a/keep.o", false), Verdict::Hide(By::Rule(List::View, 0)));
        assert_eq!(verdict(&branch, &view, "secret", false), Verdict::Show);
    }

    #[test]
    fn a_trailing_slash_matches_directories_alone() {
        let (none, branch) = (rules(&[]), rules(&[(".git/", RuleAction::Hide)]));
        assert_eq!(verdict(&branch, &none, ".git", true), Verdict::Hide(own(0)));
        assert_eq!(verdict(&branch, &none, ".git", false), Verdict::Show);
    }

    #[test]
    fn only_shows_matches_what_is_below_and_the_way_there() {
        let (none, only) =
            (rules(&[]), rules(&[("/usr/*/deep/**/*.h", RuleAction::Only), ("doc/", RuleAction::Only)]));
        for (path, is_dir, shown) in [
            ("usr", true, true),
            ("usr", false, false),
            ("opt", true, true), // `doc/` may be anywhere
            ("usr/x/deep/a/b.h", false, true),
            ("usr/x/deep/a/b.c", false, false),
            ("a/doc", true, true),
            ("a/doc", false, false),
            ("a/doc/x", false, true),
        ] {
            let wanted = if shown { Verdict::Show } else { Verdict::Hide(By::Only(List::Branch)) };
            assert_eq!(verdict(&only, &none, path, is_dir), wanted, "{path}");
        }
    }

    #[test]
    fn only_with_a_rooted_pattern_hides_other_directories() {
        let (none, only) = (rules(&[]), rules(&[("/usr/include/", RuleAction::Only)]));
        assert_eq!(verdict(&only, &none, "usr", true), Verdict::Show);
        assert_eq!(verdict(&only, &none, "usr/include", true), Verdict::Show);
        assert_eq!(verdict(&only, &none, "usr/include/a.h", false), Verdict::Show);
        assert_eq!(verdict(&only, &none, "usr/lib", true), Verdict::Hide(By::Only(List::Branch)));
        assert_eq!(verdict(&only, &none, "opt", true), Verdict::Hide(By::Only(List::Branch)));
    }

    #[test]
    fn hide_after_only_takes_away_and_only_after_hide_brings_back() {
        use RuleAction::*;
        let none = rules(&[]);
        let first = rules(&[("src/", Only), ("*.o", Hide)]);
        assert_eq!(verdict(&first, &none, "src/a.o", false), Verdict::Hide(own(1)));
        assert_eq!(verdict(&first, &none, "src/a.c", false), Verdict::Show);
        let second = rules(&[("*.o", Hide), ("*.o", Only)]);
        assert_eq!(verdict(&second, &none, "a.o", false), Verdict::Show);
    }

    #[test]
    fn log_rules_fit_below_directories_until_one_takes_it_back() {
        let pattern = |text: &str, types| LogRule { names: Names::Pattern(text.to_owned()), types };
        let links = Some(vec![FileKind::Symlink]);
        let rules = [pattern("/a/", None), pattern("!*.o", None), pattern("l*", links)];
        let rules = LogRules::new(&rules).unwrap();
        let fitting = |path: &str, kind| rules.fitting(Path::new(path), kind);
        let file = Some(FileKind::Regular);
        assert_eq!(fitting("a", Some(FileKind::Directory)), Some("/a/"));
        assert_eq!(fitting("a/b/c", file), Some("/a/"));
        assert_eq!(fitting("a/b/none", None), Some("/a/"));
        assert_eq!(fitting("a/b.o", file), None);
        assert_eq!(fitting("a/b.o/c", file), None);
        assert_eq!(fitting("a", None), None, "it is no directory");
        assert_eq!(fitting("l", Some(FileKind::Symlink)), Some("l*"));
        assert_eq!(fitting("l", file), None);
        assert_eq!(fitting("", Some(FileKind::Directory)), None);
    }

    #[test]
    fn a_comment_or_nothing_is_an_error_not_a_rule_without_effect() {
        for pattern in ["", "  ", "# x", "!", "/"] {
            let rule = Rule::pattern(pattern, RuleAction::Deny);
            assert!(matches!(Rules::new(&[rule]), Err((_, PatternError::Comment))), "{pattern:?}");
        }
    }
}
