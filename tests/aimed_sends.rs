//! A send that is aimed goes to that queue and to no other, is not repeated, and a target that does not exist is named.

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

use std::{collections::BTreeSet, sync::mpsc, time::Duration};

use rocketmq_producer::{Delivery, Error, Message, MessageQueue, Target, mock::MockCluster};
use support::{
    GRACE, Outcome, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, SEND_MESSAGE_V2},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

/// Sends asynchronously to a target and waits for the callback.
#[track_caller]
fn async_to(aimed: &rocketmq_producer::Aimed<'_>, message: Message) -> Outcome {
    let (done, outcome) = mpsc::channel();
    aimed.send_async(message, move |result| done.send(result).unwrap());
    outcome.recv_timeout(PATIENCE).expect("the callback comes")
}

/// Two brokers with four queues each.
fn cluster() -> MockCluster {
    let cluster = MockCluster::start(2).unwrap();
    cluster.create_topic("orders", 4);
    cluster
}

#[test]
fn all_verbs_go_to_the_given_queue() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let queues = producer.publish_queues("orders").unwrap();
        let names: Vec<_> = queues.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "orders@broker-a#0",
                "orders@broker-a#1",
                "orders@broker-a#2",
                "orders@broker-a#3",
                "orders@broker-b#0",
                "orders@broker-b#1",
                "orders@broker-b#2",
                "orders@broker-b#3"
            ]
        );
        for (number, queue) in (0_u64..).zip(queues) {
            let aimed = producer.to(queue.clone());
            let first = aimed.send(&message("orders")).unwrap();
            assert_eq!((&*first.queue, first.queue_offset), (&queue, 0));
            let second = async_to(&aimed, message("orders")).unwrap();
            assert_eq!((&*second.queue, second.queue_offset), (&queue, 1));
            aimed.send_oneway(&message("orders")).unwrap();
            assert!(cluster.wait_until(PATIENCE, |c| c.message_count("orders") == 3 * (number + 1)));
            let last = cluster.messages("orders").pop().unwrap();
            assert_eq!(
                (&*last.broker_name, last.queue_id),
                (queue.broker_name(), queue.queue_id())
            );
        }
    });
}

#[test]
fn a_queue_that_does_not_exist_is_named() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        for (topic, broker, queue_id) in [
            ("orders", "broker-a", 4),
            ("orders", "broker-x", 0),
            ("invoices", "broker-a", 0),
            ("", "", 0),
        ] {
            let queue = MessageQueue::new(topic, broker, queue_id);
            let aimed = producer.to(queue.clone());
            let errors = [
                aimed
                    .send(&message("orders"))
                    .expect_err("there is no such queue"),
                aimed
                    .send_oneway(&message("orders"))
                    .expect_err("there is no such queue"),
                async_to(&aimed, message("orders"))
                    .expect_err("there is no such queue")
                    .error,
            ];
            for error in errors {
                assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
                assert_eq!(error.delivery(), Delivery::NotStored);
                let rule = format!("queue {queue} is not one of the 8 queues");
                assert_says(&error, &[&rule, "topic orders", "orders@broker-a#0"]);
            }
        }
        assert_eq!(cluster.message_count("orders"), 0);
        producer
            .send(&message("orders"))
            .expect("later sends are unharmed");
    });
}

#[test]
fn equal_keys_share_a_queue_as_java_chooses_it() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        // Math.abs("…".hashCode() % 8), as SelectMessageQueueByHash. The third key has the hash Integer.MIN_VALUE.
        for (key, index) in [
            ("a", 97 % 8),
            ("order-4711", 708_276_994 % 8),
            ("polygenelubricants", 0),
            ("", 0),
        ] {
            let (broker, queue_id) = (["broker-a", "broker-b"][index / 4], index % 4);
            let aimed = producer.to(Target::key(key));
            for _ in 0..3 {
                let result = aimed.send(&message("orders")).unwrap();
                assert_eq!(
                    result.queue.to_string(),
                    format!("orders@{broker}#{queue_id}"),
                    "{key}"
                );
                let result = async_to(&aimed, message("orders")).unwrap();
                assert_eq!(
                    result.queue.to_string(),
                    format!("orders@{broker}#{queue_id}"),
                    "{key}"
                );
            }
        }
        let queues: BTreeSet<_> = (0..200)
            .map(|number| {
                let target = Target::key(format!("order-{number}"));
                producer
                    .to(target)
                    .send(&message("orders"))
                    .unwrap()
                    .queue
                    .to_string()
            })
            .collect();
        assert_eq!(queues.len(), 8, "many keys use all queues: {queues:?}");
    });
}

