//! Half messages in the embedded cluster, by hand-made frames: what brokers of each release answer and ask.

#![cfg(feature = "mock")]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, and not all of the support is used here"
)]

mod raw_client;

use std::time::Duration;

use raw_client::{Frame, PATIENCE, RawClient, request};
use rocketmq_producer::mock::{MockCluster, ServerVersion};
use serde_json::{Value, json};

const VERSIONS: [ServerVersion; 3] = [
    ServerVersion::V4_7_0,
    ServerVersion::V4_9_7,
    ServerVersion::V5_5_0,
];
const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
const GROUP: &str = "PG_txn";
const HOUR: Duration = Duration::from_secs(3600);

fn cluster(version: ServerVersion) -> MockCluster {
    let builder = MockCluster::builder()
        .speaks(version)
        .transaction_checks(HOUR, HOUR, 2);
    builder.start().unwrap()
}

/// Sends a half message; `more` are further properties.
fn send_half(client: &mut RawClient, more: &str) -> Frame {
    let properties = format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{GROUP}\u{2}UNIQ_KEY\u{1}K1\u{2}{more}");
    let answer = client.send("orders", 3, &properties, b"body");
    assert_eq!(answer.code(), 0, "{}", answer.remark());
    answer
}

/// The fields of the request that ends it.
fn end_of(half: &Frame, verdict: i32) -> Value {
    let offset = u64::from_str_radix(&half.field("msgId")[16..], 16).unwrap();
    json!({
        "producerGroup": GROUP, "tranStateTableOffset": half.field("queueOffset"),
        "commitLogOffset": offset.to_string(), "commitOrRollback": verdict.to_string(),
        "fromTransactionCheck": "false", "msgId": "K1"
    })
}

#[test]
fn a_half_message_is_out_of_sight_until_it_is_committed() {
    for version in VERSIONS {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let half = send_half(&mut client, "TAGS\u{1}t\u{2}");
        assert_eq!(half.field("queueId"), "3", "the queue that was asked for");
        assert_eq!(
            half.field("queueOffset"),
            "0",
            "the place among the half messages"
        );
        assert_eq!(
            (cluster.message_count("orders"), cluster.open_transactions()),
            (0, 1)
        );
        let kept = &cluster.messages(HALF_TOPIC)[0];
        assert_eq!((kept.queue_id, kept.sys_flag), (0, 0));
        assert_eq!(kept.property("REAL_TOPIC"), Some("orders"));
        assert_eq!(kept.property("REAL_QID"), Some("3"));

        let answer = client.ask(37, &end_of(&half, 8), b"");
        assert_eq!((answer.code(), answer.remark()), (0, ""));
        let seen = &cluster.messages("orders")[0];
        assert_eq!((seen.queue_id, seen.queue_offset, seen.sys_flag), (3, 0, 8));
        assert_eq!(
            (seen.body.as_slice(), seen.tags.as_deref()),
            (&b"body"[..], Some("t"))
        );
        assert_eq!(cluster.open_transactions(), 0);
        // Whoever commits twice publishes twice.
        assert_eq!(client.ask(37, &end_of(&half, 8), b"").code(), 0);
        assert_eq!(cluster.message_count("orders"), 2);

        let second = send_half(&mut client, "");
        let answer = client.ask(37, &end_of(&second, 12), b"");
        assert_eq!((answer.code(), answer.remark()), (0, "not set any response code"));
        assert_eq!(
            (cluster.message_count("orders"), cluster.open_transactions()),
            (2, 0)
        );
    }
}

#[test]
fn an_end_that_fits_no_half_message_is_refused() {
    for version in VERSIONS {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let half = send_half(&mut client, "");
        for (name, value, remark) in [
            (
                "commitLogOffset",
                "999999999",
                "Find prepared transaction message failed",
            ),
            ("producerGroup", "other", "The producer group wrong"),
            (
                "tranStateTableOffset",
                "7",
                "The transaction state table offset wrong",
            ),
        ] {
            let mut fields = end_of(&half, 8);
            fields[name] = value.into();
            let answer = client.ask(37, &fields, b"");
            assert_eq!((answer.code(), answer.remark()), (1, remark), "{version:?}");
        }
        // Nobody answers an unknown; `ask` insists that the next frame answers its own request.
        client.write(&request(37, 1_000_000, &end_of(&half, 0), b""));
        client.write(&request(37, 1_000_001, &end_of(&half, 4), b""));
        assert_eq!(client.ask(37, &end_of(&half, 8), b"").code(), 0);
        assert_eq!(cluster.message_count("orders"), 1);
    }
}

