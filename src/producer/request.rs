//! Request and reply: the blocking way, and what both ways have in common.
//!
//! A request is a send with properties that tell the consumer whom to reply to. One deadline covers the route, the way of the
//! reply (see `cluster::reply_path`), the send and the wait.

use std::{sync::Arc, time::Duration};

use super::{
    Producer,
    attempt::{AddedProperty, Prepared},
    blocking,
    options::Options,
    replies::{Arrival, Requester},
    reply::Reply,
    request_async,
    result::SendFailure,
    shared::Shared,
};
use crate::{
    cluster::{reply_path::OpenPath, topic_route::TopicRoute},
    config::BLOCKING_IN_FLIGHT,
    error::{Error, NoReply, NoReplyCause, Phase, Written},
    message::{Message, property},
    net::{deadline::Deadline, sync::channel},
};

/// Which part of a request's time its way back may take to open. With less left for send and reply, waiting longer would not
/// help.
const OPENING_PART: u32 = 3;

impl Producer {
    /// Sends a message and waits until a consumer has replied to it.
    ///
    /// Blocks for at most `timeout`, which covers everything: looking up the route, connecting, all attempts to send, and the
    /// wait for the reply. At least 1 ms; the consumer is told it in milliseconds (property `TTL`). A reply is handed over by
    /// a broker on the connection that it had a heartbeat on, so before its first request a producer greets the brokers of
    /// the topic and of the cluster's reply topic, and while a request waits, a connection that ends is made anew.
    ///
    /// The request is sent like any message, and repeated as such: a consumer may get it twice, under one message id. The
    /// first reply counts, later ones are dropped and counted in [`Stats::requests`](crate::Stats::requests).
    ///
    /// It needs 4.7.0 brokers or later and a consumer that replies, such as `DefaultMQPushConsumer` with
    /// `MessageUtil.createReplyMessage`. 4.7.0 brokers do not tell the consumer the cluster that it has to reply to, so it is
    /// told here (property `CLUSTER`).
    ///
    /// # Errors
    /// - Those of [`Producer::send`] when the request is certainly not stored.
    /// - [`Error::NoReply`] when it is or may be stored, and the time is over, the producer is shut down, or the reply cannot
    ///   be read. [`Error::delivery`] tells stored from unknown.
    /// - [`Error::InvalidMessage`] also for a timeout below 1 ms.
    /// - [`Error::Timeout`] with [`Phase::Permit`] when 1024 threads wait for replies of this producer already.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// use std::time::Duration;
    /// use rocketmq_producer::{Message, Producer, mock::MockCluster};
    ///
    /// let cluster = MockCluster::start(1)?;
    /// cluster.reply_with("prices", |request| Some(format!("{} is 42", request.keys[0]).into_bytes()));
    /// let producer = Producer::builder("shop").name_servers(cluster.name_servers()).start()?;
    /// let question = Message::builder("prices").keys(["shirt"]).body("how much?").build()?;
    /// let reply = producer.request(&question, Duration::from_secs(3))?;
    /// assert_eq!(reply.body(), b"shirt is 42");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request(&self, message: &Message, timeout: Duration) -> Result<Reply, Error> {
        self.plain().request(message, timeout)
    }

    /// Sends a message and calls `on_done` with the reply that a consumer sends, or with why there is none: exactly once, on a
    /// worker thread, as [`Producer::send_async`] does. On failure the message comes back.
    ///
    /// Returns as soon as the request is on its way, and blocks only for room, within `timeout`. A request holds room
    /// (`max_async_in_flight`, `max_async_bytes`) until its closure is called. [`Producer::flush`] and
    /// [`Producer::shutdown`] wait for replies as they wait for sends. The errors are those of [`Producer::request`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # cluster.reply_with("prices", |_| Some(b"42".to_vec()));
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::Duration;
    /// use rocketmq_producer::Message;
    ///
    /// let question = Message::new("prices", "how much is a shirt?")?;
    /// producer.request_async(question, Duration::from_secs(3), |outcome| match outcome {
    ///     Ok(reply) => println!("{:?}", reply.body()),
    ///     Err(failure) => println!("{} of {:?}", failure.error, failure.message),
    /// });
    /// # producer.flush(Duration::from_secs(5))?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request_async(
        &self,
        message: Message,
        timeout: Duration,
        on_done: impl FnOnce(Result<Reply, SendFailure>) + Send + 'static,
    ) {
        self.plain().request_async(message, timeout, on_done);
    }
}

impl super::Aimed<'_> {
    /// As [`Producer::request`](super::Producer::request). `timeout` counts, whatever was set by
    /// [`timeout`](Self::timeout).
    ///
    /// # Errors
    /// Those of [`Producer::request`](super::Producer::request), and [`Error::InvalidMessage`] when the target is not a queue
    /// of the topic, or for an [ordered](Self::ordered) request.
    pub fn request(&self, message: &Message, timeout: Duration) -> Result<Reply, Error> {
        let outcome = request(self.shared, message, timeout, &self.options);
        self.shared.replies.ended(&outcome);
        outcome
    }

    /// As [`Producer::request_async`](super::Producer::request_async). A selector closure is called on this thread, which
    /// waits for the route if it is not known yet. An [ordered](Self::ordered) request is refused.
    pub fn request_async(
        &self,
        message: Message,
        timeout: Duration,
        on_done: impl FnOnce(Result<Reply, SendFailure>) + Send + 'static,
    ) {
        request_async::request(self.shared, message, timeout, &self.options, Box::new(on_done));
    }
}

