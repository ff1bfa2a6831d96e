//! The snapshot of a producer: plain numbers, and their text form. Nothing is counted here.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    error::Error,
    net::histogram::{BUCKETS, bucket_end},
};

/// What a producer has done since it was started, and what it holds now; made by
/// [`Producer::stats`](super::Producer::stats).
///
/// Counts only grow, so the difference of two snapshots says what happened between them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How long ago the producer was started.
    pub uptime: Duration,
    /// Blocking and asynchronous sends that have ended, by what became of the message.
    pub sends: SendCounts,
    /// Sends of any kind that have not ended.
    pub under_way: usize,
    /// Asynchronous sends that hold room.
    pub async_sends: usize,
    /// How many may, as configured.
    pub max_async_in_flight: usize,
    /// Bytes of messages that asynchronous sends hold.
    pub async_bytes: usize,
    /// How many they may, as configured.
    pub max_async_bytes: usize,
    /// Bytes of messages that are gathered into batches and have no outcome yet, with
    /// [`auto_batch`](crate::ProducerBuilder::auto_batch).
    pub gathered_bytes: usize,
    /// One-way messages that a connection has taken over.
    pub oneway_accepted: u64,
    /// Of these, the ones that were not written before their connection ended.
    pub oneway_lost: u64,
    /// Requests that wait for a consumer's reply, by how they ended.
    pub requests: RequestCounts,
    /// Replies that nobody waited for: late ones, repeated ones, and ones to requests that were never made.
    pub unmatched_replies: u64,
    /// Closures that panicked.
    pub callback_panics: u64,
    /// The topics whose route is known, sorted by name.
    pub topics: Vec<TopicStats>,
    /// Brokers that were to be connected to, sorted by address. Of brokers that are not connected any more, at most 256
    /// addresses are remembered.
    pub brokers: Vec<BrokerStats>,
    /// Name servers that were to be connected to, sorted by address.
    pub name_servers: Vec<NameServerStats>,
}

/// Sends by what became of the message. See [`Delivery`](crate::Delivery). The messages of a batch count one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendCounts {
    /// The send returned `Ok`.
    pub stored: u64,
    /// No broker has the message.
    pub not_stored: u64,
    /// A broker refused it.
    pub refused: u64,
    /// It may be stored or not.
    pub unknown: u64,
}

/// Requests for which a consumer's reply was waited for. Their sends are counted among [`SendCounts`] too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestCounts {
    /// Sent, or about to be, and waiting for their reply.
    pub waiting: usize,
    /// Ended with a reply.
    pub replied: u64,
    /// Sent, and ended without a reply.
    pub unanswered: u64,
    /// Certainly not stored by any broker.
    pub failed: u64,
    /// Replies of consumers that nobody waited for: late ones, repeated ones, and ones to other requests.
    pub late_replies: u64,
}

/// What is known of a topic's route.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TopicStats {
    /// The topic.
    pub topic: Arc<str>,
    /// How long ago a name server last answered with a route.
    pub route_age: Duration,
    /// Queues that take messages.
    pub queues: usize,
    /// Brokers that hold them.
    pub brokers: usize,
    /// The topic did not exist then: this is where it would be created.
    pub from_template: bool,
}

/// What happened between this producer and one broker. Every attempt that was begun is stored, failed or in flight.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BrokerStats {
    /// The address that the route names.
    pub address: Arc<str>,
    /// The name of the broker, if a route names it at this moment.
    pub broker_name: Option<Arc<str>>,
    /// Whether there is a live connection.
    pub connected: bool,
    /// Attempts that wait for their answer.
    pub in_flight: u64,
    /// Bytes of requests that are not written to the socket yet.
    pub unwritten_bytes: usize,
    /// Attempts that were begun. A one-way message counts only when it found no connection.
    pub attempts: u64,
    /// Attempts that the broker answered with a stored status.
    pub stored: u64,
    /// How long an attempt took from being taken in by the connection to its answer, whatever the answer.
    pub latency: Latency,
    /// Attempts that failed.
    pub failures: FailureCounts,
    /// Attempts, here or at another broker, that were begun because one here had failed.
    pub retries: RetryCounts,
    /// One-way messages that the connection has taken over.
    pub oneway_accepted: u64,
    /// Of these, the ones that were not written before the connection ended.
    pub oneway_lost: u64,
    /// Connections that were made.
    pub connects: u64,
    /// Connections that could not be made.
    pub failed_connects: u64,
    /// What went wrong last, heartbeats and connecting included.
    pub last_error: Option<LastError>,
}

/// What happened between this producer and one name server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NameServerStats {
    /// The address as it is configured.
    pub address: Arc<str>,
    /// Whether there is a live connection.
    pub connected: bool,
    /// Connections that were made.
    pub connects: u64,
    /// Connections that could not be made.
    pub failed_connects: u64,
    /// What went wrong last with the connection.
    pub last_error: Option<LastError>,
}

