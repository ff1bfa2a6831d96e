//! Nobody waits beyond his own deadline: not for a peer that does not read, not for a silent one, not behind others, and
//! whatever waits in front of him.

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
    net::TcpStream,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{Delivery, Error, Message, MessageQueue, Phase, Producer, ProducerBuilder};
use serde_json::json;
use support::{
    GRACE, Outcome, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, HEART_BEAT, Peer, Request, SEND_MESSAGE_V2, UNREGISTER_CLIENT, read_frame},
    message, milliseconds, producer_for, timed, within,
};

/// A broker that answers the first send, and then reads nothing until it is told to; then it answers everything.
struct StallingBroker {
    server: FakeServer,
    reads: Arc<(Mutex<bool>, Condvar)>,
    /// The bodies of the sends that it has read.
    received: mpsc::Receiver<Vec<u8>>,
}

impl StallingBroker {
    fn start() -> StallingBroker {
        let reads = Arc::new((Mutex::new(false), Condvar::new()));
        let (report, received) = mpsc::channel();
        let may_read = Arc::clone(&reads);
        let server = FakeServer::raw(move |stream: &TcpStream| {
            let peer = Peer::new(stream);
            let mut sends = 0;
            while let Some((header, body)) = read_frame(stream) {
                let request = Request {
                    connection: 0,
                    header,
                    body,
                };
                match request.code() {
                    HEART_BEAT | UNREGISTER_CLIENT => peer.answer(&request, 0, &json!({}), b""),
                    SEND_MESSAGE_V2 => {
                        sends += 1;
                        report.send(request.body.clone()).unwrap();
                        if !request.is_oneway() {
                            peer.stored(&request, sends);
                        }
                    }
                    _ => {}
                }
                if sends == 1 {
                    let (lock, changed) = &*may_read;
                    let reading = lock.lock().unwrap();
                    drop(changed.wait_while(reading, |reading| !*reading).unwrap());
                }
            }
        });
        StallingBroker {
            server,
            reads,
            received,
        }
    }

    fn resume(&self) {
        *self.reads.0.lock().unwrap() = true;
        self.reads.1.notify_all();
    }
}

impl Drop for StallingBroker {
    fn drop(&mut self) {
        self.resume();
    }
}

fn one_attempt(name_server: &FakeServer) -> ProducerBuilder {
    producer_for(name_server.address()).retries(0).async_retries(0)
}

/// A producer whose connection to the broker does not move: two large messages are in it.
fn stalled(broker: &StallingBroker) -> (FakeServer, Producer, mpsc::Receiver<Outcome>) {
    let name_server = FakeServer::name_server(&[("broker-a", broker.server.address())]);
    let producer = one_attempt(&name_server).start().unwrap();
    producer
        .send(&Message::new("orders", "first").unwrap())
        .expect("it is answered");
    assert_eq!(broker.received.recv_timeout(PATIENCE).unwrap(), b"first");
    let (done, outcomes) = mpsc::channel();
    for _ in 0..2 {
        let done = done.clone();
        let large = Message::new("orders", vec![b'x'; 3_900_000]).unwrap();
        producer
            .timeout(PATIENCE)
            .send_async(large, move |outcome| done.send(outcome).unwrap());
    }
    // Time for the writer to fill the sockets' buffers and come to a halt.
    thread::sleep(milliseconds(300));
    (name_server, producer, outcomes)
}

fn with_body(body: &str) -> Message {
    Message::new("orders", body).unwrap()
}

#[track_caller]
fn assert_unwritten(error: &Error) {
    assert_eq!(error.delivery(), Delivery::NotStored, "{error:?}");
    let attempt = error.attempts().first().map_or(error, |attempt| &attempt.error);
    assert!(
        matches!(
            attempt,
            Error::Timeout {
                phase: Phase::Write,
                ..
            }
        ),
        "{error:?}"
    );
    assert_says(error, &["writing the request", "nothing written"]);
}

#[test]
fn when_the_peer_stops_reading_and_the_patient_one_succeeds_when_it_resumes() {
    within(PATIENCE, || {
        let broker = StallingBroker::start();
        let (_name_server, producer, large) = stalled(&broker);
        thread::scope(|scope| {
            let patient = scope.spawn(|| producer.send(&with_body("patient")));
            let (result, took) = timed(|| producer.timeout(milliseconds(100)).send(&with_body("brief")));
            assert_unwritten(&result.expect_err("the peer does not read"));
            assert_took(took, milliseconds(100), milliseconds(100) + GRACE);
            let (done, outcome) = mpsc::channel();
            let (outcome, took) = timed(|| {
                producer
                    .timeout(milliseconds(100))
                    .send_async(with_body("brief"), move |result| done.send(result).unwrap());
                outcome.recv_timeout(PATIENCE).unwrap()
            });
            assert_unwritten(&outcome.expect_err("the peer does not read").error);
            assert_took(took, milliseconds(100), milliseconds(100) + GRACE);
            broker.resume();
            patient.join().unwrap().expect("the peer reads again");
        });
        for _ in 0..2 {
            large
                .recv_timeout(PATIENCE)
                .unwrap()
                .expect("the peer reads again");
        }
        let received: Vec<_> = broker.received.try_iter().collect();
        assert!(
            !received.iter().any(|body| body == b"brief"),
            "what has been withdrawn is never sent"
        );
        assert_eq!(received.len(), 3);
        assert_eq!(
            broker.server.log(|log| log.accepted),
            1,
            "the connection lives on"
        );
    });
}

