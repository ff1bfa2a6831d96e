//! The small JSON reader that headers, routes and heartbeats share. Knows nothing of what the text means.
//!
//! A pull reader over borrowed text: no tree, no allocation unless a string has escapes, nesting limited. Strings and
//! writing are in `json_text.rs`.

use super::WireError;
use super::json_text::{JsonText, escape_length, plain_length};
use super::limits::MAX_JSON_DEPTH;

/// Which JSON is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// RFC 8259, but raw control characters in strings are let through, as fastjson does.
    Standard,
    /// As fastjson writes a map with integer keys: they stand bare, `{0:"10.0.0.1:10911"}`.
    Fastjson,
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
            Some(JsonText::of_raw(self.text_since(start)))
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
        Some(JsonText::of_raw(raw))
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
        Some(JsonText::of_raw(raw))
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
            Some(JsonText::of_raw(self.text_since(start)))
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
        let raw = self.integer_text()?.raw();
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

#[cfg(test)]
mod tests {
    use super::{Dialect, JsonReader};
    use crate::wire::limits::MAX_JSON_DEPTH;

    /// Reads any one value to its end.
    fn check(text: &str, dialect: Dialect) -> Result<(), String> {
        let mut reader = JsonReader::new(text.as_bytes(), dialect).map_err(|error| error.to_string())?;
        reader.skip_value();
        reader.finish().map_err(|error| error.to_string())
    }

    const SOUND: [&str; 24] = [
        "{}",
        "[]",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "12345678901234567890",
        "-1.5e+10",
        "0.1E-2",
        "1e5",
        r#""""#,
        r#""a\"b\\\u00e9""#,
        r#"{"a":1}"#,
        r#"{"a":1,"b":[1,2,{"c":null}]}"#,
        "[[],{},[{}]]",
        "  {  }  ",
        "\t\n\r[ 1 , 2 ]\n",
        "{ \"a\" : { \"b\" : [ ] } }",
        r#"{"a":1,"a":2}"#,
        r#"{"":""}"#,
        r#"["\/"]"#,
        "\"\u{e9}\u{1f600}\"",
        "[true,false,null]",
    ];

    const BROKEN: [&str; 44] = [
        "",
        " ",
        "{",
        "[",
        "}",
        "]",
        "{]",
        "[}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,\"a\":1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1",
        "{\"a\":1",
        "\"abc",
        "\"abc\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\",
        "01",
        "-",
        "-01",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "nul",
        "nulll",
        "True",
        "{} {}",
        "[] x",
        "1 2",
        "NaN",
        "\u{feff}{}",
    ];

    #[test]
    fn sound_text_passes_and_broken_text_does_not() {
        for text in SOUND {
            assert_eq!(check(text, Dialect::Standard), Ok(()), "{text}");
            assert_eq!(check(text, Dialect::Fastjson), Ok(()), "{text}");
        }
        for text in BROKEN {
            assert!(check(text, Dialect::Standard).is_err(), "{text}");
            assert!(check(text, Dialect::Fastjson).is_err(), "{text}");
        }
    }

