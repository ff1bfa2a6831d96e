//! A name server that is down, silent, none at all, or answers nonsense: the error says which address, which topic, what
//! was waited for and how long, comes within the send's own time, and the next send is unharmed.

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
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rocketmq_producer::{Delivery, Error, Phase, mock::MockCluster};
use serde_json::json;
use support::{
    GRACE, PATIENCE, assert_says, assert_took, both_ways,
    fake_server::{FakeServer, GET_ROUTE, RefusingAddress, answer, route_body},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

/// Well before the send's own time of 3 s is over.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A name server that answers each look-up with these bytes, made for the request's opaque, until it is healed.
struct Patient {
    server: FakeServer,
    healed: Arc<AtomicBool>,
}

impl Patient {
    fn new(
        broker: SocketAddr,
        bytes: impl Fn(i64) -> Vec<u8> + Send + Sync + 'static,
        then_closes: bool,
    ) -> Patient {
        let healed = Arc::new(AtomicBool::new(false));
        let is_healed = Arc::clone(&healed);
        let route = route_body(&[("broker-a", broker)]);
        let server = FakeServer::start(move |request, peer| {
            if is_healed.load(Ordering::SeqCst) {
                return peer.answer(request, 0, &json!({}), &route);
            }
            peer.write(&bytes(request.opaque()));
            if then_closes {
                peer.close();
            }
        });
        Patient { server, healed }
    }
}

/// The look-up fails with an error that says all of this, at once and not when the time is over; every verb says the same.
/// Then the name server is healed, and the same producer sends.
#[track_caller]
fn assert_fails_then_heals(
    bytes: impl Fn(i64) -> Vec<u8> + Send + Sync + 'static,
    closes: bool,
    says: &[&str],
) {
    let broker = FakeServer::healthy_broker();
    let patient = Patient::new(broker.address(), bytes, closes);
    let address = patient.server.address().to_string();
    let producer = producer_for(&address).start().unwrap();
    let (errors, took) = timed(|| both_ways(&producer, &message("orders")));
    let oneway = producer.send_oneway(&message("orders")).expect_err("no route");
    for error in errors.into_iter().chain([oneway]) {
        assert!(matches!(error, Error::NameServersUnreachable { .. }), "{error:?}");
        assert_eq!(error.delivery(), Delivery::NotStored);
        assert_says(&error, &["topic orders", "route", &address, "within"]);
        assert_says(&error, says);
    }
    assert_took(took, Duration::ZERO, AT_ONCE);
    patient.healed.store(true, Ordering::SeqCst);
    producer
        .send(&message("orders"))
        .expect("the name server is well again");
    send_async_and_wait(&producer, message("orders")).expect("the name server is well again");
    producer
        .send_oneway(&message("orders"))
        .expect("the name server is well again");
}

#[test]
fn a_name_server_that_is_down_is_named_at_once() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let producer = producer_for(down.address()).start().unwrap();
        let (errors, took) = timed(|| both_ways(&producer, &message("orders")));
        for error in errors {
            assert!(matches!(error, Error::NameServersUnreachable { .. }), "{error:?}");
            assert_says(
                &error,
                &[
                    "topic orders",
                    &format!("cannot connect to {}", down.address()),
                    "refused",
                ],
            );
        }
        assert_took(took, Duration::ZERO, AT_ONCE);
    });
}

#[test]
fn a_silent_name_server_costs_the_sends_own_time_and_no_more() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let address = silent.address().to_string();
        let producer = producer_for(&address)
            .send_timeout(milliseconds(300))
            .name_server_timeout(PATIENCE)
            .start()
            .unwrap();
        let ([blocking, from_callback], took) = timed(|| both_ways(&producer, &message("orders")));
        assert_took(took, milliseconds(600), milliseconds(600) + GRACE);
        let (oneway, took) = timed(|| producer.send_oneway(&message("orders")).expect_err("no route"));
        assert_took(took, milliseconds(300), milliseconds(300) + GRACE);
        let (listing, took) = timed(|| producer.publish_queues("orders").expect_err("no route"));
        assert_took(took, milliseconds(300), milliseconds(300) + GRACE);
        for error in [blocking, from_callback, oneway, listing] {
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
            assert_eq!(error.delivery(), Delivery::NotStored);
            assert_says(
                &error,
                &["topic orders", &address, "waiting for the topic route", "ms"],
            );
        }
        assert_eq!(
            silent.log(|log| log.count(GET_ROUTE)),
            1,
            "all of them share one look-up"
        );
    });
}

