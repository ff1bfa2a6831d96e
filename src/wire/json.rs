//! The small JSON reader and writer that headers, routes and heartbeats share. Knows nothing of what the text means.
//!
//! A pull reader over borrowed text: no tree, no allocation unless a string has escapes, nesting limited.

use std::borrow::Cow;

use super::WireError;
use super::decimal::Decimal;
use super::limits::MAX_JSON_DEPTH;

/// Which JSON is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// RFC 8259, but raw control characters in strings are let through, as fastjson does.
    Standard,
    /// As fastjson writes a map with integer keys: they stand bare, `{0:"10.0.0.1:10911"}`.
    Fastjson,
}

/// A scalar as it stands in the text.
///
/// Without its quotes; but a string with escapes keeps the opening one, which no other text begins with. So it fits two
/// registers, and is never copied through memory on the way to whoever reads a header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonText<'a> {
    raw: &'a str,
}

impl<'a> JsonText<'a> {
    /// What [`Self::raw`] gave.
    #[inline]
    pub(crate) fn of_raw(raw: &'a str) -> Self {
        Self { raw }
    }

    /// The text in the form that tells whether there are escapes.
    #[inline]
    pub(crate) fn raw(self) -> &'a str {
        self.raw
    }

    /// The text with its escapes resolved.
    pub(crate) fn text(self) -> Cow<'a, str> {
        match self.raw.strip_prefix('"') {
            None => Cow::Borrowed(self.raw),
            Some(escaped) => Cow::Owned(unescape(escaped)),
        }
    }

    /// Whether there are escapes to resolve.
    #[inline]
    pub(crate) fn is_escaped(self) -> bool {
        self.raw.as_bytes().first() == Some(&b'"')
    }

    /// Whether the text is `other`.
    #[inline]
    pub(crate) fn is(self, other: &str) -> bool {
        if self.is_escaped() {
            self.text() == other
        } else {
            self.raw == other
        }
    }

    /// Bytes in the text as written, which is never less than when resolved.
    #[inline]
    pub(crate) fn written_len(self) -> usize {
        self.raw.len()
    }
}

/// Reads JSON text from front to back. The caller says what it expects.
///
/// The first thing that is not as expected ends the text: from then on there are no members, elements and values, and
/// [`Self::finish`] gives the error. So every loop comes to its end, and values cost no error path of their own; they
/// mean something only once `finish` has said that all was well.
#[derive(Clone, Debug)]
pub(crate) struct JsonReader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    // In the open container: whether its next member must be preceded by a comma.
    after_member: bool,
    dialect: Dialect,
    failure: Option<WireError>,
}

