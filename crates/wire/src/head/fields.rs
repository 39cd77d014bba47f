//! The ordered fields of a message, in one buffer.
//!
//! Called by the codecs, which fill it, and by policies, which read and edit it. An edit appends to the buffer or
//! overwrites in place; nothing is moved. Does not know which fields are allowed: that is the business of the codecs.

use super::{BadField, BadName, BadValue, FieldId, FieldName, NameRef};
use crate::grammar;

/// The field lines of a head or of a trailer section, in order, with the case their sender chose.
///
/// Reused between messages: [`Fields::clear`] keeps the memory. Several lines with one name are several entries.
#[derive(Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// A superset of the ids that are present: a clear bit proves absence.
    present: u128,
}

#[derive(Clone, Copy)]
struct Line {
    id: FieldId,
    indexing: Indexing,
    name: Span,
    value: Span,
}

/// Whether a table of HTTP/2 may hold a line. Who passes on a line that none may hold has to say so again (RFC 7541
/// section 6.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Indexing {
    Allowed,
    Never,
}

/// A range of bytes of a buffer that stays below 4 GiB.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

impl Span {
    #[inline]
    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        let start = self.start as usize;
        text.get(start..start + self.length as usize).unwrap_or_default()
    }

    /// Appends the bytes and says where they are; `None` when the buffer would pass 4 GiB.
    #[inline]
    pub(crate) fn append(text: &mut Vec<u8>, bytes: &[u8]) -> Option<Span> {
        let start = u32::try_from(text.len()).ok()?;
        let length = u32::try_from(bytes.len()).ok()?;
        start.checked_add(length)?;
        text.extend_from_slice(bytes);
        Some(Span { start, length })
    }
}

