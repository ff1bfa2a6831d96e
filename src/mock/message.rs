//! A stored message as tests look at it. Built on demand; the brokers keep the compact form in `store`.

use std::net::SocketAddr;

use crate::message::id::{MessageId, OffsetMessageId};
use crate::message::property;
use crate::wire::id::offset_message_id;
use crate::wire::properties;

use super::shared::Shared;
use super::store::Record;

/// A message as a broker of the embedded cluster stored it.
///
/// ```
/// use rocketmq_producer::mock::MockCluster;
///
/// let cluster = MockCluster::start(1)?;
/// // … something sends to "orders" …
/// for message in cluster.messages("orders") {
///     println!("{} {:?} {}", message.offset_message_id, message.tags, message.body.len());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MockMessage {
    /// The topic it was sent to.
    pub topic: String,
    /// The body as it was sent: still compressed when `sys_flag` has bit 0.
    pub body: Vec<u8>,
    /// Property `TAGS`.
    pub tags: Option<String>,
    /// The words of property `KEYS`.
    pub keys: Vec<String>,
    /// All properties, as consumers of this release would read them, those that the broker added included. One entry
    /// per name; the last value of a name counts.
    pub properties: Vec<(String, String)>,
    /// The flag that the sender may use as it likes.
    pub flag: i32,
    /// The protocol's own flags: 1 for a compressed body, 4 for a half message, …
    pub sys_flag: i32,
    /// Name of the broker that stored it.
    pub broker_name: String,
    /// Queue on that broker.
    pub queue_id: u32,
    /// Position in that queue.
    pub queue_offset: u64,
    /// The sender's id: property `UNIQ_KEY`, if there is one.
    pub message_id: Option<MessageId>,
    /// The broker's id: its address and the position in its commit log.
    pub offset_message_id: OffsetMessageId,
    /// Milliseconds since 1970 by the sender's clock.
    pub born_timestamp_ms: i64,
    /// The sender's end of the connection.
    pub born_host: SocketAddr,
    /// Milliseconds since 1970 when it was stored.
    pub store_timestamp_ms: i64,
    /// How often it was consumed in vain, as the sender says.
    pub reconsume_times: i32,
    /// The group that the sender named.
    pub producer_group: String,
}

impl MockMessage {
    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .find(|property| property.0 == name)
            .map(|property| property.1.as_str())
    }

    pub(super) fn new(shared: &Shared, topic: &str, record: &Record) -> MockMessage {
        let properties = properties::parse(record.properties(), shared.version.reading_rules());
        let find = |name: &str| {
            properties
                .iter()
                .find(|property| property.0 == name)
                .map(|property| &*property.1)
        };
        let broker = shared.brokers.get(record.broker);
        MockMessage {
            topic: topic.to_owned(),
            body: record.body().to_vec(),
            tags: find(property::TAGS).map(str::to_owned),
            keys: find(property::KEYS).map_or_else(Vec::new, |keys| {
                keys.split(property::KEY_SEPARATOR)
                    .filter(|key| !key.is_empty())
                    .map(str::to_owned)
                    .collect()
            }),
            flag: record.flag,
            sys_flag: record.sys_flag,
            broker_name: broker.map_or_else(String::new, |broker| broker.name.to_string()),
            queue_id: record.queue_id,
            queue_offset: record.queue_offset,
            message_id: find(property::UNIQ_KEY).and_then(MessageId::from_text),
            offset_message_id: offset_message_id(record.broker_address(), record.physical_offset),
            born_timestamp_ms: record.born_timestamp_ms,
            born_host: record.born_host,
            store_timestamp_ms: record.store_timestamp_ms,
            reconsume_times: record.reconsume_times,
            producer_group: record.producer_group.to_string(),
            properties,
        }
    }
}
