//! Messages that are gathered into batches: each sender gets the outcome of its own message, once and in time, whatever
//! becomes of the others.

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
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Barrier, mpsc},
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{
    AutoBatch, Delivery, Error, Message, Phase, ProducerBuilder, Redelivery, RequestCode, ResponseCode,
    SendResult, Target,
    mock::{MockAction, MockCluster, MockRequest, ServerVersion},
};
use support::{GRACE, Outcome, PATIENCE, assert_says, milliseconds, producer_for, timed, within};

const SINGLE: RequestCode = RequestCode::SEND_MESSAGE_V2;
const BATCH: RequestCode = RequestCode::SEND_BATCH_MESSAGE;

/// So long that nothing goes because of it.
const LONG: Duration = Duration::from_secs(8);

fn cluster() -> MockCluster {
    let cluster = MockCluster::start(2).unwrap();
    cluster.create_topic("orders", 4);
    cluster
}

fn gathering(cluster: &MockCluster, auto_batch: AutoBatch) -> ProducerBuilder {
    producer_for(cluster.name_servers())
        .send_timeout(PATIENCE)
        .auto_batch(auto_batch)
}

fn holding(hold: Duration) -> AutoBatch {
    AutoBatch::default().hold(hold)
}

fn text(topic: &str, body: impl Into<String>) -> Message {
    Message::new(topic, body.into()).unwrap()
}

fn sends(cluster: &MockCluster) -> u64 {
    cluster.requests(SINGLE) + cluster.requests(BATCH)
}

/// That each result tells where its own message is, and that there is nothing else.
#[track_caller]
fn assert_all_stored(cluster: &MockCluster, topic: &str, results: &[(String, SendResult)]) {
    let stored: BTreeMap<_, _> = cluster
        .messages(topic)
        .into_iter()
        .map(|message| (message.message_id.unwrap().to_string(), message))
        .collect();
    assert_eq!(
        cluster.message_count(topic),
        u64::try_from(results.len()).unwrap()
    );
    assert_eq!(stored.len(), results.len());
    for (body, result) in results {
        let message = &stored[result.message_id.as_str()];
        assert_eq!(message.body, body.as_bytes());
        assert_eq!(message.offset_message_id, result.offset_message_id);
        assert_eq!(
            (message.queue_id, message.queue_offset),
            (result.queue.queue_id(), result.queue_offset)
        );
        assert_eq!(&*message.broker_name, result.queue.broker_name());
    }
}

#[test]
fn blocked_threads_share_batches_and_each_gets_its_own_result() {
    within(PATIENCE, || {
        const THREADS: usize = 16;
        const EACH: usize = 50;
        let cluster = cluster();
        for code in [SINGLE, BATCH] {
            cluster.any_broker().on(code).delay(milliseconds(2));
        }
        let producer = gathering(&cluster, AutoBatch::default()).start().unwrap();
        let start = Barrier::new(THREADS);
        let results: Vec<_> = thread::scope(|scope| {
            let send = |thread: usize| {
                let (producer, start) = (&producer, &start);
                move || {
                    start.wait();
                    let send = |i: usize| {
                        let body = format!("{thread}-{i}");
                        let result = producer.send(&text("orders", body.clone())).unwrap();
                        (body, result)
                    };
                    (0..EACH).map(send).collect::<Vec<_>>()
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(send(thread))).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(results.len(), THREADS * EACH);
        assert_all_stored(&cluster, "orders", &results);
        let requests = sends(&cluster);
        assert!(requests < 400, "{requests} requests for 800 messages");
        assert_eq!(producer.stats().sends.stored, 800);
    });
}

#[test]
fn asynchronous_sends_share_batches_and_each_closure_runs_once() {
    within(PATIENCE, || {
        const COUNT: usize = 3000;
        let cluster = cluster();
        let producer = gathering(&cluster, AutoBatch::default()).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for i in 0..COUNT {
            let done = done.clone();
            producer.send_async(text("orders", i.to_string()), move |outcome| {
                done.send((i.to_string(), outcome.unwrap())).unwrap();
            });
        }
        drop(done);
        let results: Vec<_> = outcomes.iter().collect();
        assert_all_stored(&cluster, "orders", &results);
        let requests = sends(&cluster);
        assert!(requests < 300, "{requests} requests for {COUNT} messages");
        // All that goes on is bounded and given back.
        assert_eq!(producer.flush(PATIENCE), Ok(()));
        let stats = producer.stats();
        assert_eq!(
            (stats.sends.stored, stats.async_sends, stats.async_bytes),
            (3000, 0, 0)
        );
    });
}

/// One who is alone does not wait for others that do not come.
#[test]
fn a_thread_that_is_alone_is_not_held_up() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = gathering(&cluster, holding(LONG)).start().unwrap();
        let ((), took) = timed(|| {
            for i in 0..20 {
                producer.send(&text("orders", i.to_string())).unwrap();
            }
        });
        assert!(took < LONG, "{took:?}");
        assert_eq!((cluster.requests(SINGLE), cluster.requests(BATCH)), (20, 0));
    });
}

