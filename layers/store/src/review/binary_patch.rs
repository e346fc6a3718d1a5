//! A binary patch: a whole content in letters, as git writes and reads it: deflated, and in base 85, 52 bytes a line.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest as _, Sha1};

use super::side::Content;
use super::{LineKind, Out};

const ALPHABET: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
/// What a line holds, in bytes.
const LINE: usize = 52;

/// What git names the content by, in 40 hexadecimal digits.
pub fn git_hash(content: &Content) -> io::Result<String> {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.size()));
    io::copy(&mut content.reader()?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// One direction of the patch: the content that is there afterwards.
pub(super) fn literal(content: &Content, out: &mut Out<'_>) -> io::Result<()> {
    out(LineKind::Header, format!("literal {}", content.size()).as_bytes())?;
    let mut encoder = ZlibEncoder::new(Lines { out: &mut *out, rest: Vec::new() }, Compression::default());
    let copied = io::copy(&mut content.reader()?, &mut encoder)?;
    if copied != content.size() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    encoder.finish()?.finish()?;
    out(LineKind::Header, b"")
}

struct Lines<'a, 'b> {
    out: &'a mut Out<'b>,
    /// Less than a line.
    rest: Vec<u8>,
}

impl Write for Lines<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / LINE * LINE;
        for line in self.rest[..whole].chunks(LINE) {
            (self.out)(LineKind::Header, &encoded(line))?;
        }
        self.rest.drain(..whole);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines<'_, '_> {
    fn finish(self) -> io::Result<()> {
        if self.rest.is_empty() { Ok(()) } else { (self.out)(LineKind::Header, &encoded(&self.rest)) }
    }
}

/// A letter that says how many bytes follow, and five for each four of them, zeros at the end.
fn encoded(line: &[u8]) -> Vec<u8> {
    let length = line.len() as u8;
    let mut text = vec![if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 }];
    for four in line.chunks(4) {
        let mut bytes = [0; 4];
        bytes[..four.len()].copy_from_slice(four);
        let mut number = u32::from_be_bytes(bytes);
        let mut digits = [0; 5];
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[(number % 85) as usize];
            number /= 85;
        }
        text.extend_from_slice(&digits);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_git_s_names() {
        let hash = |bytes: &[u8]| git_hash(&Content::Whole(bytes.to_vec())).unwrap();
        assert_eq!(hash(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(hash(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn a_line_begins_with_its_length() {
        assert_eq!(encoded(&[0xFF; 4]), b"D|NsC0");
        assert_eq!(encoded(&[0; 52])[0], b'z');
        assert_eq!(encoded(&[0; 27])[0], b'a');
        assert_eq!(encoded(b"x").len(), 6);
    }
}
