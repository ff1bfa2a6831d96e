//! What a producer can ask brokers beside sending: queue positions, messages that are stored, new topics.
//!
//! One query is one request to each broker that is asked, under one deadline, and is never repeated on another broker. It
//! blocks its caller, who waits on a channel for completions; see `ask`.

mod ask;
mod by_key;
mod create_topic;
mod offsets;
mod view;

use std::{fmt, ops::RangeBounds, sync::Arc, time::Duration, time::SystemTime};

pub use by_key::FoundMessages;
pub(super) use by_key::is_indexed;
pub use create_topic::{CreatedTopic, NewTopic};
pub use offsets::Boundary;
pub use view::AnyMessageId;

use super::{Producer, shared::Shared};
use crate::{
    error::Error,
    message::{MessageQueue, OffsetMessageId, StoredMessage, names::check_known_topic},
    net::deadline::Deadline,
};

/// The queries of a producer with a time of their own, as [`Producer::queries`] gives them.
///
/// Each does what the method of the same name of [`Producer`] does, and blocks for at most that time in the place of
/// the send timeout.
#[derive(Clone, Copy)]
pub struct Queries<'p> {
    shared: &'p Arc<Shared>,
    timeout: Duration,
}

/// One query under way.
struct Query<'p> {
    shared: &'p Arc<Shared>,
    deadline: Deadline,
}

