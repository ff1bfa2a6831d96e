//! A message comes to consumers when it is meant to, or its sender is told that it will not; and it can be taken back.

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
    sync::mpsc,
    time::{Duration, SystemTime},
};

use rocketmq_producer::{
    AutoBatch, Batch, Delivery, Error, Message, MessageBuilder, MessageQueue, Producer, RequestCode,
    ResponseCode, Target,
    mock::{MockCluster, ServerVersion},
};
use support::{
    GRACE, PATIENCE, assert_says, assert_took, both_ways, fake_server::FakeServer, message, producer_for,
    send_async_and_wait, timed, within,
};

const MINUTE: Duration = Duration::from_secs(60);

fn later(body: &str) -> MessageBuilder {
    Message::builder("orders").tags("later").body(body)
}

fn in_a_minute() -> Message {
    later("in a minute").delay(MINUTE).build().unwrap()
}

fn bodies(cluster: &MockCluster, topic: &str) -> Vec<String> {
    let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
    cluster
        .messages(topic)
        .into_iter()
        .map(|message| text(message.body))
        .collect()
}

/// A cluster with one topic, and a producer of it.
fn cluster_and_producer(version: ServerVersion) -> (MockCluster, Producer) {
    let cluster = MockCluster::builder()
        .speaks(version)
        .recalls(true)
        .start()
        .unwrap();
    cluster.create_topic("orders", 4);
    let producer = producer_for(cluster.name_servers()).start().unwrap();
    (cluster, producer)
}

/// Sends that no broker has received, of all brokers and codes.
fn sends(cluster: &MockCluster) -> u64 {
    cluster.requests(RequestCode::SEND_MESSAGE_V2)
}

#[test]
fn a_delay_level_is_waited_for_on_all_releases() {
    within(PATIENCE, || {
        for version in [
            ServerVersion::V4_7_0,
            ServerVersion::V4_9_7,
            ServerVersion::V5_5_0,
        ] {
            let (cluster, producer) = cluster_and_producer(version);
            let (result, took) = timed(|| {
                let result = producer
                    .send(&later("level 1").delay_level(1).build().unwrap())
                    .unwrap();
                assert_eq!(
                    (
                        cluster.message_count("orders"),
                        cluster.waiting_messages("orders")
                    ),
                    (0, 1)
                );
                assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 1));
                result
            });
            assert_took(took, Duration::from_secs(1), PATIENCE);
            assert_eq!(result.recall_handle(), None);
            let delivered = &cluster.messages("orders")[0];
            assert_eq!(delivered.body, b"level 1");
            assert_eq!(delivered.message_id, Some(result.message_id));
            assert_eq!(delivered.queue_id, result.queue.queue_id());
            // The result is of the copy in the brokers' own topic.
            let waited = &cluster.messages("SCHEDULE_TOPIC_XXXX")[0];
            assert_eq!(waited.offset_message_id, result.offset_message_id);
            assert_eq!(waited.property("REAL_TOPIC"), Some("orders"));
        }
    });
}

#[test]
fn each_way_to_say_when_is_heeded() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        let at = SystemTime::now() + 3 * MINUTE;
        for message in [
            later("level 5").delay_level(5),
            later("delay").delay(2 * MINUTE),
            later("at").deliver_at(at),
        ] {
            producer.send(&message.build().unwrap()).unwrap();
        }
        producer.send(&message("orders")).unwrap();
        let mut expected = vec!["Hello RocketMQ"];
        assert_eq!(bodies(&cluster, "orders"), expected);
        for next in ["level 5", "delay", "at"] {
            cluster.let_time_pass(MINUTE / 2);
            assert_eq!(bodies(&cluster, "orders"), expected, "before {next}");
            cluster.let_time_pass(Duration::from_secs(32));
            expected.push(next);
            assert_eq!(bodies(&cluster, "orders"), expected);
        }
        assert_eq!(cluster.waiting_messages("orders"), 0);
    });
}

