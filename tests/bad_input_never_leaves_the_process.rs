//! Bad input is refused before a byte is sent, with an error that names the rule and the value; later sends are unharmed.

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

use rocketmq_producer::{
    Delivery, Error, Message, MessageBuilder, Producer, RequestCode,
    mock::{MockCluster, ServerVersion},
};
use support::{PATIENCE, assert_says, message, producer_for, send_async_and_wait, within};

/// What the producer adds to the properties of every message: `UNIQ_KEY`, a separator, an id of 32 characters, another
/// separator.
const ADDED: usize = 8 + 1 + 32 + 1;

/// What a stored record takes beside body, topic and properties in 4.7.0 (`CommitLog.calMsgLength`, IPv4).
const RECORD_OVERHEAD: usize = 91;

const FOUR_MIB: usize = 4 * 1024 * 1024;

#[track_caller]
fn assert_refused(result: Result<impl std::fmt::Debug, Error>, parts: &[&str]) {
    let error = result.expect_err("this must be refused");
    assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
    assert_eq!(error.delivery(), Delivery::NotStored);
    assert_says(&error, parts);
}

fn valid() -> MessageBuilder {
    Message::builder("orders").body("x")
}

/// All three ways to send refuse the message alike, nothing reaches a server, and the next message is stored.
#[track_caller]
fn assert_refused_by_all_verbs(
    cluster: &MockCluster,
    producer: &Producer,
    message: &Message,
    parts: &[&str],
) {
    let sends = cluster.requests(RequestCode::SEND_MESSAGE_V2);
    assert_refused(producer.send(message), parts);
    assert_refused(producer.send_oneway(message), parts);
    let failure = send_async_and_wait(producer, message.clone()).expect_err("this must be refused");
    assert_eq!(&failure.message, message);
    assert_refused(Err::<(), _>(failure.error), parts);
    producer
        .send(&valid().build().unwrap())
        .expect("a valid message is sent after it");
    assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), sends + 1);
}

#[test]
fn an_illegal_topic_is_refused_with_its_rule() {
    let long = "t".repeat(128);
    for (topic, rule) in [
        ("", "topic is blank"),
        (" \t", "topic is blank"),
        ("a b", "topic \"a b\" contains ' '"),
        ("a/b", "contains '/'"),
        ("bücher", "contains 'ü'"),
        ("a\0b", "contains '\\0'"),
        ("a\u{1}b", "contains '\\u{1}'"),
        ("a\nb", "contains '\\n'"),
        ("TBW102", "topic \"TBW102\" belongs to the brokers"),
        ("SCHEDULE_TOPIC_XXXX", "belongs to the brokers"),
        (&long, "has 128 bytes; the limit is 127"),
    ] {
        assert_refused(Message::new(topic, "x"), &[rule]);
    }
    Message::new("t".repeat(127), "x").expect("127 bytes are allowed");
    Message::new("%RETRY%a-b_c|D1", "x").expect("all allowed characters");
}

#[test]
fn an_illegal_topic_is_refused_when_queues_are_asked_for() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        for topic in ["", "a b", "TBW102"] {
            assert_refused(producer.publish_queues(topic), &["topic"]);
        }
        assert_eq!(cluster.requests(RequestCode::GET_ROUTEINFO_BY_TOPIC), 0);
        assert_eq!(producer.publish_queues("orders").unwrap().len(), 4);
    });
}

