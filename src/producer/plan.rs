//! The one decision of what a send does next: for blocking and asynchronous sends alike. Pure but for the jitter of pauses:
//! time is passed in, and nothing is sent, waited for or logged here.
//!
//! 1. A driver asks `next` what to do, does it, and reports what happened. Only `blocking` and `background` do so.
//! 2. As long as there is a broker that has not been tried, an attempt gets a share of the time that is left, so that a
//!    silent broker leaves time for the others. Else it keeps all that is left.
//! 3. An attempt whose share is over stays open: its answer counts whenever it comes. A stored answer of any attempt ends
//!    the send as stored, whatever the others said.
//! 4. No attempt is begun without time to hear its answer.
//! 5. While a busy broker is the only one left there is a pause before the next attempt, longer each time. With a
//!    delivery timeout there is one after every round in which all brokers failed, and no end but the time.
//! 6. An attempt that may have stored the message is followed by another only if the sender accepts a second copy.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    attempt::Stored,
    choose,
    record::{Record, RecordState, Records},
    result::SendStatus,
};
use crate::{
    cluster::topic_route::{PublishQueue, RouteBroker, TopicRoute},
    code::ResponseCode,
    config::Redelivery,
    error::{Error, FailedSend, Phase, Written, is_access_refusal, is_busy_refusal, is_size_refusal},
    net::{deadline::Deadline, meter::RetryReason},
};

/// What the last round of a send with a delivery timeout has.
const LAST_CHANCE: Duration = Duration::from_millis(50);

/// With less time than this left, a further attempt would more likely make a copy than a success.
const LEAST_TIME_FOR_A_RETRY: Duration = Duration::from_millis(10);

/// What a send may do, apart from its time.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Attempts in all.
    pub(super) attempts: u32,
    pub(super) retry_response_codes: Arc<[ResponseCode]>,
    pub(super) retry_another_broker_when_not_store_ok: bool,
    pub(super) redelivery: Redelivery,
    /// The first pause, and the longest.
    pub(super) back_off: (Duration, Duration),
    /// With a delivery timeout: the time of one round of attempts, which begins anew until the deadline.
    pub(super) round: Option<Duration>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Hand the message to this queue's broker, as the attempt of this number. Its share ends at `share`.
    Attempt {
        number: u32,
        to: Destination,
        share: Instant,
        /// When it is given up altogether.
        until: Instant,
    },
    /// Begin nothing until then; answers of open attempts still count.
    Pause { until: Instant },
    /// Wait for an answer until then, and say so if none comes.
    Wait { until: Instant },
    /// It is over: give up what is open and call [`SendPlan::finish`].
    Finish,
}

/// A queue and its broker.
pub(super) type Destination = Arc<PublishQueue>;

/// The end of a send that is stored.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) to: Destination,
    pub(super) stored: Stored,
    /// How many attempts were begun.
    pub(super) attempts: u32,
    pub(super) may_be_duplicated: bool,
}

