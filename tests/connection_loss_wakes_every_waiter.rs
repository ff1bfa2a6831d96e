//! When a connection ends, whoever waits on it is told at once, once, and truthfully: what was fully written may be stored,
//! what was not is not. Other connections do not notice, and the next send dials.

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
    io::Read,
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{Delivery, Error, Message, MessageQueue, Producer, ProducerBuilder, Written};
use support::{
    GRACE, Outcome, PATIENCE, assert_says, assert_soon, assert_took,
    fake_server::{FakeServer, SEND_MESSAGE_V2, read_frame},
    message, milliseconds, producer_for, timed, within,
};

/// A connection's end must be known within 50 ms; ten times that is allowed here.
const AT_ONCE: Duration = Duration::from_millis(500);

const SENDERS: usize = 24;

fn one_attempt(name_server: &FakeServer) -> ProducerBuilder {
    producer_for(name_server.address())
        .send_timeout(PATIENCE)
        .retries(0)
        .async_retries(0)
}

/// Blocking and asynchronous sends that are all waiting for one silent broker.
struct Waiting {
    blocking: Vec<thread::JoinHandle<(Result<rocketmq_producer::SendResult, Error>, Instant)>>,
    outcomes: mpsc::Receiver<(Outcome, Instant)>,
}

impl Waiting {
    fn start(producer: &Producer, broker: &FakeServer, queue: Option<&MessageQueue>) -> Waiting {
        let (done, outcomes) = mpsc::channel();
        let blocking = (0..SENDERS)
            .map(|_| {
                let (producer, queue) = (producer.clone(), queue.cloned());
                thread::spawn(move || {
                    let message = message("orders");
                    let result = match queue {
                        Some(queue) => producer.to(queue).send(&message),
                        None => producer.send(&message),
                    };
                    (result, Instant::now())
                })
            })
            .collect();
        for _ in 0..SENDERS {
            let done = done.clone();
            let report = move |outcome| done.send((outcome, Instant::now())).unwrap();
            match queue {
                Some(queue) => producer.to(queue.clone()).send_async(message("orders"), report),
                None => producer.send_async(message("orders"), report),
            }
        }
        broker.wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 2 * SENDERS);
        Waiting { blocking, outcomes }
    }

    /// Everybody's error, and when the last one had it. Fails if anyone is told twice.
    #[track_caller]
    fn errors(self) -> (Vec<Error>, Instant) {
        let mut ended: Vec<_> = self
            .blocking
            .into_iter()
            .map(|sender| sender.join().unwrap())
            .map(|(result, at)| (result.expect_err("the connection is lost"), at))
            .collect();
        for _ in 0..SENDERS {
            let (outcome, at) = self.outcomes.recv_timeout(PATIENCE).expect("the callback comes");
            ended.push((outcome.expect_err("the connection is lost").error, at));
        }
        assert_eq!(self.outcomes.try_iter().count(), 0);
        let last = ended.iter().map(|(_, at)| *at).max().unwrap();
        (ended.into_iter().map(|(error, _)| error).collect(), last)
    }
}

#[test]
fn all_are_told_at_once_and_that_the_outcome_is_open() {
    within(PATIENCE, || {
        assert_soon(AT_ONCE, || {
            let broker = FakeServer::broker(|_, _| {});
            let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
            let producer = one_attempt(&name_server).start().unwrap();
            let waiting = Waiting::start(&producer, &broker, None);
            let began = Instant::now();
            broker.close_connections();
            let (errors, last) = waiting.errors();
            let took = last - began;
            let address = broker.address().to_string();
            for error in &errors {
                assert_eq!(error.delivery(), Delivery::Unknown, "{error:?}");
                assert!(
                    matches!(
                        &error.attempts()[0].error,
                        Error::ConnectionLost {
                            written: Written::All,
                            ..
                        }
                    ),
                    "{error:?}"
                );
                assert_says(
                    error,
                    &["topic orders", &address, "lost after", "fully written", "closed"],
                );
            }
            assert_eq!(broker.log(|log| log.accepted), 1);
            took
        });
    });
}

#[test]
fn all_are_told_when_the_peer_breaks_the_protocol() {
    within(PATIENCE, || {
        assert_soon(AT_ONCE, || {
            // The last send is answered with nonsense.
            let (hold, peers) = mpsc::channel();
            let broker = FakeServer::broker(move |_, peer| hold.send(peer.clone()).unwrap());
            let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
            let producer = one_attempt(&name_server).start().unwrap();
            let waiting = Waiting::start(&producer, &broker, None);
            let began = Instant::now();
            peers.recv().unwrap().write(b"HTTP/1.1 500 Oops\r\n\r\n");
            let (errors, last) = waiting.errors();
            let took = last - began;
            for error in &errors {
                assert_eq!(error.delivery(), Delivery::Unknown, "{error:?}");
                assert_says(error, &["broke the protocol", "looks like an HTTP answer"]);
            }
            took
        });
    });
}

