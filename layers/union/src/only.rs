//! Only: the patterns of which a name must match one to be shown, lie below a directory that does, or be a directory on the
//! way there.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use ignore::Match;
use ignore::gitignore::Gitignore;

use crate::rules::{PatternError, gitignore, trimmed};

#[derive(Debug)]
pub(crate) struct Only {
    matcher: Gitignore,
    ways: Vec<Way>,
}

impl Only {
    /// Of the patterns whose action that is; `None` if they restrict nothing. Errors: the pattern that is none, and why.
    pub(crate) fn new(patterns: &[&str]) -> Result<Option<Only>, (String, PatternError)> {
        if patterns.iter().all(|pattern| pattern.starts_with('!')) {
            return Ok(None);
        }
        let ways = patterns.iter().filter_map(|pattern| Way::new(pattern)).collect();
        Ok(Some(Only { matcher: gitignore(patterns)?, ways }))
    }

    pub(crate) fn shows(&self, path: &Path, is_dir: bool) -> bool {
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
    fn new(pattern: &str) -> Option<Way> {
        let pattern = trimmed(pattern);
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
