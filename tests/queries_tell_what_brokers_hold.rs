//! Queries tell what brokers hold, on every release alike; what is wrong is told before anything leaves; a broker that is
//! down is named, and what the others hold is told all the same.

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
    net::SocketAddr,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rocketmq_producer::{
    Boundary, Error, Message, MessageId, MessageQueue, NewTopic, OffsetMessageId, Producer, RequestCode,
    ResponseCode, SendResult, StoredMessage, Target,
    mock::{MockAction, MockCluster, ServerVersion},
};
use serde_json::json;
use support::{
    GRACE, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, RefusingAddress},
    milliseconds, producer_for, timed, within,
};

const VERSIONS: [ServerVersion; 3] = [
    ServerVersion::V4_7_0,
    ServerVersion::V4_9_7,
    ServerVersion::V5_5_0,
];

/// All requests that a query sends to a broker.
const QUERIES: [RequestCode; 7] = [
    RequestCode::GET_MIN_OFFSET,
    RequestCode::GET_MAX_OFFSET,
    RequestCode::SEARCH_OFFSET_BY_TIMESTAMP,
    RequestCode::GET_EARLIEST_MSG_STORETIME,
    RequestCode::VIEW_MESSAGE_BY_ID,
    RequestCode::QUERY_MESSAGE,
    RequestCode::UPDATE_AND_CREATE_TOPIC,
];

/// Two brokers with two queues of `orders` each.
fn cluster(version: ServerVersion) -> MockCluster {
    let cluster = MockCluster::builder().brokers(2).speaks(version).start().unwrap();
    cluster.create_topic("orders", 2);
    cluster
}

fn producer(cluster: &MockCluster) -> Producer {
    producer_for(cluster.name_servers()).start().unwrap()
}

/// Sends to the queue of this index.
fn send(producer: &Producer, queue: usize, key: &str, body: &str) -> SendResult {
    let message = Message::builder("orders").keys([key]).body(body).build().unwrap();
    let target = Target::select(move |_, _| queue);
    producer.to(target).send(&message).unwrap()
}

fn time(timestamp_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(timestamp_ms).unwrap())
}

/// Waits until the clock shows another millisecond.
fn next_millisecond() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let then = now();
    while now() < then + 2 {
        std::thread::yield_now();
    }
}

fn bodies(messages: &[StoredMessage]) -> Vec<String> {
    let text = |message: &StoredMessage| String::from_utf8(message.body().to_vec()).unwrap();
    messages.iter().map(text).collect()
}

fn asked(cluster: &MockCluster) -> u64 {
    QUERIES.into_iter().map(|code| cluster.requests(code)).sum()
}

#[test]
fn the_positions_of_a_queue() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            let queues = producer.publish_queues("orders").unwrap();
            for queue in &queues {
                assert_eq!(producer.min_offset(queue).unwrap(), 0);
                assert_eq!(producer.max_offset(queue).unwrap(), 0);
                assert_eq!(producer.earliest_store_time(queue).unwrap(), None);
                let now = SystemTime::now();
                for boundary in [Boundary::Lower, Boundary::Upper] {
                    assert_eq!(producer.search_offset(queue, now, boundary).unwrap(), 0);
                }
            }
            for number in 0..3 {
                send(&producer, 1, "k", &number.to_string());
                next_millisecond();
            }
            send(&producer, 2, "k", "elsewhere");
            let ends: Vec<_> = queues
                .iter()
                .map(|queue| producer.max_offset(queue).unwrap())
                .collect();
            assert_eq!(ends, [0, 3, 1, 0], "{version}");
            let stored = cluster.messages("orders");
            let times: Vec<_> = stored[..3]
                .iter()
                .map(|message| message.store_timestamp_ms)
                .collect();
            let queue = &queues[1];
            assert_eq!(producer.earliest_store_time(queue).unwrap(), Some(time(times[0])));
            let search = |ms: i64, boundary| producer.search_offset(queue, time(ms), boundary).unwrap();
            for (offset, ms) in (0..).zip(&times) {
                assert_eq!(search(*ms, Boundary::Lower), offset, "{version}");
                assert_eq!(search(*ms, Boundary::Upper), offset, "{version}");
            }
            let (before, behind) = (times[0] - 5, times[2] + 5);
            let lower = (search(before, Boundary::Lower), search(behind, Boundary::Lower));
            let upper = (search(before, Boundary::Upper), search(behind, Boundary::Upper));
            // 4.x gives the nearest message, whichever side is asked for.
            let expected_lower = if version == ServerVersion::V5_5_0 {
                (0, 3)
            } else {
                (0, 2)
            };
            assert_eq!((lower, upper), (expected_lower, (0, 2)), "{version}");
        }
    });
}

