//! Brokers that are slow, refuse, are dead, come back or advertise addresses that mean nothing here, and name servers that
//! change: what a producer does about them, as the servers see it.

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
    time::{Duration, Instant},
};

use rocketmq_producer::{Error, FaultTable, Producer};
use serde_json::json;
use support::{
    GRACE, PATIENCE, assert_says,
    fake_server::{
        FakeServer, GET_ROUTE, HEART_BEAT, QUEUES, RefusingAddress, UNREGISTER_CLIENT, route_body,
    },
    message, milliseconds, producer_for, within,
};

const GET_MAX_OFFSET: i64 = 30;
const SYSTEM_BUSY: i64 = 2;
const MESSAGE_ILLEGAL: i64 = 13;

/// More sends than there are queues, so that each broker that is chosen in turn gets some.
const ROUNDS: usize = 2 * 2 * QUEUES as usize;

/// A broker that stores everything, but each message after this long.
fn slow_broker(delay: Duration) -> FakeServer {
    FakeServer::broker(move |request, peer| {
        let (request, peer) = (request.clone(), peer.clone());
        thread::spawn(move || {
            thread::sleep(delay);
            peer.stored(&request, 1);
        });
    })
}

fn refusing_broker(code: i64) -> FakeServer {
    FakeServer::broker(move |request, peer| {
        if request.code() == GET_MAX_OFFSET {
            peer.answer(request, 0, &json!({"offset": "0"}), b"");
        } else {
            peer.refuse(request, code, "no");
        }
    })
}

/// Brokers a and b with a name server, and how a producer starts there.
fn two_brokers(a: &FakeServer, b: &FakeServer) -> FakeServer {
    FakeServer::name_server(&[("broker-a", a.address()), ("broker-b", b.address())])
}

fn send_rounds(producer: &Producer) {
    for _ in 0..ROUNDS {
        producer.send(&message("orders")).unwrap();
    }
}

#[test]
fn a_slow_broker_is_passed_over_for_a_while_if_that_is_wanted() {
    within(PATIENCE, || {
        for is_on in [true, false] {
            let (slow, quick) = (slow_broker(milliseconds(600)), FakeServer::healthy_broker());
            let name_server = two_brokers(&slow, &quick);
            let producer = producer_for(name_server.address())
                .latency_fault_tolerance(is_on)
                .fault_table(FaultTable::V4_7_0)
                .start()
                .unwrap();
            for _ in 0..4 * QUEUES {
                if slow.sends() > 0 {
                    break;
                }
                producer.send(&message("orders")).unwrap();
            }
            assert_eq!(slow.sends(), 1, "it has its turn");
            let before = quick.sends();
            // With 4.7.0's table it is away for 30 s.
            for _ in 0..=QUEUES {
                producer.send(&message("orders")).unwrap();
            }
            if is_on {
                assert_eq!(slow.sends(), 1);
                assert_eq!(quick.sends(), before + 1 + QUEUES as usize);
            } else {
                assert!(slow.sends() > 1);
            }
        }
    });
}

#[test]
fn a_broker_that_fails_is_passed_over_by_later_sends() {
    within(PATIENCE, || {
        let (busy, healthy) = (refusing_broker(SYSTEM_BUSY), FakeServer::healthy_broker());
        let name_server = two_brokers(&busy, &healthy);
        let producer = producer_for(name_server.address())
            .latency_fault_tolerance(true)
            .start()
            .unwrap();
        send_rounds(&producer);
        assert_eq!(busy.sends(), 1, "5.x's table keeps it away for 10 s");
        let (done, outcomes) = mpsc::channel();
        for _ in 0..ROUNDS {
            let done = done.clone();
            producer.send_async(message("orders"), move |outcome| done.send(outcome).unwrap());
        }
        for _ in 0..ROUNDS {
            outcomes.recv_timeout(PATIENCE).unwrap().unwrap();
        }
        assert_eq!(busy.sends(), 1);
    });
}

