//! A message of a transaction is delivered if, and only if, the local part says so: at once, or when the broker asks. It is
//! never delivered twice by this producer, whatever gets lost.

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

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

#[cfg(feature = "zlib")]
use rocketmq_producer::CompressionType;
use rocketmq_producer::{
    Delivery, EndTransactions, Error, LocalTransaction, Message, Producer, ProducerBuilder, Redelivery,
    RequestCode, ResponseCode, SendResult, SendStatus, StoredMessage, TransactionEnd, TransactionListener,
    TransactionProducer,
    mock::{MockCluster, MockRequest, ServerVersion},
};
use support::{
    GROUP, PATIENCE,
    fake_server::{FakeServer, Peer, Request, SEND_MESSAGE_V2},
    message, milliseconds, producer_for, within,
};

const TOPIC: &str = "orders";
const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
const END_TRANSACTION: i64 = 37;
const QUERY_MESSAGE: i64 = 12;

use LocalTransaction::{Commit, Rollback, Unknown};

/// Says what it was told to say, and keeps what it was asked about.
#[derive(Clone, Default)]
struct Scripted {
    executes: Arc<Mutex<VecDeque<LocalTransaction>>>,
    checks: Arc<Mutex<VecDeque<LocalTransaction>>>,
    asked: Arc<Mutex<Vec<StoredMessage>>>,
}

impl Scripted {
    fn new(executes: &[LocalTransaction], checks: &[LocalTransaction]) -> Self {
        let queue = |said: &[LocalTransaction]| Arc::new(Mutex::new(said.iter().copied().collect()));
        Self {
            executes: queue(executes),
            checks: queue(checks),
            asked: Arc::default(),
        }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl TransactionListener for Scripted {
    fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
        let said = self.executes.lock().unwrap().pop_front();
        said.expect("the script has an answer")
    }

    fn check(&self, message: &StoredMessage) -> LocalTransaction {
        let said = self.checks.lock().unwrap().pop_front();
        self.asked.lock().unwrap().push(message.clone());
        said.expect("the script has an answer")
    }
}

/// Half messages are only asked about when a test says so.
fn cluster(brokers: usize, version: ServerVersion) -> MockCluster {
    let hour = Duration::from_secs(3600);
    MockCluster::builder()
        .brokers(brokers)
        .speaks(version)
        .transaction_checks(hour, hour, 15)
        .start()
        .unwrap()
}

fn builder(cluster: &MockCluster) -> ProducerBuilder {
    producer_for(cluster.name_servers()).heartbeat_interval(milliseconds(100))
}

fn start(cluster: &MockCluster, listener: &Scripted) -> TransactionProducer {
    builder(cluster).start_transactional(listener.clone()).unwrap()
}

#[track_caller]
fn wait_for(cluster: &MockCluster, what: &str, condition: impl FnMut(&MockCluster) -> bool) {
    assert!(cluster.wait_until(PATIENCE, condition), "{what}");
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(milliseconds(2));
    }
}

fn ends(cluster: &MockCluster) -> Vec<MockRequest> {
    let mut requests = cluster.request_log();
    requests.retain(|request| request.code == RequestCode::END_TRANSACTION);
    requests
}

#[test]
fn a_commit_delivers_and_a_rollback_throws_away() {
    within(PATIENCE, || {
        for version in [
            ServerVersion::V4_7_0,
            ServerVersion::V4_9_7,
            ServerVersion::V5_5_0,
        ] {
            let cluster = cluster(1, version);
            let listener = Scripted::new(&[Commit, Rollback], &[]);
            let producer = start(&cluster, &listener);
            let paid = Message::builder(TOPIC)
                .tags("paid")
                .keys(["k1"])
                .body("1")
                .build();
            let committed = producer.send(&paid.unwrap()).unwrap();
            assert!(committed.is_committed(), "{committed}");
            let rolled_back = producer.send(&message(TOPIC)).unwrap();
            assert!(!rolled_back.is_committed());
            assert_eq!(rolled_back.local, Rollback);
            assert!(
                matches!(rolled_back.end, TransactionEnd::Confirmed),
                "{rolled_back}"
            );

            let visible = cluster.messages(TOPIC);
            assert_eq!(visible.len(), 1, "{visible:#?}");
            assert_eq!(visible[0].message_id, Some(committed.half.message_id));
            assert_eq!(
                (visible[0].body.as_slice(), visible[0].tags.as_deref()),
                (&b"1"[..], Some("paid"))
            );
            assert_eq!(visible[0].queue_id, committed.half.queue.queue_id());
            assert_eq!(visible[0].sys_flag, 8);
            assert_eq!(cluster.message_count(HALF_TOPIC), 2);
            assert_eq!((cluster.open_transactions(), listener.asked()), (0, 0));
        }
    });
}

#[test]
fn what_is_sent_is_what_java_sends() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        cluster.record_requests();
        let producer = start(&cluster, &Scripted::new(&[Commit, Unknown], &[]));
        let result = producer.send(&message(TOPIC)).unwrap();
        let open = producer.send(&message(TOPIC)).unwrap();
        assert!(matches!(open.end, TransactionEnd::Open), "{open}");

        let log = cluster.request_log();
        let half = log
            .iter()
            .find(|request| request.code == RequestCode::SEND_MESSAGE_V2)
            .unwrap();
        let id = result.half.message_id;
        assert_eq!((half.field("f"), half.field("b")), (Some("4"), Some(TOPIC)));
        let properties = format!("UNIQ_KEY\u{1}{id}\u{2}TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{GROUP}\u{2}");
        assert_eq!(half.field("i"), Some(properties.as_str()));

        wait_for(&cluster, "two ends", |cluster| ends(cluster).len() == 2);
        let ends = ends(&cluster);
        let commit_log_offset =
            u64::from_str_radix(&result.half.offset_message_id.as_str()[16..], 16).unwrap();
        for (name, value) in [
            ("producerGroup", GROUP),
            ("tranStateTableOffset", &result.half.queue_offset.to_string()),
            ("commitLogOffset", &commit_log_offset.to_string()),
            ("commitOrRollback", "8"),
            ("fromTransactionCheck", "false"),
            ("msgId", id.as_str()),
            ("transactionId", id.as_str()),
            ("topic", TOPIC),
            ("bname", "broker-a"),
        ] {
            assert_eq!(ends[0].field(name), Some(value), "{name}");
        }
        assert!(!ends[0].is_oneway, "it is acknowledged unless told otherwise");
        assert_eq!(ends[1].field("commitOrRollback"), Some("0"));
        assert!(ends[1].is_oneway, "no broker answers an unknown");
        assert_eq!(cluster.open_transactions(), 1);
        let shut_down = producer.shutdown(PATIENCE);
        assert!(shut_down.is_clean(), "{shut_down}");
        assert_eq!(producer.producer().stats().oneway_accepted, 0, "it is no message");
    });
}