/// Failed attempts by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailureCounts {
    /// There was no connection in time.
    pub not_connected: u64,
    /// The connection ended before the answer came.
    pub lost: u64,
    /// Given up without an answer: its time was over, or another attempt had ended the send.
    pub timeouts: u64,
    /// Refused because the broker has too much to do: code 2, and code 1 with the text of a busy page cache.
    pub busy: u64,
    /// Refused for any other reason.
    pub refused: u64,
    /// The broker sent something that is not the protocol.
    pub protocol: u64,
}

/// Retries by what the attempt before had met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryCounts {
    /// There was no connection in time.
    pub not_connected: u64,
    /// The connection ended before the answer came.
    pub lost: u64,
    /// No answer came within the attempt's share of the time.
    pub timeout: u64,
    /// The broker was busy.
    pub busy: u64,
    /// Another refusal that may be retried.
    pub refused: u64,
    /// The broker sent something that is not the protocol.
    pub protocol: u64,
    /// The message was stored less safely than it should be.
    pub not_store_ok: u64,
}

/// An error and when it happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LastError {
    /// What happened.
    pub error: Error,
    /// How long ago.
    pub age: Duration,
}

/// How long answers took. Each percentile is at most a quarter above the true value, never below it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// How many answers came.
    pub count: u64,
    /// Half of them took no longer; zero if there are none.
    pub p50: Duration,
    /// Nine of ten.
    pub p90: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// The longest; of a difference of two snapshots a bound of it.
    pub max: Duration,
    counts: Vec<u64>,
}

impl SendCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.stored + self.not_stored + self.refused + self.unknown
    }
}

impl FailureCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.not_connected + self.lost + self.timeouts + self.busy + self.refused + self.protocol
    }
}

impl RetryCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self {
            not_connected,
            lost,
            timeout,
            busy,
            refused,
            protocol,
            not_store_ok,
        } = self;
        not_connected + lost + timeout + busy + refused + protocol + not_store_ok
    }
}

impl Latency {
    pub(super) fn new(counts: Vec<u64>, longest: Duration) -> Self {
        let count = counts.iter().sum();
        let at = |per_mille: u64| percentile(&counts, count, per_mille).min(longest);
        Self {
            count,
            p50: at(500),
            p90: at(900),
            p99: at(990),
            max: longest,
            counts,
        }
    }

    /// The answers that came after an earlier snapshot of the same broker: the percentiles of a minute, say.
    #[must_use = "it returns the difference"]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |index: usize| earlier.counts.get(index).copied().unwrap_or_default();
        let counts: Vec<_> = self
            .counts
            .iter()
            .enumerate()
            .map(|(index, count)| count.saturating_sub(before(index)))
            .collect();
        let last = counts.iter().rposition(|count| *count > 0);
        Self::new(counts, last.map_or(Duration::ZERO, bucket_end).min(self.max))
    }
}

/// The end of the bucket in which the value of this rank lies.
fn percentile(counts: &[u64], count: u64, per_mille: u64) -> Duration {
    let rank = u128::from(count) * u128::from(per_mille);
    let mut seen = 0;
    let reached = counts.iter().take(BUCKETS).position(|in_bucket| {
        seen += u128::from(*in_bucket) * 1000;
        *in_bucket > 0 && seen >= rank
    });
    reached.map_or(Duration::ZERO, bucket_end)
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latency({self})")
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            p50, p90, p99, max, ..
        } = self;
        write!(f, "p50 {p50:.1?}, p90 {p90:.1?}, p99 {p99:.1?}, max {max:.1?}")
    }
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.1?} ago)", self.error, self.age)
    }
}

/// The counts that are not zero, as `2 busy, 1 lost`.
struct NotZero<'a>(&'a [(u64, &'a str)]);

impl fmt::Display for NotZero<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.iter().filter(|(count, _)| *count > 0);
        match shown.next() {
            None => f.write_str("none"),
            Some((count, name)) => {
                write!(f, "{count} {name}")?;
                shown.try_for_each(|(count, name)| write!(f, ", {count} {name}"))
            }
        }
    }
}

impl fmt::Display for FailureCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NotZero(&[
            (self.not_connected, "not connected"),
            (self.lost, "lost"),
            (self.timeouts, "timed out"),
            (self.busy, "busy"),
            (self.refused, "refused"),
            (self.protocol, "broke the protocol"),
        ])
        .fmt(f)
    }
}

impl fmt::Display for RetryCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NotZero(&[
            (self.not_connected, "not connected"),
            (self.lost, "lost"),
            (self.timeout, "timed out"),
            (self.busy, "busy"),
            (self.refused, "refused"),
            (self.protocol, "broke the protocol"),
            (self.not_store_ok, "stored less safely"),
        ])
        .fmt(f)
    }
}

