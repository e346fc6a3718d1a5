//! A count: how many lines, or bytes, each change adds and removes.

use super::side::Side;
use super::text::TextDiff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    Lines {
        added: usize,
        removed: usize,
    },
    /// Bytes before and after.
    Binary(u64, u64),
    /// Nobody knows what was there; bytes afterwards.
    Unknown(u64),
}

/// A change of type removes one and adds the other.
pub fn stat(before: &Side, after: &Side) -> Stat {
    if let Side::Unknown(_) = before {
        return Stat::Unknown(after.size());
    }
    let is_file = |side: &Side| matches!(side, Side::File(_));
    match (lines(before), lines(after)) {
        (Some(old), Some(new))
            if before.has_content() && after.has_content() && is_file(before) != is_file(after) =>
        {
            let (removed, added) = (TextDiff::new(old, b"").counts().1, TextDiff::new(b"", new).counts().0);
            Stat::Lines { added, removed }
        }
        (Some(old), Some(new)) => {
            let (added, removed) = TextDiff::new(old, new).counts();
            Stat::Lines { added, removed }
        }
        _ => Stat::Binary(before.size(), after.size()),
    }
}

/// `None` for what is no text.
fn lines(side: &Side) -> Option<&[u8]> {
    if side.has_content() { side.text() } else { Some(b"") }
}
