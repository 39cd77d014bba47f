//! Frames that concern the connection as a whole, and the windows: SETTINGS, PING, GOAWAY, WINDOW_UPDATE, PRIORITY.
//!
//! Called by `receive.rs`, which has checked the size of the frame and that it may come now.

use super::connection::{ALIVE, Connection, FAREWELL, Leaving, Role, Stage};
use super::frame::{self, FrameHead, LARGEST_WINDOW, flag, number_at, setting};
use super::receive::{Breach, Event, StreamFault};
use super::stream::Receiving;
use super::{Code, Fault};

impl Connection {
    pub(super) fn receive_settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        if head.stream != 0 {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "SETTINGS belong to a stream"));
        }
        if head.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(self.give_up(Code::FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS has a payload"));
            }
            self.learn_of_acknowledgement();
            return Ok(None);
        }
        if !payload.len().is_multiple_of(6) {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "SETTINGS are cut"));
        }
        if self.stage == Stage::Running {
            self.count_useless()?;
        }
        let first = self.stage == Stage::Settings;
        self.stage = Stage::Running;
        let mut limited = false;
        let window = self.peer.window;
        for entry in payload.chunks_exact(6) {
            let number = u16::from_be_bytes([entry[0], entry[1]]);
            limited |= number == setting::MAX_CONCURRENT_STREAMS;
            self.apply_setting(number, number_at(entry, 2))?;
        }
        self.resize_windows(self.peer.window - window)?;
        if first && !limited {
            // No limit was announced (RFC 9113 section 6.5.2).
            self.peer.max_streams = u32::MAX;
        }
        self.count_ack()?;
        frame::write_settings_ack(&mut self.out);
        Ok(Some(Event::Room { stream: None }))
    }

    fn apply_setting(&mut self, number: u16, value: u32) -> Result<(), Fault> {
        match number {
            setting::HEADER_TABLE_SIZE => self.encoder.set_peer_table_size(value as usize),
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(self.give_up(Code::PROTOCOL_ERROR, "ENABLE_PUSH has a value that is not allowed"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > LARGEST_WINDOW {
                    return Err(self.give_up(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large"));
                }
                self.peer.window = i64::from(value);
            }
            setting::MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                return Err(self.give_up(Code::PROTOCOL_ERROR, "MAX_FRAME_SIZE has a value that is not allowed"));
            }
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(
                    self.give_up(Code::PROTOCOL_ERROR, "ENABLE_CONNECT_PROTOCOL has a value that is not allowed")
                );
            }
            // Larger frames than the default are never sent, and unknown settings are ignored.
            _ => {}
        }
        Ok(())
    }

    /// From now on the peer goes by what we have announced.
    fn learn_of_acknowledgement(&mut self) {
        if self.acknowledged {
            return;
        }
        let before = self.first_credit();
        self.acknowledged = true;
        let less = before - self.first_credit();
        for stream in self.streams.iter_mut() {
            stream.credit -= less;
        }
        self.decoder.settings_acknowledged();
    }

    /// Changes the windows of all streams. Once for all the settings of a frame, because a frame can have thousands.
    fn resize_windows(&mut self, change: i64) -> Result<(), Fault> {
        if change == 0 {
            return Ok(());
        }
        let mut overflow = false;
        for stream in self.streams.iter_mut() {
            stream.send_window += change;
            overflow |= stream.send_window > LARGEST_WINDOW;
        }
        if overflow {
            return Err(self.give_up(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE makes a window too large"));
        }
        Ok(())
    }

    pub(super) fn receive_ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        if head.stream != 0 {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "PING belongs to a stream"));
        }
        let Ok(payload) = <[u8; 8]>::try_from(payload) else {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "PING does not have eight bytes"));
        };
        if !head.has(flag::ACK) {
            self.count_useless()?;
            self.count_ack()?;
            frame::write_ping(&mut self.out, flag::ACK, payload);
        } else if payload == FAREWELL && self.leaving == Leaving::Announced {
            self.settle();
        } else if payload == ALIVE {
            self.pinged = false;
        }
        Ok(None)
    }

    pub(super) fn receive_goaway(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        if head.stream != 0 {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "GOAWAY belongs to a stream"));
        }
        if payload.len() < 8 {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "GOAWAY is too short"));
        }
        if self.goaway.is_some() {
            self.count_useless()?;
        }
        let last = number_at(payload, 0) & 0x7fff_ffff;
        // It may be lowered, never raised (RFC 9113 section 6.8).
        let last = self.goaway.map_or(last, |before| before.min(last));
        self.goaway = Some(last);
        if self.role == Role::Client {
            self.forget_above(last);
        }
        Ok(Some(Event::GoAway { last, code: Code(number_at(payload, 4)) }))
    }

    /// Streams that the server does not know of are not to be named to it again.
    fn forget_above(&mut self, last: u32) {
        let mut cut = Vec::new();
        for stream in self.streams.iter_mut().filter(|stream| stream.id > last && !stream.is_closed()) {
            stream.cut(Receiving::Unwanted);
            cut.push(stream.id);
        }
        for id in cut {
            self.open = self.open.saturating_sub(1);
            self.remember_reset(id);
        }
    }

    pub(super) fn receive_window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<Option<Event>, Fault> {
        if payload.len() != 4 {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "WINDOW_UPDATE does not have four bytes"));
        }
        let more = i64::from(number_at(payload, 0) & 0x7fff_ffff);
        if head.stream == 0 {
            self.send_window += more;
            if more == 0 || self.send_window > LARGEST_WINDOW {
                let code = if more == 0 { Code::PROTOCOL_ERROR } else { Code::FLOW_CONTROL_ERROR };
                return Err(self.give_up(code, "WINDOW_UPDATE adds nothing, or too much"));
            }
            return Ok(Some(Event::Room { stream: None }));
        }
        let Some(key) = self.streams.key_of(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(
                    self.give_up(Code::PROTOCOL_ERROR, "WINDOW_UPDATE belongs to a stream that was never opened")
                );
            }
            // A stream that has ended on our side may still be updated (RFC 9113 section 5.1).
            return Ok(None);
        };
        let Some(stream) = self.streams.find_mut(key) else { return Ok(None) };
        stream.send_window += more;
        if more == 0 || stream.send_window > LARGEST_WINDOW {
            let code = if more == 0 { Code::PROTOCOL_ERROR } else { Code::FLOW_CONTROL_ERROR };
            let why = Breach::Rule("WINDOW_UPDATE adds nothing, or too much");
            return Ok(Some(self.break_stream(key, StreamFault(code, why))));
        }
        Ok(Some(Event::Room { stream: Some(key) }))
    }

    pub(super) fn receive_priority(&mut self, head: FrameHead) -> Result<Option<Event>, Fault> {
        if head.stream == 0 {
            return Err(self.give_up(Code::PROTOCOL_ERROR, "PRIORITY belongs to no stream"));
        }
        if head.length != 5 {
            return Err(self.give_up(Code::FRAME_SIZE_ERROR, "PRIORITY does not have five bytes"));
        }
        self.count_useless()?;
        Ok(None)
    }
}
