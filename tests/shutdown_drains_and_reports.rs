//! A shutdown lets what is under way finish, ends the rest within its time with an honest error, reports what was left, and
//! leaves nothing running. So does dropping the last handle.

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
    collections::HashMap,
    net::TcpStream,
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use rocketmq_producer::{Delivery, Error, Message, Producer, ProducerBuilder, ShutdownReport};
use support::{
    GRACE, Outcome, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, Peer, Request, SEND_MESSAGE_V2, UNREGISTER_CLIENT, read_frame},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

/// A shutdown must be back 0.2 s after its time; ten times that is allowed here.
const LAST_WORDS: Duration = Duration::from_secs(2);

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

    /// Answers nothing at all: no sends, no heartbeats, no farewell.
    fn silent() -> Stage {
        Self::new(FakeServer::silent())
    }

    /// A broker that hands its sends to the test.
    fn held() -> (Stage, mpsc::Receiver<(Request, Peer)>) {
        let (hold, requests) = mpsc::channel();
        let broker =
            FakeServer::broker(move |request, peer| drop(hold.send((request.clone(), peer.clone()))));
        (Self::new(broker), requests)
    }

    fn builder(&self) -> ProducerBuilder {
        producer_for(self.name_server.address())
            .retries(0)
            .async_retries(0)
            .send_timeout(PATIENCE)
    }
}

/// Sends so many, and waits until the broker has them.
fn send_many(stage: &Stage, producer: &Producer, count: usize) -> mpsc::Receiver<(usize, Outcome)> {
    let (done, outcomes) = mpsc::channel();
    for number in 0..count {
        let done = done.clone();
        producer.send_async(message("orders"), move |outcome| {
            done.send((number, outcome)).unwrap();
        });
    }
    stage
        .broker
        .wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == count);
    outcomes
}

/// Fails unless each of so many callbacks has run, once, before now.
#[track_caller]
fn assert_all_here(outcomes: &mpsc::Receiver<(usize, Outcome)>, count: usize) -> Vec<Outcome> {
    let mut by_number: HashMap<usize, Outcome> = HashMap::new();
    for (number, outcome) in outcomes.try_iter() {
        let again = by_number.insert(number, outcome);
        assert!(again.is_none(), "number {number} was told twice: {again:?}");
    }
    assert_eq!(by_number.len(), count, "callbacks that have run by now");
    by_number.into_values().collect()
}

#[test]
fn what_is_answered_meanwhile_succeeds() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().start().unwrap();
        let outcomes = send_many(&stage, &producer, 50);
        let blocking = {
            let producer = producer.clone();
            thread::spawn(move || producer.send(&message("orders")))
        };
        stage
            .broker
            .wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 51);
        let shutting_down = {
            let producer = producer.clone();
            thread::spawn(move || producer.shutdown(PATIENCE))
        };
        // It has begun when it lets nobody in any more.
        while !matches!(producer.publish_queues("orders"), Err(Error::ShutDown)) {
            thread::yield_now();
        }
        for _ in 0..51 {
            let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
            peer.stored(&request, 7);
        }
        let report = shutting_down.join().unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.ended_early, report.oneway_unwritten), (0, 0), "{report}");
        for outcome in assert_all_here(&outcomes, 50) {
            outcome.expect("it was answered");
        }
        blocking.join().unwrap().expect("it was answered");
    });
}

#[test]
fn a_hundred_sends_to_a_silent_broker_end_once_within_the_time() {
    within(PATIENCE, || {
        let stage = Stage::silent();
        let producer = stage.builder().start().unwrap();
        let outcomes = send_many(&stage, &producer, 100);
        let time = milliseconds(300);
        let (report, took) = timed(|| producer.shutdown(time));
        assert_took(took, time, time + LAST_WORDS);
        let address = stage.broker.address().to_string();
        for outcome in assert_all_here(&outcomes, 100) {
            let error = outcome.expect_err("nobody answers").error;
            assert_eq!(error.delivery(), Delivery::Unknown, "{error:?}");
            assert_says(
                &error,
                &[
                    "topic orders",
                    &address,
                    "fully written",
                    "closed by this producer",
                ],
            );
        }
        assert_eq!(report.ended_early, 100, "{report}");
        assert!(!report.is_clean(), "{report}");
        assert_took(report.took, time, took);
    });
}

