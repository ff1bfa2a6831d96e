//! The end of a producer: nothing that was begun is dropped in silence, and nothing is left behind.
//!
//! In this order: no new sends; wait for those under way and for one-way frames to be written; say goodbye to the
//! brokers; close the sockets, which fails what is left; stop the timer, which fails what is parked; let the workers run
//! the last closures; join all threads.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{auto_batch, result::SendFailure, shared::Shared, transaction::Transactions};
use crate::{
    error::{Delivery, Error},
    message::Message,
    net::deadline::Deadline,
};

/// Kept back for the goodbye when everything else has used up the time, and again for the last closures.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What was left when a producer was shut down.
///
/// ```
/// use std::time::Duration;
/// use rocketmq_producer::Producer;
///
/// let producer = Producer::builder("group").name_servers("127.0.0.1:9876").start()?;
/// let report = producer.shutdown(Duration::from_secs(5));
/// assert!(report.is_clean(), "{report}");
/// # Ok::<(), rocketmq_producer::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it says whether anything was lost"]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Messages that were stored after the shutdown had begun.
    pub delivered: usize,
    /// Messages that are certainly not stored, of sends that ended after the shutdown had begun.
    pub not_stored: usize,
    /// Messages that may be stored or not, of sends that ended after the shutdown had begun.
    pub unknown: usize,
    /// The messages behind the last two numbers, each with its error. Asynchronous sends have told their closures too, and
    /// blocking ones their callers.
    pub failures: Vec<SendFailure>,
    /// Sends that were still under way when the time was over. Each has been ended with an error that says what may have
    /// become of its message.
    pub ended_early: usize,
    /// One-way messages that were accepted but never written to a socket, since the producer was started.
    pub oneway_unwritten: u64,
    /// Closures that panicked, since the producer was started.
    pub callback_panics: u64,
    /// How long the shutdown took.
    pub took: Duration,
}

impl ShutdownReport {
    /// Whether every message that was under way was stored, and every one-way message was written.
    pub fn is_clean(&self) -> bool {
        self.ended_early == 0 && self.failures.is_empty() && self.oneway_unwritten == 0
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            delivered,
            not_stored,
            unknown,
            ended_early,
            oneway_unwritten,
            callback_panics,
            took,
            ..
        } = self;
        write!(
            f,
            "shut down in {took:.1?}: of the messages still under way {delivered} stored, {not_stored} not stored, {unknown} \
             unknown ({ended_early} ended early); since the start {oneway_unwritten} one-way messages not written, \
             {callback_panics} callbacks panicked"
        )
    }
}

/// What became of the sends that ended after the shutdown had begun. Bounded, as those sends are.
#[derive(Clone, Debug, Default)]
pub(super) struct LastOutcomes {
    delivered: usize,
    failures: Vec<SendFailure>,
}

/// Notes the outcome of a send, if the producer is being shut down.
pub(super) fn note(shared: &Shared, failure: Option<(&Message, &Error)>) {
    if !shared.gate.is_closed() {
        return;
    }
    let mut last = shared.last_outcomes.lock();
    match failure {
        None => last.delivered += 1,
        Some((message, error)) => last
            .failures
            .push(SendFailure::new(message.clone(), error.clone())),
    }
}

/// What a flush left behind when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unflushed {
    /// Sends that have no outcome yet.
    pub sends: usize,
    /// One-way messages that are not written yet.
    pub oneway: usize,
}

impl fmt::Display for Unflushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sends, oneway } = self;
        write!(
            f,
            "not flushed: sends without an outcome: {sends}, one-way messages not written: {oneway}"
        )
    }
}

impl std::error::Error for Unflushed {}

/// Waits until everything that was accepted before has its outcome, or is written if it is one-way.
pub(super) fn flush(shared: &Arc<Shared>, within: Duration) -> Result<(), Unflushed> {
    let until = Deadline::after(within).at();
    auto_batch::flush(shared);
    let sends = shared.gate.wait_for_those_inside(until);
    let connections = shared.connections.all();
    let oneway = connections
        .iter()
        .map(|connection| connection.wait_until_written(until))
        .sum();
    if sends == 0 && oneway == 0 {
        Ok(())
    } else {
        Err(Unflushed { sends, oneway })
    }
}

/// Ends the producer within that time, once; whoever calls again gets the same report.
pub(super) fn shut_down(shared: &Arc<Shared>, within: Duration) -> ShutdownReport {
    let began = Instant::now();
    shared.gate.close();
    let until = began + within.min(Duration::from_secs(24 * 3600));
    let transactions = shared.transactions.as_ref();
    let is_asked = transactions.is_some_and(Transactions::is_running_check);
    let patience = if is_asked || shared.gate.is_running_closure() {
        // Another thread that is at it waits for the closure that is calling.
        began
    } else {
        until + 2 * LAST_WORDS
    };
    let Some(mut done) = shared.shut_down.try_lock_until(patience) else {
        return report(shared, shared.gate.others_inside(), began);
    };
    if let Some(report) = &*done {
        return report.clone();
    }
    auto_batch::flush(shared);
    shared.gate.wait_until_empty(until);
    if let Some(transactions) = transactions {
        transactions.finish(until);
    }
    let connections = shared.connections.all();
    for connection in &connections {
        connection.wait_until_written(until);
    }
    let ended_early = shared.gate.others_inside();
    shared.housekeeping.stop();
    shared
        .housekeeping
        .unregister(until.max(Instant::now() + LAST_WORDS));
    shared.routes.close();
    shared.replies.close();
    shared.connections.close();
    shared.timer.stop();
    // Brokers that do not answer the goodbye cannot take this time.
    let closures_until = until.max(Instant::now() + LAST_WORDS);
    shared.gate.wait_until_empty(closures_until);
    shared.workers.stop(closures_until);
    if let Some(transactions) = transactions {
        transactions.stop(closures_until);
    }
    let report = report(shared, ended_early, began);
    log::info!(
        "producer {} of group {}: {report}",
        shared.client_id,
        shared.config.producer_group
    );
    *done = Some(report.clone());
    report
}

fn report(shared: &Shared, ended_early: usize, began: Instant) -> ShutdownReport {
    let last = shared.last_outcomes.lock().clone();
    let count = |wanted: fn(Delivery) -> bool| {
        last.failures
            .iter()
            .filter(|failure| wanted(failure.error.delivery()))
            .count()
    };
    ShutdownReport {
        delivered: last.delivered,
        not_stored: count(Delivery::is_not_stored),
        unknown: count(|delivery| !delivery.is_not_stored()),
        failures: last.failures,
        ended_early,
        oneway_unwritten: shared.connections.oneway_lost(),
        callback_panics: shared.workers.panics(),
        took: began.elapsed(),
    }
}
