//! A broker that is down, silent, cut off, or answers nonsense: the error says which address, which topic, what was waited
//! for and how long, what may have become of the message, and comes within the send's own time. Later sends are unharmed.

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
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use rocketmq_producer::{Delivery, Error, Message, Phase, Producer, ProducerBuilder, ResponseCode, Written};
use serde_json::json;
use support::{
    GRACE, PATIENCE, assert_says, assert_took, both_ways,
    fake_server::{FakeServer, Peer, RefusingAddress, Request, answer, frame, stored, stored_fields},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

/// Well before the send's own time of 3 s is over.
const AT_ONCE: Duration = Duration::from_secs(2);

/// One bad broker with its name server, and the producer of a test.
struct Stage {
    broker: FakeServer,
    name_server: FakeServer,
    healed: Arc<AtomicBool>,
}

impl Stage {
    /// A broker that treats sends so until it is healed, and then stores them.
    fn new(on_send: impl Fn(&Request, &Peer) + Send + Sync + 'static) -> Stage {
        let healed = Arc::new(AtomicBool::new(false));
        let is_healed = Arc::clone(&healed);
        Self::with(
            healed,
            FakeServer::broker(move |request, peer| {
                if is_healed.load(Ordering::SeqCst) {
                    peer.stored(request, 7);
                } else {
                    on_send(request, peer);
                }
            }),
        )
    }

    fn with(healed: Arc<AtomicBool>, broker: FakeServer) -> Stage {
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        Stage {
            broker,
            name_server,
            healed,
        }
    }

    /// One attempt per send, so that the error is that of this attempt.
    fn builder(&self) -> ProducerBuilder {
        producer_for(self.name_server.address())
            .retries(0)
            .async_retries(0)
    }

    fn address(&self) -> String {
        self.broker.address().to_string()
    }

    /// From now on the broker is well, and so must be the sends of the same producer.
    #[track_caller]
    fn assert_heals(&self, producer: &Producer) {
        self.healed.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            let (result, took) = timed(|| producer.send(&message("orders")));
            assert_eq!(result.expect("the broker is well").queue_offset, 7);
            assert_took(took, Duration::ZERO, AT_ONCE);
        }
        send_async_and_wait(producer, message("orders")).expect("the broker is well");
    }
}

/// The error of the only attempt of a failed send. The account of the send names topic and broker.
#[track_caller]
fn only_attempt(error: &Error) -> &Error {
    assert_says(error, &["topic orders", "attempt", "broker-a#"]);
    let (last, before) = error.attempts().split_last().expect("an attempt was made");
    // An address that was not dialled, since it had failed a moment ago, is in the account and costs no attempt.
    for attempt in before {
        assert_says(&attempt.error, &["remembered from"]);
    }
    &last.error
}

/// Blocking and asynchronous sends fail at once and alike, with this verdict and an error that says all of this. Then the
/// broker is healed.
#[track_caller]
fn assert_fails_at_once_then_heals(
    on_send: impl Fn(&Request, &Peer) + Send + Sync + 'static,
    delivery: Delivery,
    says: &[&str],
) {
    let stage = Stage::new(on_send);
    let producer = stage.builder().start().unwrap();
    let (errors, took) = timed(|| both_ways(&producer, &message("orders")));
    assert_took(took, Duration::ZERO, AT_ONCE);
    for error in errors {
        assert_eq!(error.delivery(), delivery, "{error:?}");
        assert_says(only_attempt(&error), &[&stage.address()]);
        assert_says(&error, says);
    }
    stage.assert_heals(&producer);
}

#[test]
fn a_broker_that_is_down_is_named_at_once() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let name_server = FakeServer::name_server(&[("broker-a", down.address())]);
        let producer = producer_for(name_server.address())
            .retries(0)
            .async_retries(0)
            .start()
            .unwrap();
        let (errors, took) = timed(|| both_ways(&producer, &message("orders")));
        assert_took(took, Duration::ZERO, AT_ONCE);
        let address = down.address().to_string();
        for error in errors {
            assert_eq!(error.delivery(), Delivery::NotStored, "{error:?}");
            let attempt = only_attempt(&error);
            assert!(matches!(attempt, Error::Connect { .. }), "{attempt:?}");
            assert_says(attempt, &["cannot connect to", &address, "refused"]);
        }
        let oneway = producer
            .send_oneway(&message("orders"))
            .expect_err("nobody is there");
        assert_says(&oneway, &["cannot connect to", &address, "refused"]);
        assert_eq!(oneway.delivery(), Delivery::NotStored);
    });
}

