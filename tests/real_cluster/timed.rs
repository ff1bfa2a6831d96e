//! Messages that are delivered later: not before their time, whole, and not at all when they are recalled. And messages whose
//! priority chooses their queue.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rocketmq_producer::{Delivery, Error, Message, MessageBuilder, Producer, SendResult};

use crate::{
    Shared, producer, shut_down,
    support::{ReadMessage, RealCluster, read_all},
};

/// What a delayed message may be late for on a busy machine; `read_all` waits for twenty seconds.
const MOST_LATE_MS: u64 = 15_000;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn message(topic: &str, text: &str) -> MessageBuilder {
    Message::builder(topic).tags("later").keys([text]).body(text)
}

/// A message that was sent, and when it may be delivered at the earliest.
struct Sent {
    result: SendResult,
    text: String,
    earliest_ms: u64,
}

/// The time, in milliseconds since 1970, after which a message may be delivered that is asked for now.
fn earliest(after: Duration) -> u64 {
    now_ms() + u64::try_from(after.as_millis()).unwrap()
}

fn send(producer: &Producer, message: MessageBuilder, text: &str, earliest_ms: u64) -> Sent {
    let result = producer.send(&message.build().unwrap()).unwrap();
    Sent {
        result,
        text: text.to_owned(),
        earliest_ms,
    }
}

/// That each message was delivered once, whole, to the queue that it was sent to, and in its time.
#[track_caller]
fn assert_delivered(read: &[ReadMessage], sent: &[Sent]) {
    assert_eq!(read.len(), sent.len(), "{read:?}");
    for Sent {
        result,
        text,
        earliest_ms,
    } in sent
    {
        let found: Vec<_> = read
            .iter()
            .filter(|message| message.message_id == result.message_id.as_str())
            .collect();
        assert_eq!(found.len(), 1, "{text}");
        let message = found[0];
        assert_eq!(message.text(), text);
        assert_eq!(message.tags.as_deref(), Some("later"));
        assert_eq!(message.keys.as_deref(), Some(text.as_str()));
        assert_eq!(message.broker_name, result.queue.broker_name());
        assert_eq!(message.queue_id, result.queue.queue_id());
        assert!(
            message.store_timestamp_ms >= *earliest_ms,
            "{text} came {} ms early",
            earliest_ms - message.store_timestamp_ms
        );
        let late = message.store_timestamp_ms - earliest_ms;
        assert!(late < MOST_LATE_MS, "{text} came {late} ms late");
    }
}

pub(crate) fn delayed_messages_come_after_their_level(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "delayed");
    let topic = "delayed";
    cluster.create_topic(topic, 4);
    let levels = [(1, Duration::from_secs(1)), (2, Duration::from_secs(5))];
    let sent: Vec<_> = levels
        .into_iter()
        .map(|(level, after)| {
            let text = format!("level-{level}");
            let message = message(topic, &text).delay_level(level);
            let sent = send(&producer, message, &text, earliest(after));
            assert_eq!(sent.result.recall_handle(), None);
            sent
        })
        .collect();
    shut_down(&producer);
    assert_delivered(&read_all(&cluster, &[topic], sent.len()), &sent);
}

pub(crate) fn timer_messages_come_at_their_time_or_are_refused(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "timer");
    let topic = "timer";
    cluster.create_topic(topic, 4);
    if !version.starts_with('5') {
        return timer_messages_are_refused(&cluster, &producer, topic);
    }
    let after = [1500, 3000, 4321].map(Duration::from_millis);
    let sent: Vec<_> = after
        .into_iter()
        .flat_map(|after| {
            let earliest_ms = earliest(after);
            let (delay, at) = (format!("delay-{after:?}"), format!("at-{after:?}"));
            let by_delay = message(topic, &delay).delay(after);
            let by_time = message(topic, &at).deliver_at(SystemTime::now() + after);
            [
                send(&producer, by_delay, &delay, earliest_ms),
                send(&producer, by_time, &at, earliest_ms),
            ]
        })
        .collect();
    for sent in &sent {
        assert!(sent.result.recall_handle().is_some(), "{}", sent.result);
    }
    shut_down(&producer);
    assert_delivered(&read_all(&cluster, &[topic], sent.len()), &sent);
}

