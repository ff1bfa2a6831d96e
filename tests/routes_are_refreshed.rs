//! Routes are looked up again in the background: new brokers and queues come into use, old ones go out of it with their
//! connections, and what a name server forgets for a moment is not lost.

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
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{
    Error, Producer, ProducerBuilder, SendResult,
    mock::{MockCluster, ServerVersion},
};
use serde_json::{Value, json};
use support::{
    GRACE, PATIENCE, assert_took,
    fake_server::{FakeServer, GET_ROUTE, SEND_MESSAGE_V2, TOPIC_NOT_EXIST, route_body},
    message, milliseconds, producer_for, timed, within,
};

const TEMPLATE: &str = "TBW102";

/// A name server whose routes can be changed while it runs. A topic without one is answered with code 17.
struct NameServer {
    server: FakeServer,
    routes: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl NameServer {
    fn start() -> NameServer {
        let routes: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let known = Arc::clone(&routes);
        let server = FakeServer::start(move |request, peer| {
            let route = known.lock().unwrap().get(request.field("topic")).cloned();
            match route {
                Some(body) => peer.answer(request, 0, &json!({}), &body),
                None => peer.refuse(request, TOPIC_NOT_EXIST, "No topic route info in name server"),
            }
        });
        NameServer { server, routes }
    }

    fn set(&self, topic: &str, brokers: &[(&str, SocketAddr)]) {
        self.set_body(topic, route_body(brokers));
    }

    fn set_body(&self, topic: &str, body: Vec<u8>) {
        self.routes.lock().unwrap().insert(topic.to_owned(), body);
    }

    fn forget(&self, topic: &str) {
        self.routes.lock().unwrap().remove(topic);
    }

    /// A producer that refreshes its routes often.
    fn builder(&self) -> ProducerBuilder {
        producer_for(self.server.address()).route_refresh_interval(milliseconds(20))
    }

    fn asked_for(&self, topic: &str) -> usize {
        self.server
            .log(|log| log.of(GET_ROUTE).filter(|r| r.field("topic") == topic).count())
    }

    /// Waits until the producer has had so many answers more: it asks again only when it has taken in the last one.
    /// Meanwhile it shows interest in the topic, which is forgotten otherwise.
    #[track_caller]
    fn wait_for_answers(&self, producer: &Producer, topic: &str, count: usize) {
        let enough = self.asked_for(topic) + count + 1;
        let until = Instant::now() + PATIENCE;
        while self.asked_for(topic) < enough {
            assert!(
                Instant::now() < until,
                "{} of {enough} answers",
                self.asked_for(topic)
            );
            producer.publish_queues(topic).ok();
            thread::yield_now();
        }
    }
}

fn broker_names(producer: &Producer, topic: &str) -> BTreeSet<String> {
    let queues = producer.publish_queues(topic).unwrap();
    queues
        .iter()
        .map(|queue| queue.broker_name().to_owned())
        .collect()
}

#[track_caller]
fn send_around(producer: &Producer, count: usize) {
    for _ in 0..count {
        let (result, took) = timed(|| producer.send(&message("orders")));
        result.expect("a broker stores it");
        assert_took(took, Duration::ZERO, GRACE);
    }
}

/// Sends until a route has been given up, which takes some refreshes.
#[track_caller]
fn send_until_it_fails(producer: &Producer) -> Error {
    let until = Instant::now() + PATIENCE / 2;
    loop {
        match producer.send(&message("orders")) {
            Err(error) => return error,
            Ok(_) => assert!(Instant::now() < until, "the route is never given up"),
        }
    }
}

#[test]
fn a_new_broker_comes_into_use() {
    within(PATIENCE, || {
        let brokers = [FakeServer::healthy_broker(), FakeServer::healthy_broker()];
        let name_server = NameServer::start();
        name_server.set("orders", &[("broker-a", brokers[0].address())]);
        let producer = name_server.builder().start().unwrap();
        send_around(&producer, 8);
        name_server.set(
            "orders",
            &[
                ("broker-a", brokers[0].address()),
                ("broker-b", brokers[1].address()),
            ],
        );
        name_server.wait_for_answers(&producer, "orders", 2);
        assert_eq!(
            broker_names(&producer, "orders"),
            BTreeSet::from(["broker-a".to_owned(), "broker-b".to_owned()])
        );
        send_around(&producer, 8);
        assert_eq!(brokers.each_ref().map(FakeServer::sends), [12, 4]);
    });
}

#[test]
fn a_broker_that_leaves_the_route_loses_its_connection_and_gets_nothing_more() {
    within(PATIENCE, || {
        let brokers = [FakeServer::healthy_broker(), FakeServer::healthy_broker()];
        let both = [
            ("broker-a", brokers[0].address()),
            ("broker-b", brokers[1].address()),
        ];
        let name_server = NameServer::start();
        name_server.set("orders", &both);
        let producer = name_server.builder().start().unwrap();
        send_around(&producer, 8);
        let [first, second] = brokers.each_ref().map(FakeServer::sends);
        assert!(first > 0 && second > 0, "both are in use: {first} and {second}");
        name_server.set("orders", &both[..1]);
        brokers[1].wait_until(PATIENCE, |log| log.ended == 1);
        send_around(&producer, 8);
        assert_eq!(brokers.each_ref().map(FakeServer::sends), [first + 8, second]);
        assert_eq!(
            brokers[0].log(|log| log.accepted),
            1,
            "the other connection is left alone"
        );
    });
}

#[test]
fn a_broker_that_moves_is_followed() {
    within(PATIENCE, || {
        let [old, new] = [FakeServer::healthy_broker(), FakeServer::healthy_broker()];
        let name_server = NameServer::start();
        name_server.set("orders", &[("broker-a", old.address())]);
        let producer = name_server.builder().start().unwrap();
        send_around(&producer, 1);
        name_server.set("orders", &[("broker-a", new.address())]);
        name_server.wait_for_answers(&producer, "orders", 2);
        send_around(&producer, 3);
        assert_eq!((old.sends(), new.sends()), (1, 3));
        old.wait_until(PATIENCE, |log| log.ended == 1);
    });
}

#[test]
fn fewer_queues_and_a_withdrawn_permission_are_noticed() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = NameServer::start();
        let route = |queues: u32, perm: u32| -> Value {
            json!({
                "brokerDatas": [
                    {"cluster": "c", "brokerName": "a", "brokerAddrs": {"0": broker.address().to_string()}}
                ],
                "queueDatas": [
                    {"brokerName": "a", "readQueueNums": 8, "writeQueueNums": queues, "perm": perm}
                ]
            })
        };
        name_server.set_body("orders", route(8, 6).to_string().into_bytes());
        let producer = name_server.builder().start().unwrap();
        assert_eq!(producer.publish_queues("orders").unwrap().len(), 8);
        name_server.set_body("orders", route(2, 6).to_string().into_bytes());
        name_server.wait_for_answers(&producer, "orders", 2);
        assert_eq!(producer.publish_queues("orders").unwrap().len(), 2);
        send_around(&producer, 8);
        let ids: BTreeSet<_> = broker.log(|log| {
            let ids = log
                .of(SEND_MESSAGE_V2)
                .map(|request| request.field("e").to_owned());
            ids.collect()
        });
        assert_eq!(ids, BTreeSet::from(["0".to_owned(), "1".to_owned()]));
        name_server.set_body("orders", route(2, 4).to_string().into_bytes());
        let error = send_until_it_fails(&producer);
        assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
    });
}