#[test]
fn an_unknown_is_asked_about_until_the_listener_knows() {
    within(PATIENCE, || {
        for version in [
            ServerVersion::V4_7_0,
            ServerVersion::V4_9_7,
            ServerVersion::V5_5_0,
        ] {
            let cluster = cluster(1, version);
            let listener = Scripted::new(
                &[Unknown, Unknown],
                &[Unknown, Unknown, Commit, Rollback, Rollback],
            );
            let producer = start(&cluster, &listener);
            let sent = Message::builder(TOPIC)
                .keys(["a", "b"])
                .property("p", "v")
                .body("body");
            let result = producer.send(&sent.build().unwrap()).unwrap();
            for round in 1..=2 {
                assert_eq!(cluster.check_transactions(), 1, "round {round}");
                wait_until("the listener is asked", || listener.asked() == round);
                wait_for(&cluster, "the answer", |cluster| {
                    cluster.requests(RequestCode::END_TRANSACTION) == 1 + u64::try_from(round).unwrap()
                });
            }
            assert_eq!(
                (cluster.message_count(TOPIC), cluster.open_transactions()),
                (0, 1)
            );
            cluster.check_transactions();
            wait_for(&cluster, "the commit", |cluster| {
                cluster.message_count(TOPIC) == 1
            });
            assert_eq!(cluster.open_transactions(), 0);

            let second = producer.send(&message(TOPIC)).unwrap();
            cluster.check_transactions();
            wait_for(&cluster, "the rollback", |cluster| {
                cluster.open_transactions() == 0
            });
            assert_eq!(cluster.message_count(TOPIC), 1);

            let asked = listener.asked.lock().unwrap().clone();
            assert_eq!(asked.len(), 4);
            for (times, message) in asked[..3].iter().enumerate() {
                assert_eq!((message.topic(), message.body()), (TOPIC, &b"body"[..]));
                assert_eq!(message.keys().collect::<Vec<_>>(), ["a", "b"]);
                assert_eq!(message.property("p"), Some("v"));
                assert_eq!(message.message_id(), result.half.message_id);
                assert_eq!(
                    *message.queue(),
                    *result.half.queue,
                    "4.x does not name its broker"
                );
                let counted = (times + 1).to_string();
                assert_eq!(message.property("TRANSACTION_CHECK_TIMES"), Some(&*counted));
                assert_ne!(message.offset_message_id(), result.half.offset_message_id);
            }
            assert_eq!(asked[3].message_id(), second.half.message_id);
        }
    });
}

#[cfg(feature = "zlib")]
#[test]
fn a_body_that_went_out_compressed_is_shown_as_it_was_given() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let listener = Scripted::new(&[Unknown], &[Commit]);
        let producer = builder(&cluster)
            .compression(CompressionType::Zlib)
            .start_transactional(listener.clone())
            .unwrap();
        let body = "Hello RocketMQ ".repeat(1_000);
        drop(
            producer
                .send(&Message::new(TOPIC, body.clone()).unwrap())
                .unwrap(),
        );
        cluster.check_transactions();
        wait_for(&cluster, "the commit", |cluster| {
            cluster.message_count(TOPIC) == 1
        });
        assert_eq!(listener.asked.lock().unwrap()[0].body(), body.as_bytes());
        let stored = &cluster.messages(TOPIC)[0];
        assert!(
            stored.body.len() < body.len() / 2 && stored.sys_flag & 0b1101 == 0b1001,
            "compressed, and committed: {:#b}",
            stored.sys_flag
        );
    });
}

#[test]
fn brokers_ask_by_themselves_and_give_up_in_the_end() {
    within(PATIENCE, || {
        let cluster = MockCluster::builder()
            .transaction_checks(milliseconds(50), milliseconds(50), 3)
            .start()
            .unwrap();
        let listener = Scripted::new(&[Unknown], &[Unknown; 10]);
        let producer = start(&cluster, &listener);
        let result = producer.send(&message(TOPIC)).unwrap();
        wait_for(&cluster, "given up", |cluster| {
            cluster.message_count("TRANS_CHECK_MAX_TIME_TOPIC") == 1
        });
        wait_until("all questions", || listener.asked() == 3);
        assert_eq!(
            (cluster.message_count(TOPIC), cluster.open_transactions()),
            (0, 0)
        );
        let given_up = &cluster.messages("TRANS_CHECK_MAX_TIME_TOPIC")[0];
        assert_eq!(given_up.message_id, Some(result.half.message_id));
    });
}

#[test]
fn the_closure_runs_once_on_the_sending_thread_after_the_half_message_is_stored() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let producer = start(&cluster, &Scripted::new(&[], &[]));
        let here = thread::current().id();
        let mut seen = Vec::new();
        let result = producer
            .send_with(&message(TOPIC), |half| {
                assert_eq!(thread::current().id(), here);
                assert_eq!(
                    (cluster.message_count(HALF_TOPIC), cluster.message_count(TOPIC)),
                    (1, 0)
                );
                // It may use the producer.
                assert!(producer.producer().send(&message("log")).is_ok());
                assert!(producer.producer().flush(PATIENCE).is_ok());
                seen.push(half.message_id);
                Commit
            })
            .unwrap();
        assert!(result.is_committed(), "{result}");
        assert_eq!(seen, [result.half.message_id]);
        assert_eq!(
            cluster.messages("log")[0].sys_flag,
            0,
            "it is an ordinary message"
        );
    });
}

