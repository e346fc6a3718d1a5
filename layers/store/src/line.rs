//! A line of a manifest, read by one scan from left to right.
//!
//! Only the canonical form is understood, key by key in its order, which makes this several times as fast as a JSON
//! parser and needs no second look at whether the line is canonical.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::digest::Digest;
use crate::escape;
use crate::manifest::{Entry, Kind, Meta};

/// The entry that `line` (without its newline) says; `None` when it is not canonical.
pub fn parse(line: &str) -> Option<Entry> {
    let mut scan = Scan { rest: line.strip_prefix("{\"p\":\"")? };
    let path = scan.string_end()?;
    scan.eat(",\"t\":\"")?;
    let letter = scan.until_quote()?;
    let mut meta = Meta::default();
    let bare = matches!(letter, "w" | "h");
    if !bare {
        scan.meta(&mut meta)?;
    }
    let kind = scan.kind(letter)?;
    if !bare && scan.skip(",\"x\":{") {
        meta.xattrs = scan.xattrs()?;
    }
    (scan.rest == "}").then(|| Entry { path: path.into(), kind, meta })
}

struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn meta(&mut self, meta: &mut Meta) -> Option<()> {
        self.eat(",\"m\":\"")?;
        let mode = self.until_quote()?;
        meta.mode = u32::from_str_radix(plain_digits(mode)?, 8).ok()?;
        if self.skip(",\"u\":") {
            meta.uid = self.not_zero()?.try_into().ok()?;
        }
        if self.skip(",\"g\":") {
            meta.gid = self.not_zero()?.try_into().ok()?;
        }
        if self.skip(",\"mt\":") {
            meta.mtime.0 = self.not_zero()?.try_into().ok()?;
        }
        if self.skip(",\"ns\":") {
            meta.mtime.1 = self.not_zero()?.try_into().ok()?;
        }
        Some(())
    }

    fn kind(&mut self, letter: &str) -> Option<Kind> {
        Some(match letter {
            "d" => Kind::Directory { opaque: self.skip(",\"o\":true") },
            "f" => {
                self.eat(",\"s\":")?;
                let size = self.number()?.try_into().ok()?;
                self.eat(",\"h\":\"")?;
                Kind::File { digest: Digest::from_hex(self.until_quote()?).ok()?, size }
            }
            "l" => Kind::Symlink { target: self.string(",\"to\":\"")? },
            "h" => Kind::HardLink { to: self.string(",\"to\":\"")?.into() },
            "w" => Kind::Whiteout,
            "p" => Kind::Fifo,
            "b" | "c" => {
                self.eat(",\"maj\":")?;
                let major = self.number()?.try_into().ok()?;
                self.eat(",\"min\":")?;
                Kind::Device { block: letter == "b", major, minor: self.number()?.try_into().ok()? }
            }
            _ => return None,
        })
    }

    fn xattrs(&mut self) -> Option<BTreeMap<OsString, Vec<u8>>> {
        let mut xattrs: BTreeMap<OsString, Vec<u8>> = BTreeMap::new();
        self.eat("\"")?;
        loop {
            let name = self.string_end()?;
            if xattrs.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return None;
            }
            let value = self.string(":\"")?;
            xattrs.insert(name, value.into_vec());
            if self.skip("}") {
                return Some(xattrs);
            }
            self.eat(",\"")?;
        }
    }

    fn skip(&mut self, prefix: &str) -> bool {
        self.eat(prefix).is_some()
    }

    fn eat(&mut self, prefix: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(prefix)?;
        Some(())
    }

    /// What precedes the next quote, both taken away.
    fn until_quote(&mut self) -> Option<&'a str> {
        let (before, after) = self.rest.split_once('"')?;
        self.rest = after;
        Some(before)
    }

    fn string(&mut self, prefix: &str) -> Option<OsString> {
        self.eat(prefix)?;
        self.string_end()
    }

    /// The rest of a string whose opening quote is gone.
    fn string_end(&mut self) -> Option<OsString> {
        let text = self.until_quote()?;
        if !text.bytes().any(escape::is_special) {
            return Some(OsString::from(text));
        }
        let bytes = escape::decode(text)?;
        let mut again = String::with_capacity(text.len());
        escape::push(&mut again, &bytes);
        (again == text).then(|| OsString::from_vec(bytes))
    }

    /// A number that is left out when it is 0.
    fn not_zero(&mut self) -> Option<i128> {
        self.number().filter(|number| *number != 0)
    }

    fn number(&mut self) -> Option<i128> {
        let end = self.rest.bytes().position(|byte| matches!(byte, b',' | b'}'))?;
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        let (sign, magnitude) = match digits.strip_prefix('-') {
            // There is no minus zero.
            Some("0") => return None,
            Some(magnitude) => (-1, magnitude),
            None => (1, digits),
        };
        plain_digits(magnitude)?.parse::<u64>().ok().map(|number| sign * i128::from(number))
    }
}

/// The text again, if it is digits without a superfluous zero.
fn plain_digits(text: &str) -> Option<&str> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then_some(text)
}