impl<'a> JsonReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], dialect: Dialect) -> Result<Self, WireError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self::of_text(text, dialect)),
            Err(_) => Err(WireError::new("JSON text is not UTF-8")),
        }
    }

    pub(crate) fn of_text(text: &'a str, dialect: Dialect) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            after_member: false,
            dialect,
            failure: None,
        }
    }

    /// Where the reader stands, in bytes.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Goes back to where the key of a member of the open object begins.
    pub(crate) fn go_back_to_key(&mut self, position: usize) {
        self.at = position;
        self.after_member = false;
    }

    /// The text from `start` to where the reader stands.
    #[inline]
    pub(crate) fn text_since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Ends the text with this error, unless it has ended with another one already.
    #[cold]
    pub(crate) fn fail(&mut self, error: impl FnOnce() -> WireError) {
        self.at = self.text.len();
        if self.failure.is_none() {
            self.failure = Some(error());
        }
    }

    #[cold]
    fn expected(&mut self, what: &str) {
        let at = self.at;
        let is_end = at == self.text.len();
        self.fail(|| {
            WireError::new(if is_end {
                format!("JSON text ends where {what} was expected")
            } else {
                format!("no {what} at byte {at} of the JSON text")
            })
        });
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The first byte of the next token.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        match self.byte() {
            Some(..=b' ') => self.skip_white_space(),
            other => other,
        }
    }

    // Servers and clients write none, so it stays out of the way.
    #[cold]
    fn skip_white_space(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    #[inline]
    fn enter(&mut self, open: u8, what: &str) {
        if self.peek() != Some(open) {
            self.expected(what);
        } else if self.depth == MAX_JSON_DEPTH {
            self.fail(|| WireError::new("JSON text is nested too deeply"));
        } else {
            self.at += 1;
            self.depth += 1;
            self.after_member = false;
        }
    }

    #[inline]
    fn leave(&mut self) {
        self.at += 1;
        self.depth = self.depth.saturating_sub(1);
        self.after_member = true;
    }

    /// Goes into an object; its members come from [`Self::next_key`], each followed by reading its value.
    pub(crate) fn enter_object(&mut self) {
        self.enter(b'{', "object");
    }

    /// Goes into an array; [`Self::next_element`] says before each value whether there is one.
    pub(crate) fn enter_array(&mut self) {
        self.enter(b'[', "array");
    }

    /// Whether another member follows; `false` after leaving the object. The reader then stands at its key.
    #[inline]
    pub(crate) fn next_member(&mut self) -> bool {
        match self.peek() {
            Some(b',') if self.after_member => {
                self.at += 1;
                self.peek();
                true
            }
            Some(b'}') => {
                self.leave();
                false
            }
            Some(_) if !self.after_member => true,
            _ => {
                self.expected("comma or end of object");
                false
            }
        }
    }

    /// Steps over `key`, which is a key as usually written: in quotes, with the colon, without white space. Saves
    /// looking for its end; whoever does not find a key by this must still ask [`Self::key`].
    #[inline]
    pub(crate) fn take_key(&mut self, key: &'static str) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let is_next = rest.starts_with(key.as_bytes());
        if is_next {
            self.at += key.len();
            self.after_member = false;
        }
        is_next
    }

    /// The key at which the reader stands after [`Self::next_member`], with its colon.
    #[inline]
    pub(crate) fn key(&mut self) -> Option<JsonText<'a>> {
        let key = match self.byte() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') if self.dialect == Dialect::Fastjson => self.bare_integer(),
            _ => {
                self.expected("key");
                None
            }
        }?;
        if self.peek() != Some(b':') {
            self.expected("colon");
            return None;
        }
        self.at += 1;
        self.after_member = false;
        Some(key)
    }

    /// The key of the next member, or `None` after leaving the object.
    #[inline]
    pub(crate) fn next_key(&mut self) -> Option<JsonText<'a>> {
        if self.next_member() { self.key() } else { None }
    }

    /// Whether another element follows; `false` after leaving the array.
    pub(crate) fn next_element(&mut self) -> bool {
        match self.peek() {
            Some(b']') => {
                self.leave();
                false
            }
            Some(b',') if self.after_member => {
                self.at += 1;
                self.after_member = false;
                // No value begins with a bracket that closes, so `[1,]` fails when the value is read.
                true
            }
            Some(_) if !self.after_member => true,
            _ => {
                self.expected("comma or end of array");
                false
            }
        }
    }

    /// Steps over `null` if it comes next.
    #[inline]
    pub(crate) fn take_null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.literal("null").is_some()
    }

    fn literal(&mut self, word: &'static str) -> Option<JsonText<'a>> {
        let start = self.at;
        if self.text.get(start..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            self.after_member = true;
            Some(JsonText {
                raw: self.text_since(start),
            })
        } else {
            self.expected("value");
            None
        }
    }

    /// A string; `None` only when there is none.
    #[inline]
    pub(crate) fn string(&mut self) -> Option<JsonText<'a>> {
        if self.peek() != Some(b'"') {
            self.expected("string");
            return None;
        }
        let start = self.at + 1;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let length = plain_length(rest);
        if rest.get(length) != Some(&b'"') {
            return self.string_with_escapes();
        }
        self.at = start + length;
        let raw = self.text_since(start);
        self.at += 1;
        self.after_member = true;
        Some(JsonText { raw })
    }

    /// A string that has escapes or no end.
    #[inline(never)]
    fn string_with_escapes(&mut self) -> Option<JsonText<'a>> {
        let start = self.at;
        let mut end = start + 1;
        loop {
            let rest = self.text.as_bytes().get(end..).unwrap_or_default();
            let length = plain_length(rest);
            end += length;
            match rest.get(length) {
                Some(b'"') => break,
                Some(_) => {
                    let Some(length) = escape_length(rest.get(length..).unwrap_or_default()) else {
                        self.fail(|| WireError::new("invalid escape in a JSON string"));
                        return None;
                    };
                    end += length;
                }
                None => {
                    self.fail(|| WireError::new("JSON text ends within a string"));
                    return None;
                }
            }
        }
        self.at = end;
        let raw = self.text_since(start);
        self.at += 1;
        self.after_member = true;
        Some(JsonText { raw })
    }

    /// The text of a string, or `None` for null.
    #[inline]
    pub(crate) fn optional_string(&mut self) -> Option<JsonText<'a>> {
        if self.peek() == Some(b'n') {
            self.literal("null");
            return None;
        }
        self.string()
    }

    /// Steps over digits, of which there must be one at least.
    fn digits(&mut self) {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start {
            self.expected("digit");
        }
    }

    fn bare_integer(&mut self) -> Option<JsonText<'a>> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            // A zero at the front is the whole number.
            self.at += 1;
        } else {
            self.digits();
        }
        self.after_member = true;
        self.unless_failed(start)
    }

    fn number(&mut self) -> Option<JsonText<'a>> {
        let start = self.at;
        self.bare_integer()?;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits();
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits();
        }
        self.unless_failed(start)
    }

    fn unless_failed(&self, start: usize) -> Option<JsonText<'a>> {
        if self.failure.is_some() {
            None
        } else {
            Some(JsonText {
                raw: self.text_since(start),
            })
        }
    }

    /// A string, number or boolean as its text, or `None` for null.
    #[inline]
    pub(crate) fn scalar(&mut self) -> Option<JsonText<'a>> {
        match self.peek() {
            Some(b'"') => self.string(),
            _ => self.scalar_but_string(),
        }
    }

    fn scalar_but_string(&mut self) -> Option<JsonText<'a>> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => {
                self.literal("null");
                None
            }
            _ => {
                self.expected("string, number or boolean");
                None
            }
        }
    }

    /// An integer, or `None` for null. A number with a fraction or out of range is an error.
    #[inline]
    pub(crate) fn integer<T: TryFrom<i64>>(&mut self) -> Option<T> {
        if self.peek() == Some(b'n') {
            self.literal("null");
            return None;
        }
        let raw = self.integer_text()?.raw;
        let value = parse_integer(raw).and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            self.fail(|| WireError::new(format!("JSON number {raw:.40} is out of range")));
        }
        value
    }

    /// A number that ends behind its integer part.
    #[inline]
    fn integer_text(&mut self) -> Option<JsonText<'a>> {
        let raw = self.bare_integer();
        if let Some(b'.' | b'e' | b'E') = self.byte() {
            self.expected("end of the integer");
            return None;
        }
        raw
    }

    /// Steps over any value, checking it. The recursion ends at the nesting limit.
    pub(crate) fn skip_value(&mut self) {
        match self.peek() {
            Some(b'{') => {
                self.enter_object();
                while self.next_key().is_some() {
                    self.skip_value();
                }
            }
            Some(b'[') => {
                self.enter_array();
                while self.next_element() {
                    self.skip_value();
                }
            }
            _ => {
                self.scalar();
            }
        }
    }

    /// Only white space may be left, and nothing may have been wrong before.
    pub(crate) fn finish(mut self) -> Result<(), WireError> {
        if self.peek().is_some() {
            self.expected("end");
        }
        match self.failure {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

/// So many digits cannot overflow 64 bits.
const MAX_FAST_DIGITS: usize = 18;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const QUOTES: u64 = LOW_BITS * b'"' as u64;
const BACKSLASHES: u64 = LOW_BITS * b'\\' as u64;

/// High bits set for the bytes that are zero; exact up to and including the lowest of them.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// Length of the part before the first quote or backslash, eight bytes at a time.
fn plain_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    let mut rest = bytes;
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let found = zero_bytes(word ^ QUOTES) | zero_bytes(word ^ BACKSLASHES);
        if found != 0 {
            return length + (found.trailing_zeros() / 8) as usize;
        }
        length += 8;
        rest = tail;
    }
    length
        + rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\'))
            .unwrap_or(rest.len())
}

