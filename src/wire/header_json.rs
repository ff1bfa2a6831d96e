//! The JSON form of a header (serialization type 0), both ways. The view and the choice of form are in `header.rs`.
//!
//! What servers tolerate is tolerated: unknown keys, nulls, a missing `language`, `version` or `flag`, an unknown
//! language name, numbers and booleans as values of fields. A response must have `code` and `opaque`: without them it
//! cannot be said whose success or failure it is. A request may leave out one of them, as fastjson then leaves the
//! default; an object with neither is not a header.

use std::borrow::Cow;

use super::WireError;
use super::frame::Serialization;
use super::header::{self, Envelope, FLAG_RESPONSE, Fields, Header, Language};
use super::json::{Dialect, JsonReader};
use super::json_text;
use super::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELD_VALUE_BYTES, MAX_FIELDS, MAX_REMARK_BYTES};

/// Decodes and checks a whole header.
pub(crate) fn decode(bytes: &[u8]) -> Result<Header<'_>, WireError> {
    let mut reader = JsonReader::new(bytes, Dialect::Standard)?;
    let mut code = None;
    let mut opaque = None;
    let mut flag = None;
    let mut version = None;
    let mut language = Language::UNKNOWN;
    let mut remark = None;
    let mut fields = Fields::new(Serialization::Json);
    reader.enter_object();
    while let Some(member) = next_member(&mut reader) {
        match member {
            Member::Code => code = reader.integer(),
            Member::ExtFields => read_fields(&mut reader, &mut fields),
            Member::Flag => flag = reader.integer(),
            Member::Language => language = read_language(&mut reader),
            Member::Opaque => opaque = reader.integer(),
            Member::Remark => remark = read_remark(&mut reader),
            Member::Version => version = reader.integer(),
            Member::Other => reader.skip_value(),
        }
    }
    reader.finish()?;
    let flag = flag.unwrap_or(0);
    let (code, opaque) = match (code, opaque) {
        (Some(code), Some(opaque)) => (code, opaque),
        (None, None) => return Err(WireError::new("header has neither code nor opaque")),
        _ if flag & FLAG_RESPONSE != 0 => {
            return Err(WireError::new("header of a response without code or opaque"));
        }
        (code, opaque) => (code.unwrap_or(0), opaque.unwrap_or(0)),
    };
    Ok(Header {
        code,
        opaque,
        flag,
        version: version.unwrap_or(0),
        language,
        remark,
        fields,
    })
}

/// The members of the header object.
enum Member {
    Code,
    ExtFields,
    Flag,
    Language,
    Opaque,
    Remark,
    Version,
    /// `serializeTypeCurrentRPC`, which says what the frame has said already, and whatever else there may be.
    Other,
}

/// Which member comes next. Its key has then been read.
#[inline]
fn next_member(reader: &mut JsonReader<'_>) -> Option<Member> {
    if !reader.next_member() {
        return None;
    }
    // As every known peer writes them; fastjson in this order.
    if reader.take_key("\"code\":") {
        return Some(Member::Code);
    }
    if reader.take_key("\"extFields\":") {
        return Some(Member::ExtFields);
    }
    if reader.take_key("\"flag\":") {
        return Some(Member::Flag);
    }
    if reader.take_key("\"language\":") {
        return Some(Member::Language);
    }
    if reader.take_key("\"opaque\":") {
        return Some(Member::Opaque);
    }
    if reader.take_key("\"serializeTypeCurrentRPC\":") {
        return Some(Member::Other);
    }
    if reader.take_key("\"version\":") {
        return Some(Member::Version);
    }
    Some(match &*reader.key()?.text() {
        "code" => Member::Code,
        "extFields" => Member::ExtFields,
        "flag" => Member::Flag,
        "language" => Member::Language,
        "opaque" => Member::Opaque,
        "remark" => Member::Remark,
        "version" => Member::Version,
        _ => Member::Other,
    })
}

#[inline]
fn read_language(reader: &mut JsonReader<'_>) -> Language {
    reader
        .optional_string()
        .map_or(Language::UNKNOWN, |name| Language::from_name(&name.text()))
}

fn read_remark<'a>(reader: &mut JsonReader<'a>) -> Option<Cow<'a, str>> {
    let remark = reader.optional_string()?;
    if remark.written_len() > MAX_REMARK_BYTES {
        reader.fail(|| WireError::new("remark is over the limit"));
    }
    Some(remark.text())
}