#[test]
fn a_batch_goes_when_its_first_message_has_waited_long_enough() {
    within(PATIENCE, || {
        let cluster = cluster();
        let hold = milliseconds(150);
        let producer = gathering(&cluster, holding(hold)).start().unwrap();
        producer.warm_up(&["orders"]).unwrap();
        let (done, outcomes) = mpsc::channel();
        let began = Instant::now();
        for i in 0..5 {
            let done = done.clone();
            producer.send_async(text("orders", i.to_string()), move |outcome| {
                done.send((began.elapsed(), outcome.is_ok())).unwrap();
            });
        }
        for _ in 0..5 {
            let (took, stored) = outcomes.recv().unwrap();
            assert!(
                stored && took + milliseconds(5) >= hold && took < hold + GRACE,
                "{took:?}"
            );
        }
        assert_eq!((cluster.requests(SINGLE), cluster.requests(BATCH)), (0, 1));
    });
}

#[test]
fn a_flush_and_a_shutdown_send_at_once_what_is_gathered() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = gathering(&cluster, holding(LONG)).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        let gather = || {
            for topic in ["orders", "invoices"] {
                for i in 0..10 {
                    let done = done.clone();
                    producer.send_async(text(topic, i.to_string()), move |outcome| {
                        done.send(outcome.is_ok()).unwrap();
                    });
                }
            }
        };
        gather();
        assert!(outcomes.recv_timeout(milliseconds(50)).is_err(), "they wait");
        let (flushed, took) = timed(|| producer.flush(PATIENCE));
        assert_eq!(flushed, Ok(()));
        assert!(took < LONG / 2, "{took:?}");
        assert_eq!(outcomes.try_iter().filter(|stored| *stored).count(), 20);
        assert_eq!(cluster.requests(BATCH), 2);
        gather();
        let report = producer.shutdown(PATIENCE);
        assert!(report.is_clean() && report.took < LONG / 2, "{report}");
        assert_eq!(report.delivered, 20);
        assert_eq!(outcomes.try_iter().filter(|stored| *stored).count(), 20);
        assert_eq!(
            cluster.message_count("orders") + cluster.message_count("invoices"),
            40
        );
    });
}

#[test]
fn only_messages_that_belong_together_share_a_batch() {
    within(PATIENCE, || {
        let cluster = cluster();
        cluster.record_requests();
        let producer = gathering(&cluster, holding(LONG)).start().unwrap();
        let keys = ["key-0", "key-1"].map(Target::key);
        let hashed = keys.clone().map(|key| {
            let first = producer.to(key).send(&text("orders", "first"));
            first.unwrap().queue
        });
        assert_ne!(hashed[0], hashed[1]);
        let mut queues = producer.publish_queues("orders").unwrap();
        queues.retain(|queue| hashed.iter().all(|hashed| **hashed != *queue));
        let hasty = |i: usize| {
            Message::builder("orders")
                .body(i.to_string())
                .wait_store_ok(false)
                .build()
        };
        for i in 0..4 {
            let message = text("orders", i.to_string());
            producer.send_async(message.clone(), |outcome| drop(outcome.unwrap()));
            producer.send_async(hasty(i).unwrap(), |outcome| drop(outcome.unwrap()));
            producer.send_async(text("invoices", "x"), |outcome| drop(outcome.unwrap()));
            let queue = queues[5].clone();
            producer
                .to(queue.clone())
                .send_async(message.clone(), move |outcome| {
                    assert_eq!(*outcome.unwrap().queue, queue);
                });
            let expected = hashed[i % 2].clone();
            producer
                .to(keys[i % 2].clone())
                .send_async(message.clone(), move |outcome| {
                    assert_eq!(outcome.unwrap().queue, expected);
                });
            producer
                .timeout(PATIENCE * 2)
                .send_async(message, |outcome| drop(outcome.unwrap()));
        }
        assert_eq!(producer.flush(PATIENCE), Ok(()));
        let report = producer.shutdown(PATIENCE);
        assert_eq!(report.callback_panics, 0);
        let batches: Vec<_> = cluster
            .request_log()
            .into_iter()
            .filter(|request| request.code == BATCH)
            .collect();
        let mut sent: Vec<_> = batches
            .iter()
            .map(|request| {
                (
                    request.topic.clone().unwrap(),
                    request.field("i").unwrap_or_default().to_owned(),
                )
            })
            .collect();
        sent.sort_unstable();
        let wait = "WAIT\u{1}false\u{2}".to_owned();
        let orders = |wait: &str| ("orders".to_owned(), wait.to_owned());
        // Any queue, one queue, two keys, another timeout; one that does not wait for the store; another topic.
        let expected = [
            ("invoices".to_owned(), String::new()),
            orders(""),
            orders(""),
            orders(""),
            orders(""),
            orders(""),
            orders(&wait),
        ];
        assert_eq!(sent, expected);
        // What the flag of one says, its copy in the store says too.
        let hasty = cluster
            .messages("orders")
            .into_iter()
            .filter(|it| it.property("WAIT") == Some("false"));
        assert_eq!(hasty.count(), 4);
    });
}