#[test]
fn a_message_by_either_of_its_ids() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            let results: Vec<_> = (0..4)
                .map(|queue| send(&producer, queue, "k", &queue.to_string()))
                .collect();
            for (number, result) in results.iter().enumerate() {
                let by_sender = producer.view_message("orders", result.message_id).unwrap();
                let by_broker = producer.view_message("orders", result.offset_message_id).unwrap();
                let by_text = producer
                    .view_message("orders", result.message_id.as_str())
                    .unwrap();
                let by_brokers_text = producer
                    .view_message("orders", result.offset_message_id.as_str())
                    .unwrap();
                let broker = result.queue.broker_name();
                let on_broker = producer.view_message_on(broker, "orders", result.offset_message_id);
                let message = by_sender.expect("it is stored");
                assert_eq!(message.body(), number.to_string().as_bytes());
                assert_eq!(message.queue(), &*result.queue);
                assert_eq!(message.queue_offset(), result.queue_offset);
                assert_eq!(message.message_id(), result.message_id);
                assert_eq!(message.offset_message_id(), result.offset_message_id);
                assert_eq!(message.keys().collect::<Vec<_>>(), ["k"]);
                for other in [by_broker, by_text, by_brokers_text, on_broker.unwrap()] {
                    assert_eq!(other.as_ref(), Some(&message), "{version}");
                }
            }
            // What the broker was asked for tells which way was taken: twice by each kind, to one broker or to both.
            assert_eq!(cluster.requests(RequestCode::QUERY_MESSAGE), 4 * 2 * 2);
            assert_eq!(cluster.requests(RequestCode::VIEW_MESSAGE_BY_ID), 4 * 3);
        }
    });
}

#[test]
fn a_message_that_is_not_there() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            let result = send(&producer, 0, "k", "first");
            let unknown = MessageId::from_text("7F0000010A5C00000001000000000001").unwrap();
            assert_eq!(
                producer.view_message("orders", unknown).unwrap(),
                None,
                "{version}"
            );
            let text = result.offset_message_id.as_str();
            let beyond = format!("{}{:016X}", &text[..16], 1_u64 << 40);
            let beyond = OffsetMessageId::from_text(&beyond).unwrap();
            assert_eq!(producer.view_message("orders", beyond).unwrap(), None);
            assert_eq!(producer.view_message("orders", beyond.as_str()).unwrap(), None);
            assert_eq!(
                producer.view_message_on("broker-a", "orders", beyond).unwrap(),
                None
            );
            // The index has it under its own topic.
            cluster.create_topic("others", 1);
            assert_eq!(producer.view_message("others", result.message_id).unwrap(), None);
        }
    });
}

#[test]
fn the_first_copy_of_a_message_that_was_sent_twice() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V5_5_0);
        let producer = producer(&cluster);
        let sends = cluster.any_broker().on(RequestCode::SEND_MESSAGE_V2);
        sends.once().after_store().reset();
        let result = producer.send(&Message::new("orders", "twice").unwrap()).unwrap();
        assert_eq!(
            cluster.copies_by_message_id("orders")[result.message_id.as_str()],
            2
        );
        let found = producer
            .view_message("orders", result.message_id)
            .unwrap()
            .unwrap();
        let first = &cluster.messages("orders")[0];
        assert_eq!(found.offset_message_id(), first.offset_message_id);
    });
}

#[test]
fn an_address_in_an_id_is_never_connected_to_unless_it_is_a_brokers() {
    within(PATIENCE, || {
        let trap = FakeServer::silent();
        let SocketAddr::V4(address) = trap.address() else {
            panic!("loopback is IPv4")
        };
        let digits = format!("7F000001{:08X}0000000000000000", address.port());
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            // Text may be a sender's id, so that is what it is taken for.
            assert_eq!(producer.view_message("orders", digits.as_str()).unwrap(), None);
            assert_eq!(cluster.requests(RequestCode::QUERY_MESSAGE), 2);
            let id = OffsetMessageId::from_text(&digits).unwrap();
            let error = producer
                .view_message("orders", id)
                .expect_err("a strange address");
            assert!(matches!(error, Error::InvalidQuery { .. }), "{error:?}");
            let strange = address.to_string();
            assert_says(
                &error,
                &[&strange, "orders", "broker-a, broker-b", "view_message_on()"],
            );
        }
        assert_eq!(trap.log(|log| log.accepted), 0);
    });
}

