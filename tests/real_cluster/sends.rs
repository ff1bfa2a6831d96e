//! The three ways to send: everything that is put into a message comes out again, once.

use std::{
    sync::mpsc,
    time::{SystemTime, UNIX_EPOCH},
};

use rocketmq_producer::{HeaderSerialization, Message, SendStatus};

use crate::{
    PATIENCE, Shared, builder, find, producer, shut_down,
    support::{ReadMessage, read_all},
};

/// What brokers and the library itself add to a message's properties.
const ADDED: [&str; 6] = [
    "UNIQ_KEY",
    "WAIT",
    "CLUSTER",
    "MSG_REGION",
    "TRACE_ON",
    "BORN_TIMESTAMP",
];

struct Sample {
    body: Vec<u8>,
    tags: Option<&'static str>,
    keys: &'static [&'static str],
    properties: &'static [(&'static str, &'static str)],
    flag: i32,
}

fn samples() -> Vec<Sample> {
    let plain = |body: Vec<u8>| Sample {
        body,
        tags: None,
        keys: &[],
        properties: &[],
        flag: 0,
    };
    let pattern = |length: usize| (0..=250).cycle().take(length).collect::<Vec<u8>>();
    vec![
        plain(vec![0]),
        plain((0..=255).collect()),
        plain(pattern(5 * 1024)),
        plain(pattern(1024 * 1024)),
        Sample {
            body: "grüße, 你好, мир, 😀 \"quoted\" \\ \n".into(),
            tags: Some("TagÄ"),
            keys: &["order-1", "kunde-ß", "鍵"],
            properties: &[
                ("plain", "value"),
                ("größe", "groß \"quoted\" back\\slash"),
                ("emoji", "😀 \u{7f} tab\t line\n"),
                ("spaces", " a b "),
            ],
            flag: -7,
        },
        Sample {
            body: b"one key".to_vec(),
            tags: Some("TagA"),
            keys: &["k"],
            properties: &[],
            flag: i32::MAX,
        },
    ]
}

fn build(topic: &str, sample: &Sample) -> Message {
    let mut message = Message::builder(topic)
        .body(sample.body.clone())
        .flag(sample.flag);
    if let Some(tags) = sample.tags {
        message = message.tags(tags);
    }
    if !sample.keys.is_empty() {
        message = message.keys(sample.keys);
    }
    for (name, value) in sample.properties {
        message = message.property(*name, *value);
    }
    message.build().unwrap()
}

