//! A queue of a topic on one broker: where a message goes.

use std::{fmt, sync::Arc};

/// A queue of a topic on a broker, known by topic, broker name and queue id.
///
/// A *broker name* is a logical group of a master and its slaves, not an address. Queues are ordered by topic, then
/// broker name, then queue id: the order in which every client numbers them.
///
/// ```
/// use rocketmq_producer::MessageQueue;
///
/// let queue = MessageQueue::new("orders", "broker-a", 3);
/// assert_eq!(queue.to_string(), "orders@broker-a#3");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "partition")]
pub struct MessageQueue {
    topic: Arc<str>,
    broker_name: Arc<str>,
    queue_id: u32,
}

impl MessageQueue {
    /// Names a queue. Nothing is checked here: a queue that does not exist is refused when a message is sent to it.
    pub fn new(topic: impl Into<Arc<str>>, broker_name: impl Into<Arc<str>>, queue_id: u32) -> Self {
        Self {
            topic: topic.into(),
            broker_name: broker_name.into(),
            queue_id,
        }
    }

    /// The topic that the queue belongs to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The name of the broker that holds the queue.
    pub fn broker_name(&self) -> &str {
        &self.broker_name
    }

    /// The number of the queue on its broker, from 0.
    pub fn queue_id(&self) -> u32 {
        self.queue_id
    }

    pub(crate) fn shared_broker_name(&self) -> &Arc<str> {
        &self.broker_name
    }
}

impl fmt::Display for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.topic, self.broker_name, self.queue_id)
    }
}
