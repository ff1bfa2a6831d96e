//! The binary form of a header (serialization type 1, `RocketMQSerializable`), both ways. The view and the choice of
//! form are in `header.rs`.
//!
//! `i16 code, u8 language, i16 version, i32 opaque, i32 flag, i32 remark length, remark, i32 fields length, fields`,
//! each field `i16 name length, name, i32 value length, value`. No remark and no fields are lengths of 0.

use std::borrow::Cow;

use super::WireError;
use super::frame::Serialization;
use super::header::{self, Envelope, Fields, Header, Language, Places};
use super::limits::{
    MAX_FIELD_NAME_BYTES, MAX_FIELD_VALUE_BYTES, MAX_FIELDS, MAX_HEADER_BYTES, MAX_REMARK_BYTES,
};

/// Reads big-endian values from the front of a slice; `None` when it does not hold what was asked for.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*front)
    }

    #[inline]
    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    #[inline]
    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// As many bytes as `length` says, unless it is negative or over the limit.
    #[inline]
    fn bytes(&mut self, length: i32, limit: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(length).ok().filter(|length| *length <= limit)?;
        let (front, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(front)
    }

    #[inline]
    fn text(&mut self, length: i32, limit: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(length, limit)?).ok()
    }

    #[inline]
    fn field(&mut self) -> Option<(&'a str, &'a str)> {
        let name_length = self.i16()?;
        let name = self.text(name_length.into(), MAX_FIELD_NAME_BYTES)?;
        let value_length = self.i32()?;
        let value = self.text(value_length, MAX_FIELD_VALUE_BYTES)?;
        Some((name, value))
    }
}

/// Decodes and checks a whole header.
pub(crate) fn decode(bytes: &[u8]) -> Result<Header<'_>, WireError> {
    decode_parts(&mut Cursor { rest: bytes }).map_err(WireError::new)
}

fn decode_parts<'a>(cursor: &mut Cursor<'a>) -> Result<Header<'a>, &'static str> {
    const CUT_SHORT: &str = "binary header ends too early";
    let code = cursor.i16().ok_or(CUT_SHORT)?.into();
    let [language] = cursor.array().ok_or(CUT_SHORT)?;
    let version = cursor.i16().ok_or(CUT_SHORT)?.into();
    let opaque = cursor.i32().ok_or(CUT_SHORT)?;
    let flag = cursor.i32().ok_or(CUT_SHORT)?;
    let remark_length = cursor.i32().ok_or(CUT_SHORT)?;
    let remark = cursor.text(remark_length, MAX_REMARK_BYTES);
    let remark = remark.ok_or("remark in a binary header is cut short, over the limit or not UTF-8")?;
    let fields_length = cursor.i32().ok_or(CUT_SHORT)?;
    let fields = cursor
        .bytes(fields_length, MAX_HEADER_BYTES)
        .ok_or("fields of a binary header are cut short")?;
    if !cursor.rest.is_empty() {
        return Err("bytes left over behind a binary header");
    }
    Ok(Header {
        code,
        opaque,
        flag,
        version,
        language: Language::from_code(language),
        remark: (!remark.is_empty()).then_some(Cow::Borrowed(remark)),
        fields: read_fields(fields)?,
    })
}

fn read_fields(bytes: &[u8]) -> Result<Fields<'_>, &'static str> {
    let mut cursor = Cursor { rest: bytes };
    let mut fields = Fields::new(Serialization::Binary);
    let mut count = 0;
    while !cursor.rest.is_empty() {
        let here = cursor;
        let field = cursor.field();
        let (name, value) =
            field.ok_or("field of a binary header is cut short, over the limit or not UTF-8")?;
        fields.add(name, value, || {
            header::FieldReader::Binary(FieldReader { cursor: here })
        });
        count += 1;
        if count > MAX_FIELDS {
            return Err("header has too many fields");
        }
    }
    Ok(fields)
}

/// Reads once more the fields for which [`Fields`] had no room. They have been checked, so that nothing can be wrong
/// any more.
#[derive(Clone, Debug)]
pub(crate) struct FieldReader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> FieldReader<'a> {
    /// The next name and value.
    pub(super) fn next_raw(&mut self) -> Option<(&'a str, &'a str)> {
        self.cursor.field()
    }
}