#[test]
fn a_panic_is_an_unknown_and_hurts_nobody_else() {
    struct Panicking(AtomicUsize);
    impl TransactionListener for Panicking {
        fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
            panic!("on purpose");
        }

        fn check(&self, _: &StoredMessage) -> LocalTransaction {
            let asked = self.0.fetch_add(1, Ordering::SeqCst);
            assert!(asked > 0, "on purpose");
            Commit
        }
    }
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let builder = builder(&cluster).transaction_check_threads(1);
        let producer = builder
            .start_transactional(Panicking(AtomicUsize::new(0)))
            .unwrap();
        let result = producer.send(&message(TOPIC)).unwrap();
        assert_eq!(result.local, Unknown);
        assert!(matches!(result.end, TransactionEnd::Open), "{result}");
        cluster.check_transactions();
        wait_for(&cluster, "two unknowns", |cluster| {
            cluster.requests(RequestCode::END_TRANSACTION) == 2
        });
        assert_eq!(cluster.message_count(TOPIC), 0);
        cluster.check_transactions();
        wait_for(&cluster, "the commit", |cluster| {
            cluster.message_count(TOPIC) == 1
        });
        let closure = producer.send_with(&message(TOPIC), |_| panic!("on purpose"));
        assert_eq!(closure.unwrap().local, Unknown);
        assert!(producer.producer().send(&message(TOPIC)).is_ok());
    });
}

#[test]
fn an_end_that_was_lost_is_made_up_for_by_a_check_without_asking_the_listener() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let lost = || cluster.broker("broker-a").on(RequestCode::END_TRANSACTION).once();
        let pause = milliseconds(200);
        let listener = Scripted::new(&[Commit, Rollback], &[]);
        let producer = builder(&cluster)
            .unconfirmed_commit_pause(pause)
            .start_transactional(listener.clone())
            .unwrap();
        for (visible, expected) in [(1, Commit), (1, Rollback)] {
            lost().before_store().close();
            let result = producer.send(&message(TOPIC)).unwrap();
            assert_eq!(result.local, expected);
            let TransactionEnd::Unconfirmed(error) = &result.end else {
                panic!("{result}");
            };
            assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
            assert_eq!(cluster.open_transactions(), 1);
            // Again and again: one that comes too early is left unanswered.
            wait_for(&cluster, "the producer is back", |cluster| {
                cluster.clients().len() == 1
            });
            wait_until("the end", || {
                cluster.check_transactions();
                cluster.wait_until(pause, |cluster| cluster.open_transactions() == 0)
            });
            assert_eq!(cluster.message_count(TOPIC), visible);
        }
        assert_eq!(listener.asked(), 0);
    });
}

#[test]
fn a_one_way_end_that_was_lost_is_made_up_for_too() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V4_7_0);
        cluster.record_requests();
        let listener = Scripted::new(&[Commit, Commit], &[]);
        let producer = builder(&cluster)
            .end_transactions(EndTransactions::OneWay)
            .unconfirmed_commit_pause(Duration::ZERO)
            .start_transactional(listener.clone())
            .unwrap();
        let result = producer.send(&message(TOPIC)).unwrap();
        assert!(matches!(result.end, TransactionEnd::Sent), "{result}");
        assert!(!result.is_committed(), "nobody has said so");
        wait_for(&cluster, "the commit", |cluster| {
            cluster.message_count(TOPIC) == 1
        });
        assert!(ends(&cluster)[0].is_oneway);

        let lost = cluster.broker("broker-a").on(RequestCode::END_TRANSACTION).once();
        let lost = lost.before_store().silence();
        drop(producer.send(&message(TOPIC)).unwrap());
        wait_for(&cluster, "it is lost", |_| lost.taken() == 1);
        assert_eq!(
            (cluster.message_count(TOPIC), cluster.open_transactions()),
            (1, 1)
        );
        cluster.check_transactions();
        wait_for(&cluster, "the second commit", |cluster| {
            cluster.message_count(TOPIC) == 2
        });
        assert_eq!(listener.asked(), 0);
        let copies = cluster.copies_by_message_id(TOPIC);
        assert!(copies.values().all(|count| *count == 1), "{copies:?}");
    });
}

#[test]
fn a_question_that_crosses_the_commit_does_not_make_a_second_message() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let listener = Scripted::new(&[], &[]);
        let producer = start(&cluster, &listener);
        // The broker asks while the local part runs, and so writes the half message anew.
        let result = producer.send_with(&message(TOPIC), |_| {
            wait_for(&cluster, "registered", |cluster| cluster.clients().len() == 1);
            assert_eq!(cluster.check_transactions(), 1);
            Commit
        });
        assert!(result.unwrap().is_committed());
        assert_eq!(
            (cluster.message_count(TOPIC), cluster.open_transactions()),
            (1, 1)
        );
        // What is left over is asked about and taken back.
        wait_until("the rest is rolled back", || {
            cluster.check_transactions();
            cluster.wait_until(milliseconds(50), |cluster| cluster.open_transactions() == 0)
        });
        assert_eq!((cluster.message_count(TOPIC), listener.asked()), (1, 0));
    });
}

