//! A batch is one request and as many messages as it holds: each has its own ids, its own place and its own outcome, and what
//! cannot be a batch never leaves the process.

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

use std::{collections::BTreeSet, sync::mpsc};

use rocketmq_producer::{
    Batch, BatchFailure, BatchResult, Delivery, Error, HeaderSerialization, Message, MessageQueue, Producer,
    RequestCode, ResponseCode, SendStatus, Target,
    mock::{MockAction, MockCluster, MockMessage, ServerVersion},
};
use support::{PATIENCE, assert_says, producer_for, within};

const BATCH: RequestCode = RequestCode::SEND_BATCH_MESSAGE;

const VERSIONS: [ServerVersion; 3] = [
    ServerVersion::V4_7_0,
    ServerVersion::V4_9_7,
    ServerVersion::V5_5_0,
];

fn numbered(topic: &str, count: usize) -> Vec<Message> {
    let build = |i: usize| {
        let message = Message::builder(topic).tags("Tag").keys([format!("key-{i}")]);
        let message = message
            .property("größe", i.to_string())
            .flag(i32::try_from(i).unwrap());
        message.body(format!("body {i}")).build().unwrap()
    };
    (0..count).map(build).collect()
}

fn batch(topic: &str, count: usize) -> Batch {
    Batch::new(numbered(topic, count)).unwrap()
}

fn cluster(version: ServerVersion, brokers: usize) -> (MockCluster, Producer) {
    let cluster = MockCluster::builder()
        .brokers(brokers)
        .speaks(version)
        .start()
        .unwrap();
    cluster.create_topic("orders", 4);
    let producer = producer_for(cluster.name_servers()).start().unwrap();
    (cluster, producer)
}

/// Sends asynchronously and waits for the closure.
fn send_async(producer: &Producer, batch: Batch) -> Result<BatchResult, BatchFailure> {
    let (done, outcome) = mpsc::channel();
    producer.send_batch_async(batch, move |result| done.send(result).unwrap());
    outcome.recv_timeout(PATIENCE).expect("the closure runs")
}

/// That exactly these messages lie where the results say, with all that they were given.
#[track_caller]
fn assert_stored(cluster: &MockCluster, stored: &BatchResult, sent: &[Message]) {
    let all = cluster.messages("orders");
    assert_eq!(stored.results.len(), sent.len());
    for (index, (result, sent)) in stored.results.iter().zip(sent).enumerate() {
        let found: Vec<&MockMessage> = all
            .iter()
            .filter(|message| message.property("UNIQ_KEY") == Some(result.message_id.as_str()))
            .collect();
        assert_eq!(found.len(), 1, "message {index}");
        let found = found[0];
        assert_eq!(found.offset_message_id, result.offset_message_id);
        assert_eq!(
            (found.queue_id, found.queue_offset),
            (result.queue.queue_id(), result.queue_offset)
        );
        assert_eq!(&*found.broker_name, result.queue.broker_name());
        assert_eq!(
            result.queue_offset,
            stored.results[0].queue_offset + u64::try_from(index).unwrap()
        );
        assert_eq!((&*found.body, found.flag), (sent.body(), sent.flag()));
        assert_eq!(found.tags.as_deref(), sent.tags());
        assert_eq!(found.keys, sent.keys().collect::<Vec<_>>());
        assert_eq!(found.property("größe"), sent.property("größe"));
        assert_eq!((result.status, &result.queue), (stored.status, &stored.queue));
    }
}

#[test]
fn each_message_of_a_batch_has_its_own_ids_and_its_own_place() {
    within(PATIENCE, || {
        for version in VERSIONS {
            for serialization in [HeaderSerialization::Json, HeaderSerialization::Binary] {
                let cluster = MockCluster::builder().speaks(version).start().unwrap();
                let builder = producer_for(cluster.name_servers()).header_serialization(serialization);
                let producer = builder.start().unwrap();
                // One alone is a batch too, and each batch lies behind the one before.
                for count in [1, 2, 100] {
                    let sent = numbered("orders", count);
                    let stored = producer.send_batch(&Batch::new(sent.clone()).unwrap()).unwrap();
                    assert_stored(&cluster, &stored, &sent);
                    let stored = send_async(&producer, Batch::new(sent.clone()).unwrap()).unwrap();
                    assert_stored(&cluster, &stored, &sent);
                    assert_eq!((stored.status, stored.attempts), (SendStatus::SendOk, 1));
                    assert!(!stored.may_be_duplicated);
                }
                assert_eq!(cluster.requests(BATCH), 6);
                assert_eq!(cluster.message_count("orders"), 206);
            }
        }
    });
}

