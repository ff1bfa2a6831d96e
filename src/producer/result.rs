//! What a send gives back.

use std::{fmt, sync::Arc};

use crate::{
    code::ResponseCode,
    error::Error,
    message::{Message, MessageId, MessageQueue, OffsetMessageId},
    wire::request::send_message::RareParts,
};

/// How safely a broker has stored a message. In all four cases it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a status other than SendOk means that the message is stored, but less safely than the broker is configured"]
#[non_exhaustive]
pub enum SendStatus {
    /// Stored as the broker is configured to.
    SendOk,
    /// Stored in memory; the flush to disk did not come in time (code 10).
    FlushDiskTimeout,
    /// Stored on the master; the slave did not confirm in time (code 12).
    FlushSlaveTimeout,
    /// Stored on the master; there is no slave to replicate to (code 11).
    SlaveNotAvailable,
}

impl SendStatus {
    /// The status that a response code stands for, if it says that the message is stored
    /// (`MQClientAPIImpl.processSendResponse`).
    pub(crate) fn from_code(code: ResponseCode) -> Option<Self> {
        match code {
            ResponseCode::SUCCESS => Some(Self::SendOk),
            ResponseCode::FLUSH_DISK_TIMEOUT => Some(Self::FlushDiskTimeout),
            ResponseCode::FLUSH_SLAVE_TIMEOUT => Some(Self::FlushSlaveTimeout),
            ResponseCode::SLAVE_NOT_AVAILABLE => Some(Self::SlaveNotAvailable),
            _ => None,
        }
    }
}

impl fmt::Display for SendStatus {
    /// As Java prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SendOk => "SEND_OK",
            Self::FlushDiskTimeout => "FLUSH_DISK_TIMEOUT",
            Self::FlushSlaveTimeout => "FLUSH_SLAVE_TIMEOUT",
            Self::SlaveNotAvailable => "SLAVE_NOT_AVAILABLE",
        })
    }
}

/// A stored message: where it is and under which ids.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SendResult {
    /// How safely it is stored.
    pub status: SendStatus,
    /// The id that this client gave the message (`UNIQ_KEY`; Java's `msgId`).
    pub message_id: MessageId,
    /// The id that the broker gave it (Java's `offsetMsgId`).
    pub offset_message_id: OffsetMessageId,
    /// The queue that it is in.
    pub queue: Arc<MessageQueue>,
    /// Its position in that queue.
    pub queue_offset: u64,
    /// The transaction id, which 5.x brokers give every message and 4.x brokers none.
    pub transaction_id: Option<MessageId>,
    /// The region of the broker, `DefaultRegion` unless configured.
    pub region_id: Arc<str>,
    /// Whether the broker wants the message to be traced.
    pub trace_on: bool,
    /// How many attempts were begun.
    pub attempts: u32,
    /// An earlier attempt ended without a verdict, so there may be a second copy under the same message id.
    pub may_be_duplicated: bool,
    /// Of a batch, until it is given to the messages; of a timer message.
    pub(super) rare: Option<Box<RareParts>>,
}

impl SendResult {
    /// What [`Producer::recall`](super::Producer::recall) needs to take the message back before it is delivered. `None` unless it
    /// is a timer message whose time has not come and the broker is of 5.3.2 or later.
    #[doc(alias = "recallHandle")]
    pub fn recall_handle(&self) -> Option<&str> {
        self.rare.as_ref()?.recall_handle.as_deref()
    }
}

impl fmt::Display for SendResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            message_id,
            offset_message_id,
            queue,
            queue_offset,
            ..
        } = self;
        write!(
            f,
            "{status} {message_id} at {queue} offset {queue_offset} ({offset_message_id})"
        )
    }
}

/// An asynchronous send that failed. The message comes back, so nobody has to keep a copy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SendFailure {
    /// The message, unchanged.
    pub message: Message,
    /// Why it failed; [`Error::delivery`] says what may have become of the message.
    pub error: Error,
}

impl SendFailure {
    pub(crate) fn new(message: Message, error: Error) -> Self {
        Self { message, error }
    }
}

/// There was no room for an asynchronous send: message and closure come back. Nothing was sent, and the closure was not
/// called.
#[non_exhaustive]
pub struct Full<F> {
    /// The message, unchanged.
    pub message: Message,
    /// The closure, to be given again.
    pub on_done: F,
}

impl<F> Full<F> {
    pub(crate) fn new(message: Message, on_done: F) -> Self {
        Self { message, on_done }
    }
}

impl<F> fmt::Debug for Full<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Full")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Display for Full<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no room for another asynchronous send to topic {}",
            self.message.topic()
        )
    }
}

impl<F> std::error::Error for Full<F> {}

impl fmt::Display for SendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for SendFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
