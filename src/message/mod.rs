//! What a user builds and gets back by name: messages, queues and ids. A message is checked when it is built, never
//! changed afterwards, and knows nothing of bytes on the wire.

pub(crate) mod batch;
mod builder;
mod compression;
pub(crate) mod id;
pub(crate) mod names;
pub(crate) mod property;
mod queue;
pub(crate) mod reply;
pub(crate) mod stored;
pub(crate) mod timing;

use std::{fmt, sync::Arc};

pub use batch::Batch;
pub use builder::MessageBuilder;
pub use compression::CompressionType;
pub use id::{MessageId, OffsetMessageId};
pub use queue::MessageQueue;
pub use stored::StoredMessage;

use self::timing::{Requirement, Timing};
use crate::error::Error;

/// A message to send: topic, body, tags, keys and properties.
///
/// A message is immutable and cheap to clone (the content is shared), and sending does not change it: the same message
/// may be sent again, from several threads at once, each time under a new message id.
///
/// ```
/// use rocketmq_producer::Message;
///
/// let message = Message::builder("orders")
///     .tags("paid")
///     .keys(["order-4711"])
///     .property("region", "north")
///     .body("{\"total\": 12}")
///     .build()?;
/// assert_eq!(message.topic(), "orders");
/// assert_eq!(message.tags(), Some("paid"));
/// assert_eq!(message.property("region"), Some("north"));
/// # Ok::<(), rocketmq_producer::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    content: Arc<Content>,
}

#[derive(PartialEq, Eq)]
struct Content {
    topic: Arc<str>,
    flag: i32,
    body: Vec<u8>,
    /// Everything that travels as a property, `KEYS` and `TAGS` included, in the order of the wire.
    properties: Vec<(Box<str>, Box<str>)>,
    properties_length: usize,
    timing: Timing,
    /// What brokers must be able to do with it.
    requirement: Option<&'static Requirement>,
    /// It answers a request, and is sent with a request code of its own.
    is_reply: bool,
}

impl Message {
    /// Makes a message of a topic and a body.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`] when the topic is not a legal name or the body is empty.
    ///
    /// ```
    /// use rocketmq_producer::Message;
    ///
    /// let message = Message::new("TopicTest", "Hello RocketMQ")?;
    /// assert_eq!(message.body(), b"Hello RocketMQ");
    /// assert!(Message::new("no spaces", "x").is_err());
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    pub fn new(topic: impl Into<String>, body: impl Into<Vec<u8>>) -> Result<Self, Error> {
        Self::builder(topic).body(body).build()
    }

    /// Starts a message for `topic`; [`MessageBuilder::build`] checks it.
    pub fn builder(topic: impl Into<String>) -> MessageBuilder {
        MessageBuilder::new(topic.into())
    }

    /// The topic that the message is sent to.
    pub fn topic(&self) -> &str {
        &self.content.topic
    }

    /// The body, as it was given.
    pub fn body(&self) -> &[u8] {
        &self.content.body
    }

    /// The user's flag, 0 unless set. RocketMQ stores it and never looks at it.
    pub fn flag(&self) -> i32 {
        self.content.flag
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
    }

    /// The value of a property; `KEYS`, `TAGS` and `WAIT` are properties too.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// All properties, `KEYS` and `TAGS` included, in the order in which they are sent.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.content
            .properties
            .iter()
            .map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn is_reply(&self) -> bool {
        self.content.is_reply
    }

    pub(crate) fn shared_topic(&self) -> &Arc<str> {
        &self.content.topic
    }

    pub(crate) fn property_pairs(&self) -> &[(Box<str>, Box<str>)] {
        &self.content.properties
    }

    /// When consumers are to see it.
    pub(crate) fn timing(&self) -> Timing {
        self.content.timing
    }

    /// What a broker must be able to do to deliver it as wished; `None` if all can.
    pub(crate) fn requirement(&self) -> Option<&'static Requirement> {
        self.content.requirement
    }

    /// Bytes of the properties as one text, before the client adds its own.
    pub(crate) fn properties_length(&self) -> usize {
        self.content.properties_length
    }
}

impl fmt::Debug for Message {
    /// Shows everything but the body and the property values, which may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("tags", &self.tags())
            .field("keys", &self.property(property::KEYS))
            .field("properties", &self.content.properties.len())
            .field("body_length", &self.body().len())
            .finish_non_exhaustive()
    }
}
