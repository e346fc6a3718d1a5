//! Patterns of a trial's command line: lines of gitignore for the whole host. `*.o` and `build/` fit anywhere, `src/*.o` and
//! `./build` from the current directory on, `/etc/` from the root on.

use std::path::{Component, Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use thiserror::Error;

#[derive(Debug, Error)]
#[error("{option} {pattern}: no pattern as gitignore has them")]
pub struct PatternError {
    option: &'static str,
    pattern: String,
    source: ignore::Error,
}

/// The same pattern, relative to the root.
pub fn from_root(pattern: &str, cwd: &Path) -> String {
    let (not, pattern) = match pattern.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", pattern),
    };
    let is_place = pattern.trim_end_matches('/').contains('/') && !pattern.starts_with("**/")
        || matches!(pattern.trim_end_matches('/'), "." | "..");
    if pattern.starts_with('/') || !is_place {
        return format!("{not}{pattern}");
    }
    let mut place = cwd.to_path_buf();
    let mut rest = pattern;
    while !rest.is_empty() {
        let (first, more) = rest.split_once('/').unwrap_or((rest, ""));
        match first {
            "." => {}
            ".." => {
                place.pop();
            }
            _ => break,
        }
        rest = more;
    }
    let place = literal(&place);
    if rest.is_empty() {
        // Of the root all that is in it.
        return if place == "/" { format!("{not}/*") } else { format!("{not}{place}") };
    }
    format!("{not}{}/{rest}", if place == "/" { "" } else { &place })
}

/// A pattern that fits this path alone, and what lies below it.
pub fn literal(path: &Path) -> String {
    let mut pattern = String::new();
    for component in path.components() {
        if let Component::Normal(name) = component {
            pattern.push('/');
            for letter in name.to_string_lossy().chars() {
                if r"*?[]\! ".contains(letter) {
                    pattern.push('\\');
                }
                pattern.push(letter);
            }
        }
    }
    if pattern.is_empty() { "/".to_owned() } else { pattern }
}

/// Which changes are meant.
pub struct Wanted {
    only: Option<Gitignore>,
    ignore: Option<Gitignore>,
}

impl Wanted {
    pub fn new(only: &[String], ignore: &[String], cwd: &Path) -> Result<Wanted, PatternError> {
        Ok(Wanted { only: matcher("--only", only, cwd)?, ignore: matcher("--ignore", ignore, cwd)? })
    }

    pub fn is_all(&self) -> bool {
        self.only.is_none() && self.ignore.is_none()
    }

    /// `path` is relative to the root.
    pub fn has(&self, path: &Path, is_directory: bool) -> bool {
        let fits = |matcher: &Gitignore| matcher.matched_path_or_any_parents(path, is_directory).is_ignore();
        self.only.as_ref().is_none_or(fits) && !self.ignore.as_ref().is_some_and(fits)
    }
}

fn matcher(option: &'static str, patterns: &[String], cwd: &Path) -> Result<Option<Gitignore>, PatternError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let failed = |source| PatternError { option, pattern: pattern.clone(), source };
        builder.add_line(None, &from_root(pattern, cwd)).map_err(failed)?;
    }
    let failed = |source| PatternError { option, pattern: patterns.join(" "), source };
    builder.build().map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_with_a_place_begins_in_the_current_directory() {
        let said = |pattern| from_root(pattern, Path::new("/home/me/a b"));
        assert_eq!(said("*.o"), "*.o");
        assert_eq!(said("build/"), "build/");
        assert_eq!(said("!*.o"), "!*.o");
        assert_eq!(said("**/x/y"), "**/x/y");
        assert_eq!(said("/etc/"), "/etc/");
        assert_eq!(said("src/*.o"), r"/home/me/a\ b/src/*.o");
        assert_eq!(said("./build"), r"/home/me/a\ b/build");
        assert_eq!(said("../x/y"), "/home/me/x/y");
        assert_eq!(said("!./x"), r"!/home/me/a\ b/x");
        assert_eq!(from_root("./x", Path::new("/")), "/x");
        assert_eq!([said("."), said("./"), said("./.")], [r"/home/me/a\ b"; 3]);
        assert_eq!([said(".."), said("!../")], ["/home/me".to_owned(), "!/home/me".to_owned()]);
        assert_eq!(from_root(".", Path::new("/")), "/*");
    }

    #[test]
    fn what_is_wanted_is_only_what_is_not_ignored() {
        let strings =
            |patterns: &[&str]| patterns.iter().map(|pattern| pattern.to_string()).collect::<Vec<_>>();
        let cwd = Path::new("/home/[me]");
        let wanted = Wanted::new(&strings(&["./src/"]), &strings(&["*.pyc", "__pycache__/"]), cwd).unwrap();
        assert!(wanted.has(Path::new("home/[me]/src/a.py"), false));
        assert!(!wanted.has(Path::new("home/m/src/a.py"), false));
        assert!(!wanted.has(Path::new("home/[me]/src/a.pyc"), false));
        assert!(!wanted.has(Path::new("home/[me]/src/__pycache__/a"), false));
        assert!(!wanted.has(Path::new("home/[me]/x"), false));
        assert!(Wanted::new(&strings(&["[z-a]"]), &[], cwd).is_err());
    }
}
