//! The meaning of "send". The only room that sees everything below it.

mod admission;
mod aimed;
mod async_state;
mod attempt;
mod auto_batch;
mod background;
mod batch;
mod blocking;
mod builder;
pub(crate) mod choose;
mod departure;
mod desk;
mod diagnose;
mod diagnosis;
mod gate;
mod gather;
pub(crate) mod ids;
mod inbound;
mod lanes;
mod oneway;
mod options;
mod permits;
mod plan;
mod queries;
mod recall;
mod record;
mod release;
mod replies;
mod reply;
mod request;
mod request_async;
mod result;
mod room;
mod shared;
mod shutdown;
mod stats;
mod tally;
mod target;
mod timing;
mod transaction;
mod warm_up;

use std::{fmt, sync::Arc, time::Duration};

pub use aimed::Aimed;
pub use batch::{BatchFailure, BatchResult, Outcomes};
pub use builder::ProducerBuilder;
pub use diagnosis::{Check, CheckOutcome, Diagnosis, DiagnosisStep};
pub use queries::{AnyMessageId, Boundary, CreatedTopic, FoundMessages, NewTopic, Queries};
pub use reply::Reply;
pub use result::{Full, SendFailure, SendResult, SendStatus};
use shared::Shared;
pub use shutdown::{ShutdownReport, Unflushed};
pub use stats::{
    BrokerStats, FailureCounts, LastError, Latency, NameServerStats, RequestCounts, RetryCounts, SendCounts,
    Stats, TopicStats,
};
pub use target::Target;
pub use transaction::{
    LocalTransaction, TransactionEnd, TransactionListener, TransactionProducer, TransactionSendResult,
};

use crate::{
    config::DROP_TIMEOUT,
    error::Error,
    message::{Message, MessageQueue},
    net::deadline::Deadline,
};

/// A running producer: sends messages from any thread. There is no un-started one.
///
/// Clones are handles of the same producer and share its sockets, routes and threads. Dropping the last one shuts it
/// down, waiting up to 3 s for what is under way; [`Producer::shutdown`] lets you choose, and tells what was left.
///
/// Two producers share nothing, so several clusters in one process keep out of each other's way.
///
/// ```
/// # #[cfg(feature = "mock")] {
/// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
/// # let name_servers = cluster.name_servers();
/// use rocketmq_producer::{Message, Producer};
///
/// let producer = Producer::builder("orders").name_servers(name_servers).start()?;
/// let result = producer.send(&Message::new("TopicTest", "Hello RocketMQ")?)?;
/// println!("{result}");
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias = "DefaultMQProducer")]
pub struct Producer {
    handle: Arc<Handle>,
}

/// The only thing whose end ends the producer. Threads and sends hold `Shared`, never this.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(shutdown::shut_down(&self.shared, DROP_TIMEOUT));
    }
}

impl Producer {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Begins a producer of that group. Groups matter for transactions and statistics; all producers that send the same
    /// kind of messages share one.
    pub fn builder(producer_group: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(producer_group.into())
    }