#[test]
fn an_asynchronous_send_books_the_time_of_its_answer_too() {
    within(PATIENCE, || {
        let (slow, quick) = (slow_broker(milliseconds(600)), FakeServer::healthy_broker());
        let name_server = two_brokers(&slow, &quick);
        let producer = producer_for(name_server.address())
            .latency_fault_tolerance(true)
            .fault_table(FaultTable::V4_7_0)
            .start()
            .unwrap();
        for _ in 0..ROUNDS {
            support::send_async_and_wait(&producer, message("orders")).unwrap();
        }
        assert_eq!(slow.sends(), 1);
    });
}

#[test]
fn an_illegal_message_isolates_no_broker() {
    within(PATIENCE, || {
        let (refusing, healthy) = (refusing_broker(MESSAGE_ILLEGAL), FakeServer::healthy_broker());
        let name_server = two_brokers(&refusing, &healthy);
        let producer = producer_for(name_server.address())
            .latency_fault_tolerance(true)
            .start()
            .unwrap();
        let refused = (0..ROUNDS)
            .filter(|_| producer.send(&message("orders")).is_err())
            .count();
        assert_eq!(refused, ROUNDS / 2);
    });
}

#[test]
fn the_detector_asks_a_broker_that_failed_whether_it_can_be_reached() {
    within(PATIENCE, || {
        let (busy, healthy) = (refusing_broker(SYSTEM_BUSY), FakeServer::healthy_broker());
        let name_server = two_brokers(&busy, &healthy);
        let producer = producer_for(name_server.address())
            .latency_fault_tolerance(true)
            .reachability_detector(true)
            .start()
            .unwrap();
        send_rounds(&producer);
        busy.wait_until(PATIENCE, |log| log.count(GET_MAX_OFFSET) >= 2);
        busy.log(|log| {
            let asked = log.of(GET_MAX_OFFSET).next().unwrap();
            assert_eq!(asked.field("topic"), "orders");
            assert!(asked.field("queueId").parse::<u32>().unwrap() < QUEUES);
        });
        assert_eq!(healthy.log(|log| log.count(GET_MAX_OFFSET)), 0);
        let without = producer_for(name_server.address())
            .reachability_detector(true)
            .start();
        assert_says(
            &without.unwrap_err(),
            &["reachability_detector", "latency_fault_tolerance"],
        );
    });
}

/// A name server whose brokers are somewhere else than it says.
fn name_server_saying(advertised: &[(&str, &str)]) -> FakeServer {
    let brokers: Vec<(&str, SocketAddr)> = advertised
        .iter()
        .map(|(name, address)| (*name, address.parse().unwrap()))
        .collect();
    FakeServer::name_server(&brokers)
}

#[test]
fn an_advertised_address_is_dialled_where_the_map_says() {
    within(PATIENCE, || {
        let (a, b) = (FakeServer::healthy_broker(), FakeServer::healthy_broker());
        let (at_a, at_b) = (a.address().to_string(), b.address().to_string());
        let name_server =
            name_server_saying(&[("broker-a", "240.0.0.1:10911"), ("broker-b", "240.0.0.2:10911")]);
        let by_table = producer_for(name_server.address())
            .address_table([
                ("240.0.0.1:10911", at_a.clone()),
                ("240.0.0.2:10911", at_b.clone()),
            ])
            .start()
            .unwrap();
        send_rounds(&by_table);
        let by_closure = producer_for(name_server.address())
            .address_map(move |advertised| {
                assert!(advertised.starts_with("240.0.0."), "{advertised} is no broker's");
                Some(if advertised.contains("0.1:") {
                    at_a.clone()
                } else {
                    at_b.clone()
                })
            })
            .start()
            .unwrap();
        send_rounds(&by_closure);
        assert_eq!(a.sends(), ROUNDS);
        assert_eq!(b.sends(), ROUNDS);
        a.wait_until(PATIENCE, |log| log.count(HEART_BEAT) >= 2);
    });
}

