//! The embedded cluster answers as the release that it speaks like: recorded odd requests with the answers of real
//! servers, and the rules for topics, queues, sizes and properties.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod raw_client;

use std::collections::BTreeSet;

use raw_client::{Frame, RawClient, batch_body, send_fields};
use rocketmq_producer::mock::{MockCluster, ServerVersion};
use serde_json::{Value, json};

const VERSIONS: [ServerVersion; 3] = [
    ServerVersion::V4_7_0,
    ServerVersion::V4_9_7,
    ServerVersion::V5_5_0,
];

fn cluster(version: ServerVersion) -> MockCluster {
    MockCluster::builder().speaks(version).start().unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// A recorded frame, taken apart.
fn recorded(hex: &str) -> Frame {
    let all = bytes(hex);
    let header_length = u32::from_be_bytes([0, all[5], all[6], all[7]]) as usize;
    let (header_bytes, body) = all[8..].split_at(header_length);
    Frame {
        serialization: all[4],
        header: serde_json::from_slice(header_bytes).unwrap_or(Value::Null),
        header_bytes: header_bytes.to_vec(),
        body: body.to_vec(),
    }
}

fn field_names(frame: &Frame) -> BTreeSet<String> {
    frame.header["extFields"]
        .as_object()
        .map(|fields| fields.keys().cloned().collect())
        .unwrap_or_default()
}

/// Compares an answer with that of the real server, but for offsets, ids, ports and places in Java sources.
fn assert_same(name: &str, ours: &Frame, theirs: &Frame, ports: (u16, &str)) {
    assert_eq!(ours.serialization, theirs.serialization, "{name}");
    if theirs.serialization == 1 {
        // Code, language, version, opaque and flag come first.
        assert_eq!(ours.header_bytes[..13], theirs.header_bytes[..13], "{name}");
        return;
    }
    for key in [
        "code",
        "flag",
        "language",
        "opaque",
        "serializeTypeCurrentRPC",
        "version",
    ] {
        assert_eq!(ours.header[key], theirs.header[key], "{name}: {key}");
    }
    let is_exception = theirs.remark().starts_with("java.");
    assert!(
        ours.remark() == theirs.remark() || is_exception && theirs.remark().starts_with(ours.remark()),
        "{name}: {} {}",
        ours.remark(),
        theirs.remark()
    );
    assert_eq!(ours.remark().is_empty(), theirs.remark().is_empty(), "{name}");
    assert_eq!(field_names(ours), field_names(theirs), "{name}");
    let (our_port, their_port) = ports;
    let body = String::from_utf8(ours.body.clone())
        .unwrap()
        .replace(&our_port.to_string(), their_port);
    assert_eq!(body, String::from_utf8(theirs.body.clone()).unwrap(), "{name}");
}

#[test]
fn recorded_odd_requests_are_answered_as_by_the_real_servers() {
    let rows = std::fs::read_to_string("tests/vectors/probes.jsonl").unwrap();
    let mut compared = 0;
    for version in VERSIONS {
        let cluster = cluster(version);
        cluster.create_topic("vec_topic", 4);
        let broker_port = cluster.broker_address("broker-a").unwrap().port();
        let their_port = match version {
            ServerVersion::V4_7_0 => "18010",
            ServerVersion::V4_9_7 => "18040",
            _ => "18110",
        };
        for row in rows
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
        {
            if row["server"] != version.to_string() {
                continue;
            }
            let name = row["name"].as_str().unwrap();
            if name == "end_transaction_unknown_twoway" {
                // Transactions are unknown to the embedded cluster.
                continue;
            }
            let mut client = match row["to"].as_str().unwrap() {
                "broker" => RawClient::to_broker(&cluster, "broker-a"),
                _ => RawClient::to_name_server(&cluster),
            };
            client.write(&bytes(row["request_hex"].as_str().unwrap()));
            match row["outcome"].as_str().unwrap() {
                "answer" => {
                    let theirs = recorded(row["response_hex"].as_str().unwrap());
                    assert_same(name, &client.read().unwrap(), &theirs, (broker_port, their_port));
                }
                "closed by server" => assert!(client.read().is_none(), "{name}"),
                // `ask` insists that the next frame answers its own request.
                _ => assert_eq!(client.heartbeat("client", &["group"]).code(), 0, "{name}"),
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 135);
}

#[test]
fn single_messages_get_the_properties_that_the_release_adds() {
    let sent = "KEYS\u{1}k1 k2\u{2}TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}FD01\u{2}WAIT\u{1}true\u{2}empty\u{1}\u{2}";
    let common = [("KEYS", "k1 k2"), ("TAGS", "TagA"), ("UNIQ_KEY", "FD01")];
    for (version, added) in [
        (ServerVersion::V4_7_0, &[("WAIT", "true")][..]),
        (ServerVersion::V4_9_7, &[("CLUSTER", "DefaultCluster")]),
        (
            ServerVersion::V5_5_0,
            &[
                ("WAIT", "true"),
                ("CLUSTER", "DefaultCluster"),
                ("MSG_REGION", "DefaultRegion"),
                ("TRACE_ON", "true"),
            ],
        ),
    ] {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let answer = client.send("orders", 2, sent, b"hello");
        let messages = cluster.messages("orders");
        let [message] = &messages[..] else {
            panic!("{messages:?}")
        };

        let expected: BTreeSet<_> = common.iter().chain(added).copied().collect();
        let stored: BTreeSet<_> = message
            .properties
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(stored, expected, "{version}");
        assert_eq!(
            (&*message.topic, &*message.body, message.flag),
            ("orders", &b"hello"[..], 7)
        );
        assert_eq!(message.tags.as_deref(), Some("TagA"));
        assert_eq!(message.keys, ["k1", "k2"]);
        assert_eq!(message.property("UNIQ_KEY"), Some("FD01"));
        assert_eq!(message.message_id.unwrap().as_str(), "FD01");
        assert_eq!((message.queue_id, message.queue_offset), (2, 0));
        assert_eq!(message.born_timestamp_ms, 1_795_423_244_454);
        assert_eq!(message.born_host, client.stream.local_addr().unwrap());
        assert_eq!(
            (&*message.broker_name, &*message.producer_group),
            ("broker-a", "test_group")
        );

        assert_eq!(
            (
                answer.code(),
                answer.field("queueId"),
                answer.field("queueOffset")
            ),
            (0, "2", "0")
        );
        assert_eq!(answer.field("msgId"), message.offset_message_id.as_str());
        let transaction_id = if version == ServerVersion::V5_5_0 {
            "FD01"
        } else {
            ""
        };
        assert_eq!(answer.field("transactionId"), transaction_id);
    }
}

#[test]
fn batches_are_unpacked_whatever_code_they_come_with() {
    let elements: [(&[u8], &str); 3] = [
        (b"one", "TAGS\u{1}A\u{2}"),
        (b"", ""),
        (b"three", "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}FD03"),
    ];
    for version in VERSIONS {
        for code in [310, 320] {
            let cluster = cluster(version);
            let mut client = RawClient::to_broker(&cluster, "broker-a");
            assert_eq!(client.send("orders", 0, "", b"before").code(), 0);
            let mut fields = send_fields("orders", 0, "WAIT\u{1}true\u{2}UNIQ_KEY\u{1}FD00\u{2}");
            fields["m"] = json!("true");
            let answer = client.ask(code, &fields, &batch_body(&elements));
            assert_eq!((answer.code(), answer.field("queueOffset")), (0, "1"));
            let messages = cluster.messages("orders").split_off(1);
            assert_eq!(messages.len(), 3);
            let ids: Vec<_> = messages
                .iter()
                .map(|message| message.offset_message_id.as_str())
                .collect();
            assert_eq!(answer.field("msgId"), ids.join(","));
            assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
            for ((message, (body, _)), queue_offset) in messages.iter().zip(elements).zip(1..) {
                assert_eq!(
                    (&*message.body, message.queue_offset, message.flag),
                    (body, queue_offset, 0)
                );
            }
            assert_eq!(messages[0].tags.as_deref(), Some("A"));
            assert_eq!(messages[2].keys, ["k"]);
            if version == ServerVersion::V4_9_7 {
                // The batch's own properties are appended, so that its unique key wins everywhere.
                assert!(
                    messages
                        .iter()
                        .all(|message| message.property("UNIQ_KEY") == Some("FD00"))
                );
                assert!(
                    messages
                        .iter()
                        .all(|message| message.property("CLUSTER").is_some())
                );
            } else {
                assert_eq!(messages[0].properties, [("TAGS".to_owned(), "A".to_owned())]);
                assert_eq!(messages[1].properties, []);
                assert_eq!(messages[2].property("UNIQ_KEY"), Some("FD03"));
            }
            let echoed = if version == ServerVersion::V5_5_0 {
                "FD00"
            } else {
                ""
            };
            assert_eq!(answer.field("transactionId"), echoed);
        }
    }
}

#[test]
fn a_batch_that_is_not_marked_is_one_message_and_a_broken_one_none() {
    let cluster = cluster(ServerVersion::V5_5_0);
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    let body = batch_body(&[(b"one", ""), (b"two", "")]);
    assert_eq!(client.ask(320, &send_fields("orders", 0, ""), &body).code(), 0);
    assert_eq!(cluster.messages("orders")[0].body, body);
    let mut fields = send_fields("orders", 0, "");
    fields["m"] = json!("true");
    let answer = client.ask(320, &fields, &body[..body.len() - 1]);
    assert_eq!(
        (answer.code(), answer.remark()),
        (1, "java.nio.BufferUnderflowException")
    );
    assert_eq!(cluster.message_count("orders"), 1);
}

/// What real brokers say was seen with a limit of 64 KiB.
#[test]
fn a_batch_that_is_too_large_is_refused_as_by_each_release() {
    let limit = 4_096;
    for version in [ServerVersion::V4_7_0, ServerVersion::V5_5_0] {
        let builder = MockCluster::builder().speaks(version).max_message_size(limit);
        let cluster = builder.start().unwrap();
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let mut send = |records: usize| {
            let mut fields = send_fields("orders", 0, "");
            fields["m"] = json!("true");
            // Each record: 91 bytes, the topic and the body.
            let first = vec![b'x'; 1_000];
            let second = vec![b'x'; records - 2 * (91 + 6) - 1_000];
            let answer = client.ask(320, &fields, &batch_body(&[(&first, ""), (&second, "")]));
            (answer.code(), answer.remark().to_owned())
        };
        assert_eq!(send(limit).0, 0);
        let just_over = send(limit + 1);
        // The body alone is 150 bytes shorter.
        let far_over = send(limit + 151);
        if version == ServerVersion::V4_7_0 {
            assert_eq!(just_over.0, 1);
            assert!(
                just_over
                    .1
                    .starts_with("java.lang.RuntimeException: message size exceeded")
            );
            assert_eq!(far_over.0, 13);
        } else {
            assert_eq!(just_over.0, 0);
            assert_eq!(far_over.0, 1);
            assert!(
                far_over
                    .1
                    .starts_with("java.lang.RuntimeException: message body size exceeded")
            );
        }
    }
    let cluster = cluster(ServerVersion::V5_5_0);
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    let mut fields = send_fields("%RETRY%group", 0, "");
    fields["m"] = json!("true");
    let answer = client.ask(320, &fields, &batch_body(&[(b"x", "")]));
    let remark = "batch request does not support retry group %RETRY%group";
    assert_eq!((answer.code(), answer.remark()), (13, remark));
}

#[test]
fn only_the_broker_that_received_a_message_has_its_new_topic() {
    for version in VERSIONS {
        let cluster = MockCluster::builder()
            .brokers(2)
            .queues_per_topic(3)
            .speaks(version)
            .start()
            .unwrap();
        let mut name_server = RawClient::to_name_server(&cluster);
        let route = |name_server: &mut RawClient, topic: &str| {
            name_server.ask(
                105,
                &json!({"topic": topic, "acceptStandardJsonOnly": "true"}),
                b"",
            )
        };
        assert_eq!(route(&mut name_server, "orders").code(), 17);
        let template = String::from_utf8(route(&mut name_server, "TBW102").body).unwrap();
        assert_eq!(
            template.matches("\"perm\":7,\"readQueueNums\":3").count(),
            2,
            "{template}"
        );

        let mut client = RawClient::to_broker(&cluster, "broker-b");
        assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
        let new = String::from_utf8(route(&mut name_server, "orders").body).unwrap();
        assert_eq!(new.matches("\"perm\":6,\"readQueueNums\":3").count(), 1, "{new}");
        assert_eq!(
            (new.matches("broker-a").count(), new.matches("broker-b").count()),
            (0, 2),
            "{new}"
        );

        cluster.delete_topic("orders");
        assert_eq!(route(&mut name_server, "orders").code(), 17);
        assert!(cluster.messages("orders").is_empty());
    }
}

#[test]
fn without_automatic_creation_unknown_topics_are_refused() {
    for (version, advice) in [
        (
            ServerVersion::V4_7_0,
            "\nSee http://rocketmq.apache.org/docs/faq/ for further details.",
        ),
        (
            ServerVersion::V5_5_0,
            "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
        ),
    ] {
        let cluster = MockCluster::builder()
            .auto_create_topics(false)
            .speaks(version)
            .start()
            .unwrap();
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let answer = client.send("orders", 0, "", b"x");
        let remark = format!("topic[orders] not exist, apply first please!{advice}");
        assert_eq!((answer.code(), answer.remark()), (17, &*remark));
        assert_eq!(answer.field("MSG_REGION"), "DefaultRegion");
        let answer = RawClient::to_name_server(&cluster).ask(105, &json!({"topic": "TBW102"}), b"");
        let remark = format!("No topic route info in name server for the topic: TBW102{advice}");
        assert_eq!((answer.code(), answer.remark()), (17, &*remark));
        cluster.create_topic("orders", 1);
        assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
    }
}

#[test]
fn queue_ids_beyond_the_topic_are_refused() {
    for (version, code, attributes) in [
        (ServerVersion::V4_7_0, 1, ""),
        (ServerVersion::V4_9_7, 1, ""),
        (ServerVersion::V5_5_0, 29, ", attributes={}"),
    ] {
        let cluster = cluster(version);
        cluster.create_topic("vec_acl", 4);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        assert_eq!(client.send("vec_acl", 3, "", b"x").code(), 0);
        let answer = client.send("vec_acl", 99, "", b"x");
        let producer = client.stream.local_addr().unwrap();
        // The text of a real broker, but for the address.
        let remark = format!(
            "request queueId[99] is illegal, TopicConfig [topicName=vec_acl, readQueueNums=4, writeQueueNums=4, \
             perm=RW-, topicFilterType=SINGLE_TAG, topicSysFlag=0, order=false{attributes}] Producer: {producer}"
        );
        assert_eq!((answer.code(), answer.remark()), (code, &*remark));
        assert_eq!(client.send("vec_acl", 4, "", b"x").code(), code);
    }
}

#[test]
fn messages_are_measured_as_the_release_measures_them() {
    const LIMIT: usize = 4 << 20;
    let properties = "a\u{1}b\u{2}";
    for (version, largest, remark) in [
        (
            ServerVersion::V4_7_0,
            LIMIT - 91 - "orders".len() - properties.len(),
            "msg body length limit 128k",
        ),
        (ServerVersion::V4_9_7, LIMIT, "msg body length limit 4194304B"),
        (ServerVersion::V5_5_0, LIMIT, "msg body length limit 4194304B"),
    ] {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let body = vec![b'x'; largest + 1];
        assert_eq!(
            client.send("orders", 0, properties, &body[1..]).code(),
            0,
            "{version}"
        );
        let answer = client.send("orders", 0, properties, &body);
        assert_eq!(answer.code(), 13, "{version}");
        assert!(answer.remark().contains(remark), "{}", answer.remark());
        assert_eq!(cluster.message_count("orders"), 1);
    }
}

#[test]
fn properties_are_limited_with_what_the_release_adds() {
    for (version, longest) in [
        (ServerVersion::V4_7_0, 32_767),
        (ServerVersion::V5_5_0, 32_767 - 62),
    ] {
        let cluster = cluster(version);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let of_length = |length: usize| format!("UNIQ_KEY\u{1}{}\u{2}", "x".repeat(length - 10));
        assert_eq!(
            client.send("orders", 0, &of_length(longest), b"x").code(),
            0,
            "{version}"
        );
        assert_eq!(
            client.send("orders", 0, &of_length(longest + 1), b"x").code(),
            13,
            "{version}"
        );
    }
}

#[test]
fn a_full_store_answers_as_a_full_disk() {
    for (version, remark) in [
        (
            ServerVersion::V4_7_0,
            "service not available now, maybe disk full",
        ),
        (
            ServerVersion::V5_5_0,
            "service not available now. It may be caused by one of the following reasons",
        ),
    ] {
        let cluster = MockCluster::builder()
            .store_limit(1_000)
            .speaks(version)
            .start()
            .unwrap();
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        assert_eq!(client.send("orders", 0, "", &[b'x'; 500]).code(), 0);
        let answer = client.send("orders", 0, "", &[b'x'; 500]);
        assert_eq!(answer.code(), 14);
        assert!(answer.remark().starts_with(remark), "{}", answer.remark());
        cluster.delete_topic("orders");
        assert_eq!(client.send("orders", 0, "", &[b'x'; 500]).code(), 0);
    }
}

#[test]
fn the_list_of_brokers_has_bare_keys_on_every_release() {
    for version in VERSIONS {
        let cluster = MockCluster::builder().brokers(2).speaks(version).start().unwrap();
        let answer = RawClient::to_name_server(&cluster).ask(106, &json!({}), b"");
        let body = String::from_utf8(answer.body).unwrap();
        let address = cluster.broker_address("broker-b").unwrap();
        assert!(
            body.contains(&format!("\"broker-b\":{{\"brokerAddrs\":{{0:\"{address}\"}}")),
            "{body}"
        );
        assert!(body.ends_with("\"clusterAddrTable\":{\"DefaultCluster\":[\"broker-a\",\"broker-b\"]}}"));
    }
}

#[test]
fn name_servers_before_5_5_0_say_nothing_to_what_they_do_not_know() {
    for version in VERSIONS {
        let cluster = cluster(version);
        let mut client = RawClient::to_name_server(&cluster);
        client.write(&raw_client::request(9999, 1_000_000, &json!({}), b""));
        if version == ServerVersion::V5_5_0 {
            let answer = client.read().unwrap();
            assert_eq!(
                (answer.code(), answer.remark()),
                (3, " request type 9999 not supported")
            );
        }
        // `ask` insists that the next frame answers its own request.
        assert_eq!(client.ask(105, &json!({"topic": "TBW102"}), b"").code(), 0);
    }
}
