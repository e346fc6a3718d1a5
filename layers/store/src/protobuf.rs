//! Fields of a protobuf message, as many of their types as the Remote Execution API's directories need.

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
