//! The statistics: every attempt is counted at the broker where it was made, under what became of it.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::{sync::mpsc, time::Duration};

use rocketmq_producer::{BrokerStats, Error, Producer, ResponseCode, Stats, mock::MockCluster};
use support::{
    PATIENCE,
    fake_server::{FakeServer, RefusingAddress},
    message, milliseconds, producer_for, send_async_and_wait, within,
};

/// A producer that knows one broker, and the name server that it must outlive.
fn producer_of(broker: std::net::SocketAddr) -> (Producer, FakeServer) {
    let name_server = FakeServer::name_server(&[("broker-a", broker)]);
    let producer = producer_for(name_server.address())
        .send_timeout(milliseconds(400))
        .start()
        .unwrap();
    (producer, name_server)
}

fn only_broker(stats: &Stats) -> &BrokerStats {
    assert_eq!(stats.brokers.len(), 1, "{stats}");
    &stats.brokers[0]
}

/// Every attempt is in one place.
#[track_caller]
fn assert_adds_up(broker: &BrokerStats) {
    let ended = broker.stored + broker.failures.total();
    assert_eq!(broker.attempts, ended + broker.in_flight, "{broker}");
}

#[test]
fn what_is_stored_is_counted_at_its_broker() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("orders", 4);
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        for _ in 0..10 {
            producer.send(&message("orders")).unwrap();
        }
        for _ in 0..5 {
            send_async_and_wait(&producer, message("orders")).unwrap();
        }
        for _ in 0..3 {
            producer.send_oneway(&message("orders")).unwrap();
        }
        let stats = producer.stats();
        assert_eq!((stats.sends.stored, stats.sends.total()), (15, 15), "{stats}");
        assert_eq!((stats.oneway_accepted, stats.oneway_lost), (3, 0));
        assert_eq!((stats.unmatched_replies, stats.callback_panics), (0, 0));
        assert_eq!(stats.brokers.len(), 2);
        assert_eq!(stats.brokers.iter().map(|broker| broker.stored).sum::<u64>(), 15);
        for broker in &stats.brokers {
            assert_adds_up(broker);
            assert!(broker.connected && broker.last_error.is_none());
            assert_eq!((broker.connects, broker.failed_connects), (1, 0));
            assert_eq!(broker.latency.count, broker.attempts);
            let latency = &broker.latency;
            let ascending = [latency.p50, latency.p90, latency.p99, latency.max];
            assert!(ascending.is_sorted() && latency.p50 > Duration::ZERO, "{latency}");
        }
        assert_eq!((stats.topics[0].queues, stats.topics[0].brokers), (8, 2));
        assert!(stats.topics[0].route_age < stats.uptime + milliseconds(1));
        assert_eq!(stats.name_servers.len(), 1);
        let text = stats.to_string();
        for part in [
            "15 stored",
            "topic orders: 8 queues on 2 brokers",
            "broker broker-b",
            "p99",
            "name server",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    });
}

#[test]
fn a_busy_broker_is_counted_as_busy_and_its_retries_with_it() {
    within(PATIENCE, || {
        let busy = FakeServer::broker(|request, peer| {
            peer.refuse(
                request,
                2,
                "[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while",
            );
        });
        let (producer, _name_server) = producer_of(busy.address());
        producer.send(&message("orders")).expect_err("busy");
        let stats = producer.stats();
        let broker = only_broker(&stats);
        assert_eq!((broker.attempts, broker.failures.busy), (3, 3), "{stats}");
        assert_eq!((broker.retries.busy, broker.retries.total()), (2, 2), "{stats}");
        assert_eq!((stats.sends.refused, broker.latency.count), (1, 3));
        assert_adds_up(broker);
        let last = &broker.last_error.as_ref().expect("the refusal").error;
        assert_eq!(last.response_code(), Some(ResponseCode::SYSTEM_BUSY));
        assert!(stats.to_string().contains("3 busy"), "{stats}");
    });
}