#[test]
fn all_move_to_another_broker_if_they_may() {
    within(PATIENCE, || {
        assert_soon(AT_ONCE, || {
            let healthy = FakeServer::healthy_broker();
            let silent = FakeServer::broker(|_, _| {});
            let name_server =
                FakeServer::name_server(&[("healthy", healthy.address()), ("silent", silent.address())]);
            let producer = producer_for(name_server.address())
                .send_timeout(PATIENCE)
                .start()
                .unwrap();
            let (done, outcomes) = mpsc::channel();
            for _ in 0..2 * SENDERS {
                let done = done.clone();
                producer.send_async(message("orders"), move |outcome| done.send(outcome).unwrap());
            }
            silent.wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == SENDERS);
            let began = Instant::now();
            silent.close_connections();
            let mut moved = 0;
            for _ in 0..2 * SENDERS {
                let outcome = outcomes.recv_timeout(PATIENCE).expect("the callback comes");
                let result = outcome.expect("the healthy broker stores it");
                assert_eq!(result.queue.broker_name(), "healthy");
                assert_eq!(result.may_be_duplicated, result.attempts == 2, "{result:?}");
                moved += usize::from(result.attempts == 2);
            }
            let took = began.elapsed();
            assert_eq!(moved, SENDERS);
            took
        });
    });
}

#[test]
fn other_connections_do_not_notice() {
    within(PATIENCE, || {
        let (hold, requests) = mpsc::channel();
        let steady =
            FakeServer::broker(move |request, peer| hold.send((request.clone(), peer.clone())).unwrap());
        let dying = FakeServer::broker(|_, _| {});
        let name_server =
            FakeServer::name_server(&[("dying", dying.address()), ("steady", steady.address())]);
        let producer = one_attempt(&name_server).start().unwrap();
        let sending = {
            let producer = producer.clone();
            let queue = MessageQueue::new("orders", "steady", 0);
            thread::spawn(move || producer.to(queue).send(&message("orders")))
        };
        let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
        let queue = MessageQueue::new("orders", "dying", 0);
        let waiting = Waiting::start(&producer, &dying, Some(&queue));
        dying.close_connections();
        waiting.errors();
        peer.stored(&request, 3);
        let result = sending.join().unwrap().expect("its broker is well");
        assert_eq!(result.queue_offset, 3);
        assert_eq!(steady.log(|log| log.accepted), 1);
    });
}

#[test]
fn the_next_send_dials_again() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = one_attempt(&name_server).start().unwrap();
        for round in 1..=10 {
            let mut tries = 0;
            let result = loop {
                tries += 1;
                let (result, took) = timed(|| producer.send(&message("orders")));
                assert_took(took, Duration::ZERO, GRACE);
                // Until the reader has seen the end of the old connection, a send may still be put on it.
                if tries == 5 || !matches!(result, Err(Error::Failed(_))) {
                    break result;
                }
            };
            result.expect("it goes over a new connection");
            assert_eq!(broker.log(|log| log.accepted), round);
            broker.close_connections();
            broker.wait_until(PATIENCE, |log| log.ended == round);
        }
    });
}

#[test]
fn a_connection_that_is_closed_while_idle_costs_no_send() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        for round in 1..=10 {
            let (result, took) = timed(|| producer.send(&message("orders")));
            result.expect("if the old connection is taken for alive, the retry goes over a new one");
            assert_took(took, Duration::ZERO, GRACE);
            broker.close_connections();
            broker.wait_until(PATIENCE, |log| log.ended == round);
        }
    });
}

/// A broker that answers nothing, reads the first frame, and after that nothing until it is told to hang up.
fn stalling_broker() -> (FakeServer, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (hang_up, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let (begun, has_begun) = mpsc::channel();
    let broker = FakeServer::raw(move |stream: &TcpStream| {
        drop(read_frame(stream));
        // The first byte of the next frame has come: it is begun.
        let mut first = [0];
        let mut stream = stream;
        if stream.read_exact(&mut first).is_ok() {
            begun.send(()).unwrap();
            told.lock().unwrap().recv().expect("the test says when");
        }
    });
    (broker, hang_up, has_begun)
}

#[test]
fn what_was_not_fully_written_is_not_stored() {
    within(PATIENCE, || {
        assert_soon(AT_ONCE, || {
            let (broker, hang_up, has_begun) = stalling_broker();
            let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
            let producer = one_attempt(&name_server)
                .max_message_size(15 << 20)
                .start()
                .unwrap();
            let (done, outcomes) = mpsc::channel();
            // More than the buffers of the sockets take, and two that wait behind it.
            let large = Message::new("orders", vec![b'x'; 14 << 20]).unwrap();
            for message in [large.clone(), large, message("orders")] {
                let done = done.clone();
                producer.send_async(message, move |outcome| done.send(outcome).unwrap());
            }
            has_begun
                .recv_timeout(PATIENCE)
                .expect("the first frame is begun");
            // Time for the writer to come to a halt.
            thread::sleep(milliseconds(300));
            let began = Instant::now();
            hang_up.send(()).unwrap();
            for _ in 0..3 {
                let outcome = outcomes.recv_timeout(PATIENCE).expect("the callback comes");
                let error = outcome.expect_err("the connection is lost").error;
                assert_eq!(error.delivery(), Delivery::NotStored, "{error:?}");
                assert_says(&error, &["lost", "written", &broker.address().to_string()]);
            }
            began.elapsed()
        });
    });
}