/// The value of a checked integer, unless it is out of range.
#[inline]
fn parse_integer(text: &str) -> Option<i64> {
    let (digits, is_negative) = match text.as_bytes() {
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    if digits.len() > MAX_FAST_DIGITS {
        return text.parse().ok();
    }
    let value = digits
        .iter()
        .fold(0, |value: i64, digit| value * 10 + i64::from(digit - b'0'));
    Some(if is_negative { -value } else { value })
}

/// Length of the escape that `bytes` begin with, if it is one.
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' if bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

/// Resolves the escapes of a string that [`JsonReader::string`] has checked.
///
/// Half of a surrogate pair becomes U+FFFD: a server may cut a text in the middle of a character, and that must not
/// cost the connection.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escape.chars();
        let resolved = match characters.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let (resolved, tail) = unescape_unicode(characters.as_str());
                characters = tail.chars();
                resolved
            }
            Some(other) => other,
            None => char::REPLACEMENT_CHARACTER,
        };
        text.push(resolved);
        rest = characters.as_str();
    }
    text.push_str(rest);
    text
}

/// The character of a `\u` escape, or of two that make a surrogate pair, and what follows.
fn unescape_unicode(digits: &str) -> (char, &str) {
    let Some((first, tail)) = hex_unit(digits) else {
        return (char::REPLACEMENT_CHARACTER, digits);
    };
    if let Some(character) = char::from_u32(first) {
        return (character, tail);
    }
    let second = tail.strip_prefix("\\u").and_then(hex_unit);
    match second {
        Some((low, after)) if first < 0xDC00 && (0xDC00..0xE000).contains(&low) => {
            let code_point = 0x1_0000 + ((first - 0xD800) << 10) + (low - 0xDC00);
            (
                char::from_u32(code_point).unwrap_or(char::REPLACEMENT_CHARACTER),
                after,
            )
        }
        _ => (char::REPLACEMENT_CHARACTER, tail),
    }
}

