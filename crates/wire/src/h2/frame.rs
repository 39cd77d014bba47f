//! Frames (RFC 9113 sections 4 and 6): reading their heads, and writing those whose payload is small.
//!
//! Called by the connection, which knows what a frame means. Header blocks and DATA payloads are not looked at here.

use super::Code;

/// Bytes before every payload (RFC 9113 section 4.1).
pub(super) const HEAD: usize = 9;

/// The largest payload that we send, and accept but for DATA: what every endpoint takes without being asked (RFC 9113 section 4.2).
pub(super) const LARGEST: usize = 16_384;

/// The largest window (RFC 9113 section 6.9.1).
pub(super) const LARGEST_WINDOW: i64 = (1 << 31) - 1;

/// What a connection begins with, before SETTINGS say otherwise (RFC 9113 sections 6.5.2 and 6.9.2).
pub(super) const FIRST_WINDOW: i64 = 65_535;

/// Types of frames (RFC 9113 section 6).
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Numbers of settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The first nine bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHead {
    /// None when the bytes end before the head does.
    pub(super) fn read(bytes: &[u8]) -> Option<FrameHead> {
        let head = bytes.first_chunk::<HEAD>()?;
        Some(FrameHead {
            length: usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]),
            kind: head[3],
            flags: head[4],
            // The highest bit is reserved and ignored.
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
        })
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes the head of a frame.
pub(super) fn write_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = (length as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags, stream[0], stream[1], stream[2], stream[3]]);
}

/// Sets the length in a head that was written before its payload.
pub(super) fn set_length(out: &mut [u8], at: usize, length: usize) {
    let length = (length as u32).to_be_bytes();
    if let Some(place) = out.get_mut(at..at + 3) {
        place.copy_from_slice(&length[1..]);
    }
}

pub(super) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    write_head(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (number, value) in settings {
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn write_settings_ack(out: &mut Vec<u8>) {
    write_head(out, 0, kind::SETTINGS, flag::ACK, 0);
}

pub(super) fn write_ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    write_head(out, 8, kind::PING, flags, 0);
    out.extend_from_slice(&payload);
}

pub(super) fn write_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    write_head(out, 8, kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn write_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    write_head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn write_window_update(out: &mut Vec<u8>, stream: u32, more: u32) {
    write_head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&more.to_be_bytes());
}

/// The big-endian number at `at`; 0 when the payload is shorter, which the caller has ruled out.
pub(super) fn number_at(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let mut out = Vec::new();
        write_head(&mut out, 0x01_02_03, kind::HEADERS, flag::END_HEADERS, 0x7fff_fff1);
        assert!(FrameHead::read(&out[..8]).is_none());
        let head = FrameHead::read(&out).expect("a head");
        assert_eq!((head.length, head.kind, head.flags, head.stream), (0x01_02_03, 1, 4, 0x7fff_fff1));
        set_length(&mut out, 0, 7);
        assert_eq!(FrameHead::read(&out).expect("a head").length, 7);
    }

    #[test]
    fn the_reserved_bit_is_ignored() {
        let head = FrameHead::read(&[0, 0, 0, 0, 0, 0x80, 0, 0, 5]).expect("a head");
        assert_eq!(head.stream, 5);
    }
}
