//! A reader of tars: members one after the other, with what PAX and GNU headers say of them. As much is kept in memory as one
//! member's headers may take, whatever the tar says.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

const BLOCK: usize = 512;
/// Largest header of PAX or long name, in bytes: as large as an export writes one.
const MAX_HEADER: u64 = crate::export::MAX_RECORDS;
/// Most pieces of a sparse file. Each takes 24 bytes of the tar at least, and 16 of memory.
const MAX_PIECES: usize = 1 << 20;

/// The keys and values of a PAX header.
type Records = BTreeMap<Vec<u8>, Vec<u8>>;
/// Offset and length of what a sparse file has, ascending.
type Pieces = Vec<(u64, u64)>;

/// A tar that is read from the beginning to the end.
pub(super) struct TarReader<R> {
    reader: R,
    /// Of the member's body and what fills its last block.
    left: u64,
    padding: u64,
    /// Of the headers that speak for all members after them.
    global: Records,
}

/// The headers of one member.
pub(super) struct Member {
    pub kind: EntryType,
    pub name: Vec<u8>,
    /// Of links.
    pub target: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since the epoch, nanoseconds.
    pub mtime: (i64, u32),
    /// Of the file that it stands for, in bytes.
    pub size: u64,
    /// `None` where the header has none that can be read.
    pub device: Option<(u32, u32)>,
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the bytes of the body belong, of a sparse file.
    pieces: Option<Pieces>,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(reader: R) -> TarReader<R> {
        TarReader { reader, left: 0, padding: 0, global: Records::new() }
    }