fn hex_unit(text: &str) -> Option<(u32, &str)> {
    let (digits, tail) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, tail))
}

/// Appends `text` in quotes.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

/// Appends `text` with quotes, backslashes and control characters escaped; other characters go as they are.
#[inline]
pub(crate) fn write_escaped(out: &mut Vec<u8>, text: &str) {
    if needs_escapes(text.as_bytes()) {
        write_with_escapes(out, text.as_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

#[inline]
fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Whether any byte must be escaped, eight at a time.
#[inline]
fn needs_escapes(bytes: &[u8]) -> bool {
    let is_hit = |chunk: &[u8; 8]| {
        let word = u64::from_le_bytes(*chunk);
        // A byte is below 0x20 if it borrows when 0x20 is taken away and has no high bit itself.
        let controls = word.wrapping_sub(LOW_BITS * 0x20) & !word & HIGH_BITS;
        controls | zero_bytes(word ^ QUOTES) | zero_bytes(word ^ BACKSLASHES) != 0
    };
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|byte| is_escaped(*byte));
    };
    let mut rest = bytes;
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        if is_hit(chunk) {
            return true;
        }
        rest = tail;
    }
    // The last eight overlap with those already seen.
    is_hit(last)
}

#[cold]
fn write_with_escapes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(length) = rest.iter().position(|byte| is_escaped(*byte)) {
        let (plain, escape) = rest.split_at(length);
        out.extend_from_slice(plain);
        let Some((&byte, tail)) = escape.split_first() else {
            return;
        };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), hex_digit(byte & 15)]),
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' + value - 10
    }
}

/// Appends an integer.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(Decimal::new(value).as_bytes());
}
