//! Where a send is aimed, if the producer is not to choose.

use std::{fmt, sync::Arc};

use super::choose::java_hash;
use crate::message::{Message, MessageQueue};

type Select = dyn Fn(&[MessageQueue], &Message) -> usize + Send + Sync;

/// Aims a send at one queue, so that messages that belong together stay in order.
///
/// An aimed send is never moved to another queue, and not retried, as in 4.7.0: a second attempt could overtake or
/// double the first. [Ordered](super::Aimed::ordered) ones are retried, to the same queue.
///
/// ```
/// use rocketmq_producer::{MessageQueue, Target};
///
/// let by_key = Target::key("order-4711");
/// let by_closure = Target::select(|queues, message| message.body().len() % queues.len());
/// let fixed = Target::from(MessageQueue::new("orders", "broker-a", 0));
/// # let _ = (by_key, by_closure, fixed);
/// ```
#[derive(Clone)]
pub struct Target(pub(crate) Aim);

/// The three kinds of targets.
#[derive(Clone)]
pub(crate) enum Aim {
    Queue(MessageQueue),
    /// The hash of a key.
    Key(i32),
    Select(Arc<Select>),
}

impl Target {
    /// Aims at the queue that belongs to a key: equal keys share a queue as long as the number of queues stays the same;
    /// [the guide](crate::guide::order) tells what happens when it changes.
    ///
    /// The key is hashed as Java's `String.hashCode`, and the queue is chosen as `SelectMessageQueueByHash` does, so that
    /// Java and Rust producers agree. It has nothing to do with [`Message::keys`].
    #[doc(alias = "SelectMessageQueueByHash")]
    #[doc(alias = "sharding key")]
    pub fn key(key: impl AsRef<str>) -> Self {
        Self(Aim::Key(java_hash(key.as_ref())))
    }

    /// Aims at the queue whose index the closure returns. It is given all queues that take messages, sorted by broker
    /// name and queue id, and the message.
    ///
    /// The closure runs on the thread that sends. If it panics, the panic goes through the send to its caller, and the
    /// closure of an asynchronous send is dropped without being called. An index beyond the last queue fails the send with
    /// [`Error::InvalidMessage`](crate::Error::InvalidMessage).
    #[doc(alias = "MessageQueueSelector")]
    pub fn select(choose: impl Fn(&[MessageQueue], &Message) -> usize + Send + Sync + 'static) -> Self {
        Self(Aim::Select(Arc::new(choose)))
    }
}

impl From<MessageQueue> for Target {
    fn from(queue: MessageQueue) -> Self {
        Self(Aim::Queue(queue))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Aim::Queue(queue) => write!(f, "Target::from({queue})"),
            Aim::Key(hash) => write!(f, "Target::key(hash {hash})"),
            Aim::Select(_) => f.write_str("Target::select(..)"),
        }
    }
}