/// The header is that of Java's batches but for what says nothing: `WAIT` when it is true, and a unique key, which a 5.x
/// broker would take as a wish to keep the batch as one record.
#[test]
fn a_batch_goes_out_with_the_header_of_a_batch() {
    let (cluster, producer) = cluster(ServerVersion::V4_7_0, 1);
    cluster.record_requests();
    producer.send_batch(&batch("orders", 2)).unwrap();
    let hasty = |i: usize| {
        Message::builder("orders")
            .body(vec![7; i])
            .wait_store_ok(false)
            .build()
            .unwrap()
    };
    producer
        .send_batch(&Batch::new([hasty(1), hasty(2)]).unwrap())
        .unwrap();
    let requests: Vec<_> = cluster
        .request_log()
        .into_iter()
        .filter(|request| request.code == BATCH)
        .collect();
    assert_eq!(requests.len(), 2);
    for (request, properties) in requests.iter().zip(["", "WAIT\u{1}false\u{2}"]) {
        for (name, value) in [
            ("b", "orders"),
            ("f", "0"),
            ("h", "0"),
            ("i", properties),
            ("j", "0"),
            ("m", "true"),
        ] {
            assert_eq!(request.field(name), Some(value), "{name}");
        }
        assert_eq!(request.field("l"), None);
    }
    // Two elements: total, magic 0, checksum 0, flag, length and body, length and properties.
    let id = |index: usize| cluster.messages("orders")[2 + index].message_id.unwrap();
    let element = |body: &[u8], id: String| {
        let properties = format!("WAIT\u{1}false\u{2}UNIQ_KEY\u{1}{id}\u{2}");
        let total = u32::try_from(22 + body.len() + properties.len()).unwrap();
        let length = u32::try_from(body.len()).unwrap();
        let properties_length = u16::try_from(properties.len()).unwrap();
        [
            &total.to_be_bytes()[..],
            &[0; 12],
            &length.to_be_bytes(),
            body,
            &properties_length.to_be_bytes(),
            properties.as_bytes(),
        ]
        .concat()
    };
    let expected = [
        element(&[7], id(0).to_string()),
        element(&[7; 2], id(1).to_string()),
    ]
    .concat();
    assert_eq!(requests[1].body, expected);
}

/// The same batch may be sent again: its messages get new ids each time.
#[test]
fn a_batch_that_is_sent_twice_has_other_ids_the_second_time() {
    let (_cluster, producer) = cluster(ServerVersion::V5_5_0, 1);
    let batch = batch("orders", 3);
    let all = [
        producer.send_batch(&batch).unwrap(),
        producer.send_batch(&batch).unwrap(),
    ];
    let ids: BTreeSet<_> = all
        .into_iter()
        .flatten()
        .map(|result| result.message_id.to_string())
        .collect();
    assert_eq!(ids.len(), 6);
}

#[test]
fn a_batch_goes_where_it_is_aimed() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster(ServerVersion::V4_7_0, 2);
        let queue = MessageQueue::new("orders", "broker-b", 2);
        let aimed = producer.to(queue.clone());
        assert_eq!(*aimed.send_batch(&batch("orders", 5)).unwrap().queue, queue);
        aimed.send_batch_oneway(&batch("orders", 5)).unwrap();
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 10));
        let in_queue = |message: &MockMessage| (&*message.broker_name, message.queue_id) == ("broker-b", 2);
        assert!(cluster.messages("orders").iter().all(in_queue));
        assert!(
            cluster
                .messages("orders")
                .iter()
                .all(|message| message.message_id.is_some())
        );

        let by_key = producer.to(Target::key("order-1"));
        let single = by_key.send(&Message::new("orders", "x").unwrap()).unwrap();
        assert_eq!(
            by_key.send_batch(&batch("orders", 5)).unwrap().queue,
            single.queue
        );
        let ordered = by_key.ordered(true);
        assert_eq!(
            ordered.send_batch(&batch("orders", 2)).unwrap().queue,
            single.queue
        );
        let by_first = Target::select(|queues, message| {
            assert_eq!(message.body(), b"body 0");
            queues.len() - 1
        });
        let (done, outcome) = mpsc::channel();
        producer
            .to(by_first)
            .send_batch_async(batch("orders", 2), move |result| done.send(result).unwrap());
        let stored = outcome.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(stored.queue.to_string(), "orders@broker-b#3");
        let error = producer
            .to(MessageQueue::new("orders", "broker-b", 9))
            .send_batch(&batch("orders", 2))
            .unwrap_err();
        assert_says(&error, &["queue orders@broker-b#9 is not one of"]);
    });
}