#[test]
fn a_confirmation_that_was_lost_does_not_make_a_second_message() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let listener = Scripted::new(&[], &[]);
        let producer = builder(&cluster)
            .redelivery(Redelivery::NoDuplicates)
            .unconfirmed_commit_pause(Duration::ZERO)
            .start_transactional(listener.clone())
            .unwrap();
        let broker = cluster.broker("broker-a");
        broker
            .on(RequestCode::END_TRANSACTION)
            .once()
            .after_store()
            .close();
        let result = producer.send_with(&message(TOPIC), |_| {
            wait_for(&cluster, "registered", |cluster| cluster.clients().len() == 1);
            cluster.check_transactions();
            Commit
        });
        let result = result.unwrap();
        assert!(matches!(result.end, TransactionEnd::Unconfirmed(_)), "{result}");
        assert_eq!(
            (cluster.message_count(TOPIC), cluster.open_transactions()),
            (1, 1)
        );
        wait_for(&cluster, "the producer is back", |cluster| {
            cluster.clients().len() == 1
        });
        // Whoever wants no duplicates leaves the rest to the broker, which gives it up in the end.
        while cluster.open_transactions() > 0 {
            cluster.check_transactions();
        }
        assert_eq!((cluster.message_count(TOPIC), listener.asked()), (1, 0));
        assert_eq!(cluster.message_count("TRANS_CHECK_MAX_TIME_TOPIC"), 1);
    });
}

#[test]
fn an_end_that_certainly_did_not_arrive_is_sent_again() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let producer = start(&cluster, &Scripted::new(&[Commit], &[]));
        let broker = cluster.broker("broker-a");
        broker
            .on(RequestCode::END_TRANSACTION)
            .times(3)
            .before_store()
            .reply(
                ResponseCode::SYSTEM_BUSY,
                "[OVERLOAD]system busy, start flow control",
            );
        assert!(producer.send(&message(TOPIC)).unwrap().is_committed());
        assert_eq!(cluster.message_count(TOPIC), 1);
        // What is written before the end of a connection is seen may have arrived.
        let is_connected = || producer.producer().stats().brokers.iter().any(|it| it.connected);
        let see_the_end = || wait_until("the end is seen", || !is_connected());
        // The broker is restarted while the local part runs.
        let result = producer.send_with(&message(TOPIC), |_| {
            broker.set_down();
            see_the_end();
            broker.set_up().unwrap();
            Commit
        });
        let result = result.unwrap();
        assert!(result.is_committed(), "{result}");
        assert_eq!(cluster.message_count(TOPIC), 2);
        // It sends its clients away, and is moved to another address.
        let result = producer.send_with(&message(TOPIC), |_| {
            broker.go_away();
            Commit
        });
        assert!(result.as_ref().unwrap().is_committed(), "{result:?}");
        let result = producer.send_with(&message(TOPIC), |_| {
            broker.move_to_another_port().unwrap();
            Commit
        });
        assert!(result.as_ref().unwrap().is_committed(), "{result:?}");
        assert_eq!(cluster.message_count(TOPIC), 4);
        cluster.assert_no_rule_left();
    });
}

#[test]
fn a_broker_that_is_down_for_the_end_asks_when_it_is_back() {
    within(3 * PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let listener = Scripted::new(&[], &[]);
        let producer = start(&cluster, &listener);
        let broker = cluster.broker("broker-a");
        let is_connected = || producer.producer().stats().brokers.iter().any(|it| it.connected);
        let result = producer.send_with(&message(TOPIC), |_| {
            broker.set_down();
            // What is written before the end of the connection is seen may have arrived.
            wait_until("the end is seen", || !is_connected());
            Commit
        });
        let TransactionEnd::Unconfirmed(error) = result.unwrap().end else {
            panic!("nobody can have confirmed it");
        };
        assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
        broker.set_up().unwrap();
        // The producer makes itself known again without being used.
        wait_for(&cluster, "registered again", |cluster| {
            cluster.clients().len() == 1
        });
        assert_eq!(cluster.check_transactions(), 1);
        wait_for(&cluster, "the commit", |cluster| {
            cluster.message_count(TOPIC) == 1
        });
        assert_eq!((cluster.open_transactions(), listener.asked()), (0, 0));
    });
}

/// What a storm of lost ends and eager questions has left behind: body, how the send ended, and how often it can be seen.
fn storm(redelivery: Redelivery) -> Vec<(String, Result<TransactionEnd, Error>, usize)> {
    const THREADS: usize = 4;
    const EACH: usize = 30;
    let cluster = MockCluster::builder()
        .brokers(2)
        // Slower than they are answered: a question that is overtaken by the next makes one copy more.
        .transaction_checks(milliseconds(10), milliseconds(200), 10_000)
        .start()
        .unwrap();
    cluster.create_topic(TOPIC, 2);
    let ends = || cluster.any_broker().on(RequestCode::END_TRANSACTION);
    ends().every(5).before_store().close();
    ends().every(7).after_store().close();
    ends()
        .every(11)
        .before_store()
        .reply(ResponseCode::SYSTEM_BUSY, "[OVERLOAD]");
    let listener = Scripted::new(&[], &[]);
    let producer = builder(&cluster)
        .redelivery(redelivery)
        .unconfirmed_commit_pause(milliseconds(300))
        .start_transactional(listener.clone())
        .unwrap();
    producer.register(&[TOPIC]).unwrap();
    let sent = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (producer, sent) = (&producer, &sent);
            scope.spawn(move || {
                for number in 0..EACH {
                    let verdict = if number % 3 == 0 { Rollback } else { Commit };
                    let body = format!("{verdict:?} {thread}-{number}");
                    let message = Message::new(TOPIC, body.clone()).unwrap();
                    let result = producer.send_with(&message, |_| {
                        // Some are asked about meanwhile.
                        thread::sleep(milliseconds(if number % 4 == 0 { 15 } else { 0 }));
                        verdict
                    });
                    sent.lock().unwrap().push((body, result.map(|result| result.end)));
                }
            });
        }
    });
    cluster.clear_faults();
    if redelivery == Redelivery::AtLeastOnce {
        wait_for(&cluster, "all are ended", |cluster| {
            cluster.open_transactions() == 0
        });
    }
    assert_eq!(listener.asked(), 0, "this process knows all of them");
    let seen = cluster.messages(TOPIC);
    let copies = |body: &str| {
        seen.iter()
            .filter(|message| message.body == body.as_bytes())
            .count()
    };
    let sent: Vec<_> = sent.into_inner().unwrap();
    assert_eq!(sent.len(), THREADS * EACH);
    let unconfirmed = |end: &Result<TransactionEnd, Error>| matches!(end, Ok(TransactionEnd::Unconfirmed(_)));
    assert!(sent.iter().any(|(_, end)| unconfirmed(end)), "the storm was none");
    let counted = sent
        .into_iter()
        .map(|(body, end)| (body.clone(), end, copies(&body)));
    counted.collect()
}