fn narrow<T: TryFrom<i32>>(value: i32, what: &str) -> Result<T, WireError> {
    value.try_into().map_err(|_| {
        WireError::new(format!(
            "{what} {value} does not fit the 16 bits of the binary header"
        ))
    })
}

/// Writes everything before the fields. Of a template, notes where the opaque stands.
pub(crate) fn open(
    out: &mut Vec<u8>,
    envelope: &Envelope<'_>,
    places: Option<&mut Places>,
) -> Result<(), WireError> {
    let code: i16 = narrow(envelope.code, "code")?;
    let version: i16 = narrow(envelope.version, "version")?;
    let remark = envelope.remark.unwrap_or_default();
    out.extend_from_slice(&code.to_be_bytes());
    out.push(envelope.language.code());
    out.extend_from_slice(&version.to_be_bytes());
    if let Some(places) = places {
        places.opaque = out.len();
    }
    out.extend_from_slice(&envelope.opaque.to_be_bytes());
    out.extend_from_slice(&envelope.flag.to_be_bytes());
    out.extend_from_slice(&length_word(remark.len())?);
    out.extend_from_slice(remark.as_bytes());
    // Length of the fields, filled in by `close`.
    out.extend_from_slice(&[0; 4]);
    Ok(())
}

/// Ends the header: puts in the length of the fields that stand from `fields_start` on.
pub(crate) fn close(out: &mut [u8], fields_start: usize) -> Result<(), WireError> {
    patch_length(out, fields_start)
}

fn length_word(length: usize) -> Result<[u8; 4], WireError> {
    match i32::try_from(length) {
        Ok(length) => Ok(length.to_be_bytes()),
        Err(_) => Err(WireError::new("value is too long for the binary header")),
    }
}

/// Puts the length of what stands from `start` on into the four bytes before it.
fn patch_length(out: &mut [u8], start: usize) -> Result<(), WireError> {
    let word = length_word(out.len().saturating_sub(start))?;
    if let Some(slot) = out.get_mut(start.saturating_sub(4)..start) {
        slot.copy_from_slice(&word);
    }
    Ok(())
}

fn write_name(out: &mut Vec<u8>, name: &str) -> Result<(), WireError> {
    match i16::try_from(name.len()) {
        Ok(length) => out.extend_from_slice(&length.to_be_bytes()),
        Err(_) => {
            return Err(WireError::new(
                "name of a header field is too long for the binary header",
            ));
        }
    }
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

/// Writes a field.
pub(crate) fn write_value(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), WireError> {
    write_name(out, name)?;
    write_behind_length(out, value)
}

/// Writes a value behind its length.
#[inline]
pub(crate) fn write_behind_length(out: &mut Vec<u8>, value: &[u8]) -> Result<(), WireError> {
    out.extend_from_slice(&length_word(value.len())?);
    out.extend_from_slice(value);
    Ok(())
}

/// Writes a field that holds a property string.
pub(crate) fn write_properties<'p>(
    out: &mut Vec<u8>,
    name: &str,
    properties: impl Iterator<Item = (&'p str, &'p str)>,
) -> Result<(), WireError> {
    write_name(out, name)?;
    write_property_text(out, properties)
}

/// Writes a property string behind its length.
#[inline]
pub(crate) fn write_property_text<'p>(
    out: &mut Vec<u8>,
    properties: impl Iterator<Item = (&'p str, &'p str)>,
) -> Result<(), WireError> {
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    for (key, value) in properties {
        out.extend_from_slice(key.as_bytes());
        out.push(1);
        out.extend_from_slice(value.as_bytes());
        out.push(2);
    }
    patch_length(out, start)
}

/// Writes a field without its value.
pub(crate) fn write_cut(out: &mut Vec<u8>, name: &str) -> Result<(), WireError> {
    write_name(out, name)
}

#[cfg(test)]
mod tests {
    use super::decode;
    use crate::wire::header::Language;
    use crate::wire::limits::{MAX_FIELDS, MAX_REMARK_BYTES};

