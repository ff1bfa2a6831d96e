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

/// A scalar as it stands in the text, without its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonText<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> JsonText<'a> {
    /// The text with its escapes resolved.
    pub(crate) fn text(self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(unescape(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }

    /// Whether the text is `other`.
    pub(crate) fn is(self, other: &str) -> bool {
        if self.escaped {
            unescape(self.raw) == other
        } else {
            self.raw == other
        }
    }

    /// Bytes in the text as written, which is never less than when resolved.
    pub(crate) fn written_len(self) -> usize {
        self.raw.len()
    }
}

/// Reads JSON text from front to back. The caller says what it expects; anything else is an error.
#[derive(Clone, Debug)]
pub(crate) struct JsonReader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    // In the open container: whether its next member must be preceded by a comma.
    after_member: bool,
    dialect: Dialect,
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
        }
    }

    /// Where the reader stands, in bytes.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The text from `start` to where the reader stands.
    pub(crate) fn text_since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The first byte of the next token.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    fn wrong(&self, expected: &str) -> WireError {
        match self.byte() {
            None => WireError::new(format!("JSON text ends where {expected} was expected")),
            Some(_) => WireError::new(format!("no {expected} at byte {} of the JSON text", self.at)),
        }
    }

    fn enter(&mut self, open: u8, expected: &str) -> Result<(), WireError> {
        if self.peek() != Some(open) {
            return Err(self.wrong(expected));
        }
        if self.depth == MAX_JSON_DEPTH {
            return Err(WireError::new("JSON text is nested too deeply"));
        }
        self.at += 1;
        self.depth += 1;
        self.after_member = false;
        Ok(())
    }

    fn leave(&mut self) {
        self.at += 1;
        self.depth = self.depth.saturating_sub(1);
        self.after_member = true;
    }

    /// Goes into an object; its members come from [`Self::next_key`], each followed by reading its value.
    pub(crate) fn enter_object(&mut self) -> Result<(), WireError> {
        self.enter(b'{', "object")
    }

    /// Goes into an array; [`Self::next_element`] says before each value whether there is one.
    pub(crate) fn enter_array(&mut self) -> Result<(), WireError> {
        self.enter(b'[', "array")
    }

    /// The key of the next member, or `None` after leaving the object.
    pub(crate) fn next_key(&mut self) -> Result<Option<JsonText<'a>>, WireError> {
        match self.peek() {
            Some(b'}') => {
                self.leave();
                return Ok(None);
            }
            Some(b',') if self.after_member => {
                self.at += 1;
                self.peek();
            }
            Some(_) if !self.after_member => {}
            _ => return Err(self.wrong("comma or end of object")),
        }
        let key = match self.byte() {
            Some(b'-' | b'0'..=b'9') if self.dialect == Dialect::Fastjson => self.bare_integer()?,
            _ => self.string()?,
        };
        if self.peek() != Some(b':') {
            return Err(self.wrong("colon"));
        }
        self.at += 1;
        self.after_member = false;
        Ok(Some(key))
    }

    /// Whether another element follows; `false` after leaving the array.
    pub(crate) fn next_element(&mut self) -> Result<bool, WireError> {
        match self.peek() {
            Some(b']') => {
                self.leave();
                Ok(false)
            }
            Some(b',') if self.after_member => {
                self.at += 1;
                self.after_member = false;
                // No value begins with a bracket that closes, so `[1,]` fails when the value is read.
                Ok(true)
            }
            Some(_) if !self.after_member => Ok(true),
            _ => Err(self.wrong("comma or end of array")),
        }
    }

    /// Steps over `null` if it comes next.
    pub(crate) fn take_null(&mut self) -> Result<bool, WireError> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal("null").map(|_| true)
    }

    fn literal(&mut self, word: &'static str) -> Result<JsonText<'a>, WireError> {
        let end = self.at + word.len();
        match self.text.get(self.at..end) {
            Some(raw) if raw == word => {
                self.at = end;
                self.after_member = true;
                Ok(JsonText { raw, escaped: false })
            }
            _ => Err(self.wrong("value")),
        }
    }

    pub(crate) fn string(&mut self) -> Result<JsonText<'a>, WireError> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("string"));
        }
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        let bytes = self.text.as_bytes();
        loop {
            let rest = bytes.get(end..).unwrap_or_default();
            end += plain_length(rest);
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += escape_length(bytes.get(end..).unwrap_or_default())?;
                }
                _ => return Err(WireError::new("JSON text ends within a string")),
            }
        }
        self.at = end + 1;
        self.after_member = true;
        Ok(JsonText {
            raw: self.text.get(start..end).unwrap_or_default(),
            escaped,
        })
    }

    /// The text of a string, or `None` for null.
    pub(crate) fn optional_string(&mut self) -> Result<Option<JsonText<'a>>, WireError> {
        if self.take_null()? {
            Ok(None)
        } else {
            self.string().map(Some)
        }
    }

    fn digits(&mut self) -> Result<(), WireError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start {
            Err(self.wrong("digit"))
        } else {
            Ok(())
        }
    }

    fn bare_integer(&mut self) -> Result<JsonText<'a>, WireError> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        let first = self.byte();
        self.digits()?;
        let leading_zero =
            first == Some(b'0') && self.at - start > 1 + usize::from(self.text_since(start).starts_with('-'));
        if leading_zero {
            return Err(WireError::new("number with a leading zero in JSON text"));
        }
        self.after_member = true;
        Ok(JsonText {
            raw: self.text_since(start),
            escaped: false,
        })
    }

    fn number(&mut self) -> Result<JsonText<'a>, WireError> {
        let start = self.at;
        self.bare_integer()?;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(JsonText {
            raw: self.text_since(start),
            escaped: false,
        })
    }

    /// A string, number or boolean as its text, or `None` for null.
    pub(crate) fn scalar(&mut self) -> Result<Option<JsonText<'a>>, WireError> {
        match self.peek() {
            Some(b'"') => self.string().map(Some),
            Some(b'n') => self.literal("null").map(|_| None),
            Some(b't') => self.literal("true").map(Some),
            Some(b'f') => self.literal("false").map(Some),
            Some(b'-' | b'0'..=b'9') => self.number().map(Some),
            _ => Err(self.wrong("string, number or boolean")),
        }
    }

    /// An integer, or `None` for null. A number with a fraction or out of range is an error.
    pub(crate) fn integer<T: std::str::FromStr>(&mut self) -> Result<Option<T>, WireError> {
        match self.peek() {
            Some(b'n') => self.literal("null").map(|_| None),
            Some(b'-' | b'0'..=b'9') => {
                let raw = self.number()?.raw;
                match raw.parse() {
                    Ok(value) => Ok(Some(value)),
                    Err(_) => Err(WireError::new(format!(
                        "JSON number {raw:.40} is no integer or out of range"
                    ))),
                }
            }
            _ => Err(self.wrong("integer")),
        }
    }

    /// Steps over any value, checking it. The recursion ends at the nesting limit.
    pub(crate) fn skip_value(&mut self) -> Result<(), WireError> {
        match self.peek() {
            Some(b'{') => {
                self.enter_object()?;
                while self.next_key()?.is_some() {
                    self.skip_value()?;
                }
                Ok(())
            }
            Some(b'[') => {
                self.enter_array()?;
                while self.next_element()? {
                    self.skip_value()?;
                }
                Ok(())
            }
            _ => self.scalar().map(|_| ()),
        }
    }

    /// Only white space may be left.
    pub(crate) fn finish(&mut self) -> Result<(), WireError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("end")),
        }
    }
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// High bits set for the bytes that are zero; exact up to and including the lowest of them.
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// Length of the part before the first quote or backslash, eight bytes at a time.
fn plain_length(bytes: &[u8]) -> usize {
    const QUOTES: u64 = LOW_BITS * b'"' as u64;
    const BACKSLASHES: u64 = LOW_BITS * b'\\' as u64;
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

/// Length of the escape that `bytes` begin with.
fn escape_length(bytes: &[u8]) -> Result<usize, WireError> {
    match bytes.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u')
            if bytes
                .get(2..6)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) =>
        {
            Ok(6)
        }
        _ => Err(WireError::new("invalid escape in a JSON string")),
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
pub(crate) fn write_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(length) = rest
        .iter()
        .position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')
    {
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
