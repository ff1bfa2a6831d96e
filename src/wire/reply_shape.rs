//! Replies that look like the one before: a broker writes the headers of its answers always in the same way, so that a new
//! one differs from the last in its values only. It is compared with that one piece by piece, where reading it as JSON would
//! mean to look at every byte for what it could be.
//!
//! Whatever differs in anything else is read as JSON, which has the last word on what is wrong. So a shape never accepts
//! what the reader would refuse, and never reads it otherwise.

use super::frame::Serialization;
use super::header::{Fields, Header, Language};
use super::json_text::plain_length;
use super::limits::MAX_FIELD_VALUE_BYTES;

const OPAQUE_KEY: &[u8] = b"\"opaque\":";

/// An `i32` has ten digits at most.
const MOST_OPAQUE_DIGITS: usize = 10;

/// What stands between two common pieces.
#[derive(Clone, Debug)]
enum Value {
    Opaque,
    /// The text of the field of this name, without its quotes.
    Field(Box<str>),
}

#[derive(Debug)]
struct Known {
    code: i32,
    flag: i32,
    version: i32,
    language: Language,
    /// A common piece, and the value behind it.
    pieces: Vec<(Box<[u8]>, Value)>,
    end: Box<[u8]>,
}

/// The shape of the last reply that had one.
#[derive(Debug, Default)]
pub(crate) struct ReplyShape {
    known: Option<Known>,
    /// Replies in a row that were like no shape: learning each of them would be work for nothing.
    misses: u32,
}

/// After so many misses in a row nothing is learned for as many replies.
const PATIENCE: u32 = 8;

impl ReplyShape {
    /// Reads a header that has the known shape; `None` for any other.
    #[inline]
    pub(crate) fn read<'a>(&'a self, serialization: Serialization, header: &'a [u8]) -> Option<Header<'a>> {
        let known = self.known.as_ref()?;
        if serialization != Serialization::Json {
            return None;
        }
        let mut fields = Fields::new(Serialization::Json);
        let mut opaque = 0;
        let mut rest = header;
        for (piece, value) in &known.pieces {
            rest = rest.strip_prefix(&**piece)?;
            match value {
                Value::Opaque => (opaque, rest) = read_number(rest)?,
                Value::Field(name) => {
                    let (text, behind) = rest.split_at_checked(plain_length(rest))?;
                    if behind.first() != Some(&b'"') || text.len() > MAX_FIELD_VALUE_BYTES || !text.is_ascii()
                    {
                        return None;
                    }
                    fields.add_known(name, text)?;
                    rest = behind;
                }
            }
        }
        if *rest != *known.end {
            return None;
        }
        Some(Header {
            code: known.code,
            opaque,
            flag: known.flag,
            version: known.version,
            language: known.language,
            remark: None,
            fields,
        })
    }

    /// Takes over the shape of a reply that had to be read as JSON.
    #[cold]
    pub(crate) fn learn(&mut self, serialization: Serialization, bytes: &[u8], header: &Header<'_>) {
        self.misses = self.misses.wrapping_add(1);
        if serialization != Serialization::Json || self.misses / PATIENCE % 2 == 1 {
            return;
        }
        if let Some(known) = shape_of(bytes, header) {
            self.known = Some(known);
        }
    }

    /// A reply had the known shape.
    pub(crate) fn hit(&mut self) {
        self.misses = 0;
    }
}

fn shape_of(bytes: &[u8], header: &Header<'_>) -> Option<Known> {
    if !header.is_response() || header.remark.is_some() {
        return None;
    }
    let mut values = vec![opaque_place(bytes, header.opaque)?];
    for (name, value) in header.fields.all_kept()? {
        let start = value.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
        let end = start.checked_add(value.len())?;
        let is_quoted = |at: usize| bytes.get(at) == Some(&b'"');
        if bytes.get(start..end)? != *value || !is_quoted(start.checked_sub(1)?) || !is_quoted(end) {
            return None;
        }
        values.push((start, end, Value::Field((*name).into())));
    }
    values.sort_by_key(|(start, ..)| *start);
    let mut pieces = Vec::with_capacity(values.len());
    let mut at = 0;
    for (start, end, value) in values {
        pieces.push((bytes.get(at..start)?.into(), value));
        at = end;
    }
    let known = Known {
        code: header.code,
        flag: header.flag,
        version: header.version,
        language: header.language,
        pieces,
        end: bytes.get(at..)?.into(),
    };
    Some(known)
}

/// Where the opaque stands: the only number behind its key.
fn opaque_place(bytes: &[u8], opaque: i32) -> Option<(usize, usize, Value)> {
    let mut places = bytes
        .windows(OPAQUE_KEY.len())
        .enumerate()
        .filter(|(_, window)| *window == OPAQUE_KEY);
    let (at, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    let start = at + OPAQUE_KEY.len();
    let (found, rest) = read_number(bytes.get(start..)?)?;
    (found == opaque).then_some((start, bytes.len() - rest.len(), Value::Opaque))
}

/// A number as every peer writes it: no sign but a minus, no zero in front.
#[inline]
fn read_number(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (is_negative, digits) = match bytes.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, bytes),
    };
    let mut number = 0_i64;
    let mut length = 0;
    for digit in digits.iter().take(MOST_OPAQUE_DIGITS + 1) {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number * 10 + i64::from(digit);
        length += 1;
    }
    if length == 0 || length > 1 && digits.first() == Some(&b'0') {
        return None;
    }
    let number = i32::try_from(if is_negative { -number } else { number }).ok()?;
    Some((number, digits.get(length..)?))
}