#[test]
fn a_batch_is_repeated_on_another_broker_under_the_same_ids() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster(ServerVersion::V5_5_0, 2);
        for is_async in [false, true] {
            let busy = cluster.any_broker().on(BATCH).once();
            busy.reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
            let sent = numbered("orders", 10);
            let batch = Batch::new(sent.clone()).unwrap();
            let stored = if is_async {
                send_async(&producer, batch).unwrap()
            } else {
                producer.send_batch(&batch).unwrap()
            };
            assert_eq!(stored.attempts, 2);
            assert_stored(&cluster, &stored, &sent);
            // Of an attempt that is lost there may be a second copy of each, and its ids tell it.
            cluster.any_broker().on(BATCH).once().after_store().close();
            let stored = producer.send_batch(&Batch::new(sent).unwrap()).unwrap();
            assert!(stored.may_be_duplicated && stored.results.iter().all(|result| result.may_be_duplicated));
            let copies = cluster.copies_by_message_id("orders");
            assert!(
                stored
                    .results
                    .iter()
                    .all(|result| copies[result.message_id.as_str()] == 2)
            );
            cluster.assert_no_rule_left();
        }
    });
}

#[test]
fn a_batch_that_is_stored_less_safely_says_so_for_each_message() {
    let (cluster, producer) = cluster(ServerVersion::V4_7_0, 1);
    let slave = cluster.broker("broker-a").on(BATCH).once().after_store();
    slave.reply(ResponseCode::SLAVE_NOT_AVAILABLE, "");
    let stored = producer.send_batch(&batch("orders", 3)).unwrap();
    assert_eq!(stored.status, SendStatus::SlaveNotAvailable);
    assert!(
        stored
            .results
            .iter()
            .all(|result| result.status == SendStatus::SlaveNotAvailable)
    );
}

#[test]
fn a_batch_that_fails_comes_back_with_the_error_of_all_its_messages() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster(ServerVersion::V5_5_0, 1);
        let refuse = || cluster.any_broker().on(BATCH).once();
        refuse().reply(ResponseCode::MESSAGE_ILLEGAL, "no");
        let batch = batch("orders", 3);
        let error = producer.send_batch(&batch).unwrap_err();
        assert_eq!(error.delivery(), Delivery::Refused);
        assert_says(&error, &["topic orders", "13 MESSAGE_ILLEGAL: no"]);
        refuse().after_store().close();
        let failure = send_async(&producer.clone(), batch.clone());
        // One broker only: the second attempt is stored.
        assert!(failure.unwrap().may_be_duplicated);
        refuse().reply(ResponseCode::MESSAGE_ILLEGAL, "no");
        let failure = send_async(&producer, batch.clone()).unwrap_err();
        assert_eq!(failure.batch, batch);
        let sends = producer.stats().sends;
        assert_eq!((sends.stored, sends.refused), (3, 6), "each message counts");
        drop(producer.shutdown(PATIENCE));
        let failure = send_async(&producer, batch.clone()).unwrap_err();
        assert!(matches!(failure.error, Error::ShutDown));
        assert!(matches!(producer.send_batch(&batch), Err(Error::ShutDown)));
        assert!(matches!(producer.send_batch_oneway(&batch), Err(Error::ShutDown)));
    });
}

/// A broker's answer that names another number of messages is not believed: the outcome is unknown, nothing is made up.
#[test]
fn an_answer_with_too_few_ids_leaves_the_outcome_unknown() {
    let (cluster, producer) = cluster(ServerVersion::V5_5_0, 1);
    let rule = cluster.any_broker().on(BATCH).once();
    rule.act(MockAction::usual().field("msgId", "A,B"));
    let error = producer.send_batch(&batch("orders", 3)).unwrap_err();
    assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
    assert_says(&error, &["a batch of 3 messages and named 2"]);
}

