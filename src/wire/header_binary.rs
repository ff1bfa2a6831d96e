//! The binary form of a header (serialization type 1, `RocketMQSerializable`), both ways. The view and the choice of
//! form are in `header.rs`.
//!
//! `i16 code, u8 language, i16 version, i32 opaque, i32 flag, i32 remark length, remark, i32 fields length, fields`,
//! each field `i16 name length, name, i32 value length, value`. No remark and no fields are lengths of 0.

use std::borrow::Cow;

use super::WireError;
use super::header::{Envelope, Fields, Header, Language};
use super::limits::{MAX_FIELD_NAME_BYTES, MAX_FIELD_VALUE_BYTES, MAX_FIELDS, MAX_REMARK_BYTES};

/// Reads big-endian values from the front of a slice.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (front, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| WireError::new("binary header ends too early"))?;
        self.rest = rest;
        Ok(*front)
    }

    fn i16(&mut self) -> Result<i16, WireError> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_be_bytes)
    }

    /// `length` bytes; `what` names them in the error.
    fn bytes(
        &mut self,
        length: impl TryInto<usize>,
        limit: usize,
        what: &'static str,
    ) -> Result<&'a [u8], WireError> {
        let length = length
            .try_into()
            .map_err(|_| WireError::new(format!("length of {what} is negative")))?;
        if length > limit {
            return Err(WireError::new(format!(
                "{what} of {length} bytes is over the limit of {limit}"
            )));
        }
        let Some((front, rest)) = self.rest.split_at_checked(length) else {
            return Err(WireError::new(format!(
                "{what} of {length} bytes goes beyond the binary header"
            )));
        };
        self.rest = rest;
        Ok(front)
    }

    fn text(
        &mut self,
        length: impl TryInto<usize>,
        limit: usize,
        what: &'static str,
    ) -> Result<&'a str, WireError> {
        let bytes = self.bytes(length, limit, what)?;
        std::str::from_utf8(bytes).map_err(|_| WireError::new(format!("{what} is not UTF-8")))
    }

    fn field(&mut self) -> Result<(&'a str, &'a str), WireError> {
        let name_length = self.i16()?;
        let name = self.text(name_length, MAX_FIELD_NAME_BYTES, "name of a header field")?;
        let value_length = self.i32()?;
        let value = self.text(value_length, MAX_FIELD_VALUE_BYTES, "value of a header field")?;
        Ok((name, value))
    }
}

/// Decodes and checks a whole header.
pub(crate) fn decode(bytes: &[u8]) -> Result<Header<'_>, WireError> {
    let mut cursor = Cursor { rest: bytes };
    let code = cursor.i16()?.into();
    let [language] = cursor.array()?;
    let version = cursor.i16()?.into();
    let opaque = cursor.i32()?;
    let flag = cursor.i32()?;
    let remark_length = cursor.i32()?;
    let remark = cursor.text(remark_length, MAX_REMARK_BYTES, "remark")?;
    let fields_length = cursor.i32()?;
    let fields = cursor.bytes(fields_length, bytes.len(), "header fields")?;
    if !cursor.rest.is_empty() {
        return Err(WireError::new("bytes left over behind the binary header"));
    }
    check_fields(fields)?;
    Ok(Header {
        code,
        opaque,
        flag,
        version,
        language: Language::from_code(language),
        remark: (!remark.is_empty()).then_some(Cow::Borrowed(remark)),
        fields: Fields::Binary(fields),
    })
}

fn check_fields(bytes: &[u8]) -> Result<(), WireError> {
    let mut cursor = Cursor { rest: bytes };
    let mut count = 0;
    while !cursor.rest.is_empty() {
        cursor.field()?;
        count += 1;
        if count > MAX_FIELDS {
            return Err(WireError::new("header has too many fields"));
        }
    }
    Ok(())
}

/// Reads the fields once more; [`decode`] has checked them, so that nothing can be wrong any more.
#[derive(Debug)]
pub(crate) struct FieldReader<'a> {
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for FieldReader<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut cursor = Cursor { rest: self.rest };
        let (name, value) = cursor.field().ok()?;
        self.rest = cursor.rest;
        Some((Cow::Borrowed(name), Cow::Borrowed(value)))
    }
}

fn narrow<T: TryFrom<i32>>(value: i32, what: &str) -> Result<T, WireError> {
    value.try_into().map_err(|_| {
        WireError::new(format!(
            "{what} {value} does not fit the 16 bits of the binary header"
        ))
    })
}

/// Writes everything before the fields.
pub(crate) fn open(out: &mut Vec<u8>, envelope: &Envelope<'_>) -> Result<(), WireError> {
    let code: i16 = narrow(envelope.code, "code")?;
    let version: i16 = narrow(envelope.version, "version")?;
    let remark = envelope.remark.unwrap_or_default();
    out.extend_from_slice(&code.to_be_bytes());
    out.push(envelope.language.code());
    out.extend_from_slice(&version.to_be_bytes());
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
