//! A send with wishes of its own: a target, a time, how it may be repeated. The same verbs.

use std::{sync::Arc, time::Duration};

use super::{
    admission,
    batch::{self, BatchFailure, BatchResult, Outcomes},
    blocking, oneway,
    options::Options,
    result::{Full, SendFailure, SendResult},
    shared::Shared,
    target::Target,
};
use crate::{
    config::Redelivery,
    error::Error,
    message::{Batch, Message},
};

/// Where, for how long and how the next sends go; made by [`Producer::to`](super::Producer::to) and
/// [`Producer::timeout`](super::Producer::timeout). It can be used for several sends.
#[derive(Clone, Debug)]
#[must_use = "choose a verb: send, send_async, send_oneway or request"]
pub struct Aimed<'p> {
    pub(super) shared: &'p Arc<Shared>,
    pub(super) options: Options,
}

impl<'p> Aimed<'p> {
    pub(super) fn new(shared: &'p Arc<Shared>) -> Self {
        Self {
            shared,
            options: Options::default(),
        }
    }

    /// Aims at a queue, by a key, or by a closure. See [`Target`].
    pub fn to(mut self, target: impl Into<Target>) -> Self {
        self.options.target = Some(target.into());
        self
    }

    /// Sets how long a send may take in all, in place of the send timeout or the delivery timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets whether a message that may be stored already is sent again, in place of the producer's setting.
    pub fn redelivery(mut self, redelivery: Redelivery) -> Self {
        self.options.redelivery = Some(redelivery);
        self
    }

    /// Keeps the messages to one queue in order, whatever happens. Needs a target; default `false`.
    ///
    /// One message is on its way to a queue at a time, and later ones of this producer wait behind it, within their own
    /// time. Being alone, it may be sent again to the same queue as often as `retries` or `async_retries` allow. If it ends
    /// without a verdict, it may be stored or not, so the order ends: those that wait behind it fail with
    /// [`Error::OrderEnded`], unsent. A message that is certainly not stored does not hold up the next. [The
    /// guide](crate::guide::order) has all that keeps an order and ends it.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::{Message, Target};
    ///
    /// let order = producer.to(Target::key("order-1")).ordered(true);
    /// for step in ["created", "paid", "shipped"] {
    ///     order.send_async(Message::new("orders", step)?, |outcome| assert!(outcome.is_ok()));
    /// }
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.options.ordered = ordered;
        self
    }

    /// As [`Producer::send`](super::Producer::send). A send to a target makes one attempt, unless it is
    /// [ordered](Self::ordered).
    ///
    /// # Errors
    /// Those of [`Producer::send`](super::Producer::send), [`Error::InvalidMessage`] when the target is not a queue of the
    /// topic, and [`Error::OrderEnded`] for an ordered send.
    pub fn send(&self, message: &Message) -> Result<SendResult, Error> {
        let outcome = blocking::send(self.shared, message, &self.options);
        self.shared.tally.ended(outcome.as_ref().err());
        outcome
    }

    /// As [`Producer::send_async`](super::Producer::send_async). A send to a target makes one attempt, unless it is
    /// [ordered](Self::ordered); a selector closure is called on this thread, which waits for the route if it is not known
    /// yet.
    pub fn send_async(
        &self,
        message: Message,
        on_done: impl FnOnce(Result<SendResult, SendFailure>) + Send + 'static,
    ) {
        admission::send(self.shared, message, &self.options, Box::new(on_done));
    }

    /// As [`Producer::try_send_async`](super::Producer::try_send_async).
    ///
    /// # Errors
    /// [`Full`] with message and closure when there is no room.
    pub fn try_send_async<F>(&self, message: Message, on_done: F) -> Result<(), Full<F>>
    where
        F: FnOnce(Result<SendResult, SendFailure>) + Send + 'static,
    {
        admission::try_send(self.shared, message, &self.options, on_done)
    }

    /// As [`Producer::send_oneway`](super::Producer::send_oneway). It cannot be ordered.
    ///
    /// # Errors
    /// Those of [`Producer::send_oneway`](super::Producer::send_oneway), and [`Error::InvalidMessage`] when the target is
    /// not a queue of the topic.
    pub fn send_oneway(&self, message: &Message) -> Result<(), Error> {
        oneway::send(self.shared, message, &self.options)
    }

    /// As [`Producer::send_batch`](super::Producer::send_batch). A selector closure is given the first message.
    ///
    /// # Errors
    /// Those of [`Producer::send_batch`](super::Producer::send_batch), [`Error::InvalidMessage`] when the target is not a
    /// queue of the topic, and [`Error::OrderEnded`] for an ordered send.
    pub fn send_batch(&self, batch: &Batch) -> Result<BatchResult, Error> {
        batch::send(self.shared, batch, &self.options)
    }

    /// As [`Producer::send_batch_async`](super::Producer::send_batch_async). A selector closure is given the first message
    /// and called on this thread, which waits for the route if it is not known yet.
    pub fn send_batch_async(
        &self,
        batch: Batch,
        on_done: impl FnOnce(Result<BatchResult, BatchFailure>) + Send + 'static,
    ) {
        batch::send_async(self.shared, batch, &self.options, on_done);
    }

    /// As [`Producer::send_batch_oneway`](super::Producer::send_batch_oneway). It cannot be ordered.
    ///
    /// # Errors
    /// Those of [`Producer::send_batch_oneway`](super::Producer::send_batch_oneway), and [`Error::InvalidMessage`] when the
    /// target is not a queue of the topic.
    pub fn send_batch_oneway(&self, batch: &Batch) -> Result<(), Error> {
        batch::send_oneway(self.shared, batch, &self.options)
    }

    /// As [`Producer::send_all`](super::Producer::send_all). A selector closure is given the first message of each batch.
    ///
    /// # Errors
    /// Those of [`Producer::send_all`](super::Producer::send_all).
    pub fn send_all(&self, messages: impl Into<Vec<Message>>) -> Result<Outcomes, Error> {
        batch::send_all(self.shared, messages.into(), &self.options)
    }
}
