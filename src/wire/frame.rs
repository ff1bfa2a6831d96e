//! Frames: where one begins and ends in a stream of bytes, and the buffer that received bytes gather in.
//!
//! `u32 LEN | u8 serialization type | u24 header length | header | body`, big-endian; LEN counts what follows it
//! (`RemotingCommand`, `NettyDecoder`). What the header says is the business of `header.rs`.

use byteorder::{BigEndian, ByteOrder};

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
    let header_length = usize_of(BigEndian::read_u24(header_length));
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

#[cfg(test)]
mod tests {
    use super::{FrameBuffer, Serialization, split_frame};
    use crate::wire::limits::{MAX_FRAME_LENGTH, MAX_HEADER_BYTES, MIN_RECEIVE_SPACE, RECEIVE_BUFFER_BYTES};

    /// A frame whose header is of no known kind: nothing here looks into it.
    fn frame(header: &[u8], body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(4 + header.len() + body.len()).unwrap();
        let header_length = u32::try_from(header.len()).unwrap() | 1 << 24;
        [&length.to_be_bytes(), &header_length.to_be_bytes(), header, body].concat()
    }

    fn error(bytes: &[u8]) -> String {
        split_frame(bytes).unwrap_err().to_string()
    }

    fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = buffer.space();
            assert!(space.len() >= MIN_RECEIVE_SPACE);
            let count = space.len().min(bytes.len());
            let (front, rest) = bytes.split_at(count);
            space[..count].copy_from_slice(front);
            buffer.filled(count);
            bytes = rest;
        }
    }

    fn drain(buffer: &mut FrameBuffer, found: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        while let Some(frame) = buffer.next_frame().unwrap() {
            assert_eq!(frame.serialization, Serialization::Binary);
            found.push((frame.header.to_vec(), frame.body.to_vec()));
        }
    }

    #[test]
    fn a_frame_is_cut_from_the_front() {
        let bytes = [frame(b"head", b"body"), b"more".to_vec()].concat();
        let (found, used) = split_frame(&bytes).unwrap().unwrap();
        assert_eq!((found.header, found.body, used), (&b"head"[..], &b"body"[..], 16));
        let (found, used) = split_frame(&[0, 0, 0, 4, 0, 0, 0, 0]).unwrap().unwrap();
        assert_eq!(
            (found.serialization, found.header, found.body, used),
            (Serialization::Json, &[][..], &[][..], 8)
        );
    }

    #[test]
    fn anything_short_of_a_frame_asks_for_more() {
        let bytes = frame(b"head", b"body");
        for end in 0..bytes.len() {
            assert!(split_frame(&bytes[..end]).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn impossible_lengths_are_errors_before_their_bytes_come() {
        assert_eq!(error(&[0, 0, 0, 0]), "frame length 0 is below 4");
        assert_eq!(error(&[0, 0, 0, 3]), "frame length 3 is below 4");
        assert_eq!(error(&[0xFF, 0xFF, 0xFF, 0xF0]), "frame length -16 is negative");
        assert_eq!(
            error(&[0, 0xFF, 0xFF, 0xFD]),
            "frame length 16777213 is over the limit of 16777212"
        );
        assert!(split_frame(&[0, 0xFF, 0xFF, 0xFC]).unwrap().is_none());
        assert_eq!(
            error(&[0, 0, 0, 20, 0, 0, 0, 17]),
            "header length 17 goes beyond a frame of length 20"
        );
        assert!(split_frame(&[0, 0, 0, 20, 0, 0, 0, 16]).unwrap().is_none());
        assert_eq!(
            error(&[0, 0, 0, 20, 7, 0, 0, 1]),
            "unknown serialization type 7 in a frame"
        );
        let [_, high, middle, low] = u32::try_from(MAX_HEADER_BYTES + 1).unwrap().to_be_bytes();
        assert!(error(&[0, 0xFF, 0xFF, 0xFC, 0, high, middle, low]).contains("over the limit of 1048576"));
    }

    #[test]
    fn other_protocols_are_recognised() {
        for (bytes, expected) in [
            (
                &b"HTTP/1.1 400 Bad Request"[..],
                "looks like an HTTP answer: is this the right port?",
            ),
            (b"HTTP", "looks like an HTTP answer: is this the right port?"),
            (
                b"GET / HTTP/1.1",
                "looks like an HTTP request: is this the right port?",
            ),
            (b"POST /", "looks like an HTTP request: is this the right port?"),
            (b"SSH-2.0-x", "looks like an SSH server: is this the right port?"),
            (
                &[21, 3, 3, 0, 2, 2, 80],
                "looks like a TLS alert: does the other side expect TLS?",
            ),
            (
                &[22, 3, 1, 2, 0, 1],
                "looks like a TLS record: does the other side speak TLS?",
            ),
            (b"+PONG", "frame length 726683470 is over the limit of 16777212"),
        ] {
            assert_eq!(error(bytes), expected);
        }
    }

    #[test]
    fn the_largest_frame_passes() {
        let bytes = frame(&[1; 10], &vec![2; MAX_FRAME_LENGTH - 14]);
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &bytes);
        let found = buffer.next_frame().unwrap().unwrap();
        assert_eq!(
            (found.header.len(), found.body.len()),
            (10, MAX_FRAME_LENGTH - 14)
        );
    }

    #[test]
    fn every_way_to_cut_the_stream_in_three_gives_the_same_frames() {
        let parts: [(&[u8], &[u8]); 5] = [
            (b"a", b"body one"),
            (b"", b""),
            (b"header", b""),
            (b"", b"x"),
            (b"zz", &[9; 40]),
        ];
        let bytes: Vec<u8> = parts
            .iter()
            .flat_map(|(header, body)| frame(header, body))
            .collect();
        let expected: Vec<_> = parts
            .iter()
            .map(|(header, body)| (header.to_vec(), body.to_vec()))
            .collect();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut buffer = FrameBuffer::new();
                let mut found = Vec::new();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    feed(&mut buffer, piece);
                    drain(&mut buffer, &mut found);
                }
                assert_eq!(found, expected, "cut at {first} and {second}");
                assert!(!buffer.is_within_frame());
            }
        }
    }

    #[test]
    fn a_long_stream_of_mixed_frames_survives_any_size_of_read() {
        let mut sizes = Vec::new();
        let mut seed: usize = 12345;
        for _ in 0..300 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let scale = [20, 300, 9000, 70_000][seed >> 40 & 3];
            sizes.push((seed >> 20) % scale);
        }
        let bodies = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| vec![u8::try_from(index % 251).unwrap(); *size]);
        let expected: Vec<_> = bodies.map(|body| (b"h".to_vec(), body)).collect();
        let bytes: Vec<u8> = expected
            .iter()
            .flat_map(|(header, body)| frame(header, body))
            .collect();
        for piece in [997, 8192, 40_000, usize::MAX] {
            let mut buffer = FrameBuffer::new();
            let mut found = Vec::new();
            for chunk in bytes.chunks(piece.min(bytes.len())) {
                feed(&mut buffer, chunk);
                drain(&mut buffer, &mut found);
            }
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn memory_follows_the_bytes_that_arrive_and_moves_rarely() {
        let bytes = frame(b"h", &vec![7; 300_000]);
        let mut buffer = FrameBuffer::new();
        let mut moves = 0;
        let mut place = buffer.bytes.as_ptr();
        for (index, byte) in bytes.iter().enumerate() {
            let space = buffer.space();
            space[0] = *byte;
            buffer.filled(1);
            let arrived = index + 1;
            assert!(
                buffer.bytes.len() <= RECEIVE_BUFFER_BYTES.max(2 * arrived) + MIN_RECEIVE_SPACE,
                "{arrived}"
            );
            assert!(buffer.bytes.len() <= bytes.len() + MIN_RECEIVE_SPACE);
            if buffer.bytes.as_ptr() != place {
                place = buffer.bytes.as_ptr();
                moves += 1;
            }
        }
        // Each move doubles the room.
        assert!(moves <= 5, "{moves} moves");
        assert!(buffer.next_frame().unwrap().is_some());
    }

    #[test]
    fn an_announced_length_alone_takes_no_memory() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &[0, 0xFF, 0xFF, 0xFC, 1, 0, 0, 4, 9]);
        assert!(buffer.next_frame().unwrap().is_none());
        buffer.space();
        assert_eq!(buffer.bytes.len(), RECEIVE_BUFFER_BYTES);
        assert!(buffer.is_within_frame());
    }

    #[test]
    fn memory_is_given_back_after_a_large_frame() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &frame(b"h", &vec![7; 1_000_000]));
        assert!(buffer.next_frame().unwrap().is_some());
        // The next frame has begun already, and loses nothing.
        let next = frame(b"next", b"body");
        let (begun, rest) = next.split_at(11);
        feed(&mut buffer, begun);
        buffer.space();
        assert_eq!(buffer.bytes.len(), RECEIVE_BUFFER_BYTES);
        feed(&mut buffer, rest);
        let mut found = Vec::new();
        drain(&mut buffer, &mut found);
        assert_eq!(found, [(b"next".to_vec(), b"body".to_vec())]);
    }

    #[test]
    fn frames_that_nobody_takes_out_do_not_make_reading_quadratic() {
        let bytes = frame(b"head", &[1; 100]);
        let mut buffer = FrameBuffer::new();
        let mut moves = 0;
        let mut place = buffer.bytes.as_ptr();
        for _ in 0..20_000 {
            feed(&mut buffer, &bytes);
            if buffer.bytes.as_ptr() != place {
                place = buffer.bytes.as_ptr();
                moves += 1;
            }
        }
        assert!(moves <= 10, "{moves} moves");
        let mut found = Vec::new();
        drain(&mut buffer, &mut found);
        assert_eq!(found.len(), 20_000);
    }

    #[test]
    fn after_an_error_there_are_no_more_frames() {
        let mut buffer = FrameBuffer::new();
        feed(&mut buffer, &frame(b"h", b"b"));
        feed(&mut buffer, &[0xFF; 8]);
        feed(&mut buffer, &frame(b"h", b"b"));
        assert!(buffer.next_frame().unwrap().is_some());
        for _ in 0..3 {
            assert_eq!(
                buffer.next_frame().unwrap_err().reason(),
                "frame length -1 is negative"
            );
        }
    }
}
