//! The fault script of the embedded cluster, seen by this library's own producer: each fault arrives as what it is.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::time::{Duration, Instant};

use rocketmq_producer::mock::MockCluster;
use rocketmq_producer::{Delivery, Error, Message, Producer, RequestCode, ResponseCode, SendStatus};

const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;

/// Longer than anything here takes, shorter than anyone's patience.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a producer waits where it waits in vain.
const IN_VAIN: Duration = Duration::from_millis(300);

fn message() -> Message {
    Message::new("orders", "hello").unwrap()
}

fn producer(cluster: &MockCluster, retries: u32) -> Producer {
    let producer = Producer::builder("group")
        .name_servers(cluster.name_servers())
        .send_timeout(PATIENCE)
        .retries(retries)
        .start()
        .unwrap();
    // Route and connection are there, and the topic is at every broker.
    cluster.create_topic("orders", 4);
    producer.send(&message()).unwrap();
    cluster.delete_topic("orders");
    cluster.create_topic("orders", 4);
    producer
}

/// Sends in vain with little patience.
fn fails(producer: &Producer) -> Error {
    producer.timeout(IN_VAIN).send(&message()).unwrap_err()
}

/// Sends until a broker takes the message, and tells which. An address that has refused is not dialled again at once.
fn sends_in_the_end(cluster: &MockCluster, producer: &Producer) -> String {
    let begun = Instant::now();
    loop {
        match producer.send(&message()) {
            Ok(result) => return result.queue.broker_name().to_owned(),
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        // A short pause; a connection that is made meanwhile ends it.
        cluster.wait_until(Duration::from_millis(20), |cluster| {
            !cluster.connections().is_empty()
        });
    }
}

#[test]
fn a_busy_broker_is_asked_again() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 2);
    let busy = cluster.broker("broker-a").on(SEND).times(2);
    busy.reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
    assert_eq!(producer.send(&message()).unwrap().attempts, 3);
    assert_eq!(cluster.message_count("orders"), 1);
    cluster.assert_no_rule_left();
}

#[test]
fn a_message_that_is_stored_less_safely_says_so() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 0);
    let slave = cluster.broker("broker-a").on(SEND).once().after_store();
    slave.reply(ResponseCode::SLAVE_NOT_AVAILABLE, "");
    let result = producer.send(&message()).unwrap();
    assert_eq!(result.status, SendStatus::SlaveNotAvailable);
    assert_eq!(
        cluster.copies_by_message_id("orders")[result.message_id.as_str()],
        1
    );
}

#[test]
fn an_answer_that_is_lost_leaves_the_outcome_unknown_and_a_second_copy_with_retries() {
    let cluster = MockCluster::start(1).unwrap();
    let careful = producer(&cluster, 0);
    let on = || cluster.broker("broker-a").on(SEND).once();
    on().before_store().close();
    assert_eq!(fails(&careful).delivery(), Delivery::Unknown);
    assert_eq!(cluster.message_count("orders"), 0);
    for rule in [
        on().after_store().close(),
        on().after_store().reset(),
        on().after_store().silence(),
        on().half_answer_then_close(),
        on().garbage(),
        on().wrong_opaque(),
        on().answer_without("queueOffset"),
        // The last one: the connection stays open.
        on().half_answer_then_silence(),
    ] {
        let error = fails(&careful);
        assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
        assert_eq!(rule.taken(), 1);
    }
    cluster.assert_no_rule_left();
    cluster.broker("broker-a").close_connections();

    let eager = producer(&cluster, 2);
    on().after_store().reset();
    let result = eager.send(&message()).unwrap();
    assert_eq!((result.attempts, result.may_be_duplicated), (2, true));
    assert_eq!(
        cluster.copies_by_message_id("orders")[result.message_id.as_str()],
        2
    );
}