    /// The next member; `None` at the end.
    ///
    /// Errors: the tar ends early, a header is wrong or larger than any needs to be.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        self.skip()?;
        let (mut records, mut name, mut target) = (None, None, None);
        loop {
            let Some(header) = self.header()? else {
                let has_begun = records.is_some() || name.is_some() || target.is_some();
                return if has_begun {
                    Err(wrong("it ends before the member of a header"))
                } else {
                    Ok(None)
                };
            };
            let size = header.entry_size()?;
            self.begin(size);
            match header.entry_type() {
                EntryType::XHeader => once(&mut records, parse(&self.whole()?)?)?,
                EntryType::XGlobalHeader => {
                    let global = parse(&self.whole()?)?;
                    self.global.extend(global);
                }
                EntryType::GNULongName => once(&mut name, until_nul(self.whole()?))?,
                EntryType::GNULongLink => once(&mut target, until_nul(self.whole()?))?,
                _ => {
                    let mut all = self.global.clone();
                    all.extend(records.unwrap_or_default());
                    return self.member(&header, all, name, target).map(Some);
                }
            }
            self.skip()?;
        }
    }

    fn member(
        &mut self,
        header: &Header,
        mut records: Records,
        name: Option<Vec<u8>>,
        target: Option<Vec<u8>>,
    ) -> io::Result<Member> {
        let old = header.as_old();
        let number = |key: &[u8], field: &[u8], parsed: io::Result<u64>| match records.get(key) {
            Some(text) => decimal(text),
            None => or_blank(field, parsed),
        };
        let (uid, gid) = (number(b"uid", &old.uid, header.uid())?, number(b"gid", &old.gid, header.gid())?);
        let kind = header.entry_type();
        let said = number(b"size", &old.size, header.entry_size())?;
        let stored = match kind {
            // Some programs tell the size of the file that it is a link to.
            EntryType::Link => 0,
            EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
                if said > 0 =>
            {
                // Readers do not agree about what comes next.
                return Err(wrong("a member that is no file has content"));
            }
            _ => said,
        };
        let mtime = match records.get(&b"mtime"[..]) {
            Some(text) => {
                str::from_utf8(text).ok().and_then(time).ok_or_else(|| wrong("a time is no number"))?
            }
            None => (i64::try_from(or_blank(&old.mtime, header.mtime())?).unwrap_or(i64::MAX), 0),
        };
        let device = (header.device_major(), header.device_minor());
        self.begin(stored);
        let (pieces, size) = match self.pieces(header, &mut records)? {
            Some((pieces, size)) => (Some(pieces), size),
            None => (None, stored),
        };
        let sparse_name = records.remove(&b"GNU.sparse.name"[..]);
        let path = sparse_name.or_else(|| records.remove(&b"path"[..]));
        let link = records.remove(&b"linkpath"[..]).or(target);
        let attribute = |(key, value): (Vec<u8>, Vec<u8>)| {
            key.strip_prefix(b"SCHILY.xattr.").map(|name| (name.to_vec(), value))
        };
        Ok(Member {
            kind,
            name: path.or(name).unwrap_or_else(|| header.path_bytes().into_owned()),
            target: link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            mode: or_blank(&old.mode, header.mode().map(u64::from))? as u32 & 0o7777,
            uid,
            gid,
            mtime,
            size,
            device: if let (Ok(Some(major)), Ok(Some(minor))) = device { Some((major, minor)) } else { None },
            pieces,
            attributes: records.into_iter().filter_map(attribute).collect(),
        })
    }

    /// Where the pieces of a sparse file lie, and its size: as GNU's tar has had it at first, in PAX 0.1 and in PAX 1.0.
    fn pieces(&mut self, header: &Header, records: &mut Records) -> io::Result<Option<(Pieces, u64)>> {
        let mut record = |key: &str| records.remove(format!("GNU.sparse.{key}").as_bytes());
        let (version, map) = ((record("major"), record("minor")), record("map"));
        let real_size = record("realsize").or(record("size"));
        let (pieces, size) = if header.entry_type() == EntryType::GNUSparse {
            let gnu = header.as_gnu().ok_or_else(|| wrong("a sparse file without a header of GNU"))?;
            (self.old_pieces(gnu)?, gnu.real_size()?)
        } else {
            let Some(size) = real_size else {
                return if record("offset").is_some() || map.is_some() { Err(sparse()) } else { Ok(None) };
            };
            let pieces = match (version, map) {
                ((Some(major), Some(minor)), None) if major == b"1" && minor == b"0" => {
                    self.leading_pieces()?
                }
                (_, Some(map)) => pairs(map.split(|byte| *byte == b',').map(decimal))?,
                _ => return Err(sparse()),
            };
            (pieces, decimal(&size)?)
        };
        let mut end = 0;
        for (offset, length) in &pieces {
            if *offset < end {
                return Err(sparse());
            }
            end = offset.checked_add(*length).filter(|end| *end <= size).ok_or_else(sparse)?;
        }
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        if stored != self.left {
            return Err(sparse());
        }
        Ok(Some((pieces, size)))
    }

    fn old_pieces(&mut self, gnu: &tar::GnuHeader) -> io::Result<Pieces> {
        let mut pieces = Vec::new();
        let mut add = |sparse: &tar::GnuSparseHeader| -> io::Result<()> {
            if !sparse.is_empty() {
                pieces.push((sparse.offset()?, sparse.length()?));
            }
            if pieces.len() > MAX_PIECES { Err(self::sparse()) } else { Ok(()) }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut is_extended = gnu.is_extended();
        let mut blocks = 0;
        while is_extended {
            blocks += 1;
            if blocks > MAX_PIECES / 21 {
                return Err(sparse());
            }
            let mut extension = GnuExtSparseHeader::new();
            self.reader.read_exact(extension.as_mut_bytes()).map_err(early)?;
            extension.sparse.iter().try_for_each(&mut add)?;
            is_extended = extension.is_extended();
        }
        Ok(pieces)
    }

    /// Those that the body begins with: lines of decimals, the first says how many pairs come, up to the end of a block.
    fn leading_pieces(&mut self) -> io::Result<Pieces> {
        let (mut numbers, mut line, mut wanted) = (Vec::new(), Vec::new(), None);
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            self.read_body(&mut block)?;
            for byte in block {
                match (byte, wanted) {
                    (b'\n', None) => {
                        let count = usize::try_from(decimal(&line)?).unwrap_or(usize::MAX);
                        wanted = Some(count).filter(|count| *count <= MAX_PIECES).map(|count| 2 * count);
                        wanted.ok_or_else(sparse)?;
                        line.clear();
                    }
                    (b'\n', Some(wanted)) if numbers.len() < wanted => {
                        numbers.push(decimal(&line));
                        line.clear();
                    }
                    (_, Some(wanted)) if numbers.len() == wanted => break,
                    // As many digits as the largest number has.
                    (byte, _) if line.len() < 20 => line.push(byte),
                    _ => return Err(sparse()),
                }
            }
        }
        pairs(numbers.into_iter())
    }

    /// Reads all of `bytes` from the body.
    fn read_body(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(sparse)?;
        self.reader.read_exact(bytes).map_err(early)
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let length = crate::content::fill(&mut self.reader, header.as_mut_bytes())?;
        if length == 0 {
            return Ok(None);
        }
        if length < BLOCK {
            return Err(wrong("it ends in a header"));
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK];
            let length = crate::content::fill(&mut self.reader, &mut second)?;
            return if second[..length].iter().all(|byte| *byte == 0) {
                Ok(None)
            } else {
                Err(wrong("it goes on after its end"))
            };
        }
        if !is_sound(&header) {
            return Err(wrong("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// The rest of the body, which nobody has asked for.
    fn skip(&mut self) -> io::Result<()> {
        let rest = self.left.saturating_add(std::mem::take(&mut self.padding));
        self.left = 0;
        let skipped = io::copy(&mut self.reader.by_ref().take(rest), &mut io::sink())?;
        // What fills the last block of all is missing in some.
        if skipped < rest && rest - skipped >= BLOCK as u64 {
            Err(wrong("it ends in a member"))
        } else {
            Ok(())
        }
    }

    /// The whole body of a header.
    fn whole(&mut self) -> io::Result<Vec<u8>> {
        if self.left > MAX_HEADER {
            return Err(wrong("a header is larger than a megabyte"));
        }
        let mut bytes = vec![0; self.left as usize];
        self.read_body(&mut bytes)?;
        Ok(bytes)
    }

    /// What the member is the content of, with zeros where a sparse file has nothing.
    pub(super) fn content<'a>(&'a mut self, member: &'a Member) -> Content<'a, R> {
        let (position, pieces) = (0, member.pieces.as_deref());
        Content { tar: self, pieces, position, size: member.size }
    }
}

/// A file of a tar.
pub(super) struct Content<'a, R> {
    tar: &'a mut TarReader<R>,
    pieces: Option<&'a [(u64, u64)]>,
    position: u64,
    size: u64,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = match &mut self.pieces {
            None => self.size,
            Some(pieces) => {
                while let Some((offset, length)) = pieces.first()
                    && self.position >= offset + length
                {
                    *pieces = &pieces[1..];
                }
                let (offset, length) = pieces.first().copied().unwrap_or((self.size, 0));
                if self.position < offset {
                    let hole =
                        usize::try_from(offset - self.position).unwrap_or(usize::MAX).min(buffer.len());
                    buffer[..hole].fill(0);
                    self.position += hole as u64;
                    return Ok(hole);
                }
                offset + length
            }
        };
        let wanted = usize::try_from(end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.tar.reader.read(&mut buffer[..wanted])?;
        self.tar.left -= length as u64;
        self.position += length as u64;
        Ok(length)
    }
}

/// The sum of all bytes, the field itself taken for blanks; some old programs took the bytes for signed.
fn is_sound(header: &Header) -> bool {
    let field = 148..156;
    let bytes = || header.as_bytes().iter().enumerate();
    let byte = |(index, byte): (usize, &u8)| if field.contains(&index) { b' ' } else { *byte };
    let unsigned: u32 = bytes().map(|one| u32::from(byte(one))).sum();
    let signed: i32 = bytes().map(|one| i32::from(byte(one).cast_signed())).sum();
    header.cksum().is_ok_and(|said| said == unsigned || said.cast_signed() == signed)
}

/// Lines of `LENGTH KEY=VALUE`, where the value may hold any byte.
fn parse(mut text: &[u8]) -> io::Result<Records> {
    let bad = || wrong("a PAX header is wrong");
    let mut records = Records::new();
    while !text.is_empty() {
        let blank = text.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(&text[..blank])?).map_err(|_| bad())?;
        let record =
            text.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        text = &text[length..];
    }
    Ok(records)
}

