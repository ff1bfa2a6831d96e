//! Frames: where one begins and ends in a stream of bytes, and the buffer that received bytes gather in.
//!
//! `u32 LEN | u8 serialization type | u24 header length | header | body`, big-endian; LEN counts what follows it
//! (`RemotingCommand`, `NettyDecoder`). What the header says is the business of `header.rs`.

use super::WireError;
use super::header::Header;
use super::limits::{
    FRAME_PREFIX_BYTES, LENGTH_FIELD_BYTES, MAX_FRAME_LENGTH, MAX_HEADER_BYTES, MIN_FRAME_LENGTH,
    MIN_RECEIVE_SPACE, RECEIVE_BUFFER_BYTES,
};

/// The form of a header, by the type byte of the frame (`SerializeType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serialization {
    /// Type 0.
    Json,
    /// Type 1, `ROCKETMQ`.
    Binary,
}

impl Serialization {
    const fn type_byte(self) -> u8 {
        match self {
            Serialization::Json => 0,
            Serialization::Binary => 1,
        }
    }
}

/// One whole frame in received bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameRef<'a> {
    pub(crate) serialization: Serialization,
    pub(crate) header: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl<'a> FrameRef<'a> {
    /// Decodes and checks the whole header.
    pub(crate) fn header(&self) -> Result<Header<'a>, WireError> {
        Header::decode(self.serialization, self.header)
    }
}

