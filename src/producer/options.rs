//! What one send wishes, and what that makes of the producer's settings.

use std::{sync::Arc, time::Duration};

use super::{
    plan::Rules,
    target::{Aim, Target},
};
use crate::{
    config::{ProducerConfig, Redelivery},
    error::Error,
    net::deadline::Deadline,
};

/// The wishes of one send. Without any it is the producer's settings that count.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) target: Option<Target>,
    pub(super) timeout: Option<Duration>,
    pub(super) redelivery: Option<Redelivery>,
    pub(super) ordered: bool,
}

impl Options {
    pub(super) fn aim(&self) -> Option<&Aim> {
        self.target.as_ref().map(|target| &target.0)
    }

    /// Checks what belongs together.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.ordered && self.target.is_none() {
            let reason = "an ordered send needs a target: a queue, a key or a selector".to_owned();
            return Err(Error::InvalidMessage { reason });
        }
        Ok(())
    }

    /// Whether a second attempt can do no harm: to a target it could overtake a later message, unless that waits behind it.
    fn may_repeat(&self) -> bool {
        self.target.is_none() || self.ordered
    }

    /// When a send that begins now must be over.
    pub(super) fn deadline(&self, config: &ProducerConfig) -> Deadline {
        let usual = config
            .delivery_timeout
            .filter(|_| self.may_repeat())
            .unwrap_or(config.send_timeout);
        Deadline::after(self.timeout.unwrap_or(usual))
    }

    /// When a one-way send that begins now must be over: it is never repeated.
    pub(super) fn oneway_deadline(&self, config: &ProducerConfig) -> Deadline {
        Deadline::after(self.timeout.unwrap_or(config.send_timeout))
    }

    /// What the send may do; nearly always what all may do that are sent in the same way.
    pub(super) fn rules(&self, config: &ProducerConfig, usual: &Arc<Rules>) -> Arc<Rules> {
        if self.redelivery.is_none() && self.may_repeat() {
            return Arc::clone(usual);
        }
        let mut rules = Rules::clone(usual);
        rules.redelivery = self.redelivery.unwrap_or(config.redelivery);
        if !self.may_repeat() {
            rules.attempts = 1;
            rules.round = None;
        }
        Arc::new(rules)
    }
}

/// The rules of sends without wishes of their own. `retries` is the number for a send that may go to any queue, or that is
/// alone in its queue.
pub(super) fn usual_rules(config: &ProducerConfig, retries: u32) -> Arc<Rules> {
    Arc::new(Rules {
        attempts: retries.saturating_add(1),
        retry_response_codes: Arc::clone(&config.retry_response_codes),
        retry_another_broker_when_not_store_ok: config.retry_another_broker_when_not_store_ok,
        redelivery: config.redelivery,
        back_off: config.back_off,
        round: config.delivery_timeout.map(|_| config.send_timeout),
    })
}