#[test]
fn a_look_up_has_a_time_of_its_own() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let address = silent.address().to_string();
        let producer = producer_for(&address)
            .name_server_timeout(milliseconds(200))
            .start()
            .unwrap();
        for error in both_ways(&producer, &message("orders")) {
            assert_says(
                &error,
                &[
                    "topic orders",
                    &address,
                    "waiting for the topic route",
                    "time over after",
                ],
            );
            let Error::NameServersUnreachable { waited, .. } = error else {
                panic!("{error:?}");
            };
            assert_took(waited, milliseconds(200), milliseconds(200) + GRACE);
        }
        let asked: Vec<_> =
            silent.log(|log| log.of(GET_ROUTE).map(|r| r.field("topic").to_owned()).collect());
        assert!(
            asked.iter().all(|topic| topic == "orders"),
            "only an answer leads to the template topic, never silence: {asked:?}"
        );
    });
}

#[test]
fn a_name_server_that_has_gone_without_a_word_gets_a_new_connection() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let route = route_body(&[("broker-a", broker.address())]);
        let server = FakeServer::start(move |request, peer| {
            if request.connection > 0 {
                peer.answer(request, 0, &json!({}), &route);
            }
        });
        let producer = producer_for(server.address())
            .name_server_timeout(milliseconds(300))
            .start()
            .unwrap();
        let error = producer.send(&message("orders")).expect_err("nobody answers");
        assert_says(&error, &["time over", &server.address().to_string()]);
        producer
            .send(&message("orders"))
            .expect("it is asked over a new connection");
        assert_eq!(server.log(|log| log.accepted), 2);
    });
}

#[test]
fn an_http_server_is_recognised() {
    within(PATIENCE, || {
        let http = |_| b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
        assert_fails_then_heals(http, true, &["looks like an HTTP answer", "right port"]);
        // One that keeps the connection open is recognised as early.
        assert_fails_then_heals(http, false, &["looks like an HTTP answer"]);
    });
}

#[test]
fn a_tls_server_is_recognised() {
    within(PATIENCE, || {
        // An alert: fatal, unexpected message.
        let alert = |_| vec![21, 3, 1, 0, 2, 2, 10];
        assert_fails_then_heals(alert, true, &["looks like a TLS alert"]);
        let alert = |_| vec![21, 3, 3, 0, 2, 2, 50];
        assert_fails_then_heals(alert, false, &["looks like a TLS alert"]);
    });
}

#[test]
fn a_reply_that_is_cut_short_is_told_as_such() {
    within(PATIENCE, || {
        let broker: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let route = route_body(&[("broker-a", broker)]);
        let whole = answer(1, 0, "", &json!({}), &route).len();
        for length in [0, 1, 4, 7, 8, 20, whole / 2, whole - 1] {
            let route = route.clone();
            let cut = move |opaque| {
                let mut bytes = answer(opaque, 0, "", &json!({}), &route);
                bytes.truncate(length);
                bytes
            };
            assert_fails_then_heals(cut, true, &["lost", "closed the connection"]);
        }
    });
}

#[test]
fn a_reply_that_claims_2_gib_is_refused_at_once() {
    within(PATIENCE, || {
        let two_gib = |_| [&i32::MAX.to_be_bytes()[..], &[0; 64]].concat();
        assert_fails_then_heals(two_gib, false, &["frame length 2147483647 is over the limit"]);
        let negative = |_| [&(-5_i32).to_be_bytes()[..], &[0; 64]].concat();
        assert_fails_then_heals(negative, false, &["frame length -5 is negative"]);
        // The frame is fine, but not the header that it announces.
        let header_beyond = |_| [&20_i32.to_be_bytes()[..], &[0, 255, 255, 255], &[0; 16]].concat();
        assert_fails_then_heals(header_beyond, false, &["header length 16777215 goes beyond"]);
    });
}

