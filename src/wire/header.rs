//! The header of a command: the borrowed view that decoding gives, and the writer that encodes a frame in place.
//!
//! The two forms of a header live in `header_json.rs` and `header_binary.rs`; only this file chooses between them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::decimal::Decimal;
use super::frame::{self, Serialization};
use super::json_text::{self, JsonText};
use super::limits::{FRAME_PREFIX_BYTES, MAX_FRAME_LENGTH, MAX_HEADER_BYTES, MIN_FRAME_LENGTH};
use super::{WireError, header_binary, header_json};

/// Bit 0 of the flag (`RPC_TYPE`): the command is a response.
pub(crate) const FLAG_RESPONSE: i32 = 1;
/// Bit 1 of the flag (`RPC_ONEWAY`): nobody waits for a response.
pub(crate) const FLAG_ONEWAY: i32 = 2;

/// The sender's language (`LanguageCode`), as the byte of the binary header.
///
/// Servers accept any name and any byte; a name that is not in the list, or none, is [`Language::UNKNOWN`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Language(u8);

/// In the order of `LanguageCode`; the last two are of 5.x.
const LANGUAGE_NAMES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS",
    "RUST", "NODE_JS",
];

impl Language {
    pub(crate) const JAVA: Self = Self(0);
    pub(crate) const OTHER: Self = Self(7);
    pub(crate) const GO: Self = Self(9);
    pub(crate) const RUST: Self = Self(12);
    /// No language given, or a name that this library does not know.
    pub(crate) const UNKNOWN: Self = Self(u8::MAX);

    pub(crate) const fn from_code(code: u8) -> Self {
        Self(code)
    }

    pub(crate) const fn code(self) -> u8 {
        self.0
    }

    pub(crate) fn from_name(name: &str) -> Self {
        let position = LANGUAGE_NAMES.iter().position(|known| *known == name);
        position
            .and_then(|code| u8::try_from(code).ok())
            .map_or(Self::UNKNOWN, Self)
    }

    /// `None` for what has no name in `LanguageCode`.
    pub(crate) fn name(self) -> Option<&'static str> {
        LANGUAGE_NAMES.get(usize::from(self.0)).copied()
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "UNKNOWN({})", self.0),
        }
    }
}

/// A decoded header. All of it has been checked; the fields are read from the received bytes when asked for.
#[derive(Clone, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) code: i32,
    pub(crate) opaque: i32,
    pub(crate) flag: i32,
    /// The sender's release as the ordinal of `MQVersion.Version`, not a protocol version.
    pub(crate) version: i32,
    pub(crate) language: Language,
    pub(crate) remark: Option<Cow<'a, str>>,
    pub(crate) fields: Fields<'a>,
}

impl<'a> Header<'a> {
    /// Decodes and checks a whole header.
    pub(crate) fn decode(serialization: Serialization, bytes: &'a [u8]) -> Result<Self, WireError> {
        match serialization {
            Serialization::Json => header_json::decode(bytes),
            Serialization::Binary => header_binary::decode(bytes),
        }
    }

    pub(crate) fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    pub(crate) fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// The value of a field (`extFields`); of fields with the same name the last counts.
    pub(crate) fn field(&self, name: &str) -> Option<Cow<'a, str>> {
        self.fields.get(name)
    }

    /// A field as a number; text that is no number, or does not fit, is an error.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, WireError> {
        self.field(name).map(|text| parse_number(name, &text)).transpose()
    }

    /// A field that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<Cow<'a, str>, WireError> {
        self.field(name).ok_or_else(|| missing(name))
    }

    /// A field that must be there, as a number.
    pub(crate) fn required_number<T: FromStr>(&self, name: &str) -> Result<T, WireError> {
        self.number(name)?.ok_or_else(|| missing(name))
    }

    /// A field as a boolean, read as `Boolean.parseBoolean` does: only `true`, in any case, is true.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.field(name).map(|text| parse_boolean(&text))
    }
}