#[test]
fn slow_callbacks_run_before_it_returns() {
    within(PATIENCE, || {
        let stage = Stage::silent();
        let producer = stage.builder().callback_threads(1).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..5 {
            let done = done.clone();
            producer.send_async(message("orders"), move |outcome| {
                thread::sleep(milliseconds(5));
                done.send((number, outcome)).unwrap();
            });
        }
        stage
            .broker
            .wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 5);
        drop(producer.shutdown(Duration::ZERO));
        assert_all_here(&outcomes, 5);
    });
}

#[test]
fn blocked_senders_are_sent_home() {
    within(PATIENCE, || {
        let stage = Stage::silent();
        let producer = stage.builder().start().unwrap();
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let producer = producer.clone();
                thread::spawn(move || producer.send(&message("orders")))
            })
            .collect();
        stage
            .broker
            .wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 8);
        let (report, took) = timed(|| producer.shutdown(milliseconds(100)));
        assert_took(took, milliseconds(100), milliseconds(100) + LAST_WORDS);
        assert_eq!(report.ended_early, 8, "{report}");
        for sender in senders {
            let error = sender.join().unwrap().expect_err("nobody answers");
            assert_eq!(error.delivery(), Delivery::Unknown, "{error:?}");
        }
    });
}

#[test]
fn sends_that_wait_for_a_route_end_as_not_sent() {
    within(PATIENCE, || {
        let name_server = FakeServer::silent();
        let producer = producer_for(name_server.address())
            .send_timeout(PATIENCE)
            .name_server_timeout(PATIENCE)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..20 {
            let done = done.clone();
            producer.send_async(message("orders"), move |outcome| {
                done.send((number, outcome)).unwrap();
            });
        }
        let blocking = {
            let producer = producer.clone();
            thread::spawn(move || producer.send(&message("orders")))
        };
        name_server.wait_until(PATIENCE, |log| !log.requests.is_empty());
        let (report, took) = timed(|| producer.shutdown(milliseconds(100)));
        assert_took(took, milliseconds(100), milliseconds(100) + LAST_WORDS);
        assert!(report.ended_early >= 20, "{report}");
        for outcome in assert_all_here(&outcomes, 20) {
            let error = outcome.expect_err("there is no route").error;
            assert_eq!(error.delivery(), Delivery::NotStored, "{error:?}");
        }
        let error = blocking.join().unwrap().expect_err("there is no route");
        assert_eq!(error.delivery(), Delivery::NotStored, "{error:?}");
    });
}

#[test]
fn sends_that_wait_for_room_end_as_not_sent() {
    within(PATIENCE, || {
        let stage = Stage::silent();
        let producer = stage.builder().max_async_in_flight(1).start().unwrap();
        let outcomes = send_many(&stage, &producer, 1);
        let (done, waiting) = mpsc::channel();
        let sender = {
            let producer = producer.clone();
            thread::spawn(move || {
                producer.send_async(message("orders"), move |outcome: Outcome| {
                    done.send(outcome).unwrap();
                });
            })
        };
        let (_, took) = timed(|| producer.shutdown(milliseconds(200)));
        assert_took(took, Duration::ZERO, milliseconds(200) + LAST_WORDS);
        assert_all_here(&outcomes, 1);
        let outcome = waiting.recv_timeout(GRACE).expect("the callback comes");
        let error = outcome.expect_err("it was never sent").error;
        assert_eq!(error.delivery(), Delivery::NotStored, "{error:?}");
        sender.join().unwrap();
    });
}

#[test]
fn a_silent_farewell_does_not_use_up_the_time() {
    within(PATIENCE, || {
        let stage = Stage::new(FakeServer::start(|request, peer| {
            if request.code() == SEND_MESSAGE_V2 {
                peer.stored(request, 1);
            }
        }));
        let producer = stage.builder().start().unwrap();
        producer.send(&message("orders")).unwrap();
        let (report, took) = timed(|| producer.shutdown(PATIENCE));
        assert!(report.is_clean(), "{report}");
        assert_took(took, Duration::ZERO, Duration::from_secs(5));
        assert_eq!(stage.broker.log(|log| log.count(UNREGISTER_CLIENT)), 1);
    });
}