#[test]
fn a_silent_broker_costs_the_sends_own_time_and_leaves_the_outcome_open() {
    within(PATIENCE, || {
        let stage = Stage::new(|_, _| {});
        let producer = stage.builder().send_timeout(milliseconds(300)).start().unwrap();
        let (errors, took) = timed(|| both_ways(&producer, &message("orders")));
        assert_took(took, milliseconds(600), milliseconds(600) + GRACE);
        for error in errors {
            assert_eq!(error.delivery(), Delivery::Unknown, "{error:?}");
            assert!(error.is_timeout());
            let attempt = only_attempt(&error);
            assert_says(
                attempt,
                &["waiting for the reply", &stage.address(), "fully written"],
            );
            let Error::Timeout { phase, waited, .. } = attempt else {
                panic!("{attempt:?}");
            };
            assert_eq!(*phase, Phase::Reply);
            assert_took(*waited, milliseconds(200), milliseconds(300) + GRACE);
        }
        stage.assert_heals(&producer);
    });
}

#[test]
fn a_time_of_its_own_counts_for_one_send_only() {
    within(PATIENCE, || {
        let stage = Stage::new(|_, _| {});
        let producer = stage.builder().start().unwrap();
        let (result, took) = timed(|| producer.timeout(milliseconds(150)).send(&message("orders")));
        let error = result.expect_err("nobody answers");
        assert_took(took, milliseconds(150), milliseconds(150) + GRACE);
        assert_says(only_attempt(&error), &["waiting for the reply"]);
        stage.assert_heals(&producer);
    });
}

#[test]
fn a_peer_that_has_gone_without_a_word_is_given_up_with_the_first_send_that_hears_nothing() {
    within(PATIENCE, || {
        // On the first connection one send is answered, and then nothing any more, heartbeats included.
        let stage = Stage::with(
            Arc::default(),
            FakeServer::start(|request, peer| {
                if request.body == b"first" || request.connection > 0 {
                    peer.stored(request, 7);
                }
            }),
        );
        let timeout = milliseconds(800);
        let producer = stage.builder().send_timeout(timeout).start().unwrap();
        let first = Message::new("orders", "first").unwrap();
        producer.send(&first).expect("it is answered");
        let (result, took) = timed(|| producer.send(&message("orders")));
        result.expect_err("nobody answers");
        assert_took(took, timeout, timeout + GRACE);
        producer
            .send(&message("orders"))
            .expect("it goes over a new connection");
        assert_eq!(stage.broker.log(|log| log.accepted), 2);
    });
}

#[test]
fn a_slow_answer_does_not_cost_the_connection() {
    within(PATIENCE, || {
        // Sends are never answered, but heartbeats are: the peer lives.
        let stage = Stage::new(|_, _| {});
        let producer = stage
            .builder()
            .heartbeat_interval(milliseconds(50))
            .start()
            .unwrap();
        for _ in 0..3 {
            producer
                .timeout(milliseconds(200))
                .send(&message("orders"))
                .expect_err("nobody answers");
        }
        stage.assert_heals(&producer);
        assert_eq!(stage.broker.log(|log| log.accepted), 1);
    });
}

#[test]
fn a_connection_closed_after_the_request_leaves_the_outcome_open() {
    within(PATIENCE, || {
        assert_fails_at_once_then_heals(
            |_, peer| peer.close(),
            Delivery::Unknown,
            &["lost", "fully written", "closed the connection"],
        );
    });
}

#[test]
fn a_connection_closed_on_arrival_is_told_at_once() {
    within(PATIENCE, || {
        let stage = Stage::with(Arc::default(), FakeServer::raw(|_| {}));
        let producer = stage.builder().start().unwrap();
        let (errors, took) = timed(|| both_ways(&producer, &message("orders")));
        assert_took(took, Duration::ZERO, AT_ONCE);
        let [first, second] = errors.each_ref().map(only_attempt);
        assert!(matches!(first, Error::ConnectionLost { .. }), "{first:?}");
        assert_says(first, &["lost", &stage.address()]);
        // The second comes too early for another try, and is told what is remembered.
        if matches!(second, Error::Connect { .. }) {
            let told = ["before it had said anything", "remembered from"];
            assert_says(second, &told);
        }
        assert_says(second, &[&stage.address()]);
    });
}

