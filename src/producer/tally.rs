//! How sends ended, and the collecting of everything that is counted into one snapshot.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Producer,
    shared::Shared,
    stats::{
        BrokerStats, FailureCounts, LastError, Latency, NameServerStats, RetryCounts, SendCounts, Stats,
        TopicStats,
    },
};
use crate::{
    error::{Delivery, Error},
    net::{
        meter::{Meter, Reading},
        sync::{AtomicU64, Ordering},
    },
};

/// Sends by outcome. Alone on its cache line: all sending threads write it, once per send.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Tally {
    stored: AtomicU64,
    not_stored: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

impl Tally {
    /// A send has ended; `None` says that it was stored.
    pub(super) fn ended(&self, error: Option<&Error>) {
        self.ended_together(error, 1);
    }

    /// So many messages of one batch have ended alike.
    pub(super) fn ended_together(&self, error: Option<&Error>, messages: usize) {
        let counter = match error.map(Error::delivery) {
            None | Some(Delivery::Stored) => &self.stored,
            Some(Delivery::NotStored) => &self.not_stored,
            Some(Delivery::Refused) => &self.refused,
            Some(Delivery::Unknown) => &self.unknown,
        };
        counter.fetch_add(u64::try_from(messages).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn read(&self) -> SendCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SendCounts {
            stored: read(&self.stored),
            not_stored: read(&self.not_stored),
            refused: read(&self.refused),
            unknown: read(&self.unknown),
        }
    }
}

impl Producer {
    /// What this producer has done since it was started, and what it holds now. A snapshot of plain numbers, which also
    /// prints itself.
    ///
    /// Costs some microseconds per broker and topic, and never blocks. What happens meanwhile may be counted in one number
    /// and not yet in another. Works after [`Producer::shutdown`] too.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// producer.send(&Message::new("TopicTest", "Hello")?)?;
    /// let stats = producer.stats();
    /// assert_eq!(stats.sends.stored, 1);
    /// assert_eq!(stats.brokers[0].stored, 1);
    /// println!("{stats}");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        collect(&self.handle.shared)
    }
}

fn collect(shared: &Arc<Shared>) -> Stats {
    let now = Instant::now();
    let routes = shared.routes.all();
    let brokers = routes.iter().flat_map(|(route, _)| &route.brokers);
    let names: HashMap<_, _> = brokers
        .map(|broker| (Arc::clone(&broker.address), Arc::clone(&broker.name)))
        .collect();
    let topics = routes.iter().map(|(route, confirmed)| TopicStats {
        topic: Arc::clone(&route.topic),
        route_age: now.saturating_duration_since(*confirmed),
        queues: route.queues.len(),
        brokers: route.brokers.len(),
        from_template: route.from_template,
    });
    let (mut brokers, mut name_servers) = (Vec::new(), Vec::new());
    for (address, meter) in shared.connections.meters.all() {
        if shared.name_servers.contains(&address) {
            name_servers.push(name_server(shared, address, &meter, now));
        } else {
            let name = names.get(&address).map(Arc::clone);
            brokers.push(broker(shared, address, name, meter.read(), now));
        }
    }
    let (async_sends, async_bytes) = shared.permits.in_use();
    Stats {
        uptime: now.saturating_duration_since(shared.started),
        sends: shared.tally.read(),
        under_way: shared.gate.others_inside(),
        async_sends,
        max_async_in_flight: shared.config.max_async_in_flight,
        async_bytes,
        max_async_bytes: shared.config.max_async_bytes,
        gathered_bytes: shared
            .auto_batch
            .as_ref()
            .map_or(0, |batcher| batcher.held_bytes()),
        oneway_accepted: brokers.iter().map(|broker| broker.oneway_accepted).sum(),
        oneway_lost: shared.connections.oneway_lost(),
        requests: shared.replies.read(),
        unmatched_replies: shared.connections.unmatched_replies(),
        callback_panics: shared.workers.panics(),
        topics: topics.collect(),
        brokers,
        name_servers,
    }
}

fn broker(
    shared: &Shared,
    address: Arc<str>,
    broker_name: Option<Arc<str>>,
    reading: Reading,
    now: Instant,
) -> BrokerStats {
    let connection = shared.connections.live(&address);
    let [
        not_connected,
        lost,
        timeout,
        busy,
        refused,
        protocol,
        not_store_ok,
    ] = reading.retries;
    BrokerStats {
        address,
        broker_name,
        connected: connection.is_some(),
        in_flight: reading.in_flight,
        unwritten_bytes: connection.map_or(0, |connection| connection.unwritten_bytes()),
        attempts: reading.begun,
        stored: reading.done,
        latency: Latency::new(reading.took, reading.longest),
        failures: FailureCounts {
            not_connected: reading.not_connected,
            lost: reading.lost,
            timeouts: reading.timeouts,
            busy: reading.busy,
            refused: reading.refused,
            protocol: reading.protocol,
        },
        retries: RetryCounts {
            not_connected,
            lost,
            timeout,
            busy,
            refused,
            protocol,
            not_store_ok,
        },
        oneway_accepted: reading.oneway_accepted,
        oneway_lost: reading.oneway_lost,
        connects: reading.connects,
        failed_connects: reading.failed_connects,
        last_error: reading.last_error.map(|error| last_error(error, now)),
    }
}

fn name_server(shared: &Shared, address: Arc<str>, meter: &Meter, now: Instant) -> NameServerStats {
    let reading = meter.read();
    NameServerStats {
        connected: shared.connections.live(&address).is_some(),
        address,
        connects: reading.connects,
        failed_connects: reading.failed_connects,
        last_error: reading.last_error.map(|error| last_error(error, now)),
    }
}

fn last_error((at, error): (Instant, Error), now: Instant) -> LastError {
    let age: Duration = now.saturating_duration_since(at);
    LastError { error, age }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_send_is_counted_under_what_became_of_its_message() {
        let tally = Tally::default();
        tally.ended(None);
        tally.ended(Some(&Error::ShutDown));
        let address: Arc<str> = "a:1".into();
        let busy = Error::refused(&address, crate::code::ResponseCode::SYSTEM_BUSY, None);
        tally.ended(Some(&busy));
        let lost = Error::Protocol {
            address,
            written: crate::error::Written::All,
            reason: "no frame".into(),
        };
        tally.ended(Some(&lost));
        let counts = tally.read();
        let all = [counts.stored, counts.not_stored, counts.refused, counts.unknown];
        assert_eq!(all, [1, 1, 1, 1]);
        assert_eq!(counts.total(), 4);
    }
}