/// Lets the name server forget the topic until it has said so once, and gives back how a send goes then and how often it
/// has said so by the end of it.
fn forgotten_for_a_moment(
    name_server: &NameServer,
    producer: &Producer,
) -> (Result<SendResult, Error>, usize) {
    let asked = name_server.asked_for("orders");
    name_server.forget("orders");
    name_server.wait_for_answers(producer, "orders", 1);
    let result = producer.send(&message("orders"));
    (result, name_server.asked_for("orders") - asked)
}

#[test]
fn a_name_server_may_forget_a_topic_for_two_refreshes_but_not_for_three() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = NameServer::start();
        let producer = name_server
            .builder()
            .route_refresh_interval(milliseconds(250))
            .start()
            .unwrap();
        // On a busy machine a third refresh may come before the send.
        let mut rounds = 0..10;
        while rounds.next().is_some() {
            name_server.set("orders", &[("broker-a", broker.address())]);
            send_around(&producer, 1);
            let (result, asked) = forgotten_for_a_moment(&name_server, &producer);
            if asked <= 2 {
                result.expect("the route is kept for so long");
                break;
            }
        }
        assert!(!rounds.is_empty(), "never fewer than three refreshes in time");
        let error = send_until_it_fails(&producer);
        assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
        name_server.set("orders", &[("broker-a", broker.address())]);
        send_around(&producer, 1);
    });
}