#[test]
fn the_shutdown_counts_each_message_of_a_batch() {
    within(PATIENCE, || {
        let (cluster, producer) = cluster(ServerVersion::V4_7_0, 1);
        cluster.any_broker().on(BATCH).silence();
        let (done, outcomes) = mpsc::channel();
        producer.send_batch_async(batch("orders", 7), move |result| done.send(result).unwrap());
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.requests(BATCH) == 1));
        let report = producer.shutdown(support::milliseconds(50));
        assert_eq!(
            (report.ended_early, report.unknown, report.failures.len()),
            (1, 7, 7),
            "{report}"
        );
        assert!(outcomes.recv_timeout(PATIENCE).unwrap().is_err());
        let bodies: Vec<_> = report
            .failures
            .iter()
            .map(|failure| failure.message.body().to_vec())
            .collect();
        assert_eq!(bodies[6], b"body 6");
    });
}

#[test]
fn what_cannot_be_a_batch_never_leaves_the_process() {
    let (cluster, producer) = cluster(ServerVersion::V5_5_0, 1);
    let other = Message::new("other", "x").unwrap();
    let hasty = Message::builder("orders")
        .body("x")
        .wait_store_ok(false)
        .build()
        .unwrap();
    let again = Message::new("%RETRY%group", "x").unwrap();
    let delayed = Message::builder("orders")
        .body("x")
        .delay_level(3)
        .build()
        .unwrap();
    let timed = Message::builder("orders")
        .body("x")
        .delay(PATIENCE)
        .build()
        .unwrap();
    let with = |last: Message| [numbered("orders", 2), vec![last]].concat();
    for (messages, says) in [
        (
            with(other),
            "message 2 (counted from 0) cannot be in the batch for topic orders: its topic is other",
        ),
        (with(hasty), "its wait_store_ok is false"),
        (
            with(delayed),
            "message 2 (counted from 0) cannot be in the batch for topic orders: it has a delay level",
        ),
        (
            with(timed),
            "message 2 (counted from 0) cannot be in the batch for topic orders: it has a delay",
        ),
        (vec![again], "topic %RETRY%group is a retry topic"),
    ] {
        let errors = [
            Batch::new(messages.clone()).unwrap_err(),
            Batch::split(messages.clone(), 1 << 20).unwrap_err(),
            producer.send_all(messages).unwrap_err(),
        ];
        for error in errors {
            assert_says(&error, &[says]);
            assert_eq!(error.delivery(), Delivery::NotStored);
        }
    }
    assert_says(&Batch::new([]).unwrap_err(), &["the batch is empty"]);
    assert_eq!(producer.send_all([]).unwrap().outcomes.len(), 0);
    let long = Message::builder("orders")
        .body("x")
        .property("long", "y".repeat(31_990))
        .build()
        .unwrap();
    let error = producer.send_batch(&Batch::new(with(long)).unwrap()).unwrap_err();
    assert_says(
        &error,
        &[
            "the properties of message 2 (counted from 0)",
            "limit max_properties_size is 32000",
        ],
    );
    assert_eq!(cluster.requests(BATCH), 0);
}