#[test]
fn nonsense_is_refused_at_once() {
    within(PATIENCE, || {
        assert_fails_then_heals(|_| vec![0xEE; 200], false, &["broke the protocol"]);
        assert_fails_then_heals(|_| vec![0; 200], false, &["broke the protocol", "frame length 0"]);
        let not_json = |_| [&12_i32.to_be_bytes()[..], &8_i32.to_be_bytes(), b"not json"].concat();
        assert_fails_then_heals(not_json, false, &["broke the protocol"]);
        let deep = |_| {
            let header = "[".repeat(10_000);
            let length = i32::try_from(header.len()).unwrap();
            [
                &(length + 4).to_be_bytes()[..],
                &length.to_be_bytes(),
                header.as_bytes(),
            ]
            .concat()
        };
        assert_fails_then_heals(deep, false, &["broke the protocol"]);
    });
}

#[test]
fn a_route_that_cannot_be_read_is_told_as_such() {
    within(PATIENCE, || {
        let with_body = |body: &'static str| move |opaque| answer(opaque, 0, "", &json!({}), body.as_bytes());
        let says = ["the topic route cannot be read"];
        assert_fails_then_heals(with_body(""), false, &says);
        assert_fails_then_heals(with_body("null"), false, &says);
        assert_fails_then_heals(with_body("{\"brokerDatas\":["), false, &says);
        assert_fails_then_heals(
            with_body("{\"queueDatas\":[{\"brokerName\":\"a\"}]}"),
            false,
            &says,
        );
        let too_many = r#"{"queueDatas":[{"brokerName":"a","readQueueNums":2000000000,"writeQueueNums":2000000000,"perm":6}]}"#;
        assert_fails_then_heals(with_body(too_many), false, &["the limit of 65536"]);
        let negative =
            r#"{"queueDatas":[{"brokerName":"a","readQueueNums":-1,"writeQueueNums":-1,"perm":6}]}"#;
        assert_fails_then_heals(with_body(negative), false, &says);
        let too_many_brokers = |opaque| {
            let brokers = vec![r#"{"brokerName":"a","brokerAddrs":{"0":"a:1"}}"#; 5_000].join(",");
            answer(
                opaque,
                0,
                "",
                &json!({}),
                format!("{{\"brokerDatas\":[{brokers}]}}").as_bytes(),
            )
        };
        assert_fails_then_heals(too_many_brokers, false, &["more than 4096 brokers"]);
    });
}

#[test]
fn a_name_server_that_refuses_is_quoted() {
    within(PATIENCE, || {
        let refusal = |opaque| answer(opaque, 1, "disk\nfull", &json!({}), b"");
        assert_fails_then_heals(refusal, false, &["answered 1 SYSTEM_ERROR: disk\\nfull"]);
    });
}

#[test]
fn a_topic_that_exists_nowhere_is_named() {
    within(PATIENCE, || {
        let cluster = MockCluster::builder().auto_create_topics(false).start().unwrap();
        cluster.create_topic("orders", 1);
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let (errors, took) = timed(|| both_ways(&producer, &message("nowhere")));
        let oneway = producer.send_oneway(&message("nowhere")).expect_err("no route");
        for error in errors.into_iter().chain([oneway]) {
            assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
            assert_eq!(error.delivery(), Delivery::NotStored);
            assert_says(
                &error,
                &[
                    "no route for topic nowhere",
                    &cluster.name_servers(),
                    "TBW102",
                    "create the topic",
                ],
            );
        }
        assert_took(took, Duration::ZERO, AT_ONCE);
        producer
            .send(&message("orders"))
            .expect("other topics are unharmed");
        cluster.create_topic("nowhere", 1);
        producer.send(&message("nowhere")).expect("it exists now");
    });
}

#[test]
fn a_topic_without_a_usable_broker_is_told_apart() {
    within(PATIENCE, || {
        let slave_only = json!({
            "brokerDatas": [{"cluster": "c", "brokerName": "a", "brokerAddrs": {"1": "127.0.0.1:1"}}],
            "queueDatas": [{"brokerName": "a", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6}]
        });
        let read_only = json!({
            "brokerDatas": [{"cluster": "c", "brokerName": "a", "brokerAddrs": {"0": "127.0.0.1:1"}}],
            "queueDatas": [{"brokerName": "a", "readQueueNums": 4, "writeQueueNums": 4, "perm": 4}]
        });
        for route in [slave_only, read_only, json!({})] {
            let server = FakeServer::start(move |request, peer| {
                peer.answer(request, 0, &json!({}), route.to_string().as_bytes());
            });
            let producer = producer_for(server.address()).start().unwrap();
            for error in both_ways(&producer, &message("orders")) {
                assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
                assert_says(&error, &["topic orders", "master", "write permission"]);
            }
        }
    });
}

/// With one bad server before a good one, the send succeeds, and the good one is asked first from then on.
#[track_caller]
fn assert_the_good_one_answers(bad: &FakeServer) {
    let broker = FakeServer::healthy_broker();
    let good = FakeServer::name_server(&[("broker-a", broker.address())]);
    let producer = producer_for(format!("{};{}", bad.address(), good.address()))
        .name_server_timeout(Duration::from_secs(2))
        .start()
        .unwrap();
    producer
        .send(&message("first"))
        .expect("the second name server answers");
    let asked = bad.log(|log| log.accepted);
    let (second, took) = timed(|| producer.send(&message("second")));
    second.expect("the second name server answers");
    assert_took(took, Duration::ZERO, milliseconds(900));
    assert_eq!(
        bad.log(|log| log.accepted),
        asked,
        "the one that answered is asked first"
    );
    assert_eq!(good.log(|log| log.count(GET_ROUTE)), 2);
}

#[test]
fn another_name_server_answers_for_a_bad_one() {
    within(PATIENCE, || {
        assert_the_good_one_answers(&FakeServer::silent());
        assert_the_good_one_answers(&FakeServer::raw(|_| {}));
        assert_the_good_one_answers(&FakeServer::writing("HTTP/1.1 400 Bad Request\r\n\r\n", true));
        assert_the_good_one_answers(&FakeServer::writing([0, 0, 1, 0, 0, 0, 0, 200, b'{'], false));
        assert_the_good_one_answers(&FakeServer::start(|request, peer| {
            peer.refuse(request, 1, "not now");
        }));
    });
}

#[test]
fn every_name_server_that_was_tried_is_listed() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let silent = FakeServer::silent();
        let http = FakeServer::writing("HTTP/1.1 400 Bad Request\r\n\r\n", true);
        let producer = producer_for(format!(
            "{};{};{}",
            down.address(),
            silent.address(),
            http.address()
        ))
        .name_server_timeout(Duration::from_secs(2))
        .start()
        .unwrap();
        for error in both_ways(&producer, &message("orders")) {
            let addresses = [down.address(), silent.address(), http.address()].map(|a| a.to_string());
            assert_says(&error, &[&addresses[0], &addresses[1], &addresses[2]]);
            assert_says(&error, &["cannot connect", "time over", "HTTP"]);
            let Error::NameServersUnreachable { tried, waited, topic } = &error else {
                panic!("{error:?}");
            };
            assert_eq!((tried.len(), &**topic), (3, "orders"));
            // The silent one had half of the time, since the first was down at once.
            assert_took(*waited, Duration::from_secs(1), Duration::from_secs(2) + GRACE);
        }
    });
}