#[test]
fn the_route_of_the_template_does_not_replace_a_better_one_at_once() {
    within(PATIENCE, || {
        let [own, other] = [FakeServer::healthy_broker(), FakeServer::healthy_broker()];
        let name_server = NameServer::start();
        name_server.set(TEMPLATE, &[("broker-b", other.address())]);
        let mut rounds = 0..10;
        while rounds.next().is_some() {
            name_server.set("orders", &[("broker-a", own.address())]);
            let producer = name_server
                .builder()
                .route_refresh_interval(milliseconds(250))
                .start()
                .unwrap();
            send_around(&producer, 1);
            let (result, asked) = forgotten_for_a_moment(&name_server, &producer);
            if asked <= 2 {
                assert_eq!(result.unwrap().queue.broker_name(), "broker-a");
                break;
            }
        }
        assert!(!rounds.is_empty(), "never fewer than three refreshes in time");
    });
}

#[test]
fn a_refresh_that_fails_keeps_the_old_route() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = NameServer::start();
        name_server.set("orders", &[("broker-a", broker.address())]);
        let producer = name_server.builder().start().unwrap();
        send_around(&producer, 1);
        for nonsense in [
            "",
            "{",
            "[]",
            r#"{"queueDatas":[{"brokerName":"a","readQueueNums":99999999,"writeQueueNums":99999999,"perm":6}]}"#,
        ] {
            name_server.set_body("orders", nonsense.as_bytes().to_vec());
            name_server.wait_for_answers(&producer, "orders", 5);
            send_around(&producer, 4);
        }
        assert_eq!(broker.log(|log| log.accepted), 1, "its connection is left alone");
    });
}

#[test]
fn a_broker_that_cannot_be_reached_leads_to_a_look_up_at_once() {
    within(PATIENCE, || {
        let [dying, healthy] = [FakeServer::healthy_broker(), FakeServer::healthy_broker()];
        let name_server = NameServer::start();
        name_server.set("orders", &[("broker-a", dying.address())]);
        // The interval is the default of 30 s.
        // With a retry the send itself would go to the broker that the look-up finds.
        let producer = producer_for(name_server.server.address())
            .retries(0)
            .start()
            .unwrap();
        send_around(&producer, 1);
        name_server.set("orders", &[("broker-b", healthy.address())]);
        drop(dying);
        producer
            .send(&message("orders"))
            .expect_err("the only broker that is known is gone");
        name_server
            .server
            .wait_until(PATIENCE, |log| log.count(GET_ROUTE) >= 2);
        let until = Instant::now() + GRACE;
        while !broker_names(&producer, "orders").contains("broker-b") {
            assert!(Instant::now() < until, "the answer is not taken in");
        }
        send_around(&producer, 4);
        assert_eq!(healthy.sends(), 4);
    });
}