#[test]
fn behind_a_peer_that_does_not_read_each_keeps_his_own_time() {
    within(PATIENCE, || {
        let broker = StallingBroker::start();
        let (_name_server, producer, _large) = stalled(&broker);
        thread::scope(|scope| {
            for number in 0..16 {
                let producer = &producer;
                scope.spawn(move || {
                    let timeout = milliseconds(50 + 25 * number);
                    let (result, took) = timed(|| producer.timeout(timeout).send(&with_body("brief")));
                    assert_unwritten(&result.expect_err("the peer does not read"));
                    assert_took(took, timeout, timeout + GRACE);
                });
            }
        });
        // Or the end of the producer would wait for the two that are under way.
        broker.resume();
    });
}

/// As many bytes as the permits allow wait behind the peer, and all are over at about the same time.
#[test]
fn behind_a_peer_that_does_not_read_many_end_as_quickly_as_one() {
    const COUNT: usize = 1000;
    const TIMEOUT: Duration = Duration::from_secs(2);
    within(PATIENCE, || {
        let broker = StallingBroker::start();
        let name_server = FakeServer::name_server(&[("broker-a", broker.server.address())]);
        let producer = one_attempt(&name_server).start().unwrap();
        producer.send(&with_body("first")).expect("it is answered");
        let message = Message::new("orders", vec![b'z'; 96 * 1024]).unwrap();
        let (done, outcomes) = mpsc::channel();
        for _ in 0..COUNT {
            let (done, began) = (done.clone(), Instant::now());
            producer
                .timeout(TIMEOUT)
                .send_async(message.clone(), move |outcome: Outcome| {
                    done.send((began.elapsed(), outcome)).unwrap();
                });
        }
        drop(done);
        let (mut latest, mut unwritten) = (Duration::ZERO, 0);
        for (took, outcome) in outcomes {
            let failure = outcome.expect_err("the peer does not read");
            unwritten += usize::from(failure.error.delivery() == Delivery::NotStored);
            latest = latest.max(took);
        }
        assert!(unwritten > COUNT / 2, "{unwritten} were never written");
        assert_took(latest, TIMEOUT, TIMEOUT + GRACE);
        broker.resume();
    });
}

#[test]
fn a_full_buffer_holds_nobody_beyond_his_deadline() {
    within(PATIENCE, || {
        let broker = StallingBroker::start();
        let (_name_server, producer, _large) = stalled(&broker);
        // Fill what is left of the buffer, one-way.
        let filler = Message::new("orders", vec![b'y'; 100_000]).unwrap();
        let full = loop {
            let (result, took) = timed(|| producer.timeout(milliseconds(100)).send_oneway(&filler));
            assert_took(took, Duration::ZERO, milliseconds(100) + GRACE);
            if let Err(error) = result {
                break error;
            }
        };
        assert_unwritten(&full);
        let (result, took) = timed(|| producer.timeout(milliseconds(200)).send(&filler));
        assert_unwritten(&result.expect_err("there is no room"));
        assert_took(took, milliseconds(200), milliseconds(200) + GRACE);
        // Asynchronous sends are bounded by their permits, and do not wait here.
        let (done, outcome) = mpsc::channel();
        let ((), took) = timed(|| {
            producer
                .timeout(milliseconds(200))
                .send_async(filler, move |result: Outcome| done.send(result).unwrap());
        });
        assert_took(took, Duration::ZERO, GRACE);
        assert_unwritten(
            &outcome
                .recv_timeout(PATIENCE)
                .unwrap()
                .expect_err("the peer does not read")
                .error,
        );
        broker.resume();
    });
}

#[test]
fn a_broker_that_does_not_read_holds_up_no_sends_to_another() {
    within(PATIENCE, || {
        let stalling = StallingBroker::start();
        let healthy = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[
            ("healthy", healthy.address()),
            ("stalling", stalling.server.address()),
        ]);
        let producer = one_attempt(&name_server).start().unwrap();
        let to = |broker: &str| producer.to(MessageQueue::new("orders", broker, 0));
        to("stalling").send(&with_body("first")).expect("it is answered");
        for _ in 0..2 {
            let large = Message::new("orders", vec![b'x'; 3_900_000]).unwrap();
            to("stalling").send_async(large, |_| {});
        }
        thread::sleep(milliseconds(200));
        for _ in 0..50 {
            let (result, took) = timed(|| to("healthy").send(&message("orders")));
            result.expect("it is answered");
            assert_took(took, Duration::ZERO, GRACE);
        }
        stalling.resume();
    });
}