#[test]
fn messages_by_key() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            let mut results = Vec::new();
            for (number, queue) in [0, 2, 1, 3, 0].into_iter().enumerate() {
                results.push(send(&producer, queue, "order-1", &number.to_string()));
                next_millisecond();
            }
            send(&producer, 0, "order-2", "another");
            let twice = Message::builder("orders").keys(["x", "y", "x"]).body("twice");
            producer.send(&twice.build().unwrap()).unwrap();
            let found = producer.query_messages("orders", "order-1", 32, ..).unwrap();
            assert_eq!(bodies(&found.messages), ["0", "1", "2", "3", "4"], "{version}");
            assert!(found.failed.is_empty() && found.indexed_until.is_some());
            for (message, result) in found.messages.iter().zip(&results) {
                assert_eq!(message.message_id(), result.message_id);
                assert_eq!(message.queue(), &*result.queue);
            }
            // The newest, in the order in which they were stored.
            let found_at_most = |most| {
                let found = producer.query_messages("orders", "order-1", most, ..);
                bodies(&found.unwrap().messages)
            };
            assert_eq!(found_at_most(2), ["3", "4"]);
            assert_eq!(found_at_most(u32::MAX).len(), 5);
            let nothing = producer.query_messages("orders", "order", 32, ..).unwrap();
            assert!(nothing.messages.is_empty() && nothing.indexed_until.is_none());
            let twice = producer.query_messages("orders", "x", 32, ..).unwrap();
            assert_eq!(bodies(&twice.messages), ["twice"]);
            assert_eq!(twice.messages[0].keys().count(), 3);
        }
    });
}

#[test]
fn messages_by_key_and_time_to_the_millisecond() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            for number in 0..5 {
                send(&producer, 0, "k", &number.to_string());
                next_millisecond();
            }
            let stored = cluster.messages("orders");
            let at = |number: usize| time(stored[number].store_timestamp_ms);
            let found = |range: (Bound<SystemTime>, Bound<SystemTime>)| {
                bodies(
                    &producer
                        .query_messages("orders", "k", 32, range)
                        .unwrap()
                        .messages,
                )
            };
            let (from, until, before) = (Bound::Included, Bound::Included, Bound::Excluded);
            // All lie in the same second, which the index cannot tell apart.
            assert_eq!(found((from(at(1)), until(at(3)))), ["1", "2", "3"], "{version}");
            assert_eq!(found((from(at(1)), before(at(3)))), ["1", "2"]);
            assert_eq!(found((from(at(4)), Bound::Unbounded)), ["4"]);
            assert_eq!(found((Bound::Unbounded, before(at(1)))), ["0"]);
            assert!(found((from(at(2)), before(at(2)))).is_empty());
            let later = SystemTime::now() + Duration::from_secs(3600);
            assert!(found((from(later), Bound::Unbounded)).is_empty());
        }
    });
}

#[test]
fn a_new_topic_is_there_when_it_is_said_to_be() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            // Known so far as what the first message would create.
            assert_eq!(producer.publish_queues("fresh").unwrap().len(), 2 * 4);
            let created = producer.create_topic(&NewTopic::new("fresh", 6)).unwrap();
            let names: Vec<_> = created.brokers.iter().map(|name| &**name).collect();
            assert_eq!(names, ["broker-a", "broker-b"]);
            assert!(created.is_routed);
            let queues = producer.publish_queues("fresh").unwrap();
            assert_eq!(queues.len(), 2 * 6, "{version}");
            assert_eq!(producer.max_offset(&queues[11]).unwrap(), 0);
            producer
                .to(queues[11].clone())
                .send(&Message::new("fresh", "x").unwrap())
                .unwrap();
            assert_eq!(producer.max_offset(&queues[11]).unwrap(), 1);
            // Again, with more queues.
            producer.create_topic(&NewTopic::new("fresh", 8)).unwrap();
            assert_eq!(producer.publish_queues("fresh").unwrap().len(), 2 * 8);
        }
    });
}