#[track_caller]
fn assert_refuses_everything(producer: &Producer) {
    let refused = |error: &Error| {
        assert!(matches!(error, Error::ShutDown), "{error:?}");
        assert_eq!(error.delivery(), Delivery::NotStored);
        assert_says(error, &["shut down"]);
    };
    refused(&producer.send(&message("orders")).expect_err("it is shut down"));
    refused(
        &producer
            .send_oneway(&message("orders"))
            .expect_err("it is shut down"),
    );
    refused(&producer.publish_queues("orders").expect_err("it is shut down"));
    let failure = send_async_and_wait(producer, message("orders")).expect_err("it is shut down");
    assert_eq!(failure.message, message("orders"));
    refused(&failure.error);
}

#[test]
fn sends_after_it_are_refused() {
    within(PATIENCE, || {
        let (stage, _requests) = Stage::held();
        // Whether workers have been started or not.
        for uses in [false, true] {
            let producer = stage.builder().send_timeout(milliseconds(100)).start().unwrap();
            if uses {
                send_async_and_wait(&producer, message("orders")).expect_err("nobody answers");
            }
            let clone = producer.clone();
            assert!(producer.shutdown(Duration::from_secs(5)).is_clean());
            assert_refuses_everything(&producer);
            assert_refuses_everything(&clone);
        }
    });
}

#[test]
fn doing_it_again_gives_the_same_report() {
    within(PATIENCE, || {
        let stage = Stage::silent();
        let producer = stage.builder().start().unwrap();
        let outcomes = send_many(&stage, &producer, 3);
        let first = producer.shutdown(Duration::ZERO);
        assert_eq!(first.ended_early, 3);
        let (second, took) = timed(|| producer.clone().shutdown(PATIENCE));
        assert_eq!(first.to_string(), second.to_string());
        assert_took(took, Duration::ZERO, GRACE);
        assert_all_here(&outcomes, 3);
    });
}

#[test]
fn several_threads_may_do_it_at_once() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().start().unwrap();
        let outcomes = send_many(&stage, &producer, 1);
        let reports: Vec<ShutdownReport> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| producer.shutdown(PATIENCE)))
                .collect();
            let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
            peer.stored(&request, 7);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(
            reports
                .iter()
                .all(|report| report.to_string() == reports[0].to_string()),
            "{reports:?}"
        );
        assert!(reports[0].is_clean(), "{reports:?}");
        assert_all_here(&outcomes, 1);
    });
}

#[test]
fn a_producer_that_never_sent_ends_at_once() {
    within(PATIENCE, || {
        let producer = producer_for("127.0.0.1:9876").start().unwrap();
        let (report, took) = timed(|| producer.shutdown(PATIENCE));
        assert!(report.is_clean(), "{report}");
        assert_took(took, Duration::ZERO, GRACE);
        let ((), took) = timed(|| drop(producer_for("127.0.0.1:9876").start().unwrap()));
        assert_took(took, Duration::ZERO, GRACE);
    });
}

#[test]
fn a_callback_that_never_returns_is_left_behind() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().start().unwrap();
        let (release, blocked) = mpsc::channel::<()>();
        let (entered, is_blocked) = mpsc::channel();
        producer.send_async(message("orders"), move |_| {
            entered.send(()).unwrap();
            blocked.recv().expect_err("nothing is sent");
        });
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        peer.stored(&request, 7);
        is_blocked.recv_timeout(PATIENCE).unwrap();
        let (report, took) = timed(|| producer.shutdown(milliseconds(200)));
        assert_took(took, milliseconds(200), milliseconds(200) + LAST_WORDS);
        assert_eq!(report.ended_early, 1, "it has not finished: {report}");
        drop(release);
    });
}

#[test]
fn oneway_messages_are_written_first() {
    within(PATIENCE, || {
        let stage = Stage::new(FakeServer::healthy_broker());
        let producer = stage.builder().start().unwrap();
        let large = Message::new("orders", vec![b'x'; 1_000_000]).unwrap();
        for _ in 0..10 {
            producer.send_oneway(&large).unwrap();
        }
        let report = producer.shutdown(PATIENCE);
        assert!(report.is_clean(), "{report}");
        stage
            .broker
            .wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 10);
    });
}

