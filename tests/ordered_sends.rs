//! Ordered sends to one queue go one after another, whatever happens to each; an unknown outcome ends the order and says so.

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
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use rocketmq_producer::{Error, Message, Phase, Redelivery, Target};
use support::{
    PATIENCE,
    fake_server::{FakeServer, SEND_MESSAGE_V2},
    message, producer_for, within,
};

fn numbered(number: usize) -> Message {
    Message::new("orders", number.to_string()).unwrap()
}

/// The bodies of all sends that came, in the order in which they came.
fn bodies(broker: &FakeServer) -> Vec<String> {
    broker.log(|log| {
        log.of(SEND_MESSAGE_V2)
            .map(|send| String::from_utf8_lossy(&send.body).into_owned())
            .collect()
    })
}

#[test]
fn one_message_at_a_time_is_on_its_way_and_the_others_follow_in_order() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker =
            FakeServer::broker(move |request, peer| arrived.send((request.clone(), peer.clone())).unwrap());
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        let order = producer.to(Target::key("k")).ordered(true);
        for number in 0..20 {
            let done = done.clone();
            order.send_async(numbered(number), move |outcome| {
                done.send((number, outcome.is_ok())).unwrap();
            });
        }
        for number in 0..20 {
            let (request, peer) = arrivals.recv().unwrap();
            assert_eq!(request.body, number.to_string().as_bytes());
            assert!(
                arrivals.recv_timeout(Duration::from_millis(5)).is_err(),
                "a second one is on its way"
            );
            peer.stored(&request, number);
        }
        let mut finished: Vec<_> = (0..20).map(|_| outcomes.recv().unwrap()).collect();
        finished.sort_unstable();
        assert_eq!(finished, (0..20).map(|number| (number, true)).collect::<Vec<_>>());
    });
}

#[test]
fn a_message_that_is_refused_for_a_moment_is_sent_again_before_the_next() {
    within(PATIENCE, || {
        let count = AtomicUsize::new(0);
        let broker = FakeServer::broker(move |request, peer| {
            if count.fetch_add(1, Ordering::SeqCst) % 3 == 0 {
                peer.refuse(request, 2, "[TIMEOUT_CLEAN_QUEUE]broker busy");
            } else {
                peer.stored(request, 0);
            }
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..6 {
            let done = done.clone();
            let order = producer.to(Target::key("k")).ordered(true);
            order.send_async(numbered(number), move |outcome| {
                done.send(outcome.is_ok()).unwrap();
            });
        }
        assert!((0..6).all(|_| outcomes.recv().unwrap()));
        let mut seen = bodies(&broker);
        seen.dedup();
        assert_eq!(seen, (0..6).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(broker.sends() > 6, "some were sent again");
    });
}

#[test]
fn an_unknown_outcome_ends_the_order_for_those_that_wait_behind() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker = FakeServer::broker(move |request, peer| {
            if request.body == b"0" {
                arrived.send(peer.clone()).unwrap();
            } else {
                peer.stored(request, 0);
            }
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .redelivery(Redelivery::NoDuplicates)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let order = producer.to(Target::key("k")).ordered(true);
        for number in 0..3 {
            let done = done.clone();
            order.send_async(numbered(number), move |outcome| {
                done.send((number, outcome.map_err(|failure| failure.error)))
                    .unwrap();
            });
        }
        arrivals.recv().unwrap().close();
        let mut outcomes: Vec<_> = (0..3).map(|_| outcomes.recv().unwrap()).collect();
        outcomes.sort_by_key(|(number, _)| *number);
        let first = outcomes[0].1.as_ref().unwrap_err();
        assert_eq!(first.delivery(), rocketmq_producer::Delivery::Unknown, "{first}");
        for (number, outcome) in &outcomes[1..] {
            let error = outcome.as_ref().unwrap_err();
            assert!(matches!(error, Error::OrderEnded { .. }), "{number}: {error}");
            assert!(error.to_string().contains("orders@broker-a#"), "{error}");
        }
        assert_eq!(broker.sends(), 1, "nothing was sent behind it");
        // A new order begins with the next message.
        assert!(order.send(&numbered(4)).is_ok());
    });
}

#[test]
fn whoever_waits_for_his_turn_too_long_is_told_and_others_still_get_theirs() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker = FakeServer::broker(move |request, peer| {
            if request.body == b"0" {
                arrived.send((request.clone(), peer.clone())).unwrap();
            } else {
                peer.stored(request, 0);
            }
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .send_timeout(Duration::from_secs(20))
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let order = producer.to(Target::key("k")).ordered(true);
        let finished = done.clone();
        order.send_async(numbered(0), move |outcome| {
            finished.send(outcome.is_ok()).unwrap();
        });
        let (request, peer) = arrivals.recv().unwrap();
        let impatient = order.clone().timeout(Duration::from_millis(30));
        let error = impatient.send(&numbered(1)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Order,
                    ..
                }
            ),
            "{error}"
        );
        let (told, late) = mpsc::channel();
        impatient.send_async(numbered(2), move |outcome| {
            told.send(outcome.unwrap_err().error).unwrap();
        });
        assert!(matches!(
            late.recv().unwrap(),
            Error::Timeout {
                phase: Phase::Order,
                ..
            }
        ));
        order.send_async(numbered(3), move |outcome| done.send(outcome.is_ok()).unwrap());
        peer.stored(&request, 0);
        assert!(outcomes.recv().unwrap() && outcomes.recv().unwrap());
        assert_eq!(bodies(&broker), ["0", "3"]);
    });
}

#[test]
fn blocking_and_asynchronous_senders_share_the_order() {
    within(PATIENCE, || {
        let cluster = rocketmq_producer::mock::MockCluster::start(2).unwrap();
        let producer = Arc::new(
            rocketmq_producer::Producer::builder("g")
                .name_servers(cluster.name_servers())
                .start()
                .unwrap(),
        );
        let order = producer.to(Target::key("k")).ordered(true);
        for number in 0..50 {
            if number % 5 == 4 {
                order.send(&numbered(number)).unwrap();
            } else {
                order.send_async(numbered(number), |outcome| assert!(outcome.is_ok()));
            }
        }
        producer.flush(PATIENCE).unwrap();
        let mut stored = cluster.messages("orders");
        stored.sort_by_key(|message| message.queue_offset);
        let bodies: Vec<_> = stored
            .iter()
            .map(|message| String::from_utf8_lossy(&message.body).into_owned())
            .collect();
        assert_eq!(
            bodies,
            (0..50).map(|number| number.to_string()).collect::<Vec<_>>()
        );
    });
}

#[test]
fn an_order_needs_a_target_and_an_answer() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let error = producer
            .timeout(PATIENCE)
            .ordered(true)
            .send(&message("orders"))
            .unwrap_err();
        assert!(
            error.to_string().contains("an ordered send needs a target"),
            "{error}"
        );
        let error = producer
            .to(Target::key("k"))
            .ordered(true)
            .send_oneway(&message("orders"))
            .unwrap_err();
        assert!(
            error.to_string().contains("one-way send cannot be ordered"),
            "{error}"
        );
        assert_eq!(broker.sends(), 0);
    });
}