#[test]
fn behind_a_silent_name_server_each_keeps_his_own_time() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let producer = producer_for(silent.address()).start().unwrap();
        thread::scope(|scope| {
            for number in 0..16 {
                let producer = &producer;
                scope.spawn(move || {
                    let timeout = milliseconds(50 + 25 * number);
                    let (result, took) = timed(|| producer.timeout(timeout).send(&message("orders")));
                    let error = result.expect_err("there is no route");
                    assert!(
                        matches!(
                            error,
                            Error::Timeout {
                                phase: Phase::Route,
                                ..
                            }
                        ),
                        "{error:?}"
                    );
                    assert_took(took, timeout, timeout + GRACE);
                });
            }
        });
    });
}

#[test]
fn behind_a_silent_broker_each_keeps_his_own_time() {
    within(PATIENCE, || {
        let broker = FakeServer::broker(|_, _| {});
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = one_attempt(&name_server).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        thread::scope(|scope| {
            for number in 0..16 {
                let (producer, done) = (&producer, done.clone());
                scope.spawn(move || {
                    let timeout = milliseconds(50 + 25 * number);
                    let report = move |outcome: Outcome| done.send((timeout, outcome)).unwrap();
                    let aimed = producer.timeout(timeout);
                    aimed.send_async(message("orders"), report);
                    let (result, took) = timed(|| aimed.send(&message("orders")));
                    let error = result.expect_err("nobody answers");
                    assert_took(took, timeout, timeout + GRACE);
                    assert!(error.is_timeout(), "{error:?}");
                });
            }
        });
        for _ in 0..16 {
            let (timeout, outcome) = outcomes.recv_timeout(PATIENCE).unwrap();
            let error = outcome.expect_err("nobody answers").error;
            assert!(error.is_timeout(), "{error:?}");
            for attempt in error.attempts() {
                assert_took(attempt.took, Duration::ZERO, timeout + GRACE);
            }
        }
    });
}

#[test]
fn with_hardly_any_time_at_all() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let broker = FakeServer::broker(|_, _| {});
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        for address in [silent.address(), name_server.address()] {
            let producer = producer_for(address).start().unwrap();
            for timeout in [Duration::ZERO, Duration::from_nanos(1), milliseconds(1)] {
                let aimed = producer.timeout(timeout);
                let (result, took) = timed(|| aimed.send(&message("orders")));
                let error = result.expect_err("there is no time");
                assert!(error.is_timeout(), "{error:?}");
                assert_took(took, Duration::ZERO, GRACE);
                let (done, outcome) = mpsc::channel();
                aimed.send_async(message("orders"), move |result: Outcome| {
                    done.send(result).unwrap();
                });
                let error = outcome.recv_timeout(GRACE).expect("it comes at once");
                assert!(error.is_err());
            }
        }
    });
}

#[test]
fn an_endless_timeout_is_no_error() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .send_timeout(Duration::MAX)
            .connect_timeout(Duration::MAX)
            .name_server_timeout(Duration::MAX)
            .route_refresh_interval(Duration::MAX)
            .heartbeat_interval(Duration::MAX)
            .start()
            .unwrap();
        producer.send(&message("orders")).unwrap();
        producer
            .timeout(Duration::MAX)
            .send_oneway(&message("orders"))
            .unwrap();
        drop(producer.shutdown(Duration::MAX));
    });
}

/// The address map runs where names are resolved, so it can stand for a resolver that hangs.
#[test]
fn a_resolver_that_hangs_holds_up_nobody() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = std::sync::Mutex::new(hangs);
        let producer = producer_for(name_server.address())
            .address_map(move |_| {
                hangs.lock().unwrap().recv().ok();
                None
            })
            .start()
            .unwrap();
        let impatient = producer.timeout(milliseconds(200));
        let (error, took) = timed(|| impatient.send(&message("orders")).unwrap_err());
        assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
        assert_took(took, milliseconds(200), milliseconds(200) + GRACE);
        let (done, outcome) = mpsc::channel();
        let ((), took) = timed(|| {
            impatient.send_async(message("orders"), move |outcome| {
                done.send(outcome.unwrap_err().error).unwrap();
            });
        });
        assert_took(took, Duration::ZERO, GRACE);
        assert_eq!(outcome.recv().unwrap().delivery(), Delivery::NotStored);
        drop(release);
        assert!(producer.send(&message("orders")).is_ok(), "it is resolved now");
    });
}
