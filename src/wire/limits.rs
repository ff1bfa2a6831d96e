//! Every limit of the wire room, named, with its reason. No code lives here.

/// Bytes of the LEN field itself, which LEN does not count.
pub(crate) const LENGTH_FIELD_BYTES: usize = 4;

/// LEN (4) and the word of serialization type and header length (4).
pub(crate) const FRAME_PREFIX_BYTES: usize = 8;

/// Largest value of LEN: `NettyDecoder` allows 16 MiB for the whole frame, the four bytes of LEN included.
pub(crate) const MAX_FRAME_LENGTH: usize = 16_777_212;

/// Smallest value of LEN: the word of serialization type and header length.
pub(crate) const MIN_FRAME_LENGTH: usize = 4;

/// Largest header, both ways. The protocol allows 16 MiB, but a header holds at most 32 KiB of properties, a remark,
/// and, in the reply to a batch, 33 bytes for each message; what is longer is an attack or an error.
pub(crate) const MAX_HEADER_BYTES: usize = 1 << 20;

/// Largest remark. Servers put exception texts here, a few KiB with all causes.
pub(crate) const MAX_REMARK_BYTES: usize = 256 << 10;

/// Most header fields of one command; the largest known request has fewer than 30.
pub(crate) const MAX_FIELDS: usize = 1024;

/// Longest name of a header field: the binary header has 16 signed bits for it.
pub(crate) const MAX_FIELD_NAME_BYTES: usize = 32_767;

/// Longest value of a header field: the offset message ids of a batch's reply may fill the header.
pub(crate) const MAX_FIELD_VALUE_BYTES: usize = MAX_HEADER_BYTES;

/// Deepest nesting in JSON text. Route data need 4, a consumer's heartbeat 4.
pub(crate) const MAX_JSON_DEPTH: usize = 16;

/// Most brokers, and most queue entries, in the route of one topic.
pub(crate) const MAX_BROKERS: usize = 4096;

/// Most addresses of one broker name: a master and its slaves.
pub(crate) const MAX_ADDRESSES_PER_BROKER: usize = 1024;

/// Most queues of one topic over all brokers, for reading and for writing: a list of them is made from these numbers.
pub(crate) const MAX_QUEUES_PER_TOPIC: u32 = 65_536;

/// Most producer groups, and most consumer groups, in one heartbeat.
pub(crate) const MAX_GROUPS_PER_HEARTBEAT: usize = 65_536;

/// Least free room that a receive buffer offers to a read.
pub(crate) const MIN_RECEIVE_SPACE: usize = 8 << 10;

/// What a receive buffer starts with, and goes back to after a large frame: room for about a hundred replies.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 32 << 10;

/// Largest body after it was decompressed: that of the largest frame. Java's producers compare a body with their limit of
/// 4 MiB before they compress it, so what takes more is an attack or an error.
pub(crate) const MAX_DECOMPRESSED_BYTES: usize = 16 << 20;