/// The limit is the one of 4.7.0, which compares records, headers and properties included; it is kept to the byte.
#[test]
fn a_batch_may_be_as_large_as_a_broker_takes() {
    within(PATIENCE, || {
        const LIMIT: usize = 10_000;
        for version in VERSIONS {
            let builder = MockCluster::builder().speaks(version).max_message_size(LIMIT);
            let cluster = builder.start().unwrap();
            let producer = producer_for(cluster.name_servers())
                .max_message_size(LIMIT)
                .start()
                .unwrap();
            let of_size = |size: usize| {
                let mut messages = numbered("orders", 20);
                messages.push(Message::new("orders", "x").unwrap());
                let least = Batch::new(messages.clone()).unwrap().size();
                messages[20] = Message::new("orders", vec![b'x'; size - least + 1]).unwrap();
                Batch::new(messages).unwrap()
            };
            assert_eq!(of_size(LIMIT).size(), LIMIT);
            let stored = producer.send_batch(&of_size(LIMIT)).unwrap();
            assert_eq!(stored.results.len(), 21);
            let too_large = of_size(LIMIT + 1);
            for error in [
                producer.send_batch(&too_large).unwrap_err(),
                producer.send_batch_oneway(&too_large).unwrap_err(),
                send_async(&producer, too_large.clone()).unwrap_err().error,
            ] {
                let says = "the batch of 21 messages for topic orders takes 10001 bytes as stored records; the limit \
                            max_message_size is 10000";
                assert_says(&error, &[says]);
            }
            assert_eq!(cluster.requests(BATCH), 1);
            // A producer that is not told of the broker's limit is told by the broker, and does not try again.
            let bold = producer_for(cluster.name_servers()).start().unwrap();
            let error = bold.send_batch(&of_size(3 * LIMIT)).unwrap_err();
            assert_eq!(
                (error.delivery(), error.attempts().len()),
                (Delivery::Refused, 1),
                "{error}"
            );
            assert_eq!(cluster.message_count("orders"), 21);
        }
    });
}

#[test]
fn a_long_list_goes_in_as_few_batches_as_its_size_allows() {
    within(PATIENCE, || {
        const LIMIT: usize = 10_000;
        let (cluster, _) = cluster(ServerVersion::V4_7_0, 2);
        let producer = producer_for(cluster.name_servers())
            .max_message_size(LIMIT)
            .start()
            .unwrap();
        let messages = numbered("orders", 1000);
        let parts = Batch::split(messages.clone(), LIMIT).unwrap();
        assert!(parts.len() > 10 && parts.iter().all(|part| part.size() <= LIMIT));
        let sent = producer.send_all(messages.clone()).unwrap();
        assert!(sent.all_stored(), "{sent}");
        assert_eq!(sent.to_string(), "1000 of 1000 messages stored");
        assert_eq!(cluster.requests(BATCH), u64::try_from(parts.len()).unwrap());
        let all = cluster.messages("orders");
        assert_eq!(all.len(), 1000);
        for (result, message) in sent.into_iter().zip(&messages) {
            let id = result.unwrap().message_id;
            let found = all.iter().find(|stored| stored.message_id == Some(id)).unwrap();
            assert_eq!(found.body, message.body());
        }
        // To one queue they keep their order.
        let queue = MessageQueue::new("orders", "broker-a", 0);
        let sent = producer.to(queue).send_all(messages).unwrap();
        let offsets: Vec<_> = sent
            .into_iter()
            .map(|result| result.unwrap().queue_offset)
            .collect();
        assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1));
    });
}

#[test]
fn a_part_that_fails_fails_its_own_messages_only() {
    within(PATIENCE, || {
        let (cluster, _) = cluster(ServerVersion::V5_5_0, 1);
        let messages = numbered("orders", 30);
        let limit = Batch::new(numbered("orders", 10)).unwrap().size() + 20;
        let producer = producer_for(cluster.name_servers())
            .max_message_size(limit)
            .start()
            .unwrap();
        let parts = Batch::split(messages.clone(), limit).unwrap();
        assert_eq!(parts[0].len(), 10);
        let second = cluster.any_broker().on(BATCH).skip(1).once();
        second.reply(ResponseCode::MESSAGE_ILLEGAL, "this one not");
        let sent = producer.send_all(messages).unwrap();
        let failed: Vec<_> = sent.failures().map(|(index, _)| index).collect();
        assert_eq!(failed, (10..10 + parts[1].len()).collect::<Vec<_>>());
        assert!(
            sent.failures()
                .all(|(_, error)| error.delivery() == Delivery::Refused)
        );
        assert!(
            sent.to_string().contains("the first failure is message 10: "),
            "{sent}"
        );
        assert_eq!(
            cluster.message_count("orders"),
            u64::try_from(30 - parts[1].len()).unwrap()
        );
        // One that is too large by itself is named before anything leaves.
        let before = cluster.requests(BATCH);
        let huge = vec![
            Message::new("orders", "x").unwrap(),
            Message::new("orders", vec![0; limit]).unwrap(),
        ];
        assert_says(
            &producer.send_all(huge).unwrap_err(),
            &["message 1 (counted from 0)"],
        );
        assert_eq!(cluster.requests(BATCH), before);
    });
}
