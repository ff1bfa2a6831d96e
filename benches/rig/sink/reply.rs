//! Answers, as a 5.5.0 broker writes them.

use super::request::Request;

const VERSION: u16 = 513;
/// A broker repeats the message id here; a sink need not have read it.
const TRANSACTION_ID: &[u8] = b"7F00000138D10FEFDAB50000000A0000";
/// 127.0.0.1 and a port, which open every offset message id.
const STORED_AT: &[u8] = b"7F00000100002A9F";
const NOT_SUPPORTED: u16 = 3;

/// One answer.
pub(super) struct Reply<'a> {
    is_binary: bool,
    code: u16,
    opaque: i32,
    remark: &'static str,
    queue: &'a [u8],
    /// Queue offset and number of messages.
    pub(super) stored: Option<(u64, u64)>,
    pub(super) body: &'a [u8],
}

impl<'a> Reply<'a> {
    pub(super) fn to(request: &Request<'a>) -> Self {
        Self {
            is_binary: request.is_binary,
            code: 0,
            opaque: request.opaque,
            remark: "",
            queue: request.queue,
            stored: None,
            body: b"",
        }
    }

    pub(super) fn refuse(&mut self) {
        self.code = NOT_SUPPORTED;
        self.remark = "the sink does not support this request";
    }

    /// Appends the whole frame.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        if self.is_binary {
            self.write_binary(out);
        } else {
            self.write_json(out);
        }
        let header = length_since(out, start + 8);
        out.extend_from_slice(self.body);
        let length = length_since(out, start + 4);
        fill(out, start, length);
        fill(out, start + 4, u32::from(self.is_binary) << 24 | header);
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"code\":");
        decimal(out, u64::from(self.code));
        if let Some((offset, messages)) = self.stored {
            out.extend_from_slice(b",\"extFields\":{\"queueId\":\"");
            out.extend_from_slice(self.queue);
            out.extend_from_slice(b"\",\"transactionId\":\"");
            out.extend_from_slice(TRANSACTION_ID);
            out.extend_from_slice(b"\",\"TRACE_ON\":\"true\",\"MSG_REGION\":\"DefaultRegion\",\"msgId\":\"");
            ids(out, offset, messages);
            out.extend_from_slice(b"\",\"queueOffset\":\"");
            decimal(out, offset);
            out.extend_from_slice(b"\"}");
        }
        out.extend_from_slice(b",\"flag\":1,\"language\":\"JAVA\",\"opaque\":");
        if self.opaque < 0 {
            out.push(b'-');
        }
        decimal(out, u64::from(self.opaque.unsigned_abs()));
        if !self.remark.is_empty() {
            out.extend_from_slice(b",\"remark\":\"");
            out.extend_from_slice(self.remark.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
        decimal(out, u64::from(VERSION));
        out.push(b'}');
    }

    fn write_binary(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code.to_be_bytes());
        // Language 0 is Java's.
        out.push(0);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&1_u32.to_be_bytes());
        with_length(out, |out| out.extend_from_slice(self.remark.as_bytes()));
        with_length(out, |out| {
            let Some((offset, messages)) = self.stored else {
                return;
            };
            field(out, b"queueId", |out| out.extend_from_slice(self.queue));
            field(out, b"transactionId", |out| out.extend_from_slice(TRANSACTION_ID));
            field(out, b"TRACE_ON", |out| out.extend_from_slice(b"true"));
            field(out, b"MSG_REGION", |out| out.extend_from_slice(b"DefaultRegion"));
            field(out, b"msgId", |out| ids(out, offset, messages));
            field(out, b"queueOffset", |out| decimal(out, offset));
        });
    }
}

fn length_since(out: &[u8], start: usize) -> u32 {
    u32::try_from(out.len() - start).unwrap_or(u32::MAX)
}

fn fill(out: &mut [u8], at: usize, word: u32) {
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

fn with_length(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = length_since(out, at + 4);
    fill(out, at, length);
}

fn field(out: &mut Vec<u8>, name: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(name);
    with_length(out, value);
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        count += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - count..).unwrap_or_default());
}

fn hexadecimal(out: &mut Vec<u8>, number: u64) {
    for byte in number.to_be_bytes() {
        for digit in [byte >> 4, byte & 15] {
            out.push(if digit < 10 {
                b'0' + digit
            } else {
                b'A' + digit - 10
            });
        }
    }
}

/// One offset message id for each message.
fn ids(out: &mut Vec<u8>, offset: u64, messages: u64) {
    for message in 0..messages.max(1) {
        if message > 0 {
            out.push(b',');
        }
        out.extend_from_slice(STORED_AT);
        hexadecimal(out, (offset + message) * 256);
    }
}