/// 4.x would deliver them at once.
fn timer_messages_are_refused(cluster: &RealCluster, producer: &Producer, topic: &str) {
    let minute = Duration::from_secs(60);
    let messages = [
        message(topic, "delay").delay(minute),
        message(topic, "at").deliver_at(SystemTime::now() + minute),
        message(topic, "priority").priority(1),
    ]
    .map(|message| message.build().unwrap());
    for message in &messages {
        let error = producer.send(message).unwrap_err();
        assert_eq!(error.delivery(), Delivery::NotStored);
        let Error::Failed(failed) = &error else {
            panic!("{error:?}")
        };
        assert!(
            matches!(
                failed.last_error(),
                Some(Error::NotSupported { version: Some(_), .. })
            ),
            "{error:?}"
        );
        let oneway = producer.send_oneway(message).unwrap_err();
        assert!(matches!(oneway, Error::NotSupported { .. }), "{oneway:?}");
        let (sender, outcome) = std::sync::mpsc::channel();
        producer.send_async(message.clone(), move |outcome| sender.send(outcome).unwrap());
        let failure = outcome.recv_timeout(crate::PATIENCE).unwrap().unwrap_err();
        assert_eq!(failure.error.delivery(), Delivery::NotStored, "{}", failure.error);
    }
    let plain = producer.send(&message(topic, "plain").build().unwrap()).unwrap();
    shut_down(producer);
    let read = read_all(cluster, &[topic], 1);
    crate::find_all(&read, &[plain]);
}

pub(crate) fn a_recalled_message_never_comes(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "recall");
    let topic = "recall";
    cluster.create_topic(topic, 4);
    let handle_of = |result: &SendResult| result.recall_handle().unwrap().to_owned();
    if !version.starts_with('5') {
        // From a 5.5.0 broker: 4.7.0 would not even answer.
        let handle = "djEgcmVjYWxsIGJyb2tlci1hIDE3OTU0MjI3MzQwMDEgRkQwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDI3Q0EwNUZGRDJCMjc3MzFGRjQ5MDAwMTU=";
        let error = producer.recall(topic, handle).unwrap_err();
        assert!(
            matches!(error, Error::NotSupported { version: Some(_), .. }),
            "{error:?}"
        );
        return shut_down(&producer);
    }
    let seconds = Duration::from_secs;
    let recalled = message(topic, "recalled").delay(seconds(4)).build().unwrap();
    let recalled = producer.send(&recalled).unwrap();
    let kept = send(
        &producer,
        message(topic, "kept").delay(seconds(6)),
        "kept",
        earliest(seconds(6)),
    );
    let handle = handle_of(&recalled);
    assert_eq!(producer.recall(topic, &handle).unwrap(), recalled.message_id);
    // A second time is no harm.
    assert_eq!(producer.recall(topic, &handle).unwrap(), recalled.message_id);
    let read = read_all(&cluster, &[topic], 1);
    assert_delivered(&read, &[kept]);
    // Its time has come.
    let error = producer.recall(topic, &handle).unwrap_err();
    assert_eq!(
        error.response_code().map(rocketmq_producer::ResponseCode::value),
        Some(604),
        "{error:?}"
    );
    shut_down(&producer);
}

pub(crate) fn a_priority_chooses_the_queue(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "priority");
    let topic = "priority";
    cluster.create_topic(topic, 3);
    if !version.starts_with('5') {
        // Refused, as `timer_messages_are_refused` shows.
        return shut_down(&producer);
    }
    let results: BTreeMap<u32, SendResult> = [0, 1, 2, 9]
        .into_iter()
        .map(|priority| {
            let message = message(topic, &format!("priority-{priority}"))
                .priority(priority)
                .build();
            (priority, producer.send(&message.unwrap()).unwrap())
        })
        .collect();
    shut_down(&producer);
    let read = read_all(&cluster, &[topic], results.len());
    for (priority, result) in &results {
        assert_eq!(result.queue.queue_id(), (*priority).min(2));
        let found = crate::find(&read, result);
        assert_eq!(found.properties["_SYS_MSG_PRIORITY_"], priority.to_string());
    }
}
