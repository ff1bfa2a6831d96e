//! The closure of an asynchronous send runs exactly once, on a worker, whatever happens to the send or in the closure; and
//! what it does there, be it blocking, panicking, sending or shutting down, holds nobody else up.

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
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rocketmq_producer::{Error, Message, MessageQueue, Phase, Producer, ProducerBuilder};
use support::{
    GRACE, Outcome, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, Peer, RefusingAddress, Request},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

/// A broker with its name server.
struct Stage {
    broker: FakeServer,
    name_server: FakeServer,
}

impl Stage {
    fn new(broker: FakeServer) -> Stage {
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        Stage { broker, name_server }
    }

    fn healthy() -> Stage {
        Self::new(FakeServer::healthy_broker())
    }

    fn silent() -> Stage {
        Self::new(FakeServer::broker(|_, _| {}))
    }

    /// A broker that hands its sends to the test.
    fn held() -> (Stage, mpsc::Receiver<(Request, Peer)>) {
        let (hold, requests) = mpsc::channel();
        let broker =
            FakeServer::broker(move |request, peer| drop(hold.send((request.clone(), peer.clone()))));
        (Self::new(broker), requests)
    }

    fn builder(&self) -> ProducerBuilder {
        producer_for(self.name_server.address()).async_retries(0)
    }
}

/// The outcome of a send that has one worker's time to come.
#[track_caller]
fn next(outcomes: &mpsc::Receiver<Outcome>) -> Outcome {
    outcomes.recv_timeout(PATIENCE).expect("the callback comes")
}

#[track_caller]
fn assert_permit_timeout(outcome: &Outcome) {
    let error = &outcome.as_ref().expect_err("there is no room").error;
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Permit,
                ..
            }
        ),
        "{error:?}"
    );
    assert_says(error, &["waiting for room", "topic orders"]);
}

/// Sends so many times from several threads, waits for as many callbacks, ends the producer, and fails if one came twice.
#[track_caller]
fn assert_once_each(producer: Producer, count: usize) -> Vec<Outcome> {
    let (done, outcomes) = mpsc::channel::<(usize, Outcome)>();
    thread::scope(|scope| {
        for quarter in 0..4 {
            let (done, producer) = (done.clone(), &producer);
            scope.spawn(move || {
                for number in (quarter..count).step_by(4) {
                    let done = done.clone();
                    producer.send_async(message("orders"), move |outcome| {
                        done.send((number, outcome)).unwrap();
                    });
                }
            });
        }
    });
    let mut all: Vec<_> = (0..count)
        .map(|_| outcomes.recv_timeout(PATIENCE).expect("the callback comes"))
        .collect();
    drop((producer, done));
    let late: Vec<_> = outcomes.iter().collect();
    assert!(late.is_empty(), "these came twice: {late:?}");
    all.sort_by_key(|(number, _)| *number);
    let numbers: Vec<_> = all.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    all.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn after_a_success() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        for outcome in assert_once_each(stage.builder().start().unwrap(), 200) {
            outcome.expect("it is stored");
        }
    });
}

#[test]
fn after_every_kind_of_failure() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let silent = FakeServer::silent();
        let short = milliseconds(150);
        let no_name_server = || producer_for(down.address());
        let silent_name_server = || producer_for(silent.address()).send_timeout(short);
        let silent_broker = Stage::silent();
        let refusing = Stage::new(FakeServer::broker(|request, peer| {
            peer.refuse(request, 2, "busy");
        }));
        let closing = Stage::new(FakeServer::broker(|_, peer| peer.close()));
        let lying = Stage::new(FakeServer::broker(|_, peer| peer.write(&[0xFF; 100])));
        let dead_broker = FakeServer::name_server(&[("broker-a", down.address())]);
        for (name, builder) in [
            ("no name server", no_name_server()),
            ("a silent name server", silent_name_server()),
            ("a silent broker", silent_broker.builder().send_timeout(short)),
            ("a refusal", refusing.builder()),
            ("refusals", refusing.builder().async_retries(5)),
            ("a lost connection", closing.builder()),
            ("lost connections", closing.builder().async_retries(5)),
            ("a broken protocol", lying.builder()),
            ("no broker", producer_for(dead_broker.address())),
            (
                "messages that are too large",
                refusing.builder().max_message_size(10),
            ),
        ] {
            let (outcomes, took) = timed(|| assert_once_each(builder.start().unwrap(), 40));
            let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert_eq!(stored, 0, "{name}");
            assert_took(took, Duration::ZERO, Duration::from_secs(6));
        }
    });
}