#[test]
fn sends_go_on_while_all_name_servers_are_down() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .route_refresh_interval(milliseconds(20))
            .name_server_timeout(Duration::from_secs(1))
            .start()
            .unwrap();
        producer.send(&message("orders")).unwrap();
        drop(name_server);
        for _ in 0..50 {
            producer.send(&message("orders")).expect("the route is known");
            // Refreshes fail meanwhile: let a few of them.
            thread::sleep(milliseconds(4));
        }
        let error = producer
            .send(&message("unknown"))
            .expect_err("its route is not known");
        assert!(matches!(error, Error::NameServersUnreachable { .. }), "{error:?}");
    });
}

#[test]
fn many_senders_share_one_look_up() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let route = route_body(&[("broker-a", broker.address())]);
        let (hold, requests) = mpsc::channel();
        let name_server =
            FakeServer::start(move |request, peer| hold.send((request.clone(), peer.clone())).unwrap());
        let producer = producer_for(name_server.address()).start().unwrap();
        let senders: Vec<_> = (0..64)
            .map(|_| {
                let producer = producer.clone();
                thread::spawn(move || producer.send(&message("orders")))
            })
            .collect();
        let (request, peer) = requests.recv_timeout(PATIENCE).expect("the look-up comes");
        peer.answer(&request, 0, &json!({}), &route);
        for sender in senders {
            sender.join().unwrap().expect("the route is known");
        }
        assert_eq!(name_server.log(|log| log.count(GET_ROUTE)), 1);
        assert_eq!(broker.sends(), 64);
    });
}