/// Reads and checks the object of the fields, or null for none, in place of what `fields` may hold.
#[inline]
fn read_fields<'a>(reader: &mut JsonReader<'a>, fields: &mut Fields<'a>) {
    fields.clear();
    if reader.take_null() {
        return;
    }
    reader.enter_object();
    let mut count = 0;
    while reader.next_member() {
        let start = reader.position();
        let Some(name) = reader.key() else { break };
        // Java leaves null out when it writes and drops it when it reads.
        if let Some(value) = reader.scalar() {
            fields.add(name.raw(), value.raw(), || {
                header::FieldReader::Json(FieldReader::new(reader, start))
            });
            if name.written_len() > MAX_FIELD_NAME_BYTES || value.written_len() > MAX_FIELD_VALUE_BYTES {
                reader.fail(|| WireError::new("name or value of a header field is over the limit"));
            }
        }
        count += 1;
        if count > MAX_FIELDS {
            reader.fail(|| WireError::new("header has too many fields"));
        }
    }
}

/// Reads once more the fields for which [`Fields`] had no room. They have been checked, so that nothing can be wrong
/// any more.
#[derive(Clone, Debug)]
pub(crate) struct FieldReader<'a> {
    reader: JsonReader<'a>,
}

impl<'a> FieldReader<'a> {
    /// Goes back to `start`, where the key of a member begins.
    #[cold]
    fn new(reader: &JsonReader<'a>, start: usize) -> Self {
        let mut reader = reader.clone();
        reader.go_back_to_key(start);
        Self { reader }
    }

    /// The next name and value, as raw text.
    pub(super) fn next_raw(&mut self) -> Option<(&'a str, &'a str)> {
        loop {
            let name = self.reader.next_key()?;
            if let Some(value) = self.reader.scalar() {
                return Some((name.raw(), value.raw()));
            }
        }
    }
}

/// Writes everything before the fields.
pub(crate) fn open(out: &mut Vec<u8>, envelope: &Envelope<'_>) {
    out.extend_from_slice(b"{\"code\":");
    json_text::write_integer(out, envelope.code.into());
    out.extend_from_slice(b",\"flag\":");
    json_text::write_integer(out, envelope.flag.into());
    if let Some(name) = envelope.language.name() {
        out.extend_from_slice(b",\"language\":\"");
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b",\"opaque\":");
    json_text::write_integer(out, envelope.opaque.into());
    if let Some(remark) = envelope.remark {
        out.extend_from_slice(b",\"remark\":");
        json_text::write_string(out, remark);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    json_text::write_integer(out, envelope.version.into());
}

/// Ends the header.
pub(crate) fn close(out: &mut Vec<u8>, without_fields: bool) {
    // Without fields there is no `extFields`, as Java leaves null out.
    out.extend_from_slice(if without_fields { b"}" } else { b"}}" });
}

#[inline]
fn write_name(out: &mut Vec<u8>, is_first: bool, name: &str) {
    match name.as_bytes() {
        // The names of `SendMessageRequestHeaderV2`, which are most of what is ever written.
        [letter @ b'a'..=b'z'] if !is_first => {
            out.extend_from_slice(&[b',', b'"', *letter, b'"', b':', b'"']);
        }
        _ => {
            out.extend_from_slice(if is_first { b",\"extFields\":{\"" } else { b",\"" });
            json_text::write_escaped(out, name);
            out.extend_from_slice(b"\":\"");
        }
    }
}

/// Writes a field.
pub(crate) fn write_text(out: &mut Vec<u8>, is_first: bool, name: &str, value: &str) {
    write_name(out, is_first, name);
    json_text::write_escaped(out, value);
    out.push(b'"');
}

/// Writes a field whose value needs no escapes.
pub(crate) fn write_plain(out: &mut Vec<u8>, is_first: bool, name: &str, value: &[u8]) {
    write_name(out, is_first, name);
    out.extend_from_slice(value);
    out.push(b'"');
}

/// Writes a field that holds a property string.
pub(crate) fn write_properties<'p>(
    out: &mut Vec<u8>,
    is_first: bool,
    name: &str,
    properties: impl Iterator<Item = (&'p str, &'p str)>,
) {
    write_name(out, is_first, name);
    for (key, value) in properties {
        json_text::write_escaped(out, key);
        out.extend_from_slice(b"\\u0001");
        json_text::write_escaped(out, value);
        out.extend_from_slice(b"\\u0002");
    }
    out.push(b'"');
}