#[test]
fn what_cannot_be_in_a_batch_goes_by_itself() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = gathering(&cluster, holding(LONG).max_bytes(4096))
            .start()
            .unwrap();
        let large = Message::new("orders", vec![7; 5000]).unwrap();
        producer.send(&large).unwrap();
        producer.send_oneway(&text("orders", "one-way")).unwrap();
        producer
            .to(Target::select(|_, _| 0))
            .send(&text("orders", "chosen"))
            .unwrap();
        producer
            .to(Target::key("k"))
            .ordered(true)
            .send(&text("orders", "in order"))
            .unwrap();
        producer.send(&text("%RETRY%group", "again")).unwrap();
        let delayed = Message::builder("orders")
            .body("later")
            .delay_level(1)
            .build()
            .unwrap();
        producer.send(&delayed).unwrap();
        producer
            .timeout(LONG)
            .send(&text("orders", "no time to wait"))
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        for message in [large, text("%RETRY%group", "again")] {
            let done = done.clone();
            producer.send_async(message, move |outcome| done.send(outcome.is_ok()).unwrap());
        }
        assert!(outcomes.recv().unwrap() && outcomes.recv().unwrap());
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 6));
        assert_eq!((cluster.requests(SINGLE), cluster.requests(BATCH)), (9, 0));
        // What is wrong with a message is told to its sender alone, before it comes near a batch.
        let long = Message::builder("orders")
            .body("x")
            .property("p", "y".repeat(32_000))
            .build()
            .unwrap();
        let error = producer.send(&long).unwrap_err();
        assert_says(&error, &["the limit max_properties_size is 32000"]);
    });
}

/// A broker that refuses a batch for what is in it gets its messages one by one, so that only the bad one is refused.
#[test]
fn one_bad_message_does_not_spoil_the_others() {
    within(PATIENCE, || {
        let cluster = cluster();
        let poisoned = |body: &[u8]| body.windows(6).any(|window| window == b"poison");
        for code in [SINGLE, BATCH] {
            cluster
                .any_broker()
                .on(code)
                .respond_with(move |request: &MockRequest| {
                    let usual = MockAction::usual();
                    if poisoned(&request.body) {
                        usual
                            .not_carried_out()
                            .reply(ResponseCode::MESSAGE_ILLEGAL, "poison")
                    } else {
                        usual
                    }
                });
        }
        let producer = gathering(&cluster, holding(milliseconds(50))).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        thread::scope(|scope| {
            for i in 0..20 {
                let body = if i == 7 {
                    "poison".to_owned()
                } else {
                    i.to_string()
                };
                let (done, producer) = (done.clone(), &producer);
                if i % 2 == 0 {
                    scope.spawn(move || {
                        let sent = producer.send(&text("orders", body.clone()));
                        done.send((body, sent)).unwrap();
                    });
                } else {
                    producer.send_async(text("orders", body.clone()), move |outcome: Outcome| {
                        done.send((body, outcome.map_err(|failure| failure.error)))
                            .unwrap();
                    });
                }
            }
        });
        let all: Vec<_> = (0..20).map(|_| outcomes.recv().unwrap()).collect();
        let (good, bad): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, outcome)| outcome.is_ok());
        assert_eq!(bad.len(), 1);
        let (body, error) = &bad[0];
        assert_eq!(body, "poison");
        assert_eq!(error.as_ref().unwrap_err().delivery(), Delivery::Refused);
        let good: Vec<_> = good
            .into_iter()
            .map(|(body, outcome)| (body, outcome.unwrap()))
            .collect();
        assert_all_stored(&cluster, "orders", &good);
        drop(producer);
        assert!(outcomes.try_recv().is_err());
    });
}

