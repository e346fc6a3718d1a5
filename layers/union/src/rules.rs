//! Rules: which names of a branch or of the whole view are shown, hidden or denied.
//!
//! Patterns have gitignore syntax. Of all hide and deny rules of a branch, followed by those of the view, the last one
//! that matches the path itself decides; what lies below a hidden directory is never reached. Where a list has
//! `only` rules, a name must also match one of them, lie below a directory that does, or be a directory on the way.

use std::collections::HashMap;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use thiserror::Error;

use crate::describe::{Rule, RuleAction};

#[derive(Debug, Error)]
pub enum PatternError {
    #[error("it is empty or a comment; write \\# for a name that starts with #")]
    Comment,
    #[error(transparent)]
    Glob(#[from] ignore::Error),
}

/// What is to become of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Show,
    Hide,
    Deny,
}

impl Verdict {
    /// For a name with two paths: the stricter of the two.
    pub(crate) fn or(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Hide, _) | (_, Verdict::Hide) => Verdict::Hide,
            (Verdict::Deny, _) | (_, Verdict::Deny) => Verdict::Deny,
            (Verdict::Show, Verdict::Show) => Verdict::Show,
        }
    }
}

/// The rules of one branch or of the view.
#[derive(Debug)]
pub(crate) struct Rules {
    all: Gitignore,
    /// By pattern text. Equal patterns match equally, so that the last one of them is always the one that counts.
    actions: HashMap<String, RuleAction>,
    only: Option<Only>,
}

impl Rules {
    /// Errors: the pattern that is none, and why.
    pub(crate) fn new(rules: &[Rule]) -> Result<Rules, (String, PatternError)> {
        let mut actions = HashMap::new();
        for rule in rules {
            actions.insert(trimmed(&rule.pattern).to_owned(), rule.action);
        }
        let all = matcher(rules.iter())?;
        let only = rules.iter().filter(|rule| rule.action == RuleAction::Only);
        let only = if only.clone().any(|rule| !rule.pattern.starts_with('!')) {
            Some(Only { matcher: matcher(only.clone())?, ways: only.filter_map(Way::new).collect() })
        } else {
            None
        };
        Ok(Rules { all, actions, only })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What the last matching rule says: `None` if none matches.
    fn last_match(&self, path: &Path, is_dir: bool) -> Option<Said> {
        match self.all.matched(path, is_dir) {
            Match::None => None,
            Match::Whitelist(_) => Some(Said::TakenBack),
            Match::Ignore(glob) => self.actions.get(glob.original()).map(|action| Said::Action(*action)),
        }
    }

    fn only_shows(&self, path: &Path, is_dir: bool) -> bool {
        self.only.as_ref().is_none_or(|only| only.shows(path, is_dir))
    }
}

enum Said {
    Action(RuleAction),
    TakenBack,
}

/// A path under the rules of a branch (relative to its place) and of the view (relative to its root).
pub(crate) struct Judged<'a> {
    pub(crate) branch: Option<(&'a Rules, &'a Path)>,
    pub(crate) view: (&'a Rules, &'a Path),
}

impl Judged<'_> {
    /// All rules, for the name as it is shown.
    pub(crate) fn verdict(&self, is_dir: bool) -> Verdict {
        match self.refused(is_dir) {
            Verdict::Show => {}
            refused => return refused,
        }
        let lists = self.branch.into_iter().chain([self.view]);
        let shown = lists.into_iter().all(|(rules, path)| rules.only_shows(path, is_dir));
        if shown { Verdict::Show } else { Verdict::Hide }
    }

    /// Hide and deny rules alone, for a link before it is followed: whether `only` shows it depends on its target.
    pub(crate) fn refused(&self, is_dir: bool) -> Verdict {
        let said = last(self.view, is_dir).or_else(|| self.branch.and_then(|branch| last(branch, is_dir)));
        match said {
            Some(Said::Action(RuleAction::Hide)) => Verdict::Hide,
            Some(Said::Action(RuleAction::Deny)) => Verdict::Deny,
            Some(Said::Action(RuleAction::Only) | Said::TakenBack) | None => Verdict::Show,
        }
    }
}

fn last((rules, path): (&Rules, &Path), is_dir: bool) -> Option<Said> {
    // The place of a branch itself has no name within the branch.
    if path.as_os_str().is_empty() { None } else { rules.last_match(path, is_dir) }
}

#[derive(Debug)]
struct Only {
    matcher: Gitignore,
    ways: Vec<Way>,
}

impl Only {
    fn shows(&self, path: &Path, is_dir: bool) -> bool {
        if path.as_os_str().is_empty() {
            return true;
        }
        match self.matcher.matched_path_or_any_parents(path, is_dir) {
            Match::Ignore(_) => true,
            Match::Whitelist(_) => false,
            Match::None => is_dir && self.ways.iter().any(|way| way.leads_through(path)),
        }
    }
}

/// The components of an `only` pattern that starts at the root, up to the first `**`.
#[derive(Debug)]
struct Way {
    components: Vec<GlobMatcher>,
    /// After the last component anything may follow.
    open: bool,
}

