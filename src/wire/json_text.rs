//! The strings of JSON: where they end, what their escapes mean, and how they are written. Also writes numbers; the
//! structure around both is read in `json.rs` and written by whoever knows what it means.

use std::borrow::Cow;

use super::decimal::Decimal;

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
        is_escaped_raw(self.raw.as_bytes())
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

/// Whether what [`JsonText::raw`] gave has escapes to resolve.
#[inline]
pub(super) fn is_escaped_raw(raw: &[u8]) -> bool {
    raw.first() == Some(&b'"')
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const QUOTES: u64 = LOW_BITS * b'"' as u64;
const BACKSLASHES: u64 = LOW_BITS * b'\\' as u64;

/// High bits set for the bytes that are zero; exact up to and including the lowest of them.
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// Length of the part before the first quote or backslash, eight bytes at a time.
#[inline]
pub(super) fn plain_length(bytes: &[u8]) -> usize {
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

/// Length of the escape that `bytes` begin with, if it is one.
pub(super) fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' if bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

/// Resolves the escapes of a string that the reader has checked.
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{
        JsonText, needs_escapes, plain_length, unescape, write_escaped, write_integer, write_string,
    };

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_byte_is_found_at_every_place() {
        for length in 0..40 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'x'; length];
                    bytes[place] = byte;
                    let ends = matches!(byte, b'"' | b'\\');
                    assert_eq!(
                        plain_length(&bytes),
                        if ends { place } else { length },
                        "{byte} at {place} of {length}"
                    );
                    assert_eq!(
                        needs_escapes(&bytes),
                        ends || byte < 0x20,
                        "{byte} at {place} of {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn neighbours_do_not_hide_or_feign_an_end() {
        // Bytes one below and one above the ones that are looked for, where a borrow could go wrong.
        for pair in [
            [b'"', b'#'],
            [b'#', b'"'],
            [b'!', b'"'],
            [b'"', b'!'],
            [b'\\', b']'],
            [0x80, b'"'],
            [0xFF, 0xFF],
        ] {
            for place in 0..15 {
                let mut bytes = vec![0x80; 17];
                bytes[place..place + 2].copy_from_slice(&pair);
                let expected = bytes
                    .iter()
                    .position(|byte| matches!(byte, b'"' | b'\\'))
                    .unwrap_or(17);
                assert_eq!(plain_length(&bytes), expected, "{pair:?} at {place}");
                assert_eq!(needs_escapes(&bytes), expected < 17, "{pair:?} at {place}");
            }
        }
    }

    #[test]
    fn what_is_written_is_what_another_reader_reads() {
        let all_controls: String = (0..0x20_u8).map(char::from).collect();
        for text in [
            "",
            "plain",
            "a\"b\\c/d",
            "caf\u{e9} \u{4e2d}\u{6587} \u{1f600}",
            "TAGS\u{1}TagA\u{2}",
            "\u{7f}",
            &all_controls,
        ] {
            let json = written(text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            // No raw control character, as RFC 8259 demands.
            assert!(json.bytes().all(|byte| byte >= 0x20), "{json:?}");
        }
        assert_eq!(written("a\u{1}b\u{2}"), r#""a\u0001b\u0002""#);
        assert_eq!(written("\n\r\t\u{1f}"), r#""\n\r\t\u001f""#);
    }

    #[test]
    fn text_that_needs_no_escapes_is_copied() {
        let mut out = b"x".to_vec();
        write_escaped(&mut out, "abc");
        write_integer(&mut out, -42);
        assert_eq!(out, b"xabc-42");
    }

    #[test]
    fn escapes_are_resolved() {
        for (raw, expected) in [
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"TAGS\u0001T\u0002", "TAGS\u{1}T\u{2}"),
            (r"\u00e9\u4E2d", "\u{e9}\u{4e2d}"),
            (r"\ud83d\ude00!", "\u{1f600}!"),
            (r"\uD83D\uDE00", "\u{1f600}"),
        ] {
            assert_eq!(unescape(raw), expected);
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        for (raw, expected) in [
            (r"a\ud83d", "a\u{fffd}"),
            (r"\ud83dx", "\u{fffd}x"),
            (r"\ude00", "\u{fffd}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ud83d\n", "\u{fffd}\n"),
        ] {
            assert_eq!(unescape(raw), expected, "{raw}");
        }
    }

    #[test]
    fn plain_text_is_borrowed_and_escaped_text_compared_resolved() {
        let plain = JsonText::of_raw("queueId");
        assert!(matches!(plain.text(), Cow::Borrowed("queueId")));
        assert!(plain.is("queueId") && !plain.is("queue") && !plain.is_escaped());
        let escaped = JsonText::of_raw("\"queue\\u0049d");
        assert!(escaped.is("queueId") && !escaped.is("\"queue\\u0049d") && escaped.is_escaped());
        assert_eq!(escaped.text(), "queueId");
    }
}
