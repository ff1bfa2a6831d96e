//! A send with a target or a time of its own: the same verbs, aimed.

use std::{sync::Arc, time::Duration};

use super::{
    background, blocking, oneway,
    result::{SendFailure, SendResult},
    shared::Shared,
    target::Target,
};
use crate::{error::Error, message::Message};

/// Where and for how long the next sends go; made by [`Producer::to`](super::Producer::to) and
/// [`Producer::timeout`](super::Producer::timeout). It can be used for several sends.
#[derive(Clone, Debug)]
#[must_use = "choose a verb: send, send_async or send_oneway"]
pub struct Aimed<'p> {
    shared: &'p Arc<Shared>,
    target: Option<Target>,
    timeout: Duration,
}

impl<'p> Aimed<'p> {
    pub(super) fn new(shared: &'p Arc<Shared>) -> Self {
        Self {
            shared,
            target: None,
            timeout: shared.config.send_timeout,
        }
    }

    /// Aims at a queue, by a key, or by a closure. See [`Target`].
    pub fn to(mut self, target: impl Into<Target>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Sets how long a send may take in all.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// As [`Producer::send`](super::Producer::send). A send to a target makes one attempt.
    ///
    /// # Errors
    /// Those of [`Producer::send`](super::Producer::send), and [`Error::InvalidMessage`] when the target is not a queue of
    /// the topic.
    pub fn send(&self, message: &Message) -> Result<SendResult, Error> {
        let outcome = blocking::send(self.shared, message, self.aim(), self.timeout);
        self.shared.tally.ended(outcome.as_ref().err());
        outcome
    }

    /// As [`Producer::send_async`](super::Producer::send_async). A send to a target makes one attempt; a selector closure
    /// is called on this thread, which waits for the route if it is not known yet.
    pub fn send_async(
        &self,
        message: Message,
        on_done: impl FnOnce(Result<SendResult, SendFailure>) + Send + 'static,
    ) {
        background::send(self.shared, message, self.aim(), self.timeout, Box::new(on_done));
    }

    /// As [`Producer::send_oneway`](super::Producer::send_oneway).
    ///
    /// # Errors
    /// Those of [`Producer::send_oneway`](super::Producer::send_oneway), and [`Error::InvalidMessage`] when the target is
    /// not a queue of the topic.
    pub fn send_oneway(&self, message: &Message) -> Result<(), Error> {
        oneway::send(self.shared, message, self.aim(), self.timeout)
    }

    fn aim(&self) -> Option<&super::target::Aim> {
        self.target.as_ref().map(|target| &target.0)
    }
}