#[test]
fn an_error_names_the_advertised_address_and_what_was_dialled() {
    within(PATIENCE, || {
        let refusing = RefusingAddress::new();
        let dialled = refusing.address().to_string();
        let name_server = name_server_saying(&[("broker-a", "240.0.0.1:10911")]);
        let producer = producer_for(name_server.address())
            .address_table([("240.0.0.1:10911", dialled.clone())])
            .start()
            .unwrap();
        let error = producer.send(&message("orders")).unwrap_err();
        let dialled_as = format!("dialled as {dialled}");
        assert_says(
            &error,
            &["cannot connect to 240.0.0.1:10911", &dialled_as, "refused"],
        );
    });
}

#[test]
fn what_is_no_address_is_not_dialled() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .address_map(|_| Some("no port".to_owned()))
            .start()
            .unwrap();
        producer.send(&message("orders")).unwrap();
        assert_eq!(broker.sends(), 1);
    });
}

/// Sends as fast as it fails for that long, and says how often it was.
fn fail_for(producer: &Producer, long: Duration) -> usize {
    let until = Instant::now() + long;
    let mut failed = 0;
    while Instant::now() < until {
        let error = producer.timeout(GRACE).send(&message("orders")).unwrap_err();
        assert!(matches!(error, Error::Failed(_)), "{error:?}");
        failed += 1;
        thread::sleep(milliseconds(1));
    }
    failed
}

#[test]
fn a_broker_that_accepts_and_closes_is_not_dialled_at_every_send() {
    within(PATIENCE, || {
        let closing = FakeServer::raw(|_| {});
        let name_server = FakeServer::name_server(&[("broker-a", closing.address())]);
        let producer = producer_for(name_server.address()).retries(0).start().unwrap();
        let failed = fail_for(&producer, milliseconds(1500));
        let dials = closing.log(|log| log.accepted);
        // Pauses of 50, 100, 200, 400 and 800 ms, each up to a fifth shorter.
        assert!((1..=7).contains(&dials), "{dials} dials at {failed} sends");
    });
}

#[test]
fn a_dead_broker_under_load_makes_no_storm_of_route_queries() {
    within(PATIENCE, || {
        let refusing = RefusingAddress::new();
        let name_server = FakeServer::name_server(&[("broker-a", refusing.address())]);
        let producer = producer_for(name_server.address()).retries(0).start().unwrap();
        let failed = fail_for(&producer, milliseconds(1500));
        let queries = name_server.log(|log| log.count(GET_ROUTE));
        // The first, and then one a second.
        assert!((2..=4).contains(&queries), "{queries} queries at {failed} sends");
        // The last failure is not forgotten: the timer asks.
        name_server.wait_until(PATIENCE, |log| log.count(GET_ROUTE) > queries);
    });
}

#[test]
fn on_a_connection_that_replaces_another_the_farewell_comes_before_the_heartbeat() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let codes = |connection: usize| {
            let housekeeping = |code: &i64| [HEART_BEAT, UNREGISTER_CLIENT].contains(code);
            broker.log(|log| {
                let of_it = log
                    .requests
                    .iter()
                    .filter(|request| request.connection == connection);
                of_it
                    .map(support::fake_server::Request::code)
                    .filter(housekeeping)
                    .collect::<Vec<_>>()
            })
        };
        producer.send(&message("orders")).unwrap();
        broker.wait_until(PATIENCE, |log| log.count(HEART_BEAT) == 1);
        assert_eq!(codes(0), [HEART_BEAT]);
        broker.close_connections();
        broker.wait_until(PATIENCE, |log| log.ended == 1);
        // The send may meet the end of the old connection.
        while producer.send(&message("orders")).is_err() {}
        // The second comes behind the answer to the farewell: brokers may handle both out of order.
        broker.wait_until(PATIENCE, |log| log.count(HEART_BEAT) == 3);
        assert_eq!(codes(1), [UNREGISTER_CLIENT, HEART_BEAT, HEART_BEAT]);
    });
}

