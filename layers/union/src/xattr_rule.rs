//! A rule for an extended attribute of a host file: under which name it is shown, if at all. The first rule that fits decides,
//! and what none fits is shown as it is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::describe::XattrRule;

/// XATTR_NAME_MAX of the kernel.
const LONGEST: usize = 255;

/// `None` if the attribute is hidden.
pub(crate) fn shown_as(own: &OsStr, rules: &[XattrRule]) -> Option<OsString> {
    let Some((rule, rest)) = rules.iter().find_map(|rule| Some((rule, after(&rule.from, own)?))) else {
        return Some(own.to_owned());
    };
    rule.to.as_ref().map(|to| join(to, rest)).filter(|name| name.len() <= LONGEST)
}

/// The names that a file's attribute may have of itself if it is shown as `shown`, the one that counts first.
pub(crate) fn own_names(shown: &OsStr, rules: &[XattrRule]) -> Vec<OsString> {
    let renamed = |rule: &XattrRule| Some(join(&rule.from, after(rule.to.as_deref()?, shown)?));
    let mut names: Vec<_> = rules.iter().filter_map(renamed).chain([shown.to_owned()]).collect();
    names.retain(|own| shown_as(own, rules).as_deref() == Some(shown));
    names
}

/// What follows `rule` in `name`, if it fits. Nothing is no name: what the rule begins with has to go on.
fn after<'a>(rule: &str, name: &'a OsStr) -> Option<&'a [u8]> {
    let rest = name.as_bytes().strip_prefix(rule.as_bytes())?;
    (rule.ends_with('.') != rest.is_empty()).then_some(rest)
}

fn join(start: &str, rest: &[u8]) -> OsString {
    OsString::from_vec([start.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(&str, Option<&str>)]) -> Vec<XattrRule> {
        list.iter().map(|(from, to)| XattrRule { from: (*from).into(), to: to.map(Into::into) }).collect()
    }

    fn shown(own: &str, rules: &[XattrRule]) -> Option<String> {
        shown_as(OsStr::new(own), rules).map(|name| name.into_string().unwrap())
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_others_stay() {
        let rules = rules(&[
            ("user.a.keep", Some("user.a.keep")),
            ("user.a.", None),
            ("user.store.", Some("user.")),
            ("user.b", Some("user.c")),
        ]);
        let seen = |own| shown(own, &rules);
        assert_eq!(seen("user.a.keep").as_deref(), Some("user.a.keep"));
        assert_eq!(seen("user.a.keeper"), None);
        assert_eq!(seen("user.store.x.y").as_deref(), Some("user.x.y"));
        assert_eq!(seen("user.store.").as_deref(), Some("user.store."));
        assert_eq!(seen("user.b").as_deref(), Some("user.c"));
        assert_eq!(seen("user.bb").as_deref(), Some("user.bb"));
    }

    #[test]
    fn what_is_shown_is_found_under_its_own_name_again() {
        let rules = rules(&[("user.store.", Some("user.")), ("user.b", Some("user.c")), ("user.d", None)]);
        let found = |name: &str| own_names(OsStr::new(name), &rules);
        assert_eq!(found("user.x"), ["user.store.x", "user.x"]);
        assert_eq!(found("user.c"), ["user.store.c", "user.b", "user.c"]);
        assert_eq!(found("user.b"), ["user.store.b"]);
        assert_eq!(found("user.d"), ["user.store.d"]);
        assert_eq!(found("user.store.x"), ["user.store.store.x"]);
    }

    #[test]
    fn a_name_that_would_be_too_long_is_not_shown() {
        let rules = rules(&[("user.a.", Some("user.much-longer."))]);
        assert_eq!(shown(&format!("user.a.{}", "x".repeat(248)), &rules), None);
        assert!(shown(&format!("user.a.{}", "x".repeat(200)), &rules).is_some());
    }
}