#[test]
fn a_topic_is_created_on_the_brokers_of_another() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = MockCluster::builder()
                .brokers(3)
                .auto_create_topics(false)
                .speaks(version)
                .start()
                .unwrap();
            cluster.record_requests();
            let producer = producer(&cluster);
            cluster.broker("broker-c").set_queues("elsewhere", 1);
            let new = NewTopic::new("fresh", 2).sys_flag(1);
            let error = producer.create_topic(&new).expect_err("there is no template");
            assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
            assert_says(&error, &["TBW102"]);
            let created = producer
                .create_topic(&new.clone().where_topic("elsewhere"))
                .unwrap();
            assert_eq!(created.brokers, ["broker-c".into()]);
            let created = producer.create_topic(&new.where_topic("DefaultCluster")).unwrap();
            assert_eq!(created.brokers.len(), 3);
            let request = cluster.request_log().into_iter().rev();
            let request = request
                .into_iter()
                .find(|request| request.code == RequestCode::UPDATE_AND_CREATE_TOPIC)
                .unwrap();
            for (field, value) in [
                ("topic", "fresh"),
                ("defaultTopic", "DefaultCluster"),
                ("readQueueNums", "2"),
                ("writeQueueNums", "2"),
                ("perm", "6"),
                ("topicSysFlag", "1"),
                ("order", "false"),
                ("topicFilterType", "SINGLE_TAG"),
            ] {
                assert_eq!(request.field(field), Some(value), "{field}");
            }
        }
    });
}

#[test]
fn a_topic_that_name_servers_do_not_tell_of_in_time_is_created_all_the_same() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V5_5_0);
        let producer = producer(&cluster);
        let routes = cluster.name_server(0).on(RequestCode::GET_ROUTEINFO_BY_TOPIC);
        routes
            .topic("fresh")
            .always()
            .reply(ResponseCode::TOPIC_NOT_EXIST, "not yet");
        let queries = producer.queries(milliseconds(400));
        let (created, took) = timed(|| queries.create_topic(&NewTopic::new("fresh", 2)).unwrap());
        assert!(!created.is_routed);
        assert_eq!(created.brokers.len(), 2);
        assert_took(took, milliseconds(400), milliseconds(400) + GRACE);
    });
}

/// That a query is refused with these words before any broker is asked.
#[track_caller]
fn assert_invalid<R: std::fmt::Debug>(cluster: &MockCluster, answer: Result<R, Error>, says: &[&str]) {
    let error = answer.expect_err("it is wrong");
    assert!(matches!(error, Error::InvalidQuery { .. }), "{error:?}");
    assert_says(&error, says);
    assert_eq!(asked(cluster), 0, "{error}");
}

#[test]
fn bad_input_is_told_before_anything_leaves() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            for (topic, broker, queue_id, says) in [
                (
                    "orders",
                    "broker-a",
                    2,
                    "topic orders has 2 queues on broker broker-a",
                ),
                (
                    "orders",
                    "broker-x",
                    0,
                    "topic orders is on brokers broker-a, broker-b",
                ),
                ("bad topic", "broker-a", 0, "\"bad topic\" contains ' '"),
                ("", "", 0, "the topic is blank"),
            ] {
                let queue = MessageQueue::new(topic, broker, queue_id);
                assert_invalid(&cluster, producer.min_offset(&queue), &[says]);
                assert_invalid(&cluster, producer.max_offset(&queue), &[says]);
                assert_invalid(&cluster, producer.earliest_store_time(&queue), &[says]);
                let searched = producer.search_offset(&queue, SystemTime::now(), Boundary::Lower);
                assert_invalid(&cluster, searched, &[says]);
            }
            let long = "A".repeat(500);
            for text in [
                "",
                "order-1",
                "7F00000100002A9F000000000000012",
                "7F00000100002A9F00000000000001XY",
                long.as_str(),
            ] {
                let says = ["no message id", "32, 34 or 56 hexadecimal digits"];
                assert_invalid(&cluster, producer.view_message("orders", text), &says);
            }
            for (text, says) in [
                ("x", "32 or 56 digits, not 1"),
                ("7F000001000100000000000000000126", "port 65536"),
                ("7F000001000000000000000000000126", "port 0"),
                ("7F00000100002A9FFFFFFFFFFFFFFFFF", "offset 18446744073709551615"),
            ] {
                let id = OffsetMessageId::from_text(text).unwrap();
                assert_invalid(&cluster, producer.view_message("orders", id), &[text, says]);
                let on_broker = producer.view_message_on("broker-a", "orders", id);
                assert_invalid(&cluster, on_broker, &[text, says]);
            }
            let id = OffsetMessageId::from_text("7F00000100002A9F0000000000000126").unwrap();
            let says = ["no broker \"broker-x\"", "broker-a, broker-b"];
            assert_invalid(
                &cluster,
                producer.view_message_on("broker-x", "orders", id),
                &says,
            );
            let key = |key, most| producer.query_messages("orders", key, most, ..);
            assert_invalid(&cluster, key("", 1), &["the key is empty"]);
            assert_invalid(&cluster, key("a b", 1), &["\"a b\" contains a space"]);
            assert_invalid(&cluster, key("k", 0), &["at most 0 messages"]);
            let now = SystemTime::now();
            let turned_round = now..now - Duration::from_secs(1);
            let answer = producer.query_messages("orders", "k", 1, turned_round);
            assert_invalid(&cluster, answer, &["ends before it begins"]);
            let answer = producer.query_messages("bad/topic", "k", 1, ..);
            assert_invalid(&cluster, answer, &["'/'"]);
        }
    });
}