#[test]
fn a_busy_page_cache_of_4_x_is_busy_and_other_refusals_are_not() {
    within(PATIENCE, || {
        let broker = FakeServer::broker(|request, peer| match request.field("b") {
            "cache" => peer.refuse(request, 1, "[PC_SYNCHRONIZED]broker busy"),
            _ => peer.refuse(request, 13, "the message is illegal"),
        });
        let (producer, _name_server) = producer_of(broker.address());
        producer.send(&message("cache")).expect_err("busy");
        producer.send(&message("illegal")).expect_err("illegal");
        let stats = producer.stats();
        let broker = only_broker(&stats);
        assert_eq!((broker.failures.busy, broker.failures.refused), (3, 1), "{stats}");
        assert_adds_up(broker);
    });
}

#[test]
fn silence_is_a_timeout_and_a_late_reply_is_unmatched() {
    within(PATIENCE, || {
        let (late, requests) = mpsc::channel();
        let silent = FakeServer::broker(move |request, peer| {
            late.send((request.clone(), peer.clone())).unwrap();
        });
        let (producer, _name_server) = producer_of(silent.address());
        producer
            .timeout(milliseconds(100))
            .send(&message("orders"))
            .expect_err("silent");
        let stats = producer.stats();
        let broker = only_broker(&stats);
        assert_eq!((broker.failures.timeouts, stats.sends.unknown), (1, 1), "{stats}");
        assert_adds_up(broker);
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        peer.stored(&request, 1);
        // The reply to the second send is behind the late one.
        let waiting = {
            let producer = producer.clone();
            std::thread::spawn(move || producer.timeout(PATIENCE).send(&message("orders")))
        };
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        let stats = producer.stats();
        assert_eq!(
            (only_broker(&stats).in_flight, stats.under_way),
            (1, 1),
            "{stats}"
        );
        peer.stored(&request, 2);
        waiting.join().unwrap().unwrap();
        let stats = producer.stats();
        assert_eq!((stats.unmatched_replies, stats.sends.stored), (1, 1), "{stats}");
        assert_adds_up(only_broker(&stats));
    });
}

#[test]
fn a_lost_connection_and_one_that_cannot_be_made_are_told_apart() {
    within(PATIENCE, || {
        let closing = FakeServer::broker(|_, peer| peer.close());
        let (producer, _name_server) = producer_of(closing.address());
        producer.send(&message("orders")).expect_err("closed");
        let stats = producer.stats();
        let broker = only_broker(&stats);
        assert!(
            broker.failures.lost >= 1 && broker.failures.not_connected == 0,
            "{stats}"
        );
        assert!(broker.retries.lost >= 1, "{stats}");
        assert_adds_up(broker);

        let refusing = RefusingAddress::new();
        let (producer, _name_server) = producer_of(refusing.address());
        producer.send(&message("orders")).expect_err("refused");
        let stats = producer.stats();
        let broker = only_broker(&stats);
        assert!(broker.failures.not_connected >= 1, "{stats}");
        assert_eq!(broker.failures.not_connected, broker.attempts, "{stats}");
        assert!(broker.failed_connects >= 1 && !broker.connected, "{stats}");
        assert_eq!(stats.sends.not_stored, 1);
        let last = broker.last_error.as_ref().expect("refused");
        assert!(matches!(last.error, Error::Connect { .. }), "{last}");
    });
}

#[test]
fn asynchronous_sends_are_counted_against_their_bounds_and_given_back() {
    within(PATIENCE, || {
        let (held, requests) = mpsc::channel();
        let slow = FakeServer::broker(move |request, peer| {
            held.send((request.clone(), peer.clone())).unwrap();
        });
        let name_server = FakeServer::name_server(&[("broker-a", slow.address())]);
        let producer = producer_for(name_server.address())
            .send_timeout(PATIENCE)
            .max_async_in_flight(7)
            .start()
            .unwrap();
        let (done, outcome) = mpsc::channel();
        producer.send_async(message("orders"), move |result| done.send(result).unwrap());
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        let stats = producer.stats();
        assert_eq!((stats.async_sends, stats.max_async_in_flight), (1, 7), "{stats}");
        assert!(stats.async_bytes > 0 && stats.async_bytes < stats.max_async_bytes);
        assert_eq!(only_broker(&stats).in_flight, 1);
        peer.stored(&request, 1);
        outcome.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(producer.shutdown(PATIENCE).is_clean());
        let stats = producer.stats();
        assert_eq!(
            (stats.async_sends, stats.async_bytes, stats.sends.stored),
            (0, 0, 1),
            "{stats}"
        );
    });
}
