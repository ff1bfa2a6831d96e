//! Compressed bodies: stored with the flag of their algorithm, and whole again when Apache's consumers of the oldest and the
//! newest release read them.

use std::sync::mpsc;

use rocketmq_producer::{Batch, CompressionType, Message, SendResult};

use crate::{
    PATIENCE, Shared, builder, find, find_all, shut_down,
    support::{ReadMessage, RealCluster, read_all},
};

fn text(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|i: usize| format!("line {i} of a compressible body\n").into_bytes());
    lines.take(length).collect()
}

/// Nothing that could be compressed.
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

/// Bodies in the three ways to send, with the flag that they are to be stored with.
fn send_all(
    cluster: &RealCluster,
    compression: CompressionType,
    flag: i32,
    topic: &str,
) -> Vec<(SendResult, Vec<u8>, i32)> {
    let producer = builder(cluster, topic).compression(compression).start().unwrap();
    let bodies = [
        (text(4095), 0),
        (text(4096), flag),
        (text(300_000), flag),
        (text(3 << 20), flag),
        (noise(100_000), 0),
    ];
    let mut sent: Vec<_> = bodies
        .into_iter()
        .map(|(body, flag)| {
            let result = producer
                .send(&Message::new(topic, body.clone()).unwrap())
                .unwrap();
            (result, body, flag)
        })
        .collect();
    let body = text(20_000);
    let (sender, outcome) = mpsc::channel();
    producer.send_async(Message::new(topic, body.clone()).unwrap(), move |outcome| {
        sender.send(outcome).unwrap();
    });
    let result = outcome.recv_timeout(2 * PATIENCE).unwrap().unwrap();
    sent.push((result, body, flag));
    shut_down(&producer);
    sent
}

#[track_caller]
fn assert_whole(read: &[ReadMessage], sent: &[(SendResult, Vec<u8>, i32)], reader: &str) {
    let results: Vec<_> = sent.iter().map(|(result, _, _)| result.clone()).collect();
    find_all(read, &results);
    for (result, body, flag) in sent {
        let message = find(read, result);
        assert!(
            message.body == *body,
            "{reader} reads {} other bytes than the {} that were sent",
            message.body.len(),
            body.len()
        );
        // Consumers of 5.x take the first bit off when they have decompressed the body.
        let shown = if reader.starts_with('5') {
            *flag & !1
        } else {
            *flag
        };
        assert_eq!(message.sys_flag, shown, "{reader}, {} bytes", body.len());
    }
}

pub(crate) fn zlib_is_read_by_all_releases(version: &str) {
    let cluster = Shared::Open.of(version);
    let topic = "zlib";
    let sent = send_all(&cluster, CompressionType::Zlib, 1, topic);
    assert_whole(&read_all(&cluster, &[topic], sent.len()), &sent, "4.7.0");
    assert_whole(&read_as_5_5_0(&cluster, topic, sent.len()), &sent, "5.5.0");
}

/// Any broker stores them, and consumers of 5.x read them.
pub(crate) fn lz4_and_zstd_are_read_by_5_x(version: &str) {
    let cluster = Shared::Open.of(version);
    for (compression, flag, topic) in [
        (CompressionType::Lz4, 0x101, "lz4"),
        (CompressionType::Zstd, 0x201, "zstd"),
    ] {
        let sent = send_all(&cluster, compression, flag, topic);
        assert_whole(&read_as_5_5_0(&cluster, topic, sent.len()), &sent, "5.5.0");
    }
}

fn read_as_5_5_0(cluster: &RealCluster, topic: &str, expected: usize) -> Vec<ReadMessage> {
    let lines = cluster.java_of("5.5.0", &format!("read {topic} {expected} 20000"));
    lines.iter().map(ReadMessage::parse).collect()
}

/// Unlike Java's producer, which does not do it; its consumers read them all the same.
pub(crate) fn a_compressed_batch_is_read_by_all_releases(version: &str) {
    let cluster = Shared::Open.of(version);
    let topic = "zlib_batch";
    let producer = builder(&cluster, topic)
        .compression(CompressionType::Zlib)
        .start()
        .unwrap();
    let bodies: Vec<_> = (0..50)
        .map(|number| text(100 + 10 * number))
        .chain([noise(20)])
        .collect();
    let messages = bodies
        .iter()
        .map(|body| Message::new(topic, body.clone()).unwrap());
    let results = producer
        .send_batch(&Batch::new(messages.collect::<Vec<_>>()).unwrap())
        .unwrap();
    let sent: Vec<_> = results
        .into_iter()
        .zip(bodies)
        .map(|(result, body)| (result, body, 1))
        .collect();
    shut_down(&producer);
    assert_whole(&read_all(&cluster, &[topic], sent.len()), &sent, "4.7.0");
    assert_whole(&read_as_5_5_0(&cluster, topic, sent.len()), &sent, "5.5.0");
}
