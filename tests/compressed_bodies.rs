//! A body is compressed when the producer is told to, it is long enough and becomes smaller; the message stays as it is.

#![cfg(all(feature = "mock", feature = "zlib", feature = "lz4", feature = "zstd"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::io::Read;

use rocketmq_producer::{
    Batch, CompressionType, Error, Message, RequestCode, ResponseCode,
    mock::{MockCluster, ServerVersion},
};
use support::{PATIENCE, assert_says, producer_for, send_async_and_wait, within};

const ALL: [(CompressionType, i32); 3] = [
    (CompressionType::Zlib, 1),
    (CompressionType::Lz4, 0x101),
    (CompressionType::Zstd, 0x201),
];

fn text(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|i: usize| format!("line {i} of a compressible body\n").into_bytes());
    lines.take(length).collect()
}

/// xorshift: nothing that could be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

fn message(body: Vec<u8>) -> Message {
    Message::builder("orders")
        .tags("TagA")
        .property("own", "value")
        .body(body)
        .build()
        .unwrap()
}

/// As a consumer reads it, by the system flag.
fn plain(body: &[u8], sys_flag: i32) -> Vec<u8> {
    let mut plain = Vec::new();
    match sys_flag {
        0 => plain.extend_from_slice(body),
        1 => drop(
            flate2::read::ZlibDecoder::new(body)
                .read_to_end(&mut plain)
                .unwrap(),
        ),
        0x101 => drop(
            lz4_flex::frame::FrameDecoder::new(body)
                .read_to_end(&mut plain)
                .unwrap(),
        ),
        0x201 => plain = zstd::stream::decode_all(body).unwrap(),
        other => panic!("system flag {other}"),
    }
    plain
}

#[test]
fn bodies_are_stored_compressed_in_all_ways_to_send() {
    within(PATIENCE, || {
        for version in [
            ServerVersion::V4_7_0,
            ServerVersion::V4_9_7,
            ServerVersion::V5_5_0,
        ] {
            for (compression, sys_flag) in ALL {
                let cluster = MockCluster::builder().speaks(version).start().unwrap();
                let producer = producer_for(cluster.name_servers())
                    .compression(compression)
                    .start()
                    .unwrap();
                let sent = message(text(50_000));
                producer.send(&sent).unwrap();
                send_async_and_wait(&producer, sent.clone()).unwrap();
                producer.send_oneway(&sent).unwrap();
                assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 3));
                for stored in cluster.messages("orders") {
                    assert_eq!(stored.sys_flag, sys_flag);
                    assert!(stored.body.len() < 20_000, "{compression}: {}", stored.body.len());
                    assert!(plain(&stored.body, stored.sys_flag) == sent.body());
                    assert_eq!(stored.property("own"), Some("value"));
                }
                assert_eq!(sent, message(text(50_000)), "the message has changed");
            }
        }
    });
}

#[test]
fn without_being_told_to_nothing_is_compressed() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        producer.send(&message(text(100_000))).unwrap();
        let stored = &cluster.messages("orders")[0];
        assert_eq!((stored.sys_flag, stored.body.len()), (0, 100_000));
    });
}

#[test]
fn short_bodies_and_those_that_would_grow_go_out_as_they_are() {
    within(PATIENCE, || {
        for (compression, sys_flag) in ALL {
            let cluster = MockCluster::start(1).unwrap();
            let usual = producer_for(cluster.name_servers())
                .compression(compression)
                .start()
                .unwrap();
            let early = producer_for(cluster.name_servers())
                .compression(compression)
                .compress_from(500)
                .start()
                .unwrap();
            for (producer, body, expected) in [
                (&usual, text(4095), 0),
                (&usual, text(4096), sys_flag),
                (&usual, noise(50_000), 0),
                (&early, text(499), 0),
                (&early, text(500), sys_flag),
            ] {
                producer.send(&message(body.clone())).unwrap();
                let stored = cluster.messages("orders").pop().unwrap();
                assert_eq!(stored.sys_flag, expected, "{compression}, {} bytes", body.len());
                assert!(plain(&stored.body, stored.sys_flag) == body);
            }
        }
    });
}

