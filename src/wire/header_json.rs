//! The JSON form of a header (serialization type 0), both ways. The view and the choice of form are in `header.rs`.
//!
//! What servers tolerate is tolerated: unknown keys, nulls, a missing `language`, `version` or `flag`, an unknown
//! language name, numbers and booleans as values of fields. A response must have `code` and `opaque`: without them it
//! cannot be said whose success or failure it is. A request may leave out one of them, as fastjson then leaves the
//! default; an object with neither is not a header.

use std::borrow::Cow;

use super::WireError;
use super::frame::Serialization;
use super::header::{self, Envelope, FLAG_RESPONSE, Fields, Header, Language, Places};
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

/// Writes everything before the fields. Of a template, notes where the opaque stands.
pub(crate) fn open(out: &mut Vec<u8>, envelope: &Envelope<'_>, places: Option<&mut Places>) {
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
    if let Some(places) = places {
        places.opaque = out.len();
    }
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

/// Writes a field without its value and what would follow.
pub(crate) fn write_cut(out: &mut Vec<u8>, is_first: bool, name: &str) {
    write_name(out, is_first, name);
}

/// Writes what follows the value of a field that was [cut](write_cut).
pub(crate) fn write_after_cut(out: &mut Vec<u8>) {
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
    write_property_text(out, properties);
    out.push(b'"');
}

/// Writes a property string as it stands between its quotes.
#[inline]
pub(crate) fn write_property_text<'p>(
    out: &mut Vec<u8>,
    properties: impl Iterator<Item = (&'p str, &'p str)>,
) {
    for (key, value) in properties {
        json_text::write_escaped(out, key);
        out.extend_from_slice(b"\\u0001");
        json_text::write_escaped(out, value);
        out.extend_from_slice(b"\\u0002");
    }
}

