//! The two protobuf shapes that the echo messages need: strings and nested messages, both length-delimited
//! (protobuf encoding, wire type 2). Called by `grpc`; it knows no message.

/// Appends field `number` with this content.
pub(crate) fn put(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// All length-delimited fields of a message in their order; fields of other wire types are skipped. `None` when it is cut off.
pub(crate) fn fields(mut bytes: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let length = match tag & 7 {
            0 => {
                take_varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = bytes.split_at_checked(length)?;
        if tag & 7 == 2 {
            found.push((number, content));
        }
        bytes = rest;
    }
    Some(found)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_nested_fields_come_back() {
        let long = vec![b'x'; 300];
        let mut bytes = vec![0x08, 0x96, 0x01];
        put(&mut bytes, 1, &long);
        put(&mut bytes, 20, b"");
        assert_eq!(fields(&bytes), Some(vec![(1, long.as_slice()), (20, b"".as_slice())]));
        assert_eq!(fields(&bytes[..bytes.len() - 4]), None);
    }
}