impl Producer {
    /// The same queries with a time of their own in the place of the send timeout: they all block for at most
    /// `timeout`.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # cluster.create_topic("orders", 1);
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::Duration;
    ///
    /// let queue = &producer.publish_queues("orders")?[0];
    /// let end = producer.queries(Duration::from_millis(500)).max_offset(queue)?;
    /// # assert_eq!(end, 0);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queries(&self, timeout: Duration) -> Queries<'_> {
        Queries {
            shared: &self.handle.shared,
            timeout,
        }
    }

    fn plain_queries(&self) -> Queries<'_> {
        self.queries(self.handle.shared.config.send_timeout)
    }

    /// The offset of the oldest message that a queue still keeps. It is [`Producer::max_offset`] of a queue without
    /// messages.
    ///
    /// Blocks for at most the send timeout (3 s unless set). The master of the queue's broker is asked, once
    /// (`GET_MIN_OFFSET`; all releases).
    ///
    /// # Errors
    /// - [`Error::InvalidQuery`]: there is no such queue, or its topic is not a legal name. No broker was asked: 4.7.0
    ///   would make a queue of any id that it is asked about.
    /// - [`Error::NoRoute`], [`Error::NameServersUnreachable`]: the topic does not exist, or cannot be looked up.
    /// - [`Error::Refused`] with the broker's address, code and remark; [`Error::Connect`], [`Error::ConnectionLost`],
    ///   [`Error::Timeout`], [`Error::Protocol`]; [`Error::ShutDown`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// let result = producer.send(&Message::new("orders", "first")?)?;
    /// assert_eq!(producer.min_offset(&result.queue)?, 0);
    /// assert_eq!(producer.max_offset(&result.queue)?, 1);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "minOffset")]
    pub fn min_offset(&self, queue: &MessageQueue) -> Result<u64, Error> {
        self.plain_queries().min_offset(queue)
    }

    /// The offset that the next message of a queue will get: the number of messages that it has ever taken.
    ///
    /// Blocks for at most the send timeout (3 s unless set). The master of the queue's broker is asked, once
    /// (`GET_MAX_OFFSET`; all releases). A broker counts a message here a moment after it has confirmed it.
    ///
    /// # Errors
    /// Those of [`Producer::min_offset`], which also has an example.
    #[doc(alias = "maxOffset")]
    pub fn max_offset(&self, queue: &MessageQueue) -> Result<u64, Error> {
        self.plain_queries().max_offset(queue)
    }

    /// The offset at which a queue stood at a time, by the store times of its messages.
    ///
    /// Brokers from 5.1.1 on answer exactly, see [`Boundary`]. Older ones know no boundary: whichever is asked for,
    /// they answer the offset of the message that was stored nearest to `time`, which may be before or after it. All
    /// releases answer 0 for a queue without messages.
    ///
    /// Blocks for at most the send timeout (3 s unless set). The master of the queue's broker is asked, once
    /// (`SEARCH_OFFSET_BY_TIMESTAMP`; all releases, the boundary since 5.1.1). Times are cut to milliseconds.
    ///
    /// # Errors
    /// Those of [`Producer::min_offset`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::{Duration, SystemTime};
    /// use rocketmq_producer::{Boundary, Message};
    ///
    /// let result = producer.send(&Message::new("orders", "first")?)?;
    /// let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    /// assert_eq!(producer.search_offset(&result.queue, an_hour_ago, Boundary::Lower)?, 0);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "searchOffset")]
    pub fn search_offset(
        &self,
        queue: &MessageQueue,
        time: SystemTime,
        boundary: Boundary,
    ) -> Result<u64, Error> {
        self.plain_queries().search_offset(queue, time, boundary)
    }

    /// When the oldest message that a queue still keeps was stored, by the broker's clock. `None`: it keeps none.
    ///
    /// Of a logical queue of a static topic brokers up to 5.5.0 answer for the queue with the same number on the
    /// broker that holds it (`AdminBrokerProcessor` forwards the logical id), so the time, or `None`, may be another
    /// queue's.
    ///
    /// Blocks for at most the send timeout (3 s unless set). The master of the queue's broker is asked, once
    /// (`GET_EARLIEST_MSG_STORETIME`; all releases).
    ///
    /// # Errors
    /// Those of [`Producer::min_offset`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # cluster.create_topic("orders", 1);
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// let queue = &producer.publish_queues("orders")?[0];
    /// assert_eq!(producer.earliest_store_time(queue)?, None);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "earliestMsgStoreTime")]
    pub fn earliest_store_time(&self, queue: &MessageQueue) -> Result<Option<SystemTime>, Error> {
        self.plain_queries().earliest_store_time(queue)
    }

    /// The message with an id, of either kind; `None` if no broker of the topic has it.
    ///
    /// | `id` | is |
    /// |---|---|
    /// | a [`MessageId`](crate::MessageId) | the sender's: all brokers of the topic look it up in their index (`QUERY_MESSAGE`) |
    /// | an [`OffsetMessageId`] | the broker's: that broker looks into its log (`VIEW_MESSAGE_BY_ID`) |
    /// | text | the broker's if it names the address of a broker of the topic, else the sender's |
    ///
    /// An offset message id holds the address of a broker. Unlike Java's client, which connects to whatever address an
    /// id holds, this one only connects to brokers that the name servers list for the topic. Where a broker has
    /// another address now, or is listed under a host name, [`Producer::view_message_on`] asks it by its name.
    ///
    /// A broker needs a moment after a send until its index has the message. Of several copies (a send that was
    /// repeated) the one that was stored first is given. For delayed, timed and half messages the broker's id leads to
    /// the copy in a system topic, and the sender's to the message that was delivered.
    ///
    /// Blocks for at most the send timeout (3 s unless set). All releases.
    ///
    /// # Errors
    /// - [`Error::InvalidQuery`]: the id is none: a broker's has 32 or 56 hexadecimal digits (IPv4, IPv6) with a port
    ///   of 1 to 65535, a sender's 32, 34 (sent through a 5.x proxy) or 56. Or an [`OffsetMessageId`] names no broker
    ///   of the topic. No broker was asked.
    /// - [`Error::FailedOnBrokers`]: not found, but not all brokers could be asked, so it may be there.
    /// - Else those of [`Producer::min_offset`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// let result = producer.send(&Message::new("orders", "first")?)?;
    /// let by_senders_id = producer.view_message("orders", result.message_id)?.expect("it is stored");
    /// let by_brokers_id = producer.view_message("orders", result.offset_message_id)?.expect("it is stored");
    /// assert_eq!(by_senders_id, by_brokers_id);
    /// assert_eq!(by_senders_id.body(), b"first");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "viewMessage")]
    #[doc(alias = "queryMessageByUniqKey")]
    pub fn view_message(
        &self,
        topic: &str,
        id: impl Into<AnyMessageId>,
    ) -> Result<Option<StoredMessage>, Error> {
        self.plain_queries().view_message(topic, id)
    }

    /// The message at the place in the log of a broker that an id names, whatever address the id holds; `None` if
    /// nothing begins there. For brokers whose address has changed, or which the name servers list under a host name.
    ///
    /// Blocks for at most the send timeout (3 s unless set). The master is asked, or a slave if there is none
    /// (`VIEW_MESSAGE_BY_ID`; all releases).
    ///
    /// # Errors
    /// [`Error::InvalidQuery`]: the id is none, or the topic is not on that broker. Else those of
    /// [`Producer::min_offset`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// let result = producer.send(&Message::new("orders", "first")?)?;
    /// let (broker_name, id) = (result.queue.broker_name(), result.offset_message_id);
    /// let message = producer.view_message_on(broker_name, "orders", id)?.expect("it is stored");
    /// assert_eq!(message.queue(), &*result.queue);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn view_message_on(
        &self,
        broker_name: &str,
        topic: &str,
        id: OffsetMessageId,
    ) -> Result<Option<StoredMessage>, Error> {
        self.plain_queries().view_message_on(broker_name, topic, id)
    }

    /// The newest messages of a topic with a key that were stored in a time range, in the order in which they were
    /// stored.
    ///
    /// `most` is how many are wanted at most, all brokers together. A broker gives at most 64 (its setting
    /// `maxMsgsNumBatch`), and no more than 16 MiB: with large messages ask for few, since a longer answer ends the
    /// connection. `stored` is any range of times, `..` for all. A broker needs a moment after a send until its index
    /// has the message; [`FoundMessages::indexed_until`] says how far it was.
    ///
    /// All brokers of the topic are asked at the same time, the master or else a slave of each, and each once
    /// (`QUERY_MESSAGE`; all releases). Blocks for at most the send timeout (3 s unless set). What some find is given
    /// even if others fail: [`FoundMessages::failed`] lists those.
    ///
    /// # Errors
    /// - [`Error::InvalidQuery`]: an illegal topic; a key that is empty or holds a space, which separates keys; `most`
    ///   is 0; a range that ends before it begins. No broker was asked.
    /// - [`Error::FailedOnBrokers`]: no broker could be asked.
    /// - [`Error::NoRoute`], [`Error::NameServersUnreachable`], [`Error::Timeout`]: the topic does not exist, or
    ///   cannot be looked up; [`Error::ShutDown`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(2)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::{Duration, SystemTime};
    /// use rocketmq_producer::Message;
    ///
    /// producer.send(&Message::builder("orders").keys(["order-1"]).body("created").build()?)?;
    /// producer.send(&Message::builder("orders").keys(["order-1"]).body("paid").build()?)?;
    /// let found = producer.query_messages("orders", "order-1", 32, ..)?;
    /// assert_eq!(found.messages.len(), 2);
    /// let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    /// assert!(producer.query_messages("orders", "order-1", 32, ..an_hour_ago)?.messages.is_empty());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "queryMessage")]
    pub fn query_messages(
        &self,
        topic: &str,
        key: &str,
        most: u32,
        stored: impl RangeBounds<SystemTime>,
    ) -> Result<FoundMessages, Error> {
        self.plain_queries().query_messages(topic, key, most, stored)
    }

    /// Creates a topic on every master of the brokers that [`NewTopic::where_topic`] names, or changes its number of
    /// queues there.
    ///
    /// Returns when a name server tells of the topic on all of them, or when the time is over: a broker says yes
    /// before the name servers know (`CreatedTopic::is_routed` tells which). Queues of an existing topic that a
    /// smaller number leaves out can be neither sent to nor read from until the number is raised again.
    ///
    /// All brokers are asked at the same time, each once (`UPDATE_AND_CREATE_TOPIC`; all releases), unlike in Java's
    /// client, which asks each up to five times and is content with one. Blocks for at most the send timeout (3 s
    /// unless set).
    ///
    /// # Errors
    /// - [`Error::InvalidQuery`]: an illegal name, a topic of the brokers' own, no queue or too many. No broker was
    ///   asked.
    /// - [`Error::FailedOnBrokers`]: not every broker has done it; it says which have. Doing it again does no harm.
    /// - [`Error::NoRoute`] for the topic that names the brokers: brokers that do not create topics by themselves have
    ///   no `TBW102`; name the cluster instead. [`Error::NameServersUnreachable`], [`Error::Timeout`],
    ///   [`Error::ShutDown`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(2)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::NewTopic;
    ///
    /// let created = producer.create_topic(&NewTopic::new("orders", 8))?;
    /// assert_eq!(created.brokers.len(), 2);
    /// assert_eq!(producer.publish_queues("orders")?.len(), 2 * 8);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "createTopic")]
    pub fn create_topic(&self, topic: &NewTopic) -> Result<CreatedTopic, Error> {
        self.plain_queries().create_topic(topic)
    }
}