#[test]
fn in_a_storm_nothing_is_lost_and_nothing_is_there_twice() {
    within(2 * PATIENCE, || {
        for (body, end, copies) in storm(Redelivery::AtLeastOnce) {
            match (body.starts_with("Commit"), end) {
                // Whatever the message said: its local part was not run.
                (false, _) | (_, Err(_)) => assert_eq!(copies, 0, "{body}"),
                (true, end) => assert_eq!(copies, 1, "{body}: {end:?}"),
            }
        }
    });
}

#[test]
fn in_a_storm_whoever_wants_no_duplicates_gets_none() {
    within(2 * PATIENCE, || {
        for (body, end, copies) in storm(Redelivery::NoDuplicates) {
            match (body.starts_with("Commit"), end) {
                // Whatever the message said: its local part was not run.
                (false, _) | (_, Err(_)) => assert_eq!(copies, 0, "{body}"),
                (true, Ok(TransactionEnd::Confirmed)) => assert_eq!(copies, 1, "{body}"),
                (true, _) => assert!(copies <= 1, "{body}: {copies}"),
            }
        }
    });
}

#[test]
fn a_transaction_of_another_process_is_known_by_the_listener_alone() {
    within(PATIENCE, || {
        let cluster = cluster(3, ServerVersion::V5_5_0);
        cluster.create_topic(TOPIC, 1);
        let gone = start(&cluster, &Scripted::new(&[Unknown; 6], &[]));
        for _ in 0..6 {
            drop(gone.send(&message(TOPIC)).unwrap());
        }
        assert!(gone.shutdown(PATIENCE).is_clean());
        assert_eq!(cluster.open_transactions(), 6);
        assert_eq!(cluster.check_transactions(), 0, "nobody is there");

        let listener = Scripted::new(&[], &[Commit; 6]);
        let heir = start(&cluster, &listener);
        heir.register(&[TOPIC]).unwrap();
        assert_eq!(cluster.clients().len(), 3, "every broker knows it");
        assert_eq!(cluster.check_transactions(), 6);
        wait_for(&cluster, "all are committed", |cluster| {
            cluster.message_count(TOPIC) == 6
        });
        assert_eq!((cluster.open_transactions(), listener.asked()), (0, 6));
    });
}

#[test]
fn what_another_process_has_committed_is_not_committed_again() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V4_7_0);
        // The broker asks while the local part runs, and what it has written anew is left over; unless the question is
        // taken up only when the commit is confirmed, and answered with a rollback.
        let mut committed = 0;
        while cluster.open_transactions() == 0 {
            let gone = start(&cluster, &Scripted::new(&[], &[]));
            let result = gone.send_with(&message(TOPIC), |_| {
                wait_for(&cluster, "registered", |cluster| cluster.clients().len() == 1);
                cluster.check_transactions();
                Commit
            });
            assert!(result.unwrap().is_committed());
            committed += 1;
            assert!(gone.shutdown(PATIENCE).is_clean());
            wait_for(&cluster, "gone", |cluster| cluster.clients().is_empty());
            assert_eq!(cluster.message_count(TOPIC), committed);
        }

        let listener = Scripted::new(&[], &[Commit]);
        let heir = start(&cluster, &listener);
        heir.register(&[TOPIC]).unwrap();
        assert_eq!(cluster.check_transactions(), 1);
        wait_for(&cluster, "the rest is rolled back", |cluster| {
            cluster.open_transactions() == 0
        });
        assert_eq!((cluster.message_count(TOPIC), listener.asked()), (committed, 1));
    });
}

#[test]
fn whoever_may_not_look_a_message_up_commits_it_all_the_same() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let looks = cluster.broker("broker-a").on(RequestCode::QUERY_MESSAGE).always();
        let refused = looks.reply(ResponseCode::NO_PERMISSION, "no");
        let listener = Scripted::new(&[Unknown], &[Commit]);
        let producer = start(&cluster, &listener);
        drop(producer.send(&message(TOPIC)).unwrap());
        cluster.check_transactions();
        wait_for(&cluster, "the commit", |cluster| {
            cluster.message_count(TOPIC) == 1
        });
        assert_eq!((refused.taken(), listener.asked()), (1, 1));
    });
}

#[test]
fn every_broker_of_a_topic_knows_the_producer_from_its_first_transaction_on() {
    within(PATIENCE, || {
        let cluster = cluster(3, ServerVersion::V4_7_0);
        cluster.create_topic(TOPIC, 4);
        let producer = start(&cluster, &Scripted::new(&[Commit], &[]));
        drop(producer.send(&message(TOPIC)).unwrap());
        wait_for(&cluster, "all three", |cluster| cluster.clients().len() == 3);
        cluster.broker("broker-b").set_down();
        wait_for(&cluster, "one is gone", |cluster| cluster.clients().len() == 2);
        cluster.broker("broker-b").set_up().unwrap();
        wait_for(&cluster, "it is back", |cluster| cluster.clients().len() == 3);
        let groups = cluster.clients().into_iter().map(|client| client.producer_groups);
        assert!(groups.into_iter().all(|groups| groups == [GROUP]));
    });
}

