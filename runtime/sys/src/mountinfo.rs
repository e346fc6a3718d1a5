//! mountinfo: the mounts of a process as the kernel lists them, proc_pid_mountinfo(5).

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub id: u64,
    /// Major and minor number.
    pub device: (u32, u32),
    root: &'a [u8],
    point: &'a [u8],
    options: &'a [u8],
    kind: &'a [u8],
    source: &'a [u8],
    super_options: &'a [u8],
}

/// In the order of the table, where a later mount covers earlier ones at its place. Lines that are none are left out.
pub fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = Line<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(Line::parse)
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = text(fields.next()?)?.parse().ok()?;
        let (major, minor) = text(fields.nth(1)?)?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
        fields.find(|field| *field == b"-")?;
        let (kind, source) = (fields.next()?, fields.next()?);
        let super_options = fields.next().unwrap_or_default();
        Some(Line { id, device, root, point, options, kind, source, super_options })
    }

    /// What of the file system is mounted.
    pub fn root(&self) -> PathBuf {
        unescaped(self.root)
    }

    /// Where it is mounted.
    pub fn point(&self) -> PathBuf {
        unescaped(self.point)
    }

    /// The file system, with its subtype: `fuse.sshfs`.
    pub fn kind(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.kind)
    }

    pub fn source(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.source)
    }

    /// Of this mount.
    pub fn options(&self) -> impl Iterator<Item = &'a [u8]> {
        self.options.split(|byte| *byte == b',')
    }

    /// Of the file system, for all of its mounts. A path in one is [`unescaped`].
    pub fn super_options(&self) -> impl Iterator<Item = &'a [u8]> {
        self.super_options.split(|byte| *byte == b',')
    }
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// White space and backslashes are three octal digits after a backslash.
pub fn unescaped(field: &[u8]) -> PathBuf {
    if !field.contains(&b'\\') {
        return OsString::from_vec(field.to_vec()).into();
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(text);
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_says_what_is_mounted_where() {
        let table = b"36 35 98:1 /a /with\\040space\\134x rw,noatime master:1 propagate_from:2 - fuse.sshfs me@there: rw,uid=0\n\nnonsense\n";
        let all: Vec<_> = lines(table).collect();
        let [line] = &*all else { panic!("one line is a mount: {all:?}") };
        assert_eq!((line.id, line.device), (36, (98, 1)));
        assert_eq!((line.root(), line.point()), ("/a".into(), "/with space\\x".into()));
        assert_eq!((&*line.kind(), &*line.source()), ("fuse.sshfs", "me@there:"));
        assert!(line.options().eq([&b"rw"[..], b"noatime"]));
        assert!(line.super_options().eq([&b"rw"[..], b"uid=0"]));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescaped(b"a\\9b\\04"), Path::new("a\\9b\\04"));
    }
}