impl Queries<'_> {
    /// See [`Producer::min_offset`].
    ///
    /// # Errors
    /// The same.
    pub fn min_offset(&self, queue: &MessageQueue) -> Result<u64, Error> {
        self.run(|query| offsets::min(query, queue))
    }

    /// See [`Producer::max_offset`].
    ///
    /// # Errors
    /// The same.
    pub fn max_offset(&self, queue: &MessageQueue) -> Result<u64, Error> {
        self.run(|query| offsets::max(query, queue))
    }

    /// See [`Producer::search_offset`].
    ///
    /// # Errors
    /// The same.
    pub fn search_offset(
        &self,
        queue: &MessageQueue,
        time: SystemTime,
        boundary: Boundary,
    ) -> Result<u64, Error> {
        self.run(|query| offsets::search(query, queue, time, boundary))
    }

    /// See [`Producer::earliest_store_time`].
    ///
    /// # Errors
    /// The same.
    pub fn earliest_store_time(&self, queue: &MessageQueue) -> Result<Option<SystemTime>, Error> {
        self.run(|query| offsets::earliest_store_time(query, queue))
    }

    /// See [`Producer::view_message`].
    ///
    /// # Errors
    /// The same.
    pub fn view_message(
        &self,
        topic: &str,
        id: impl Into<AnyMessageId>,
    ) -> Result<Option<StoredMessage>, Error> {
        let id = id.into();
        self.run(|query| view::view(query, topic, &id))
    }

    /// See [`Producer::view_message_on`].
    ///
    /// # Errors
    /// The same.
    pub fn view_message_on(
        &self,
        broker_name: &str,
        topic: &str,
        id: OffsetMessageId,
    ) -> Result<Option<StoredMessage>, Error> {
        self.run(|query| view::view_on(query, broker_name, topic, id))
    }

    /// See [`Producer::query_messages`].
    ///
    /// # Errors
    /// The same.
    pub fn query_messages(
        &self,
        topic: &str,
        key: &str,
        most: u32,
        stored: impl RangeBounds<SystemTime>,
    ) -> Result<FoundMessages, Error> {
        let stored = (stored.start_bound().cloned(), stored.end_bound().cloned());
        self.run(|query| by_key::query(query, topic, key, most, stored))
    }

    /// See [`Producer::create_topic`].
    ///
    /// # Errors
    /// The same.
    pub fn create_topic(&self, topic: &NewTopic) -> Result<CreatedTopic, Error> {
        self.run(|query| create_topic::create(query, topic))
    }

    fn run<R>(&self, ask: impl FnOnce(&Query<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let _inside = self.shared.gate.enter()?;
        ask(&Query {
            shared: self.shared,
            deadline: Deadline::after(self.timeout),
        })
    }
}

impl fmt::Debug for Queries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidQuery { reason }
}

fn check_topic(topic: &str) -> Result<Arc<str>, Error> {
    check_known_topic(topic).map_err(invalid)?;
    Ok(topic.into())
}