#[test]
fn a_server_that_knows_no_batches_gets_single_messages() {
    within(PATIENCE, || {
        let cluster = cluster();
        let refusal = cluster.any_broker().on(BATCH);
        refusal.reply(
            ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
            "request type 320 not supported",
        );
        let producer = gathering(&cluster, holding(milliseconds(20))).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for i in 0..10 {
            let done = done.clone();
            producer.send_async(text("orders", i.to_string()), move |outcome| {
                done.send((i.to_string(), outcome.unwrap())).unwrap();
            });
        }
        drop(done);
        assert_all_stored(&cluster, "orders", &outcomes.iter().collect::<Vec<_>>());
    });
}

/// Who wants each message to be seen by one broker at most gets that, in a batch too.
#[test]
fn a_refused_batch_is_not_taken_apart_where_a_refusal_ends_a_send() {
    within(PATIENCE, || {
        let cluster = cluster();
        let refusal = cluster.any_broker().on(BATCH);
        refusal.reply(ResponseCode::MESSAGE_ILLEGAL, "one of them");
        let builder = gathering(&cluster, holding(milliseconds(20)));
        let producer = builder.redelivery(Redelivery::AtMostOnce).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for i in 0..5 {
            let done = done.clone();
            producer.send_async(text("orders", i.to_string()), move |outcome| {
                done.send(outcome.unwrap_err().error.delivery()).unwrap();
            });
        }
        drop(done);
        assert_eq!(outcomes.iter().collect::<Vec<_>>(), [Delivery::Refused; 5]);
        assert_eq!((cluster.requests(SINGLE), cluster.requests(BATCH)), (0, 1));
    });
}

/// Each sender is told at its own deadline, and what it is told is true.
#[test]
fn every_sender_keeps_its_own_deadline() {
    within(PATIENCE, || {
        let cluster = cluster();
        for code in [SINGLE, BATCH] {
            cluster.any_broker().on(code).silence();
        }
        let producer = gathering(&cluster, AutoBatch::default())
            .retries(0)
            .async_retries(0)
            .start()
            .unwrap();
        producer.warm_up(&["orders"]).unwrap();
        let (done, outcomes) = mpsc::channel();
        thread::scope(|scope| {
            for timeout in [300, 600, 900].map(milliseconds) {
                for _ in 0..4 {
                    let (done, told, aimed) = (done.clone(), done.clone(), producer.timeout(timeout));
                    let began = Instant::now();
                    aimed.send_async(text("orders", "x"), move |outcome| {
                        done.send((timeout, began.elapsed(), outcome.unwrap_err().error))
                            .unwrap();
                    });
                    scope.spawn(move || {
                        let (sent, took) = timed(|| aimed.send(&text("orders", "x")));
                        told.send((timeout, took, sent.unwrap_err())).unwrap();
                    });
                }
            }
        });
        for _ in 0..24 {
            let (timeout, took, error) = outcomes.recv().unwrap();
            assert!(
                took + milliseconds(25) >= timeout && took < timeout + GRACE,
                "{timeout:?} took {took:?}"
            );
            assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
            assert!(error.is_timeout(), "{error}");
        }
    });
}

