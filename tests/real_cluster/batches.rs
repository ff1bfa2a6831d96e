//! Batches: every message of one is a message of its own, with its own ids and place, and real brokers agree on how much a
//! batch may hold.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::Duration,
};

use rocketmq_producer::{AutoBatch, Batch, Delivery, HeaderSerialization, Message, SendResult, Target};

use crate::{
    PATIENCE, Shared, builder, find, find_all, producer, shut_down,
    support::{ReadMessage, read_all, wait_until},
};

fn numbered(topic: &str, way: &str, count: usize) -> Vec<Message> {
    let build = |i: usize| {
        let message = Message::builder(topic)
            .tags(if i % 2 == 0 { "even" } else { "odd" })
            .keys([format!("{way}-{i}"), "all".to_owned()])
            .property("way", way)
            .property("größe", format!("{i} \u{1f600}"))
            .flag(i32::try_from(i).unwrap());
        message.body(format!("{way} body {i} 你好")).build().unwrap()
    };
    (0..count).map(build).collect()
}

/// That the message comes back with all that it was given.
#[track_caller]
fn assert_equal(read: &ReadMessage, sent: &Message) {
    assert_eq!(read.body, sent.body());
    assert_eq!(read.tags.as_deref(), sent.tags());
    assert_eq!(
        read.keys.as_deref(),
        Some(&*sent.keys().collect::<Vec<_>>().join(" "))
    );
    assert_eq!(read.flag, sent.flag());
    for name in ["way", "größe"] {
        assert_eq!(read.properties.get(name).map(String::as_str), sent.property(name));
    }
}

/// That the messages of one batch lie one behind the other.
#[track_caller]
fn assert_in_a_row(results: &[SendResult]) {
    for (offset, result) in (results[0].queue_offset..).zip(results) {
        assert_eq!((&result.queue, result.queue_offset), (&results[0].queue, offset));
    }
    let ids: BTreeSet<_> = results
        .iter()
        .map(|result| result.message_id.to_string())
        .collect();
    let offset_ids: BTreeSet<_> = results
        .iter()
        .map(|result| result.offset_message_id.to_string())
        .collect();
    assert_eq!((ids.len(), offset_ids.len()), (results.len(), results.len()));
}

pub(crate) fn every_message_of_a_batch_is_read_back(version: &str) {
    const COUNT: usize = 50;
    let cluster = Shared::Open.of(version);
    let topic = "batches";
    let producer = producer(&cluster, "batches");
    producer
        .send(&Message::new(topic, "creates the topic").unwrap())
        .unwrap();
    let queue = producer.publish_queues(topic).unwrap().remove(1);
    let lists = ["sync", "async", "key", "queue"].map(|way| numbered(topic, way, COUNT));
    let [sync, asynchronous, by_key, to_queue] = lists.clone().map(|list| Batch::new(list).unwrap());
    let (done, outcome) = mpsc::channel();
    producer.send_batch_async(asynchronous, move |result| done.send(result).unwrap());
    let stored = [
        producer.send_batch(&sync).unwrap(),
        outcome.recv().unwrap().unwrap(),
        producer.to(Target::key("order-1")).send_batch(&by_key).unwrap(),
        producer.to(queue.clone()).send_batch(&to_queue).unwrap(),
    ];
    let single = producer
        .to(Target::key("order-1"))
        .send(&Message::new(topic, "x").unwrap());
    let single = single.unwrap();
    assert_eq!(single.queue, stored[2].queue);
    assert_eq!(*stored[3].queue, queue);
    let oneway = numbered(topic, "oneway", COUNT);
    producer
        .send_batch_oneway(&Batch::new(oneway.clone()).unwrap())
        .unwrap();
    shut_down(&producer);

    let read = read_all(&cluster, &[topic], 5 * COUNT + 2);
    assert_eq!(read.len(), 5 * COUNT + 2);
    for (batch, list) in stored.iter().zip(&lists) {
        assert_in_a_row(&batch.results);
        for (result, sent) in batch.results.iter().zip(list) {
            assert_equal(find(&read, result), sent);
        }
    }
    let is_oneway = |message: &&ReadMessage| message.properties.get("way").is_some_and(|way| way == "oneway");
    let mut unheard: Vec<_> = read.iter().filter(is_oneway).collect();
    unheard.sort_by_key(|message| message.queue_offset);
    assert_eq!(unheard.len(), COUNT);
    for (message, sent) in unheard.iter().zip(&oneway) {
        assert_equal(message, sent);
        assert!(!message.message_id.is_empty());
    }
}