/// Looks for a whole frame at the front of `bytes`: the frame and how many bytes it takes, or `None` when more are
/// needed. An announced length that cannot be is an error at once, before the bytes it announces.
pub(crate) fn split_frame(bytes: &[u8]) -> Result<Option<(FrameRef<'_>, usize)>, WireError> {
    let Some((length_field, rest)) = bytes.split_first_chunk::<LENGTH_FIELD_BYTES>() else {
        return Ok(None);
    };
    let length = check_length(*length_field, bytes)?;
    let Some(([type_byte, header_length @ ..], rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let serialization = match type_byte {
        0 => Serialization::Json,
        1 => Serialization::Binary,
        other => {
            return Err(WireError::new(format!(
                "unknown serialization type {other} in a frame"
            )));
        }
    };
    let [high, middle, low] = *header_length;
    let header_length = usize_of(u32::from_be_bytes([0, high, middle, low]));
    // Checked to be at least as long as the word of type and header length.
    let content_length = length - MIN_FRAME_LENGTH;
    if header_length > content_length {
        return Err(WireError::new(format!(
            "header length {header_length} goes beyond a frame of length {length}"
        )));
    }
    if header_length > MAX_HEADER_BYTES {
        return Err(WireError::new(format!(
            "header length {header_length} is over the limit of {MAX_HEADER_BYTES}"
        )));
    }
    let Some(content) = rest.get(..content_length) else {
        return Ok(None);
    };
    let Some((header, body)) = content.split_at_checked(header_length) else {
        return Ok(None);
    };
    Ok(Some((
        FrameRef {
            serialization,
            header,
            body,
        },
        LENGTH_FIELD_BYTES + length,
    )))
}

/// The value of LEN, if it can be one.
fn check_length(field: [u8; LENGTH_FIELD_BYTES], bytes: &[u8]) -> Result<usize, WireError> {
    let announced = i32::from_be_bytes(field);
    let in_range = usize::try_from(announced)
        .ok()
        .filter(|length| (MIN_FRAME_LENGTH..=MAX_FRAME_LENGTH).contains(length));
    match in_range {
        Some(length) => Ok(length),
        None => Err(impossible_length(announced, bytes)),
    }
}

/// Names the protocol when the bytes are those of a well-known other one: the usual cause is a wrong port.
fn impossible_length(announced: i32, bytes: &[u8]) -> WireError {
    const HTTP_METHODS: [&[u8]; 9] = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC",
    ];
    match bytes {
        [b'H', b'T', b'T', b'P', ..] => WireError::new("looks like an HTTP answer: is this the right port?"),
        // Record type 21 is an alert, 20, 22 and 23 are the others; then version 3.x of RFC 5246 and RFC 8446.
        [21, 3, 0..=4, ..] => WireError::new("looks like a TLS alert: does the other side expect TLS?"),
        [20 | 22 | 23, 3, 0..=4, ..] => {
            WireError::new("looks like a TLS record: does the other side speak TLS?")
        }
        [b'S', b'S', b'H', b'-', ..] => WireError::new("looks like an SSH server: is this the right port?"),
        _ if HTTP_METHODS.iter().any(|method| bytes.starts_with(method)) => {
            WireError::new("looks like an HTTP request: is this the right port?")
        }
        _ => match usize::try_from(announced) {
            Ok(length) if length < MIN_FRAME_LENGTH => {
                WireError::new(format!("frame length {length} is below {MIN_FRAME_LENGTH}"))
            }
            Ok(length) => too_long(length),
            Err(_) => WireError::new(format!("frame length {announced} is negative")),
        },
    }
}

/// The error for a frame over the limit.
pub(crate) fn too_long(length: usize) -> WireError {
    WireError::new(format!(
        "frame length {length} is over the limit of {MAX_FRAME_LENGTH}"
    ))
}

fn usize_of(value: u32) -> usize {
    // Lossless wherever this crate can run: std's threads and sockets need at least 32-bit pointers.
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Fills in the eight bytes at `start` that were kept free for them.
pub(crate) fn write_prefix(
    out: &mut [u8],
    start: usize,
    serialization: Serialization,
    length: usize,
    header_length: usize,
) -> Result<(), WireError> {
    let slot = out
        .get_mut(start..)
        .and_then(|tail| tail.first_chunk_mut::<FRAME_PREFIX_BYTES>());
    let (Some(slot), Ok(length), Ok(header_length)) =
        (slot, u32::try_from(length), u32::try_from(header_length))
    else {
        return Err(too_long(length));
    };
    let [l0, l1, l2, l3] = length.to_be_bytes();
    // `MAX_HEADER_BYTES` keeps the highest byte free for the type.
    let [_, h1, h2, h3] = header_length.to_be_bytes();
    *slot = [l0, l1, l2, l3, serialization.type_byte(), h1, h2, h3];
    Ok(())
}

/// Gathers received bytes and hands out whole frames.
///
/// Memory grows with the bytes that arrive, never with a length that is only announced: at most to one frame and one
/// read beyond it, if frames are taken out between the reads. Each byte is moved a bounded number of times however
/// the stream is cut.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    // All of it is initialised; the received bytes not yet taken are `start..end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Free room for the next read, at least 8 KiB.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let waiting = self.end - self.start;
        if waiting == 0 {
            self.start = 0;
            self.end = 0;
        }
        let oversized = self.bytes.len() > RECEIVE_BUFFER_BYTES && waiting <= RECEIVE_BUFFER_BYTES / 2;
        if oversized {
            self.move_to(RECEIVE_BUFFER_BYTES);
        } else if self.bytes.len() - self.end < MIN_RECEIVE_SPACE {
            if waiting <= self.start && self.bytes.len() - waiting >= MIN_RECEIVE_SPACE {
                // Moves no more bytes than have been taken out since the last move.
                self.bytes.copy_within(self.start..self.end, 0);
                self.start = 0;
                self.end = waiting;
            } else {
                self.move_to(waiting + self.growth(waiting));
            }
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Room to add: as much again as has arrived, but not beyond the end of the frame that has begun; and one read
    /// more, so that the frame's last bytes never make the buffer grow again.
    fn growth(&self, waiting: usize) -> usize {
        let front = self
            .bytes
            .get(self.start..self.end)
            .and_then(|bytes| bytes.first_chunk::<LENGTH_FIELD_BYTES>());
        let frame = front.map_or(0, |length| {
            usize_of(u32::from_be_bytes(*length)).saturating_add(LENGTH_FIELD_BYTES)
        });
        let missing = frame.checked_sub(waiting).unwrap_or(waiting);
        waiting.min(missing) + MIN_RECEIVE_SPACE
    }

    /// Goes over to memory of `size` bytes, which is enough for those waiting.
    fn move_to(&mut self, size: usize) {
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(self.bytes.get(self.start..self.end).unwrap_or_default());
        self.end -= self.start;
        self.start = 0;
        bytes.resize(size, 0);
        self.bytes = bytes;
    }

    /// Says that the first `count` bytes of [`Self::space`] have been filled.
    pub(crate) fn filled(&mut self, count: usize) {
        let end = self.end.saturating_add(count);
        debug_assert!(end <= self.bytes.len(), "more bytes filled than there was space");
        self.end = end.min(self.bytes.len());
    }

    /// Takes the next whole frame out, or `None` when more bytes are needed. After an error the stream has no more
    /// frames: the same error comes again.
    pub(crate) fn next_frame(&mut self) -> Result<Option<FrameRef<'_>>, WireError> {
        let waiting = self.bytes.get(self.start..self.end).unwrap_or_default();
        match split_frame(waiting)? {
            Some((frame, length)) => {
                self.start += length;
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }

    /// Whether bytes of a frame that is not whole yet are waiting: the stream must not end here.
    pub(crate) fn is_within_frame(&self) -> bool {
        self.start < self.end
    }
}