/// Whatever brokers do, each send ends once, what is told as stored is stored, and what is told as not stored is not.
#[test]
fn every_send_ends_in_one_true_outcome_whatever_brokers_do() {
    within(3 * PATIENCE, || {
        const COUNT: usize = 400;
        let cluster = cluster();
        for code in [SINGLE, BATCH] {
            let on = || cluster.any_broker().on(code);
            on().every(7).after_store().close();
            on().every(5).before_store().reset();
            on().every(4)
                .reply(ResponseCode::SYSTEM_BUSY, "[TIMEOUT_CLEAN_QUEUE]broker busy");
            on().every(6).after_store().silence();
            on().every(3).delay(milliseconds(3));
        }
        let auto_batch = holding(milliseconds(3))
            .max_bytes(2048)
            .max_total_bytes(64 * 1024);
        let producer = gathering(&cluster, auto_batch)
            .send_timeout(milliseconds(700))
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        thread::scope(|scope| {
            for thread in 0..4 {
                let (done, producer) = (done.clone(), &producer);
                scope.spawn(move || {
                    for i in 0..COUNT {
                        let body = format!("{thread}-{i}");
                        let message = text("orders", body.clone());
                        if thread == 0 && i % 10 == 0 {
                            let sent = producer.send(&message);
                            done.send((body, sent)).unwrap();
                        } else {
                            let done = done.clone();
                            producer.send_async(message, move |outcome: Outcome| {
                                done.send((body, outcome.map_err(|failure| failure.error)))
                                    .unwrap();
                            });
                        }
                    }
                });
            }
        });
        drop(producer.shutdown(PATIENCE));
        let mut told: BTreeMap<String, Result<SendResult, Error>> = BTreeMap::new();
        for (body, outcome) in outcomes.try_iter() {
            assert!(
                told.insert(body.clone(), outcome).is_none(),
                "{body} was told twice"
            );
        }
        assert_eq!(told.len(), 4 * COUNT);
        let stored: BTreeSet<_> = cluster
            .messages("orders")
            .into_iter()
            .map(|message| String::from_utf8(message.body).unwrap())
            .collect();
        let mut successes = 0;
        for (body, outcome) in &told {
            match outcome {
                Ok(_) => {
                    successes += 1;
                    assert!(stored.contains(body), "{body} was told as stored");
                }
                Err(error) if error.delivery().is_not_stored() => {
                    assert!(!stored.contains(body), "{body} was told as not stored: {error}");
                }
                Err(_) => {}
            }
        }
        assert!(successes > COUNT, "{successes} successes");
    });
}

#[test]
fn gathered_messages_are_sent_again_to_another_broker() {
    within(PATIENCE, || {
        let cluster = cluster();
        cluster.broker("broker-a").set_down();
        let producer = gathering(&cluster, holding(milliseconds(20))).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for i in 0..100 {
            let done = done.clone();
            producer.send_async(text("orders", i.to_string()), move |outcome| {
                done.send((i.to_string(), outcome.unwrap())).unwrap();
            });
            if i % 10 == 9 {
                producer.flush(PATIENCE).unwrap();
            }
        }
        drop(done);
        let results: Vec<_> = outcomes.iter().collect();
        assert!(
            results
                .iter()
                .all(|(_, result)| result.queue.broker_name() == "broker-b")
        );
        assert_all_stored(&cluster, "orders", &results);
    });
}