#[cfg(test)]
mod tests {
    use super::ReplyShape;
    use crate::wire::frame::Serialization;
    use crate::wire::header::Header;

    const V5: &str = r#"{"code":0,"extFields":{"queueId":"0","transactionId":"0A000001","msgId":"0A00000100002A9F","queueOffset":"12","TRACE_ON":"true","MSG_REGION":"DefaultRegion"},"flag":1,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":513}"#;

    fn text(header: &Header<'_>) -> String {
        format!(
            "{} {} {} {} {:?} {:?} {:?}",
            header.code,
            header.opaque,
            header.flag,
            header.version,
            header.language,
            header.remark,
            header.fields.iter().collect::<Vec<_>>()
        )
    }

    fn generic(bytes: &[u8]) -> Option<String> {
        Header::decode(Serialization::Json, bytes)
            .ok()
            .map(|header| text(&header))
    }

    fn learned(sample: &str) -> ReplyShape {
        let mut shape = ReplyShape::default();
        let header = Header::decode(Serialization::Json, sample.as_bytes()).unwrap();
        shape.learn(Serialization::Json, sample.as_bytes(), &header);
        shape
    }

    #[test]
    fn a_reply_of_the_known_shape_is_read_as_json_would_be() {
        let shape = learned(V5);
        for (opaque, offset, id) in [
            ("8", "13", "0A00000100002A9F"),
            ("-2147483648", "9223372036854775807", "x"),
            ("2147483647", "", "0"),
            ("0", "0", ""),
        ] {
            let reply = V5
                .replace("\"opaque\":7", &format!("\"opaque\":{opaque}"))
                .replace("\"12\"", &format!("\"{offset}\""))
                .replace("0A00000100002A9F", id);
            let found = shape
                .read(Serialization::Json, reply.as_bytes())
                .expect("the known shape");
            assert_eq!(Some(text(&found)), generic(reply.as_bytes()));
        }
    }

    #[test]
    fn whatever_else_differs_is_left_to_the_reader() {
        let shape = learned(V5);
        let others = [
            V5.replace("\"code\":0", "\"code\":1"),
            V5.replace("\"opaque\":7", "\"opaque\":07"),
            V5.replace("\"opaque\":7", "\"opaque\":"),
            V5.replace("\"opaque\":7", "\"opaque\":2147483648"),
            V5.replace("\"opaque\":7", "\"opaque\":7.5"),
            V5.replace("\"12\"", "\"1\\u0032\""),
            V5.replace("\"12\"", "12"),
            V5.replace("\"12\"", "\"caf\u{e9}\""),
            V5.replace("\"version\":513", "\"version\":514"),
            V5.replace("\"flag\":1", "\"flag\":3"),
            V5.replace("\"queueId\"", "\"queueID\""),
            format!("{V5} "),
            V5[..V5.len() - 1].to_owned(),
            String::new(),
        ];
        for other in others {
            assert!(
                shape.read(Serialization::Json, other.as_bytes()).is_none(),
                "{other}"
            );
        }
        let mut not_utf8 = V5.as_bytes().to_vec();
        let at = V5.find("0A00000100002A9F").unwrap();
        not_utf8[at] = 0xFF;
        assert!(shape.read(Serialization::Json, &not_utf8).is_none());
        assert!(shape.read(Serialization::Binary, V5.as_bytes()).is_none());
    }

    /// Every byte in turn is spoiled: a shape takes only what the reader takes, and reads the same from it.
    #[test]
    fn nothing_is_accepted_that_the_reader_would_refuse() {
        let shape = learned(V5);
        for at in 0..V5.len() {
            for byte in [0, b'"', b'\\', b'0', b'9', b'-', b' ', b'}', b'x', 0x80, 0xFF] {
                let mut bytes = V5.as_bytes().to_vec();
                bytes[at] = byte;
                if let Some(found) = shape.read(Serialization::Json, &bytes) {
                    assert_eq!(Some(text(&found)), generic(&bytes), "byte {byte} at {at}");
                }
            }
        }
    }

    #[test]
    fn what_has_no_clear_shape_is_not_learned() {
        let others = [
            V5.replace("\"flag\":1", "\"flag\":0"),
            V5.replace("\"version\":513", "\"remark\":\"r\",\"version\":513"),
            V5.replace("\"queueId\":\"0\"", "\"queueId\":0"),
            V5.replace("\"queueId\":\"0\"", "\"opaque\":\"0\""),
            V5.replace("\"12\"", "\"1\\u0032\""),
            V5.replace(
                "\"queueId\":\"0\"",
                "\"a\":\"\",\"b\":\"\",\"queueId\":\"0\",\"c\":\"\"",
            ),
        ];
        for other in others {
            let shape = learned(&other);
            assert!(
                shape.read(Serialization::Json, other.as_bytes()).is_none(),
                "{other}"
            );
        }
    }
}