/// The size that `Batch::size` counts is the one that brokers compare: 4.7.0 to the byte, later ones let more in.
pub(crate) fn a_batch_is_taken_up_to_the_limit_and_refused_beyond_it(version: &str) {
    const BROKERS_LIMIT: usize = 65_536;
    let cluster = Shared::Strict.of(version);
    let topic = "batch_limit";
    cluster.create_topic(topic, 1);
    let producer = builder(&cluster, "batch_limit")
        .max_message_size(BROKERS_LIMIT)
        .start()
        .unwrap();
    let of_size = |size: usize| {
        let mut messages = numbered(topic, "limit", 40);
        let without =
            Batch::new([messages.clone(), vec![Message::new(topic, "x").unwrap()]].concat()).unwrap();
        let body = vec![b'y'; size - without.size() + 1];
        messages.push(Message::new(topic, body).unwrap());
        Batch::new(messages).unwrap()
    };
    let largest = of_size(BROKERS_LIMIT);
    assert_eq!(largest.size(), BROKERS_LIMIT);
    let queue = producer.publish_queues(topic).unwrap().remove(0);
    let stored = producer.to(queue.clone()).send_batch(&largest).unwrap();
    let error = producer.send_batch(&of_size(BROKERS_LIMIT + 1)).unwrap_err();
    assert!(error.to_string().contains("65537 bytes"), "{error}");
    assert_eq!(error.delivery(), Delivery::NotStored);
    shut_down(&producer);

    // One that does not know the broker's limit is told by the broker, and nothing is stored.
    let bold = builder(&cluster, "batch_limit").start().unwrap();
    let aimed = bold.to(queue);
    let mut results = stored.results;
    match aimed.send_batch(&of_size(BROKERS_LIMIT + 1)) {
        Ok(stored) => {
            assert_ne!(version, "4.7.0");
            results.extend(stored);
        }
        Err(error) => {
            assert_eq!(version, "4.7.0");
            assert_eq!(error.delivery(), Delivery::Refused, "{error}");
            println!("refused: {error}");
        }
    }
    let error = aimed.send_batch(&of_size(4 * BROKERS_LIMIT)).unwrap_err();
    println!("refused: {error}");
    assert_eq!(error.delivery(), Delivery::Refused, "{error}");
    shut_down(&bold);
    find_all(&read_all(&cluster, &[topic], results.len()), &results);
}

/// Many small messages, for which overhead and properties count most, and a few large ones.
pub(crate) fn a_long_list_is_sent_in_parts(version: &str) {
    const COUNT: usize = 25_000;
    let cluster = Shared::Open.of(version);
    let topic = "batch_parts";
    let producer = producer(&cluster, "batch_parts");
    let mut messages: Vec<_> = (0..COUNT)
        .map(|i| Message::new(topic, format!("{i}")).unwrap())
        .collect();
    messages.extend(vec![Message::new(topic, vec![7; 1_500_000]).unwrap(); 5]);
    let all = messages.len();
    let sent = producer.send_all(messages).unwrap();
    assert!(sent.all_stored(), "{sent}");
    let results: Vec<_> = sent.into_iter().map(Result::unwrap).collect();
    assert_eq!(results.len(), all);
    shut_down(&producer);
    let lines = cluster.java(&format!("survey {topic} {all} 300 60000"));
    let place = |queue_id: u64, broker: &str, offset: u64| (broker.to_owned(), queue_id, offset);
    let found: std::collections::BTreeMap<_, _> = lines
        .iter()
        .map(|line| {
            let number = |name: &str| line[name].as_u64().unwrap();
            let id = line["message_id"].as_str().unwrap().to_owned();
            let broker = line["broker_name"].as_str().unwrap();
            (id, place(number("queue_id"), broker, number("queue_offset")))
        })
        .collect();
    assert_eq!((lines.len(), found.len()), (all, all));
    for result in &results {
        let (broker, queue_id) = (result.queue.broker_name(), result.queue.queue_id().into());
        assert_eq!(
            found.get(result.message_id.as_str()),
            Some(&place(queue_id, broker, result.queue_offset))
        );
    }
}