#[test]
fn two_copies_of_a_half_message_are_delivered_once() {
    within(PATIENCE, || {
        let cluster = cluster(2, ServerVersion::V5_5_0);
        cluster.create_topic(TOPIC, 1);
        let listener = Scripted::new(&[Commit], &[]);
        let producer = start(&cluster, &listener);
        producer.register(&[TOPIC]).unwrap();
        // The first attempt is stored, and its answer is lost.
        let lost = cluster.any_broker().on(RequestCode::SEND_MESSAGE_V2).once();
        lost.after_store().close();
        let result = producer.send(&message(TOPIC)).unwrap();
        assert!(
            result.is_committed() && result.half.may_be_duplicated,
            "{result:?}"
        );
        assert_eq!(
            (cluster.message_count(HALF_TOPIC), cluster.open_transactions()),
            (2, 1)
        );
        wait_for(&cluster, "both know it", |cluster| cluster.clients().len() == 2);
        assert_eq!(cluster.check_transactions(), 1);
        wait_for(&cluster, "the other is rolled back", |cluster| {
            cluster.open_transactions() == 0
        });
        assert_eq!((cluster.message_count(TOPIC), listener.asked()), (1, 0));
    });
}

#[test]
fn a_send_that_failed_runs_nothing_and_is_rolled_back_wherever_it_is() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let listener = Scripted::new(&[], &[]);
        let builder = builder(&cluster).retries(0);
        let producer = builder.start_transactional(listener.clone()).unwrap();
        let sends = || cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2).once();
        sends().reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
        let error = producer.send(&message(TOPIC)).expect_err("it is refused");
        assert_eq!(error.delivery(), Delivery::Refused);
        sends().after_store().close();
        let error = producer.send(&message(TOPIC)).expect_err("the answer is lost");
        assert_eq!(error.delivery(), Delivery::Unknown);
        assert_eq!(cluster.open_transactions(), 1);
        wait_until("it is rolled back", || {
            cluster.check_transactions();
            cluster.wait_until(milliseconds(50), |cluster| cluster.open_transactions() == 0)
        });
        assert_eq!((cluster.message_count(TOPIC), listener.asked()), (0, 0));
    });
}

#[test]
fn a_half_message_that_is_not_stored_safely_is_rolled_back_as_in_java() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let producer = start(&cluster, &Scripted::new(&[], &[]));
        for (code, status) in [
            (ResponseCode::FLUSH_DISK_TIMEOUT, SendStatus::FlushDiskTimeout),
            (ResponseCode::SLAVE_NOT_AVAILABLE, SendStatus::SlaveNotAvailable),
            (ResponseCode::FLUSH_SLAVE_TIMEOUT, SendStatus::FlushSlaveTimeout),
        ] {
            let sends = cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2);
            sends.once().after_store().reply(code, "");
            let result = producer.send(&message(TOPIC)).unwrap();
            assert_eq!((result.half.status, result.local), (status, Rollback));
            assert!(matches!(result.end, TransactionEnd::Confirmed), "{result}");
        }
        assert_eq!(
            (cluster.message_count(TOPIC), cluster.open_transactions()),
            (0, 0)
        );
    });
}

#[test]
fn no_more_threads_ask_than_are_allowed() {
    #[derive(Default)]
    struct Counting {
        now: AtomicUsize,
        most: AtomicUsize,
        asked: AtomicUsize,
    }
    impl TransactionListener for Counting {
        fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
            Unknown
        }

        fn check(&self, _: &StoredMessage) -> LocalTransaction {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let name = thread::current().name().unwrap_or_default().to_owned();
            assert!(name.starts_with("rmq-check-"), "{name}");
            let deadline = Instant::now() + milliseconds(100);
            while self.now.load(Ordering::SeqCst) < 2 && Instant::now() < deadline {
                thread::yield_now();
            }
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.now.fetch_sub(1, Ordering::SeqCst);
            Commit
        }
    }
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let counting = Arc::<Counting>::default();
        let producer = builder(&cluster)
            .transaction_check_threads(2)
            .start_transactional(Arc::clone(&counting))
            .unwrap();
        for _ in 0..20 {
            drop(producer.send(&message(TOPIC)).unwrap());
        }
        assert_eq!(cluster.check_transactions(), 20);
        wait_for(&cluster, "all are committed", |cluster| {
            cluster.message_count(TOPIC) == 20
        });
        assert_eq!(counting.asked.load(Ordering::SeqCst), 20);
        assert_eq!(counting.most.load(Ordering::SeqCst), 2);
    });
}

/// Blocks in a check until it is let go.
struct Blocking {
    entered: mpsc::SyncSender<()>,
    release: Mutex<mpsc::Receiver<()>>,
}

impl TransactionListener for Blocking {
    fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
        Unknown
    }

    fn check(&self, _: &StoredMessage) -> LocalTransaction {
        self.entered.send(()).unwrap();
        self.release.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        Commit
    }
}

#[test]
fn a_shutdown_waits_for_the_check_that_is_running_and_begins_no_other() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let (entered, entering) = mpsc::sync_channel(4);
        let (release, released) = mpsc::channel();
        let listener = Blocking {
            entered,
            release: Mutex::new(released),
        };
        let builder = builder(&cluster).transaction_check_threads(1);
        let producer = builder.start_transactional(listener).unwrap();
        drop(producer.send(&message(TOPIC)).unwrap());
        drop(producer.send(&message(TOPIC)).unwrap());
        assert_eq!(cluster.check_transactions(), 2);
        entering.recv_timeout(PATIENCE).unwrap();
        let ending = {
            let producer = producer.clone();
            thread::spawn(move || producer.shutdown(PATIENCE))
        };
        wait_until("sends are refused", || {
            matches!(producer.producer().publish_queues(TOPIC), Err(Error::ShutDown))
        });
        release.send(()).unwrap();
        let report = ending.join().unwrap();
        assert!(report.is_clean() && report.took < PATIENCE / 2, "{report}");
        assert_eq!(
            (cluster.message_count(TOPIC), cluster.open_transactions()),
            (1, 1)
        );
        assert!(entering.try_recv().is_err(), "the second was begun");
    });
}