#[test]
fn a_topic_that_cannot_be_is_not_created() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            let long = "t".repeat(128);
            for (name, queues, says) in [
                ("", 1, "blank"),
                ("bad topic", 1, "contains ' '"),
                (long.as_str(), 1, "the limit is 127"),
                ("TBW102", 1, "belongs to the brokers"),
                ("SCHEDULE_TOPIC_XXXX", 1, "belongs to the brokers"),
                ("rmq_sys_mine", 1, "belongs to the brokers"),
                ("fresh", 0, "0 queues"),
                (
                    "fresh",
                    65_537,
                    "65537 queues on each of 1 broker(s); the limit is 65536",
                ),
                (
                    "fresh",
                    32_769,
                    "32769 queues on each of 2 broker(s); the limit is 65536",
                ),
                ("fresh", u32::MAX, "the limit is 65536"),
            ] {
                let created = producer.create_topic(&NewTopic::new(name, queues));
                assert_invalid(&cluster, created, &[says]);
            }
            let created = producer.create_topic(&NewTopic::new("fresh", 1).where_topic("a/b"));
            assert_invalid(&cluster, created, &["'/'"]);
            // A broker may have its own reasons.
            let broker = cluster.any_broker().on(RequestCode::UPDATE_AND_CREATE_TOPIC);
            broker.always().reply(ResponseCode::NO_PERMISSION, "not for you");
            let error = producer
                .create_topic(&NewTopic::new("fresh", 1))
                .expect_err("it is refused");
            assert_eq!(error.response_code(), Some(ResponseCode::NO_PERMISSION));
            let says = [
                "creating topic fresh failed on 2 of 2 brokers",
                "broker-a: 127.0.0.1:",
                "16 NO_PERMISSION: not for you",
                "broker-b: 127.0.0.1:",
            ];
            assert_says(&error, &says);
        }
    });
}

#[test]
fn a_topic_that_does_not_exist_is_not_asked_about() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V4_7_0);
        let producer = producer(&cluster);
        // Its queues are those that it would get: none of them exists.
        let queue = &producer.publish_queues("absent").unwrap()[0];
        let id = MessageId::from_text("7F0000010A5C00000001000000000001").unwrap();
        for error in [
            producer.max_offset(queue).expect_err("there is no such topic"),
            producer
                .query_messages("absent", "k", 1, ..)
                .expect_err("there is no such topic"),
            producer
                .view_message("absent", id)
                .expect_err("there is no such topic"),
        ] {
            assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
            assert_says(&error, &["topic absent", "does not know it"]);
        }
        assert_eq!(asked(&cluster), 0);
    });
}

#[test]
fn a_broker_that_is_down_is_named_and_the_others_are_heard() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = cluster(version);
            let producer = producer(&cluster);
            let here = send(&producer, 0, "k", "on broker-a");
            let there = send(&producer, 2, "k", "on broker-b");
            let down = cluster.broker_address("broker-b").unwrap().to_string();
            cluster.broker("broker-b").set_down();

            assert_eq!(producer.max_offset(&here.queue).unwrap(), 1);
            let error = producer.max_offset(&there.queue).expect_err("it is down");
            assert!(
                matches!(error, Error::Connect { .. } | Error::ConnectionLost { .. }),
                "{error:?}"
            );
            assert_says(&error, &[&down]);

            let found = producer.query_messages("orders", "k", 9, ..).unwrap();
            assert_eq!(bodies(&found.messages), ["on broker-a"]);
            assert_eq!(found.failed.len(), 1);
            assert_eq!(&*found.failed[0].broker_name, "broker-b");
            assert_says(&found.failed[0].error, &[&down]);

            let message = producer.view_message("orders", here.message_id).unwrap();
            assert_eq!(message.unwrap().body(), b"on broker-a");
            let error = producer
                .view_message("orders", there.message_id)
                .expect_err("it may be on the broker that is down");
            assert!(matches!(error, Error::FailedOnBrokers(_)), "{error:?}");
            let says = [
                there.message_id.as_str(),
                "failed on 1 of 2 brokers: broker-b:",
                "done by broker-a",
            ];
            assert_says(&error, &says);
            let error = producer
                .view_message("orders", there.offset_message_id)
                .expect_err("it is down");
            assert_says(&error, &[&down]);

            let error = producer
                .create_topic(&NewTopic::new("fresh", 1))
                .expect_err("it is down");
            let Error::FailedOnBrokers(failed) = &error else {
                panic!("{error:?}")
            };
            assert_eq!(failed.succeeded(), ["broker-a".into()]);
            assert_eq!(&*failed.failed()[0].broker_name, "broker-b");

            cluster.broker("broker-a").set_down();
            let error = producer
                .query_messages("orders", "k", 9, ..)
                .expect_err("nobody is there");
            assert!(matches!(error, Error::FailedOnBrokers(_)), "{error:?}");
            assert_says(&error, &["failed on 2 of 2 brokers", "broker-a:", "broker-b:"]);
        }
    });
}

