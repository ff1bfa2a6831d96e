//! What a real cluster says no to, and what it accepts with a warning.

use std::{collections::BTreeSet, sync::mpsc};

use rocketmq_producer::{Error, Message, ResponseCode, SendStatus};

use crate::{Shared, clusters::brokers, find, find_all, producer, shut_down, support::read_all};

pub(crate) fn a_topic_that_cannot_be_created_has_no_route(version: &str) {
    let cluster = Shared::Strict.of(version);
    let producer = producer(&cluster, "no_route");
    let error = producer.send(&Message::new("nowhere", "x").unwrap()).unwrap_err();
    assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
    assert!(error.to_string().contains("nowhere"), "{error}");

    // The producer is none the worse for it, and finds the topic once it is there.
    cluster.create_topic("nowhere", 1);
    let result = producer
        .send(&Message::new("nowhere", "now here").unwrap())
        .unwrap();
    shut_down(&producer);
    let read = read_all(&cluster, &["nowhere"], 1);
    assert_eq!(find(&read, &result).text(), "now here");
    assert_eq!(read.len(), 1);
}

pub(crate) fn a_body_over_the_own_limit_is_not_sent(version: &str) {
    let cluster = Shared::Open.of(version);
    let producer = producer(&cluster, "own_limit");
    let over = Message::builder("own_limit")
        .body(vec![b'x'; 4 * 1024 * 1024 + 1])
        .build();
    let error = over.and_then(|message| producer.send(&message)).unwrap_err();
    assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
    assert!(error.to_string().contains("4194305"), "{error}");

    // What is just under the limit reaches the broker and comes back whole.
    let body: Vec<u8> = (0..=250).cycle().take(4 * 1024 * 1024 - 1024).collect();
    let result = producer
        .send(&Message::new("own_limit", body.clone()).unwrap())
        .unwrap();
    shut_down(&producer);
    let read = read_all(&cluster, &["own_limit"], 1);
    assert_eq!(read.len(), 1);
    assert!(find(&read, &result).body == body, "the body changed on its way");
}

pub(crate) fn a_body_over_the_brokers_limit_is_refused_with_code_13(version: &str) {
    let cluster = Shared::Strict.of(version);
    cluster.create_topic("broker_limit", 1);
    let producer = producer(&cluster, "broker_limit");
    let error = producer
        .send(&Message::new("broker_limit", vec![b'x'; 70_000]).unwrap())
        .unwrap_err();
    assert_eq!(error.response_code(), Some(ResponseCode::new(13)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("13") && text.contains("message is illegal"),
        "{text}"
    );

    let result = producer
        .send(&Message::new("broker_limit", "short").unwrap())
        .unwrap();
    shut_down(&producer);
    let read = read_all(&cluster, &["broker_limit"], 1);
    assert_eq!(read.len(), 1);
    assert_eq!(find(&read, &result).text(), "short");
}

/// Accepted, stored, but not as safe as the broker was told to make it: a success with a warning.
pub(crate) fn a_missing_slave_is_told_and_the_message_stored(version: &str) {
    let cluster = Shared::Strict.of(version);
    cluster.create_topic("no_slave", 1);
    let producer = producer(&cluster, "no_slave");
    // Half of the queues are on broker-a, which wants no slave.
    let (sender, outcomes) = mpsc::channel();
    for i in 0..20 {
        let message = Message::new("no_slave", format!("alone {i}")).unwrap();
        let sender = sender.clone();
        producer.send_async(message, move |outcome| sender.send(outcome).unwrap());
    }
    drop(sender);
    let results: Vec<_> = outcomes.iter().map(Result::unwrap).collect();
    assert_eq!(results.len(), 20);
    let weaker = if version.starts_with('4') {
        SendStatus::SlaveNotAvailable
    } else {
        SendStatus::FlushSlaveTimeout
    };
    for result in &results {
        let is_alone = result.queue.broker_name() == "broker-b";
        let expected = if is_alone { weaker } else { SendStatus::SendOk };
        assert_eq!(result.status, expected, "{result:?}");
        // Another broker is only tried by those who ask for it with retry_another_broker_when_not_store_ok.
        assert_eq!((result.attempts, result.may_be_duplicated), (1, false));
    }
    assert_eq!(brokers(&results), BTreeSet::from(["broker-a", "broker-b"]));
    shut_down(&producer);
    find_all(&read_all(&cluster, &["no_slave"], 20), &results);
}