#[test]
fn a_check_that_does_not_return_holds_up_a_shutdown_for_its_time_only() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let (entered, entering) = mpsc::sync_channel(4);
        let (release, released) = mpsc::channel();
        let listener = Blocking {
            entered,
            release: Mutex::new(released),
        };
        let producer = builder(&cluster).start_transactional(listener).unwrap();
        drop(producer.send(&message(TOPIC)).unwrap());
        cluster.check_transactions();
        entering.recv_timeout(PATIENCE).unwrap();
        let report = producer.shutdown(milliseconds(100));
        assert!(report.took < Duration::from_secs(2), "{report}");
        assert!(report.took >= milliseconds(95), "{report}");
        drop(release);
    });
}

#[test]
fn a_shutdown_waits_for_the_local_part() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let producer = start(&cluster, &Scripted::new(&[], &[]));
        let (begun, beginning) = mpsc::channel();
        let sending = {
            let producer = producer.clone();
            thread::spawn(move || {
                producer.send_with(&message(TOPIC), |_| {
                    begun.send(()).unwrap();
                    wait_until("the shutdown has begun", || {
                        matches!(producer.producer().publish_queues(TOPIC), Err(Error::ShutDown))
                    });
                    Commit
                })
            })
        };
        beginning.recv_timeout(PATIENCE).unwrap();
        let report = producer.shutdown(PATIENCE);
        assert!(report.is_clean(), "{report}");
        assert!(sending.join().unwrap().unwrap().is_committed());
        assert_eq!(cluster.message_count(TOPIC), 1);
        assert!(matches!(producer.send(&message(TOPIC)), Err(Error::ShutDown)));
    });
}

#[test]
fn a_listener_may_end_its_own_producer() {
    struct Ending(Arc<Mutex<Option<TransactionProducer>>>, mpsc::Sender<bool>);
    impl TransactionListener for Ending {
        fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
            Unknown
        }

        fn check(&self, _: &StoredMessage) -> LocalTransaction {
            let producer = self.0.lock().unwrap().take().unwrap();
            let began = Instant::now();
            let report = producer.shutdown(PATIENCE);
            let is_quick = began.elapsed() < PATIENCE / 2;
            self.1.send(report.is_clean() && is_quick).unwrap();
            Unknown
        }
    }
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let place = Arc::default();
        let (done, ended) = mpsc::channel();
        let listener = Ending(Arc::clone(&place), done);
        let producer = builder(&cluster).start_transactional(listener).unwrap();
        drop(producer.send(&message(TOPIC)).unwrap());
        *place.lock().unwrap() = Some(producer);
        cluster.check_transactions();
        assert!(ended.recv_timeout(PATIENCE).unwrap(), "it waited for itself");
    });
}

#[test]
fn a_group_of_a_namespace_is_a_group_like_any_other() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V4_7_0);
        let listener = Scripted::new(&[Unknown, Commit], &[Commit]);
        let producer = Producer::builder("tenant%payments")
            .name_servers(cluster.name_servers())
            .start_transactional(listener.clone())
            .unwrap();
        let topic = "tenant%orders";
        drop(producer.send(&message(topic)).unwrap());
        cluster.check_transactions();
        wait_for(&cluster, "the commit", |cluster| {
            cluster.message_count(topic) == 1
        });
        assert_eq!(listener.asked.lock().unwrap()[0].topic(), topic);
        assert!(producer.send(&message(topic)).unwrap().is_committed());
    });
}

/// A captured question: the frame, and the fields of its header.
struct Captured {
    frame: Vec<u8>,
    fields: BTreeMap<String, String>,
}

/// The questions that real brokers of this release asked clients of group `PG_txn`, in both header forms.
fn captured_checks(server: &str) -> Vec<Captured> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/vectors.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut found = Vec::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let client = row["client"].as_str().unwrap();
        if row["decoded"]["code"] != 39 || row["server"] != server || !client.starts_with("java") {
            continue;
        }
        let hex = row["frame_hex"].as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let fields = row["decoded"]["extFields"].as_object().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        found.push(Captured {
            frame: hex.chunks(2).map(byte).collect(),
            fields: fields
                .iter()
                .map(|(name, value)| (name.clone(), text(value)))
                .collect(),
        });
    }
    assert!(!found.is_empty(), "no question of {server}");
    found
}

/// A broker that asks these questions, each twice, when it has stored a message, and a name server that knows it.
fn asking_broker(questions: &[Captured]) -> (FakeServer, FakeServer) {
    let frames: Vec<_> = questions
        .iter()
        .map(|question| question.frame.repeat(2))
        .collect();
    let broker = FakeServer::broker(move |request: &Request, peer: &Peer| {
        match request.code() {
            SEND_MESSAGE_V2 => {}
            // Nothing is there with that id.
            QUERY_MESSAGE => return peer.refuse(request, 22, "can not find message"),
            _ => return,
        }
        peer.stored(request, 1);
        for frame in &frames {
            peer.write(frame);
        }
    });
    let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
    (broker, name_server)
}

#[test]
fn real_brokers_questions_are_answered_in_both_dialects() {
    within(PATIENCE, || {
        for server in ["4.7.0", "5.5.0"] {
            let questions = captured_checks(server);
            let (broker, name_server) = asking_broker(&questions);
            let listener = Scripted::new(&[], &[Rollback; 8]);
            let producer = Producer::builder("PG_txn")
                .name_servers(name_server.address().to_string())
                .end_transactions(EndTransactions::OneWay)
                .start_transactional(listener.clone())
                .unwrap();
            producer.producer().send(&message("vec_txn")).unwrap();
            for Captured { fields, .. } in &questions {
                let id = fields["msgId"].as_str();
                broker.wait_until(PATIENCE, |log| {
                    log.of(END_TRANSACTION).any(|end| end.field("msgId") == id)
                });
                broker.log(|log| {
                    let answer = log
                        .of(END_TRANSACTION)
                        .find(|answer| answer.field("msgId") == id)
                        .unwrap();
                    for (name, value) in [
                        ("tranStateTableOffset", &*fields["tranStateTableOffset"]),
                        ("commitLogOffset", &*fields["commitLogOffset"]),
                        ("transactionId", id),
                        ("producerGroup", "PG_txn"),
                        ("commitOrRollback", "12"),
                        ("fromTransactionCheck", "true"),
                        ("topic", "vec_txn"),
                        ("bname", "broker-a"),
                    ] {
                        assert_eq!(answer.field(name), value, "{name} of {server}");
                    }
                    assert!(answer.is_oneway());
                });
            }
            assert_eq!(
                listener.asked(),
                questions.len(),
                "each was delivered twice and asked about once"
            );
        }
    });
}

