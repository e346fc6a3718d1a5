//! A patch: the differences as text, in the words of git's. For people with all that a layer knows of a file, its names those in
//! the root; for git only what it can hold, its names relative to where it is applied, and the rest as comments in front.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::side::{Content, Side, Unknown};
use super::text::{Hunk, Sign, TextDiff};
use super::{Item, LineKind, Out, Review, ReviewError, binary_patch, notes, quote};
use crate::{content, escape};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    People,
    Git,
}

/// How differences are written.
#[derive(Clone, Debug)]
pub struct Patch {
    pub form: Form,
    /// Lines around a change.
    pub context: usize,
    /// For git: the host's directory that paths are relative to, and where they lie on the host; without it the root.
    pub relative: Option<PathBuf>,
}

/// What is needed to write one item.
struct Page<'a, 'b> {
    patch: &'a Patch,
    item: &'a Item<'a>,
    /// As it is called, before and after.
    names: (Vec<u8>, Vec<u8>),
    notes: Vec<String>,
    out: &'a mut Out<'b>,
}

impl Patch {
    /// Writes all of it. Returns the paths that are not in it, each with the reason: only for git there are any.
    pub fn write(&self, review: &Review<'_>, out: &mut Out<'_>) -> Result<Vec<String>, ReviewError> {
        let mut missing = Vec::new();
        if self.form == Form::Git {
            self.comment(review, out)?;
        }
        for item in review.told() {
            let (before, after) = (review.before(item), review.after(item)?);
            missing.extend(self.write_item(review, item, (&before, &after), out)?);
        }
        Ok(missing)
    }

    /// Writes one item, whose sides are at hand. Returns why it is not in the patch.
    pub fn write_item(
        &self,
        review: &Review<'_>,
        item: &Item<'_>,
        sides: (&Side, &Side),
        out: &mut Out<'_>,
    ) -> Result<Option<String>, ReviewError> {
        let path = escape::shown_path(item.change.path());
        if self.form == Form::Git && !sides.0.has_content() && !sides.1.has_content() && !is_unknown(sides.0)
        {
            return Ok(None);
        }
        let names = match self.names(review, item) {
            Ok(names) => names,
            Err(reason) => return missing(&path, reason, out),
        };
        if let (Form::Git, Side::Unknown(unknown)) = (self.form, sides.0) {
            return missing(&path, &format!("what it held is not known: {unknown}"), out);
        }
        let notes = match self.form {
            Form::People => review.notes(item, Form::People),
            Form::Git => Vec::new(),
        };
        let mut page = Page { patch: self, item, names, notes, out };
        page.write(sides)?;
        Ok(None)
    }

    /// What git cannot hold.
    fn comment(&self, review: &Review<'_>, out: &mut Out<'_>) -> io::Result<()> {
        for item in review.told() {
            for note in review.notes(item, Form::Git) {
                let path = escape::shown_path(item.change.path());
                out(LineKind::Note, format!("# {path}: {note}").as_bytes())?;
            }
        }
        Ok(())
    }

