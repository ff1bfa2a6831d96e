//! With a delivery timeout a message is kept and tried until it is stored: nothing is given up while there is time, what is
//! held is bounded, and order is kept where it is asked for.

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
    collections::BTreeSet,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rocketmq_producer::{Delivery, Message, Target};
use support::{
    GRACE, PATIENCE, assert_took,
    fake_server::{FakeServer, SEND_MESSAGE_V2},
    message, producer_for, timed, within,
};

const OUTAGE: Duration = Duration::from_millis(1500);

fn numbered(number: usize) -> Message {
    Message::new("orders", number.to_string()).unwrap()
}

/// A broker that is out of order until it is told to work.
fn broker_out_of_order(
    refusal: fn(&support::fake_server::Request, &support::fake_server::Peer),
) -> (FakeServer, Arc<AtomicBool>) {
    let works = Arc::new(AtomicBool::new(false));
    let looks = Arc::clone(&works);
    let broker = FakeServer::broker(move |request, peer| {
        if looks.load(Ordering::SeqCst) {
            peer.stored(request, 0);
        } else {
            refusal(request, peer);
        }
    });
    (broker, works)
}

#[track_caller]
fn all_are_stored_after(refusal: fn(&support::fake_server::Request, &support::fake_server::Peer)) {
    let (broker, works) = broker_out_of_order(refusal);
    let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
    let producer = producer_for(name_server.address())
        .send_timeout(Duration::from_millis(200))
        .delivery_timeout(PATIENCE)
        .start()
        .unwrap();
    let (done, outcomes) = mpsc::channel();
    for number in 0..100 {
        let done = done.clone();
        producer.send_async(numbered(number), move |outcome| {
            done.send(outcome.map(|_| number)).unwrap();
        });
    }
    let blocking = {
        let producer = producer.clone();
        thread::spawn(move || producer.send(&numbered(100)).map(|_| 100))
    };
    // The outage lasts many rounds of attempts; nothing may be given up in it.
    assert!(outcomes.recv_timeout(OUTAGE).is_err());
    works.store(true, Ordering::SeqCst);
    let mut stored: BTreeSet<_> = (0..100)
        .map(|_| outcomes.recv().unwrap().expect("stored"))
        .collect();
    stored.insert(blocking.join().unwrap().expect("stored"));
    assert_eq!(stored.len(), 101);
    assert!(producer.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_busy_broker_is_waited_for() {
    within(PATIENCE, || {
        all_are_stored_after(|request, peer| peer.refuse(request, 2, "[REJECTREQUEST]system busy"));
    });
}

#[test]
fn a_broker_that_closes_connections_is_waited_for() {
    within(PATIENCE, || all_are_stored_after(|_, peer| peer.close()));
}

#[test]
fn a_silent_broker_is_waited_for() {
    within(PATIENCE, || all_are_stored_after(|_, _| {}));
}

#[test]
fn a_broker_that_is_down_and_a_name_server_that_does_not_know_the_topic_are_waited_for() {
    within(PATIENCE, || {
        // The port is taken, so that nobody else gets it, and given free for a moment before the broker starts.
        let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = reserved.local_addr().unwrap();
        drop(reserved);
        let name_server = FakeServer::name_server(&[("broker-a", address)]);
        let producer = producer_for(name_server.address())
            .send_timeout(Duration::from_millis(300))
            .delivery_timeout(Duration::from_millis(600))
            .start()
            .unwrap();
        let (error, took) = timed(|| producer.send(&message("orders")).unwrap_err());
        assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
        assert!(
            took >= Duration::from_millis(450),
            "given up early, after {took:?}: {error}"
        );
        assert_took(took, Duration::ZERO, Duration::from_millis(600) + GRACE);

        let lost = producer_for(support::fake_server::RefusingAddress::new().address())
            .send_timeout(Duration::from_millis(300))
            .delivery_timeout(Duration::from_millis(600))
            .start()
            .unwrap();
        let (error, took) = timed(|| lost.send(&message("orders")).unwrap_err());
        assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
        assert!(
            took >= Duration::from_millis(450),
            "given up early, after {took:?}: {error}"
        );
        let (told, outcome) = mpsc::channel();
        let (error, took) = timed(|| {
            lost.send_async(message("orders"), move |outcome| {
                told.send(outcome.unwrap_err().error).unwrap();
            });
            outcome.recv().unwrap()
        });
        assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
        assert!(
            took >= Duration::from_millis(450),
            "given up early, after {took:?}: {error}"
        );
    });
}

#[test]
fn the_order_is_kept_through_the_outage() {
    within(PATIENCE, || {
        let (broker, works) = broker_out_of_order(|request, peer| peer.refuse(request, 2, "busy"));
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .delivery_timeout(PATIENCE)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..30 {
            let done = done.clone();
            let order = producer.to(Target::key("k")).ordered(true);
            order.send_async(numbered(number), move |outcome| {
                done.send(outcome.is_ok()).unwrap();
            });
        }
        broker.wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) >= 3);
        works.store(true, Ordering::SeqCst);
        assert!((0..30).all(|_| outcomes.recv().unwrap()));
        let mut bodies: Vec<String> = broker.log(|log| {
            log.of(SEND_MESSAGE_V2)
                .map(|send| String::from_utf8_lossy(&send.body).into_owned())
                .collect()
        });
        bodies.dedup();
        assert_eq!(
            bodies,
            (0..30).map(|number| number.to_string()).collect::<Vec<_>>()
        );
    });
}

#[test]
fn what_is_refused_for_good_is_given_up_at_once() {
    within(PATIENCE, || {
        let broker = FakeServer::broker(|request, peer| peer.refuse(request, 13, "the message is illegal"));
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .delivery_timeout(PATIENCE)
            .start()
            .unwrap();
        let (error, took) = timed(|| producer.send(&message("orders")).unwrap_err());
        assert_eq!(error.delivery(), Delivery::Refused, "{error}");
        assert_took(took, Duration::ZERO, GRACE);
        assert_eq!(broker.sends(), 1);
    });
}

#[test]
fn a_shutdown_does_not_wait_for_the_delivery_timeout() {
    within(PATIENCE, || {
        let (broker, _works) = broker_out_of_order(|request, peer| peer.refuse(request, 2, "busy"));
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .delivery_timeout(Duration::from_secs(600))
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..10 {
            let done = done.clone();
            producer.send_async(numbered(number), move |outcome| {
                done.send(outcome.unwrap_err()).unwrap();
            });
        }
        broker.wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) >= 10);
        let (report, took) = timed(|| producer.shutdown(Duration::from_millis(200)));
        assert_took(took, Duration::ZERO, Duration::from_millis(400) + GRACE);
        // One of which an attempt is just on its way is unknown, and rightly so.
        assert_eq!(
            (report.delivered, report.not_stored + report.unknown),
            (0, 10),
            "{report}"
        );
        assert_eq!(report.failures.len(), 10);
        assert!(!report.is_clean());
        let failed: BTreeSet<_> = (0..10)
            .map(|_| outcomes.recv().unwrap().message.body().to_vec())
            .collect();
        let reported: BTreeSet<_> = report
            .failures
            .iter()
            .map(|failure| failure.message.body().to_vec())
            .collect();
        assert_eq!(failed, reported);
    });
}