/// Checks what a request may be like, before anything is done.
pub(super) fn check(timeout: Duration, options: &Options) -> Result<(), Error> {
    let reason = if timeout < Duration::from_millis(1) {
        format!(
            "a request needs a timeout of at least 1 ms, not {timeout:?}: the consumer is told it in milliseconds"
        )
    } else if i64::try_from(timeout.as_millis()).is_err() {
        format!("a request cannot wait for {timeout:?}: consumers read its milliseconds as a 64-bit number")
    } else if options.ordered {
        "a request cannot be ordered: others would have to wait for its reply".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InvalidMessage { reason })
}

/// Until when the way of the reply is opened.
pub(super) fn opening_until(deadline: &Deadline, timeout: Duration) -> std::time::Instant {
    let share = Deadline::starting(deadline.began(), timeout / OPENING_PART);
    share.at().min(deadline.at())
}

/// A message as a request: with what tells the consumer whom to reply to.
pub(super) fn prepare(
    shared: &Shared,
    message: &Message,
    timeout: Duration,
    route: &TopicRoute,
    correlation_id: &str,
) -> Result<Prepared, Error> {
    let mut added: Vec<AddedProperty> = vec![
        (property::CORRELATION_ID, correlation_id.into()),
        (property::REPLY_TO_CLIENT, (&*shared.client_id).into()),
        (property::TTL, timeout.as_millis().to_string().into()),
    ];
    // 4.9.7 and later brokers set it themselves (`SendMessageProcessor`); those of 4.7.0 leave it to the producer. Should the
    // topic lie in several clusters, the way of the reply is open in all of them.
    let cluster = route
        .brokers
        .iter()
        .map(|broker| &*broker.cluster)
        .find(|cluster| !cluster.is_empty());
    added.extend(cluster.map(|cluster| (property::CLUSTER, cluster.into())));
    Prepared::request(shared, message, added)
}

/// The error of a request that was sent and got no reply.
pub(super) fn no_reply(
    message: &Message,
    correlation_id: &Arc<str>,
    times: (Duration, Duration),
    cause: NoReplyCause,
    send_error: Option<Error>,
) -> Error {
    let topic = Arc::clone(message.shared_topic());
    let no_reply = NoReply::new(topic, Arc::clone(correlation_id), times, cause, send_error);
    Error::NoReply(Box::new(no_reply))
}

/// A blocked caller; the channel has room for the one arrival.
struct Caller(channel::Sender<Arrival>);

impl Requester for Caller {
    fn arrived(self: Arc<Self>, arrival: Arrival) {
        // The receiver has gone when its time was over.
        self.0.try_send(arrival).ok();
    }
}

fn request(
    shared: &Arc<Shared>,
    message: &Message,
    timeout: Duration,
    options: &Options,
) -> Result<Reply, Error> {
    check(timeout, options)?;
    let deadline = Deadline::after(timeout);
    let _inside = shared.gate.enter()?;
    let room = shared.requesters.acquire(0, deadline.at());
    let _room = room.ok_or_else(|| no_room(message, &deadline))?;
    let route = shared.routes.wait(message.shared_topic(), &deadline)?;
    let path = open_path(shared, &route, &deadline, timeout)?;
    let (sender, arrivals) = channel::bounded(1);
    let waiting = shared.replies.wait(Arc::new(Caller(sender)))?;
    let prepared = prepare(shared, message, timeout, &route, &waiting.correlation_id)?;
    let sent = blocking::send_prepared(shared, std::slice::from_ref(message), prepared, options, deadline);
    shared.tally.ended(sent.as_ref().err());
    let arrived = match &sent {
        // A reply is waited for even if the send has no verdict: it would be the best of all.
        Err(error) if error.delivery().is_not_stored() => arrivals.try_recv().ok(),
        _ => arrivals.recv_deadline(deadline.at()).ok(),
    };
    let reply = |message| Reply {
        message,
        sent: sent.as_ref().ok().cloned(),
        took: deadline.waited(),
    };
    let cause = match arrived {
        Some(Arrival::Reply(message)) => return Ok(reply(message)),
        Some(Arrival::Unreadable(reason)) => NoReplyCause::Unreadable(reason),
        Some(Arrival::ShutDown) => NoReplyCause::ShutDown,
        None => NoReplyCause::TimeOver,
    };
    let send_error = match sent {
        Err(error) if error.delivery().is_not_stored() => return Err(error),
        sent => sent.err(),
    };
    if cause == NoReplyCause::TimeOver {
        shared.reply_path.doubt(&path);
    }
    let times = (deadline.waited(), timeout);
    Err(no_reply(
        message,
        &waiting.correlation_id,
        times,
        cause,
        send_error,
    ))
}

/// Blocks until the way of the reply is open, or as open as it gets.
fn open_path(
    shared: &Arc<Shared>,
    route: &TopicRoute,
    deadline: &Deadline,
    timeout: Duration,
) -> Result<OpenPath, Error> {
    let (sender, opened) = channel::bounded(1);
    let then = move |path| drop(sender.try_send(path));
    shared
        .reply_path
        .open(route, opening_until(deadline, timeout), Box::new(then));
    opened
        .recv_deadline(deadline.at())
        .map_err(|_| not_opened(&route.topic, deadline))
}

/// The time was over before the brokers were greeted.
pub(super) fn not_opened(topic: &str, deadline: &Deadline) -> Error {
    Error::Timeout {
        phase: Phase::Connect,
        target: format!("the brokers of topic {topic}").into(),
        waited: deadline.waited(),
        written: Written::Nothing,
    }
}

fn no_room(message: &Message, deadline: &Deadline) -> Error {
    Error::Timeout {
        phase: Phase::Permit,
        target: format!(
            "topic {}, {BLOCKING_IN_FLIGHT} blocked requests wait for their replies",
            message.topic()
        )
        .into(),
        waited: deadline.waited(),
        written: Written::Nothing,
    }
}