#[test]
fn a_timer_message_never_comes_early() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        let delay = Duration::from_millis(1200);
        let ((), took) = timed(|| {
            producer
                .send(&later("soon").delay(delay).build().unwrap())
                .unwrap();
            assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 1));
        });
        assert_took(took, delay, PATIENCE);
    });
}

/// 4.x brokers deliver such messages at once and say nothing.
#[test]
fn what_the_broker_would_ignore_is_not_sent_to_it() {
    within(PATIENCE, || {
        for (version, number) in [(ServerVersion::V4_7_0, "353"), (ServerVersion::V4_9_7, "407")] {
            let (cluster, producer) = cluster_and_producer(version);
            let at = SystemTime::now() + MINUTE;
            for (message, what) in [
                (in_a_minute(), "a timer message needs brokers of 5.0.0"),
                (
                    later("at").deliver_at(at).build().unwrap(),
                    "a timer message needs brokers of 5.0.0",
                ),
                (
                    later("priority").priority(1).build().unwrap(),
                    "a message with a priority needs brokers of 5.4.0",
                ),
            ] {
                for error in both_ways(&producer, &message) {
                    assert_eq!(error.delivery(), Delivery::NotStored);
                    // One broker, asked once: it will not grow younger.
                    assert_eq!(error.attempts().len(), 1, "{error}");
                    let version = format!("its version number is {number}");
                    assert_says(&error, &[what, &version, "127.0.0.1", "broker-a"]);
                }
                let queue = MessageQueue::new("orders", "broker-a", 0);
                let aimed = producer.to(queue).ordered(true).send(&message).unwrap_err();
                assert_eq!(aimed.attempts().len(), 1, "{aimed}");
                let oneway = producer.send_oneway(&message).unwrap_err();
                assert!(matches!(oneway, Error::NotSupported { .. }), "{oneway:?}");
            }
            assert_eq!(sends(&cluster), 0);
            producer.send(&message("orders")).unwrap();
        }
    });
}

#[test]
fn a_delivery_timeout_does_not_wait_for_brokers_to_grow_younger() {
    within(PATIENCE, || {
        let (cluster, _) = cluster_and_producer(ServerVersion::V4_9_7);
        let producer = producer_for(cluster.name_servers())
            .delivery_timeout(Duration::from_secs(600))
            .start()
            .unwrap();
        let (errors, took) = timed(|| both_ways(&producer, &in_a_minute()));
        assert!(took < GRACE, "{took:?}");
        assert_says(&errors[0], &["a timer message needs brokers of 5.0.0"]);
    });
}

/// As while a cluster is being upgraded.
#[test]
fn among_brokers_of_several_releases_one_that_can_is_found() {
    within(PATIENCE, || {
        let (old, _) = cluster_and_producer(ServerVersion::V4_9_7);
        let new = MockCluster::start(2).unwrap();
        new.create_topic("orders", 4);
        let name_server = FakeServer::name_server(&[
            ("broker-a", old.broker_address("broker-a").unwrap()),
            ("broker-b", new.broker_address("broker-b").unwrap()),
        ]);
        let producer = producer_for(name_server.address()).start().unwrap();
        for _ in 0..8 {
            producer.send(&in_a_minute()).unwrap();
            send_async_and_wait(&producer, in_a_minute()).unwrap();
        }
        assert_eq!((old.message_count("orders"), sends(&old)), (0, 0));
        assert_eq!(new.waiting_messages("orders"), 16);
        // What asks for nothing goes to both.
        for _ in 0..8 {
            producer.send(&message("orders")).unwrap();
        }
        assert!(old.message_count("orders") > 0 && new.message_count("orders") > 0);
    });
}

/// The first message on a connection may be one whose broker has not said a word yet.
#[test]
fn a_broker_is_asked_for_its_release_before_the_first_timer_message() {
    within(PATIENCE, || {
        for way in ["blocking", "asynchronous", "oneway"] {
            let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
            match way {
                "blocking" => drop(producer.send(&in_a_minute()).unwrap()),
                "asynchronous" => drop(send_async_and_wait(&producer, in_a_minute()).unwrap()),
                _ => producer.send_oneway(&in_a_minute()).unwrap(),
            }
            assert!(
                cluster.wait_until(PATIENCE, |cluster| cluster.waiting_messages("orders") == 1),
                "{way}"
            );
            assert!(cluster.heartbeats() > 0);
        }
    });
}

