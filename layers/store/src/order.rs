//! The order of a manifest: paths component by component, each component bytewise.
//!
//! Plain bytewise order of whole paths puts `a-b` between `a` and `a/b`. Here `/` counts as the lowest byte, so that a
//! directory's subtree is one contiguous range that starts with the directory itself.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// For paths without empty components, `.` or a trailing slash. The same as `Path::cmp`, several times as fast.
pub fn compare(a: &Path, b: &Path) -> Ordering {
    let (a, b) = (a.as_os_str().as_bytes(), b.as_os_str().as_bytes());
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => rank(*x).cmp(&rank(*y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Whether `path` lies below `dir` (and is not `dir` itself); every path but the empty one lies below the empty one.
pub fn is_below(path: &Path, dir: &Path) -> bool {
    let (path, dir) = (path.as_os_str().as_bytes(), dir.as_os_str().as_bytes());
    if dir.is_empty() {
        return !path.is_empty();
    }
    path.len() > dir.len() && path[dir.len()] == b'/' && path.starts_with(dir)
}

/// The items of two lists that are in this order by `path` and `other_path`, those of one path side by side.
pub fn join<'a, A, B>(
    items: &'a [A],
    path: impl Fn(&A) -> &Path,
    others: &'a [B],
    other_path: impl Fn(&B) -> &Path,
) -> impl Iterator<Item = (Option<&'a A>, Option<&'a B>)> {
    let (mut items, mut others) = (items.iter().peekable(), others.iter().peekable());
    std::iter::from_fn(move || {
        let which = match (items.peek(), others.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(item), Some(other)) => compare(path(item), other_path(other)),
        };
        let item = if which.is_le() { items.next() } else { None };
        let other = if which.is_ge() { others.next() } else { None };
        Some((item, other))
    })
}

fn rank(byte: u8) -> u8 {
    // A path has no NUL, so 0 is free.
    if byte == b'/' { 0 } else { byte }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subtree_is_contiguous() {
        let mut paths = ["a/b", "a-b", "a", "a.c", "a/-"].map(Path::new);
        paths.sort_by(|a, b| compare(a, b));
        assert_eq!(paths, ["a", "a/-", "a/b", "a-b", "a.c"].map(Path::new));
    }

    #[test]
    fn a_longer_name_is_not_below() {
        assert!(is_below(Path::new("a/b"), Path::new("a")));
        assert!(!is_below(Path::new("ab"), Path::new("a")));
        assert!(!is_below(Path::new("a"), Path::new("a")));
        assert!(is_below(Path::new("a"), Path::new("")));
    }

    proptest! {
        #[test]
        fn it_is_the_order_of_path(a in "[a./-]{0,2}[a-c](/[a-c!-]{1,3}){0,3}", b in "[a-c](/[a-c!-]{1,3}){0,3}") {
            let (a, b) = (a.trim_start_matches(['/', '.']).replace("//", "/").replace("./", "c/"), b);
            prop_assert_eq!(compare(Path::new(&a), Path::new(&b)), Path::new(&a).cmp(Path::new(&b)));
        }
    }
}
