//! DATA: the windows that it uses, the length that it must have, and its way to the user in the pieces in which it comes.
//!
//! Called by `receive.rs`. A frame is accepted or refused as soon as its head is there; its content is never collected.

use super::connection::Connection;
use super::frame::{self, FIRST_WINDOW, FrameHead, HEAD, flag};
use super::receive::{Breach, Event, Step, StreamFault};
use super::stream::{Key, Receiving};
use super::{Code, Fault};

/// A DATA frame of which more is to come.
#[derive(Debug)]
pub(super) struct InData {
    /// None: nobody wants it, or not any more.
    pub stream: Option<Key>,
    left: usize,
    padding: usize,
    end: bool,
}

impl Connection {
    pub(super) fn receive_data(&mut self, head: FrameHead, input: &[u8]) -> Result<Step, Fault> {
        let padded = usize::from(head.has(flag::PADDED));
        let Some(before) = input.get(..HEAD + padded) else { return Ok(Step::silent(0)) };
        let padding = if padded == 1 { usize::from(before[HEAD]) } else { 0 };
        if padded + padding > head.length {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "the padding is longer than its frame"));
        }
        if head.stream == 0 {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "DATA belongs to no stream"));
        }
        self.credit -= head.length as i64;
        if self.credit < 0 {
            return Err(self.give_up(Code::FLOW_CONTROL_ERROR, "more DATA than the connection's window"));
        }
        self.replenish(head.length);
        let left = head.length - padded - padding;
        let end = head.has(flag::END_STREAM);
        if left == 0 && !end {
            self.count_useless()?;
        } else {
            self.useless = 0;
        }
        let mut broken = None;
        let stream = match self.streams.key_of(head.stream) {
            None => {
                self.meet_stranger(head.stream)?;
                None
            }
            Some(key) => match self.streams.find(key).map(|stream| (stream.receiving, stream.sending)) {
                Some((Receiving::Unwanted, _)) => {
                    self.count_useless()?;
                    None
                }
                Some((Receiving::Done, false) | (Receiving::Reset, _)) => return Err(self.meet_closed()),
                _ => match self.accept_data(key, head.length, left, end) {
                    Ok(()) => Some(key),
                    Err(fault) => {
                        broken = Some(self.break_stream(key, fault));
                        None
                    }
                },
            },
        };
        let data = InData { stream, left, padding, end };
        if broken.is_some() {
            if left + padding > 0 {
                self.data = Some(data);
            }
            return Ok(Step { consumed: HEAD + padded, event: broken });
        }
        Ok(self.receive_data_rest(data, input, HEAD + padded))
    }

    /// Gives bytes of the connection's window back.
    fn replenish(&mut self, count: usize) {
        self.owed += count as u32;
        if i64::from(self.owed) >= (i64::from(self.config.connection_window).max(FIRST_WINDOW)) / 2 {
            frame::write_window_update(&mut self.out, 0, self.owed);
            self.credit += i64::from(self.owed);
            self.owed = 0;
        }
    }

    /// The rules for DATA of `whole` bytes, of which `length` are content.
    fn accept_data(&mut self, key: Key, whole: usize, length: usize, end: bool) -> Result<(), StreamFault> {
        let malformed = |why| StreamFault(Code::PROTOCOL_ERROR, Breach::Rule(why));
        let Some(stream) = self.streams.find_mut(key) else { return Ok(()) };
        match stream.receiving {
            Receiving::Body => {}
            Receiving::Head => return Err(malformed("there is DATA before the response")),
            Receiving::Done | Receiving::Reset | Receiving::Unwanted => {
                return Err(StreamFault(Code::STREAM_CLOSED, Breach::Rule("there is DATA after the end")));
            }
        }
        stream.credit -= whole as i64;
        // An empty frame may come whatever the window is, which is negative after it was made smaller (RFC 9113 section 6.9).
        if stream.credit < 0 && whole > 0 {
            let why = Breach::Rule("there is more DATA than the window allows");
            return Err(StreamFault(Code::FLOW_CONTROL_ERROR, why));
        }
        if let Some(left) = &mut stream.left {
            *left = left.checked_sub(length as u64).ok_or(malformed("the body is longer than its Content-Length"))?;
            if end && *left > 0 {
                return Err(malformed("the body is shorter than its Content-Length"));
            }
        }
        if end {
            self.change(key, |stream| stream.receiving = Receiving::Done);
        } else if whole > length {
            // Padding is taken as soon as it comes.
            self.took(key, whole - length, false);
        }
        Ok(())
    }

    /// Hands over what is here of a DATA frame; its content begins at `start` of the input.
    pub(super) fn receive_data_rest(&mut self, mut data: InData, input: &[u8], start: usize) -> Step {
        let here = data.left.min(input.len() - start);
        let range = start..start + here;
        data.left -= here;
        let skipped = if data.left == 0 { data.padding.min(input.len() - range.end) } else { 0 };
        data.padding -= skipped;
        let consumed = range.end + skipped;
        let complete = data.left == 0;
        let end = complete && data.end;
        if !complete || data.padding > 0 {
            // The end is told once.
            let end = data.end && !complete;
            self.data = Some(InData { end, ..data });
        }
        let event = match data.stream {
            Some(stream) if here > 0 || end => Some(Event::Data { stream, range, end }),
            _ => None,
        };
        Step { consumed, event }
    }
}