#[test]
fn an_answer_that_is_cut_short_leaves_the_outcome_open() {
    within(PATIENCE, || {
        let whole = answer(
            1,
            0,
            "",
            &json!({"msgId": "x", "queueId": "0", "queueOffset": "7"}),
            b"",
        )
        .len();
        for length in [1, 3, 4, 7, 8, whole / 2, whole - 1] {
            assert_fails_at_once_then_heals(
                move |request, peer| {
                    peer.write(&stored(request, 7)[..length]);
                    peer.close();
                },
                Delivery::Unknown,
                &["lost", "fully written", "closed the connection"],
            );
        }
    });
}

#[test]
fn half_an_answer_without_an_end_does_not_poison_the_next_send() {
    within(PATIENCE, || {
        let stage = Stage::new(|request, peer| {
            if request.body == b"first" {
                peer.stored(request, 1);
            } else {
                peer.write(&stored(request, 7)[..40]);
            }
        });
        let timeout = milliseconds(800);
        let producer = stage.builder().send_timeout(timeout).start().unwrap();
        let first = Message::new("orders", "first").unwrap();
        producer.send(&first).expect("it is answered");
        let (result, took) = timed(|| producer.send(&message("orders")));
        let error = result.expect_err("only half of the answer comes");
        assert_took(took, timeout, timeout + GRACE);
        assert_eq!(error.delivery(), Delivery::Unknown);
        assert_says(only_attempt(&error), &[&stage.address()]);
        stage.assert_heals(&producer);
    });
}

#[test]
fn what_is_not_the_protocol_is_told_at_once() {
    within(PATIENCE, || {
        let two_gib = [&i32::MAX.to_be_bytes()[..], &[0; 64]].concat();
        let negative = [&i32::MIN.to_be_bytes()[..], &[0; 64]].concat();
        let cases: [(Vec<u8>, &str); 8] = [
            (two_gib, "frame length 2147483647 is over the limit"),
            (negative, "is negative"),
            (vec![0; 64], "frame length 0"),
            (vec![0, 0, 0, 20, 9, 0, 0, 2], "unknown serialization type 9"),
            (vec![0xAB; 64], "broke the protocol"),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                "looks like an HTTP answer",
            ),
            (vec![21, 3, 3, 0, 2, 2, 10], "looks like a TLS alert"),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "looks like an SSH server"),
        ];
        for (bytes, says) in cases {
            assert_fails_at_once_then_heals(
                move |_, peer| peer.write(&bytes),
                Delivery::Unknown,
                &["broke the protocol", "fully written", says],
            );
        }
    });
}

#[test]
fn a_stored_answer_without_its_fields_is_open_and_nothing_is_made_up() {
    within(PATIENCE, || {
        let without = |name: &'static str, instead: Option<&'static str>| {
            move |request: &Request, peer: &Peer| {
                let mut fields = stored_fields(request, 7);
                let map = fields.as_object_mut().unwrap();
                map.remove(name);
                map.extend(instead.map(|value| (name.to_owned(), json!(value))));
                peer.answer(request, 0, &fields, b"");
            }
        };
        for (name, instead) in [
            ("queueOffset", None),
            ("queueOffset", Some("seven")),
            ("queueOffset", Some("-1")),
            ("queueOffset", Some("")),
            ("queueOffset", Some("99999999999999999999")),
            ("queueId", None),
            ("queueId", Some("-1")),
            ("queueId", Some("x")),
            ("msgId", None),
        ] {
            assert_fails_at_once_then_heals(
                without(name, instead),
                Delivery::Unknown,
                &["broke the protocol", "fully written", "0 SUCCESS", name],
            );
        }
        let no_fields_at_all = |request: &Request, peer: &Peer| {
            let header = json!({"code": 0, "opaque": request.opaque(), "flag": 1});
            peer.write(&frame(&header, b""));
        };
        assert_fails_at_once_then_heals(no_fields_at_all, Delivery::Unknown, &["broke the protocol"]);
    });
}

