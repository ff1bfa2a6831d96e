//! Sends to one queue: given, by key, by selector, in all three ways.

use std::{sync::mpsc, time::Duration};

use rocketmq_producer::{Message, MessageQueue, Producer, SendResult, Target};

use crate::{
    PATIENCE, Shared, builder, find, producer, shut_down,
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
        "customer-42",
        "Ελληνικά-κλειδί",
        "مفتاح",
        "主键-订单",
        "𝄞𝄢",
        "zürich-😀-鍵",
        "👨\u{200d}👩\u{200d}👧",
        "\u{10ffff}\u{e000}",
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

/// A key goes to the queue that Java picks among the queues that there are: another one after their number has changed. Before
/// and after, its messages are in order.
pub(crate) fn keys_move_when_the_number_of_queues_changes(version: &str) {
    const COUNT: usize = 10;
    let keys = ["order-1", "order-2", "鍵-😀"];
    let cluster = Shared::Open.of(version);
    let topic_name = "growing";
    let producer = builder(&cluster, "growing")
        .route_refresh_interval(Duration::from_millis(200))
        .start()
        .unwrap();
    let before = topic(&cluster, &producer, topic_name);
    let send = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            for key in keys {
                let message = message(topic_name, format!("{key} {number}"));
                producer
                    .to(Target::key(key))
                    .ordered(true)
                    .send(&message)
                    .unwrap();
            }
        }
    };
    send(0..COUNT);
    // As `mqadmin updateTopic -w 7 -r 7` does.
    cluster.create_topic(topic_name, 7);
    let mut after = before.clone();
    crate::support::wait_until("the producer knows of 14 queues", || {
        after = producer.publish_queues(topic_name).unwrap();
        after.len() == 14
    });
    send(COUNT..2 * COUNT);
    shut_down(&producer);
    let read = read_all(&cluster, &[topic_name], 2 * COUNT * keys.len());
    let mut moved = 0;
    for key in keys {
        let queues = [&before, &after].map(|queues| &queues[cluster.java_hash(key, queues.len())]);
        moved += usize::from(queues[0] != queues[1]);
        for (queue, numbers) in queues.into_iter().zip([0..COUNT, COUNT..2 * COUNT]) {
            let mut mine: Vec<_> = read
                .iter()
                .filter(|message| {
                    let number = message.text().strip_prefix(&format!("{key} "));
                    number.is_some_and(|number| numbers.contains(&number.parse().unwrap()))
                })
                .collect();
            mine.sort_by_key(|message| message.queue_offset);
            let texts: Vec<_> = mine.iter().map(|message| message.text().to_owned()).collect();
            let expected: Vec<_> = numbers.map(|number| format!("{key} {number}")).collect();
            assert_eq!(texts, expected, "{key} in {queue}");
            for message in mine {
                assert_in(message, queue);
            }
        }
    }
    assert!(moved > 0, "no key has moved, so nothing was shown");
}
