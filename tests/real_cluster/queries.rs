//! Queries: this library's answers are those of Apache's Java producer for the same topic, and topics made by one are there
//! for the other.

use std::{
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rocketmq_producer::{
    Boundary, Error, Message, MessageQueue, NewTopic, OffsetMessageId, Producer, SendResult, StoredMessage,
    Target,
};
use serde_json::Value;

use crate::{
    PATIENCE, Shared, examples, producer, shut_down,
    support::{JavaClient, ReadMessage, RealCluster, java_command, run, wait_until},
};

const KEY: &str = "order-4711";

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// Sends `count` messages to each queue of the topic, with pauses that the store times show.
fn send_to_all(producer: &Producer, topic: &str, count: usize) -> Vec<SendResult> {
    let queues = producer.publish_queues(topic).unwrap();
    let mut results = Vec::new();
    for number in 0..count {
        for queue in &queues {
            let message = Message::builder(topic)
                .keys([KEY, &format!("number-{number}")])
                .tags("asked")
                .body(format!("{number} in {queue}"))
                .property("place", queue.to_string())
                .build()
                .unwrap();
            results.push(producer.to(queue.clone()).send(&message).unwrap());
        }
        // Store times are in milliseconds; what is tested does not depend on how much later the next ones are.
        std::thread::sleep(Duration::from_millis(15));
    }
    results
}

/// The messages that Java's query by key finds, by offset message id.
fn by_key_of_java(cluster: &RealCluster, topic: &str, key: &str) -> Vec<ReadMessage> {
    let lines = cluster.try_java(&format!("key {topic} {key} 64 0 {}", i64::MAX));
    let mut found: Vec<_> = lines.unwrap_or_default().iter().map(ReadMessage::parse).collect();
    found.sort_by(|one, other| one.offset_message_id.cmp(&other.offset_message_id));
    found
}

/// A message as we show it and as Java shows it. Java's message does not say which broker it is of.
#[track_caller]
fn assert_same(ours: &StoredMessage, javas: &ReadMessage) {
    assert_eq!(ours.topic(), javas.topic);
    assert_eq!(ours.queue().queue_id(), javas.queue_id);
    assert_eq!(ours.queue_offset(), javas.queue_offset);
    assert_eq!(ours.message_id().as_str(), javas.message_id);
    assert_eq!(ours.offset_message_id().as_str(), javas.offset_message_id);
    assert_eq!(ours.body(), javas.body);
    assert_eq!(ours.tags(), javas.tags.as_deref());
    assert_eq!(
        Some(ours.keys().collect::<Vec<_>>().join(" ")),
        javas.keys.clone()
    );
    assert_eq!((ours.flag(), ours.sys_flag()), (javas.flag, javas.sys_flag));
    let stamps = [ours.born_timestamp_ms(), ours.store_timestamp_ms()].map(|ms| u64::try_from(ms).unwrap());
    assert_eq!(stamps, [javas.born_timestamp_ms, javas.store_timestamp_ms]);
    assert_eq!(ours.born_host().ip().to_string(), javas.born_host);
    let properties: std::collections::BTreeMap<_, _> = ours
        .properties()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(properties, javas.properties);
}

/// The one message that Java shows.
#[track_caller]
fn view_of_java(cluster: &RealCluster, topic: &str, id: &str) -> ReadMessage {
    let lines = cluster.java(&format!("view {topic} {id}"));
    assert_eq!(lines.len(), 1, "{id}");
    ReadMessage::parse(&lines[0])
}

fn number(line: &Value, name: &str) -> i64 {
    line[name]
        .as_i64()
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// Every queue has the positions that Java is told.
#[track_caller]
fn assert_positions(lines: &[Value], producer: &Producer, topic: &str) {
    for line in lines {
        let queue_id = u32::try_from(number(line, "queue_id")).unwrap();
        let queue = MessageQueue::new(topic, line["broker_name"].as_str().unwrap(), queue_id);
        let earliest = producer.earliest_store_time(&queue).unwrap();
        let earliest = earliest.map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_millis());
        let ours = [
            i64::try_from(producer.min_offset(&queue).unwrap()).unwrap(),
            i64::try_from(producer.max_offset(&queue).unwrap()).unwrap(),
            earliest.map_or(-1, |ms| i64::try_from(ms).unwrap()),
        ];
        let javas = ["min", "max", "earliest"].map(|name| number(line, name));
        assert_eq!(ours, javas, "{queue}");
    }
}

/// Waits until the indexes of all brokers have these messages.
#[track_caller]
fn wait_for_index(producer: &Producer, topic: &str, count: usize) -> Vec<StoredMessage> {
    let find = || producer.query_messages(topic, KEY, 64, ..).unwrap().messages;
    wait_until("the indexes have all messages", || find().len() >= count);
    find()
}

pub(crate) fn queries_are_answered_as_java_is(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "queries");
    cluster.create_topic("asked", 2);
    let positions = || cluster.java("positions asked");
    assert_eq!(positions().len(), 4);
    assert_positions(&positions(), &producer, "asked");
    let results = send_to_all(&producer, "asked", 3);
    let found = wait_for_index(&producer, "asked", results.len());
    wait_until("the queues have all messages", || {
        let queues = producer.publish_queues("asked").unwrap();
        queues
            .iter()
            .all(|queue| producer.max_offset(queue).unwrap() == 3)
    });
    assert_positions(&positions(), &producer, "asked");

    // By key.
    let javas = by_key_of_java(&cluster, "asked", KEY);
    assert_eq!((found.len(), javas.len()), (results.len(), results.len()));
    let mut ours = found.clone();
    ours.sort_by(|one, other| {
        one.offset_message_id()
            .as_str()
            .cmp(other.offset_message_id().as_str())
    });
    for (ours, javas) in ours.iter().zip(&javas) {
        assert_same(ours, javas);
    }
    assert!(
        found
            .windows(2)
            .all(|pair| pair[0].store_timestamp_ms() <= pair[1].store_timestamp_ms())
    );
    let newest = producer.query_messages("asked", KEY, 4, ..).unwrap().messages;
    assert!(
        newest.iter().all(|message| message.body().starts_with(b"2 in ")),
        "{newest:?}"
    );
    assert!(
        producer
            .query_messages("asked", "nobody", 64, ..)
            .unwrap()
            .messages
            .is_empty()
    );

    // By both ids.
    for result in &results {
        let by_sender = producer
            .view_message("asked", result.message_id)
            .unwrap()
            .unwrap();
        let by_broker = producer
            .view_message("asked", result.offset_message_id)
            .unwrap()
            .unwrap();
        assert_eq!(by_sender, by_broker);
        assert_eq!(by_sender.queue(), &*result.queue);
        let (broker, id) = (result.queue.broker_name(), result.offset_message_id);
        assert_eq!(
            producer.view_message_on(broker, "asked", id).unwrap(),
            Some(by_sender.clone())
        );
        for text in [result.message_id.as_str(), result.offset_message_id.as_str()] {
            assert_eq!(
                producer.view_message("asked", text).unwrap(),
                Some(by_sender.clone())
            );
        }
    }
    let some = &results[0];
    for id in [some.message_id.as_str(), some.offset_message_id.as_str()] {
        let ours = producer.view_message("asked", id).unwrap().unwrap();
        let javas = view_of_java(&cluster, "asked", id);
        // Java 4.7.0 shows the broker's id twice of a message that it has read by that id.
        assert_eq!(ours.body(), javas.body);
        assert_eq!(ours.offset_message_id().as_str(), javas.offset_message_id);
    }
    let beyond = OffsetMessageId::from_text(&format!(
        "{}00000FFFFFFFFFFF",
        &some.offset_message_id.as_str()[..16]
    ));
    assert_eq!(producer.view_message("asked", beyond.unwrap()).unwrap(), None);

    search(&cluster, &producer, &found);
    shut_down(&producer);
}

