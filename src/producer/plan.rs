//! The one decision of what a send does next: for blocking and asynchronous sends alike. Pure: time is passed in, and
//! nothing is sent, waited for or logged here.
//!
//! 1. A driver asks `next` what to do, does it, and reports what happened. Only `blocking` and `background` do so.
//! 2. As long as there is a broker that has not been tried, an attempt gets a share of the time that is left, so that a
//!    silent broker leaves time for the others. Else it keeps all that is left.
//! 3. An attempt whose share is over stays open: its answer counts whenever it comes. A stored answer of any attempt ends
//!    the send as stored, whatever the others said.
//! 4. No attempt is begun without time to hear its answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{choose, result::SendResult};
use crate::{
    cluster::topic_route::{PublishQueue, TopicRoute},
    code::ResponseCode,
    error::{Attempt, Delivery, Error, FailedSend, Phase, Written, is_access_refusal},
    net::{deadline::Deadline, meter::RetryReason},
};

/// With less time than this left, a further attempt would more likely make a copy than a success.
const LEAST_TIME_FOR_A_RETRY: Duration = Duration::from_millis(10);

/// What a send may do, apart from its time.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Attempts in all.
    pub(super) attempts: u32,
    pub(super) retry_response_codes: Arc<[ResponseCode]>,
    pub(super) retry_another_broker_when_not_store_ok: bool,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Hand the message to this queue's broker, as the attempt of this number. Its share ends at `share`.
    Attempt {
        number: u32,
        to: Destination,
        share: Instant,
    },
    /// Wait for an answer until then, and say so if none comes.
    Wait { until: Instant },
    /// It is over: give up what is open and call [`SendPlan::finish`].
    Finish,
}

/// A queue and its broker.
pub(super) type Destination = PublishQueue;

struct Record {
    to: Destination,
    began: Instant,
    share: Instant,
    state: RecordState,
}

enum RecordState {
    /// Within its share.
    Awaited,
    /// Beyond its share, but still registered.
    Overdue,
    Failed {
        took: Duration,
        error: Error,
    },
    Stored,
}

pub(super) struct SendPlan {
    rules: Rules,
    topic: Arc<str>,
    deadline: Deadline,
    records: Vec<Record>,
    /// The best answer that says stored, and the attempt that it is the answer of. While another broker is tried it is one
    /// that is stored less safely than it should be.
    stored: Option<(usize, SendResult)>,
    /// Why no further attempt is made.
    stop: Option<&'static str>,
    done: bool,
    /// Why an attempt that begins now follows another: that one's address and what happened there.
    retry_of: Option<RetryOf>,
    /// The same for the attempt that has just been begun, for the statistics.
    retried: Option<RetryOf>,
}

/// The address of an attempt, and why it was followed by another.
pub(super) type RetryOf = (Arc<str>, RetryReason);

impl SendPlan {
    pub(super) fn new(rules: Rules, topic: Arc<str>, deadline: Deadline) -> Self {
        Self {
            rules,
            topic,
            deadline,
            records: Vec::new(),
            stored: None,
            stop: None,
            done: false,
            retry_of: None,
            retried: None,
        }
    }

    pub(super) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Says what to do at `now`. `aimed` is the one queue that the send is for, if it is.
    pub(super) fn next(&mut self, now: Instant, route: &TopicRoute, aimed: Option<&PublishQueue>) -> Step {
        if self.done {
            return Step::Finish;
        }
        if self.deadline.is_over(now) {
            self.stop.get_or_insert("the time is over");
            return self.finish_step();
        }
        let awaited = self
            .records
            .iter()
            .find(|record| matches!(record.state, RecordState::Awaited));
        if let Some(record) = awaited {
            return Step::Wait { until: record.share };
        }
        if let Some(to) = self.choose(now, route, aimed) {
            return self.begin(now, route, to, aimed.is_some());
        }
        if self.has_open() {
            return Step::Wait {
                until: self.deadline.at(),
            };
        }
        self.finish_step()
    }

    /// Why the attempt that has just been begun follows another, if it does. Says so once.
    pub(super) fn take_retried(&mut self) -> Option<RetryOf> {
        self.retried.take()
    }

    fn note_end(&mut self, number: u32, reason: RetryReason) {
        if let Some(to) = self.destination(number) {
            self.retry_of = Some((Arc::clone(&to.broker.address), reason));
        }
    }

    /// The attempt was answered: the message is stored.
    pub(super) fn stored(&mut self, number: u32, result: SendResult, is_ok: bool) {
        self.note_end(number, RetryReason::NotStoreOk);
        let index = position(number);
        if let Some(record) = self.records.get_mut(index) {
            record.state = RecordState::Stored;
        }
        self.done = is_ok || !self.rules.retry_another_broker_when_not_store_ok || self.done;
        if is_ok || self.stored.is_none() {
            self.stored = Some((index, result));
        }
    }

    /// The attempt failed.
    pub(super) fn failed(&mut self, number: u32, now: Instant, error: Error) {
        self.note_end(number, RetryReason::of(&error));
        if let Some(reason) = self.final_reason(&error) {
            self.stop.get_or_insert(reason);
        }
        let Some(record) = self.records.get_mut(position(number)) else {
            return;
        };
        if record.is_open() {
            let took = now.saturating_duration_since(record.began);
            record.state = RecordState::Failed { took, error };
        }
    }

    /// No answer came within the attempt's share.
    pub(super) fn overdue(&mut self, number: u32) {
        self.note_end(number, RetryReason::Timeout);
        if let Some(record) = self.records.get_mut(position(number)) {
            if matches!(record.state, RecordState::Awaited) {
                record.state = RecordState::Overdue;
            }
        }
    }