/// The bytes that are gathered or on their way are bounded: who comes then waits, within its own time, or is told at once.
#[test]
fn senders_wait_while_too_much_is_held() {
    within(PATIENCE, || {
        let cluster = cluster();
        for code in [SINGLE, BATCH] {
            cluster.any_broker().on(code).silence();
        }
        let auto_batch = AutoBatch::default().max_bytes(2048).max_total_bytes(2048);
        let producer = gathering(&cluster, auto_batch)
            .callback_threads(1)
            .start()
            .unwrap();
        let message = || Message::new("orders", vec![b'x'; 900]).unwrap();
        let (done, outcomes) = mpsc::channel();
        let finished = done.clone();
        producer.send_async(message(), move |outcome| finished.send(outcome.is_ok()).unwrap());
        // Both go at once, since there is no room for a third, and are held until they are answered.
        let finished = done.clone();
        producer.send_async(message(), move |outcome| finished.send(outcome.is_ok()).unwrap());
        let full = producer
            .try_send_async(message(), |_| panic!("it was not taken"))
            .unwrap_err();
        assert_eq!(full.message, message());
        let held = producer.stats().gathered_bytes;
        assert!(held > 1800 && held <= 2048, "{held}");
        let short = producer.timeout(milliseconds(200));
        let (error, took) = timed(|| short.send(&message()).unwrap_err());
        assert!(
            took + milliseconds(5) >= milliseconds(200) && took < milliseconds(200) + GRACE,
            "{took:?}"
        );
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Permit,
                    ..
                }
            ),
            "{error}"
        );
        let finished = done.clone();
        short.send_async(message(), move |outcome| {
            let error = outcome.unwrap_err().error;
            finished
                .send(matches!(
                    error,
                    Error::Timeout {
                        phase: Phase::Permit,
                        ..
                    }
                ))
                .unwrap();
        });
        assert!(outcomes.recv().unwrap());

        // From inside a closure nothing is waited for: the message goes by itself.
        let (sender, finished) = (producer.clone(), done.clone());
        producer
            .timeout(milliseconds(15))
            .send_async(message(), move |outcome| {
                drop(outcome);
                let ((), took) = timed(|| sender.send_async(message(), drop));
                finished.send(took < GRACE).unwrap();
            });
        assert!(outcomes.recv().unwrap());
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.requests(SINGLE) >= 2));
        // Once there is room, those who wait for it are served.
        cluster.clear_faults();
        let waiting = thread::spawn({
            let producer = producer.clone();
            move || producer.send(&message()).is_ok()
        });
        cluster.any_broker().close_connections();
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn a_closure_that_blocks_or_panics_holds_up_no_other_of_its_batch() {
    within(PATIENCE, || {
        let cluster = cluster();
        let producer = gathering(&cluster, holding(milliseconds(30)))
            .callback_threads(2)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        for i in 0..20 {
            let (done, released) = (done.clone(), Arc::clone(&released));
            producer.send_async(text("orders", i.to_string()), move |outcome| {
                outcome.unwrap();
                if i == 3 {
                    released.lock().unwrap().recv().ok();
                }
                assert!(i % 5 != 1, "on purpose");
                done.send(i).unwrap();
            });
        }
        drop(done);
        let mut told: BTreeSet<_> = (0..15)
            .map(|_| outcomes.recv_timeout(PATIENCE).unwrap())
            .collect();
        assert!(!told.contains(&3));
        release.send(()).unwrap();
        told.extend(outcomes.recv());
        assert_eq!(told.len(), 16);
        assert_eq!(producer.flush(PATIENCE), Ok(()));
        assert_eq!(producer.stats().callback_panics, 4);
        assert_eq!(cluster.requests(BATCH), 1);
    });
}

/// A blocked send needs no worker, so the only one may send from inside a closure.
#[test]
fn a_blocking_send_inside_the_only_closure_gets_its_outcome() {
    within(PATIENCE, || {
        let cluster = cluster();
        let builder = gathering(&cluster, holding(milliseconds(20))).callback_threads(1);
        let producer = builder.max_async_in_flight(1).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        let sender = producer.clone();
        producer.send_async(text("orders", "outside"), move |_| {
            done.send(sender.send(&text("orders", "inside")).is_ok()).unwrap();
        });
        assert!(outcomes.recv().unwrap());
        assert_eq!(cluster.message_count("orders"), 2);
    });
}

#[test]
fn all_releases_take_gathered_batches() {
    within(PATIENCE, || {
        for version in [
            ServerVersion::V4_7_0,
            ServerVersion::V4_9_7,
            ServerVersion::V5_5_0,
        ] {
            let cluster = MockCluster::builder().speaks(version).start().unwrap();
            let producer = gathering(&cluster, holding(milliseconds(20))).start().unwrap();
            let (done, outcomes) = mpsc::channel();
            for i in 0..50 {
                let done = done.clone();
                producer.send_async(text("orders", i.to_string()), move |outcome| {
                    done.send((i.to_string(), outcome.unwrap())).unwrap();
                });
            }
            drop(done);
            assert_all_stored(&cluster, "orders", &outcomes.iter().collect::<Vec<_>>());
        }
    });
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let start = |auto_batch: AutoBatch| {
        producer_for("127.0.0.1:1")
            .auto_batch(auto_batch)
            .start()
            .map(drop)
    };
    for (auto_batch, says) in [
        (AutoBatch::default().hold(Duration::ZERO), "hold is 0ns"),
        (AutoBatch::default().hold(Duration::from_secs(31)), "hold is 31s"),
        (
            AutoBatch::default().hold(milliseconds(1500)),
            "the send timeout of 3s",
        ),
        (AutoBatch::default().max_bytes(0), "max_bytes is 0"),
        (AutoBatch::default().max_bytes(3 << 20), "max_bytes is 3145728"),
        (
            AutoBatch::default().max_total_bytes(1),
            "less than one batch of 32768",
        ),
    ] {
        assert_says(&start(auto_batch).unwrap_err(), &["auto_batch", says]);
    }
}