#[test]
fn a_new_topic_takes_the_route_of_the_template_up_to_a_cap() {
    within(PATIENCE, || {
        for version in [ServerVersion::V4_7_0, ServerVersion::V5_5_0] {
            let cluster = MockCluster::builder().brokers(2).speaks(version).start().unwrap();
            for (number, queues) in [(0, 4), (1, 2), (2, 8), (3, 16)] {
                let producer = producer_for(cluster.name_servers())
                    .default_topic_queue_nums(queues)
                    .start()
                    .unwrap();
                let topic = format!("new-{number}");
                // Brokers give at most what their template has, which is 8.
                let expected = usize::try_from(queues.min(8)).unwrap() * 2;
                assert_eq!(
                    producer.publish_queues(&topic).unwrap().len(),
                    expected,
                    "{queues}"
                );
                for _ in 0..2 * expected {
                    producer.send(&message(&topic)).unwrap();
                }
                let used: BTreeSet<_> = cluster
                    .messages(&topic)
                    .into_iter()
                    .map(|message| (message.broker_name, message.queue_id))
                    .collect();
                assert_eq!(used.len(), expected);
            }
        }
    });
}

#[test]
fn the_template_is_named_in_the_send_and_asked_for_only_when_needed() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = NameServer::start();
        name_server.set("orders", &[("broker-a", broker.address())]);
        name_server.set(TEMPLATE, &[("broker-a", broker.address())]);
        let producer = producer_for(name_server.server.address()).start().unwrap();
        send_around(&producer, 1);
        assert_eq!(name_server.asked_for(TEMPLATE), 0);
        producer.send(&message("invoices")).unwrap();
        assert_eq!(name_server.asked_for(TEMPLATE), 1);
        broker.log(|log| {
            for request in log.of(SEND_MESSAGE_V2) {
                assert_eq!((request.field("c"), request.field("d")), (TEMPLATE, "4"));
            }
        });
    });
}

#[test]
fn a_topic_that_nobody_sends_to_is_asked_for_no_longer() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = NameServer::start();
        for topic in ["orders", "invoices"] {
            name_server.set(topic, &[("broker-a", broker.address())]);
        }
        let producer = name_server.builder().start().unwrap();
        producer.send(&message("invoices")).unwrap();
        let mut asked = 0;
        let mut asked_before = usize::MAX;
        // Until nobody asks while the other topic is asked for ten times. A slow look-up counts as interest.
        while asked != asked_before {
            asked_before = asked;
            let enough = name_server.asked_for("orders") + 10;
            while name_server.asked_for("orders") < enough {
                producer.send(&message("orders")).unwrap();
            }
            asked = name_server.asked_for("invoices");
        }
        assert!(asked >= 15, "asked {asked} times only");
        producer
            .send(&message("invoices"))
            .expect("it is looked up again");
    });
}

/// More topics than the connection to a name server has places for requests, 2048 with these settings.
#[test]
fn refreshing_thousands_of_topics_leaves_place_for_what_senders_ask() {
    const KNOWN: usize = 2200;
    within(6 * PATIENCE, || {
        let name_server = NameServer::start();
        let broker = FakeServer::broker(|request, peer| peer.stored(request, 0));
        let name = |number: usize| format!("topic-{number}");
        for number in 0..KNOWN + 100 {
            name_server.set(&name(number), &[("broker-a", broker.address())]);
        }
        let producer = producer_for(name_server.server.address())
            .max_async_in_flight(16)
            .route_refresh_interval(Duration::from_secs(1))
            .start()
            .unwrap();
        for number in 0..KNOWN {
            producer.publish_queues(&name(number)).unwrap();
        }
        let all = || name_server.server.log(|log| log.count(GET_ROUTE));
        let before = all();
        for number in KNOWN..KNOWN + 100 {
            let found = producer.publish_queues(&name(number));
            assert!(found.is_ok(), "{number}: {found:?}");
            thread::sleep(milliseconds(20));
        }
        let until = Instant::now() + 4 * PATIENCE;
        while all() < before + 100 + KNOWN {
            assert!(
                Instant::now() < until,
                "the known topics are looked up again, too: {}",
                all() - before
            );
            thread::sleep(milliseconds(100));
        }
    });
}