    /// The attempt that is within its share, if any.
    pub(super) fn awaited(&self) -> Option<u32> {
        let index = self
            .records
            .iter()
            .position(|record| matches!(record.state, RecordState::Awaited))?;
        u32::try_from(index).ok()
    }

    /// Whether the attempt has neither an answer nor failed.
    pub(super) fn is_open(&self, number: u32) -> bool {
        self.records.get(position(number)).is_some_and(Record::is_open)
    }

    /// Whether any attempt has neither an answer nor failed.
    pub(super) fn has_open(&self) -> bool {
        self.records.iter().any(Record::is_open)
    }

    /// Whether nothing will change any more what [`Self::next`] says.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// The queue and broker of an attempt.
    pub(super) fn destination(&self, number: u32) -> Option<&Destination> {
        self.records.get(position(number)).map(|record| &record.to)
    }

    /// The outcome. Whatever was open has been given up and reported as failed before; an attempt of which that is not
    /// known counts as one that may be stored.
    pub(super) fn finish(&mut self, now: Instant) -> Result<SendResult, Error> {
        self.done = true;
        let records = std::mem::take(&mut self.records);
        if let Some((index, stored)) = self.stored.take() {
            let mut others = records.iter().enumerate().filter(|(other, _)| *other != index);
            return Ok(SendResult {
                attempts: u32::try_from(records.len()).unwrap_or(u32::MAX),
                may_be_duplicated: others.any(|(_, record)| record.may_be_stored()),
                ..stored
            });
        }
        let elapsed = now.saturating_duration_since(self.deadline.began());
        if records.is_empty() {
            return Err(Error::Timeout {
                phase: Phase::Route,
                target: Arc::clone(&self.topic),
                waited: elapsed,
                written: Written::Nothing,
            });
        }
        let attempts = records.into_iter().map(|record| record.account(now)).collect();
        let reason = self.stop.unwrap_or("no attempt is left");
        Err(Error::Failed(Box::new(FailedSend::new(
            Arc::clone(&self.topic),
            elapsed,
            reason,
            attempts,
        ))))
    }

    fn choose(&self, now: Instant, route: &TopicRoute, aimed: Option<&PublishQueue>) -> Option<Destination> {
        let is_first = self.records.is_empty();
        let begun = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        if self.stop.is_some() || begun >= self.rules.attempts {
            return None;
        }
        if !is_first && self.deadline.remaining(now) < LEAST_TIME_FOR_A_RETRY {
            return None;
        }
        if let Some(queue) = aimed {
            return Some(queue.clone());
        }
        let last = self.records.last();
        let untried = route.brokers.iter().any(|broker| !self.has_tried(&broker.name));
        if self.stored.is_some() && !untried {
            // Another copy on the same broker would be no safer than the one that is there.
            return None;
        }
        let avoid = |broker_name: &str| {
            if untried {
                self.has_tried(broker_name)
            } else {
                last.is_some_and(|record| &*record.to.broker.name == broker_name)
            }
        };
        choose::in_turn(route, |broker| avoid(&broker.name)).cloned()
    }

    fn begin(&mut self, now: Instant, route: &TopicRoute, to: Destination, is_aimed: bool) -> Step {
        let begun = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        let attempts_left = self.rules.attempts.saturating_sub(begun).max(1);
        let is_other = |name: &Arc<str>| **name != *to.broker.name && !self.has_tried(name);
        let another = !is_aimed && route.brokers.iter().any(|broker| is_other(&broker.name));
        let remaining = self.deadline.remaining(now);
        let share = if another {
            now + remaining / attempts_left
        } else {
            self.deadline.at()
        };
        self.retried = self.retry_of.take();
        self.records.push(Record {
            to: to.clone(),
            began: now,
            share,
            state: RecordState::Awaited,
        });
        Step::Attempt {
            number: begun,
            to,
            share,
        }
    }

    fn has_tried(&self, broker_name: &str) -> bool {
        self.records
            .iter()
            .any(|record| &*record.to.broker.name == broker_name)
    }

    fn finish_step(&mut self) -> Step {
        self.done = true;
        Step::Finish
    }

    /// Why no further attempt can help after this error.
    fn final_reason(&self, error: &Error) -> Option<&'static str> {
        match error {
            Error::Refused { code, remark, .. } if is_access_refusal(*code, remark) => {
                Some("access refused, which is not retried")
            }
            Error::Refused { code, .. } if !self.rules.retry_response_codes.contains(code) => {
                Some("a refusal that is not retried")
            }
            Error::InvalidMessage { .. } => Some("the message cannot be sent"),
            Error::ShutDown => Some("the producer is shut down"),
            _ => None,
        }
    }
}

impl Record {
    fn is_open(&self) -> bool {
        matches!(self.state, RecordState::Awaited | RecordState::Overdue)
    }

    /// The line of this attempt in the account of a failed send.
    fn account(self, now: Instant) -> Attempt {
        let (took, error) = match self.state {
            RecordState::Failed { took, error } => (took, error),
            RecordState::Awaited | RecordState::Overdue | RecordState::Stored => {
                let waited = now.saturating_duration_since(self.began);
                let error = Error::Timeout {
                    phase: Phase::Reply,
                    target: Arc::clone(&self.to.broker.address),
                    waited,
                    written: Written::All,
                };
                (waited, error)
            }
        };
        let queue_id = self.to.queue.queue_id();
        Attempt::new(Arc::clone(&self.to.broker.name), queue_id, took, error)
    }

    /// Whether this attempt may have left a copy behind.
    fn may_be_stored(&self) -> bool {
        match &self.state {
            RecordState::Awaited | RecordState::Overdue | RecordState::Stored => true,
            RecordState::Failed { error, .. } => error.delivery() == Delivery::Unknown,
        }
    }
}

fn position(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
