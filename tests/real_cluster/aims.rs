//! Sends to one queue: given, by key, by selector, in all three ways.

use std::sync::mpsc;

use rocketmq_producer::{Message, MessageQueue, Producer, SendResult, Target};

use crate::{
    PATIENCE, Shared, find, producer, shut_down,
    support::{ReadMessage, RealCluster, read_all},
};

const QUEUES: usize = 4;

/// A topic with four queues on each of two brokers, in the order that every client agrees on.
fn topic(cluster: &RealCluster, producer: &Producer, name: &str) -> Vec<MessageQueue> {
    cluster.create_topic(name, QUEUES);
    let queues = producer.publish_queues(name).unwrap();
    let order: Vec<_> = queues
        .iter()
        .map(|queue| (queue.broker_name(), queue.queue_id()))
        .collect();
    let expected: Vec<_> = ["broker-a", "broker-b"]
        .iter()
        .flat_map(|broker| (0..4).map(move |id| (*broker, id)))
        .collect();
    assert_eq!(order, expected);
    queues
}

fn message(topic: &str, body: impl Into<Vec<u8>>) -> Message {
    Message::new(topic, body).unwrap()
}

#[track_caller]
fn assert_in(read: &ReadMessage, queue: &MessageQueue) {
    assert_eq!(
        (read.broker_name.as_str(), read.queue_id),
        (queue.broker_name(), queue.queue_id())
    );
}

/// One message in each of the three ways; the async one's result is waited for.
fn send_three_ways(
    producer: &Producer,
    target: &dyn Fn() -> Target,
    topic: &str,
    text: &str,
) -> Vec<SendResult> {
    let sync = producer
        .to(target())
        .send(&message(topic, format!("{text} sync")))
        .unwrap();
    let (sender, outcome) = mpsc::channel();
    producer
        .to(target())
        .send_async(message(topic, format!("{text} async")), move |outcome| {
            sender.send(outcome).unwrap();
        });
    producer
        .to(target())
        .send_oneway(&message(topic, format!("{text} oneway")))
        .unwrap();
    let asynchronous = outcome
        .recv_timeout(2 * PATIENCE)
        .unwrap()
        .unwrap_or_else(|failure| panic!("{}", failure.error));
    vec![sync, asynchronous]
}

/// That exactly the three messages of `text` lie in `queue`, in the order in which they were sent.
#[track_caller]
fn assert_three_in(read: &[ReadMessage], results: &[SendResult], queue: &MessageQueue, text: &str) {
    for result in results {
        assert_in(find(read, result), queue);
    }
    let mut mine: Vec<_> = read
        .iter()
        .filter(|message| message.text().starts_with(&format!("{text} ")))
        .collect();
    mine.sort_by_key(|message| message.queue_offset);
    assert_eq!(mine.len(), 3, "{text}");
    for message in &mine {
        assert_in(message, queue);
    }
    assert_eq!(mine[0].text(), format!("{text} sync"));
}

pub(crate) fn a_given_queue_is_used(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "given");
    let queues = topic(&cluster, &producer, "given");
    let results: Vec<_> = queues
        .iter()
        .enumerate()
        .map(|(i, queue)| send_three_ways(&producer, &|| queue.clone().into(), "given", &format!("q{i}")))
        .collect();
    shut_down(&producer);
    let read = read_all(&cluster, &["given"], 3 * queues.len());
    assert_eq!(read.len(), 3 * queues.len());
    for (i, (queue, results)) in queues.iter().zip(&results).enumerate() {
        assert_three_in(&read, results, queue, &format!("q{i}"));
    }
}

pub(crate) fn a_key_picks_the_queue_that_java_picks(version: &str) {
    let keys = [
        "order-1",
        "order-2",
        "order-3",
        "a",
        "鍵-😀",
        "Schlüssel",
        "0123456789012345678901234567890123",
    ];
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "by_key");
    let queues = topic(&cluster, &producer, "by_key");
    let results: Vec<_> = keys
        .iter()
        .map(|key| send_three_ways(&producer, &|| Target::key(key), "by_key", key))
        .collect();
    // Its hash code is Integer.MIN_VALUE, whose absolute value is itself: 4.7.0's selector fails with it, 5.x
    // takes the remainder first.
    let extreme = producer
        .to(Target::key("polygenelubricants"))
        .send(&message("by_key", "extreme"))
        .unwrap();
    shut_down(&producer);
    let read = read_all(&cluster, &["by_key"], 3 * keys.len() + 1);
    assert_eq!(read.len(), 3 * keys.len() + 1);
    for (key, results) in keys.iter().zip(&results) {
        let index = cluster.java_hash(key, queues.len());
        assert_three_in(&read, results, &queues[index], key);
    }
    assert_in(find(&read, &extreme), &queues[0]);
}

pub(crate) fn a_selector_picks_the_queue(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "selector");
    let queues = topic(&cluster, &producer, "selector");
    let results: Vec<_> = (0..queues.len())
        .map(|i| {
            let target = move || {
                Target::select(move |queues, message| {
                    assert_eq!((queues.len(), message.topic()), (2 * QUEUES, "selector"));
                    i
                })
            };
            send_three_ways(&producer, &target, "selector", &format!("s{i}"))
        })
        .collect();
    shut_down(&producer);
    let read = read_all(&cluster, &["selector"], 3 * queues.len());
    assert_eq!(read.len(), 3 * queues.len());
    for (i, (queue, results)) in queues.iter().zip(&results).enumerate() {
        assert_three_in(&read, results, queue, &format!("s{i}"));
    }
}