#[test]
fn on_another_thread_than_the_callers() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let down = RefusingAddress::new();
        for name_server in [stage.name_server.address(), down.address()] {
            let producer = producer_for(name_server).start().unwrap();
            let (done, thread) = mpsc::channel();
            producer.send_async(message("orders"), move |_| {
                let current = thread::current();
                done.send((current.id(), current.name().map(str::to_owned)))
                    .unwrap();
            });
            let (id, name) = thread.recv_timeout(PATIENCE).unwrap();
            assert_ne!(id, thread::current().id());
            assert!(
                name.as_ref().is_some_and(|name| name.starts_with("rmq-worker")),
                "{name:?}"
            );
        }
    });
}

#[test]
fn a_panic_in_one_hurts_no_other_and_is_reported() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage
            .builder()
            .callback_threads(1)
            .max_async_in_flight(4)
            .send_timeout(PATIENCE)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..60 {
            let done = done.clone();
            producer.send_async(message("orders"), move |outcome| {
                assert!(number % 3 != 0, "on purpose");
                done.send(outcome).unwrap();
            });
        }
        for _ in 0..40 {
            next(&outcomes).expect("it is stored");
        }
        producer.send(&message("orders")).expect("blocking sends too");
        let report = producer.shutdown(PATIENCE);
        assert_eq!(report.callback_panics, 20, "{report}");
        assert!(report.is_clean(), "{report}");
    });
}

#[test]
fn a_blocked_one_holds_up_neither_answers_nor_blocking_sends() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage.builder().callback_threads(1).start().unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        let (entered, is_blocked) = mpsc::channel();
        producer.send_async(message("orders"), move |_| {
            entered.send(()).unwrap();
            blocked.recv().expect_err("nothing is sent");
        });
        is_blocked.recv_timeout(PATIENCE).unwrap();
        // The only worker is busy now.
        let (done, outcomes) = mpsc::channel();
        for _ in 0..10 {
            let done = done.clone();
            producer.send_async(message("orders"), move |outcome| done.send(outcome).unwrap());
        }
        for _ in 0..10 {
            let (result, took) = timed(|| producer.send(&message("orders")));
            result.expect("it is answered");
            assert_took(took, Duration::ZERO, GRACE);
        }
        assert_eq!(outcomes.try_iter().count(), 0);
        drop(release);
        for _ in 0..10 {
            next(&outcomes).expect("its answer came long ago");
        }
    });
}

#[test]
fn other_workers_go_on_while_one_is_blocked() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage.builder().callback_threads(2).start().unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        producer.send_async(message("orders"), move |_| {
            blocked.recv().expect_err("nothing is sent");
        });
        for _ in 0..20 {
            send_async_and_wait(&producer, message("orders")).expect("the other worker runs it");
        }
        drop(release);
    });
}

/// Sends the next message from the callback of the one before.
fn chain(producer: Producer, left: usize, done: mpsc::Sender<Outcome>) {
    producer.clone().send_async(message("orders"), move |outcome| {
        if left == 0 || outcome.is_err() {
            done.send(outcome).unwrap();
        } else {
            chain(producer, left - 1, done);
        }
    });
}

#[test]
fn one_may_send_again_with_all_permits_taken() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage
            .builder()
            .callback_threads(1)
            .max_async_in_flight(1)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        chain(producer, 200, done);
        next(&outcomes).expect("each takes over the permit of the one before");
        assert_eq!(stage.broker.sends(), 201);
    });
}

