//! Brokers know a producer from its first words on, hear from it at intervals for as long as it lives, and are told when it
//! goes. Name servers are spared all of it.

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

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{Error, Message, MessageQueue, mock::MockCluster};
use serde_json::{Value, json};
use support::{
    GRACE, GROUP, PATIENCE, assert_took,
    fake_server::{FakeServer, HEART_BEAT, Request, SEND_MESSAGE_V2, UNREGISTER_CLIENT},
    message, milliseconds, producer_for, timed, within,
};

#[test]
fn the_first_words_to_a_broker_are_a_heartbeat() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .client_ip("10.1.2.3".parse::<IpAddr>().unwrap())
            .instance_name("test-instance")
            .start()
            .unwrap();
        assert_eq!(producer.client_id(), "10.1.2.3@test-instance");
        producer.send(&message("orders")).unwrap();
        broker.log(|log| {
            let codes: Vec<_> = log.requests.iter().map(Request::code).collect();
            assert_eq!(codes, [HEART_BEAT, SEND_MESSAGE_V2]);
            let body: Value = serde_json::from_slice(&log.requests[0].body).unwrap();
            assert_eq!(body["clientID"], "10.1.2.3@test-instance");
            assert_eq!(body["producerDataSet"][0]["groupName"], GROUP);
            assert_eq!(body["producerDataSet"].as_array().unwrap().len(), 1);
            assert_eq!(body["consumerDataSet"].as_array().unwrap().len(), 0);
        });
        assert_eq!(name_server.log(|log| log.count(HEART_BEAT)), 0);
    });
}

#[test]
fn they_come_at_intervals_on_every_connection_to_a_broker() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        let began = Instant::now();
        let producer = producer_for(cluster.name_servers())
            .heartbeat_interval(milliseconds(50))
            .start()
            .unwrap();
        // Once around all queues of both.
        for _ in 0..8 {
            producer.send(&message("orders")).unwrap();
        }
        assert!(
            cluster.wait_until(PATIENCE, |cluster| {
                let clients = cluster.clients();
                clients.len() == 2 && clients.iter().all(|client| client.heartbeats >= 6)
            }),
            "{:?}",
            cluster.clients()
        );
        // One when it is connected and five intervals; not all at once, and not ten times as slow.
        assert_took(began.elapsed(), milliseconds(250), milliseconds(2500));
        for client in cluster.clients() {
            assert_eq!(client.client_id, producer.client_id());
            assert_eq!(client.producer_groups, [GROUP]);
        }
    });
}

#[test]
fn they_do_not_come_more_often_than_that() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        for _ in 0..200 {
            producer.send(&message("orders")).unwrap();
        }
        assert_eq!(cluster.heartbeats(), 1, "the interval is 30 s");
    });
}

#[test]
fn a_new_connection_begins_with_one() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        producer.send(&message("orders")).unwrap();
        broker.close_connections();
        broker.wait_until(PATIENCE, |log| log.ended == 1);
        producer.send(&message("orders")).unwrap();
        broker.log(|log| {
            let second: Vec<_> = log
                .requests
                .iter()
                .filter(|request| request.connection == 1)
                .collect();
            // The broker forgets the connection that has ended before it hears of the new one.
            assert_eq!(second[0].code(), UNREGISTER_CLIENT, "{log:#?}");
        });
    });
}

#[test]
fn a_shutdown_tells_every_broker() {
    within(PATIENCE, || {
        let brokers = [FakeServer::healthy_broker(), FakeServer::healthy_broker()];
        let name_server = FakeServer::name_server(&[
            ("broker-a", brokers[0].address()),
            ("broker-b", brokers[1].address()),
        ]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let client_id = producer.client_id().to_owned();
        for broker in ["broker-a", "broker-b"] {
            producer
                .to(MessageQueue::new("orders", broker, 0))
                .send(&message("orders"))
                .unwrap();
        }
        assert!(producer.shutdown(PATIENCE).is_clean());
        for broker in &brokers {
            // It waited for the answers.
            broker.log(|log| {
                let farewells: Vec<_> = log.of(UNREGISTER_CLIENT).collect();
                assert_eq!(farewells.len(), 1, "{log:#?}");
                assert_eq!(farewells[0].field("clientID"), client_id);
                assert_eq!(farewells[0].field("producerGroup"), GROUP);
            });
        }
        assert_eq!(name_server.log(|log| log.count(UNREGISTER_CLIENT)), 0);
    });
}

#[test]
fn a_broker_forgets_a_producer_that_was_dropped() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        // Once around all queues of both.
        for _ in 0..8 {
            producer.send(&message("orders")).unwrap();
        }
        assert_eq!(cluster.clients().len(), 2);
        drop(producer);
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().is_empty()));
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().is_empty()));
    });
}

#[test]
fn after_a_shutdown_nothing_more_is_heard() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .heartbeat_interval(milliseconds(1))
            .route_refresh_interval(milliseconds(1))
            .start()
            .unwrap();
        producer.send(&message("orders")).unwrap();
        broker.wait_until(PATIENCE, |log| log.count(HEART_BEAT) > 5);
        assert!(producer.shutdown(PATIENCE).is_clean());
        broker.wait_until(PATIENCE, |log| log.ended == 1);
        name_server.wait_until(PATIENCE, |log| log.ended == 1);
        assert_eq!(broker.log(|log| log.accepted), 1);
        assert_eq!(name_server.log(|log| log.accepted), 1);
        broker.log(|log| assert_eq!(log.requests.last().unwrap().code(), UNREGISTER_CLIENT));
    });
}

#[test]
fn a_broker_that_refuses_or_ignores_them_still_gets_messages() {
    within(PATIENCE, || {
        for answers in [true, false] {
            let broker = FakeServer::start(move |request, peer| match request.code() {
                SEND_MESSAGE_V2 => peer.stored(request, 7),
                UNREGISTER_CLIENT => peer.answer(request, 0, &json!({}), b""),
                _ if answers => peer.refuse(request, 1, "not today"),
                _ => {}
            });
            let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
            let producer = producer_for(name_server.address())
                .heartbeat_interval(milliseconds(5))
                .start()
                .unwrap();
            for _ in 0..50 {
                let (result, took) = timed(|| producer.send(&message("orders")));
                result.expect("sends are answered");
                assert_took(took, Duration::ZERO, GRACE);
            }
            broker.wait_until(PATIENCE, |log| log.count(HEART_BEAT) > 3);
            assert_eq!(broker.log(|log| log.accepted), 1);
            assert!(producer.shutdown(Duration::from_secs(5)).is_clean());
        }
    });
}

#[test]
fn they_keep_coming_while_a_large_message_is_under_way() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers())
            .heartbeat_interval(milliseconds(10))
            .start()
            .unwrap();
        let large = Message::new("orders", vec![b'x'; 4_000_000]).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let result: Result<_, Error> = producer.send(&large);
                        result.expect("frames do not mix");
                    }
                });
            }
        });
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.heartbeats() > 3));
        assert_eq!(cluster.message_count("orders"), 10);
        assert_eq!(
            cluster.connections().len(),
            2,
            "to the broker and to the name server"
        );
    });
}