impl Fields {
    /// No fields, no memory.
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Forgets every field and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.present = 0;
    }

    /// The number of field lines.
    #[inline]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no fields.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Every field line in order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter { text: &self.text, lines: self.lines.iter() }
    }

    /// Whether a well-known field is present.
    #[inline]
    pub fn contains(&self, id: FieldId) -> bool {
        self.first(id).is_some()
    }

    /// The value of the first line with this id. For [`FieldId::OTHER`], the first field that is not well-known.
    #[inline]
    pub fn first(&self, id: FieldId) -> Option<&[u8]> {
        if self.present & id.bit() == 0 {
            return None;
        }
        self.lines.iter().find(|line| line.id == id).map(|line| line.value.of(&self.text))
    }

    /// The values of all lines with this id, in order.
    #[inline]
    pub fn all(&self, id: FieldId) -> All<'_> {
        All { text: &self.text, lines: self.candidates(id), wanted: Wanted::Id(id) }
    }

    /// The value of the first line with this name.
    #[inline]
    pub fn first_named(&self, name: &FieldName) -> Option<&[u8]> {
        self.position(name, 0).map(|index| self.lines[index].value.of(&self.text))
    }

    /// The values of all lines with this name, in order. The iterator borrows the name too.
    #[inline]
    pub fn all_named<'a>(&'a self, name: &'a FieldName) -> All<'a> {
        let id = name.id();
        let wanted = if id.is_other() { Wanted::Name(name.as_bytes()) } else { Wanted::Id(id) };
        All { text: &self.text, lines: self.candidates(id), wanted }
    }

    fn candidates(&self, id: FieldId) -> std::slice::Iter<'_, Line> {
        if self.present & id.bit() == 0 { [].iter() } else { self.lines.iter() }
    }

    /// Adds a line at the end. Spaces and tabs at either end of the value are not part of it.
    ///
    /// # Errors
    /// [`BadValue`] when the value holds a control byte; nothing is added then.
    pub fn push(&mut self, name: &FieldName, value: &[u8]) -> Result<(), BadValue> {
        self.append(name.id(), name.as_bytes(), checked(value)?)
    }

    /// Adds a line whose name is only known as bytes: a field of another codec.
    ///
    /// # Errors
    /// [`BadField`] when the name is not a token or the value holds a control byte; nothing is added then.
    pub fn push_bytes(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadField> {
        if !grammar::is_token(name) {
            return Err(BadName.into());
        }
        Ok(self.append(FieldId::from_bytes(name), name, checked(value)?)?)
    }

    /// Makes this the only line with the name: the first one gets the value and keeps its place, the others go. Added
    /// at the end when there was none.
    ///
    /// # Errors
    /// [`BadValue`] when the value holds a control byte; nothing changes then.
    pub fn set(&mut self, name: &FieldName, value: &[u8]) -> Result<(), BadValue> {
        let value = checked(value)?;
        let Some(first) = self.position(name, 0) else {
            return self.append(name.id(), name.as_bytes(), value);
        };
        let old = self.lines[first].value;
        if value.len() <= old.length as usize {
            let start = old.start as usize;
            self.text[start..start + value.len()].copy_from_slice(value);
            self.lines[first].value.length = value.len() as u32;
        } else {
            self.lines[first].value = Span::append(&mut self.text, value).ok_or(BadValue)?;
        }
        if self.position(name, first + 1).is_some() {
            let mut index = 0;
            let text = &self.text;
            self.lines.retain(|line| {
                index += 1;
                index - 1 <= first || !line.name_ref(text).is(name)
            });
        }
        Ok(())
    }

    /// Removes every line with the name; how many there were.
    pub fn remove(&mut self, name: &FieldName) -> usize {
        if !name.id().is_other() {
            return self.remove_id(name.id());
        }
        if self.position(name, 0).is_none() {
            return 0;
        }
        let before = self.lines.len();
        let text = &self.text;
        self.lines.retain(|line| !line.name_ref(text).is(name));
        before - self.lines.len()
    }

    /// Removes every line with a well-known name; how many there were. [`FieldId::OTHER`] removes nothing.
    pub fn remove_id(&mut self, id: FieldId) -> usize {
        if id.is_other() || self.present & id.bit() == 0 {
            return 0;
        }
        let before = self.lines.len();
        self.lines.retain(|line| line.id != id);
        self.present &= !id.bit();
        before - self.lines.len()
    }

    /// Keeps the lines for which the function says so.
    pub fn retain(&mut self, mut keep: impl FnMut(NameRef<'_>, &[u8]) -> bool) {
        let text = &self.text;
        let mut present = 0;
        self.lines.retain(|line| {
            let kept = keep(line.name_ref(text), line.value.of(text));
            if kept {
                present |= line.id.bit();
            }
            kept
        });
        self.present = present;
    }

    /// Becomes a copy of the other, in memory that is already there when it suffices.
    pub fn copy_from(&mut self, other: &Fields) {
        self.text.clone_from(&other.text);
        self.lines.clone_from(&other.lines);
        self.present = other.present;
    }

    fn position(&self, name: &FieldName, from: usize) -> Option<usize> {
        if self.present & name.id().bit() == 0 {
            return None;
        }
        let rest = self.lines.get(from..)?;
        rest.iter().position(|line| line.name_ref(&self.text).is(name)).map(|found| from + found)
    }

    fn append(&mut self, id: FieldId, name: &[u8], value: &[u8]) -> Result<(), BadValue> {
        // Written as it is sent, so that `write_lines` can copy it.
        let name = Span::append(&mut self.text, name).ok_or(BadValue)?;
        Span::append(&mut self.text, b": ").ok_or(BadValue)?;
        let value = Span::append(&mut self.text, value).ok_or(BadValue)?;
        Span::append(&mut self.text, b"\r\n").ok_or(BadValue)?;
        self.mark(id, name, value);
        Ok(())
    }

    /// Takes a copy of a whole block of field lines, to be followed by [`Fields::mark`] for each of them. Gives the
    /// place of the block in the buffer; `None` when the buffer would pass 4 GiB.
    #[inline]
    pub(crate) fn take_block(&mut self, block: &[u8]) -> Option<u32> {
        Span::append(&mut self.text, block).map(|span| span.start)
    }

    /// Adds a line whose name and value have been checked and lie in a block that [`Fields::take_block`] took.
    #[inline]
    pub(crate) fn mark(&mut self, id: FieldId, name: Span, value: Span) {
        self.lines.push(Line { id, indexing: Indexing::Allowed, name, value });
        self.present |= id.bit();
    }

    /// Adds a line that has been checked and is there as `name: value CRLF`. `None` when the buffer would pass 4 GiB.
    #[inline]
    pub(crate) fn take_whole(&mut self, id: FieldId, whole: &[u8], name_length: usize) -> Option<()> {
        let value_length = whole.len().checked_sub(name_length + 4)?;
        let start = self.take_block(whole)?;
        let name = Span { start, length: name_length as u32 };
        let value = Span { start: start + name.length + 2, length: value_length as u32 };
        self.mark(id, name, value);
        Some(())
    }

    /// Adds a line that has been checked. `None` when the buffer would pass 4 GiB.
    #[inline]
    pub(crate) fn take_line(&mut self, id: FieldId, name: &[u8], value: &[u8], indexing: Indexing) -> Option<()> {
        self.text.reserve(name.len() + value.len() + 4);
        self.append(id, name, value).ok()?;
        if let Some(line) = self.lines.last_mut() {
            line.indexing = indexing;
        }
        Some(())
    }

    /// Every line in order: id, name, value, and what a table may do with it.
    #[inline]
    pub(crate) fn lines(&self) -> impl Iterator<Item = (FieldId, &[u8], &[u8], Indexing)> {
        self.lines.iter().map(|line| (line.id, line.name.of(&self.text), line.value.of(&self.text), line.indexing))
    }

    /// Removes every line with one of the ids.
    pub(crate) fn remove_ids(&mut self, ids: u128) {
        if self.may_contain(ids) {
            self.lines.retain(|line| ids & line.id.bit() == 0);
            self.present &= !ids;
        }
    }

    /// Removes every line that is not well-known and that a line with the given id names in its list.
    pub(crate) fn remove_listed(&mut self, lister: FieldId) {
        let text = &self.text;
        let mut nth = 0;
        // Only lines of the other kind go, so the count of listers stays.
        while let Some(line) = self.lines.iter().filter(|line| line.id == lister).nth(nth).copied() {
            nth += 1;
            for member in grammar::members(line.value.of(text)).filter(|member| FieldId::from_bytes(member).is_other())
            {
                self.lines.retain(|line| !line.id.is_other() || !line.name.of(text).eq_ignore_ascii_case(member));
            }
        }
    }

    /// Makes the value the only one of a well-known field that is present.
    pub(crate) fn keep_only(&mut self, id: FieldId, value: &'static [u8]) {
        // A literal without control bytes is never refused.
        let _accepted = self.set(&FieldName::known(id), value);
    }

    /// Bytes that the lines take at least.
    #[inline]
    pub(crate) fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Appends the lines to a message, except those with one of the ids.
    ///
    /// Lines that stand in the buffer as `name: value CRLF` one after the other are copied in one go.
    pub(crate) fn write_lines(&self, out: &mut Vec<u8>, except: u128) {
        let text = self.text.as_slice();
        let mut run = 0..0;
        for line in &self.lines {
            if except & line.id.bit() != 0 {
                continue;
            }
            let name = line.name.start as usize..(line.name.start + line.name.length) as usize;
            let value = line.value.start as usize..(line.value.start + line.value.length) as usize;
            let tidy =
                text.get(name.end..value.start) == Some(b": ") && text.get(value.end..value.end + 2) == Some(b"\r\n");
            if tidy && run.end == name.start {
                run.end = value.end + 2;
                continue;
            }
            out.extend_from_slice(text.get(run).unwrap_or_default());
            run = 0..0;
            if tidy {
                run = name.start..value.end + 2;
                continue;
            }
            for part in [line.name.of(text), b": ", line.value.of(text), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        out.extend_from_slice(text.get(run).unwrap_or_default());
    }

    /// Whether a well-known field may be present; false proves that it is not.
    #[inline]
    pub(crate) fn may_contain(&self, ids: u128) -> bool {
        self.present & ids != 0
    }
}

/// The value as a message carries it, or the refusal.
fn checked(value: &[u8]) -> Result<&[u8], BadValue> {
    if grammar::find_control(value).is_some() {
        return Err(BadValue);
    }
    Ok(grammar::trim(value))
}

impl Line {
    #[inline]
    fn name_ref(self, text: &[u8]) -> NameRef<'_> {
        NameRef { id: self.id, bytes: self.name.of(text) }
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (NameRef<'a>, &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Equal when the same names (whatever their case) carry the same values in the same order.
impl PartialEq for Fields {
    fn eq(&self, other: &Fields) -> bool {
        self.len() == other.len()
            && self.iter().zip(other).all(|((name, value), (other_name, other_value))| {
                name.bytes.eq_ignore_ascii_case(other_name.bytes) && value == other_value
            })
    }
}

impl Eq for Fields {}

/// Shows values, except those that are credentials.
impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut list = f.debug_list();
        for (name, value) in self {
            match name.id {
                FieldId::AUTHORIZATION | FieldId::PROXY_AUTHORIZATION | FieldId::COOKIE | FieldId::SET_COOKIE => {
                    list.entry(&format_args!("{}: (hidden)", name.as_str()))
                }
                _ => list.entry(&format_args!("{}: {}", name.as_str(), value.escape_ascii())),
            };
        }
        list.finish()
    }
}

/// Every field line in order: name and value.
#[derive(Clone)]
pub struct Iter<'a> {
    text: &'a [u8],
    lines: std::slice::Iter<'a, Line>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (NameRef<'a>, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let line = *self.lines.next()?;
        Some((line.name_ref(self.text), line.value.of(self.text)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.lines.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// The values of the lines with one name.
#[derive(Clone)]
pub struct All<'a> {
    text: &'a [u8],
    lines: std::slice::Iter<'a, Line>,
    wanted: Wanted<'a>,
}

#[derive(Clone, Copy)]
enum Wanted<'a> {
    Id(FieldId),
    Name(&'a [u8]),
}

impl<'a> Iterator for All<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.text;
        let wanted = self.wanted;
        let line = self.lines.find(|line| match wanted {
            Wanted::Id(id) => line.id == id,
            Wanted::Name(name) => line.id.is_other() && line.name.of(text).eq_ignore_ascii_case(name),
        })?;
        Some(line.value.of(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> FieldName {
        FieldName::new(text).expect("a token")
    }

    fn sample() -> Fields {
        let mut fields = Fields::new();
        for (field, value) in [("X-A", "1"), ("Accept", "text/html"), ("x-a", "2"), ("X-B", ""), ("ACCEPT", "*/*")] {
            fields.push_bytes(field.as_bytes(), value.as_bytes()).expect("a field");
        }
        fields
    }

    fn shown(fields: &Fields) -> Vec<String> {
        fields.iter().map(|(name, value)| format!("{}={}", name.as_str(), value.escape_ascii())).collect()
    }

    #[test]
    fn lookups_see_every_line_in_order() {
        let fields = sample();
        assert_eq!(fields.len(), 5);
        assert_eq!(fields.first(FieldId::ACCEPT), Some(&b"text/html"[..]));
        assert_eq!(fields.all(FieldId::ACCEPT).collect::<Vec<_>>(), [&b"text/html"[..], b"*/*"]);
        assert_eq!(fields.all_named(&name("X-a")).collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(fields.first_named(&name("x-b")), Some(&b""[..]));
        assert_eq!(fields.first_named(&name("x-c")), None);
        assert_eq!(fields.first(FieldId::HOST), None);
    }

    #[test]
    fn set_replaces_in_place_and_drops_the_rest() {
        let mut fields = sample();
        fields.set(&name("X-A"), b"longer than before").expect("a value");
        fields.set(&FieldName::known(FieldId::ACCEPT), b"x").expect("a value");
        fields.set(&name("X-New"), b"n").expect("a value");
        assert_eq!(shown(&fields), ["X-A=longer than before", "Accept=x", "X-B=", "X-New=n"]);
    }

    #[test]
    fn removals_count_and_leave_the_others() {
        let mut fields = sample();
        assert_eq!(fields.remove(&name("x-A")), 2);
        assert_eq!(fields.remove(&name("x-A")), 0);
        assert_eq!(fields.remove_id(FieldId::ACCEPT), 2);
        assert!(!fields.contains(FieldId::ACCEPT));
        assert_eq!(shown(&fields), ["X-B="]);
        let mut fields = sample();
        fields.retain(|name, _| name.id != FieldId::ACCEPT);
        assert!(!fields.contains(FieldId::ACCEPT));
        assert_eq!(fields.len(), 3);
    }

    #[test]
    fn control_bytes_are_refused_and_nothing_changes() {
        let mut fields = sample();
        let before = fields.clone();
        for bad in [&b"a\rb"[..], b"a\nb", b"a\0b", b"\x7f", b"a\r\nEvil: 1"] {
            assert_eq!(fields.push(&name("x-a"), bad), Err(BadValue));
            assert_eq!(fields.set(&name("x-a"), bad), Err(BadValue));
            assert_eq!(fields.push_bytes(b"x-a", bad), Err(BadField::Value(BadValue)));
        }
        assert_eq!(fields.push_bytes(b"x a", b""), Err(BadField::Name(BadName)));
        assert_eq!(fields, before);
        fields.push(&name("x-t"), b" \ta\tb ").expect("a value");
        assert_eq!(fields.first_named(&name("x-t")), Some(&b"a\tb"[..]));
    }

    #[test]
    fn copies_are_independent_and_credentials_are_hidden() {
        let mut fields = sample();
        fields.push_bytes(b"Authorization", b"Bearer abc").expect("a field");
        let mut copy = Fields::new();
        copy.copy_from(&fields);
        assert_eq!(copy, fields);
        copy.clear();
        assert!(copy.is_empty() && fields.len() == 6);
        assert!(!format!("{fields:?}").contains("abc"));
    }
}