#[test]
fn the_heartbeat_follows_a_farewell_that_is_not_answered() {
    within(PATIENCE, || {
        let is_silent = Arc::new(AtomicBool::new(false));
        let silent = Arc::clone(&is_silent);
        let broker = FakeServer::start(move |request, peer| match request.code() {
            UNREGISTER_CLIENT if silent.load(Ordering::SeqCst) => {}
            HEART_BEAT | UNREGISTER_CLIENT => peer.answer(request, 0, &json!({}), b""),
            _ => peer.stored(request, 1),
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        producer.send(&message("orders")).unwrap();
        broker.wait_until(PATIENCE, |log| log.count(HEART_BEAT) == 1);
        is_silent.store(true, Ordering::SeqCst);
        broker.close_connections();
        broker.wait_until(PATIENCE, |log| log.ended == 1);
        while producer.send(&message("orders")).is_err() {}
        broker.wait_until(PATIENCE, |log| log.count(HEART_BEAT) == 2);
        is_silent.store(false, Ordering::SeqCst);
    });
}

#[test]
fn name_servers_may_be_replaced_while_the_producer_runs() {
    within(PATIENCE, || {
        let (a, b) = (FakeServer::healthy_broker(), FakeServer::healthy_broker());
        let old = FakeServer::name_server(&[("broker-a", a.address())]);
        let new = FakeServer::name_server(&[("broker-b", b.address())]);
        let producer = producer_for(old.address()).start().unwrap();
        producer.send(&message("orders")).unwrap();
        assert_says(
            &producer.set_name_servers("here").unwrap_err(),
            &["name_servers", "has no port"],
        );
        producer.set_name_servers(new.address().to_string()).unwrap();
        new.wait_until(PATIENCE, |log| log.count(GET_ROUTE) == 1);
        old.wait_until(PATIENCE, |log| log.ended == 1);
        while b.sends() == 0 {
            producer.send(&message("orders")).unwrap();
        }
        producer.send(&message("payments")).unwrap();
        assert_eq!(old.log(|log| log.count(GET_ROUTE)), 1);
        assert!(producer.shutdown(PATIENCE).is_clean());
        assert!(matches!(producer.set_name_servers("a:1"), Err(Error::ShutDown)));
    });
}

#[test]
fn whoever_waits_for_a_route_gets_it_from_the_new_name_servers() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let silent = FakeServer::silent();
        let new = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(silent.address())
            .name_server_timeout(milliseconds(500))
            .send_timeout(PATIENCE)
            .start()
            .unwrap();
        let waiting = producer.clone();
        let sender = thread::spawn(move || waiting.send(&message("orders")));
        silent.wait_until(PATIENCE, |log| log.count(GET_ROUTE) == 1);
        producer.set_name_servers(new.address().to_string()).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(broker.sends(), 1);
    });
}

#[test]
fn a_name_server_that_comes_back_is_found_within_a_look_up() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let is_back = Arc::new(AtomicBool::new(false));
        let back = Arc::clone(&is_back);
        let route = route_body(&[("broker-a", broker.address())]);
        // Until then it accepts and closes, as a proxy without a server behind it.
        let name_server = FakeServer::start(move |request, peer| {
            if back.load(Ordering::SeqCst) {
                peer.answer(request, 0, &json!({}), &route);
            } else {
                peer.close();
            }
        });
        let producer = producer_for(name_server.address()).start().unwrap();
        for _ in 0..4 {
            producer.send(&message("orders")).unwrap_err();
        }
        is_back.store(true, Ordering::SeqCst);
        // The pause is about 800 ms by now; the look-up waits for it.
        producer.send(&message("orders")).unwrap();
    });
}
