//! Finds one number in JSON that flows by: nothing of it is kept, however long it is.
//!
//! Used by `limit/body_cost.rs` with the bodies of responses. It reads a single value, one after another, and streams of server-sent
//! events, and remembers the last number at its path. The JSON is that of a backend and is not verified: of what is none, whatever is found
//! first or nothing is taken, and nothing panics.

/// The longest number that is read, in characters.
const LONGEST: usize = 32;

/// Where values stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One after another, with nothing but white space between them.
    Values,
    /// Behind `data:`, in server-sent events.
    Events,
}

/// What is expected in the object that leads to the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Name,
    Colon,
    Value,
    Nothing,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Structure,
    /// A name that may be the next of the path: how many of its bytes agree, or none.
    Name(Option<usize>),
    /// Any other string.
    Text,
    Number,
}

/// How much of a line of events has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of `data:`.
    Prefix(usize),
    Data,
    Other,
}

/// A search that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    layout: Layout,
    line: Line,
    /// Whether the last byte was a carriage return, which ends a line together with the line feed behind it.
    is_returned: bool,
    depth: u32,
    /// How many of the objects that are open lead to the number.
    leading: u32,
    expect: Expect,
    inside: Inside,
    is_escaped: bool,
    /// Whether the name that was read last is the next of the path.
    is_named: bool,
    number: [u8; LONGEST],
    length: usize,
    found: Option<f64>,
}

impl Scan {
    pub(crate) fn new(layout: Layout) -> Scan {
        Scan {
            layout,
            line: Line::Prefix(0),
            is_returned: false,
            depth: 0,
            leading: 0,
            expect: Expect::Nothing,
            inside: Inside::Structure,
            is_escaped: false,
            is_named: false,
            number: [0; LONGEST],
            length: 0,
            found: None,
        }
    }

    /// Reads on. `path` has the names of the members that lead to the number, at least one.
    pub(crate) fn read(&mut self, data: &[u8], path: &[Box<str>]) {
        match self.layout {
            Layout::Values => data.iter().for_each(|byte| self.step(*byte, path)),
            Layout::Events => data.iter().for_each(|byte| self.step_line(*byte, path)),
        }
    }

    /// The number that was found last.
    pub(crate) fn found(&self) -> Option<f64> {
        if self.inside == Inside::Number { self.parse() } else { self.found }
    }

    fn step_line(&mut self, byte: u8, path: &[Box<str>]) {
        const DATA: &[u8] = b"data:";
        let was_returned = std::mem::replace(&mut self.is_returned, byte == b'\r');
        if byte == b'\n' && was_returned {
            return;
        }
        if matches!(byte, b'\r' | b'\n') {
            if self.line == Line::Prefix(0) {
                // An event is over. What it has left open does not lead into the next.
                *self = Scan { found: self.found(), is_returned: self.is_returned, ..Scan::new(self.layout) };
            } else if self.line == Line::Data {
                self.step(b'\n', path);
            }
            self.line = Line::Prefix(0);
            return;
        }
        match self.line {
            Line::Data => self.step(byte, path),
            Line::Other => {}
            Line::Prefix(count) if DATA.get(count) == Some(&byte) => {
                self.line = if count + 1 == DATA.len() { Line::Data } else { Line::Prefix(count + 1) };
            }
            Line::Prefix(_) => self.line = Line::Other,
        }
    }

    fn step(&mut self, byte: u8, path: &[Box<str>]) {
        match self.inside {
            Inside::Structure => self.structure(byte, path),
            Inside::Number if matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') => self.digit(byte),
            Inside::Number => {
                self.found = self.parse();
                self.inside = Inside::Structure;
                self.structure(byte, path);
            }
            Inside::Name(_) | Inside::Text if self.is_escaped => self.is_escaped = false,
            Inside::Name(_) | Inside::Text if byte == b'\\' => {
                self.is_escaped = true;
                if let Inside::Name(agreed) = &mut self.inside {
                    // A name that is written with escapes is not looked at.
                    *agreed = None;
                }
            }
            Inside::Text if byte == b'"' => self.inside = Inside::Structure,
            Inside::Text => {}
            Inside::Name(agreed) => {
                let name = self.next_name(path).unwrap_or_default();
                if byte == b'"' {
                    self.is_named = agreed == Some(name.len());
                    (self.inside, self.expect) = (Inside::Structure, Expect::Colon);
                } else {
                    let agrees = agreed.filter(|count| name.get(*count) == Some(&byte));
                    self.inside = Inside::Name(agrees.map(|count| count + 1));
                }
            }
        }
    }