#[test]
fn nobody_waits_beyond_the_given_time() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V5_5_0);
        let producer = producer(&cluster);
        let result = send(&producer, 0, "k", "on broker-a");
        send(&producer, 2, "k", "on broker-b");
        cluster.broker("broker-b").on_any().always().silence();
        let short = producer.queries(milliseconds(300));
        let most = milliseconds(300) + GRACE;
        let silent = cluster.broker_address("broker-b").unwrap().to_string();
        let queue = MessageQueue::new("orders", "broker-b", 0);

        let (answer, took) = timed(|| short.max_offset(&queue));
        let error = answer.expect_err("it is silent");
        assert!(error.is_timeout(), "{error:?}");
        assert_says(&error, &[&silent, "waiting for the reply"]);
        assert_took(took, milliseconds(300), most);

        let (found, took) = timed(|| short.query_messages("orders", "k", 9, ..).unwrap());
        assert_eq!(bodies(&found.messages), ["on broker-a"]);
        assert!(found.failed[0].error.is_timeout());
        assert_took(took, milliseconds(300), most);

        let (message, took) = timed(|| short.view_message("orders", result.message_id).unwrap());
        assert_eq!(message.unwrap().body(), b"on broker-a");
        assert_took(took, milliseconds(300), most);

        cluster.any_name_server().on_any().always().silence();
        let (answer, took) = timed(|| short.query_messages("orders", "k", 9, ..));
        assert!(answer.expect_err("nobody answers").is_timeout() || took >= milliseconds(300));
        assert_took(took, milliseconds(300), most);
    });
}

#[test]
fn an_answer_that_cannot_be_read_is_told() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V5_5_0);
        let producer = producer(&cluster);
        let result = send(&producer, 0, "k", "first");
        let broker = || cluster.broker("broker-a");
        let (queue, id) = (&result.queue, result.offset_message_id);
        broker()
            .on(RequestCode::GET_MAX_OFFSET)
            .once()
            .answer_without("offset");
        assert_broken(producer.max_offset(queue), "the reply has no offset");
        let odd = |value: &'static str| MockAction::usual().field("offset", value);
        broker().on(RequestCode::GET_MAX_OFFSET).once().act(odd("-1"));
        assert_broken(producer.max_offset(queue), "offset -1");
        broker().on(RequestCode::GET_MAX_OFFSET).once().act(odd("x"));
        assert_broken(producer.max_offset(queue), "offset is not a number");
        let action = MockAction::usual().field("timestamp", "-7");
        broker()
            .on(RequestCode::GET_EARLIEST_MSG_STORETIME)
            .once()
            .act(action);
        assert_broken(producer.earliest_store_time(queue), "timestamp -7");
        for (body, says) in [
            (&b""[..], "the bytes end"),
            (b"nonsense", "the bytes end within the record"),
        ] {
            let action = MockAction::usual().body(body);
            broker().on(RequestCode::VIEW_MESSAGE_BY_ID).once().act(action);
            assert_broken(producer.view_message("orders", id), says);
        }
        let action = MockAction::usual().body(b"nonsense");
        broker().on(RequestCode::QUERY_MESSAGE).once().act(action);
        let found = producer.query_messages("orders", "k", 9, ..).unwrap();
        assert_eq!(&*found.failed[0].broker_name, "broker-a");
        assert_broken::<()>(Err(found.failed[0].error.clone()), "the answer cannot be read");
        // All is well again: neither answer has cost the connection.
        assert_eq!(producer.max_offset(queue).unwrap(), 1);
        cluster.assert_no_rule_left();
    });
}

#[track_caller]
fn assert_broken<R: std::fmt::Debug>(answer: Result<R, Error>, says: &str) {
    let error = answer.expect_err("it cannot be read");
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert_says(&error, &["127.0.0.1:", says]);
}