#[test]
fn a_refusal_quotes_the_broker_and_says_whether_the_message_may_be_stored() {
    within(PATIENCE, || {
        for (code, remark, delivery) in [
            (1, "UNKNOWN_ERROR", Delivery::Unknown),
            (1, "[PC_SYNCHRONIZED]broker busy", Delivery::Refused),
            (2, "[TIMEOUT_CLEAN_QUEUE]broker busy", Delivery::Refused),
            (3, "request type 310 not supported", Delivery::Refused),
            (13, "the message is illegal", Delivery::Refused),
            (14, "service not available now", Delivery::Refused),
            (
                16,
                "the broker[10.0.0.1] sending message is forbidden",
                Delivery::Refused,
            ),
            (17, "topic[orders] not exist", Delivery::Refused),
            (26, "subscription group not exist", Delivery::Refused),
            (4711, "never heard of", Delivery::Unknown),
            (-1, "", Delivery::Unknown),
        ] {
            assert_fails_at_once_then_heals(
                move |request, peer| peer.refuse(request, code, remark),
                delivery,
                &[&format!("answered {code}"), remark],
            );
        }
    });
}

#[test]
fn the_code_of_a_refusal_is_there_for_programs() {
    within(PATIENCE, || {
        let stage = Stage::new(|request, peer| peer.refuse(request, 13, "too\r\nlong\u{1b}[31m"));
        let producer = stage.builder().start().unwrap();
        let error = producer.send(&message("orders")).expect_err("it is refused");
        assert_eq!(error.response_code(), Some(ResponseCode::MESSAGE_ILLEGAL));
        assert_says(&error, &["too\\r\\nlong\\u{1b}[31m"]);
    });
}

#[test]
fn a_repeated_answer_counts_once() {
    within(PATIENCE, || {
        let stage = Stage::new(|request, peer| {
            let twice = [stored(request, 1), stored(request, 2), stored(request, 3)].concat();
            peer.write(&twice);
        });
        let producer = stage.builder().start().unwrap();
        for _ in 0..20 {
            assert_eq!(producer.send(&message("orders")).unwrap().queue_offset, 1);
            let result = send_async_and_wait(&producer, message("orders")).unwrap();
            assert_eq!((result.queue_offset, result.may_be_duplicated), (1, false));
        }
        assert_eq!(stage.broker.log(|log| log.accepted), 1, "the connection lives on");
    });
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    within(PATIENCE, || {
        let stage = Stage::new(|request, peer| {
            for opaque in [
                0,
                -1,
                i64::from(i32::MIN),
                i64::from(i32::MAX),
                request.opaque() + 4096,
            ] {
                peer.write(&answer(opaque, 0, "", &stored_fields(request, 99), b""));
            }
            peer.stored(request, 1);
        });
        let producer = stage.builder().start().unwrap();
        for _ in 0..5 {
            assert_eq!(producer.send(&message("orders")).unwrap().queue_offset, 1);
            let result = send_async_and_wait(&producer, message("orders")).unwrap();
            assert_eq!(result.queue_offset, 1);
        }
        assert_eq!(stage.broker.log(|log| log.accepted), 1, "the connection lives on");
    });
}

#[test]
fn an_answer_after_the_time_is_over_is_dropped() {
    within(PATIENCE, || {
        let (late, requests) = mpsc::channel();
        let stage = Stage::new(move |request, peer| late.send((request.clone(), peer.clone())).unwrap());
        let producer = stage.builder().start().unwrap();
        let brief = producer.timeout(milliseconds(100));
        brief.send(&message("orders")).expect_err("the answer is late");
        let (done, outcome) = mpsc::channel();
        brief.send_async(message("orders"), move |result| done.send(result).unwrap());
        outcome
            .recv_timeout(PATIENCE)
            .unwrap()
            .expect_err("the answer is late");
        // Both answers come now, in front of that to the next send.
        for (request, peer) in requests.try_iter() {
            peer.stored(&request, 1);
        }
        stage.assert_heals(&producer);
        assert_eq!(outcome.try_iter().count(), 0, "no second outcome");
        assert_eq!(stage.broker.log(|log| log.accepted), 1, "the connection lives on");
    });
}

