//! `flush` waits for what was accepted before it, and for nothing else. `try_send_async` never waits for room.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::{sync::mpsc, time::Duration};

use rocketmq_producer::{Error, Message};
use support::{GRACE, PATIENCE, assert_took, fake_server::FakeServer, message, producer_for, timed, within};

#[test]
fn a_flush_waits_for_what_was_accepted_before_it_callbacks_included() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker =
            FakeServer::broker(move |request, peer| arrived.send((request.clone(), peer.clone())).unwrap());
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .send_timeout(PATIENCE)
            .start()
            .unwrap();
        assert_eq!(producer.flush(Duration::ZERO), Ok(()), "nothing is under way");
        let (done, closures) = mpsc::channel();
        for _ in 0..3 {
            let done = done.clone();
            producer.send_async(message("orders"), move |outcome| {
                done.send(outcome.is_ok()).unwrap();
            });
        }
        let held: Vec<_> = (0..3).map(|_| arrivals.recv().unwrap()).collect();
        let (unflushed, took) = timed(|| producer.flush(Duration::from_millis(50)).unwrap_err());
        assert_eq!((unflushed.sends, unflushed.oneway), (3, 0), "{unflushed}");
        assert_took(took, Duration::ZERO, Duration::from_millis(50) + GRACE);
        for (request, peer) in &held {
            peer.stored(request, 0);
        }
        // Others may come meanwhile; they are not waited for.
        producer.send_async(message("orders"), |_| {});
        assert_eq!(
            producer
                .flush(PATIENCE.min(Duration::from_millis(300)))
                .map_err(|left| left.sends),
            Err(1)
        );
        assert_eq!(closures.try_iter().filter(|stored| *stored).count(), 3);
        let (request, peer) = arrivals.recv().unwrap();
        peer.stored(&request, 0);
        assert_eq!(producer.flush(PATIENCE), Ok(()));
    });
}

#[test]
fn a_flush_in_a_callback_does_not_wait_for_itself() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let (told, answers) = mpsc::channel();
        let flusher = producer.clone();
        producer.send_async(message("orders"), move |_| {
            told.send(flusher.flush(PATIENCE)).unwrap();
        });
        assert_eq!(answers.recv().unwrap(), Ok(()));
    });
}

#[test]
fn without_room_the_message_and_the_closure_come_back_at_once() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker =
            FakeServer::broker(move |request, peer| arrived.send((request.clone(), peer.clone())).unwrap());
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .max_async_in_flight(1)
            .send_timeout(PATIENCE)
            .start()
            .unwrap();
        let (done, closures) = mpsc::channel();
        let finished = done.clone();
        producer
            .try_send_async(message("orders"), move |outcome| {
                finished.send(outcome.is_ok()).unwrap();
            })
            .unwrap();
        let second = Message::new("orders", "second").unwrap();
        let ((full, closure_came), took) = timed(|| {
            let full =
                producer.try_send_async(second.clone(), move |outcome| done.send(outcome.is_ok()).unwrap());
            (full.unwrap_err(), true)
        });
        assert!(closure_came);
        assert_took(took, Duration::ZERO, GRACE);
        assert_eq!(full.message, second);
        assert!(
            full.to_string()
                .contains("no room for another asynchronous send to topic orders"),
            "{full}"
        );
        assert!(closures.try_recv().is_err(), "the closure was not called");
        let (request, peer) = arrivals.recv().unwrap();
        peer.stored(&request, 0);
        assert!(closures.recv().unwrap());
        // What came back can be given again.
        producer.send_async(full.message, full.on_done);
        let (request, peer) = arrivals.recv().unwrap();
        peer.stored(&request, 0);
        assert!(closures.recv().unwrap());
    });
}

#[test]
fn what_is_wrong_with_the_message_goes_to_the_closure_and_not_back_as_full() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .max_message_size(200)
            .start()
            .unwrap();
        let (told, outcome) = mpsc::channel();
        let large = Message::new("orders", vec![0; 300]).unwrap();
        producer
            .try_send_async(large, move |outcome| {
                told.send(outcome.unwrap_err().error).unwrap();
            })
            .unwrap();
        assert!(matches!(outcome.recv().unwrap(), Error::InvalidMessage { .. }));
    });
}