#[test]
fn a_refusal_comes_with_code_and_remark() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V5_5_0);
        let producer = producer(&cluster);
        let result = send(&producer, 0, "k", "first");
        for code in [RequestCode::GET_MAX_OFFSET, RequestCode::VIEW_MESSAGE_BY_ID] {
            let rule = cluster.broker("broker-a").on(code).once();
            rule.reply(ResponseCode::SYSTEM_ERROR, "AclException: no");
        }
        let errors = [
            producer.max_offset(&result.queue).expect_err("it is refused"),
            producer
                .view_message("orders", result.offset_message_id)
                .expect_err("it is refused"),
        ];
        let address = cluster.broker_address("broker-a").unwrap().to_string();
        for error in errors {
            assert_eq!(error.response_code(), Some(ResponseCode::SYSTEM_ERROR));
            assert_says(&error, &[&address, "1 SYSTEM_ERROR: AclException: no"]);
        }
        // Nothing is repeated, here or elsewhere.
        assert_eq!(cluster.requests(RequestCode::GET_MAX_OFFSET), 1);
        // A connection that the broker wants to be rid of is left.
        cluster.broker("broker-a").go_away();
        let error = producer.max_offset(&result.queue).expect_err("it goes away");
        assert_eq!(error.response_code(), Some(ResponseCode::GO_AWAY));
        assert_eq!(producer.max_offset(&result.queue).unwrap(), 1);
    });
}

#[test]
fn a_topic_that_takes_no_messages_can_be_asked_about() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V4_9_7);
        let producer = producer(&cluster);
        let result = send(&producer, 0, "k", "first");
        for broker in ["broker-a", "broker-b"] {
            cluster.broker(broker).set_permission("orders", 4);
        }
        // Another producer, which has never known it otherwise.
        let other = producer_for(cluster.name_servers()).start().unwrap();
        other
            .send(&Message::new("orders", "no").unwrap())
            .expect_err("it cannot be written");
        assert_eq!(other.max_offset(&result.queue).unwrap(), 1);
        assert_eq!(
            other.query_messages("orders", "k", 9, ..).unwrap().messages.len(),
            1
        );
        assert!(other.view_message("orders", result.message_id).unwrap().is_some());
    });
}

#[test]
fn a_slave_is_asked_for_messages_and_never_for_the_end_of_a_queue() {
    within(PATIENCE, || {
        let slave = FakeServer::broker(|request, peer| {
            peer.refuse(request, 22, "can not find message, maybe time range not correct");
        });
        let route = json!({
            "brokerDatas": [{"cluster": "c", "brokerName": "a", "brokerAddrs": {"1": slave.address().to_string()}}],
            "queueDatas": [{"brokerName": "a", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6}],
        });
        let route = route.to_string();
        let name_server =
            FakeServer::start(move |request, peer| peer.answer(request, 0, &json!({}), route.as_bytes()));
        let producer = producer_for(name_server.address()).start().unwrap();
        let found = producer.query_messages("orders", "k", 9, ..).unwrap();
        assert!(found.messages.is_empty() && found.failed.is_empty());
        let error = producer
            .max_offset(&MessageQueue::new("orders", "a", 0))
            .expect_err("it has no master");
        assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
        assert_says(&error, &["broker a has no master now"]);
        let error = producer
            .create_topic(&NewTopic::new("fresh", 1))
            .expect_err("it has no master");
        assert_says(
            &error,
            &[
                "creating topic fresh failed on 1 of 1 brokers: a:",
                "no master now",
            ],
        );
        assert_eq!(slave.log(|log| log.count(12)), 1);
    });
}

/// A name server for a static topic with three logical queues, the last of which moves from `a` to `b` when it is told to.
fn static_topic(a: SocketAddr, b: SocketAddr, has_moved: Arc<AtomicBool>) -> FakeServer {
    FakeServer::start(move |request, peer| {
        let moved = has_moved.load(Ordering::SeqCst);
        let mapping = |name: &str, epoch: i64, ids: serde_json::Value| json!({"bname": name, "currIdMap": ids, "epoch": epoch, "scope": "__global__", "totalQueues": 3});
        let of_b = if moved {
            json!({"1": 0, "2": 1})
        } else {
            json!({"1": 0})
        };
        let broker = |name: &str, address: SocketAddr| json!({"cluster": "c", "brokerName": name, "brokerAddrs": {"0": address.to_string()}});
        let queues =
            |name: &str| json!({"brokerName": name, "readQueueNums": 2, "writeQueueNums": 2, "perm": 6});
        let body = json!({
            "brokerDatas": [broker("a", a), broker("b", b)],
            "queueDatas": [queues("a"), queues("b")],
            "topicQueueMappingByBroker": {
                "a": mapping("a", 5, json!({"0": 0, "2": 1})),
                "b": mapping("b", if moved { 6 } else { 5 }, of_b),
            },
        });
        peer.answer(request, 0, &json!({}), body.to_string().as_bytes());
    })
}

