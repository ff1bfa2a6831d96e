//! The JSON form of a header (serialization type 0), both ways. The view and the choice of form are in `header.rs`.
//!
//! What servers tolerate is tolerated: unknown keys, nulls, a missing `language`, `version` or `flag`, an unknown
//! language name, numbers and booleans as values of fields. A response must have `code` and `opaque`: without them it
//! cannot be said whose success or failure it is. A request may leave out one of them, as fastjson then leaves the
//! default; an object with neither is not a header.

use std::borrow::Cow;

use super::WireError;
use super::header::{Envelope, FLAG_RESPONSE, Fields, Header, Language};
use super::json::{self, Dialect, JsonReader};
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
    let mut fields = "";
    reader.enter_object()?;
    while let Some(key) = reader.next_key()? {
        if key.is("code") {
            code = reader.integer()?;
        } else if key.is("extFields") {
            fields = check_fields(&mut reader)?;
        } else if key.is("flag") {
            flag = reader.integer()?;
        } else if key.is("language") {
            language = reader
                .optional_string()?
                .map_or(Language::UNKNOWN, |name| Language::from_name(&name.text()));
        } else if key.is("opaque") {
            opaque = reader.integer()?;
        } else if key.is("version") {
            version = reader.integer()?;
        } else if key.is("remark") {
            remark = read_remark(&mut reader)?;
        } else {
            reader.skip_value()?;
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
        fields: Fields::Json(fields),
    })
}

fn read_remark<'a>(reader: &mut JsonReader<'a>) -> Result<Option<Cow<'a, str>>, WireError> {
    match reader.optional_string()? {
        Some(remark) if remark.written_len() > MAX_REMARK_BYTES => {
            Err(WireError::new("remark is over the limit"))
        }
        remark => Ok(remark.map(super::json::JsonText::text)),
    }
}

/// Checks the object of the fields and returns its text, which is empty for null.
fn check_fields<'a>(reader: &mut JsonReader<'a>) -> Result<&'a str, WireError> {
    if reader.take_null()? {
        return Ok("");
    }
    reader.peek();
    let start = reader.position();
    reader.enter_object()?;
    let mut count = 0;
    while let Some(name) = reader.next_key()? {
        let value = reader.scalar()?;
        count += 1;
        if count > MAX_FIELDS {
            return Err(WireError::new("header has too many fields"));
        }
        if name.written_len() > MAX_FIELD_NAME_BYTES {
            return Err(WireError::new("name of a header field is over the limit"));
        }
        if value.is_some_and(|value| value.written_len() > MAX_FIELD_VALUE_BYTES) {
            return Err(WireError::new("value of a header field is over the limit"));
        }
    }
    Ok(reader.text_since(start))
}

/// Reads the fields once more; [`decode`] has checked them, so that nothing can be wrong any more.
#[derive(Debug)]
pub(crate) struct FieldReader<'a> {
    reader: Option<JsonReader<'a>>,
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(object: &'a str) -> Self {
        let mut reader = JsonReader::of_text(object, Dialect::Standard);
        Self {
            reader: reader.enter_object().is_ok().then_some(reader),
        }
    }
}

impl<'a> Iterator for FieldReader<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        loop {
            let name = reader.next_key().ok()??;
            // Java leaves null out when it writes and drops it when it reads.
            if let Some(value) = reader.scalar().ok()? {
                return Some((name.text(), value.text()));
            }
        }
    }
}

/// Writes everything before the fields.
pub(crate) fn open(out: &mut Vec<u8>, envelope: &Envelope<'_>) {
    out.extend_from_slice(b"{\"code\":");
    json::write_integer(out, envelope.code.into());
    out.extend_from_slice(b",\"flag\":");
    json::write_integer(out, envelope.flag.into());
    if let Some(name) = envelope.language.name() {
        out.extend_from_slice(b",\"language\":\"");
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b",\"opaque\":");
    json::write_integer(out, envelope.opaque.into());
    if let Some(remark) = envelope.remark {
        out.extend_from_slice(b",\"remark\":");
        json::write_string(out, remark);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    json::write_integer(out, envelope.version.into());
}

/// Ends the header.
pub(crate) fn close(out: &mut Vec<u8>, without_fields: bool) {
    // Without fields there is no `extFields`, as Java leaves null out.
    out.extend_from_slice(if without_fields { b"}" } else { b"}}" });
}

fn write_name(out: &mut Vec<u8>, is_first: bool, name: &str) {
    out.extend_from_slice(if is_first { b",\"extFields\":{\"" } else { b",\"" });
    json::write_escaped(out, name);
    out.extend_from_slice(b"\":\"");
}

/// Writes a field.
pub(crate) fn write_text(out: &mut Vec<u8>, is_first: bool, name: &str, value: &str) {
    write_name(out, is_first, name);
    json::write_escaped(out, value);
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
        json::write_escaped(out, key);
        out.extend_from_slice(b"\\u0001");
        json::write_escaped(out, value);
        out.extend_from_slice(b"\\u0002");
    }
    out.push(b'"');
}