/// The offsets of times, in one queue.
fn search(cluster: &RealCluster, producer: &Producer, found: &[StoredMessage]) {
    let queue = found[0].queue();
    let times: Vec<_> = found
        .iter()
        .filter(|message| message.queue() == queue)
        .map(|message| u64::try_from(message.store_timestamp_ms()).unwrap())
        .collect();
    assert_eq!(times.len(), 3);
    let search = |ms: u64, boundary| producer.search_offset(queue, time(ms), boundary).unwrap();
    let between = |one: usize, part: u64| times[one] + (times[one + 1] - times[one]) * part / 10;
    let (before, behind) = (times[0] - 60_000, times[2] + 60_000);
    let asked = [
        before,
        times[0],
        between(0, 2),
        between(0, 8),
        times[1],
        times[2],
        behind,
    ];
    let lower: Vec<_> = asked.iter().map(|ms| search(*ms, Boundary::Lower)).collect();
    let upper: Vec<_> = asked.iter().map(|ms| search(*ms, Boundary::Upper)).collect();
    let javas: Vec<_> = asked
        .iter()
        .map(|ms| {
            let command = format!("search asked {} {} {ms}", queue.broker_name(), queue.queue_id());
            u64::try_from(number(&cluster.java(&command)[0], "offset")).unwrap()
        })
        .collect();
    // Java's 4.7.0 client asks without a boundary, which 5.x takes for the lower one.
    assert_eq!(lower, javas, "{asked:?}");
    if cluster.version.starts_with('5') {
        assert_eq!(lower, [0, 0, 1, 1, 1, 2, 3]);
        assert_eq!(upper, [0, 0, 0, 0, 1, 2, 2]);
    } else {
        // Whichever is nearer.
        assert_eq!(lower, [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(upper, lower);
    }
}

pub(crate) fn topics_made_here_are_there_for_java(version: &str) {
    // Brokers that create no topics by themselves: there is no TBW102 to copy.
    let cluster = Shared::Strict.of(version);
    let producer = producer(&cluster, "creates");
    let error = producer
        .create_topic(&NewTopic::new("made_here", 3))
        .expect_err("nothing tells on which brokers");
    assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
    let new = NewTopic::new("made_here", 3).where_topic("DefaultCluster");
    let created = producer.create_topic(&new).unwrap();
    assert_eq!(created.brokers, ["broker-a".into(), "broker-b".into()]);
    assert!(created.is_routed);
    // At once, here and there.
    assert_eq!(producer.publish_queues("made_here").unwrap().len(), 6);
    assert_eq!(cluster.queues("made_here").len(), 6);
    let more = NewTopic::new("made_here", 5).where_topic("DefaultCluster");
    producer.create_topic(&more).unwrap();
    assert_eq!(producer.publish_queues("made_here").unwrap().len(), 10);
    assert_eq!(cluster.queues("made_here").len(), 10);
    let first = Target::select(|_, _| 0);
    let sent = producer
        .to(first)
        .send(&Message::new("made_here", "x").unwrap())
        .unwrap();
    wait_until("the message is counted", || {
        producer.max_offset(&sent.queue).unwrap() == 1
    });

    // And the other way.
    cluster.java("new_topic DefaultCluster made_there 2");
    wait_until("the topic is routed", || {
        producer
            .publish_queues("made_there")
            .is_ok_and(|queues| queues.len() == 4)
    });
    shut_down(&producer);
}

pub(crate) fn a_static_topic_is_sent_to_and_asked(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "static");
    let tool = "org.apache.rocketmq.tools.command.MQAdminStartup";
    let mut update: Command = java_command(version, tool);
    update.args([
        "updateStaticTopic",
        "-n",
        &cluster.name_servers,
        "-b",
        "broker-a,broker-b",
    ]);
    update.args(["-t", "logical", "-qn", "4"]);
    let told = run(&mut update, 4 * PATIENCE)
        .or_panic("updateStaticTopic")
        .stdout;
    assert!(told.contains("mapping data"), "{told}");
    wait_until("the static topic has its four queues", || {
        let queues = producer.publish_queues("logical").unwrap_or_default();
        queues.len() == 4
            && queues
                .iter()
                .all(|queue| queue.broker_name() == "__syslo__global__")
    });
    let results = send_to_all(&producer, "logical", 3);
    let queues = producer.publish_queues("logical").unwrap();
    for (number, queue) in queues.iter().enumerate() {
        let mine: Vec<_> = results.iter().filter(|result| &*result.queue == queue).collect();
        let offsets: Vec<_> = mine.iter().map(|result| result.queue_offset).collect();
        assert_eq!(offsets, [0, 1, 2], "logical queue {number}");
        wait_until("the messages are counted", || {
            producer.max_offset(queue).unwrap() == 3
        });
        assert_eq!(producer.min_offset(queue).unwrap(), 0);
        let found = producer.search_offset(
            queue,
            SystemTime::now() + Duration::from_secs(60),
            Boundary::Lower,
        );
        assert_eq!(found.unwrap(), 3);
    }
    // Java's 5.5.0 client knows static topics. The earliest time that it is told of a logical queue need not be that
    // queue's: 5.5.0's broker looks into the queue with the same number on the broker that holds it.
    let mut java = JavaClient::start(version, &cluster.name_servers, &cluster.scratch());
    let positions = java.ask("positions logical", 4 * PATIENCE).unwrap();
    assert_eq!(positions.len(), 4);
    assert_positions(&positions, &producer, "logical");
    let found = wait_for_index(&producer, "logical", results.len());
    for result in &results {
        let message = producer
            .view_message("logical", result.message_id)
            .unwrap()
            .unwrap();
        assert_eq!(message.offset_message_id(), result.offset_message_id);
        assert!(found.contains(&message));
    }
    shut_down(&producer);
}

pub(crate) fn the_example_finds_its_messages(version: &str) {
    let cluster = Shared::Open.of(version);
    let said = examples::run_one(&cluster, "queries");
    for expected in [
        "topic orders is on broker-a, broker-b",
        "\"created\"",
        "\"paid\"",
        "\"shipped\"",
        "same by both ids: true",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
}