#[test]
fn many_chains_on_few_workers_and_permits_do_not_lock_up() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage
            .builder()
            .callback_threads(2)
            .max_async_in_flight(8)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        for _ in 0..8 {
            chain(producer.clone(), 100, done.clone());
        }
        for _ in 0..8 {
            next(&outcomes).expect("each takes over the permit of the one before");
        }
        assert_eq!(stage.broker.sends(), 808);
    });
}

#[test]
fn a_second_send_from_inside_does_not_wait_for_room() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage
            .builder()
            .callback_threads(1)
            .max_async_in_flight(1)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let (spent, times) = mpsc::channel();
        let inner = producer.clone();
        producer.send_async(message("orders"), move |_| {
            for _ in 0..2 {
                let done = done.clone();
                let ((), took) =
                    timed(|| inner.send_async(message("orders"), move |outcome| done.send(outcome).unwrap()));
                spent.send(took).unwrap();
            }
        });
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        peer.stored(&request, 1);
        for _ in 0..2 {
            assert_took(times.recv_timeout(PATIENCE).unwrap(), Duration::ZERO, GRACE);
        }
        assert_permit_timeout(&next(&outcomes));
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        peer.stored(&request, 2);
        assert_eq!(next(&outcomes).unwrap().queue_offset, 2);
    });
}

#[test]
fn one_may_send_and_wait() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage
            .builder()
            .callback_threads(1)
            .max_async_in_flight(1)
            .start()
            .unwrap();
        let (done, result) = mpsc::channel();
        let inner = producer.clone();
        producer.send_async(message("orders"), move |_| {
            inner.send_oneway(&message("orders")).unwrap();
            done.send(inner.send(&message("orders"))).unwrap();
        });
        result
            .recv_timeout(PATIENCE)
            .expect("answers of blocking sends need no worker")
            .unwrap();
    });
}

#[test]
fn the_bound_of_unfinished_sends_holds_callers_up_to_their_deadline() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().max_async_in_flight(2).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        let send = |timeout| {
            let done = done.clone();
            let report = move |outcome| done.send(outcome).unwrap();
            timed(|| producer.timeout(timeout).send_async(message("orders"), report)).1
        };
        assert_took(send(PATIENCE), Duration::ZERO, GRACE);
        assert_took(send(PATIENCE), Duration::ZERO, GRACE);
        let brief = milliseconds(200);
        assert_took(send(brief), brief, brief + GRACE);
        assert_permit_timeout(&next(&outcomes));
        // A caller that waits goes on when there is room.
        thread::scope(|scope| {
            let waiting = scope.spawn(|| send(PATIENCE));
            for _ in 0..3 {
                let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
                peer.stored(&request, 1);
            }
            waiting.join().unwrap();
        });
        for _ in 0..3 {
            next(&outcomes).expect("it is answered");
        }
        assert_eq!(stage.broker.sends(), 3, "what had no room was never sent");
    });
}

#[test]
fn the_bound_of_bytes_holds_callers_up_to_their_deadline() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().max_async_bytes(10_000).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        let send = |size: usize, timeout| {
            let done = done.clone();
            let message = Message::new("orders", vec![b'x'; size]).unwrap();
            producer
                .timeout(timeout)
                .send_async(message, move |outcome| done.send(outcome).unwrap());
        };
        send(6_000, PATIENCE);
        send(6_000, milliseconds(50));
        assert_permit_timeout(&next(&outcomes));
        send(3_000, PATIENCE);
        for _ in 0..2 {
            let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
            peer.stored(&request, 1);
            next(&outcomes).expect("it is answered");
        }
        // One that is larger than the bound goes alone.
        send(20_000, PATIENCE);
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        peer.stored(&request, 1);
        next(&outcomes).expect("it is answered");
    });
}