/// Readers do not agree about which of two counts.
fn once<T>(place: &mut Option<T>, value: T) -> io::Result<()> {
    if place.replace(value).is_some() { Err(wrong("two headers say the same")) } else { Ok(()) }
}

fn pairs(numbers: impl Iterator<Item = io::Result<u64>>) -> io::Result<Pieces> {
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() || pairs.len() > MAX_PIECES {
        return Err(sparse());
    }
    Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    name
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let parsed = str::from_utf8(text).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| wrong("a header has a number that is none"))
}

/// An empty field is 0 to every tar program, and an error to the tar crate.
fn or_blank(field: &[u8], parsed: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { parsed }
}

/// A time of PAX: seconds, perhaps negative, perhaps with a fraction.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn sparse() -> io::Error {
    wrong("the map of a sparse file is wrong, or of a kind that is not read: make the tar with --format=gnu")
}

fn early(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { wrong("it ends in a header") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export;
    use crate::manifest::Meta;

    #[test]
    fn pax_times_keep_their_fraction() {
        assert_eq!(time("1700000000.25"), Some((1_700_000_000, 250_000_000)));
        assert_eq!(time("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("x"), None);
    }

    #[test]
    fn pax_values_may_hold_any_byte() {
        let records = parse(b"9 a=b\nc=\n\x00").map(|_| ()).unwrap_err();
        assert_eq!(records.to_string(), "a PAX header is wrong");
        let records = parse(b"9 a=b\nc=\n6 d=e\n").unwrap();
        assert_eq!(
            records,
            Records::from([(b"a".to_vec(), b"b\nc=".to_vec()), (b"d".to_vec(), b"e".to_vec())])
        );
        for bad in [&b"99 a=b\n"[..], b"6 a=b", b"6 a+b\n", b"x a=b\n", b"0 a=b\n", b" a=b\n", b"3\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    /// Bytes that nobody looks at, and that cost nothing.
    struct Any(u64);

    impl Read for Any {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.min(buffer.len() as u64);
            self.0 -= length;
            Ok(length as usize)
        }
    }

    #[test]
    fn a_file_larger_than_octal_digits_say_is_followed_by_the_next_member() {
        const SIZE: u64 = 9 << 30;
        let head = |name: &str, size: u64| {
            let meta = Meta::default();
            let (name, kind) = (name.into(), EntryType::Regular);
            export::Member { name, kind, link: b"", size, device: (0, 0), meta: &meta }.header()
        };
        let (first, second) = (head("large", SIZE), head("small", 0));
        assert!(first.len() > BLOCK, "a PAX header says the size");
        let mut tar = TarReader::new(first.chain(Any(SIZE)).chain(&second[..]));
        let large = tar.next().unwrap().unwrap();
        assert_eq!((&large.name[..], large.size), (&b"large"[..], SIZE));
        assert_eq!(tar.next().unwrap().unwrap().name, b"small");
        assert!(tar.next().unwrap().is_none());
    }
}