    /// Errors: why git takes no such name.
    fn names(&self, review: &Review<'_>, item: &Item<'_>) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let new = item.change.path();
        let old = item.from.map_or(new, |from| &from.was.path);
        Ok((self.name(review, old)?, self.name(review, new)?))
    }

    fn name(&self, review: &Review<'_>, path: &Path) -> Result<Vec<u8>, &'static str> {
        let shown = match (&self.relative, self.form) {
            (Some(dir), Form::Git) => {
                let host =
                    super::host_path(review.base(), path).ok_or("it is of no directory of the host")?;
                host.strip_prefix(dir).map_err(|_| "it lies elsewhere than the patch is for")?.to_owned()
            }
            _ => path.to_owned(),
        };
        let is_gits = shown.iter().any(|name| name.eq_ignore_ascii_case(".git"));
        match self.form {
            Form::Git if is_gits => Err("git applies nothing to .git"),
            _ => Ok(shown.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl Page<'_, '_> {
    fn write(&mut self, (before, after): (&Side, &Side)) -> Result<(), ReviewError> {
        let is_replaced = !matches!(before, Side::Absent | Side::Unknown(_))
            && !matches!(after, Side::Absent)
            && std::mem::discriminant(before) != std::mem::discriminant(after);
        if !is_replaced {
            return self.half(before, after);
        }
        // The one goes, and the other comes.
        if before.has_content() {
            self.half(before, &Side::Absent)?;
        }
        if after.has_content() || self.patch.form == Form::People {
            self.half(&Side::Absent, after)?;
        }
        Ok(())
    }

    fn half(&mut self, before: &Side, after: &Side) -> Result<(), ReviewError> {
        let mut head = self.modes(before, after);
        if let Some(from) = self.item.from {
            head.push(format!("similarity index {}%", from.similarity).into());
            head.push([b"rename from ", &quote::quoted("", &self.names.0)[..]].concat());
            head.push([b"rename to ", &quote::quoted("", &self.names.1)[..]].concat());
        }
        let is_same = is_same(before, after)?;
        let is_git = self.patch.form == Form::Git;
        if is_git && is_same && head.is_empty() {
            return Ok(());
        }
        let (old, new) = (quote::quoted("a/", &self.names.0), quote::quoted("b/", &self.names.1));
        (self.out)(LineKind::Header, &[b"diff --git ", &old[..], b" ", &new].concat())?;
        for line in head {
            (self.out)(LineKind::Header, &line)?;
        }
        // Once, with the state that is left.
        if !matches!(after, Side::Absent) || self.item.change.is().is_none() {
            for note in std::mem::take(&mut self.notes) {
                (self.out)(LineKind::Note, note.as_bytes())?;
            }
        }
        if is_same {
            return Ok(());
        }
        match (before, before.text(), after.text()) {
            (Side::Unknown(unknown), ..) => self.unknown(unknown, after)?,
            (_, Some(old), Some(new)) => self.text((before, old), (after, new))?,
            _ if is_git => self.binary(before, after)?,
            _ => self.sizes(before, after)?,
        }
        Ok(())
    }

    /// The header's lines of modes.
    fn modes(&self, before: &Side, after: &Side) -> Vec<Vec<u8>> {
        let (old_mode, new_mode) = notes::modes(self.item);
        let form = self.patch.form;
        let mode = |side: &Side, mode| match side {
            Side::File(_) => Some(notes::header_mode(false, mode, form)),
            Side::Symlink(_) => Some(notes::header_mode(true, mode, form)),
            Side::Directory if form == Form::People => Some(format!("04{mode:04o}")),
            _ => None,
        };
        let lines = match (before, mode(before, old_mode), after, mode(after, new_mode)) {
            (Side::Absent, _, _, Some(new)) => vec![format!("new file mode {new}")],
            (_, Some(old), Side::Absent, _) => vec![format!("deleted file mode {old}")],
            (_, Some(old), _, Some(new)) if old != new => {
                vec![format!("old mode {old}"), format!("new mode {new}")]
            }
            _ => Vec::new(),
        };
        lines.into_iter().map(String::into_bytes).collect()
    }

    fn text(&mut self, (before, old): (&Side, &[u8]), (after, new): (&Side, &[u8])) -> io::Result<()> {
        self.index(before, after)?;
        let diff = TextDiff::new(old, new);
        if diff.is_same() {
            return Ok(());
        }
        let names = (self.names.0.clone(), self.names.1.clone());
        self.file_line("---", "a/", &names.0, before)?;
        self.file_line("+++", "b/", &names.1, after)?;
        let (mut from, mut heading) = (0, None);
        for hunk in diff.hunks(self.patch.context) {
            heading = diff.heading(&hunk, from, heading);
            from = hunk.old().start;
            write_hunk(&diff, &hunk, heading, self.out)?;
        }
        Ok(())
    }

    /// By which git knows what a patch is for, and finds what it was made from (`git apply --3way`).
    fn index(&mut self, before: &Side, after: &Side) -> io::Result<()> {
        if self.patch.form == Form::People {
            return Ok(());
        }
        let (old, new) = (hash(before)?, hash(after)?);
        let mode = match (before, after) {
            (Side::File(_), Side::File(_)) => {
                let (old, new) = notes::modes(self.item);
                let (old, new) =
                    (notes::header_mode(false, old, Form::Git), notes::header_mode(false, new, Form::Git));
                if old == new { format!(" {new}") } else { String::new() }
            }
            (Side::Symlink(_), Side::Symlink(_)) => " 120000".to_owned(),
            _ => String::new(),
        };
        (self.out)(LineKind::Header, format!("index {old}..{new}{mode}").as_bytes())
    }

    fn file_line(&mut self, sign: &str, prefix: &str, name: &[u8], side: &Side) -> io::Result<()> {
        let mut line = format!("{sign} ").into_bytes();
        if matches!(side, Side::Absent) {
            line.extend_from_slice(b"/dev/null");
        } else {
            line.extend(quote::quoted(prefix, name));
            // Where else would a name with spaces end.
            if name.contains(&b' ') && line.last() != Some(&b'"') {
                line.push(b'\t');
            }
        }
        (self.out)(LineKind::Header, &line)
    }

    fn binary(&mut self, before: &Side, after: &Side) -> io::Result<()> {
        self.index(before, after)?;
        (self.out)(LineKind::Header, b"GIT binary patch")?;
        let empty = Content::Whole(Vec::new());
        let [old, new] = [before, after].map(|side| match side {
            Side::File(content) => content,
            _ => &empty,
        });
        binary_patch::literal(new, self.out)?;
        // For `git apply --reverse`; of what is large it would double the patch.
        if let Content::Whole(_) = old {
            binary_patch::literal(old, self.out)?;
        }
        Ok(())
    }

    fn sizes(&mut self, before: &Side, after: &Side) -> io::Result<()> {
        let name = |prefix, name, side: &Side| match side {
            Side::Absent => b"/dev/null".to_vec(),
            _ => quote::quoted(prefix, name),
        };
        let (old, new) = (name("a/", &self.names.0, before), name("b/", &self.names.1, after));
        let is_large = [before, after].iter().any(|side| matches!(side, Side::File(Content::Large { .. })));
        let kind: &[u8] = if is_large { b"Large files " } else { b"Binary files " };
        let sizes = format!(" differ ({} B → {} B)", before.size(), after.size());
        (self.out)(LineKind::Note, &[kind, &old, b" and ", &new, sizes.as_bytes()].concat())
    }

    fn unknown(&mut self, unknown: &Unknown, after: &Side) -> io::Result<()> {
        let left = match after {
            Side::File(content) => format!("; it holds {} B now", content.size()),
            Side::Symlink(_) => "; it is a symlink now".to_owned(),
            _ => String::new(),
        };
        let line = format!("What the command saw here is not known: {unknown}{left}");
        (self.out)(LineKind::Note, line.as_bytes())
    }
}

/// A hunk as a unified diff has it.
pub(super) fn write_hunk(
    diff: &TextDiff<'_>,
    hunk: &Hunk,
    heading: Option<&[u8]>,
    out: &mut Out<'_>,
) -> io::Result<()> {
    let mut header = hunk.header().into_bytes();
    if let Some(heading) = heading {
        header.push(b' ');
        header.extend_from_slice(heading.trim_ascii_end());
    }
    out(LineKind::Hunk, &header)?;
    for (sign, line) in diff.lines(hunk) {
        write_line(sign, line, out)?;
    }
    Ok(())
}

pub(super) fn write_line(sign: Sign, line: &[u8], out: &mut Out<'_>) -> io::Result<()> {
    let kind = match sign {
        Sign::Same => LineKind::Same,
        Sign::Removed => LineKind::Removed,
        Sign::Added => LineKind::Added,
    };
    let whole = line.strip_suffix(b"\n");
    out(kind, &[&[sign.byte()], whole.unwrap_or(line)].concat())?;
    if whole.is_none() { out(LineKind::Same, b"\\ No newline at end of file") } else { Ok(()) }
}

fn missing(path: &str, reason: &str, out: &mut Out<'_>) -> Result<Option<String>, ReviewError> {
    let line = format!("{path}: not in this patch: {reason}");
    out(LineKind::Note, format!("# {line}").as_bytes())?;
    Ok(Some(line))
}

fn is_unknown(side: &Side) -> bool {
    matches!(side, Side::Unknown(_))
}

fn is_same(before: &Side, after: &Side) -> io::Result<bool> {
    Ok(match (before, after) {
        (Side::File(Content::Whole(old)), Side::File(Content::Whole(new))) => old == new,
        (Side::File(old), Side::File(new)) if old.size() != new.size() => false,
        (Side::File(Content::Large { file: old, .. }), Side::File(Content::Large { file: new, .. })) => {
            content::hash(old)? == content::hash(new)?
        }
        (Side::Symlink(old), Side::Symlink(new)) => old == new,
        (Side::Unknown(_) | Side::File(_) | Side::Symlink(_), _) | (_, Side::File(_) | Side::Symlink(_)) => {
            // A new empty file has nothing to show but itself.
            before.size() == 0 && after.size() == 0 && !is_unknown(before)
        }
        _ => true,
    })
}

fn hash(side: &Side) -> io::Result<String> {
    match side {
        Side::File(content) => binary_patch::git_hash(content),
        Side::Symlink(target) => binary_patch::git_hash(&Content::Whole(target.clone())),
        _ => Ok("0".repeat(40)),
    }
}
