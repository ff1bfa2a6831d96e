//! A failed attempt is repeated on another broker within the same deadline, and a promised retry really happens. An answer
//! of any attempt counts, whenever it comes. What cannot help is not repeated.

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
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use rocketmq_producer::{Delivery, Error, Message, Producer, ProducerBuilder, ResponseCode, SendStatus};
use serde_json::json;
use support::{
    GRACE, Outcome, PATIENCE, assert_says, assert_took,
    fake_server::{FakeServer, Peer, RefusingAddress, Request, SEND_MESSAGE_V2, stored_fields},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

/// Two brokers; whichever is chosen first behaves badly, and the other well.
struct TwoBrokers {
    brokers: [FakeServer; 2],
    name_server: FakeServer,
}

impl TwoBrokers {
    /// The first send of all is given to `bad`, all others are stored. With `again`, `bad` also gets what its broker is
    /// sent later.
    fn first_is(bad: impl Fn(&Request, &Peer) + Send + Sync + 'static) -> TwoBrokers {
        let chosen = Arc::new(Mutex::new(None));
        let bad = Arc::new(bad);
        let brokers = [0, 1].map(|index| {
            let (chosen, bad) = (Arc::clone(&chosen), Arc::clone(&bad));
            FakeServer::broker(move |request, peer| {
                let is_bad = *chosen.lock().unwrap().get_or_insert(index) == index;
                if is_bad {
                    bad(request, peer);
                } else {
                    peer.stored(request, 7);
                }
            })
        });
        Self::of(brokers)
    }

    fn of(brokers: [FakeServer; 2]) -> TwoBrokers {
        let [first, second] = &brokers;
        let name_server =
            FakeServer::name_server(&[("broker-a", first.address()), ("broker-b", second.address())]);
        TwoBrokers { brokers, name_server }
    }

    fn builder(&self) -> ProducerBuilder {
        producer_for(self.name_server.address())
    }

    /// Sends that have come, over both brokers.
    fn sends(&self) -> usize {
        self.brokers.iter().map(FakeServer::sends).sum()
    }
}

/// A blocking and an asynchronous send that both meet a bad broker first.
#[track_caller]
fn both_stored(bad: fn(&Request, &Peer), check: impl Fn(&rocketmq_producer::SendResult)) {
    for asynchronous in [false, true] {
        let stage = TwoBrokers::first_is(bad);
        let producer = stage.builder().start().unwrap();
        let (result, took) = timed(|| {
            if asynchronous {
                send_async_and_wait(&producer, message("orders")).map_err(|failure| failure.error)
            } else {
                producer.send(&message("orders"))
            }
        });
        let result = result.unwrap_or_else(|error| panic!("asynchronous: {asynchronous}: {error}"));
        assert_eq!(result.attempts, 2, "asynchronous: {asynchronous}: {result:?}");
        check(&result);
        assert_took(took, Duration::ZERO, Duration::from_secs(1) + GRACE);
        assert_eq!(stage.brokers.each_ref().map(FakeServer::sends), [1, 1]);
        let ids = stage
            .brokers
            .each_ref()
            .map(|broker| broker.log(|log| log.of(SEND_MESSAGE_V2).next().unwrap().field("i").to_owned()));
        assert_eq!(
            ids[0], ids[1],
            "both attempts carry the same message id and properties"
        );
        assert!(ids[0].contains(result.message_id.as_str()), "{ids:?}");
    }
}

#[test]
fn a_busy_broker_is_passed_over() {
    within(PATIENCE, || {
        both_stored(
            |request, peer| peer.refuse(request, 2, "[TIMEOUT_CLEAN_QUEUE]broker busy"),
            |result| assert!(!result.may_be_duplicated, "{result:?}"),
        );
    });
}

#[test]
fn codes_that_another_broker_may_not_have_are_retried() {
    within(PATIENCE, || {
        both_stored(
            |request, peer| peer.refuse(request, 14, "service not available now"),
            |result| assert!(!result.may_be_duplicated, "{result:?}"),
        );
        both_stored(
            |request, peer| peer.refuse(request, 17, "topic[orders] not exist"),
            |result| assert!(!result.may_be_duplicated, "{result:?}"),
        );
        both_stored(
            |request, peer| peer.refuse(request, 16, "the broker[10.0.0.1] sending message is forbidden"),
            |result| assert!(!result.may_be_duplicated, "{result:?}"),
        );
        both_stored(
            |request, peer| peer.refuse(request, 1, "UNKNOWN_ERROR"),
            |result| assert!(result.may_be_duplicated, "code 1 says nothing: {result:?}"),
        );
    });
}

#[test]
fn a_connection_that_ends_is_retried_elsewhere() {
    within(PATIENCE, || {
        both_stored(
            |_, peer| peer.close(),
            |result| assert!(result.may_be_duplicated, "{result:?}"),
        );
    });
}

#[test]
fn an_answer_that_cannot_be_read_is_retried_elsewhere() {
    within(PATIENCE, || {
        both_stored(
            |request, peer| peer.answer(request, 0, &json!({"queueId": "0"}), b""),
            |result| assert!(result.may_be_duplicated, "{result:?}"),
        );
    });
}

#[test]
fn a_silent_broker_leaves_time_for_the_other() {
    within(PATIENCE, || {
        // 3 s for three attempts: the first broker's share is one second.
        both_stored(
            |_, _| {},
            |result| assert!(result.may_be_duplicated, "{result:?}"),
        );
    });
}

#[test]
fn a_refused_connection_is_retried_elsewhere() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let up = FakeServer::healthy_broker();
        let name_server =
            FakeServer::name_server(&[("broker-a", down.address()), ("broker-b", up.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        for _ in 0..20 {
            let (result, took) = timed(|| producer.send(&message("orders")));
            let result = result.expect("the other broker is up");
            assert_eq!(result.queue.broker_name(), "broker-b");
            assert!(!result.may_be_duplicated, "{result:?}");
            assert_took(took, Duration::ZERO, GRACE);
            let result = send_async_and_wait(&producer, message("orders")).expect("the other broker is up");
            assert_eq!(result.queue.broker_name(), "broker-b");
        }
        assert_eq!(up.sends(), 40, "one copy each");
    });
}

#[test]
fn final_refusals_are_not_repeated() {
    within(PATIENCE, || {
        let acl = "org.apache.rocketmq.acl.common.AclException: No acl config for AK";
        let five_acl = "User:x has no permission to access resource:Topic:orders";
        for (code, remark, delivery) in [
            (13, "the message is illegal", Delivery::Refused),
            (1, acl, Delivery::Refused),
            (16, five_acl, Delivery::Refused),
            (3, "request type 310 not supported", Delivery::Refused),
            (4711, "never heard of", Delivery::Unknown),
        ] {
            let stage = TwoBrokers::first_is(move |request, peer| peer.refuse(request, code, remark));
            let producer = stage.builder().start().unwrap();
            let error = producer.send(&message("orders")).expect_err("it is refused");
            assert_eq!(error.delivery(), delivery, "{error:?}");
            assert_eq!(
                error.response_code().map(ResponseCode::value),
                i32::try_from(code).ok()
            );
            assert_says(&error, &["1 attempt", remark]);
            assert_eq!(stage.sends(), 1, "code {code} is final");
        }
        let stage = TwoBrokers::first_is(|request, peer| peer.refuse(request, 13, "too long"));
        let producer = stage.builder().start().unwrap();
        send_async_and_wait(&producer, message("orders")).expect_err("it is refused");
        assert_eq!(stage.sends(), 1);
    });
}

#[test]
fn the_codes_to_retry_can_be_set() {
    within(PATIENCE, || {
        let stage = TwoBrokers::first_is(|request, peer| peer.refuse(request, 2, "busy"));
        let producer = stage
            .builder()
            .retry_response_codes([ResponseCode::MESSAGE_ILLEGAL])
            .start()
            .unwrap();
        producer
            .send(&message("orders"))
            .expect_err("2 is not retried now");
        assert_eq!(stage.sends(), 1);
    });
}

#[test]
fn a_status_other_than_ok_is_a_success_that_says_so() {
    within(PATIENCE, || {
        for (code, status) in [
            (10, SendStatus::FlushDiskTimeout),
            (11, SendStatus::SlaveNotAvailable),
            (12, SendStatus::FlushSlaveTimeout),
        ] {
            let stage = TwoBrokers::first_is(move |request, peer| {
                peer.answer(request, code, &stored_fields(request, 5), b"");
            });
            let producer = stage.builder().start().unwrap();
            let result = producer.send(&message("orders")).expect("it is stored");
            assert_eq!(
                (result.status, result.queue_offset, result.attempts),
                (status, 5, 1)
            );
            assert_eq!(stage.sends(), 1, "stored is stored: no second copy");
        }
    });
}

#[test]
fn on_request_a_less_safely_stored_message_is_sent_to_another_broker_too() {
    within(PATIENCE, || {
        for asynchronous in [false, true] {
            let stage = TwoBrokers::first_is(|request, peer| {
                peer.answer(request, 10, &stored_fields(request, 5), b"");
            });
            let producer = stage
                .builder()
                .retry_another_broker_when_not_store_ok(true)
                .start()
                .unwrap();
            let result = if asynchronous {
                send_async_and_wait(&producer, message("orders")).unwrap()
            } else {
                producer.send(&message("orders")).unwrap()
            };
            assert_eq!((result.status, result.queue_offset), (SendStatus::SendOk, 7));
            assert!(result.may_be_duplicated, "{result:?}");
            assert_eq!(stage.brokers.each_ref().map(FakeServer::sends), [1, 1]);
        }
    });
}

#[test]
fn the_stored_copy_counts_when_the_retry_fails() {
    within(PATIENCE, || {
        let stage = TwoBrokers::of([10, 14].map(|code| {
            FakeServer::broker(move |request, peer| {
                peer.answer(request, code, &stored_fields(request, 5), b"");
            })
        }));
        let producer = stage
            .builder()
            .retry_another_broker_when_not_store_ok(true)
            .start()
            .unwrap();
        for _ in 0..4 {
            let result = producer.send(&message("orders")).expect("one copy is stored");
            assert_eq!(result.status, SendStatus::FlushDiskTimeout, "{result:?}");
            assert_eq!(result.queue.broker_name(), "broker-a");
        }
    });
}

#[test]
fn one_slow_broker_gets_one_copy_and_the_whole_time() {
    within(PATIENCE, || {
        for asynchronous in [false, true] {
            let broker = FakeServer::broker(|request, peer| {
                let (request, peer) = (request.clone(), peer.clone());
                thread::spawn(move || {
                    thread::sleep(milliseconds(1200));
                    peer.stored(&request, 7);
                });
            });
            let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
            let producer = producer_for(name_server.address()).start().unwrap();
            let (result, took) = timed(|| either_way(&producer, &message("orders"), asynchronous));
            let result = result.expect("it answers within the time of the send");
            assert_eq!((result.attempts, result.may_be_duplicated), (1, false));
            assert_took(took, milliseconds(1200), milliseconds(1200) + GRACE);
            assert_eq!(broker.sends(), 1);
        }
    });
}

#[test]
fn a_late_answer_of_the_first_broker_counts_while_the_second_is_silent() {
    within(PATIENCE, || {
        for asynchronous in [false, true] {
            let (hold, requests) = mpsc::channel();
            let stage = TwoBrokers::of([(), ()].map(|()| {
                let hold = hold.clone();
                FakeServer::broker(move |request, peer| hold.send((request.clone(), peer.clone())).unwrap())
            }));
            // The first is answered after 1.2 s, but not before the second has been asked.
            let answering = thread::spawn(move || {
                let (request, peer) = requests.recv_timeout(PATIENCE).unwrap();
                thread::sleep(milliseconds(1200));
                let second = requests.recv_timeout(PATIENCE).unwrap();
                peer.stored(&request, 5);
                second
            });
            let producer = stage.builder().start().unwrap();
            let (result, took) = timed(|| either_way(&producer, &message("orders"), asynchronous));
            let result = result.expect("the first attempt is answered");
            assert_eq!((result.queue_offset, result.attempts), (5, 2));
            assert!(result.may_be_duplicated, "{result:?}");
            assert_took(took, milliseconds(1200), milliseconds(1200) + GRACE);
            assert_eq!(stage.sends(), 2);
            answering.join().unwrap();
        }
    });
}

#[test]
fn a_late_stored_answer_wins_over_a_refusal_in_between() {
    within(PATIENCE, || {
        for asynchronous in [false, true] {
            let (hold, requests) = mpsc::channel();
            let chosen = Arc::new(Mutex::new(None));
            let stage = TwoBrokers::of([0, 1].map(|index| {
                let (chosen, hold) = (Arc::clone(&chosen), hold.clone());
                FakeServer::broker(move |request, peer| {
                    if *chosen.lock().unwrap().get_or_insert(index) == index {
                        hold.send((request.clone(), peer.clone())).unwrap();
                    } else {
                        peer.refuse(request, 13, "too long");
                    }
                })
            }));
            let producer = stage.builder().send_timeout(milliseconds(1200)).start().unwrap();
            let sending = {
                let producer = producer.clone();
                thread::spawn(move || either_way(&producer, &message("orders"), asynchronous))
            };
            let (request, peer) = requests.recv_timeout(PATIENCE).expect("the first attempt comes");
            for broker in &stage.brokers {
                broker.wait_until(PATIENCE, |log| log.count(SEND_MESSAGE_V2) == 1);
            }
            peer.stored(&request, 5);
            let result = sending.join().unwrap().expect("the first broker has stored it");
            assert_eq!(result.queue_offset, 5);
        }
    });
}

#[test]
fn when_all_attempts_fail_each_is_listed() {
    within(PATIENCE, || {
        let stage = TwoBrokers::of(
            [2, 14]
                .map(|code| FakeServer::broker(move |request, peer| peer.refuse(request, code, "not now"))),
        );
        let producer = stage.builder().start().unwrap();
        for asynchronous in [false, true] {
            let error = either_way(&producer, &message("orders"), asynchronous).expect_err("all refuse");
            assert_eq!(error.delivery(), Delivery::Refused);
            let brokers: Vec<_> = error
                .attempts()
                .iter()
                .map(|a| a.broker_name.to_string())
                .collect();
            assert_eq!(brokers.len(), 3, "{error:?}");
            assert_ne!(brokers[0], brokers[1], "the second attempt goes elsewhere");
            assert_ne!(brokers[1], brokers[2], "and so does the third");
            let addresses = stage
                .brokers
                .each_ref()
                .map(|broker| broker.address().to_string());
            assert_says(
                &error,
                &[
                    "topic orders",
                    "3 attempts",
                    &addresses[0],
                    &addresses[1],
                    "not now",
                ],
            );
        }
        assert_eq!(stage.sends(), 6);
    });
}

#[test]
fn retries_can_be_switched_off_for_each_way_of_sending() {
    within(PATIENCE, || {
        let stage = TwoBrokers::of(
            [2, 2].map(|code| FakeServer::broker(move |request, peer| peer.refuse(request, code, "busy"))),
        );
        let producer = stage.builder().retries(0).async_retries(1).start().unwrap();
        for (asynchronous, attempts) in [(false, 1), (true, 2)] {
            let error = either_way(&producer, &message("orders"), asynchronous).expect_err("both refuse");
            assert_eq!(error.attempts().len(), attempts, "{error:?}");
        }
        assert_eq!(stage.sends(), 3);
    });
}

#[test]
fn with_all_brokers_silent_the_deadline_holds_and_the_outcome_is_open() {
    within(PATIENCE, || {
        let stage = TwoBrokers::of([(), ()].map(|()| FakeServer::broker(|_, _| {})));
        let timeout = milliseconds(600);
        let producer = stage.builder().send_timeout(timeout).start().unwrap();
        for asynchronous in [false, true] {
            let (result, took) = timed(|| either_way(&producer, &message("orders"), asynchronous));
            let error = result.expect_err("nobody answers");
            assert_took(took, timeout, timeout + GRACE);
            assert_eq!(error.delivery(), Delivery::Unknown, "{error:?}");
            assert_eq!(error.attempts().len(), 2, "no third copy: {error:?}");
            for attempt in error.attempts() {
                assert!(attempt.error.is_timeout(), "{attempt}");
            }
        }
    });
}

#[test]
fn answers_of_two_attempts_at_the_same_time_make_one_success() {
    within(PATIENCE, || {
        // The first attempt's share is over at a third of the time; when the second attempt comes, both are answered.
        let (hold, requests) = mpsc::channel();
        let stage = TwoBrokers::of([(), ()].map(|()| {
            let hold = hold.clone();
            FakeServer::broker(move |request, peer| hold.send((request.clone(), peer.clone())).unwrap())
        }));
        let answering = thread::spawn(move || {
            let mut waiting: Vec<(Request, Peer)> = Vec::new();
            let mut go = Vec::new();
            for (request, peer) in requests {
                let same = |(other, _): &(Request, Peer)| other.body == request.body;
                let Some(index) = waiting.iter().position(same) else {
                    waiting.push((request, peer));
                    continue;
                };
                let pair = [waiting.swap_remove(index), (request, peer)];
                // Two threads, so that two readers see the answers at the same time.
                let barrier = Arc::new(std::sync::Barrier::new(2));
                for (request, peer) in pair {
                    let barrier = Arc::clone(&barrier);
                    go.push(thread::spawn(move || {
                        barrier.wait();
                        peer.stored(&request, 5);
                    }));
                }
            }
            for thread in go {
                thread.join().unwrap();
            }
        });
        let producer = stage.builder().start().unwrap();
        let (done, outcomes) = mpsc::channel::<Outcome>();
        let count = 100;
        for number in 0..count {
            let done = done.clone();
            let message = Message::new("orders", format!("{number}")).unwrap();
            producer.send_async(message, move |outcome| done.send(outcome).unwrap());
        }
        for _ in 0..count {
            let outcome = outcomes.recv_timeout(PATIENCE).expect("every callback comes");
            let result = outcome.expect("both attempts are stored");
            assert_eq!(result.queue_offset, 5);
        }
        drop(producer);
        assert_eq!(outcomes.try_iter().count(), 0, "no callback comes twice");
        drop((stage, hold));
        answering.join().unwrap();
    });
}

#[track_caller]
fn either_way(
    producer: &Producer,
    message: &Message,
    asynchronous: bool,
) -> Result<rocketmq_producer::SendResult, Error> {
    if asynchronous {
        send_async_and_wait(producer, message.clone()).map_err(|failure| failure.error)
    } else {
        producer.send(message)
    }
}

#[test]
fn an_answer_that_comes_while_another_broker_is_connected_to_ends_the_send() {
    within(PATIENCE, || {
        // The first one answers when its share of the time is over, and the second cannot be connected to for long.
        let asked = Arc::new(Mutex::new(None));
        let brokers = [0, 1].map(|_| {
            FakeServer::broker(|request, peer| {
                thread::sleep(milliseconds(1000));
                peer.stored(request, 7);
            })
        });
        let stage = TwoBrokers::of(brokers);
        let brokers = stage
            .brokers
            .each_ref()
            .map(|broker| broker.address().to_string());
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let producer = stage
            .builder()
            .send_timeout(milliseconds(2400))
            .address_map(move |address| {
                if brokers.iter().any(|broker| broker == address)
                    && asked.lock().unwrap().get_or_insert(address.to_owned()) != address
                {
                    blocked.lock().unwrap().recv().ok();
                }
                None
            })
            .start()
            .unwrap();
        let (result, took) = timed(|| producer.send(&message("orders")).unwrap());
        assert_took(took, milliseconds(1000), milliseconds(2000));
        assert_eq!((result.attempts, result.may_be_duplicated), (2, false));
        assert_eq!(stage.sends(), 1);
        drop(release);
    });
}