    fn structure(&mut self, byte: u8, path: &[Box<str>]) {
        let leads = self.depth == self.leading;
        // What stands where the value of the last name of the path is expected.
        let is_wanted = leads && self.expect == Expect::Value && self.is_named;
        match byte {
            b'"' if leads && self.depth > 0 && self.expect == Expect::Name => self.inside = Inside::Name(Some(0)),
            b'"' => (self.inside, self.expect) = (Inside::Text, self.after_value(leads)),
            b':' if leads && self.expect == Expect::Colon => self.expect = Expect::Value,
            b',' if leads && self.depth > 0 => self.expect = Expect::Name,
            b'{' => {
                let goes_on = self.depth == 0 || (is_wanted && (self.leading as usize) < path.len());
                if leads && goes_on {
                    self.leading = self.leading.saturating_add(1);
                    self.expect = Expect::Name;
                }
                self.depth = self.depth.saturating_add(1);
            }
            b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                if leads && self.depth > 0 {
                    self.leading -= 1;
                }
                self.depth = self.depth.saturating_sub(1);
                if self.depth == self.leading {
                    self.expect = Expect::Nothing;
                }
            }
            b'0'..=b'9' | b'-' if is_wanted && self.leading as usize == path.len() => {
                self.length = 0;
                self.digit(byte);
                (self.inside, self.expect) = (Inside::Number, Expect::Nothing);
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.expect = self.after_value(leads),
        }
    }

    fn after_value(&self, leads: bool) -> Expect {
        if leads { Expect::Nothing } else { self.expect }
    }

    fn next_name<'p>(&self, path: &'p [Box<str>]) -> Option<&'p [u8]> {
        path.get((self.leading as usize).checked_sub(1)?).map(|name| name.as_bytes())
    }

    fn digit(&mut self, byte: u8) {
        if let Some(place) = self.number.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    /// The number that was read; the one before when it is none.
    fn parse(&self) -> Option<f64> {
        let text = self.number.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite()).or(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(layout: Layout, path: &str, text: &str) -> Option<f64> {
        let path: Vec<Box<str>> = path.split('.').map(Into::into).collect();
        let mut whole = Scan::new(layout);
        whole.read(text.as_bytes(), &path);
        let mut pieces = Scan::new(layout);
        text.as_bytes().chunks(1).for_each(|piece| pieces.read(piece, &path));
        assert_eq!(whole.found(), pieces.found(), "{text}: however it is cut");
        whole.found()
    }

    #[test]
    fn a_number_is_found_by_the_names_that_lead_to_it() {
        let values = |path, text| find(Layout::Values, path, text);
        assert_eq!(values("usage.total", r#"{"id":"x","usage":{"in":3,"total":41},"n":1}"#), Some(41.0));
        assert_eq!(values("n", "{\"n\": 12}"), Some(12.0));
        assert_eq!(values("n", "{\"n\":\t1.5e2 , \"m\": 3}"), Some(150.0));
        assert_eq!(values("a.n", r#"{"n":1,"b":{"n":2},"a":{"x":[{"n":3}],"y":{"n":4},"n":5}}"#), Some(5.0));
        assert_eq!(values("a.n", r#"{"a":[{"n":3}]}"#), None, "arrays are not entered");
        assert_eq!(values("n", r#"{"n":"7","m":8}"#), None, "text is no number");
        assert_eq!(values("n", r#"{"x":"{\"n\":1}\\","n":2}"#), Some(2.0));
        assert_eq!(values("n", r#"{"m":"n","k":["n",1],"n":null}"#), None);
        assert_eq!(values("n", r#"{"nn":1,"":2}"#), None);
        assert_eq!(values("n", r#"[{"n":1}]"#), None);
        assert_eq!(values("n", "{\"n\":1}\n{\"m\":2}\n{\"n\":3}\n"), Some(3.0), "the last of several values counts");
        assert_eq!(values("n", r#"{"n":-4}"#), Some(-4.0));
    }

    #[test]
    fn what_is_no_json_is_nothing_and_never_a_panic() {
        let long = format!("{{\"n\":{}}}", "9".repeat(99));
        for text in ["", "}", "]]]{\"n\"", "{\"n\":1-1}", "\"", "{\"n", &long, "{\"n\":-}", "}}{{\"n\":,"] {
            assert_eq!(find(Layout::Values, "n", text), None, "{text}");
        }
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.extend(b"{\"n\":[[[{\"");
        let mut scan = Scan::new(Layout::Values);
        scan.read(&bytes, &["n".into()]);
    }

    #[test]
    fn in_events_the_last_one_that_has_it_counts() {
        let events = "event: a\ndata: {\"n\":1}\n\ndata: {\"broken\": \"\n\n: data: {\"n\":9}\ndata:{\"n\":\r\ndata:2}\r\n\r\n\
                      data: [DONE]\n\n";
        assert_eq!(find(Layout::Events, "n", events), Some(2.0));
        assert_eq!(find(Layout::Events, "n", "{\"n\":1}\n\n"), None);
    }
}