#[test]
fn answers_that_come_twice_late_in_pieces_or_in_another_order_do_no_harm() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 0);
    let on = || cluster.broker("broker-a").on(SEND);
    on().once().duplicate_answer();
    assert!(producer.send(&message()).is_ok());
    on().once().drip(50, Duration::from_millis(1));
    assert!(producer.send(&message()).is_ok());
    on().once().late_answer(IN_VAIN * 2);
    assert_eq!(fails(&producer).delivery(), Delivery::Unknown);
    let reversed = on().times(10).reverse_answers(5);
    let (done, outcomes) = std::sync::mpsc::channel();
    for number in 0..10 {
        let done = done.clone();
        producer.send_async(message(), move |outcome| done.send((number, outcome)).unwrap());
    }
    let mut numbers: Vec<_> = (0..10)
        .map(|_| {
            let (number, outcome) = outcomes.recv_timeout(PATIENCE).unwrap();
            assert!(outcome.is_ok(), "{outcome:?}");
            number
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    assert_eq!(reversed.taken(), 10);
    assert_eq!(cluster.message_count("orders"), 13);
}

#[test]
fn a_broker_that_is_down_is_passed_by_and_used_again_when_it_is_up() {
    let cluster = MockCluster::start(2).unwrap();
    let producer = producer(&cluster, 2);
    cluster.broker("broker-a").set_down();
    for _ in 0..8 {
        assert_eq!(producer.send(&message()).unwrap().queue.broker_name(), "broker-b");
    }
    cluster.broker("broker-b").set_down();
    // What is written before the end of the connection is seen may have arrived.
    let until = Instant::now() + PATIENCE;
    while producer.stats().brokers.iter().any(|broker| broker.connected) {
        assert!(Instant::now() < until, "the end of the connection is not seen");
        std::thread::yield_now();
    }
    let error = fails(&producer);
    assert_eq!(error.delivery(), Delivery::NotStored, "{error}");
    cluster.broker("broker-a").set_up().unwrap();
    assert_eq!(sends_in_the_end(&cluster, &producer), "broker-a");
    assert_eq!(cluster.message_count("orders"), 9);
}

#[test]
fn a_paused_broker_stores_what_was_given_up_meanwhile() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 0);
    cluster.broker("broker-a").pause();
    assert_eq!(fails(&producer).delivery(), Delivery::Unknown);
    assert_eq!(cluster.message_count("orders"), 0);
    cluster.broker("broker-a").resume();
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 1));
    assert!(producer.send(&message()).is_ok());
}

#[test]
fn a_name_server_that_says_nothing_is_passed_by() {
    let cluster = MockCluster::builder().name_servers(2).start().unwrap();
    cluster.create_topic("orders", 4);
    let silent = cluster
        .name_server(0)
        .on(RequestCode::GET_ROUTEINFO_BY_TOPIC)
        .always()
        .silence();
    let producer = Producer::builder("group")
        .name_servers(cluster.name_servers())
        .send_timeout(PATIENCE)
        .name_server_timeout(IN_VAIN)
        .start()
        .unwrap();
    assert!(producer.send(&message()).is_ok());
    silent.clear();
    cluster.name_server(1).set_down();
    let other = Message::new("others", "hello").unwrap();
    cluster.create_topic("others", 4);
    assert!(producer.send(&other).is_ok());
}

#[test]
fn a_broker_that_goes_away_costs_nothing() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 2);
    cluster.broker("broker-a").go_away();
    cluster.broker("broker-a").close_connections();
    assert!(producer.send(&message()).is_ok());
    assert_eq!(cluster.message_count("orders"), 1);
}

#[test]
fn requests_of_a_broker_are_answered_that_they_are_not_known() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 0);
    let push = cluster.broker("broker-a").push(RequestCode::new(9999)).send();
    assert_eq!(push.sent_to().len(), 1);
    assert!(cluster.wait_until(PATIENCE, |_| push.answers().len() == 1));
    assert_eq!(push.answers()[0].code, ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    assert!(producer.send(&message()).is_ok());
}

#[test]
fn a_broker_that_moves_is_found() {
    let cluster = MockCluster::start(1).unwrap();
    let producer = producer(&cluster, 0);
    cluster.broker("broker-a").move_to_another_port().unwrap();
    // The old address refuses, which makes the producer look the route up again.
    sends_in_the_end(&cluster, &producer);
}
