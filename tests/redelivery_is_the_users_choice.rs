//! Whether a message that may be stored is sent again is the user's choice, for the producer and for single sends; and every
//! outcome says truly what became of the message.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::sync::{Arc, Mutex};

use rocketmq_producer::{Delivery, Producer, Redelivery, SendResult};
use support::{
    PATIENCE,
    fake_server::{FakeServer, Peer, Request},
    message, producer_for, within,
};

/// Two brokers, of which the first that is sent something stores it as `stores` says and answers as `answers` does. The
/// other is well. Gives back what came of a send, and how many requests the brokers got.
fn send_once(
    redelivery: Redelivery,
    for_this_send: bool,
    answers: fn(&Request, &Peer),
) -> (Result<SendResult, Delivery>, usize) {
    let first = Arc::new(Mutex::new(None));
    let brokers = [0, 1].map(|index| {
        let first = Arc::clone(&first);
        FakeServer::broker(move |request, peer| {
            if *first.lock().unwrap().get_or_insert(index) == index {
                answers(request, peer);
            } else {
                peer.stored(request, 7);
            }
        })
    });
    let name_server = FakeServer::name_server(&[
        ("broker-a", brokers[0].address()),
        ("broker-b", brokers[1].address()),
    ]);
    let builder = producer_for(name_server.address());
    let outcome = if for_this_send {
        let producer: Producer = builder.start().unwrap();
        producer
            .timeout(PATIENCE)
            .redelivery(redelivery)
            .send(&message("orders"))
    } else {
        builder
            .redelivery(redelivery)
            .start()
            .unwrap()
            .send(&message("orders"))
    };
    let sends = brokers.iter().map(FakeServer::sends).sum();
    (outcome.map_err(|error| error.delivery()), sends)
}

#[track_caller]
fn assert_sends(answers: fn(&Request, &Peer), expected: [(Redelivery, Result<bool, Delivery>, usize); 3]) {
    for (redelivery, outcome, sends) in expected {
        for for_this_send in [false, true] {
            let (came, requests) = send_once(redelivery, for_this_send, answers);
            let came = came.map(|result| result.may_be_duplicated);
            assert_eq!(
                (came, requests),
                (outcome, sends),
                "{redelivery:?}, for this send: {for_this_send}"
            );
        }
    }
}

#[test]
fn a_lost_answer_is_repeated_only_at_least_once() {
    within(PATIENCE, || {
        assert_sends(
            |_, peer| peer.close(),
            [
                (Redelivery::AtLeastOnce, Ok(true), 2),
                (Redelivery::NoDuplicates, Err(Delivery::Unknown), 1),
                (Redelivery::AtMostOnce, Err(Delivery::Unknown), 1),
            ],
        );
    });
}

#[test]
fn a_refusal_makes_no_copy_and_ends_only_at_most_once() {
    within(PATIENCE, || {
        assert_sends(
            |request, peer| peer.refuse(request, 14, "service not available now"),
            [
                (Redelivery::AtLeastOnce, Ok(false), 2),
                (Redelivery::NoDuplicates, Ok(false), 2),
                (Redelivery::AtMostOnce, Err(Delivery::Refused), 1),
            ],
        );
    });
}

#[test]
fn an_answer_that_says_stored_but_not_where_is_unknown() {
    within(PATIENCE, || {
        assert_sends(
            |request, peer| peer.answer(request, 0, &serde_json::json!({ "queueId": "0" }), b""),
            [
                (Redelivery::AtLeastOnce, Ok(true), 2),
                (Redelivery::NoDuplicates, Err(Delivery::Unknown), 1),
                (Redelivery::AtMostOnce, Err(Delivery::Unknown), 1),
            ],
        );
    });
}