/// The same frame with one text in the place of another of the same length.
fn with_text(frame: &[u8], old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut changed = frame.to_vec();
    let mut found = 0;
    for at in 0..=changed.len() - old.len() {
        if &changed[at..at + old.len()] == old.as_bytes() {
            changed[at..at + old.len()].copy_from_slice(new.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "no {old}");
    changed
}

#[test]
fn a_commit_is_not_repeated_when_a_question_is_delivered_twice() {
    within(PATIENCE, || {
        for server in ["4.7.0", "5.5.0"] {
            let mut questions = captured_checks(server);
            questions.truncate(1);
            // Behind it comes another one: when that is answered, all before it have been dealt with.
            let id = questions[0].fields["msgId"].clone();
            let last = format!("{}FFFF", &id[..id.len() - 4]);
            questions.push(Captured {
                frame: with_text(&questions[0].frame, &id, &last),
                fields: BTreeMap::new(),
            });
            let (broker, name_server) = asking_broker(&questions);
            let listener = Scripted::new(&[], &[Commit; 8]);
            let producer = Producer::builder("PG_txn")
                .name_servers(name_server.address().to_string())
                .end_transactions(EndTransactions::OneWay)
                .transaction_check_threads(1)
                .unconfirmed_commit_pause(Duration::ZERO)
                .start_transactional(listener.clone())
                .unwrap();
            producer.producer().send(&message("vec_txn")).unwrap();
            let answered = |id: &str| {
                broker.log(|log| {
                    let ends = log.of(END_TRANSACTION);
                    ends.filter(|end| end.field("msgId") == id).count()
                })
            };
            wait_until("the last is answered", || answered(&last) == 1);
            assert_eq!(answered(&id), 1);
            assert_eq!(listener.asked(), 2);
        }
    });
}

#[test]
fn a_question_for_another_group_is_left_unanswered() {
    within(PATIENCE, || {
        let mut questions = captured_checks("5.5.0");
        let own = with_text(&questions[0].frame, "PG_txn", "PG_own");
        questions.push(Captured {
            frame: own,
            fields: BTreeMap::new(),
        });
        let (broker, name_server) = asking_broker(&questions);
        let listener = Scripted::new(&[], &[Rollback; 8]);
        let producer = Producer::builder("PG_own")
            .name_servers(name_server.address().to_string())
            .end_transactions(EndTransactions::OneWay)
            .transaction_check_threads(1)
            .start_transactional(listener.clone())
            .unwrap();
        producer.producer().send(&message("vec_txn")).unwrap();
        // One thread answers one question after the other, so all before these have been dealt with.
        broker.wait_until(PATIENCE, |log| log.count(END_TRANSACTION) == 2);
        let asked = listener.asked.lock().unwrap().clone();
        assert!(
            asked
                .iter()
                .all(|message| message.property("PGROUP") == Some("PG_own")),
            "{asked:?}"
        );
        assert_eq!(asked.len(), 1, "the second delivery is answered from memory");
    });
}

#[test]
fn questions_that_are_none_harm_nobody() {
    within(PATIENCE, || {
        let mut questions = captured_checks("4.7.0");
        let whole = questions[0].frame.clone();
        // Without a body, and with half a body.
        let header_length = usize::from(whole[6]) * 256 + usize::from(whole[7]);
        for kept in [8 + header_length, 8 + header_length + 40] {
            let mut cut = whole[..kept].to_vec();
            let length = u32::try_from(kept - 4).unwrap();
            cut[..4].copy_from_slice(&length.to_be_bytes());
            questions.insert(
                0,
                Captured {
                    frame: cut,
                    fields: BTreeMap::new(),
                },
            );
        }
        let (broker, name_server) = asking_broker(&questions);
        let listener = Scripted::new(&[], &[Rollback; 8]);
        let producer = Producer::builder("PG_txn")
            .name_servers(name_server.address().to_string())
            .start_transactional(listener.clone())
            .unwrap();
        producer.producer().send(&message("vec_txn")).unwrap();
        wait_until("the good one is asked", || listener.asked() >= 1);
        assert_eq!(broker.log(|log| log.accepted), 1, "the connection lives on");
        assert!(producer.producer().send(&message("vec_txn")).is_ok());
    });
}

/// Brokers take such a message, and never deliver it.
#[test]
fn a_delayed_message_is_refused_in_a_transaction_before_anything_leaves() {
    within(PATIENCE, || {
        let cluster = cluster(1, ServerVersion::V5_5_0);
        let producer = start(&cluster, &Scripted::new(&[], &[]));
        let builder = || Message::builder(TOPIC).body("later");
        let delayed = [
            builder().delay_level(3),
            builder().delay(Duration::from_secs(3)),
            builder().deliver_at(std::time::SystemTime::now() + Duration::from_secs(60)),
        ];
        for message in delayed {
            let mut ran = false;
            let error = producer
                .send_with(&message.build().unwrap(), |_| {
                    ran = true;
                    Commit
                })
                .unwrap_err();
            assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
            assert!(error.to_string().contains("transaction"), "{error}");
            assert!(!ran, "the local part");
        }
        assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), 0);
    });
}
