//! A one-way send hands the message to a connection and waits for nothing else: no answer, no broker that reads. What is
//! lost on the way is counted.

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

use std::time::Duration;

use rocketmq_producer::{
    Delivery, Error, Message, MessageQueue, Phase, RequestCode, Target,
    mock::{MockCluster, ServerVersion},
};
use support::{
    GRACE, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, RefusingAddress, Request, SEND_MESSAGE_V2, read_frame, stored},
    message, milliseconds, producer_for, timed, within,
};

#[test]
fn a_hundred_are_stored_by_every_release_and_the_shutdown_reports_none_unwritten() {
    within(PATIENCE, || {
        for version in [
            ServerVersion::V4_7_0,
            ServerVersion::V4_9_7,
            ServerVersion::V5_5_0,
        ] {
            let cluster = MockCluster::builder().brokers(2).speaks(version).start().unwrap();
            let producer = producer_for(cluster.name_servers()).start().unwrap();
            for number in 0..100 {
                let message = Message::builder("orders")
                    .tags("paid")
                    .keys([format!("order-{number}")])
                    .body(format!("Hello {number}"))
                    .build()
                    .unwrap();
                producer.send_oneway(&message).unwrap();
            }
            let report = producer.shutdown(PATIENCE);
            assert_eq!(
                (report.oneway_unwritten, report.is_clean()),
                (0, true),
                "{report}"
            );
            assert!(
                cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 100),
                "{} messages with {version:?}",
                cluster.message_count("orders")
            );
            let mut bodies: Vec<_> = cluster.messages("orders").into_iter().map(|m| m.body).collect();
            bodies.sort();
            let mut expected: Vec<_> = (0..100)
                .map(|number| format!("Hello {number}").into_bytes())
                .collect();
            expected.sort();
            assert_eq!(bodies, expected);
            assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), 100);
        }
    });
}

#[test]
fn it_is_marked_as_such_and_needs_no_answer() {
    within(PATIENCE, || {
        let silent = FakeServer::broker(|_, _| {});
        let name_server = FakeServer::name_server(&[("broker-a", silent.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        for _ in 0..50 {
            let (result, took) = timed(|| producer.send_oneway(&message("orders")));
            result.expect("nobody has to answer");
            assert_took(took, Duration::ZERO, GRACE);
        }
        silent.wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 50);
        silent.log(|log| {
            assert!(log.of(SEND_MESSAGE_V2).all(Request::is_oneway), "{log:#?}");
        });
    });
}

#[test]
fn an_answer_all_the_same_completes_no_other_send() {
    within(PATIENCE, || {
        // As an early refusal of 4.7.0 does, which looks at no flag.
        let broker = FakeServer::broker(|request, peer| {
            let offset = if request.is_oneway() { 99 } else { 7 };
            peer.write(&stored(request, offset));
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        for _ in 0..20 {
            producer.send_oneway(&message("orders")).unwrap();
            assert_eq!(producer.send(&message("orders")).unwrap().queue_offset, 7);
        }
        assert_eq!(broker.log(|log| log.accepted), 1);
    });
}

#[test]
fn it_reaches_all_brokers_and_queues_in_turn() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("orders", 4);
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        for _ in 0..16 {
            producer.send_oneway(&message("orders")).unwrap();
        }
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 16));
        let mut queues: Vec<_> = cluster
            .messages("orders")
            .into_iter()
            .map(|message| (message.broker_name, message.queue_id, message.queue_offset))
            .collect();
        queues.sort();
        let all = ["broker-a", "broker-b"].into_iter().flat_map(|broker| {
            (0..4).flat_map(move |id| (0..2).map(move |offset| (broker.to_owned(), id, offset)))
        });
        assert_eq!(queues, all.collect::<Vec<_>>());
    });
}

#[test]
fn it_can_be_aimed() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("orders", 4);
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let queue = MessageQueue::new("orders", "broker-b", 3);
        producer
            .to(queue.clone())
            .send_oneway(&message("orders"))
            .unwrap();
        producer
            .to(Target::select(|_, _| 7))
            .send_oneway(&message("orders"))
            .unwrap();
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 2));
        for message in cluster.messages("orders") {
            assert_eq!((&*message.broker_name, message.queue_id), ("broker-b", 3));
        }
        let nowhere = MessageQueue::new("orders", "broker-b", 4);
        let error = producer
            .to(nowhere)
            .send_oneway(&message("orders"))
            .expect_err("there is no such queue");
        assert_says(&error, &["orders@broker-b#4"]);
    });
}

#[test]
fn only_one_attempt_is_made_and_its_error_comes_plain() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let name_server = FakeServer::name_server(&[("broker-a", down.address())]);
        let producer = producer_for(name_server.address()).retries(5).start().unwrap();
        let error = producer
            .send_oneway(&message("orders"))
            .expect_err("nobody is there");
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_eq!(error.delivery(), Delivery::NotStored);
        let report = producer.shutdown(PATIENCE);
        assert_eq!(report.oneway_unwritten, 0, "it was never accepted: {report}");
    });
}

#[test]
fn without_a_route_it_ends_in_its_own_time() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let producer = producer_for(silent.address()).start().unwrap();
        let (result, took) = timed(|| {
            producer
                .timeout(milliseconds(150))
                .send_oneway(&message("orders"))
        });
        let error = result.expect_err("there is no route");
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Route,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_took(took, milliseconds(150), milliseconds(150) + GRACE);
    });
}

#[test]
fn what_was_lost_with_its_connection_is_counted_and_the_next_one_dials() {
    within(PATIENCE, || {
        let (hang_up, told) = std::sync::mpsc::channel::<()>();
        let told = std::sync::Mutex::new(told);
        let broker = FakeServer::raw(move |stream: &std::net::TcpStream| {
            // The heartbeat, and nothing after it until the test says so; then the connection ends.
            drop(read_frame(stream));
            told.lock().unwrap().recv().ok();
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let hang_up = hang_up;
        let large = Message::new("orders", vec![b'x'; 3_900_000]).unwrap();
        let mut accepted = 0;
        loop {
            match producer.timeout(milliseconds(200)).send_oneway(&large) {
                Ok(()) => accepted += 1,
                // Two fit into the connection's buffer, whatever those of the sockets take.
                Err(_) if accepted >= 2 => break,
                Err(error) => assert!(error.is_timeout(), "{error:?}"),
            }
        }
        hang_up.send(()).unwrap();
        broker.wait_until(PATIENCE, |log| log.ended == 1);
        drop(hang_up);
        while broker.log(|log| log.accepted) < 2 {
            drop(producer.send_oneway(&message("orders")));
        }
        let report = producer.shutdown(Duration::from_secs(5));
        assert!(!report.is_clean(), "{report}");
        assert!(
            report.oneway_unwritten >= 2,
            "{accepted} were accepted, and {report}"
        );
    });
}