    fn header(remark: &[u8], fields: &[u8]) -> Vec<u8> {
        let fixed = [0, 10, 9, 1, 0x61, 0xFF, 0xFF, 0xFF, 0xFB, 0, 0, 0, 1];
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap().to_be_bytes();
        [&fixed, &length(remark)[..], remark, &length(fields), fields].concat()
    }

    fn field(name: &str, value: &str) -> Vec<u8> {
        let name_length = i16::try_from(name.len()).unwrap().to_be_bytes();
        let value_length = i32::try_from(value.len()).unwrap().to_be_bytes();
        [&name_length, name.as_bytes(), &value_length, value.as_bytes()].concat()
    }

    fn error(bytes: &[u8]) -> String {
        decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn every_part_is_read() {
        let fields = [field("msgId", "x"), field("", "no name"), field("empty", "")].concat();
        let bytes = header("r\u{e9}".as_bytes(), &fields);
        let header = decode(&bytes).unwrap();
        assert_eq!(
            (header.code, header.opaque, header.flag, header.version),
            (10, -5, 1, 353)
        );
        assert_eq!(
            (header.language, header.remark.as_deref()),
            (Language::GO, Some("r\u{e9}"))
        );
        let found: Vec<_> = header.fields.iter().collect();
        let expected = [("msgId", "x"), ("", "no name"), ("empty", "")];
        assert_eq!(found, expected.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(header.field("").as_deref(), Some("no name"));
    }

    #[test]
    fn nothing_is_none() {
        let bytes = header(b"", b"");
        assert_eq!(bytes.len(), 21);
        let header = decode(&bytes).unwrap();
        assert_eq!((header.remark, header.fields.iter().count()), (None, 0));
    }

    #[test]
    fn numbers_are_signed() {
        let mut bytes = header(b"", b"");
        bytes[0] = 0xFF;
        bytes[3] = 0x80;
        let header = decode(&bytes).unwrap();
        assert_eq!((header.code, header.version), (-246, -32_671));
    }

    #[test]
    fn every_prefix_and_every_addition_is_an_error() {
        let mut bytes = header(b"remark", &[field("a", "b"), field("c", "d")].concat());
        assert!(decode(&bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end}");
        }
        bytes.push(0);
        assert_eq!(error(&bytes), "bytes left over behind a binary header");
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        for word in [[0xFF, 0xFF, 0xFF, 0xFF], [0x7F, 0xFF, 0xFF, 0xFF], [0, 0, 0, 9]] {
            // The length of the remark, of the fields, and of the value.
            for place in [13, 17, 24] {
                let mut bytes = header(b"", &field("a", "b"));
                bytes[place..place + 4].copy_from_slice(&word);
                assert!(decode(&bytes).is_err(), "{word:?} at {place}");
            }
        }
        let mut bytes = header(b"", &field("a", "b"));
        bytes[21] = 0xFF;
        assert!(error(&bytes).contains("field of a binary header"));
    }

    #[test]
    fn text_that_is_not_utf_8_is_an_error() {
        let sound = header(b"r", &field("a", "b"));
        for place in [17, 24, 29] {
            let mut bytes = sound.clone();
            bytes[place] = 0xFF;
            assert!(decode(&bytes).is_err(), "{place}");
        }
    }

    #[test]
    fn limits_hold() {
        let fields = |count: usize| header(b"", &field("n", "v").repeat(count));
        assert_eq!(
            decode(&fields(MAX_FIELDS)).unwrap().fields.iter().count(),
            MAX_FIELDS
        );
        assert_eq!(error(&fields(MAX_FIELDS + 1)), "header has too many fields");
        assert!(decode(&header(&vec![b'r'; MAX_REMARK_BYTES], b"")).is_ok());
        assert!(error(&header(&vec![b'r'; MAX_REMARK_BYTES + 1], b"")).contains("remark"));
    }

    #[test]
    fn no_changed_byte_panics() {
        let sound = header(b"remark", &[field("a", "b"), field("cc", "")].concat());
        for place in 0..sound.len() {
            for byte in 0..=u8::MAX {
                let mut bytes = sound.clone();
                bytes[place] = byte;
                if let Ok(header) = decode(&bytes) {
                    assert!(header.fields.iter().count() <= 4);
                }
            }
        }
    }
}