/// The error of a header that lacks a field.
pub(crate) fn missing(name: &str) -> WireError {
    WireError::new(format!("header field {name} is missing"))
}

/// The number in the text of a header field.
pub(crate) fn parse_number<T: FromStr>(name: &str, text: &str) -> Result<T, WireError> {
    text.parse().map_err(|_| {
        WireError::new(format!(
            "header field {name} is not a number that fits: {text:.40}"
        ))
    })
}

/// As `Boolean.parseBoolean`.
pub(crate) fn parse_boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

/// So many fields are kept apart while a header is checked; a broker's reply to a send has at most seven.
const KEPT_FIELDS: usize = 8;

/// The fields of a header (`extFields`) as they were received, checked.
///
/// The first ones are kept apart, so that the fields of a reply are looked for only once. The others stay in the
/// received bytes.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    serialization: Serialization,
    // The value is UTF-8; of JSON, both are the raw text of `JsonText`.
    kept: [(&'a str, &'a [u8]); KEPT_FIELDS],
    count: usize,
    // What follows the kept ones.
    rest: Option<FieldReader<'a>>,
}

/// Reads fields from bytes that have been checked.
#[derive(Clone, Debug)]
pub(crate) enum FieldReader<'a> {
    Json(header_json::FieldReader<'a>),
    Binary(header_binary::FieldReader<'a>),
}

impl<'a> FieldReader<'a> {
    /// The next name and value, of JSON as raw text.
    fn next_raw(&mut self) -> Option<(&'a str, &'a str)> {
        match self {
            FieldReader::Json(reader) => reader.next_raw(),
            FieldReader::Binary(reader) => reader.next_raw(),
        }
    }
}

impl<'a> Fields<'a> {
    /// No fields yet.
    #[inline]
    pub(super) fn new(serialization: Serialization) -> Self {
        Self {
            serialization,
            kept: [("", &[]); KEPT_FIELDS],
            count: 0,
            rest: None,
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.rest = None;
    }

    /// Adds a field while a header is checked; for JSON as raw text. The first that finds no room asks for a reader
    /// that gives it and all after it.
    #[inline]
    pub(super) fn add(&mut self, name: &'a str, value: &'a str, reader: impl FnOnce() -> FieldReader<'a>) {
        match self.kept.get_mut(self.count) {
            Some(slot) => {
                *slot = (name, value.as_bytes());
                self.count += 1;
            }
            None if self.rest.is_none() => self.rest = Some(reader()),
            None => {}
        }
    }

    /// Adds a field whose value is ASCII without escapes; `None` when there is no room.
    #[inline]
    pub(super) fn add_known(&mut self, name: &'a str, value: &'a [u8]) -> Option<()> {
        *self.kept.get_mut(self.count)? = (name, value);
        self.count += 1;
        Some(())
    }

    /// All names and values, if all are kept and none has escapes.
    pub(super) fn all_kept(&self) -> Option<&[(&'a str, &'a [u8])]> {
        let kept = self.kept.get(..self.count)?;
        let is_plain =
            |(name, value): &(&str, &[u8])| !self.is_escaped(name.as_bytes()) && !self.is_escaped(value);
        (self.rest.is_none() && kept.iter().all(is_plain)).then_some(kept)
    }

    fn raw(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let as_text = |(name, value)| (name, std::str::from_utf8(value).unwrap_or_default());
        let kept = self.kept.into_iter().take(self.count).map(as_text);
        let mut rest = self.rest.clone();
        kept.chain(std::iter::from_fn(move || rest.as_mut()?.next_raw()))
    }

    /// Whether raw text has escapes to resolve.
    #[inline]
    fn is_escaped(&self, raw: &[u8]) -> bool {
        self.serialization == Serialization::Json && json_text::is_escaped_raw(raw)
    }

    fn text(&self, raw: &'a str) -> Cow<'a, str> {
        if self.is_escaped(raw.as_bytes()) {
            JsonText::of_raw(raw).text()
        } else {
            Cow::Borrowed(raw)
        }
    }

    /// All fields in the order of the wire, fields with the same name included. Text is borrowed unless JSON escapes
    /// have to be resolved.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.raw()
            .map(|(name, value)| (self.text(name), self.text(value)))
    }

    /// Hands every field to `visit`, in the same order, the value as bytes of UTF-8: the way for replies, which are many.
    #[inline]
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&str, &[u8])) {
        for (name, value) in self.kept.iter().take(self.count) {
            if self.is_escaped(name.as_bytes()) || self.is_escaped(value) {
                let value = std::str::from_utf8(value).unwrap_or_default();
                visit(&self.text(name), self.text(value).as_bytes());
            } else {
                visit(name, value);
            }
        }
        if let Some(mut rest) = self.rest.clone() {
            while let Some((name, value)) = rest.next_raw() {
                visit(&self.text(name), self.text(value).as_bytes());
            }
        }
    }

    /// The value of the last field with this name.
    fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        let is_wanted = |raw: &'a str| {
            if self.is_escaped(raw.as_bytes()) {
                self.text(raw) == name
            } else {
                raw == name
            }
        };
        let found = self.raw().filter(|(key, _)| is_wanted(key)).last();
        found.map(|(_, value)| self.text(value))
    }
}

