//! The differences for programs.

use serde_json::{Map, Value, json};
use vfsrun_layers::base::Access;
use vfsrun_layers::review::{Hunk, Item, Review, ReviewError, Side, Sign, TextDiff, host_path};
use vfsrun_layers::{Entry, escape};

use super::super::changes::is_known;

/// An object for each path, directories too.
pub fn array(review: &Review<'_>, context: usize) -> Result<Vec<Value>, ReviewError> {
    review.items.iter().map(|item| object(review, item, context)).collect()
}

fn object(review: &Review<'_>, item: &Item<'_>, context: usize) -> Result<Value, ReviewError> {
    let (before, after) = (review.before(item), review.after(item)?);
    let path = item.change.path();
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("path", escape::shown_path(path).into());
    put("change", item.from.map_or(item.change.name(), |_| "renamed").into());
    put("host", host_path(review.base(), path).map(|host| shown(&host)).into());
    put("was", side(item.was().map(|was| was.access), &before));
    put("is", side(item.change.is().map(access), &after));
    put("changedMeanwhile", (!is_known(&item.change)).into());
    if let Some(from) = item.from {
        put("renamedFrom", escape::shown_path(&from.was.path).into());
        put("similarity", from.similarity.into());
    }
    if let Side::Unknown(unknown) = &before {
        put("unknown", unknown.to_string().into());
    }
    // Of two types there are two texts.
    let is_one = matches!(
        (&before, &after),
        (Side::File(_) | Side::Absent, Side::File(_))
            | (Side::File(_), Side::Absent)
            | (Side::Symlink(_), Side::Symlink(_))
    );
    if is_one {
        match (before.text(), after.text()) {
            (Some(old), Some(new)) => {
                let diff = TextDiff::new(old, new);
                put("binary", false.into());
                put("hunks", diff.hunks(context).iter().map(|hunk| hunk_object(&diff, hunk)).collect());
            }
            _ => _ = put("binary", true.into()),
        }
    }
    Ok(object.into())
}

/// `null` for nothing.
fn side(access: Option<Access>, side: &Side) -> Value {
    let Some(access) = access else { return Value::Null };
    let kind = match side {
        Side::Absent => return Value::Null,
        Side::Directory => "directory",
        Side::File(_) => "file",
        Side::Symlink(_) => "symlink",
        Side::Other(_) => "other",
        Side::Unknown(_) => "unknown",
    };
    let mut value =
        json!({ "type": kind, "mode": format!("{:o}", access.mode), "uid": access.uid, "gid": access.gid });
    match side {
        Side::File(content) => value["size"] = content.size().into(),
        Side::Symlink(target) => value["target"] = text(target).into(),
        _ => {}
    }
    value
}

fn access(entry: &Entry) -> Access {
    Access { mode: entry.meta.mode, uid: entry.meta.uid, gid: entry.meta.gid }
}

/// Lines without their newline, behind their sign; the side or sides whose last line has none are told.
fn hunk_object(diff: &TextDiff<'_>, hunk: &Hunk) -> Value {
    let (old, new) = (hunk.old(), hunk.new_lines());
    let start = |range: &std::ops::Range<usize>| range.start + usize::from(!range.is_empty());
    let mut bare = Vec::new();
    let lines: Vec<String> = diff
        .lines(hunk)
        .map(|(sign, line)| {
            let whole = line.strip_suffix(b"\n");
            if whole.is_none() {
                bare.extend((sign != Sign::Added).then_some("old"));
                bare.extend((sign != Sign::Removed).then_some("new"));
            }
            format!("{}{}", char::from(sign.byte()), text(whole.unwrap_or(line)))
        })
        .collect();
    let mut value = json!({
        "oldStart": start(&old), "oldLines": old.len(), "newStart": start(&new), "newLines": new.len(), "lines": lines,
    });
    if !bare.is_empty() {
        value["noNewlineAtEnd"] = bare.into();
    }
    value
}

fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    escape::push(&mut text, bytes);
    text
}

fn shown(path: &std::path::Path) -> String {
    escape::shown_path(path.strip_prefix("/").unwrap_or(path))
}