#[test]
fn a_question_names_other_offsets_each_time_and_the_release_decides_its_fields() {
    for version in VERSIONS {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let half = send_half(&mut client, "");
        assert_eq!(cluster.check_transactions(), 0, "nobody has registered");
        client.heartbeat("c", &["other", GROUP]);
        assert_eq!(cluster.check_transactions(), 1);
        let question = client.read().unwrap();
        assert_eq!((question.code(), &question.header["flag"]), (39, &json!(2)));
        assert_eq!(
            (question.field("msgId"), question.field("transactionId")),
            ("K1", "K1")
        );
        assert_ne!(question.field("offsetMsgId"), half.field("msgId"));
        assert_eq!(
            question.field("tranStateTableOffset"),
            "2",
            "it was written anew twice"
        );
        let fields = question.header["extFields"].as_object().unwrap();
        let is_5x = version == ServerVersion::V5_5_0;
        assert_eq!(
            fields.get("topic"),
            is_5x.then(|| HALF_TOPIC.into()).as_ref(),
            "{version:?}"
        );
        assert_eq!(
            fields.get("bname"),
            is_5x.then(|| "broker-a".into()).as_ref(),
            "{version:?}"
        );
        let text = String::from_utf8_lossy(&question.body);
        assert!(text.contains("body") && text.contains("orders"), "{text}");
        assert!(text.contains("TRANSACTION_CHECK_TIMES\u{1}2\u{2}"), "{text}");

        let mut fields = end_of(&half, 8);
        for name in ["tranStateTableOffset", "commitLogOffset"] {
            fields[name] = question.field(name).into();
        }
        fields["fromTransactionCheck"] = "true".into();
        assert_eq!(client.ask(37, &fields, b"").code(), 0);
        assert_eq!(
            (cluster.message_count("orders"), cluster.open_transactions()),
            (1, 0)
        );
        assert_eq!(cluster.check_transactions(), 0);
    }
}

#[test]
fn producers_of_a_group_are_asked_in_turn_and_in_vain_only_so_often() {
    let cluster = cluster(ServerVersion::V5_5_0);
    let mut clients: Vec<_> = (0..2)
        .map(|_| RawClient::to_broker(&cluster, "broker-a"))
        .collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.heartbeat(&format!("c{number}"), &[GROUP]);
    }
    send_half(&mut clients[0], "");
    for _ in 0..2 {
        assert_eq!(cluster.check_transactions(), 1);
    }
    for client in &mut clients {
        assert_eq!(client.read().unwrap().code(), 39);
    }
    assert_eq!(cluster.check_transactions(), 0, "twice is enough");
    assert_eq!(cluster.open_transactions(), 0);
    assert_eq!(cluster.message_count("TRANS_CHECK_MAX_TIME_TOPIC"), 1);
}

#[test]
fn a_half_message_with_a_delay_is_committed_and_never_delivered() {
    for version in VERSIONS {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let half = send_half(&mut client, "DELAY\u{1}3\u{2}");
        assert_eq!(client.ask(37, &end_of(&half, 8), b"").code(), 0);
        assert_eq!(
            (cluster.message_count("orders"), cluster.open_transactions()),
            (0, 0)
        );
    }
}

#[test]
fn what_is_stored_is_kept_while_a_broker_is_down_and_nobody_is_asked_meanwhile() {
    let cluster = MockCluster::builder()
        .transaction_checks(Duration::from_millis(20), Duration::from_millis(20), 1000)
        .start()
        .unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    send_half(&mut client, "");
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count(HALF_TOPIC) > 2));
    cluster.broker("broker-a").set_down();
    let copies = cluster.message_count(HALF_TOPIC);
    assert!(!cluster.wait_until(Duration::from_millis(100), |cluster| {
        cluster.message_count(HALF_TOPIC) > copies + 1
    }));
    assert_eq!(cluster.open_transactions(), 1);
    cluster.broker("broker-a").set_up().unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    client.heartbeat("c", &[GROUP]);
    assert_eq!(client.read().unwrap().code(), 39);
}