#[cfg(test)]
mod tests {
    use super::decode;
    use crate::wire::header::Language;
    use crate::wire::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELDS, MAX_REMARK_BYTES};

    fn error(json: &str) -> String {
        decode(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_reply_of_4_7_0_is_read() {
        let header = decode(
            br#"{"code":0,"extFields":{"queueId":"0","TRACE_ON":"true","MSG_REGION":"DefaultRegion","msgId":"7F0000010000465A00000000000079DE","queueOffset":"9"},"flag":1,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":353}"#,
        )
        .unwrap();
        assert_eq!(
            (header.code, header.opaque, header.flag, header.version),
            (0, 7, 1, 353)
        );
        assert_eq!(
            (header.language, header.remark.as_deref()),
            (Language::JAVA, None)
        );
        assert!(header.is_response() && !header.is_oneway());
        assert_eq!(header.fields.iter().count(), 5);
        assert_eq!(header.number::<u64>("queueOffset").unwrap(), Some(9));
    }

    #[test]
    fn what_servers_tolerate_is_tolerated() {
        // [probe] Accepted by 4.7.0, 4.9.7 and 5.5.0.
        let header = decode(br#"{"code":310,"opaque":7,"extFields":{"a":"x"}}"#).unwrap();
        assert_eq!(
            (header.flag, header.version, header.language),
            (0, 0, Language::UNKNOWN)
        );
        let header = decode(br#"{"code":310,"opaque":7,"language":"KLINGON","foo":{"bar":[1,{}]}}"#).unwrap();
        assert_eq!(header.language, Language::UNKNOWN);
        let header = decode(
            br#"{"code":1,"opaque":7,"extFields":{"d":4,"k":false,"x":null,"f":1.5,"s":"","t":true}}"#,
        )
        .unwrap();
        let fields: Vec<_> = header.fields.iter().collect();
        let expected = [("d", "4"), ("k", "false"), ("f", "1.5"), ("s", ""), ("t", "true")];
        assert_eq!(fields, expected.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(header.field("x"), None);
        for empty in ["null", "{}", " { } "] {
            let json = format!(
                r#"{{"code":1,"opaque":7,"extFields":{empty},"remark":null,"flag":null,"language":null}}"#
            );
            let header = decode(json.as_bytes()).unwrap();
            assert_eq!((header.fields.iter().count(), header.remark), (0, None));
        }
    }

    #[test]
    fn white_space_and_escaped_keys_change_nothing() {
        let header = decode(
            b" { \"code\" : 17 ,\n \"opaq\\u0075e\" : 9, \"extFields\" : { \"a\\u0062\" : \"c\\td\" } , \"rem\\u0061rk\":\"\\u4e2d\" }\r\n",
        )
        .unwrap();
        assert_eq!(
            (header.code, header.opaque, header.remark.as_deref()),
            (17, 9, Some("\u{4e2d}"))
        );
        assert_eq!(header.field("ab").as_deref(), Some("c\td"));
    }

    #[test]
    fn of_members_with_one_name_the_last_counts() {
        let header =
            decode(br#"{"code":1,"opaque":1,"extFields":{"a":"1","b":"2"},"code":2,"extFields":{"a":"3"},"opaque":4}"#).unwrap();
        assert_eq!((header.code, header.opaque), (2, 4));
        assert_eq!(
            (header.field("a").as_deref(), header.field("b")),
            (Some("3"), None)
        );
        let header = decode(br#"{"code":1,"opaque":1,"extFields":{"a":"1"},"extFields":null}"#).unwrap();
        assert_eq!(header.fields.iter().count(), 0);
    }

    #[test]
    fn a_response_must_say_whose_and_what_it_is_and_a_request_one_of_both() {
        assert_eq!(
            error(r#"{"opaque":1,"flag":1}"#),
            "header of a response without code or opaque"
        );
        assert_eq!(
            error(r#"{"code":0,"flag":1}"#),
            "header of a response without code or opaque"
        );
        assert_eq!(
            error(r#"{"code":null,"opaque":1,"flag":1}"#),
            "header of a response without code or opaque"
        );
        assert_eq!(error("{}"), "header has neither code nor opaque");
        assert_eq!(
            error(r#"{"error":"not found"}"#),
            "header has neither code nor opaque"
        );
        assert_eq!(decode(br#"{"code":34}"#).unwrap().opaque, 0);
        assert_eq!(decode(br#"{"opaque":5}"#).unwrap().code, 0);
    }

    #[test]
    fn garbage_is_an_error() {
        for json in [
            "",
            "null",
            "[]",
            "\"code\"",
            "this is not json",
            r#"{"code":1,"opaque":2"#,
            r#"{"code":1,"opaque":2}}"#,
            r#"{"code":1,"opaque":2} x"#,
            r#"{"code":1,"opaque":2,}"#,
            r#"{"code":1.5,"opaque":2}"#,
            r#"{"code":"1","opaque":2}"#,
            r#"{"code":2147483648,"opaque":2}"#,
            r#"{"code":1,"opaque":-2147483649}"#,
            r#"{"code":1,"opaque":2,"flag":true}"#,
            r#"{"code":1,"opaque":2,"language":5}"#,
            r#"{"code":1,"opaque":2,"remark":5}"#,
            r#"{"code":1,"opaque":2,"extFields":[]}"#,
            r#"{"code":1,"opaque":2,"extFields":"x"}"#,
            r#"{"code":1,"opaque":2,"extFields":{"a":{}}}"#,
            r#"{"code":1,"opaque":2,"extFields":{"a":["b"]}}"#,
            r#"{"code":1,"opaque":2,"extFields":{0:"bare"}}"#,
            r#"{"code":1,"opaque":2,"extFields":{"a":"\x"}}"#,
            "{code:1,opaque:2}",
        ] {
            assert!(decode(json.as_bytes()).is_err(), "{json}");
        }
        assert_eq!(error("this is not json"), "no object at byte 0 of the JSON text");
        assert!(decode(b"{\"code\":1,\"opaque\":2,\"remark\":\"\xff\"}").is_err());
    }

    #[test]
    fn limits_hold() {
        let with_fields = |count: usize| {
            let fields: Vec<String> = (0..count).map(|number| format!(r#""n{number}":"v""#)).collect();
            format!(r#"{{"code":1,"opaque":2,"extFields":{{{}}}}}"#, fields.join(","))
        };
        assert!(decode(with_fields(MAX_FIELDS).as_bytes()).is_ok());
        assert_eq!(error(&with_fields(MAX_FIELDS + 1)), "header has too many fields");
        let with_name = |length: usize| {
            format!(
                r#"{{"code":1,"opaque":2,"extFields":{{"{}":"v"}}}}"#,
                "n".repeat(length)
            )
        };
        assert!(decode(with_name(MAX_FIELD_NAME_BYTES).as_bytes()).is_ok());
        assert!(error(&with_name(MAX_FIELD_NAME_BYTES + 1)).contains("over the limit"));
        let with_remark =
            |length: usize| format!(r#"{{"code":1,"opaque":2,"remark":"{}"}}"#, "r".repeat(length));
        assert!(decode(with_remark(MAX_REMARK_BYTES).as_bytes()).is_ok());
        assert_eq!(
            error(&with_remark(MAX_REMARK_BYTES + 1)),
            "remark is over the limit"
        );
        let nested = format!(r#"{{"code":1,"opaque":2,"x":{}}}"#, "[".repeat(100_000));
        assert!(error(&nested).contains("too deeply"));
    }

    #[test]
    fn no_prefix_and_no_changed_byte_of_a_header_panics() {
        let json = br#"{"code":0,"extFields":{"a":"b\u0001","n":5,"z":null},"flag":1,"language":"GO","opaque":7,"remark":"r","version":353}"#;
        for end in 0..json.len() {
            assert!(decode(&json[..end]).is_err());
        }
        for place in 0..json.len() {
            for byte in 0..=u8::MAX {
                let mut changed = json.to_vec();
                changed[place] = byte;
                if let Ok(header) = decode(&changed) {
                    assert!(header.fields.iter().count() <= 3);
                }
            }
        }
    }
}
