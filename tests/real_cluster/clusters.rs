//! What a producer is to its cluster: topics that come into being, brokers that die, registration, neighbours.

use std::{collections::BTreeSet, sync::mpsc};

use rocketmq_producer::{Message, Producer, SendResult};

use crate::{
    PATIENCE, Shared, builder, find, find_all, producer, shut_down,
    support::{RealCluster, read_all, wait_until},
};

fn send_some(producer: &Producer, topic: &str, text: &str, count: usize) -> Vec<SendResult> {
    (0..count)
        .map(|i| {
            producer
                .send(&Message::new(topic, format!("{text} {i}")).unwrap())
                .unwrap()
        })
        .collect()
}

pub(crate) fn brokers(results: &[SendResult]) -> BTreeSet<&str> {
    results.iter().map(|result| result.queue.broker_name()).collect()
}

/// Unknown to the name server, the topic is sent under TBW102's route; the broker takes it from there.
pub(crate) fn a_new_topic_gets_four_queues_on_each_broker_used(version: &str) {
    let cluster = Shared::Open.of(version);
    assert_eq!(cluster.queues("brand_new"), []);
    let producer = producer(&cluster, "brand_new");
    let results = send_some(&producer, "brand_new", "new", 16);
    shut_down(&producer);
    let read = read_all(&cluster, &["brand_new"], 16);
    find_all(&read, &results);
    let expected: Vec<_> = brokers(&results)
        .iter()
        .flat_map(|broker| (0..4).map(move |id| ((*broker).to_owned(), id)))
        .collect();
    assert_eq!(cluster.queues("brand_new"), expected);
}

pub(crate) fn a_killed_broker_does_not_stop_sends(version: &str) {
    const COUNT: usize = 40;
    let cluster = RealCluster::start(version, 2);
    cluster.create_topic("survivor", 4);
    let producer = builder(&cluster, "survivor").retries(3).start().unwrap();
    let mut results = send_some(&producer, "survivor", "before", COUNT);
    assert_eq!(brokers(&results), BTreeSet::from(["broker-a", "broker-b"]));

    // The broker dies while these are under way.
    let (sender, outcomes) = mpsc::channel();
    for i in 0..COUNT {
        let message = Message::new("survivor", format!("during {i}")).unwrap();
        let sender = sender.clone();
        producer.send_async(message, move |outcome| sender.send(outcome).unwrap());
        if i == COUNT / 2 {
            cluster.node("broker-b", "kill");
        }
    }
    for _ in 0..COUNT {
        let outcome = outcomes.recv_timeout(2 * PATIENCE).unwrap();
        results.push(outcome.unwrap_or_else(|failure| panic!("while the broker died: {}", failure.error)));
    }
    let after = send_some(&producer, "survivor", "after", COUNT);
    assert_eq!(brokers(&after), BTreeSet::from(["broker-a"]));
    results.extend(after);
    shut_down(&producer);

    // Every acknowledged message is there, also those of the dead broker; a second copy only where it was said.
    cluster.node("broker-b", "start");
    // 5.5.0 registers again only after some ten seconds.
    wait_until("the dead broker is back", || {
        cluster.queues("survivor").len() == 8
    });
    let read = read_all(&cluster, &["survivor"], results.len());
    for result in &results {
        if result.may_be_duplicated {
            assert!(
                read.iter()
                    .any(|message| message.message_id == result.message_id.as_str())
            );
        } else {
            find(&read, result);
        }
    }
}

/// The heartbeat makes the producer known to every broker in use, the sign-off makes it unknown at once.
pub(crate) fn producers_register_and_sign_off(version: &str) {
    let cluster = Shared::Open.of(version);
    cluster.create_topic("registered", 2);
    let producer = producer(&cluster, "registered");
    let id = producer.client_id().to_string();
    let results = send_some(&producer, "registered", "hello", 8);
    assert_eq!(brokers(&results).len(), 2);
    wait_until("both brokers know the producer", || {
        cluster
            .producers("registered")
            .iter()
            .all(|(_, ids)| *ids == [id.clone()])
    });
    shut_down(&producer);
    // The broker also forgets who closes his connection; that the producer said goodbye stands in its log.
    for broker in ["broker-a", "broker-b"] {
        wait_until("the broker has noted the goodbye", || {
            cluster.log_tells(broker, &["unregister a producer[registered]", &id])
        });
    }
    wait_until("no broker knows the producer", || {
        cluster
            .producers("registered")
            .iter()
            .all(|(_, ids)| ids.is_empty())
    });
}

pub(crate) fn two_groups_do_not_disturb_each_other(version: &str) {
    let cluster = Shared::Open.of(version);
    cluster.create_topic("neighbours", 2);
    let first = producer(&cluster, "first_group");
    let second = producer(&cluster, "second_group");
    assert_ne!(first.client_id().to_string(), second.client_id().to_string());
    let mut results = send_some(&first, "neighbours", "first", 8);
    results.extend(send_some(&second, "neighbours", "second", 8));
    shut_down(&first);
    wait_until("only the second group is known", || {
        let known = |group| cluster.producers(group).iter().any(|(_, ids)| !ids.is_empty());
        !known("first_group") && known("second_group")
    });
    assert!(
        first
            .send(&Message::new("neighbours", "too late").unwrap())
            .is_err()
    );
    results.extend(send_some(&second, "neighbours", "still", 8));
    shut_down(&second);
    let read = read_all(&cluster, &["neighbours"], results.len());
    find_all(&read, &results);
}

pub(crate) fn two_clusters_do_not_disturb_each_other(version: &str) {
    let clusters = [Shared::Open.of(version), Shared::Strict.of(version)];
    for cluster in &clusters {
        cluster.create_topic("both", 2);
    }
    // The same group and topic: nothing but the name servers tells the two apart.
    let producers = clusters.each_ref().map(|cluster| producer(cluster, "both"));
    let mut results = [Vec::new(), Vec::new()];
    for round in 0..4 {
        for (producer, results) in producers.iter().zip(&mut results) {
            results.extend(send_some(producer, "both", &format!("round {round}"), 4));
        }
    }
    shut_down(&producers[0]);
    results[1].extend(send_some(&producers[1], "both", "alone", 4));
    shut_down(&producers[1]);
    for (cluster, results) in clusters.iter().zip(&results) {
        let read = read_all(cluster, &["both"], results.len());
        find_all(&read, results);
    }
}