#[test]
fn a_broker_that_does_not_tell_its_release_gets_no_timer_message_and_all_others() {
    within(PATIENCE, || {
        let (cluster, _) = cluster_and_producer(ServerVersion::V5_5_0);
        let timeout = Duration::from_millis(500);
        let producer = producer_for(cluster.name_servers())
            .send_timeout(timeout)
            .start()
            .unwrap();
        let silence = cluster
            .any_broker()
            .on(RequestCode::HEART_BEAT)
            .always()
            .silence();
        // A connection that takes the place of another begins with it.
        let farewell = cluster
            .any_broker()
            .on(RequestCode::UNREGISTER_CLIENT)
            .always()
            .silence();
        let (errors, took) = timed(|| both_ways(&producer, &in_a_minute()));
        assert!(took < 2 * timeout + GRACE, "{took:?}");
        for error in errors {
            assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
        }
        assert!(producer.send_oneway(&in_a_minute()).is_err());
        assert_eq!(sends(&cluster), 0);
        // Its first answer tells its release.
        producer.send(&message("orders")).unwrap();
        producer.send(&in_a_minute()).unwrap();
        assert_eq!(cluster.waiting_messages("orders"), 1);
        silence.clear();
        farewell.clear();
    });
}

#[test]
fn a_recalled_message_never_comes() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        let results: Vec<_> = (0..3)
            .map(|number| {
                let message = later(&format!("number {number}")).delay(MINUTE).build().unwrap();
                producer.send(&message).unwrap()
            })
            .collect();
        let handle = results[1].recall_handle().unwrap();
        assert_eq!(producer.recall("orders", handle).unwrap(), results[1].message_id);
        assert_eq!(producer.recall("orders", handle).unwrap(), results[1].message_id);
        // Another producer may do it too.
        let other = producer_for(cluster.name_servers()).start().unwrap();
        let handle = results[2].recall_handle().unwrap();
        assert_eq!(other.recall("orders", handle).unwrap(), results[2].message_id);
        cluster.let_time_pass(2 * MINUTE);
        assert_eq!(bodies(&cluster, "orders"), ["number 0"]);
        let error = producer.recall("orders", handle).unwrap_err();
        assert_eq!(
            error.response_code(),
            Some(ResponseCode::ILLEGAL_OPERATION),
            "{error}"
        );
        let plain = producer.send(&message("orders")).unwrap();
        assert_eq!(plain.recall_handle(), None);
    });
}

#[test]
fn a_recall_that_cannot_be_says_why() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        let recalls = || cluster.requests(RequestCode::RECALL_MESSAGE);
        let result = producer.send(&in_a_minute()).unwrap();
        let handle = result.recall_handle().unwrap();
        for (topic, text, parts) in [
            ("orders", "", &["no recall handle"][..]),
            (
                "orders",
                result.message_id.as_str(),
                &["no recall handle", result.message_id.as_str()],
            ),
            (
                "payments",
                handle,
                &["of a message for topic \"orders\"", "\"payments\""],
            ),
            ("no topic", handle, &["\"no topic\" contains ' '"]),
        ] {
            let error = producer.recall(topic, text).unwrap_err();
            assert!(matches!(error, Error::InvalidQuery { .. }), "{error:?}");
            assert_says(&error, parts);
        }
        // v1 orders broker-z 1999999999999 7F0000010A5C00000001000000000001
        let elsewhere =
            "djEgb3JkZXJzIGJyb2tlci16IDE5OTk5OTk5OTk5OTkgN0YwMDAwMDEwQTVDMDAwMDAwMDEwMDAwMDAwMDAwMDE=";
        let error = producer.recall("orders", elsewhere).unwrap_err();
        assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
        assert_says(&error, &["broker-z", "orders"]);
        assert_eq!(recalls(), 0);
        assert!(producer.shutdown(PATIENCE).is_clean());
        assert!(matches!(producer.recall("orders", handle), Err(Error::ShutDown)));

        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let result = producer.send(&in_a_minute()).unwrap();
        let error = producer
            .recall("orders", result.recall_handle().unwrap())
            .unwrap_err();
        assert_eq!(error.response_code(), Some(ResponseCode::NO_PERMISSION));
        assert_says(&error, &["operation is forbidden", "127.0.0.1"]);

        for version in [ServerVersion::V4_7_0, ServerVersion::V4_9_7] {
            let (cluster, producer) = cluster_and_producer(version);
            let (error, took) = timed(|| producer.recall("orders", handle).unwrap_err());
            assert!(matches!(error, Error::NotSupported { .. }), "{error:?}");
            assert_says(&error, &["a recall needs brokers of 5.3.2"]);
            assert!(took < GRACE, "4.7.0 would not answer: {took:?}");
            assert_eq!(cluster.requests(RequestCode::RECALL_MESSAGE), 0);
        }
    });
}