/// Many blocked threads and many closures at once; no message is lost, doubled or told a place that is another's.
pub(crate) fn gathered_messages_are_read_back_and_each_sender_has_its_own_result(version: &str) {
    const THREADS: usize = 16;
    const EACH: usize = 60;
    let cluster = Shared::Open.of(version);
    for (serialization, topic) in [
        (HeaderSerialization::Json, "gathered_json"),
        (HeaderSerialization::Binary, "gathered_binary"),
    ] {
        let producer = builder(&cluster, "gathered")
            .header_serialization(serialization)
            .auto_batch(AutoBatch::default().hold(Duration::from_millis(20)))
            .start()
            .unwrap();
        // A topic that is just being created has queues at one broker only.
        producer
            .send(&Message::new(topic, "creates the topic").unwrap())
            .unwrap();
        let by_key = producer.to(Target::key("order-1"));
        let (done, outcomes) = mpsc::channel();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (done, producer, by_key) = (done.clone(), &producer, &by_key);
                scope.spawn(move || {
                    for message in numbered(topic, &format!("thread-{thread}"), EACH) {
                        let told = done.clone();
                        let sent = message.clone();
                        match thread % 4 {
                            0 => done.send((message.clone(), producer.send(&message))).unwrap(),
                            1 => done.send((message.clone(), by_key.send(&message))).unwrap(),
                            2 => by_key.send_async(message, move |outcome| {
                                told.send((sent, outcome.map_err(|failure| failure.error)))
                                    .unwrap();
                            }),
                            _ => producer.send_async(message, move |outcome| {
                                told.send((sent, outcome.map_err(|failure| failure.error)))
                                    .unwrap();
                            }),
                        }
                    }
                });
            }
        });
        drop(done);
        let all: Vec<_> = outcomes
            .iter()
            .map(|(sent, outcome)| (sent, outcome.unwrap()))
            .collect();
        assert_eq!(all.len(), THREADS * EACH);
        let attempts: u64 = producer
            .stats()
            .brokers
            .iter()
            .map(|broker| broker.attempts)
            .sum();
        println!("{attempts} requests for {} messages", all.len() + 1);
        assert!(
            attempts < u64::try_from(all.len()).unwrap(),
            "{attempts} requests"
        );
        shut_down(&producer);
        let read = read_all(&cluster, &[topic], all.len() + 1);
        assert_eq!(read.len(), all.len() + 1);
        for (sent, result) in &all {
            assert_equal(find(&read, result), sent);
        }
    }
}

/// Creates a topic with an attribute that Apache's 4.7.0 client, which reads for these tests, cannot set.
fn create_with_batch_queues(broker: &str, topic: &str) {
    let header = serde_json::json!({
        "code": 17, "language": "OTHER", "version": 513, "opaque": 1, "flag": 0,
        "extFields": {
            "topic": topic, "defaultTopic": "TBW102", "readQueueNums": "1", "writeQueueNums": "1", "perm": "6",
            "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false", "attributes": "+queue.type=BatchCQ",
        },
    });
    let header = header.to_string();
    let length = u32::try_from(header.len()).unwrap();
    let mut broker = TcpStream::connect(broker).unwrap();
    broker.set_read_timeout(Some(PATIENCE)).unwrap();
    let frame = [
        &(length + 4).to_be_bytes()[..],
        &length.to_be_bytes(),
        header.as_bytes(),
    ]
    .concat();
    broker.write_all(&frame).unwrap();
    let mut prefix = [0; 8];
    broker.read_exact(&mut prefix).unwrap();
    let [.., a, b, c] = prefix;
    let mut answer = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    broker.read_exact(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("\"code\":0"), "{answer}");
}

/// 5.x keeps a batch as one record where the topic says so and the batch has a unique key of its own, which ours have not.
pub(crate) fn a_topic_that_keeps_batches_as_one_record_keeps_ours_apart(version: &str) {
    if version.starts_with('4') {
        // There is no such topic.
        return;
    }
    let cluster = Shared::Open.of(version);
    let topic = "batch_queues";
    let producer = producer(&cluster, "batch_queues");
    producer
        .send(&Message::new("batch_queues_first", "finds a broker").unwrap())
        .unwrap();
    for broker in producer.stats().brokers {
        create_with_batch_queues(&broker.address, topic);
    }
    wait_until("the topic has a route", || producer.publish_queues(topic).is_ok());
    let sent = numbered(topic, "kept-apart", 20);
    let queue = producer.publish_queues(topic).unwrap().remove(0);
    let stored = producer
        .to(queue)
        .send_batch(&Batch::new(sent.clone()).unwrap())
        .unwrap();
    assert_in_a_row(&stored.results);
    shut_down(&producer);
    for (result, sent) in stored.results.iter().zip(&sent) {
        let found = cluster.java(&format!("offset {topic} {}", result.offset_message_id));
        let found = ReadMessage::parse(&found[0]);
        assert_equal(&found, sent);
        assert_eq!(found.message_id, result.message_id.as_str());
    }
}