impl fmt::Display for SendCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stored,
            not_stored,
            refused,
            unknown,
        } = self;
        write!(
            f,
            "{stored} stored, {not_stored} not stored, {refused} refused, {unknown} unknown"
        )
    }
}

impl fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            waiting,
            replied,
            unanswered,
            failed,
            late_replies,
        } = self;
        write!(
            f,
            "{replied} replied, {unanswered} unanswered, {failed} not sent, {waiting} waiting; late replies: {late_replies}"
        )
    }
}

impl fmt::Display for TopicStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            route_age,
            queues,
            brokers,
            from_template,
        } = self;
        let new = if *from_template {
            ", did not exist then"
        } else {
            ""
        };
        write!(
            f,
            "topic {topic}: {queues} queues on {brokers} brokers, confirmed {route_age:.1?} ago{new}"
        )
    }
}

/// ` [not connected]`, or nothing.
fn state(connected: bool) -> &'static str {
    if connected { "" } else { " [not connected]" }
}

/// A further line with the last error, if there is one.
fn error_line(f: &mut fmt::Formatter<'_>, last: Option<&LastError>) -> fmt::Result {
    last.map_or(Ok(()), |error| write!(f, "\n  last error: {error}"))
}

impl fmt::Display for BrokerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.broker_name.as_deref().unwrap_or("(in no route)");
        writeln!(f, "broker {name} {}{}", self.address, state(self.connected))?;
        writeln!(
            f,
            "  {} attempts: {} stored, {} in flight; failed: {}; retried: {}",
            self.attempts, self.stored, self.in_flight, self.failures, self.retries
        )?;
        writeln!(f, "  {} answers: {}", self.latency.count, self.latency)?;
        write!(
            f,
            "  {} connects, {} failed; {} bytes to write; one-way: {} accepted, {} lost",
            self.connects, self.failed_connects, self.unwritten_bytes, self.oneway_accepted, self.oneway_lost
        )?;
        error_line(f, self.last_error.as_ref())
    }
}

impl fmt::Display for NameServerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name server {}{}: ", self.address, state(self.connected))?;
        write!(f, "{} connects, {} failed", self.connects, self.failed_connects)?;
        error_line(f, self.last_error.as_ref())
    }
}

impl fmt::Display for Stats {
    /// Several lines, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sends in {:.1?}: {}", self.uptime, self.sends)?;
        writeln!(
            f,
            "under way: {}; asynchronous: {} of {}, {} of {} bytes; gathered: {} bytes",
            self.under_way,
            self.async_sends,
            self.max_async_in_flight,
            self.async_bytes,
            self.max_async_bytes,
            self.gathered_bytes
        )?;
        write!(
            f,
            "one-way: {} accepted, {} lost; unmatched replies: {}; callbacks that panicked: {}",
            self.oneway_accepted, self.oneway_lost, self.unmatched_replies, self.callback_panics
        )?;
        if self.requests != RequestCounts::default() {
            write!(f, "\nrequests: {}", self.requests)?;
        }
        self.topics.iter().try_for_each(|topic| write!(f, "\n{topic}"))?;
        self.brokers
            .iter()
            .try_for_each(|broker| write!(f, "\n{broker}"))?;
        self.name_servers
            .iter()
            .try_for_each(|server| write!(f, "\n{server}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(values: &[(usize, u64)], longest: u64) -> Latency {
        let mut counts = vec![0; BUCKETS];
        for (bucket, count) in values {
            counts[*bucket] = *count;
        }
        Latency::new(counts, Duration::from_micros(longest))
    }

    #[test]
    fn percentiles_are_the_ends_of_buckets_and_never_over_the_longest() {
        let latency = latency(&[(3, 50), (20, 40), (40, 9), (50, 1)], 20_000);
        assert_eq!(latency.count, 100);
        assert_eq!(latency.p50, bucket_end(3));
        assert_eq!(latency.p90, bucket_end(20));
        assert_eq!(latency.p99, bucket_end(40));
        assert_eq!(latency.max, Duration::from_millis(20));
        let none = super::Latency::new(vec![0; BUCKETS], Duration::ZERO);
        assert_eq!((none.count, none.p99), (0, Duration::ZERO));
    }

    #[test]
    fn the_difference_of_two_snapshots_is_what_came_between_them() {
        let earlier = latency(&[(50, 10)], 20_000);
        let later = latency(&[(3, 4), (50, 10)], 20_000);
        let between = later.since(&earlier);
        assert_eq!((between.count, between.max), (4, bucket_end(3)));
        assert_eq!(later.since(&later).max, Duration::ZERO);
    }

    #[test]
    fn only_what_happened_is_listed() {
        let failures = FailureCounts {
            lost: 1,
            busy: 2,
            ..FailureCounts::default()
        };
        assert_eq!(failures.to_string(), "1 lost, 2 busy");
        assert_eq!(failures.total(), 3);
        assert_eq!(RetryCounts::default().to_string(), "none");
    }
}