#[test]
fn a_closure_chooses_with_the_queues_and_the_message_in_hand() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let by_length = Target::select(|queues, message| {
            assert_eq!(queues.len(), 8);
            message.body().len() % queues.len()
        });
        let aimed = producer.to(by_length);
        for length in 1..20 {
            let message = Message::new("orders", vec![b'x'; length]).unwrap();
            let expected = (
                ["broker-a", "broker-b"][length % 8 / 4],
                u32::try_from(length % 4).unwrap(),
            );
            for result in [
                aimed.send(&message).unwrap(),
                async_to(&aimed, message.clone()).unwrap(),
            ] {
                assert_eq!((result.queue.broker_name(), result.queue.queue_id()), expected);
            }
        }
    });
}

#[test]
fn a_closure_that_chooses_beyond_the_last_queue_fails_the_send() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let aimed = producer.to(Target::select(|queues, _| queues.len()));
        let errors = [
            aimed
                .send(&message("orders"))
                .expect_err("there is no such queue"),
            aimed
                .send_oneway(&message("orders"))
                .expect_err("there is no such queue"),
            async_to(&aimed, message("orders"))
                .expect_err("there is no such queue")
                .error,
        ];
        for error in errors {
            assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
            assert_says(&error, &["chose index 8", "topic orders has 8 queues"]);
        }
    });
}

#[test]
fn a_closure_that_panics_harms_only_its_caller() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = producer_for(cluster.name_servers())
            .max_async_in_flight(1)
            .start()
            .unwrap();
        for _ in 0..3 {
            let aimed = producer.to(Target::select(|_, _| panic!("on purpose")));
            let unwound = |run: &dyn Fn()| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("it panics");
            };
            unwound(&|| drop(aimed.send(&message("orders"))));
            unwound(&|| drop(aimed.send_oneway(&message("orders"))));
            unwound(&|| aimed.send_async(message("orders"), |_| {}));
            producer
                .send(&message("orders"))
                .expect("the producer is unharmed");
            send_async_and_wait(&producer, message("orders")).expect("and its only permit is free");
        }
        let (report, took) = timed(|| producer.shutdown(PATIENCE));
        assert!(report.is_clean(), "nobody is counted as inside: {report}");
        assert_took(took, Duration::ZERO, GRACE);
    });
}

#[test]
fn it_is_neither_repeated_nor_moved() {
    within(PATIENCE, || {
        let busy = FakeServer::broker(|request, peer| peer.refuse(request, 2, "busy"));
        let healthy = FakeServer::healthy_broker();
        let name_server =
            FakeServer::name_server(&[("busy", busy.address()), ("healthy", healthy.address())]);
        let producer = producer_for(name_server.address())
            .retries(5)
            .async_retries(5)
            .start()
            .unwrap();
        let queue = MessageQueue::new("orders", "busy", 2);
        for target in [Target::from(queue), Target::select(|_, _| 2)] {
            let aimed = producer.to(target);
            let errors = [
                aimed.send(&message("orders")).expect_err("it is busy"),
                async_to(&aimed, message("orders")).expect_err("it is busy").error,
            ];
            for error in errors {
                assert_eq!(error.attempts().len(), 1, "{error:?}");
                assert_eq!(error.delivery(), Delivery::Refused);
                assert_says(&error, &["busy#2"]);
            }
        }
        assert_eq!((busy.sends(), healthy.sends()), (4, 0));
        let ids: BTreeSet<_> = busy.log(|log| {
            let ids = log
                .of(SEND_MESSAGE_V2)
                .map(|request| request.field("e").to_owned());
            ids.collect()
        });
        assert_eq!(ids, BTreeSet::from(["2".to_owned()]));
    });
}

#[test]
fn it_has_the_whole_time_for_its_one_attempt() {
    within(PATIENCE, || {
        let silent = FakeServer::broker(|_, _| {});
        let healthy = FakeServer::healthy_broker();
        let name_server =
            FakeServer::name_server(&[("healthy", healthy.address()), ("silent", silent.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let aimed = producer
            .to(MessageQueue::new("orders", "silent", 0))
            .timeout(milliseconds(600));
        let (result, took) = timed(|| aimed.send(&message("orders")));
        assert_says(&result.expect_err("nobody answers"), &["1 attempt", "silent#0"]);
        assert_took(took, milliseconds(600), milliseconds(600) + GRACE);
        let (outcome, took) = timed(|| async_to(&aimed, message("orders")));
        assert_says(
            &outcome.expect_err("nobody answers").error,
            &["1 attempt", "silent#0"],
        );
        assert_took(took, milliseconds(600), milliseconds(600) + GRACE);
        assert_eq!((silent.sends(), healthy.sends()), (2, 0));
    });
}

#[test]
fn the_last_word_on_the_queue_is_the_brokers() {
    within(PATIENCE, || {
        let broker = FakeServer::broker(|request, peer| {
            let fields = serde_json::json!({"msgId": "7F00000100002A9F0000000000000001", "queueId": "3", "queueOffset": "9"});
            peer.answer(request, 0, &fields, b"");
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let result = producer
            .to(MessageQueue::new("orders", "broker-a", 0))
            .send(&message("orders"))
            .unwrap();
        assert_eq!(result.queue.to_string(), "orders@broker-a#3");
    });
}