#[test]
fn permits_come_back_whatever_happens() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage
            .builder()
            .max_async_in_flight(1)
            .max_message_size(1000)
            .start()
            .unwrap();
        let answering = thread::spawn(move || {
            for (number, (request, peer)) in requests.into_iter().enumerate() {
                match number % 4 {
                    0 => peer.stored(&request, 1),
                    1 => peer.refuse(&request, 13, "illegal"),
                    2 => peer.close(),
                    _ => {}
                }
            }
        });
        for round in 0..12 {
            let (done, outcome) = mpsc::channel();
            let (result, took) = timed(|| {
                producer
                    .timeout(milliseconds(800))
                    .send_async(message("orders"), move |result| done.send(result).unwrap());
                next(&outcome)
            });
            assert_eq!(result.is_ok(), round % 4 == 0, "round {round}: {result:?}");
            assert_took(took, Duration::ZERO, milliseconds(800) + GRACE);
            let large = Message::new("orders", vec![0; 1000]).unwrap();
            send_async_and_wait(&producer, large).expect_err("it is too large");
        }
        drop((producer, stage));
        answering.join().unwrap();
    });
}

#[test]
fn one_may_shut_the_producer_down() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        for threads in [1, 4] {
            let producer = stage.builder().callback_threads(threads).start().unwrap();
            let (done, reports) = mpsc::channel();
            let inner = producer.clone();
            producer.send_async(message("orders"), move |_| {
                done.send(timed(|| inner.shutdown(Duration::from_secs(10))))
                    .unwrap();
            });
            let (report, took) = reports
                .recv_timeout(PATIENCE)
                .expect("it does not wait for itself");
            assert!(report.is_clean(), "{report}");
            assert_took(took, Duration::ZERO, Duration::from_secs(2));
            let error = producer.send(&message("orders")).expect_err("it is shut down");
            assert!(matches!(error, Error::ShutDown), "{error:?}");
        }
    });
}

#[test]
fn several_may_shut_the_producer_down_at_once() {
    within(PATIENCE, || {
        let stage = Stage::healthy();
        let producer = stage.builder().callback_threads(4).start().unwrap();
        let (done, reports) = mpsc::channel();
        let barrier = Arc::new(Barrier::new(4));
        for _ in 0..4 {
            let (inner, done, barrier) = (producer.clone(), done.clone(), Arc::clone(&barrier));
            producer.send_async(message("orders"), move |_| {
                barrier.wait();
                done.send(timed(|| inner.shutdown(Duration::from_secs(10))))
                    .unwrap();
            });
        }
        for _ in 0..4 {
            let (report, took) = reports.recv_timeout(PATIENCE).expect("nobody waits for another");
            assert_took(took, Duration::ZERO, Duration::from_secs(2));
            drop(report);
        }
    });
}

#[test]
fn one_may_shut_down_while_another_thread_does() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().start().unwrap();
        let inner = producer.clone();
        let (done, times) = mpsc::channel();
        producer.send_async(message("orders"), move |_| {
            done.send(timed(|| inner.shutdown(Duration::from_secs(10))).1)
                .unwrap();
        });
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        let other = producer.clone();
        let shutting_down = thread::spawn(move || timed(|| other.shutdown(Duration::from_secs(10))));
        // It has begun when it lets nobody in any more.
        while !matches!(producer.publish_queues("orders"), Err(Error::ShutDown)) {
            thread::yield_now();
        }
        peer.stored(&request, 1);
        let took = times.recv_timeout(PATIENCE).expect("the callback comes");
        assert_took(took, Duration::ZERO, Duration::from_secs(2));
        let (report, took) = shutting_down.join().unwrap();
        assert!(report.is_clean(), "{report}");
        assert_took(took, Duration::ZERO, Duration::from_secs(2));
    });
}