#[track_caller]
fn assert_equal(read: &ReadMessage, sample: &Sample) {
    assert!(
        read.body == sample.body,
        "{} bytes sent, {} other bytes read",
        sample.body.len(),
        read.body.len()
    );
    assert_eq!(read.tags.as_deref(), sample.tags);
    assert_eq!(read.keys.clone().unwrap_or_default(), sample.keys.join(" "));
    assert_eq!(read.flag, sample.flag);
    assert_eq!(read.sys_flag, 0);
    for (name, value) in sample.properties {
        assert_eq!(
            read.properties.get(*name).map(String::as_str),
            Some(*value),
            "property {name}"
        );
    }
    let own = |name: &str| sample.properties.iter().any(|(known, _)| *known == name);
    let strange: Vec<_> = read
        .properties
        .keys()
        .filter(|name| {
            !own(name) && !ADDED.contains(&name.as_str()) && !["TAGS", "KEYS"].contains(&name.as_str())
        })
        .collect();
    assert!(strange.is_empty(), "properties that nobody set: {strange:?}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let age = now.saturating_sub(read.born_timestamp_ms.into());
    assert!(age < 600_000, "born {age} ms ago");
}

pub(crate) fn sync_sends_are_read_back_equal(version: &str) {
    let cluster = Shared::Open.of(version);
    for (serialization, topic) in [
        (HeaderSerialization::Json, "sync_json"),
        (HeaderSerialization::Binary, "sync_binary"),
    ] {
        let producer = builder(&cluster, "sync")
            .header_serialization(serialization)
            .start()
            .unwrap();
        let samples = samples();
        let results: Vec<_> = samples
            .iter()
            .map(|sample| producer.send(&build(topic, sample)).unwrap())
            .collect();
        shut_down(&producer);
        let read = read_all(&cluster, &[topic], samples.len());
        assert_eq!(read.len(), samples.len());
        for (sample, result) in samples.iter().zip(&results) {
            assert_eq!(result.status, SendStatus::SendOk);
            assert_eq!(result.attempts, 1);
            assert!(!result.may_be_duplicated);
            assert_eq!(&*result.region_id, "DefaultRegion");
            // Only 5.x answers with a transaction id: it repeats the message's own.
            let transaction_id = version.starts_with('5').then_some(result.message_id);
            assert_eq!(result.transaction_id, transaction_id);
            assert_equal(find(&read, result), sample);
        }
    }
}

pub(crate) fn async_sends_are_read_back_equal(version: &str) {
    const COUNT: usize = 200;
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "async");
    let (sender, outcomes) = mpsc::channel();
    for i in 0..COUNT {
        let message = Message::builder("async")
            .tags("TagB")
            .body(format!("async {i}"))
            .build()
            .unwrap();
        let sender = sender.clone();
        producer.send_async(message, move |outcome| sender.send((i, outcome)).unwrap());
    }
    drop(sender);
    let mut results = vec![None; COUNT];
    for _ in 0..COUNT {
        let (i, outcome) = outcomes.recv_timeout(2 * PATIENCE).unwrap();
        let result = outcome.unwrap_or_else(|failure| panic!("message {i}: {}", failure.error));
        assert!(
            results[i].replace(result).is_none(),
            "message {i} was answered twice"
        );
    }
    shut_down(&producer);
    assert!(outcomes.try_recv().is_err(), "a callback ran twice");
    let read = read_all(&cluster, &["async"], COUNT);
    assert_eq!(read.len(), COUNT);
    for (i, result) in results.iter().enumerate() {
        let message = find(&read, result.as_ref().unwrap());
        assert_eq!(message.text(), format!("async {i}"));
        assert_eq!(message.tags.as_deref(), Some("TagB"));
    }
}

pub(crate) fn oneway_sends_are_read_back_after_shutdown(version: &str) {
    const COUNT: usize = 200;
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "oneway");
    for i in 0..COUNT {
        let message = Message::builder("oneway")
            .keys([format!("{i}")])
            .body(format!("oneway {i}"))
            .build();
        producer.send_oneway(&message.unwrap()).unwrap();
    }
    let report = producer.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.oneway_unwritten, 0);
    let mut read = read_all(&cluster, &["oneway"], COUNT);
    assert_eq!(read.len(), COUNT);
    read.sort_by_key(|message| message.keys.as_ref().unwrap().parse::<usize>().unwrap());
    for (i, message) in read.iter().enumerate() {
        assert_eq!(message.text(), format!("oneway {i}"));
        assert_eq!(message.born_host, "127.0.0.1");
        assert!(!message.message_id.is_empty());
    }
}

/// As the admin tool and the dashboard look for a message: by the client's id and by the broker's.
pub(crate) fn messages_are_found_by_their_ids(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "ids");
    let result = producer.send(&Message::new("ids", "find me").unwrap()).unwrap();
    shut_down(&producer);
    let ids = [
        format!("unique ids {}", result.message_id),
        format!("offset ids {}", result.offset_message_id),
    ];
    for command in ids {
        // The broker's index is built a moment after the answer.
        let mut found = Vec::new();
        crate::support::wait_until(&command, || {
            found = cluster.try_java(&command).unwrap_or_default();
            !found.is_empty()
        });
        let message = ReadMessage::parse(&found[0]);
        assert_eq!(message.text(), "find me");
        assert_eq!(message.message_id, result.message_id.as_str());
        assert_eq!(message.offset_message_id, result.offset_message_id.as_str());
        assert_eq!(message.queue_offset, result.queue_offset);
    }
}
