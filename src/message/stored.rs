//! A message as a broker hands it out. Made by `wire::stored_message` from the bytes of a record.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{
    id::{MessageId, OffsetMessageId},
    property,
    queue::MessageQueue,
};

/// A message as a broker stores it and hands it out: what was sent, where it is, and when.
///
/// It is what a broker asks a transaction listener about, what a reply is, and what a query finds. Cheap to clone; the
/// content is shared.
#[derive(Clone, PartialEq, Eq)]
#[doc(alias = "MessageExt")]
pub struct StoredMessage {
    content: Arc<StoredContent>,
}

/// The parts of a stored message.
#[derive(PartialEq, Eq)]
pub(crate) struct StoredContent {
    pub(crate) queue: MessageQueue,
    pub(crate) queue_offset: u64,
    pub(crate) commit_log_offset: u64,
    pub(crate) offset_message_id: OffsetMessageId,
    pub(crate) flag: i32,
    pub(crate) sys_flag: i32,
    pub(crate) body: Vec<u8>,
    /// Why the body is not as it was given to the sender.
    pub(crate) still_compressed: Option<String>,
    /// One entry per name.
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) born_timestamp_ms: i64,
    pub(crate) born_host: SocketAddr,
    pub(crate) store_timestamp_ms: i64,
    pub(crate) store_host: SocketAddr,
    pub(crate) reconsume_times: i32,
}

impl StoredMessage {
    pub(crate) fn new(content: StoredContent) -> Self {
        Self {
            content: Arc::new(content),
        }
    }

    /// The topic that the message was sent to.
    pub fn topic(&self) -> &str {
        self.content.queue.topic()
    }

    /// The body, as it was given to the sender. One that was compressed is decompressed, if this crate is built with the
    /// feature for it (`zlib`, `lz4`, `zstd`) and it takes at most 16 MiB: see [`Self::still_compressed`].
    pub fn body(&self) -> &[u8] {
        &self.content.body
    }

    /// Why the body is handed out compressed, as the broker stores it; `None` for a body that is as it was given to the
    /// sender.
    pub fn still_compressed(&self) -> Option<&str> {
        self.content.still_compressed.as_deref()
    }

    /// The tags that consumers filter by.
    pub fn tags(&self) -> Option<&str> {
        self.property(property::TAGS)
    }

    /// The keys under which tools find the message.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(property::KEYS)
            .into_iter()
            .flat_map(|keys| keys.split(property::KEY_SEPARATOR))
            .filter(|key| !key.is_empty())
    }

    /// The value of a property, those that clients and brokers set included.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// All properties, those that clients and brokers set included. A name comes once.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.content
            .properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The id that the sender gave the message (`UNIQ_KEY`); the broker's id, as text, where the sender gave none (as
    /// `MessageExt.getMsgId`).
    #[doc(alias = "msgId")]
    pub fn message_id(&self) -> MessageId {
        self.property(property::UNIQ_KEY)
            .and_then(MessageId::from_text)
            .unwrap_or_else(|| self.content.offset_message_id.for_sender())
    }

    /// The id that the broker gave it. For half and delayed messages it names the copy in the system topic.
    #[doc(alias = "offsetMsgId")]
    pub fn offset_message_id(&self) -> OffsetMessageId {
        self.content.offset_message_id
    }

    /// The queue that it is in. Its broker name is the broker's address where no known route names that broker.
    pub fn queue(&self) -> &MessageQueue {
        &self.content.queue
    }

    /// Its position in that queue.
    pub fn queue_offset(&self) -> u64 {
        self.content.queue_offset
    }

    /// Its position in the commit log of the broker, in bytes.
    pub fn commit_log_offset(&self) -> u64 {
        self.content.commit_log_offset
    }

    /// The user's flag, 0 unless set. RocketMQ stores it and never looks at it.
    pub fn flag(&self) -> i32 {
        self.content.flag
    }

    /// The protocol's own flags (`MessageSysFlag`): 4 for a half message, for instance.
    pub fn sys_flag(&self) -> i32 {
        self.content.sys_flag
    }

    /// When it was sent, in milliseconds since 1970 by the sender's clock.
    pub fn born_timestamp_ms(&self) -> i64 {
        self.content.born_timestamp_ms
    }

    /// From where it was sent, as the broker saw it.
    pub fn born_host(&self) -> SocketAddr {
        self.content.born_host
    }

    /// When it was stored, in milliseconds since 1970 by the broker's clock.
    pub fn store_timestamp_ms(&self) -> i64 {
        self.content.store_timestamp_ms
    }

    /// The broker that stored it, by the address that it advertises.
    pub fn store_host(&self) -> SocketAddr {
        self.content.store_host
    }

    /// How often consumers have tried it in vain.
    pub fn reconsume_times(&self) -> i32 {
        self.content.reconsume_times
    }
}

impl fmt::Debug for StoredMessage {
    /// Shows everything but the body and the property values, which may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredMessage")
            .field("message_id", &self.message_id().as_str())
            .field("queue", &self.content.queue)
            .field("queue_offset", &self.content.queue_offset)
            .field("tags", &self.tags())
            .field("keys", &self.property(property::KEYS))
            .field("properties", &self.content.properties.len())
            .field("body_length", &self.content.body.len())
            .finish_non_exhaustive()
    }
}
