//! A header: what stands before a member's content in a tar.
//!
//! A ustar header, and a PAX header before it for what it cannot say: names that are long or not ASCII, numbers that are
//! large, times before the epoch or finer than a second, extended attributes. The same member has the same header.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use tar::{EntryType, Header};

use crate::manifest::{Entry, Kind, Meta};

pub(super) const BLOCK: usize = 512;
/// What eleven and seven octal digits hold: sizes and times, and ids and device numbers.
const MAX_LONG: u64 = (1 << 33) - 1;
const MAX_SHORT: u32 = (1 << 21) - 1;
/// Largest PAX header that programs read: ours and Go's, with which engines read images. In bytes.
pub(crate) const MAX_RECORDS: u64 = 1 << 20;
/// The name of the PAX header itself, of which only programs that know nothing of PAX take notice.
const PAX_NAME: &[u8] = b"././@PaxHeader";

pub(crate) struct Member<'a> {
    /// A directory's ends in a slash.
    pub name: Vec<u8>,
    pub kind: EntryType,
    /// The target of a link.
    pub link: &'a [u8],
    /// Of the content, in bytes.
    pub size: u64,
    /// Major and minor number.
    pub device: (u32, u32),
    pub meta: &'a Meta,
}

impl Member<'_> {
    /// The header, in whole blocks.
    pub(crate) fn header(&self) -> Vec<u8> {
        let records = self.records();
        let mut blocks = Vec::with_capacity(BLOCK);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            set_name(&mut header, PAX_NAME);
            header.set_mode(0o644);
            finish(&mut header, &mut blocks, EntryType::XHeader, records.len() as u64);
            blocks.extend(&records);
            blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        }
        let mut header = Header::new_ustar();
        set_name(&mut header, &self.name);
        let link = &self.link[..self.link.len().min(100)];
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_mode(self.meta.mode);
        // 0 stands where a record says the number.
        header.set_uid(u64::from(fitting(self.meta.uid, MAX_SHORT)));
        header.set_gid(u64::from(fitting(self.meta.gid, MAX_SHORT)));
        header.set_mtime(fitting(u64::try_from(self.meta.mtime.0).unwrap_or(0), MAX_LONG));
        if matches!(self.kind, EntryType::Block | EntryType::Char) {
            let (major, minor) = self.device;
            header.set_device_major(major).expect("a ustar header has device numbers");
            header.set_device_minor(minor).expect("a ustar header has device numbers");
        }
        finish(&mut header, &mut blocks, self.kind, self.size);
        blocks
    }

    /// More than other programs read, and ours.
    pub(super) fn is_too_large(&self) -> bool {
        self.records().len() as u64 > MAX_RECORDS
    }

    /// Attributes last: there are programs that take a newline in a value for the end of its record.
    fn records(&self) -> Vec<u8> {
        let meta = self.meta;
        let mut records = Vec::new();
        if str::from_utf8(&self.name).is_err() || str::from_utf8(self.link).is_err() {
            record(&mut records, b"hdrcharset", b"BINARY");
        }
        for (key, number, max) in [
            ("size", self.size, MAX_LONG),
            ("uid", u64::from(meta.uid), u64::from(MAX_SHORT)),
            ("gid", u64::from(meta.gid), u64::from(MAX_SHORT)),
        ] {
            if number > max {
                record(&mut records, key.as_bytes(), number.to_string().as_bytes());
            }
        }
        let (seconds, nanoseconds) = meta.mtime;
        let fits = u64::try_from(seconds).is_ok_and(|seconds| seconds <= MAX_LONG);
        if nanoseconds != 0 || !fits {
            record(&mut records, b"mtime", time(seconds, nanoseconds).as_bytes());
        }
        if !self.name.is_ascii() || split(&self.name).is_none() {
            record(&mut records, b"path", &self.name);
        }
        if !self.link.is_ascii() || self.link.len() > 100 {
            record(&mut records, b"linkpath", self.link);
        }
        for (name, value) in &meta.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", name.as_bytes()].concat(), value);
        }
        records
    }
}

/// What of an entry no tar can say.
pub(super) fn unsayable(entry: &Entry) -> Option<&'static str> {
    match entry.kind {
        Kind::Device { major, minor, .. } if major.max(minor) > MAX_SHORT => {
            return Some("a device number as large");
        }
        _ => {}
    }
    let parted = |name: &OsString| name.as_bytes().contains(&b'=');
    entry.meta.xattrs.keys().any(parted).then_some("an attribute whose name has a '='")
}