/// Everything of a header but its fields, for encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) code: i32,
    pub(crate) opaque: i32,
    pub(crate) flag: i32,
    pub(crate) language: Language,
    pub(crate) version: i32,
    pub(crate) remark: Option<&'a str>,
    pub(crate) serialization: Serialization,
}

/// Writes header fields straight into the frame that is being encoded.
///
/// A value that the form cannot carry is remembered and makes [`encode_frame`] fail; writing goes on without effect.
#[derive(Debug)]
pub(crate) struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
    serialization: Serialization,
    is_first: bool,
    failure: Option<WireError>,
    /// For a template: where the values belong that differ from frame to frame.
    places: Option<&'a mut Places>,
}

/// Where the values of a template stand or belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Of the opaque, as the template was made with.
    pub(super) opaque: usize,
    /// Of the number that always has as many digits.
    pub(super) stamp: usize,
    /// Where it is cut: the values belong between two pieces.
    pub(super) cuts: Vec<usize>,
}

impl FieldWriter<'_> {
    /// A number that differs from frame to frame of one template, and always has as many digits.
    pub(crate) fn stamp(&mut self, name: &str, value: i64) {
        self.number(name, value);
        let end = self.out.len() - usize::from(self.serialization == Serialization::Json);
        if let Some(places) = &mut self.places {
            places.stamp = end - Decimal::new(value).as_bytes().len();
        }
    }

    /// A number that differs from frame to frame of one template.
    pub(crate) fn varying_number(&mut self, name: &str, value: i64) {
        if !self.cut(name) {
            self.number(name, value);
        }
    }

    /// A property string that differs from frame to frame of one template.
    pub(crate) fn varying_properties<'p>(
        &mut self,
        name: &str,
        properties: impl Iterator<Item = (&'p str, &'p str)>,
    ) {
        if !self.cut(name) {
            self.properties(name, properties);
        }
    }

    /// In a template, leaves a value out and notes where it belongs. False in a frame.
    fn cut(&mut self, name: &str) -> bool {
        let Some(places) = &mut self.places else {
            return false;
        };
        match self.serialization {
            Serialization::Json => {
                header_json::write_cut(self.out, self.is_first, name);
                places.cuts.push(self.out.len());
                header_json::write_after_cut(self.out);
            }
            Serialization::Binary => {
                let written = header_binary::write_cut(self.out, name);
                places.cuts.push(self.out.len());
                self.keep(written);
            }
        }
        self.is_first = false;
        true
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        match self.serialization {
            Serialization::Json => header_json::write_text(self.out, self.is_first, name, value),
            Serialization::Binary => {
                let written = header_binary::write_value(self.out, name, value.as_bytes());
                self.keep(written);
            }
        }
        self.is_first = false;
    }

    pub(crate) fn number(&mut self, name: &str, value: i64) {
        let decimal = Decimal::new(value);
        self.plain(name, decimal.as_bytes());
    }

    pub(crate) fn boolean(&mut self, name: &str, value: bool) {
        self.plain(name, if value { b"true" } else { b"false" });
    }

    /// A property string (`name 0x01 value 0x02 …`, with the last 0x02 as Java writes it) as one field.
    pub(crate) fn properties<'p>(
        &mut self,
        name: &str,
        properties: impl Iterator<Item = (&'p str, &'p str)>,
    ) {
        match self.serialization {
            Serialization::Json => header_json::write_properties(self.out, self.is_first, name, properties),
            Serialization::Binary => {
                let written = header_binary::write_properties(self.out, name, properties);
                self.keep(written);
            }
        }
        self.is_first = false;
    }

    /// A value that needs no escapes in JSON.
    fn plain(&mut self, name: &str, value: &[u8]) {
        match self.serialization {
            Serialization::Json => header_json::write_plain(self.out, self.is_first, name, value),
            Serialization::Binary => {
                let written = header_binary::write_value(self.out, name, value);
                self.keep(written);
            }
        }
        self.is_first = false;
    }

    fn keep(&mut self, written: Result<(), WireError>) {
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
    }
}

