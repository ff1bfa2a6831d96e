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

use super::shared::Shared;

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
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it says whether anything was lost"]
#[non_exhaustive]
pub struct ShutdownReport {
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
    /// Whether every send had its outcome by itself and every one-way message was written.
    pub fn is_clean(&self) -> bool {
        self.ended_early == 0 && self.oneway_unwritten == 0
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ended_early,
            oneway_unwritten,
            callback_panics,
            took,
        } = self;
        write!(
            f,
            "shut down in {took:.1?}: {ended_early} sends ended early, {oneway_unwritten} one-way messages not written, \
             {callback_panics} callbacks panicked"
        )
    }
}

/// Ends the producer within that time, once; whoever calls again gets the same report.
pub(super) fn shut_down(shared: &Arc<Shared>, within: Duration) -> ShutdownReport {
    let began = Instant::now();
    shared.gate.close();
    let until = began + within.min(Duration::from_secs(24 * 3600));
    let Some(mut done) = shared.shut_down.try_lock_until(until + 2 * LAST_WORDS) else {
        // Another thread is at it, and maybe waits for the closure that is calling.
        return report(shared, shared.gate.others_inside(), began);
    };
    if let Some(report) = &*done {
        return report.clone();
    }
    shared.gate.wait_until_empty(until);
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
    shared.connections.close();
    shared.timer.stop();
    // Brokers that do not answer the goodbye cannot take this time.
    let closures_until = until.max(Instant::now() + LAST_WORDS);
    shared.gate.wait_until_empty(closures_until);
    shared.workers.stop(closures_until);
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
    ShutdownReport {
        ended_early,
        oneway_unwritten: shared.connections.oneway_lost(),
        callback_panics: shared.workers.panics(),
        took: began.elapsed(),
    }
}
