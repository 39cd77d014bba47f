//! Protocol Buffers as far as callouts speak them: fields are written one by one and read one by one.
//!
//! Called by `ext_authz`. No schema and no reflection: the few messages that are exchanged are written out where they are used. Reading is
//! bounded by the bytes that came, and fails rather than guesses.

/// Writes the fields of a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A number. Zero is what a field is that is not there.
    pub(crate) fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
    }

    /// Bytes, or text in UTF-8. Nothing is what a field is that is not there.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.delimited(field, value);
        }
    }

    fn delimited(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A message within the message; it is there even when it is empty.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.delimited(field, &inner.bytes);
    }

    /// An entry of a map from text to text.
    pub(crate) fn entry(&mut self, field: u32, key: &[u8], value: &[u8]) {
        self.message(field, |entry| {
            entry.bytes(1, key);
            entry.bytes(2, value);
        });
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'b> {
    Number(u64),
    Bytes(&'b [u8]),
    /// A fixed width, which none of our messages has.
    Fixed,
}

impl<'b> Content<'b> {
    /// The bytes of text, of a message, or of a field of bytes.
    pub(crate) fn bytes(self) -> Result<&'b [u8], Garbled> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Number(_) | Content::Fixed => Err(Garbled),
        }
    }

    pub(crate) fn text(self) -> Result<&'b str, Garbled> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Garbled)
    }

    pub(crate) fn number(self) -> Result<u64, Garbled> {
        match self {
            Content::Number(number) => Ok(number),
            Content::Bytes(_) | Content::Fixed => Err(Garbled),
        }
    }
}

/// A message with the prefix of gRPC (PROTOCOL-HTTP2, "Length-Prefixed-Message").
pub(crate) fn grpc_frame(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The one message of a call, which is not compressed.
pub(crate) fn grpc_message(call: &[u8]) -> Result<&[u8], Garbled> {
    let message = call.split_at_checked(5).filter(|(prefix, message)| {
        prefix[0] == 0
            && usize::try_from(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]])) == Ok(message.len())
    });
    message.map(|(_, message)| message).ok_or(Garbled)
}

/// The bytes are not a message, or not this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

/// Reads the fields of a message in order.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Reader<'b> {
        Reader { rest: bytes }
    }

    /// The next field with its number; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Content<'b>)>, Garbled> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = tag >> 3;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => self.take(8).map(|_| Content::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Garbled)?;
                Content::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Content::Fixed)?,
            _ => return Err(Garbled),
        };
        if field == 0 { Err(Garbled) } else { Ok(Some((field, content))) }
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Garbled> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Garbled)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Garbled> {
        let mut value = 0;
        for place in 0..10 {
            let (first, rest) = self.rest.split_first().ok_or(Garbled)?;
            self.rest = rest;
            let bits = u64::from(first & 0x7f);
            if place == 9 && bits > 1 {
                return Err(Garbled);
            }
            value |= bits << (7 * place);
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.number(1, 300);
        writer.bytes(2, b"abc");
        writer.message(3, |inner| inner.number(1, u64::MAX));
        writer.number(4, 0);
        let bytes = writer.into_bytes();
        assert_eq!(&bytes[..8], b"\x08\xac\x02\x12\x03abc");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.next(), Ok(Some((1, Content::Number(300)))));
        assert_eq!(reader.next(), Ok(Some((2, Content::Bytes(b"abc")))));
        let Ok(Some((3, Content::Bytes(inner)))) = reader.next() else { panic!("a message") };
        assert_eq!(Reader::new(inner).next(), Ok(Some((1, Content::Number(u64::MAX)))));
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn what_is_cut_or_made_up_is_refused() {
        for wrong in [
            &b"\x08"[..],
            b"\x12\x05abc",
            b"\x0b",
            b"\x02\x00",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x09abc",
        ] {
            assert_eq!(Reader::new(wrong).next(), Err(Garbled), "{wrong:?}");
        }
    }
}