#[test]
fn a_recall_without_an_answer_ends_with_the_send_timeout() {
    within(PATIENCE, || {
        let (cluster, _) = cluster_and_producer(ServerVersion::V5_5_0);
        let timeout = Duration::from_millis(300);
        let producer = producer_for(cluster.name_servers())
            .send_timeout(timeout)
            .start()
            .unwrap();
        let result = producer.send(&in_a_minute()).unwrap();
        let silence = cluster
            .any_broker()
            .on(RequestCode::RECALL_MESSAGE)
            .always()
            .silence();
        let (error, took) = timed(|| {
            producer
                .recall("orders", result.recall_handle().unwrap())
                .unwrap_err()
        });
        assert!(error.is_timeout(), "{error:?}");
        assert_took(took, timeout, timeout + GRACE);
        silence.clear();
    });
}

#[test]
fn a_delay_that_cannot_be_is_refused_before_anything_leaves() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let days = |days: u32| 24 * 60 * MINUTE * days;
        for (message, part) in [
            (
                later("x").delay_level(19),
                "delay level 19 is over the limit max_delay_level of 18",
            ),
            (
                later("x").delay(days(3) + second),
                "over the limit max_timer_delay of 259200s",
            ),
            (
                later("x").deliver_at(now + days(3) + 2 * second),
                "over the limit max_timer_delay of 259200s",
            ),
            (later("x").deliver_at(now - second), "its delivery time passed "),
        ] {
            let message = message.build().unwrap();
            for error in both_ways(&producer, &message) {
                assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
                assert_says(&error, &[part, "orders"]);
            }
            let error = producer.send_oneway(&message).unwrap_err();
            assert_says(&error, &[part]);
        }
        assert_eq!(cluster.requests(RequestCode::GET_ROUTEINFO_BY_TOPIC), 0);
        assert_eq!(sends(&cluster), 0);
    });
}

#[test]
fn the_limits_of_delays_can_be_set_and_the_brokers_are_their_own() {
    within(PATIENCE, || {
        let (cluster, _) = cluster_and_producer(ServerVersion::V5_5_0);
        let days = |days: u32| 24 * 60 * MINUTE * days;
        let producer = producer_for(cluster.name_servers())
            .max_delay_level(20)
            .max_timer_delay(days(30))
            .start()
            .unwrap();
        // A broker with more levels would wait longer; this one lowers it to its highest.
        producer
            .send(&later("x").delay_level(20).build().unwrap())
            .unwrap();
        let error = producer
            .send(&later("x").delay(days(10)).build().unwrap())
            .unwrap_err();
        assert_eq!(error.delivery(), Delivery::Refused);
        assert_eq!(error.response_code(), Some(ResponseCode::MESSAGE_ILLEGAL));
        assert_says(&error, &["timer message illegal"]);
        let shorter = producer_for(cluster.name_servers())
            .max_timer_delay(MINUTE)
            .start()
            .unwrap();
        assert!(
            shorter
                .send(&later("x").delay(2 * MINUTE).build().unwrap())
                .is_err()
        );
        shorter.send(&in_a_minute()).unwrap();
    });
}