#[test]
fn a_higher_level_compresses_more() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        for (compression, low, high) in [(CompressionType::Zlib, 1, 6), (CompressionType::Zstd, 1, 12)] {
            let length = |level| {
                let producer = producer_for(cluster.name_servers())
                    .compression(compression)
                    .compression_level(level)
                    .start()
                    .unwrap();
                producer.send(&message(text(60_000))).unwrap();
                cluster.messages("orders").pop().unwrap().body.len()
            };
            let (low, high) = (length(low), length(high));
            assert!(high < low, "{compression}: {high} is not less than {low}");
        }
    });
}

#[test]
fn a_level_that_there_is_not_is_refused_at_the_start() {
    for (compression, level, part) in [
        (CompressionType::Zlib, 0, "compression_level 0 is not from 1 to 9"),
        (
            CompressionType::Zlib,
            10,
            "compression_level 10 is not from 1 to 9",
        ),
        (
            CompressionType::Zstd,
            23,
            "compression_level 23 is not from 1 to 22",
        ),
    ] {
        let builder = producer_for("127.0.0.1:1")
            .compression(compression)
            .compression_level(level);
        let error = builder.start().unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidConfig {
                    setting: "compression",
                    ..
                }
            ),
            "{error:?}"
        );
        assert_says(&error, &[part]);
    }
}

/// The copy that is made once serves every attempt.
#[test]
fn every_attempt_carries_the_same_bytes() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("orders", 1);
        let producer = producer_for(cluster.name_servers())
            .compression(CompressionType::Zlib)
            .start()
            .unwrap();
        let sends = cluster.any_broker().on(RequestCode::SEND_MESSAGE_V2).once();
        sends
            .after_store()
            .reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
        producer.send(&message(text(30_000))).unwrap();
        let stored = cluster.messages("orders");
        assert_eq!(stored.len(), 2);
        assert_eq!(stored[0].message_id, stored[1].message_id);
        assert!(stored[0].body == stored[1].body);
        assert_eq!((stored[0].sys_flag, stored[1].sys_flag), (1, 1));
    });
}

/// As Java's limit, and before any work is done.
#[test]
fn the_size_limit_is_that_of_the_body_as_it_was_given() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers())
            .compression(CompressionType::Zlib)
            .max_message_size(100_000)
            .start()
            .unwrap();
        let error = producer.send(&message(text(100_000))).unwrap_err();
        assert_says(&error, &["max_message_size is 100000"]);
        assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), 0);
        producer.send(&message(text(99_000))).unwrap();
    });
}

/// One flag holds for the whole batch, so its bodies are compressed all or none, each as a message of its own.
#[test]
fn the_bodies_of_a_batch_are_compressed_one_by_one_if_that_makes_them_smaller_together() {
    within(PATIENCE, || {
        for (compression, sys_flag) in ALL {
            let cluster = MockCluster::start(1).unwrap();
            let producer = producer_for(cluster.name_servers())
                .compression(compression)
                .start()
                .unwrap();
            let small: Vec<_> = (0..40).map(|_| text(200)).collect();
            for (topic, bodies, expected) in [
                ("small", small, sys_flag),
                ("mixed", vec![text(8000), noise(10), text(1)], sys_flag),
                ("few", vec![text(1000), text(1000)], 0),
                ("noise", vec![noise(5000), noise(5000)], 0),
            ] {
                let message = |body: &Vec<u8>| Message::new(topic, body.clone()).unwrap();
                let batch = Batch::new(bodies.iter().map(message).collect::<Vec<_>>()).unwrap();
                let results = producer.send_batch(&batch).unwrap();
                let stored = cluster.messages(topic);
                assert_eq!(stored.len(), bodies.len());
                for ((stored, body), result) in stored.iter().zip(&bodies).zip(results) {
                    assert_eq!(stored.sys_flag, expected, "{compression} {topic}");
                    assert!(
                        plain(&stored.body, stored.sys_flag) == *body,
                        "{compression} {topic}"
                    );
                    assert_eq!(stored.message_id, Some(result.message_id));
                    assert_eq!(stored.offset_message_id, result.offset_message_id);
                }
            }
        }
    });
}