pub(super) struct SendPlan {
    rules: Arc<Rules>,
    topic: Arc<str>,
    deadline: Deadline,
    records: Records,
    begun: u32,
    /// Attempts that do not count against the rules: the address was not dialled, or the broker went away for the first time.
    free: u32,
    went_away: bool,
    /// Among the attempts whose account was not kept is one that may have stored the message.
    forgotten_unknown: bool,
    pauses: u32,
    /// No attempt before this moment.
    not_before: Option<Instant>,
    /// The best answer that says stored, and the attempt that it is the answer of. While another broker is tried it is one
    /// that is stored less safely than it should be.
    stored: Option<(u32, Stored)>,
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
    pub(super) fn new(rules: impl Into<Arc<Rules>>, topic: Arc<str>, deadline: Deadline) -> Self {
        Self {
            rules: rules.into(),
            topic,
            deadline,
            records: Records::default(),
            begun: 0,
            free: 0,
            went_away: false,
            forgotten_unknown: false,
            pauses: 0,
            not_before: None,
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
    pub(super) fn next(&mut self, now: Instant, route: &TopicRoute, aimed: Option<&Destination>) -> Step {
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
        self.begin_round(now, route, aimed.is_some());
        if let Some(to) = self.choose(now, route, aimed) {
            let busy_until = self.not_before.filter(|_| self.must_pause(&to));
            let not_before = busy_until.max(self.closed_until(&to.broker.name));
            return match not_before.filter(|not_before| *not_before > now) {
                Some(until) if self.leaves_time(until) => Step::Pause { until },
                Some(_) => self.wait_or_finish("no time is left for another attempt"),
                None => self.begin(now, route, to, aimed.is_some()),
            };
        }
        self.wait_or_finish("no attempt is left")
    }

    /// Waits for what is open, or finishes.
    fn wait_or_finish(&mut self, reason: &'static str) -> Step {
        let open = self.records.iter().filter(|record| record.is_open());
        if let Some(until) = open.map(|record| record.until).max() {
            return Step::Wait { until };
        }
        self.stop.get_or_insert(reason);
        self.done = true;
        Step::Finish
    }

    /// When the address of a broker is dialled again at the earliest, as far as this send has been told.
    fn closed_until(&self, broker_name: &str) -> Option<Instant> {
        let of_broker = |record: &&Record| &*record.to.broker.name == broker_name;
        self.records
            .iter()
            .rev()
            .find(of_broker)
            .and_then(|record| record.closed_until)
    }

    /// A broker that has not been tried yet need not wait for one that is busy. A new round begins with a pause.
    fn must_pause(&self, to: &Destination) -> bool {
        self.records.iter().all(|record| record.is_past) || self.has_tried(&to.broker.name)
    }

    /// Pauses a send that could not even be begun, because there is no route. `None` if it must fail with that error.
    pub(super) fn pause_without_route(&mut self, error: &Error, now: Instant) -> Option<Instant> {
        if !error.is_passing() {
            return None;
        }
        self.rules.round?;
        let until = self.pause_of_round(now);
        self.leaves_time(until).then_some(until)
    }

    /// With a delivery timeout: when all brokers have failed, they may be tried again after a pause.
    fn begin_round(&mut self, now: Instant, route: &TopicRoute, is_aimed: bool) {
        if self.rules.round.is_none()
            || self.begun == 0
            || self.stored.is_some()
            || self.not_before.is_some_and(|at| at > now)
        {
            return;
        }
        let is_over = is_aimed || route.brokers.iter().all(|broker| self.has_tried(&broker.name));
        if !is_over {
            return;
        }
        if self.records.iter().all(|record| record.is_past) {
            return;
        }
        for record in self.records.iter_mut() {
            record.is_past = true;
        }
        self.not_before = Some(self.pause_of_round(now));
    }

    /// When the next pause, if it begins now, is over.
    fn after_pause(&mut self, now: Instant) -> Instant {
        // `Deadline` knows what to do with an endless pause.
        Deadline::starting(now, self.next_pause()).at()
    }

    /// Until when to pause between two rounds. The last pause is cut short, so that the message has one more chance before the
    /// time is over.
    fn pause_of_round(&mut self, now: Instant) -> Instant {
        let until = self.after_pause(now);
        let last_chance = self.deadline.at().checked_sub(LAST_CHANCE).unwrap_or(now);
        if last_chance > now {
            until.min(last_chance)
        } else {
            until
        }
    }

    /// Longer each time, and different for different sends, so that they do not all come back at once.
    fn next_pause(&mut self) -> Duration {
        let (first, longest) = self.rules.back_off;
        let whole = first
            .saturating_mul(1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX))
            .min(longest);
        self.pauses += 1;
        // The hasher's keys are random and differ from call to call.
        let percent = u32::try_from(RandomState::new().hash_one(self.pauses) % 51).unwrap_or_default();
        whole / 100 * (50 + percent)
    }

    fn leaves_time(&self, at: Instant) -> bool {
        self.deadline.remaining(at) >= LEAST_TIME_FOR_A_RETRY
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
    pub(super) fn stored(&mut self, number: u32, stored: Stored) {
        let is_ok = stored.0 == SendStatus::SendOk;
        self.note_end(number, RetryReason::NotStoreOk);
        if let Some(record) = self.record(number) {
            record.state = RecordState::Stored;
        }
        self.done = is_ok || !self.rules.retry_another_broker_when_not_store_ok || self.done;
        if is_ok || self.stored.is_none() {
            self.stored = Some((number, stored));
        }
    }

    /// The attempt could not even be tried: its address is dialled again at that time at the earliest.
    pub(super) fn closed(&mut self, number: u32, until: Instant) {
        if let Some(record) = self.record(number) {
            record.closed_until = Some(until);
        }
    }

    /// The attempt failed. Nothing happens if it was over already.
    pub(super) fn failed(&mut self, number: u32, now: Instant, error: Error) {
        if !self.is_open(number) {
            return;
        }
        self.note_end(number, RetryReason::of(&error));
        if let Some(reason) = self.final_reason(&error) {
            self.stop.get_or_insert(reason);
        }
        if is_busy(&error) {
            self.not_before = Some(self.after_pause(now));
        }
        let goes_away = matches!(
            error,
            Error::Refused {
                code: ResponseCode::GO_AWAY,
                ..
            }
        );
        let is_first_farewell = goes_away && !std::mem::replace(&mut self.went_away, goes_away);
        if let Some(record) = self.record(number) {
            let took = now.saturating_duration_since(record.began);
            // It may have got a connection that somebody else had dialled meanwhile.
            let was_not_dialled = record.closed_until.is_some() && matches!(error, Error::Connect { .. });
            record.state = RecordState::Failed { took, error };
            // Once, the same broker is asked again on a new connection (5.x `NettyRemotingClient`).
            record.is_past |= is_first_farewell;
            self.free += u32::from(was_not_dialled || is_first_farewell);
        }
    }

    /// No answer came within the attempt's share.
    pub(super) fn overdue(&mut self, number: u32) {
        self.note_end(number, RetryReason::Timeout);
        if let Some(record) = self.record(number) {
            if matches!(record.state, RecordState::Awaited) {
                record.state = RecordState::Overdue;
            }
        }
    }

    /// The attempt that is within its share, if any.
    pub(super) fn awaited(&self) -> Option<u32> {
        let mut records = self.records.iter();
        records
            .find(|record| matches!(record.state, RecordState::Awaited))
            .map(|record| record.number)
    }

    /// When the attempt was begun.
    pub(super) fn began(&self, number: u32) -> Option<Instant> {
        self.records.of(number).map(|record| record.began)
    }

    /// Whether the attempt has neither an answer nor failed.
    pub(super) fn is_open(&self, number: u32) -> bool {
        self.records.of(number).is_some_and(Record::is_open)
    }

    /// Whether any attempt has neither an answer nor failed.
    pub(super) fn has_open(&self) -> bool {
        self.records.iter().any(Record::is_open)
    }

    /// Whether nothing will change any more what [`Self::next`] says.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether an attempt was answered: stored.
    pub(super) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// The broker that an attempt failed at; none if it was given up unsent, since the send is decided.
    pub(super) fn blamed(&self, number: u32, error: &Error) -> Option<&Arc<RouteBroker>> {
        match error {
            Error::Timeout {
                written: Written::Nothing,
                ..
            } if self.done => None,
            _ => self.destination(number).map(|to| &to.broker),
        }
    }

    /// Begins no further attempt.
    pub(super) fn stop(&mut self, reason: &'static str) {
        self.stop.get_or_insert(reason);
    }

    /// How many attempts have been begun.
    pub(super) fn begun(&self) -> u32 {
        self.begun
    }

    /// The queue and broker of an attempt.
    pub(super) fn destination(&self, number: u32) -> Option<&Destination> {
        self.records.of(number).map(|record| &record.to)
    }

    /// The outcome, if it is stored.
    pub(super) fn finish_stored(&mut self) -> Option<Finished> {
        let (number, stored) = self.stored.take()?;
        self.done = true;
        let to = Arc::clone(&self.records.of(number)?.to);
        let mut others = self.records.iter().filter(|record| record.number != number);
        Some(Finished {
            to,
            stored,
            attempts: self.begun,
            may_be_duplicated: self.forgotten_unknown || others.any(Record::may_be_stored),
        })
    }

    /// The outcome. Whatever was open has been given up and reported as failed before; an attempt of which that is not
    /// known counts as one that may be stored.
    pub(super) fn finish(&mut self, now: Instant) -> Result<Finished, Error> {
        if let Some(finished) = self.finish_stored() {
            return Ok(finished);
        }
        self.done = true;
        let records = std::mem::take(&mut self.records);
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
        let failed = FailedSend::new(Arc::clone(&self.topic), elapsed, reason, attempts);
        Err(Error::Failed(Box::new(
            failed.with_forgotten(self.begun, self.forgotten_unknown),
        )))
    }

    fn choose(&self, now: Instant, route: &TopicRoute, aimed: Option<&Destination>) -> Option<Destination> {
        let has_more = self.rules.round.is_some() || self.begun - self.free < self.rules.attempts;
        if self.stop.is_some() || !has_more || !self.may_send_again() {
            return None;
        }
        if self.begun > 0 && (!self.leaves_time(now) || self.is_unsupported(route, aimed)) {
            return None;
        }
        if let Some(queue) = aimed {
            return Some(Arc::clone(queue));
        }
        if self.records.is_empty() {
            return choose::in_turn(route, now, |_| false).cloned();
        }
        let last = self.records.last();
        let untried = route.brokers.iter().any(|broker| !self.has_tried(&broker.name));
        if self.stored.is_some() && !untried {
            // Another copy on the same broker would be no safer than the one that is there.
            return None;
        }
        let closed = |broker_name: &str| self.closed_until(broker_name).filter(|until| *until > now);
        // Those that may be dialled now come first, then whichever may be dialled next.
        let opens_first = route
            .brokers
            .iter()
            .map(|broker| closed(&broker.name))
            .min()
            .flatten();
        let any_closed = route.brokers.iter().any(|broker| closed(&broker.name).is_some());
        let avoid = |broker_name: &str| {
            if untried {
                self.has_tried(broker_name)
            } else if any_closed {
                closed(broker_name) > opens_first
            } else {
                last.is_some_and(|record| &*record.to.broker.name == broker_name)
            }
        };
        choose::in_turn(route, now, |broker| avoid(&broker.name)).cloned()
    }

    /// Whether all brokers that could be asked are of a release that would ignore what the message asks for.
    fn is_unsupported(&self, route: &TopicRoute, aimed: Option<&Destination>) -> bool {
        let is_old = |broker: &Arc<RouteBroker>| {
            let mut there = self
                .records
                .iter()
                .filter(|record| record.to.broker.name == broker.name);
            there.any(|record| {
                matches!(
                    &record.state,
                    RecordState::Failed {
                        error: Error::NotSupported { .. },
                        ..
                    }
                )
            })
        };
        aimed.map_or_else(|| route.brokers.iter().all(is_old), |queue| is_old(&queue.broker))
    }

    fn begin(&mut self, now: Instant, route: &TopicRoute, to: Destination, is_aimed: bool) -> Step {
        let begun_before = self.records.iter().filter(|record| !record.is_past).count();
        let begun_before = u32::try_from(begun_before).unwrap_or(u32::MAX);
        let attempts_left = self.rules.attempts.saturating_sub(begun_before).max(1);
        let is_other = |name: &Arc<str>| **name != *to.broker.name && !self.has_tried(name);
        let another = !is_aimed && route.brokers.iter().any(|broker| is_other(&broker.name));
        // With a delivery timeout an attempt lives as long as one send would without.
        let until = self
            .rules
            .round
            .map_or(self.deadline.at(), |round| (now + round).min(self.deadline.at()));
        let share = if another {
            now + until.saturating_duration_since(now) / attempts_left
        } else {
            until
        };
        self.retried = self.retry_of.take();
        let number = self.begun;
        self.begun = self.begun.saturating_add(1);
        self.not_before = self.not_before.filter(|not_before| *not_before > now);
        let forgotten = self.records.push(Record {
            number,
            to: Arc::clone(&to),
            began: now,
            share,
            until,
            is_past: false,
            closed_until: None,
            state: RecordState::Awaited,
        });
        self.forgotten_unknown |= forgotten.is_some_and(|forgotten| forgotten.may_be_stored());
        Step::Attempt {
            number,
            to,
            share,
            until,
        }
    }

    /// Whether what has happened so far allows another attempt.
    fn may_send_again(&self) -> bool {
        match self.rules.redelivery {
            Redelivery::AtLeastOnce => true,
            Redelivery::NoDuplicates => !self.records.iter().any(Record::may_be_stored),
            Redelivery::AtMostOnce => self.records.iter().all(Record::never_left),
        }
    }

    fn record(&mut self, number: u32) -> Option<&mut Record> {
        self.records.of_mut(number)
    }

    fn has_tried(&self, broker_name: &str) -> bool {
        let mut current = self.records.iter().filter(|record| !record.is_past);
        current.any(|record| &*record.to.broker.name == broker_name)
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
            Error::Refused { code, remark, .. }
                if !self.rules.retry_response_codes.contains(code) || is_size_refusal(*code, remark) =>
            {
                Some("a refusal that is not retried")
            }
            Error::InvalidMessage { .. } => Some("the message cannot be sent"),
            Error::ShutDown => Some("the producer is shut down"),
            _ => None,
        }
    }
}

fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Refused { code, remark, .. } if is_busy_refusal(*code, remark))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
