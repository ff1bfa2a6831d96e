//! What is counted of one address: attempts and how they ended, how long answers took, connects, the last error.
//!
//! 1. A connection holds the meter of its address, so counting needs no look-up and no lock. An attempt that is answered
//!    costs two relaxed additions, one by its sender and one by the reader; what fails costs more.
//! 2. Whoever takes an attempt out of the table of requests counts its end, so every attempt that was begun is counted as
//!    ended once: answered, timed out, lost, or cut off by a breach of the protocol.
//! 3. What an answer means is not known here: whoever sends the request says how to judge it. Requests without a judge, such
//!    as heartbeats, are no attempts.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    histogram::Histogram,
    sync::{AtomicU64, Mutex, Ordering},
};
use crate::{
    code::ResponseCode,
    error::{Error, Phase},
    wire::header::Header,
};

/// Addresses that are remembered beside those that are connected to. Brokers that come and go under new addresses must not
/// take memory for ever.
const MOST_METERS: usize = 256;

/// What an answer to an attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Done,
    /// Refused, since the peer has too much to do.
    Busy,
    Refused,
}

/// Judges an answer by its code and remark.
pub(crate) type Judge = fn(ResponseCode, &str) -> Answered;

/// Why an attempt was followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryReason {
    NotConnected,
    Lost,
    Timeout,
    Busy,
    Refused,
    Protocol,
    /// Stored, but less safely than it should be.
    NotStoreOk,
}

/// Written by senders, while readers write everything else: kept off their cache lines.
#[derive(Debug, Default)]
#[repr(align(64))]
struct BySenders {
    begun: AtomicU64,
    oneway_accepted: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Meter {
    by_senders: BySenders,
    took: Histogram,
    busy: AtomicU64,
    refused: AtomicU64,
    timeouts: AtomicU64,
    lost: AtomicU64,
    protocol: AtomicU64,
    not_connected: AtomicU64,
    /// By [`RetryReason`], in its order.
    retries: [AtomicU64; 7],
    connects: AtomicU64,
    failed_connects: AtomicU64,
    oneway_lost: AtomicU64,
    last_error: Mutex<Option<(Instant, Error)>>,
}

/// The numbers of a meter at one moment.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) begun: u64,
    pub(crate) in_flight: u64,
    pub(crate) done: u64,
    pub(crate) busy: u64,
    pub(crate) refused: u64,
    pub(crate) timeouts: u64,
    pub(crate) lost: u64,
    pub(crate) protocol: u64,
    pub(crate) not_connected: u64,
    pub(crate) retries: [u64; 7],
    pub(crate) connects: u64,
    pub(crate) failed_connects: u64,
    pub(crate) oneway_accepted: u64,
    pub(crate) oneway_lost: u64,
    pub(crate) took: Vec<u64>,
    pub(crate) longest: Duration,
    pub(crate) last_error: Option<(Instant, Error)>,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Meter {
    /// An attempt is on its way.
    pub(super) fn begun(&self) {
        add(&self.by_senders.begun);
    }

    /// An attempt was answered.
    pub(super) fn answered(&self, judge: Judge, address: &Arc<str>, header: &Header<'_>, took: Duration) {
        let code = ResponseCode::new(header.code);
        let remark = header.remark.as_deref();
        let answered = judge(code, remark.unwrap_or_default());
        self.took.record(took);
        match answered {
            Answered::Done => return,
            Answered::Busy => add(&self.busy),
            Answered::Refused => add(&self.refused),
        }
        self.remember(Error::refused(address, code, remark));
    }

    /// An attempt that was begun got no answer.
    pub(super) fn unanswered(&self, error: &Error) {
        add(match error {
            Error::Timeout { .. } => &self.timeouts,
            Error::Protocol { .. } => &self.protocol,
            _ => &self.lost,
        });
        self.remember(error.clone());
    }

    /// An attempt was turned away by a connection that has ended or is full.
    pub(super) fn turned_away(&self, error: &Error) {
        self.begun();
        self.unanswered(error);
    }

    /// An attempt got no connection. True if the error says so.
    pub(crate) fn not_connected(&self, error: &Error) {
        self.begun();
        add(&self.not_connected);
        self.remember(error.clone());
    }

    /// An attempt here was followed by another, because of this.
    pub(crate) fn retried(&self, reason: RetryReason) {
        if let Some(counter) = self.retries.get(reason as usize) {
            add(counter);
        }
    }

    pub(super) fn connected(&self) {
        add(&self.connects);
    }

    pub(super) fn connect_failed(&self, error: &Error) {
        add(&self.failed_connects);
        self.remember(error.clone());
    }

    pub(super) fn oneway_accepted(&self) {
        add(&self.by_senders.oneway_accepted);
    }

    pub(super) fn oneway_lost(&self, count: u64) {
        self.oneway_lost.fetch_add(count, Ordering::Relaxed);
    }

    /// Something failed here, whatever it was for.
    pub(super) fn remember(&self, error: Error) {
        let previous = self.last_error.lock().replace((Instant::now(), error));
        drop(previous);
    }

    pub(crate) fn read(&self) -> Reading {
        // Ends before beginnings: an attempt that ends meanwhile counts as in flight, never as ended without a beginning.
        let took = self.took.counts();
        let answered: u64 = took.iter().sum();
        let (busy, refused) = (read(&self.busy), read(&self.refused));
        let (timeouts, lost, protocol) = (read(&self.timeouts), read(&self.lost), read(&self.protocol));
        let not_connected = read(&self.not_connected);
        let begun = read(&self.by_senders.begun);
        Reading {
            begun,
            in_flight: begun.saturating_sub(answered + timeouts + lost + protocol + not_connected),
            done: answered.saturating_sub(busy + refused),
            busy,
            refused,
            timeouts,
            lost,
            protocol,
            not_connected,
            retries: std::array::from_fn(|index| self.retries.get(index).map_or(0, read)),
            connects: read(&self.connects),
            failed_connects: read(&self.failed_connects),
            oneway_accepted: read(&self.by_senders.oneway_accepted),
            oneway_lost: read(&self.oneway_lost),
            took,
            longest: self.took.longest(),
            last_error: self.last_error.lock().clone(),
        }
    }
}

impl RetryReason {
    /// Why an attempt that ended with this error is followed by another.
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Timeout {
                phase: Phase::Connect,
                ..
            }
            | Error::Connect { .. }
            | Error::Thread { .. } => Self::NotConnected,
            Error::Timeout { .. } => Self::Timeout,
            Error::Protocol { .. } => Self::Protocol,
            Error::Refused { code, remark, .. } if crate::error::is_busy_refusal(*code, remark) => Self::Busy,
            Error::Refused { .. } => Self::Refused,
            _ => Self::Lost,
        }
    }
}