/// A time that is full or a timer that is off is a refusal that is certain.
#[test]
fn a_timer_that_refuses_has_not_stored_the_message() {
    within(PATIENCE, || {
        let (cluster, _) = cluster_and_producer(ServerVersion::V5_5_0);
        let producer = producer_for(cluster.name_servers()).retries(0).start().unwrap();
        for remark in [
            "timer message is under flow control, max num limit is 2 or the current value is greater than 1",
            "accurate timer message is not enabled, timerWheelEnable is false",
        ] {
            let sends = cluster.any_broker().on(RequestCode::SEND_MESSAGE_V2).once();
            sends.reply(ResponseCode::SYSTEM_ERROR, remark);
            let error = producer.send(&in_a_minute()).unwrap_err();
            assert_eq!(error.delivery(), Delivery::Refused, "{error}");
        }
    });
}

#[test]
fn a_priority_chooses_the_queue() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        for (priority, queue_id) in [(0, 0), (2, 2), (3, 3), (9, 3)] {
            let message = later("now").priority(priority).build().unwrap();
            let result = producer.send(&message).unwrap();
            assert_eq!(result.queue.queue_id(), queue_id);
            let aimed = producer.to(Target::key("any")).send(&message).unwrap();
            assert_eq!(aimed.queue.queue_id(), queue_id);
        }
        assert_eq!(cluster.message_count("orders"), 8);
        let stored = cluster.messages("orders");
        assert!(
            stored
                .iter()
                .all(|message| message.property("_SYS_MSG_PRIORITY_").is_some())
        );
    });
}

/// Brokers ignore what a message in a batch asks for.
#[test]
fn what_asks_for_something_goes_in_no_batch() {
    within(PATIENCE, || {
        let cluster = MockCluster::builder().recalls(true).start().unwrap();
        cluster.create_topic("orders", 4);
        let producer = producer_for(cluster.name_servers())
            .auto_batch(AutoBatch::default().hold(GRACE))
            .start()
            .unwrap();
        let asking = [
            later("level").delay_level(5).build().unwrap(),
            in_a_minute(),
            later("priority").priority(2).build().unwrap(),
        ];
        for message in &asking {
            let error = Batch::new([later("plain").build().unwrap(), message.clone()]).unwrap_err();
            assert_says(&error, &["message 1", "cannot be in the batch"]);
        }
        let (sender, outcomes) = mpsc::channel();
        for message in asking {
            for message in [later("plain").build().unwrap(), message] {
                let sender = sender.clone();
                producer.send_async(message, move |outcome| sender.send(outcome).unwrap());
            }
        }
        producer.flush(PATIENCE).unwrap();
        let results: Vec<_> = outcomes.try_iter().map(Result::unwrap).collect();
        assert_eq!(results.len(), 6);
        let recallable = results.iter().filter(|result| result.recall_handle().is_some());
        assert_eq!(recallable.count(), 1);
        assert_eq!(cluster.waiting_messages("orders"), 2);
        assert_eq!(
            (cluster.requests(RequestCode::SEND_BATCH_MESSAGE), sends(&cluster)),
            (1, 3)
        );
        let messages = cluster.messages("orders");
        let priority = messages.iter().find(|message| message.body == b"priority");
        assert_eq!(priority.unwrap().queue_id, 2);
    });
}

#[test]
fn messages_that_wait_go_with_their_topic_and_their_cluster() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster_and_producer(ServerVersion::V5_5_0);
        producer.send(&in_a_minute()).unwrap();
        cluster.delete_topic("orders");
        cluster.let_time_pass(2 * MINUTE);
        assert_eq!(cluster.message_count("orders"), 0);
        let (done, ended) = mpsc::channel();
        producer.send_async(in_a_minute(), move |outcome| done.send(outcome.is_ok()).unwrap());
        assert!(ended.recv_timeout(PATIENCE).unwrap());
        let ((), took) = timed(|| drop(cluster));
        assert!(took < PATIENCE, "{took:?}");
    });
}