#[test]
fn oneway_messages_that_were_not_written_are_reported() {
    within(PATIENCE, || {
        let (let_go, told) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let stage = Stage::new(FakeServer::raw(move |stream: &TcpStream| {
            // The heartbeat, and nothing after it.
            drop(read_frame(stream));
            told.lock().unwrap().recv().expect_err("nothing is sent");
        }));
        // Declared after the stage, so dropped before it.
        let let_go = let_go;
        let producer = stage.builder().start().unwrap();
        let large = Message::new("orders", vec![b'x'; 3_900_000]).unwrap();
        let mut accepted = 0;
        loop {
            match producer.timeout(milliseconds(200)).send_oneway(&large) {
                Ok(()) => accepted += 1,
                // Two fit into the connection's buffer, whatever those of the sockets take.
                Err(_) if accepted >= 2 => break,
                Err(error) => assert!(error.is_timeout(), "{error:?}"),
            }
        }
        let (report, took) = timed(|| producer.shutdown(milliseconds(200)));
        assert_took(took, milliseconds(200), milliseconds(200) + LAST_WORDS);
        assert!(!report.is_clean(), "{report}");
        // The buffers of the sockets may have taken one or two.
        let unwritten = usize::try_from(report.oneway_unwritten).unwrap();
        assert!(
            (2..=accepted).contains(&unwritten),
            "{accepted} were accepted, and {report}"
        );
        drop(let_go);
    });
}

#[test]
fn answers_to_the_brokers_own_requests_are_no_oneway_messages() {
    within(PATIENCE, || {
        // The broker asks and asks, and never reads an answer.
        let (let_go, told) = mpsc::channel::<()>();
        let told = Mutex::new(told);
        let stage = Stage::new(FakeServer::raw(move |stream: &TcpStream| {
            let peer = Peer::new(stream);
            let header = serde_json::json!({"code": 40, "opaque": 1, "flag": 0, "extFields": {}});
            let question = support::fake_server::frame(&header, b"").repeat(1000);
            for _ in 0..60 {
                peer.write(&question);
            }
            told.lock().unwrap().recv().expect_err("nothing is sent");
        }));
        // Declared after the stage, so dropped before it.
        let let_go = let_go;
        let producer = stage.builder().send_timeout(milliseconds(500)).start().unwrap();
        producer.send(&message("orders")).expect_err("nobody answers");
        let report = producer.shutdown(milliseconds(200));
        assert_eq!(report.oneway_unwritten, 0, "{report}");
        assert!(report.is_clean(), "{report}");
        drop(let_go);
    });
}

#[test]
fn dropping_the_last_handle_ends_everything() {
    within(PATIENCE, || {
        let stage = Stage::new(FakeServer::healthy_broker());
        let producer = stage.builder().start().unwrap();
        producer.send(&message("orders")).unwrap();
        let clone = producer.clone();
        drop(producer);
        clone.send(&message("orders")).expect("a handle is left");
        assert_eq!(stage.broker.log(|log| log.ended), 0);
        let ((), took) = timed(|| drop(clone));
        assert_took(took, Duration::ZERO, GRACE);
        stage.broker.wait_until(PATIENCE, |log| log.ended == 1);
        stage.name_server.wait_until(PATIENCE, |log| log.ended == 1);
        assert_eq!(stage.broker.log(|log| log.count(UNREGISTER_CLIENT)), 1);
    });
}

#[test]
fn dropping_the_last_handle_waits_a_while_for_what_is_under_way() {
    within(PATIENCE, || {
        let (stage, requests) = Stage::held();
        let producer = stage.builder().start().unwrap();
        let outcomes = send_many(&stage, &producer, 5);
        let dropping = thread::spawn(move || drop(producer));
        for _ in 0..5 {
            let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
            peer.stored(&request, 7);
        }
        dropping.join().unwrap();
        for outcome in assert_all_here(&outcomes, 5) {
            outcome.expect("it was answered");
        }
    });
}