/// Appends one whole frame to `out`.
///
/// # Errors
/// When the frame or its header is over a limit, or the binary form has no room for a value (codes and versions of 16
/// bits, names of 32,767 bytes). `out` is then as it was.
pub(crate) fn encode_frame(
    out: &mut Vec<u8>,
    envelope: &Envelope<'_>,
    write_fields: impl FnOnce(&mut FieldWriter<'_>),
    body: &[u8],
) -> Result<(), WireError> {
    let start = out.len();
    let outcome = append_header(out, envelope, write_fields, None)
        .and_then(|fields_start| complete_frame(out, start, fields_start, envelope.serialization, body));
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome
}

/// Appends a frame up to the end of its header, with nothing where the lengths belong. Gives back where the fields begin.
pub(super) fn append_header(
    out: &mut Vec<u8>,
    envelope: &Envelope<'_>,
    write_fields: impl FnOnce(&mut FieldWriter<'_>),
    mut places: Option<&mut Places>,
) -> Result<usize, WireError> {
    // Filled in by `frame::write_prefix` once the lengths are known.
    out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
    let serialization = envelope.serialization;
    match serialization {
        Serialization::Json => header_json::open(out, envelope, places.as_deref_mut()),
        Serialization::Binary => header_binary::open(out, envelope, places.as_deref_mut())?,
    }
    let fields_start = out.len();
    let mut writer = FieldWriter {
        out,
        serialization,
        is_first: true,
        failure: None,
        places,
    };
    write_fields(&mut writer);
    let FieldWriter {
        out,
        is_first,
        failure,
        ..
    } = writer;
    if let Some(error) = failure {
        return Err(error);
    }
    if serialization == Serialization::Json {
        header_json::close(out, is_first);
    }
    Ok(fields_start)
}

/// Fills in the lengths of the frame that begins at `start`, checks them, and appends the body.
pub(super) fn complete_frame(
    out: &mut Vec<u8>,
    start: usize,
    fields_start: usize,
    serialization: Serialization,
    body: &[u8],
) -> Result<(), WireError> {
    if serialization == Serialization::Binary {
        header_binary::close(out, fields_start)?;
    }
    let header_length = out.len() - start - FRAME_PREFIX_BYTES;
    if header_length > MAX_HEADER_BYTES {
        return Err(WireError::new(format!(
            "header of {header_length} bytes is over the limit of {MAX_HEADER_BYTES}"
        )));
    }
    // Both are lengths of slices in memory, far from overflow.
    let length = MIN_FRAME_LENGTH + header_length + body.len();
    if length > MAX_FRAME_LENGTH {
        return Err(frame::too_long(length));
    }
    out.extend_from_slice(body);
    frame::write_prefix(out, start, serialization, length, header_length)
}

#[cfg(test)]
mod tests {
    use super::{Envelope, FieldWriter, Header, KEPT_FIELDS, Language, encode_frame};
    use crate::wire::command::Command;
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::limits::{MAX_FIELDS, MAX_FRAME_LENGTH, MAX_HEADER_BYTES};

    const BOTH_FORMS: [Serialization; 2] = [Serialization::Json, Serialization::Binary];

    fn envelope(serialization: Serialization) -> Envelope<'static> {
        Envelope {
            code: 310,
            opaque: -5,
            flag: 2,
            language: Language::OTHER,
            version: 513,
            remark: None,
            serialization,
        }
    }

    fn encoded(envelope: &Envelope<'_>, write: impl FnOnce(&mut FieldWriter<'_>), body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(&mut out, envelope, write, body).unwrap();
        out
    }

    /// Hands the header of a frame with these fields to `check`.
    fn with_fields(serialization: Serialization, fields: &[(&str, &str)], check: impl FnOnce(&Header<'_>)) {
        let write =
            |writer: &mut FieldWriter<'_>| fields.iter().for_each(|(name, value)| writer.text(name, value));
        let frame = encoded(&envelope(serialization), write, b"");
        let (frame, _) = split_frame(&frame).unwrap().unwrap();
        check(&frame.header().unwrap());
    }

    fn owned(header: &Header<'_>) -> Vec<(String, String)> {
        header
            .fields
            .iter()
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        for serialization in BOTH_FORMS {
            let sent = Envelope {
                remark: Some("a \"remark\" \u{4e2d}"),
                ..envelope(serialization)
            };
            let write = |writer: &mut FieldWriter<'_>| {
                writer.text("topic", "caf\u{e9}\n");
                writer.number("g", 1_795_423_244_454);
                writer.number("least", i64::MIN);
                writer.boolean("k", false);
                writer.boolean("m", true);
                writer.properties("i", [("TAGS", "TagA"), ("u\"", "\u{1f600}")].into_iter());
                writer.properties("none", std::iter::empty());
            };
            let bytes = encoded(&sent, write, b"body");
            let (frame, used) = split_frame(&bytes).unwrap().unwrap();
            assert_eq!(
                (used, frame.serialization, frame.body),
                (bytes.len(), serialization, &b"body"[..])
            );
            let header = frame.header().unwrap();
            assert_eq!(
                (header.code, header.opaque, header.flag, header.version),
                (310, -5, 2, 513)
            );
            assert_eq!(
                (header.language, header.remark.as_deref()),
                (Language::OTHER, sent.remark)
            );
            assert!(header.is_oneway() && !header.is_response());
            let expected = [
                ("topic", "caf\u{e9}\n"),
                ("g", "1795423244454"),
                ("least", "-9223372036854775808"),
                ("k", "false"),
                ("m", "true"),
                ("i", "TAGS\u{1}TagA\u{2}u\"\u{1}\u{1f600}\u{2}"),
                ("none", ""),
            ];
            assert_eq!(
                owned(&header),
                expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
            );
            for (name, value) in expected {
                assert_eq!(header.field(name).as_deref(), Some(value));
            }
            assert_eq!(header.field("absent"), None);
        }
    }

    #[test]
    fn json_is_json_to_other_readers() {
        let write = |writer: &mut FieldWriter<'_>| {
            writer.text("a", "x\u{1}\"\\");
            writer.number("b", -1);
            writer.text("\"odd\"", "");
        };
        let frame = encoded(&envelope(Serialization::Json), write, b"");
        let value: serde_json::Value = serde_json::from_slice(&frame[8..]).unwrap();
        let expected = serde_json::json!({
            "code": 310, "flag": 2, "language": "OTHER", "opaque": -5, "version": 513, "serializeTypeCurrentRPC": "JSON",
            "extFields": {"a": "x\u{1}\"\\", "b": "-1", "\"odd\"": ""},
        });
        assert_eq!(value, expected);
        let frame = encoded(&envelope(Serialization::Json), |_| {}, b"");
        let value: serde_json::Value = serde_json::from_slice(&frame[8..]).unwrap();
        assert!(value.get("extFields").is_none() && value.get("remark").is_none());
    }

    #[test]
    fn any_number_of_fields_comes_back_in_order() {
        for serialization in BOTH_FORMS {
            for count in [
                0,
                1,
                KEPT_FIELDS - 1,
                KEPT_FIELDS,
                KEPT_FIELDS + 1,
                3 * KEPT_FIELDS,
                MAX_FIELDS,
            ] {
                let fields: Vec<_> = (0..count)
                    .map(|number| (format!("n{number}"), format!("v\n{number}")))
                    .collect();
                let borrowed: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                with_fields(serialization, &borrowed, |header| {
                    assert_eq!(owned(header), fields);
                    let mut visited = Vec::new();
                    header.fields.for_each(|name, value| {
                        let value = std::str::from_utf8(value).unwrap();
                        visited.push((name.to_owned(), value.to_owned()));
                    });
                    assert_eq!(visited, fields);
                    for (name, value) in &borrowed {
                        assert_eq!(header.field(name).as_deref(), Some(*value));
                    }
                });
            }
        }
    }

    #[test]
    fn of_fields_with_one_name_the_last_counts() {
        for serialization in BOTH_FORMS {
            let mut fields = vec![("a", "1"), ("b", "x"), ("a", "2")];
            with_fields(serialization, &fields, |header| {
                assert_eq!(header.field("a").as_deref(), Some("2"));
            });
            fields.extend([("filler", ""); KEPT_FIELDS]);
            fields.push(("a", "3"));
            with_fields(serialization, &fields, |header| {
                assert_eq!(header.field("a").as_deref(), Some("3"));
                assert_eq!(header.field("b").as_deref(), Some("x"));
            });
        }
    }

    #[test]
    fn a_value_that_begins_with_a_quote_is_itself() {
        for serialization in BOTH_FORMS {
            with_fields(serialization, &[("\"n", "\"v\\n")], |header| {
                assert_eq!(header.field("\"n").as_deref(), Some("\"v\\n"));
                assert_eq!(header.field("n"), None);
                header
                    .fields
                    .for_each(|name, value| assert_eq!((name, value), ("\"n", &b"\"v\\n"[..])));
            });
        }
    }

    #[test]
    fn numbers_and_booleans_are_read_as_java_does() {
        with_fields(
            Serialization::Json,
            &[("n", "-7"), ("x", "abc"), ("t", "TRUE"), ("f", "yes"), ("e", "")],
            |header| {
                assert_eq!(header.number::<i64>("n").unwrap(), Some(-7));
                assert_eq!(header.number::<i32>("absent").unwrap(), None);
                assert!(header.number::<u32>("n").is_err() && header.number::<i32>("e").is_err());
                let error = header.number::<i32>("x").unwrap_err();
                assert_eq!(error.reason(), "header field x is not a number that fits: abc");
                assert_eq!(
                    (header.boolean("t"), header.boolean("f"), header.boolean("absent")),
                    (Some(true), Some(false), None)
                );
            },
        );
    }

    #[test]
    fn languages_have_names_and_codes() {
        assert_eq!(
            (Language::RUST.name(), Language::from_code(13).name()),
            (Some("RUST"), Some("NODE_JS"))
        );
        assert_eq!(
            (Language::from_name("GO"), Language::from_name("KLINGON")),
            (Language::GO, Language::UNKNOWN)
        );
        assert_eq!(
            (Language::from_code(99).name(), Language::from_code(99).code()),
            (None, 99)
        );
        assert_eq!(
            format!("{:?} {:?}", Language::JAVA, Language::UNKNOWN),
            "JAVA UNKNOWN(255)"
        );
    }

    #[test]
    fn an_unknown_language_is_left_out_of_json_and_kept_in_binary() {
        for (serialization, language) in [
            (Serialization::Json, Language::UNKNOWN),
            (Serialization::Binary, Language::from_code(99)),
        ] {
            let frame = encoded(
                &Envelope {
                    language,
                    ..envelope(serialization)
                },
                |_| {},
                b"",
            );
            let (frame, _) = split_frame(&frame).unwrap().unwrap();
            assert_eq!(frame.header().unwrap().language, language);
        }
    }

    #[test]
    fn what_the_form_cannot_carry_leaves_the_buffer_as_it_was() {
        let mut out = b"before".to_vec();
        let binary = envelope(Serialization::Binary);
        for broken in [
            Envelope {
                code: 32_768,
                ..binary
            },
            Envelope {
                code: -32_769,
                ..binary
            },
            Envelope {
                version: 40_000,
                ..binary
            },
        ] {
            let error = encode_frame(&mut out, &broken, |_| {}, b"").unwrap_err();
            assert!(error.reason().contains("16 bits"), "{error}");
            assert_eq!(out, b"before");
            // JSON has no such limit.
            encoded(
                &Envelope {
                    serialization: Serialization::Json,
                    ..broken
                },
                |_| {},
                b"",
            );
        }
        let long_name = "n".repeat(32_768);
        let write = |writer: &mut FieldWriter<'_>| {
            writer.text(&long_name, "v");
            writer.text("after", "v");
        };
        assert!(encode_frame(&mut out, &binary, write, b"").is_err());
        assert_eq!(out, b"before");
    }

    #[test]
    fn frames_and_headers_over_the_limit_are_refused_and_the_largest_pass() {
        for serialization in BOTH_FORMS {
            let empty = encoded(&envelope(serialization), |_| {}, b"").len();
            let room = MAX_FRAME_LENGTH + 4 - empty;
            let mut out = Vec::new();
            encode_frame(&mut out, &envelope(serialization), |_| {}, &vec![0; room]).unwrap();
            assert_eq!(split_frame(&out).unwrap().unwrap().1, MAX_FRAME_LENGTH + 4);
            out.clear();
            let error =
                encode_frame(&mut out, &envelope(serialization), |_| {}, &vec![0; room + 1]).unwrap_err();
            assert_eq!(
                error.reason(),
                "frame length 16777213 is over the limit of 16777212"
            );
            assert!(out.is_empty());
            let value = "v".repeat(MAX_HEADER_BYTES);
            assert!(
                encode_frame(
                    &mut out,
                    &envelope(serialization),
                    |writer| writer.text("n", &value),
                    b""
                )
                .is_err()
            );
            assert!(out.is_empty());
        }
    }

    #[test]
    fn frames_are_appended_one_after_the_other() {
        let mut out = Vec::new();
        for serialization in BOTH_FORMS {
            encode_frame(
                &mut out,
                &envelope(serialization),
                |writer| writer.text("a", "b"),
                b"body",
            )
            .unwrap();
        }
        let (first, used) = split_frame(&out).unwrap().unwrap();
        let (second, _) = split_frame(&out[used..]).unwrap().unwrap();
        let first = Command::decode(first).unwrap();
        let second = Command::decode(second).unwrap();
        assert_eq!(
            Command {
                serialization: Serialization::Binary,
                ..first
            },
            second
        );
    }
}