/// The only handle is moved into the closure: when that ends, so does the producer.
#[track_caller]
fn assert_last_drop_inside_ends_all(stage: &Stage, timeout: Duration, cause: impl FnOnce()) {
    let producer = stage.builder().send_timeout(timeout).start().unwrap();
    let (done, outcomes) = mpsc::channel();
    // The closure cannot hold the handle that it is sent with, except through a clone.
    let only = producer.clone();
    producer.send_async(message("orders"), move |outcome| {
        let ((), took) = timed(|| drop(only));
        done.send((outcome, took)).unwrap();
    });
    drop(producer);
    stage.broker.wait_until(PATIENCE, |log| {
        log.count(support::fake_server::SEND_MESSAGE_V2) > 0
    });
    cause();
    let (_, took) = outcomes.recv_timeout(PATIENCE).expect("the callback comes");
    assert_took(took, Duration::ZERO, Duration::from_secs(2));
    stage.broker.wait_until(PATIENCE, |log| log.ended == log.accepted);
}

#[test]
fn the_last_handle_may_be_dropped_inside_after_an_answer() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        assert_last_drop_inside_ends_all(&stage, Duration::from_secs(3), || {
            let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
            peer.stored(&request, 1);
        });
    });
}

#[test]
fn the_last_handle_may_be_dropped_inside_after_a_timeout() {
    within(PATIENCE, || {
        let (stage, _requests) = Stage::held();
        assert_last_drop_inside_ends_all(&stage, Duration::from_secs(1), || {});
    });
}

#[test]
fn the_last_handle_may_be_dropped_inside_after_the_connection_is_lost() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        assert_last_drop_inside_ends_all(&stage, Duration::from_secs(3), || {
            let (_, peer) = requests.recv_timeout(PATIENCE).unwrap();
            peer.close();
        });
    });
}

#[test]
fn those_of_a_healthy_broker_come_as_early_as_without_a_dead_one() {
    within(PATIENCE, || {
        let healthy = FakeServer::healthy_broker();
        let silent = FakeServer::broker(|_, _| {});
        let down = RefusingAddress::new();
        let name_server = FakeServer::name_server(&[
            ("down", down.address()),
            ("healthy", healthy.address()),
            ("silent", silent.address()),
        ]);
        let producer = producer_for(name_server.address())
            .callback_threads(1)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let send = |broker: &'static str| {
            let done = done.clone();
            producer.to(MessageQueue::new("orders", broker, 0)).send_async(
                message("orders"),
                move |outcome| {
                    done.send((broker, outcome)).unwrap();
                },
            );
        };
        let (healthy_ones, took) = timed(|| {
            for _ in 0..50 {
                ["silent", "down", "healthy"].into_iter().for_each(&send);
            }
            let is_healthy = |(broker, outcome): &(&str, Outcome)| *broker == "healthy" && outcome.is_ok();
            let mut healthy_ones = 0;
            while healthy_ones < 50 {
                healthy_ones += usize::from(is_healthy(&outcomes.recv_timeout(PATIENCE).unwrap()));
            }
            healthy_ones
        });
        assert_eq!(healthy_ones, 50);
        // Those of the silent broker end after 3 s.
        assert_took(took, Duration::ZERO, Duration::from_secs(2));
    });
}

#[test]
fn even_when_the_producer_is_shut_down_meanwhile() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        for round in 0..150 {
            let producer = producer_for(down.address()).callback_threads(2).start().unwrap();
            let (sent, called) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let barrier = Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        barrier.wait();
                        for _ in 0..20 {
                            let called = Arc::clone(&called);
                            sent.fetch_add(1, Ordering::SeqCst);
                            producer.send_async(message("orders"), move |_| {
                                called.fetch_add(1, Ordering::SeqCst);
                            });
                        }
                    });
                }
                barrier.wait();
                drop(producer.shutdown(Duration::ZERO));
            });
            // What was sent after the shutdown was answered on the spot; nothing runs any more.
            let (sent, called) = (sent.load(Ordering::SeqCst), called.load(Ordering::SeqCst));
            assert_eq!(sent, called, "round {round}");
        }
    });
}
