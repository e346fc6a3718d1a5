//! Fields of a protobuf message, as many of their types as the Remote Execution API's directories need, in the one encoding that
//! it calls canonical.

use thiserror::Error;

/// Why bytes are no message in that encoding.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("it ends in the middle of a field")]
    Short,
    #[error("a number in it is out of range, or longer than it need be")]
    Number,
    #[error("its field {0} is unknown, or of another type")]
    Field(u64),
    #[error("its field {0} comes after a later one, or twice")]
    Order(u64),
    #[error("its field {0} says the default, which is left out")]
    Default(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    /// Bytes, text or another message.
    Bytes(&'a [u8]),
}

/// The fields of a message with their numbers, which never decrease. Nothing is to be expected after an error.
#[derive(Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    /// Numbers of fields that may be there several times.
    repeated: &'static [u64],
    last: u64,
}

impl<'a> Fields<'a> {
    pub fn of(message: &'a [u8], repeated: &'static [u64]) -> Fields<'a> {
        Fields { rest: message, repeated, last: 0 }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let field = key >> 3;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Short)?;
                let (value, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Short)?;
                self.rest = rest;
                Value::Bytes(value)
            }
            _ => return Err(Malformed::Field(field)),
        };
        if field < self.last || field == self.last && !self.repeated.contains(&field) {
            return Err(Malformed::Order(field));
        }
        if value == Value::Number(0) {
            return Err(Malformed::Default(field));
        }
        self.last = field;
        Ok((field, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Short)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits || byte == 0 && shift > 0 {
                return Err(Malformed::Number);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed::Number)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| self.field())
    }
}

/// Adds a field of bytes, text or another message.
pub fn put_bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    put_varint(message, value.len() as u64);
    message.extend(value);
}

/// Adds a field that is a number, unless it is the default.
pub fn put_number(message: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        message.push(field << 3);
        put_varint(message, value);
    }
}

fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u64, Value<'_>)>, Malformed> {
        Fields::of(message, &[3]).collect()
    }

    #[test]
    fn fields_come_back_as_they_were_put() {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, b"");
        for (field, number) in [(2, 0), (2, 1), (4, 0x7F), (5, 0x80), (6, u64::from(u32::MAX)), (7, u64::MAX)]
        {
            put_number(&mut message, field, number);
        }
        let long = vec![7; 300];
        put_bytes(&mut message, 8, &long);
        let wanted = [
            (1, Value::Bytes(b"")),
            (2, Value::Number(1)),
            (4, Value::Number(0x7F)),
            (5, Value::Number(0x80)),
            (6, Value::Number(u64::from(u32::MAX))),
            (7, Value::Number(u64::MAX)),
            (8, Value::Bytes(&long)),
        ];
        assert_eq!(read(&message).unwrap(), wanted);
    }

    #[test]
    fn there_is_one_encoding() {
        assert_eq!(read(b""), Ok(vec![]));
        assert_eq!(read(&[0x1A, 0, 0x1A, 0]).map(|fields| fields.len()), Ok(2), "a repeated field");
        for (message, malformed) in [
            (&[0x08][..], Malformed::Short),
            (&[0x0A, 2, b'a'], Malformed::Short),
            (&[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1], Malformed::Short),
            (&[0x80], Malformed::Short),
            (&[0x08, 0x81, 0], Malformed::Number),
            (&[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2], Malformed::Number),
            (&[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], Malformed::Number),
            (&[0x08, 0], Malformed::Default(1)),
            (&[0x0A, 0, 0x0A, 0], Malformed::Order(1)),
            (&[0x1A, 0, 0x12, 0], Malformed::Order(2)),
            (&[0x02, 0], Malformed::Order(0)),
            // Of 8 and of 4 bytes, and groups.
            (&[0x09, 1, 1, 1, 1, 1, 1, 1, 1], Malformed::Field(1)),
            (&[0x0D, 1, 1, 1, 1], Malformed::Field(1)),
            (&[0x0B, 0x0C], Malformed::Field(1)),
        ] {
            assert_eq!(read(message), Err(malformed), "{message:x?}");
        }
    }
}