    #[test]
    fn agrees_with_another_reader_on_every_prefix_and_every_changed_byte() {
        let text = r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911"},"n":-12.5e3}],"x":[true,null,"\u00e9\n"]}"#;
        let agree = |bytes: &[u8]| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            // The other reader refuses raw control characters and half surrogate pairs, which are let through here.
            if text.bytes().any(|byte| byte < 0x20) || text.to_lowercase().contains("\\ud") {
                return;
            }
            let expected = serde_json::from_str::<serde_json::Value>(text);
            // It refuses numbers beyond the largest float, too.
            if expected
                .as_ref()
                .is_err_and(|error| error.to_string().contains("out of range"))
            {
                return;
            }
            assert_eq!(check(text, Dialect::Standard).is_ok(), expected.is_ok(), "{text}");
        };
        for end in 0..text.len() {
            agree(&text.as_bytes()[..end]);
        }
        for place in 0..text.len() {
            for byte in b"\"\\{}[]:,0-1.eEtfn xu/\0\x01\x80" {
                let mut changed = text.as_bytes().to_vec();
                changed[place] = *byte;
                agree(&changed);
                changed.remove(place);
                agree(&changed);
            }
        }
    }

    #[test]
    fn bare_integer_keys_are_of_the_dialect_only() {
        let text = r#"{0:"a",-1:"b","2":"c"}"#;
        assert!(check(text, Dialect::Standard).is_err());
        let mut reader = JsonReader::new(text.as_bytes(), Dialect::Fastjson).unwrap();
        let mut found = Vec::new();
        reader.enter_object();
        while let Some(key) = reader.next_key() {
            found.push((
                key.text().into_owned(),
                reader.string().unwrap().text().into_owned(),
            ));
        }
        reader.finish().unwrap();
        let expected =
            [("0", "a"), ("-1", "b"), ("2", "c")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
        for broken in ["{1.5:0}", "{-:0}", "{01:0}", "{1e3:0}", "{x:0}"] {
            assert!(check(broken, Dialect::Fastjson).is_err(), "{broken}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(check(&nested(MAX_JSON_DEPTH), Dialect::Standard), Ok(()));
            let error = check(&nested(MAX_JSON_DEPTH + 1), Dialect::Standard).unwrap_err();
            assert!(error.contains("too deeply"), "{error}");
            assert!(check(&open.repeat(1_000_000), Dialect::Standard).is_err());
        }
    }

    #[test]
    fn integers_have_their_range() {
        fn integer<T: TryFrom<i64>>(text: &str) -> Result<Option<T>, String> {
            let mut reader = JsonReader::new(text.as_bytes(), Dialect::Standard).unwrap();
            let value = reader.integer();
            reader.finish().map(|()| value).map_err(|error| error.to_string())
        }
        assert_eq!(integer::<i32>("2147483647"), Ok(Some(i32::MAX)));
        assert_eq!(integer::<i32>("-2147483648"), Ok(Some(i32::MIN)));
        assert_eq!(integer::<i64>("9223372036854775807"), Ok(Some(i64::MAX)));
        assert_eq!(integer::<i64>("-9223372036854775808"), Ok(Some(i64::MIN)));
        assert_eq!(
            integer::<i64>("-999999999999999999"),
            Ok(Some(-999_999_999_999_999_999))
        );
        assert_eq!(integer::<u32>(" 0 "), Ok(Some(0)));
        assert_eq!(integer::<i32>("null"), Ok(None));
        for text in [
            "2147483648",
            "-2147483649",
            "1.0",
            "1e2",
            "\"1\"",
            "true",
            "",
            "9223372036854775808",
            "[1]",
        ] {
            assert!(integer::<i32>(text).is_err(), "{text}");
        }
        assert!(integer::<u32>("-1").is_err());
        assert!(integer::<i64>("9223372036854775808").is_err());
    }

    #[test]
    fn the_first_error_stays_and_ends_everything() {
        let mut reader = JsonReader::new(br#"{"a":x,"b":[1,2],"c":{"d":1}}"#, Dialect::Standard).unwrap();
        reader.enter_object();
        assert!(reader.next_key().is_some_and(|key| key.is("a")));
        assert_eq!(reader.integer::<i32>(), None);
        assert!(reader.next_key().is_none());
        assert!(!reader.next_member());
        assert!(!reader.take_key("\"b\":"));
        reader.enter_array();
        assert!(!reader.next_element());
        assert!(reader.scalar().is_none() && reader.string().is_none() && reader.optional_string().is_none());
        reader.skip_value();
        let error = reader.finish().unwrap_err().to_string();
        assert_eq!(error, "no digit at byte 5 of the JSON text");
    }

    #[test]
    fn text_that_is_not_utf_8_is_an_error() {
        for bytes in [
            &b"\"\xff\""[..],
            b"\"\xed\xa0\x80\"",
            b"\"\xc0\xaf\"",
            b"\"\xe4\xb8\"",
        ] {
            let error = JsonReader::new(bytes, Dialect::Standard).unwrap_err();
            assert_eq!(error.reason(), "JSON text is not UTF-8");
        }
    }

    #[test]
    fn raw_control_characters_are_let_through() {
        assert_eq!(check("\"a\u{1}b\u{2}\tc\"", Dialect::Standard), Ok(()));
    }
}