/// The meters of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<HashMap<Arc<str>, Kept>>);

#[derive(Debug)]
struct Kept {
    meter: Arc<Meter>,
    since: Instant,
}

impl Meters {
    /// The meter of an address. When there are too many, the oldest that no connection holds is forgotten.
    pub(crate) fn of(&self, address: &Arc<str>) -> Arc<Meter> {
        let mut meters = self.0.lock();
        if let Some(kept) = meters.get(address) {
            return Arc::clone(&kept.meter);
        }
        if meters.len() >= MOST_METERS {
            let unused = meters
                .iter()
                .filter(|(_, kept)| Arc::strong_count(&kept.meter) == 1)
                .min_by_key(|(_, kept)| kept.since)
                .map(|(address, _)| Arc::clone(address));
            if let Some(unused) = unused {
                meters.remove(&unused);
            }
        }
        let meter = Arc::<Meter>::default();
        let kept = Kept {
            meter: Arc::clone(&meter),
            since: Instant::now(),
        };
        meters.insert(Arc::clone(address), kept);
        meter
    }

    /// All meters, sorted by address.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, Arc<Meter>)> {
        let meters = self.0.lock();
        let mut all: Vec<_> = meters
            .iter()
            .map(|(address, kept)| (Arc::clone(address), Arc::clone(&kept.meter)))
            .collect();
        drop(meters);
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Written;

    #[test]
    fn every_attempt_is_in_flight_or_has_ended_in_one_way() {
        let meter = Meter::default();
        let timeout = Error::Timeout {
            phase: Phase::Reply,
            target: "a:1".into(),
            waited: Duration::from_secs(1),
            written: Written::All,
        };
        meter.begun();
        meter.begun();
        meter.unanswered(&timeout);
        meter.turned_away(&timeout);
        meter.not_connected(&Error::ShutDown);
        meter.retried(RetryReason::of(&timeout));
        let reading = meter.read();
        assert_eq!((reading.begun, reading.in_flight), (4, 1));
        assert_eq!((reading.timeouts, reading.not_connected), (2, 1));
        assert_eq!(reading.retries, [0, 0, 1, 0, 0, 0, 0]);
        assert!(matches!(reading.last_error, Some((_, Error::ShutDown))));
    }

    #[test]
    fn addresses_that_come_and_go_take_no_memory_for_ever() {
        let meters = Meters::default();
        let held = meters.of(&"held".into());
        held.begun();
        for number in 0..1000 {
            meters.of(&format!("a:{number}").into());
        }
        assert_eq!(meters.all().len(), MOST_METERS);
        assert_eq!(meters.of(&"held".into()).read().begun, 1);
    }
}