#[test]
fn a_static_topic_is_asked_and_sent_to_where_its_logical_queues_are() {
    within(PATIENCE, || {
        let has_moved = Arc::new(AtomicBool::new(false));
        let no_longer = Arc::clone(&has_moved);
        let answer =
            |request: &support::fake_server::Request, peer: &support::fake_server::Peer| match request.code()
            {
                30 => peer.answer(request, 0, &json!({"offset": "41"}), b""),
                _ => peer.stored(request, 7),
            };
        let a = FakeServer::broker(move |request, peer| {
            let queue = format!("{}{}", request.field("queueId"), request.field("e"));
            if no_longer.load(Ordering::SeqCst) && queue == "2" {
                return peer.refuse(request, 501, "orders-2 does not exit in request process");
            }
            answer(request, peer);
        });
        let b = FakeServer::broker(answer);
        let name_server = static_topic(a.address(), b.address(), Arc::clone(&has_moved));
        let producer = producer_for(name_server.address()).start().unwrap();
        let queues = producer.publish_queues("orders").unwrap();
        let names: Vec<_> = queues.iter().map(ToString::to_string).collect();
        let expected: Vec<_> = (0..3)
            .map(|id| format!("orders@__syslo__global__#{id}"))
            .collect();
        assert_eq!(names, expected);
        for (queue, server) in queues.iter().zip([&a, &b, &a]) {
            let before = server.log(|log| (log.count(30), log.count(310)));
            assert_eq!(producer.max_offset(queue).unwrap(), 41);
            let result = producer
                .to(queue.clone())
                .send(&Message::new("orders", "x").unwrap())
                .unwrap();
            assert_eq!(&*result.queue, queue);
            let now = server.log(|log| (log.count(30), log.count(310)));
            assert_eq!(now, (before.0 + 1, before.1 + 1), "{queue}");
        }
        // What it is called where it is kept is nobody's business.
        let error = producer
            .max_offset(&MessageQueue::new("orders", "a", 0))
            .expect_err("it is a static topic");
        assert_says(
            &error,
            &[
                "none of the 3 queues of static topic orders",
                "__syslo__global__#0",
            ],
        );

        has_moved.store(true, Ordering::SeqCst);
        let error = producer.max_offset(&queues[2]).expect_err("it has moved");
        assert_eq!(error.response_code(), Some(ResponseCode::NOT_LEADER_FOR_QUEUE));
        // That had the route looked up again: soon the other broker is asked.
        let before = b.log(|log| log.count(30));
        while producer.max_offset(&queues[2]).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(b.log(|log| log.count(30)), before + 1);
    });
}

#[test]
fn connections_that_refuse_and_producers_that_are_shut_down() {
    within(PATIENCE, || {
        let refusing = RefusingAddress::new();
        let name_server = FakeServer::name_server(&[("a", refusing.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let queue = MessageQueue::new("orders", "a", 0);
        let error = producer.max_offset(&queue).expect_err("nobody listens");
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_says(&error, &[&refusing.address().to_string()]);
        drop(producer.shutdown(PATIENCE));
        let error = producer.max_offset(&queue).expect_err("it is shut down");
        assert!(matches!(error, Error::ShutDown), "{error:?}");
        let error = producer
            .create_topic(&NewTopic::new("fresh", 1))
            .expect_err("it is shut down");
        assert!(matches!(error, Error::ShutDown), "{error:?}");
    });
}

#[test]
fn a_closure_of_a_send_may_ask() {
    within(PATIENCE, || {
        let cluster = cluster(ServerVersion::V5_5_0);
        let producer = producer_for(cluster.name_servers())
            .callback_threads(1)
            .start()
            .unwrap();
        let (done, outcome) = std::sync::mpsc::channel();
        let asking = producer.clone();
        producer.send_async(Message::new("orders", "x").unwrap(), move |sent| {
            let result = sent.unwrap();
            drop(done.send(asking.max_offset(&result.queue)));
        });
        assert_eq!(outcome.recv_timeout(PATIENCE).unwrap().unwrap(), 1);
    });
}