#[test]
fn an_illegal_group_is_refused_at_start() {
    let long = "g".repeat(256);
    for (group, rule) in [
        ("", "producer group is blank"),
        ("  ", "producer group is blank"),
        ("a b", "producer group \"a b\" contains ' '"),
        ("g\u{2}", "contains '\\u{2}'"),
        ("DEFAULT_PRODUCER", "\"DEFAULT_PRODUCER\" is the unset default"),
        (&long, "has 256 bytes; the limit is"),
    ] {
        let started = Producer::builder(group).name_servers("127.0.0.1:9876").start();
        let error = started.expect_err("this group must be refused");
        assert!(
            matches!(
                error,
                Error::InvalidConfig {
                    setting: "producer_group",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_says(&error, &["producer_group", rule]);
    }
}

#[test]
fn an_illegal_list_of_name_servers_is_refused_at_start() {
    for (list, rule) in [
        ("", "no address is given"),
        (";", "no address is given"),
        ("localhost", "\"localhost\" has no port"),
        ("localhost:0", "not a number from 1 to 65535"),
        ("localhost:65536", "not a number from 1 to 65535"),
        ("http://localhost:9876", "is a URL"),
        ("a:9876,b:9876", "';'"),
        ("::1:9876", "in brackets"),
    ] {
        let error = producer_for(list).start().expect_err("this list must be refused");
        assert!(
            matches!(
                error,
                Error::InvalidConfig {
                    setting: "name_servers",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_says(&error, &["name_servers", rule]);
    }
}

#[test]
fn an_empty_body_is_refused() {
    assert_refused(Message::new("orders", ""), &["body", "\"orders\"", "is empty"]);
    assert_refused(Message::builder("orders").build(), &["is empty"]);
}

#[test]
fn separators_in_properties_are_refused() {
    for separator in ["\u{1}", "\u{2}"] {
        let bad = format!("a{separator}b");
        assert_refused(
            valid().property(&bad, "x").build(),
            &["property name", "separator"],
        );
        assert_refused(
            valid().property("a", &bad).build(),
            &["value of property \"a\"", "separator"],
        );
        assert_refused(valid().tags(&bad).build(), &["tags", "separator"]);
        assert_refused(valid().keys([&bad]).build(), &["key", "separator"]);
    }
    assert_refused(valid().keys(["a b"]).build(), &["key \"a b\"", "space"]);
    assert_refused(valid().keys(["a", " "]).build(), &["key is blank"]);
    assert_refused(valid().property(" ", "x").build(), &["property name is blank"]);
    assert_refused(
        valid().property("a", "").build(),
        &["value of property \"a\" is blank"],
    );
}

#[test]
fn reserved_property_names_are_refused() {
    for name in [
        "KEYS",
        "TAGS",
        "WAIT",
        "DELAY",
        "UNIQ_KEY",
        "TRAN_MSG",
        "PGROUP",
        "MSG_REGION",
        "TRACE_ON",
        "RETRY_TOPIC",
        "REAL_TOPIC",
        "REAL_QID",
        "BUYER_ID",
        "INSTANCE_ID",
        "CLUSTER",
        "CORRELATION_ID",
        "TTL",
        "TIMER_DELIVER_MS",
        "__SHARDINGKEY",
        "__RMQ.TRANSIENT.x",
    ] {
        assert_refused(
            valid().property(name, "x").build(),
            &[&format!("{name:?} is reserved")],
        );
    }
    valid().property("keys", "x").build().expect("case matters");
}

#[test]
fn properties_over_32_000_bytes_are_refused_and_one_byte_less_passes() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let with_properties = |length: usize| {
            let value = "v".repeat(length - "name".len() - 2);
            valid().property("name", value).build().unwrap()
        };
        let most = with_properties(32_000 - ADDED);
        producer.send(&most).expect("32,000 bytes are allowed");
        let stored = &cluster.messages("orders")[0];
        assert_eq!(
            stored
                .properties
                .iter()
                .find(|(name, _)| name == "name")
                .unwrap()
                .1,
            most.property("name").unwrap()
        );
        assert_refused_by_all_verbs(
            &cluster,
            &producer,
            &with_properties(32_000 - ADDED + 1),
            &["orders", "take 32001 bytes", "max_properties_size is 32000"],
        );
        assert_refused(
            valid().property("name", "v".repeat(40_000)).build(),
            &["take 40006 bytes", "32767"],
        );
    });
}

#[test]
fn a_record_over_4_mib_is_refused_and_one_byte_less_passes() {
    within(PATIENCE, || {
        let cluster = MockCluster::builder()
            .speaks(ServerVersion::V4_7_0)
            .start()
            .unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let tags = "TAGS".len() + 1 + "paid".len() + 1;
        let most = FOUR_MIB - RECORD_OVERHEAD - "orders".len() - tags - ADDED;
        let with_body = |length: usize| valid().tags("paid").body(vec![b'x'; length]).build().unwrap();
        producer
            .send(&with_body(most))
            .expect("a record of exactly 4 MiB is allowed, and taken by a 4.7.0 broker");
        assert_eq!(cluster.messages("orders")[0].body.len(), most);
        assert_refused_by_all_verbs(
            &cluster,
            &producer,
            &with_body(most + 1),
            &[
                "orders",
                "4194305",
                &(most + 1).to_string(),
                "max_message_size is 4194304",
            ],
        );
        assert_refused_by_all_verbs(
            &cluster,
            &producer,
            &with_body(64 * 1024 * 1024),
            &["body 67108864", "max_message_size"],
        );
    });
}

#[test]
fn a_lower_limit_of_the_user_is_kept() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers())
            .max_message_size(1000)
            .max_properties_size(100)
            .start()
            .unwrap();
        let body = valid().body(vec![0; 1000]).build().unwrap();
        assert_refused_by_all_verbs(&cluster, &producer, &body, &["max_message_size is 1000"]);
        let properties = valid().property("a", "b".repeat(60)).build().unwrap();
        assert_refused_by_all_verbs(&cluster, &producer, &properties, &["max_properties_size is 100"]);
    });
}

#[test]
fn errors_show_neither_bodies_nor_property_values() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers())
            .max_message_size(200)
            .start()
            .unwrap();
        let secret = valid()
            .body("hunter2".repeat(100))
            .property("password", "swordfish")
            .build()
            .unwrap();
        let error = producer.send(&secret).expect_err("it is too large");
        let shown = format!("{error} {error:?} {secret:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("swordfish"),
            "{shown}"
        );
        let refused = valid().property("password", "sword\u{1}fish").build();
        let shown = format!("{refused:?}");
        assert!(!shown.contains("fish"), "{shown}");
        producer
            .send(&message("orders"))
            .expect("a valid message is sent after it");
    });
}
