//! Messages of D-Bus as bytes: what is written, little-endian, and what is read of answers. See the D-Bus specification,
//! "Message Protocol".

use thiserror::Error;

#[derive(Debug, PartialEq, Eq, Error)]
#[error("a message of D-Bus ends early, or is none")]
pub struct Malformed;

/// Writes values, each at a multiple of its size as D-Bus has it.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, size: usize) {
        self.0.resize(self.0.len().next_multiple_of(size), 0);
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    /// A text or the path of an object.
    pub fn string(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    pub fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).expect("signatures here are short"));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    pub fn begin_struct(&mut self) {
        self.align(8);
    }

    /// `size`: that at which its elements are aligned.
    pub fn array(&mut self, size: usize, write: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let counted = self.0.len() - 4;
        self.align(size);
        let begin = self.0.len();
        write(self);
        let bytes = length(self.0.len() - begin);
        self.0[counted..counted + 4].copy_from_slice(&bytes.to_le_bytes());
    }
}

/// D-Bus has no longer ones than 128 MiB, and who writes has checked that.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A call of a method.
pub(super) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    /// Of the body.
    pub signature: &'a str,
}

const CALL: u8 = 1;
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

impl Call<'_> {
    pub fn message(&self, serial: u32, body: &Writer) -> Vec<u8> {
        let mut message = Writer(vec![b'l', CALL, 0, 1]);
        message.u32(length(body.0.len()));
        message.u32(serial);
        message.array(8, |to| {
            let texts = [
                (1, "o", self.path),
                (2, "s", self.interface),
                (3, "s", self.member),
                (6, "s", self.destination),
            ];
            for (field, signature, text) in texts {
                to.begin_struct();
                to.u8(field);
                to.signature(signature);
                to.string(text);
            }
            if !self.signature.is_empty() {
                to.begin_struct();
                to.u8(8);
                to.signature("g");
                to.signature(self.signature);
            }
        });
        message.align(8);
        message.0.extend(&body.0);
        message.0
    }
}

/// What comes in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: u8,
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    signature: String,
    body: Vec<u8>,
    is_big_endian: bool,
}

/// Of the part of each message that tells how long it is.
pub(super) const HEAD: usize = 16;
/// What is asked for here is much shorter.
const LONGEST: usize = 1 << 20;

/// How many bytes there are in all.
pub(super) fn size(head: &[u8; HEAD]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(head, head[0] == b'B');
    reader.at = 4;
    let body = reader.u32()? as usize;
    reader.at = 12;
    let fields = reader.u32()? as usize;
    let size = (HEAD + fields).next_multiple_of(8) + body;
    if matches!(head[0], b'l' | b'B') && size <= LONGEST { Ok(size) } else { Err(Malformed) }
}

impl Message {
    pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
        let is_big_endian = bytes.first() == Some(&b'B');
        let mut reader = Reader::new(bytes, is_big_endian);
        reader.at = 1;
        let kind = reader.u8()?;
        reader.at = 12;
        let end = reader.u32()? as usize + HEAD;
        let mut message = Message { kind, is_big_endian, ..Message::default() };
        while reader.at < end {
            reader.align(8);
            let field = reader.u8()?;
            let signature = reader.signature()?;
            match (field, signature) {
                (3, "s") => message.member = reader.string()?.to_owned(),
                (4, "s") => message.error = reader.string()?.to_owned(),
                (5, "u") => message.reply_to = reader.u32()?,
                (8, "g") => message.signature = reader.signature()?.to_owned(),
                (_, "s" | "o") => drop(reader.string()?),
                (_, "u") => drop(reader.u32()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(Malformed),
            }
        }
        reader.align(8);
        message.body = bytes.get(reader.at..).ok_or(Malformed)?.to_vec();
        Ok(message)
    }

    /// The texts of a body that begins with `signature`, of `s`, `o` and `u` (a number as text), or `v` with a text in it.
    pub fn texts(&self, signature: &str) -> Result<Vec<String>, Malformed> {
        if !self.signature.starts_with(signature) {
            return Err(Malformed);
        }
        let mut reader = Reader::new(&self.body, self.is_big_endian);
        let texts = signature.chars().map(|letter| match letter {
            'u' => Ok(reader.u32()?.to_string()),
            'v' => match reader.signature()? {
                "s" | "o" => Ok(reader.string()?.to_owned()),
                _ => Err(Malformed),
            },
            _ => Ok(reader.string()?.to_owned()),
        });
        texts.collect()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], is_big_endian: bool) -> Reader<'a> {
        Reader { bytes, at: 0, is_big_endian }
    }

    fn align(&mut self, size: usize) {
        self.at = self.at.next_multiple_of(size);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u8()?.into();
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, Malformed> {
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::value::{Property, Value, write_properties};
    use super::*;

    #[test]
    fn a_call_is_what_the_specification_says() {
        let mut body = Writer::default();
        body.string("a");
        write_properties(&mut body, &[Property::number("N", 1), Property::flag("B", true)]);
        let call =
            Call { destination: "d.e", path: "/p", interface: "i.f", member: "M", signature: "sa(sv)" };
        let message = call.message(7, &body);
        let parts: [&[u8]; 11] = [
            b"l\x01\0\x01\x38\0\0\0\x07\0\0\0\x4c\0\0\0",
            b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.f\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0d.e\0\0\0\0\0",
            b"\x08\x01g\0\x06sa(sv)\0\0\0\0\0",
            b"\x01\0\0\0a\0\0\0\x28\0\0\0\0\0\0\0",
            b"\x01\0\0\0N\0\x01t\0\0\0\0\0\0\0\0",
            b"\x01\0\0\0\0\0\0\0",
            b"\x01\0\0\0B\0\x01b\0\0\0\0",
            b"\x01\0\0\0",
        ];
        assert_eq!(message, parts.concat());
        assert_eq!(size(message[..16].try_into().unwrap()).unwrap(), message.len());
    }

    #[test]
    fn answers_of_either_byte_order_are_read() {
        let little = b"l\x02\x01\x01\x0b\0\0\0\x05\0\0\0\x10\0\0\0\x05\x01u\0\x07\0\0\0\x08\x01g\0\x02us\0\x09\0\0\0\x02\0\0\0ab\0";
        let big = b"B\x02\x01\x01\0\0\0\x0b\0\0\0\x05\0\0\0\x10\x05\x01u\0\0\0\0\x07\x08\x01g\0\x02us\0\0\0\0\x09\0\0\0\x02ab\0";
        for bytes in [&little[..], &big[..]] {
            let message = Message::parse(bytes).unwrap();
            assert_eq!((message.kind, message.reply_to), (RETURN, 7));
            assert_eq!(message.texts("us").unwrap(), ["9", "ab"]);
            assert_eq!(message.texts("s"), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_in_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::parse(&bytes) {
                let _ = message.texts("us");
                let _ = message.texts("v");
            }
        }

        #[test]
        fn a_call_has_the_size_that_it_tells(name in "[a-z]{1,9}", texts in proptest::collection::vec(".{0,9}", 0..4)) {
            let mut body = Writer::default();
            let properties = [Property::new(&name, Value::Texts(texts)), Property::number("Z", 9)];
            write_properties(&mut body, &properties);
            let call = Call { destination: &name, path: "/", interface: &name, member: &name, signature: "a(sv)" };
            let message = call.message(1, &body);
            prop_assert_eq!(size(message[..16].try_into().unwrap()).unwrap(), message.len());
            prop_assert_eq!(Message::parse(&message).unwrap().member, name);
        }
    }
}