/// Appends `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// Seconds and, unless it is zero, the fraction without its last zeros.
fn time(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let (sign, size) = (if total < 0 { "-" } else { "" }, total.unsigned_abs());
    let (whole, fraction) = (size / 1_000_000_000, size % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{}", format!("{fraction:09}").trim_end_matches('0'))
}

/// As much of the name as fits; a record has the whole of one that does not.
fn set_name(header: &mut Header, name: &[u8]) {
    let (prefix, name) = split(name).unwrap_or((b"", &name[..name.len().min(100)]));
    let ustar = header.as_ustar_mut().expect("Header::new_ustar is one");
    ustar.prefix[..prefix.len()].copy_from_slice(prefix);
    ustar.name[..name.len()].copy_from_slice(name);
}

/// Into the prefix and the name of a ustar header, between which a slash is understood.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let slashes = (1..name.len().min(156)).rev().filter(|at| name[*at] == b'/');
    let mut parts = slashes.map(|at| (&name[..at], &name[at + 1..]));
    parts.find(|(_, rest)| (1..=100).contains(&rest.len()))
}

fn finish(header: &mut Header, blocks: &mut Vec<u8>, kind: EntryType, size: u64) {
    header.set_entry_type(kind);
    header.set_size(fitting(size, MAX_LONG));
    header.set_cksum();
    blocks.extend(header.as_bytes());
}

fn fitting<T: PartialOrd + Default>(number: T, max: T) -> T {
    if number > max { T::default() } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member<'a>(name: &[u8], meta: &'a Meta) -> Member<'a> {
        Member { name: name.to_vec(), kind: EntryType::Regular, link: b"", size: 0, device: (0, 0), meta }
    }

    #[test]
    fn what_ustar_can_say_needs_no_record() {
        let meta = Meta { mode: 0o4755, uid: MAX_SHORT, mtime: (MAX_LONG as i64, 0), ..Meta::default() };
        let long = format!("{}/{}", "d".repeat(155), "n".repeat(100));
        let header = Member { size: MAX_LONG, ..member(long.as_bytes(), &meta) }.header();
        assert_eq!(header.len(), BLOCK);
        let header = Header::from_byte_slice(&header);
        assert_eq!(header.path_bytes(), long.as_bytes());
        assert_eq!(header.entry_size().unwrap(), MAX_LONG);
        assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (MAX_SHORT.into(), MAX_LONG));
    }

    #[test]
    fn what_ustar_cannot_say_is_in_records() {
        let mut meta =
            Meta { uid: MAX_SHORT + 1, gid: u32::MAX, mtime: (-1, 500_000_000), ..Meta::default() };
        meta.xattrs.insert("user.a".into(), b"\n\0".to_vec());
        let name = [b"n".repeat(101), b"\xFF".to_vec()].concat();
        let header = Member { size: 9 << 30, link: "ä".as_bytes(), ..member(&name, &meta) }.header();
        let records = &header[BLOCK..BLOCK * 2];
        let wanted = [
            &b"21 hdrcharset=BINARY\n19 size=9663676416\n15 uid=2097152\n18 gid=4294967295\n14 mtime=-0.5\n"
                [..],
            b"112 path=",
            &name,
            "\n15 linkpath=ä\n".as_bytes(),
            b"26 SCHILY.xattr.user.a=\n\0\n",
        ]
        .concat();
        assert_eq!(records.escape_ascii().to_string().replace("\\x00", ""), {
            let text = wanted.escape_ascii().to_string();
            text.replace("\\x00", "")
        });
        assert_eq!(header.len(), BLOCK * 3);
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 2, 3, 4, 90, 91, 92, 93, 94, 95, 985, 990, 995, 9990] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; length]);
            let digits = records.iter().position(|byte| *byte == b' ').unwrap();
            assert_eq!(str::from_utf8(&records[..digits]).unwrap(), records.len().to_string());
        }
    }

    #[test]
    fn times_are_decimal() {
        for (at, text) in [
            ((0, 0), "0"),
            ((5, 500_000_000), "5.5"),
            ((-1, 500_000_000), "-0.5"),
            ((-2, 500_000_000), "-1.5"),
            ((-2, 0), "-2"),
            ((1, 1), "1.000000001"),
            ((i64::MIN, 0), "-9223372036854775808"),
            ((i64::MAX, 999_999_999), "9223372036854775807.999999999"),
        ] {
            assert_eq!(time(at.0, at.1), text);
        }
    }

    #[test]
    fn what_no_tar_can_say_is_an_error() {
        let device = Kind::Device { block: true, major: 0, minor: MAX_SHORT };
        let mut entry = Entry { path: "a".into(), kind: device, meta: Meta::default() };
        assert_eq!(unsayable(&entry), None);
        entry.kind = Kind::Device { block: true, major: 0, minor: MAX_SHORT + 1 };
        assert!(unsayable(&entry).is_some());
        entry.kind = Kind::Fifo;
        entry.meta.xattrs.insert("user.a=b".into(), Vec::new());
        assert!(unsayable(&entry).is_some());
    }
}