#[test]
fn a_request_of_the_broker_is_declined_and_completes_no_send() {
    within(PATIENCE, || {
        // Before it answers a send, the broker asks something of its own under the same number, one-way and two-way.
        let stage = Stage::new(|request, peer| {
            let question = |code: i32, flag: i32| {
                let header = json!({
                    "code": code, "language": "JAVA", "version": 355, "opaque": request.opaque(), "flag": flag,
                    "extFields": stored_fields(request, 99)
                });
                frame(&header, b"body of the question")
            };
            peer.write(&question(39, 2));
            peer.write(&question(40, 2));
            peer.write(&question(39, 0));
            peer.write(&question(4711, 0));
            peer.stored(request, 1);
        });
        let producer = stage.builder().start().unwrap();
        let result = producer.send(&message("orders")).unwrap();
        assert_eq!(result.queue_offset, 1, "the question is no answer");
        let is_answer = |request: &&Request| request.is_response();
        stage
            .broker
            .wait_until(PATIENCE, |log| log.requests.iter().filter(is_answer).count() == 2);
        let result = send_async_and_wait(&producer, message("orders")).unwrap();
        assert_eq!(result.queue_offset, 1, "the question is no answer");
        stage
            .broker
            .wait_until(PATIENCE, |log| log.requests.iter().filter(is_answer).count() == 4);
        let opaques: Vec<_> = stage.broker.log(|log| {
            let sends = log.of(support::fake_server::SEND_MESSAGE_V2);
            sends.map(Request::opaque).collect()
        });
        let answers: Vec<_> = stage
            .broker
            .log(|log| log.requests.iter().filter(is_answer).cloned().collect());
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(
                (answer.code(), answer.opaque()),
                (3, opaques[number / 2]),
                "{answer:?}"
            );
            let remark = answer.header["remark"].as_str().unwrap_or("");
            assert!(remark.contains("not supported"), "{answer:?}");
        }
    });
}

#[test]
fn a_flood_of_requests_from_the_broker_harms_no_send() {
    within(PATIENCE, || {
        let stage = Stage::new(|request, peer| {
            let header = json!({"code": 40, "opaque": 1, "flag": 0, "extFields": {}});
            peer.write(&frame(&header, b"").repeat(2_000));
            peer.stored(request, 1);
        });
        let producer = stage.builder().send_timeout(PATIENCE).start().unwrap();
        for _ in 0..3 {
            assert_eq!(producer.send(&message("orders")).unwrap().queue_offset, 1);
        }
    });
}

#[test]
fn an_answer_in_single_bytes_is_read_like_any_other() {
    within(PATIENCE, || {
        let stage = Stage::new(|request, peer| {
            for byte in stored(request, 1) {
                peer.write(&[byte]);
            }
        });
        let producer = stage.builder().start().unwrap();
        for _ in 0..10 {
            assert_eq!(producer.send(&message("orders")).unwrap().queue_offset, 1);
        }
    });
}

#[test]
fn brokers_that_hang_up_are_not_dialled_more_often_than_there_are_attempts() {
    within(PATIENCE, || {
        let stage = Stage::with(Arc::default(), FakeServer::raw(|_| {}));
        let producer = stage.builder().start().unwrap();
        let failed = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let failed = Arc::clone(&failed);
                let producer = &producer;
                scope.spawn(move || {
                    for _ in 0..5 {
                        producer.send(&message("orders")).expect_err("it hangs up");
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let dials = stage.broker.log(|log| log.accepted);
        assert!(
            dials <= failed.load(Ordering::SeqCst),
            "{dials} dials for {failed:?} attempts"
        );
    });
}

#[test]
fn what_was_written_is_said_in_the_error() {
    within(PATIENCE, || {
        let stage = Stage::new(|_, peer| peer.close());
        let producer = stage.builder().start().unwrap();
        let error = producer.send(&message("orders")).expect_err("it hangs up");
        let attempt = only_attempt(&error);
        assert!(
            matches!(
                attempt,
                Error::ConnectionLost {
                    written: Written::All,
                    ..
                }
            ),
            "{attempt:?}"
        );
    });
}
