//! Transactions: what is committed can be read, what is rolled back cannot, what is unknown is asked about, and nothing is
//! there twice.

use std::{collections::BTreeMap, process::Command, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rocketmq_producer::{
    EndTransactions, HeaderSerialization, LocalTransaction, Message, SendResult, StoredMessage,
    TransactionEnd, TransactionListener, TransactionProducer,
};

use crate::{
    PATIENCE, builder,
    examples::programs,
    shut_down,
    support::{ReadMessage, RealCluster, read_all, run, wait_until},
};

const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";

use LocalTransaction::{Commit, Rollback, Unknown};

/// Brokers ask after one second, every second.
fn cluster(version: &str, brokers: u32) -> RealCluster {
    let settings = ["transactionCheckInterval=1000", "transactionTimeOut=1000"];
    RealCluster::start_with(version, brokers, &settings)
}

/// Says what the message itself says: property `local` when it is sent, `check` when it is asked about.
#[derive(Default)]
struct AsWritten {
    asked: Mutex<Vec<StoredMessage>>,
}

impl AsWritten {
    fn asked_about(&self, id: &str) -> usize {
        let asked = self.asked.lock();
        asked
            .iter()
            .filter(|message| message.message_id().as_str() == id)
            .count()
    }
}

fn said(text: Option<&str>) -> LocalTransaction {
    match text {
        Some("commit") => Commit,
        Some("rollback") => Rollback,
        _ => Unknown,
    }
}

impl TransactionListener for AsWritten {
    fn execute(&self, message: &Message, _: &SendResult) -> LocalTransaction {
        said(message.property("local"))
    }

    fn check(&self, message: &StoredMessage) -> LocalTransaction {
        self.asked.lock().push(message.clone());
        said(message.property("check"))
    }
}

fn message(topic: &str, body: &str, local: &str, check: &str) -> Message {
    let message = Message::builder(topic).tags("paid").keys(["k1", "k2"]).body(body);
    let message = message.property("local", local).property("check", check);
    message.build().unwrap()
}

/// How often each body can be read.
fn bodies(read: &[ReadMessage]) -> BTreeMap<&str, usize> {
    let mut bodies = BTreeMap::new();
    for message in read {
        *bodies.entry(message.text()).or_default() += 1;
    }
    bodies
}

#[track_caller]
fn assert_bodies(read: &[ReadMessage], expected: &[String]) {
    let expected: BTreeMap<_, _> = expected.iter().map(|body| (body.as_str(), 1)).collect();
    assert_eq!(bodies(read), expected);
}

/// Two rounds of checks have gone over the whole of a broker's half messages since this was called: what was open before
/// has been asked about by then. Seen by a transaction that stays unknown.
fn two_rounds_pass(producer: &TransactionProducer, listener: &AsWritten, topic: &str) {
    let marker = producer
        .send(&message(topic, "marker", "unknown", "unknown"))
        .unwrap();
    wait_until("two rounds of checks", || {
        listener.asked_about(marker.half.message_id.as_str()) >= 2
    });
}

pub(crate) fn only_what_is_committed_is_read_back(version: &str) {
    let cluster = cluster(version, 2);
    let mut example = Command::new(&programs()["transaction_producer"]);
    example.env("NAMESRV_ADDR", &cluster.name_servers);
    let told = run(&mut example, 4 * PATIENCE).or_panic("the example").stdout;
    let read = read_all(&cluster, &["TopicTest"], 2);
    let mut orders: Vec<_> = read.iter().map(|message| message.keys.as_deref()).collect();
    orders.sort_unstable();
    assert_eq!(
        orders,
        [Some("order-1"), Some("order-2")],
        "the example said:\n{told}"
    );
    for (topic, how, header) in [
        (
            "acknowledged",
            EndTransactions::Acknowledged,
            HeaderSerialization::Json,
        ),
        ("oneway", EndTransactions::OneWay, HeaderSerialization::Binary),
    ] {
        cluster.create_topic(topic, 2);
        let listener = Arc::<AsWritten>::default();
        let producer = builder(&cluster, topic)
            .end_transactions(how)
            .header_serialization(header)
            .start_transactional(Arc::clone(&listener))
            .unwrap();
        let mut visible = Vec::new();
        let mut results = Vec::new();
        for number in 0..4 {
            for (local, check) in [
                ("commit", "rollback"),
                ("rollback", "commit"),
                ("unknown", "commit"),
                ("unknown", "rollback"),
            ] {
                let body = format!("{local} {check} {number}");
                let result = producer.send(&message(topic, &body, local, check)).unwrap();
                let is_confirmed = matches!(result.end, TransactionEnd::Confirmed);
                assert_eq!(
                    is_confirmed,
                    how == EndTransactions::Acknowledged && local != "unknown",
                    "{result}"
                );
                if local == "commit" || (local, check) == ("unknown", "commit") {
                    visible.push(body);
                    results.push(result.half);
                }
            }
        }
        assert_bodies(&read_all(&cluster, &[topic], visible.len()), &visible);
        two_rounds_pass(&producer, &listener, topic);
        let read = read_all(&cluster, &[topic], visible.len());
        assert_bodies(&read, &visible);
        for result in &results {
            let found = read
                .iter()
                .find(|message| message.message_id == result.message_id.as_str())
                .unwrap();
            assert_eq!(
                (found.broker_name.as_str(), found.queue_id),
                (result.queue.broker_name(), result.queue.queue_id())
            );
            assert_eq!(
                (found.tags.as_deref(), found.keys.as_deref()),
                (Some("paid"), Some("k1 k2"))
            );
            assert_eq!(found.sys_flag & 0b1100, 8, "{found:?}");
        }
        for asked in &*listener.asked.lock() {
            assert_eq!(asked.topic(), topic);
            assert_eq!(
                asked.property("local"),
                Some("unknown"),
                "nothing else is asked about"
            );
            assert_eq!(asked.keys().collect::<Vec<_>>(), ["k1", "k2"]);
            assert!(
                ["broker-a", "broker-b"].contains(&asked.queue().broker_name()),
                "{asked:?}"
            );
        }
        shut_down(producer.producer());
    }
}

pub(crate) fn an_heir_answers_for_a_process_that_is_gone(version: &str) {
    let cluster = cluster(version, 2);
    let topic = "inherited";
    cluster.create_topic(topic, 2);
    let gone = builder(&cluster, topic)
        .start_transactional(AsWritten::default())
        .unwrap();
    let mut visible = Vec::new();
    for number in 0..8 {
        let check = if number % 2 == 0 { "commit" } else { "rollback" };
        let body = format!("{check} {number}");
        drop(gone.send(&message(topic, &body, "unknown", check)).unwrap());
        if check == "commit" {
            visible.push(body);
        }
    }
    // What is asked about before it is gone is answered by it.
    shut_down(gone.producer());
    let listener = Arc::<AsWritten>::default();
    let heir = builder(&cluster, topic)
        .start_transactional(Arc::clone(&listener))
        .unwrap();
    heir.register(&[topic]).unwrap();
    assert_bodies(&read_all(&cluster, &[topic], visible.len()), &visible);
    two_rounds_pass(&heir, &listener, topic);
    assert_bodies(&read_all(&cluster, &[topic], visible.len()), &visible);
    shut_down(heir.producer());
}

pub(crate) fn a_question_that_crosses_the_commit_makes_no_second_message(version: &str) {
    let cluster = cluster(version, 1);
    let topic = "crossing";
    cluster.create_topic(topic, 1);
    let listener = Arc::<AsWritten>::default();
    let producer = builder(&cluster, topic)
        .start_transactional(Arc::clone(&listener))
        .unwrap();
    let result = commit_while_asked(&cluster, &producer, topic, "slow");
    two_rounds_pass(&producer, &listener, topic);
    assert_bodies(&read_all(&cluster, &[topic], 1), &["slow".to_owned()]);
    assert_eq!(listener.asked_about(result.message_id.as_str()), 0);

    // Nor if it is another process that is asked about what is left over, and says commit.
    let result = commit_while_asked(&cluster, &producer, topic, "inherited");
    shut_down(producer.producer());
    let listener = Arc::<AsWritten>::default();
    let heir = builder(&cluster, topic)
        .start_transactional(Arc::clone(&listener))
        .unwrap();
    heir.register(&[topic]).unwrap();
    two_rounds_pass(&heir, &listener, topic);
    let both = ["slow".to_owned(), "inherited".to_owned()];
    assert_bodies(&read_all(&cluster, &[topic], 2), &both);
    let asked = listener.asked_about(result.message_id.as_str());
    assert!(asked <= 1, "what was found is remembered: {asked}");
    shut_down(heir.producer());
}

/// Sends a message whose local part ends after the broker has written the half message anew, which it does before it asks.
fn commit_while_asked(
    cluster: &RealCluster,
    producer: &TransactionProducer,
    topic: &str,
    body: &str,
) -> SendResult {
    let result = producer.send_with(&message(topic, body, "closure", "commit"), |half| {
        wait_until("the broker has asked", || {
            let copies = read_all(cluster, &[HALF_TOPIC], 2);
            let id = half.message_id.as_str();
            copies.iter().filter(|message| message.message_id == id).count() >= 2
        });
        Commit
    });
    let result = result.unwrap();
    assert!(result.is_committed(), "{result}");
    result.half
}

pub(crate) fn a_broker_that_is_killed_before_the_end_asks_when_it_is_back(version: &str) {
    let cluster = cluster(version, 1);
    let topic = "killed";
    cluster.create_topic(topic, 1);
    let listener = Arc::<AsWritten>::default();
    let producer = builder(&cluster, topic)
        .heartbeat_interval(Duration::from_millis(500))
        .start_transactional(Arc::clone(&listener))
        .unwrap();
    let result = producer.send_with(&message(topic, "survivor", "closure", "rollback"), |_| {
        cluster.node("broker-a", "kill");
        Commit
    });
    let result = result.unwrap();
    assert!(
        matches!(result.end, TransactionEnd::Unconfirmed(_)),
        "the broker is dead: {result}"
    );
    cluster.node("broker-a", "start");
    // 5.5.0 registers again only after some ten seconds.
    wait_until("the broker is back", || cluster.queues(topic).len() == 1);
    // The producer is told nothing: it makes itself known again, is asked, and remembers.
    wait_until("the message is there", || {
        !read_all(&cluster, &[topic], 1).is_empty()
    });
    assert_bodies(&read_all(&cluster, &[topic], 1), &["survivor".to_owned()]);
    two_rounds_pass(&producer, &listener, topic);
    let read = read_all(&cluster, &[topic], 1);
    assert_bodies(&read, &["survivor".to_owned()]);
    assert_eq!(read[0].message_id, result.half.message_id.as_str());
    assert_eq!(listener.asked_about(result.half.message_id.as_str()), 0);
    shut_down(producer.producer());
}