impl Way {
    /// `None` for a pattern that takes a match back.
    fn new(rule: &Rule) -> Option<Way> {
        let pattern = trimmed(&rule.pattern);
        if pattern.starts_with('!') {
            return None;
        }
        let body = pattern.strip_suffix('/').unwrap_or(pattern);
        let anywhere = !body.contains('/');
        let mut way = Way { components: Vec::new(), open: anywhere };
        if anywhere {
            return Some(way);
        }
        for component in body.split('/').filter(|component| !component.is_empty()) {
            let glob = GlobBuilder::new(component).literal_separator(true).backslash_escape(true).build();
            match glob {
                Ok(glob) if component != "**" => way.components.push(glob.compile_matcher()),
                // `**`, or a class that holds the separator: from here on every directory may lead there.
                _ => {
                    way.open = true;
                    break;
                }
            }
        }
        Some(way)
    }

    fn leads_through(&self, dir: &Path) -> bool {
        let mut wanted = self.components.iter();
        for component in dir.components() {
            match wanted.next() {
                Some(glob) if glob.is_match(component.as_os_str()) => {}
                Some(_) => return false,
                None => return self.open,
            }
        }
        self.open || wanted.next().is_some()
    }
}

fn matcher<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<Gitignore, (String, PatternError)> {
    // The root "." keeps the matcher from stripping anything off the paths.
    let mut builder = GitignoreBuilder::new(".");
    for rule in rules {
        let bad = |error: PatternError| (rule.pattern.clone(), error);
        let body = trimmed(&rule.pattern);
        if matches!(body, "" | "!" | "/" | "!/") || body.starts_with('#') {
            return Err(bad(PatternError::Comment));
        }
        builder.add_line(None, &rule.pattern).map_err(|error| bad(error.into()))?;
    }
    builder.build().map_err(|error| (String::new(), error.into()))
}

/// As gitignore reads a line: spaces at the end do not count unless escaped.
fn trimmed(pattern: &str) -> &str {
    if pattern.ends_with("\\ ") { pattern } else { pattern.trim_end() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(&str, RuleAction)]) -> Rules {
        let list: Vec<Rule> = list
            .iter()
            .map(|(pattern, action)| Rule { pattern: (*pattern).into(), action: *action })
            .collect();
        Rules::new(&list).unwrap()
    }

    fn verdict(branch: &Rules, view: &Rules, path: &str, is_dir: bool) -> Verdict {
        let path = Path::new(path);
        Judged { branch: Some((branch, path)), view: (view, path) }.verdict(is_dir)
    }

    #[test]
    fn the_last_match_wins() {
        use RuleAction::*;
        let (none, branch) = (rules(&[]), rules(&[("*.o", Hide), ("!keep.o", Hide), ("secret", Deny)]));
        assert_eq!(verdict(&branch, &none, "a/x.o", false), Verdict::Hide);
        assert_eq!(verdict(&branch, &none, "a/keep.o", false), Verdict::Show);
        assert_eq!(verdict(&branch, &none, "secret", false), Verdict::Deny);
        let view = rules(&[("keep.o", Hide), ("!secret", Deny)]);
        assert_eq!(verdict(&branch, &view, "a/keep.o", false), Verdict::Hide);
        assert_eq!(verdict(&branch, &view, "secret", false), Verdict::Show);
    }

    #[test]
    fn a_trailing_slash_matches_directories_alone() {
        let (none, branch) = (rules(&[]), rules(&[(".git/", RuleAction::Hide)]));
        assert_eq!(verdict(&branch, &none, ".git", true), Verdict::Hide);
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
            let wanted = if shown { Verdict::Show } else { Verdict::Hide };
            assert_eq!(verdict(&only, &none, path, is_dir), wanted, "{path}");
        }
    }

    #[test]
    fn only_with_a_rooted_pattern_hides_other_directories() {
        let (none, only) = (rules(&[]), rules(&[("/usr/include/", RuleAction::Only)]));
        assert_eq!(verdict(&only, &none, "usr", true), Verdict::Show);
        assert_eq!(verdict(&only, &none, "usr/include", true), Verdict::Show);
        assert_eq!(verdict(&only, &none, "usr/include/a.h", false), Verdict::Show);
        assert_eq!(verdict(&only, &none, "usr/lib", true), Verdict::Hide);
        assert_eq!(verdict(&only, &none, "opt", true), Verdict::Hide);
    }

    #[test]
    fn hide_after_only_takes_away_and_only_after_hide_brings_back() {
        use RuleAction::*;
        let none = rules(&[]);
        let first = rules(&[("src/", Only), ("*.o", Hide)]);
        assert_eq!(verdict(&first, &none, "src/a.o", false), Verdict::Hide);
        assert_eq!(verdict(&first, &none, "src/a.c", false), Verdict::Show);
        let second = rules(&[("*.o", Hide), ("*.o", Only)]);
        assert_eq!(verdict(&second, &none, "a.o", false), Verdict::Show);
    }

    #[test]
    fn a_comment_or_nothing_is_an_error_not_a_rule_without_effect() {
        for pattern in ["", "  ", "# x", "!", "/"] {
            let rule = Rule { pattern: pattern.into(), action: RuleAction::Deny };
            assert!(matches!(Rules::new(&[rule]), Err((_, PatternError::Comment))), "{pattern:?}");
        }
    }
}