    /// Sends a message and waits until a broker has stored it.
    ///
    /// Blocks for at most the send timeout (3 s unless set), or the
    /// [delivery timeout](ProducerBuilder::delivery_timeout) if there is one, whatever happens: looking up the route,
    /// connecting and all attempts are part of it. Failed attempts are repeated, on another broker if there is one.
    ///
    /// # Errors
    /// - [`Error::InvalidMessage`]: over a size limit. Nothing was sent.
    /// - [`Error::NoRoute`], [`Error::NameServersUnreachable`]: no broker is known for the topic. Nothing was sent.
    /// - [`Error::Failed`]: attempts were made; it lists them. [`Error::delivery`] says whether the message may be stored.
    /// - [`Error::Timeout`]: the time was over before an attempt could be made. Nothing was sent.
    /// - [`Error::ShutDown`]: the producer is shut down. Nothing was sent.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::{Message, SendStatus};
    ///
    /// let result = producer.send(&Message::new("TopicTest", "Hello RocketMQ")?)?;
    /// assert_eq!(result.status, SendStatus::SendOk);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(&self, message: &Message) -> Result<SendResult, Error> {
        self.plain().send(message)
    }

    /// Sends a message and calls `on_done` with the outcome: exactly once, on a worker thread, whatever happens. On
    /// failure the message comes back. When there are no workers, since the producer is shut down or the operating system
    /// gives no thread, `on_done` is called on this thread instead, so hold no lock here that it takes.
    ///
    /// Returns as soon as the message is on its way. Blocks only for room, when `max_async_in_flight` sends or
    /// `max_async_bytes` are unfinished, and at most for the time of the send; from inside a callback it never blocks for room.
    /// The errors are those of [`Producer::send`], and [`Error::Timeout`] with
    /// [`Phase::Permit`](crate::Phase::Permit) when there was no room in time.
    ///
    /// Callbacks may send, block and panic: each worker runs one at a time, other workers and the sockets go on.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// producer.send_async(Message::new("TopicTest", "Hello")?, |outcome| match outcome {
    ///     Ok(result) => println!("stored: {result}"),
    ///     Err(failure) => println!("{} of {:?}", failure.error, failure.message),
    /// });
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_async(
        &self,
        message: Message,
        on_done: impl FnOnce(Result<SendResult, SendFailure>) + Send + 'static,
    ) {
        self.plain().send_async(message, on_done);
    }

    /// As [`Producer::send_async`], but never waits for room: when there is none, message and closure come back at once.
    ///
    /// # Errors
    /// [`Full`], with which nothing was sent and the closure was not called. Every other failure goes to the closure.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// let message = Message::new("TopicTest", "Hello")?;
    /// if let Err(full) = producer.try_send_async(message, |outcome| println!("{outcome:?}")) {
    ///     println!("busy, keeping {:?}", full.message);
    /// }
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_send_async<F>(&self, message: Message, on_done: F) -> Result<(), Full<F>>
    where
        F: FnOnce(Result<SendResult, SendFailure>) + Send + 'static,
    {
        self.plain().try_send_async(message, on_done)
    }

    /// Hands a message to the connection of a broker and does not wait for an answer; the broker gives none.
    ///
    /// `Ok` says that the connection has taken the message over, not that it was stored or even written. One-way
    /// messages that are lost because their connection ends are counted in the [`ShutdownReport`]. Blocks for at most the
    /// send timeout: for the route, for the connection, and for room in its buffer.
    ///
    /// # Errors
    /// Those of [`Producer::send`], from the one attempt that is made, not wrapped in [`Error::Failed`].
    pub fn send_oneway(&self, message: &Message) -> Result<(), Error> {
        self.plain().send_oneway(message)
    }

    /// Aims what is sent next: at a queue, by a key, or by a closure.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(2)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::{Message, Target};
    ///
    /// let first = producer.to(Target::key("order-1")).send(&Message::new("orders", "created")?)?;
    /// let second = producer.to(Target::key("order-1")).send(&Message::new("orders", "paid")?)?;
    /// assert_eq!(first.queue, second.queue);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to(&self, target: impl Into<Target>) -> Aimed<'_> {
        self.plain().to(target)
    }

    /// Sets the time of what is sent next, in place of the producer's send timeout or delivery timeout.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::Duration;
    /// use rocketmq_producer::Message;
    ///
    /// producer.timeout(Duration::from_millis(500)).send(&Message::new("TopicTest", "soon")?)?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeout(&self, timeout: Duration) -> Aimed<'_> {
        self.plain().timeout(timeout)
    }

    /// The queues that take messages of a topic, sorted by broker name and queue id. For a topic that does not exist yet
    /// but would be created, the queues that it would get. For a static topic of 5.x its logical queues, sorted by id, whose
    /// broker name is `__syslo__global__` wherever they are held.
    ///
    /// Blocks for at most the send timeout if the route is not known yet.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`] for an illegal topic; [`Error::NoRoute`], [`Error::NameServersUnreachable`] or
    /// [`Error::Timeout`] when no route was found; [`Error::ShutDown`].
    #[doc(alias = "fetchPublishMessageQueues")]
    pub fn publish_queues(&self, topic: &str) -> Result<Vec<MessageQueue>, Error> {
        let shared = &self.handle.shared;
        let _inside = shared.gate.enter()?;
        crate::message::names::check_topic(topic).map_err(|reason| Error::InvalidMessage { reason })?;
        let deadline = Deadline::after(shared.config.send_timeout);
        let route = shared.routes.wait(&Arc::from(topic), &deadline)?;
        Ok(route.listed.clone())
    }

    /// Replaces the list of name servers: `host:port`, several separated by `;`, IPv6 literals in brackets.
    ///
    /// Returns at once. All known topics are looked up anew in the background, and whoever waits for a look-up that is
    /// under way gets what the new name servers answer. Connections to those that are gone are closed. Brokers are still
    /// sent to by the old routes until new ones come.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a list that cannot be read, which changes nothing; [`Error::ShutDown`].
    ///
    /// ```
    /// use rocketmq_producer::Producer;
    ///
    /// let producer = Producer::builder("orders").name_servers("127.0.0.1:9876").start()?;
    /// producer.set_name_servers("127.0.0.2:9876;127.0.0.3:9876")?;
    /// assert!(producer.set_name_servers("no port").is_err());
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "setNamesrvAddr")]
    pub fn set_name_servers(&self, addresses: impl AsRef<str>) -> Result<(), Error> {
        self.handle.shared.set_name_servers(addresses.as_ref())
    }

    /// The id under which brokers know this producer: `ip@instance name`.
    pub fn client_id(&self) -> &str {
        &self.handle.shared.client_id
    }

    /// The group of this producer.
    pub fn producer_group(&self) -> &str {
        &self.handle.shared.config.producer_group
    }

    /// Waits until every send that was begun before has its outcome, callbacks included, and every one-way message is
    /// written. Sends that are begun meanwhile are not waited for.
    ///
    /// Blocks for at most `within`. It may be called from a callback, which then does not wait for itself.
    ///
    /// # Errors
    /// [`Unflushed`] with what was left when the time was over. It goes on by itself.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::Duration;
    /// use rocketmq_producer::Message;
    ///
    /// producer.send_async(Message::new("TopicTest", "Hello")?, |outcome| assert!(outcome.is_ok()));
    /// producer.flush(Duration::from_secs(5))?;
    /// assert_eq!(cluster.message_count("TopicTest"), 1);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn flush(&self, within: Duration) -> Result<(), Unflushed> {
        shutdown::flush(&self.handle.shared, within)
    }

    /// Ends the producer: refuses new sends, waits for those under way, says goodbye to the brokers, closes the sockets
    /// and joins its threads.
    ///
    /// Blocks for at most `within` and a moment (0.2 s) for the last callbacks. Sends that are not finished by then end
    /// with an error that says what may have become of the message, and their callbacks run before this returns, unless
    /// a callback itself blocks longer. Calling it again returns the first report. It may be called from a callback, which
    /// then waits neither for itself nor for another thread that is shutting down already: that one waits for the callback,
    /// which gets a report of what is left at this moment.
    pub fn shutdown(&self, within: Duration) -> ShutdownReport {
        shutdown::shut_down(&self.handle.shared, within)
    }

    fn plain(&self) -> Aimed<'_> {
        Aimed::new(&self.handle.shared)
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("producer_group", &self.producer_group())
            .field("client_id", &self.client_id())
            .finish_non_exhaustive()
    }
}
