//! The fault script of the embedded cluster, seen by clients that write frames by hand.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod raw_client;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use raw_client::{PATIENCE, RawClient, request, send_fields};
use rocketmq_producer::mock::{MockAction, MockCluster};
use rocketmq_producer::{RequestCode, ResponseCode};

const SEND: RequestCode = RequestCode::SEND_MESSAGE_V2;

/// Long enough to be noticed when something waits for it.
const LONG: Duration = Duration::from_secs(600);

const SHORT: Duration = Duration::from_millis(40);

fn one_broker() -> (MockCluster, RawClient) {
    let cluster = MockCluster::start(1).unwrap();
    let client = RawClient::to_broker(&cluster, "broker-a");
    (cluster, client)
}

fn send(client: &mut RawClient, opaque: i32) {
    client.write(&request(
        SEND.value(),
        opaque,
        &send_fields("orders", 0, ""),
        b"x",
    ));
}

/// The opaque of the next answer.
fn opaque(client: &mut RawClient) -> i64 {
    client.read().expect("an answer").opaque()
}

#[test]
fn a_reply_before_the_store_refuses_and_one_after_it_keeps_the_place() {
    let (cluster, mut client) = one_broker();
    let on = || cluster.broker("broker-a").on(SEND);
    on().once()
        .reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
    let answer = client.send("orders", 0, "", b"x");
    assert_eq!(
        (answer.code(), answer.remark()),
        (2, "[PC_SYNCHRONIZED]broker busy")
    );
    assert_eq!(cluster.message_count("orders"), 0);

    on().once()
        .after_store()
        .reply(ResponseCode::FLUSH_DISK_TIMEOUT, "");
    let answer = client.send("orders", 3, "", b"x");
    assert_eq!(
        (
            answer.code(),
            answer.field("queueId"),
            answer.field("queueOffset")
        ),
        (10, "3", "0")
    );
    assert_eq!(answer.field("msgId").len(), 32);
    assert_eq!(cluster.message_count("orders"), 1);

    assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
    cluster.assert_no_rule_left();
}

#[test]
fn a_delayed_request_holds_up_no_other() {
    let (cluster, mut client) = one_broker();
    cluster.broker("broker-a").on(SEND).once().delay(SHORT);
    let began = Instant::now();
    for number in 0..3 {
        send(&mut client, number);
    }
    assert_eq!(
        [opaque(&mut client), opaque(&mut client), opaque(&mut client)],
        [1, 2, 0]
    );
    assert!(began.elapsed() >= SHORT);
    // The first one was stored last.
    assert_eq!(cluster.message_count("orders"), 3);
}

#[test]
fn a_late_answer_follows_a_message_that_was_stored_at_once() {
    let (cluster, mut client) = one_broker();
    let rule = cluster.broker("broker-a").on(SEND).late_answer(LONG);
    send(&mut client, 0);
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 1));
    assert_eq!(rule.taken(), 1);
    rule.clear();
    send(&mut client, 1);
    assert_eq!(opaque(&mut client), 1);
}

#[test]
fn silence_loses_the_request_or_its_answer() {
    let (cluster, mut client) = one_broker();
    let on = || cluster.broker("broker-a").on(SEND).once();
    on().silence();
    send(&mut client, 0);
    send(&mut client, 1);
    assert_eq!(opaque(&mut client), 1);
    assert_eq!(cluster.message_count("orders"), 1);
    on().after_store().silence();
    send(&mut client, 2);
    send(&mut client, 3);
    assert_eq!(opaque(&mut client), 3);
    assert_eq!(cluster.message_count("orders"), 3);
}

#[test]
fn a_connection_is_closed_or_reset_before_or_after_the_store_or_the_answer() {
    let (cluster, _client) = one_broker();
    for (is_reset, answers, stored) in [
        (false, 0, 0),
        (false, 0, 1),
        (false, 1, 1),
        (true, 0, 0),
        (true, 0, 1),
        (true, 1, 1),
    ] {
        cluster.delete_topic("orders");
        let rule = cluster.broker("broker-a").on(SEND).topic("orders").once();
        let rule = match (answers, stored) {
            (0, 0) => rule.before_store(),
            (0, 1) => rule.after_store(),
            _ => rule.after_answer(),
        };
        let _rule = if is_reset { rule.reset() } else { rule.close() };
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        send(&mut client, 0);
        if answers == 1 {
            assert_eq!(opaque(&mut client), 0);
        }
        let end = client.stream.read(&mut [0; 1]);
        match end {
            Ok(count) => assert!(!is_reset && count == 0, "an end of the stream"),
            Err(error) => assert!(is_reset && error.kind() == ErrorKind::ConnectionReset, "{error}"),
        }
        assert_eq!(cluster.message_count("orders"), stored);
    }
    cluster.assert_no_rule_left();
}

#[test]
fn what_comes_behind_a_close_has_no_effect() {
    let (cluster, mut client) = one_broker();
    cluster.broker("broker-a").on(SEND).skip(1).once().close();
    let bytes: Vec<_> = (0..10)
        .flat_map(|opaque| request(310, opaque, &send_fields("orders", 0, ""), b"x"))
        .collect();
    client.write(&bytes);
    assert_eq!(opaque(&mut client), 0);
    assert!(client.read().is_none());
    client.write(&bytes);
    drop(client);
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().is_empty()));
    assert_eq!(cluster.message_count("orders"), 1);
}

#[test]
fn a_broker_that_is_down_refuses_and_comes_back_on_its_port_with_its_store() {
    let cluster = MockCluster::start(2).unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    client.send("orders", 0, "", b"x");
    let address = cluster.broker_address("broker-a").unwrap();
    for _ in 0..3 {
        cluster.broker("broker-a").set_down();
        assert!(
            client
                .stream
                .read(&mut [0; 1])
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
                || client.read().is_none()
        );
        assert!(cluster.connections().is_empty());
        assert_eq!(
            TcpStream::connect(address).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        cluster.broker("broker-a").set_down();
        cluster.broker("broker-a").set_up().unwrap();
        cluster.broker("broker-a").set_up().unwrap();
        client = RawClient::to_broker(&cluster, "broker-a");
        assert_eq!(cluster.broker_address("broker-a"), Some(address));
        client.send("orders", 0, "", b"x");
    }
    assert_eq!(cluster.message_count("orders"), 4);
    assert_eq!(cluster.messages("orders")[3].queue_offset, 3);
    cluster.broker("broker-a").set_down();
}

#[test]
fn a_paused_broker_accepts_and_says_nothing_until_it_goes_on() {
    let (cluster, mut client) = one_broker();
    client.send("orders", 0, "", b"x");
    cluster.broker("broker-a").pause();
    let mut second = RawClient::to_broker(&cluster, "broker-a");
    second.stream.set_read_timeout(Some(SHORT)).unwrap();
    send(&mut second, 7);
    send(&mut client, 8);
    assert_eq!(
        second.stream.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert_eq!(cluster.message_count("orders"), 1);
    drop(client);
    cluster.broker("broker-a").resume();
    second.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(opaque(&mut second), 7);
    // Also what a client had sent that has left.
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 3));
}

#[test]
fn the_end_of_a_cluster_waits_for_no_script() {
    let cluster = MockCluster::start(1).unwrap();
    let all = cluster.broker("broker-a");
    let mut clients = Vec::new();
    for action in [
        MockAction::usual().delay(LONG),
        MockAction::usual().delay_answer(LONG),
        MockAction::usual().drip(1, LONG),
        MockAction::usual().then_stop_reading(LONG),
        MockAction::usual().then_mute(),
        MockAction::usual().then_close(),
        MockAction::usual().delay(Duration::MAX),
    ] {
        let rule = all.on(SEND).once().act(action);
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        send(&mut client, 1);
        assert!(cluster.wait_until(PATIENCE, |_| rule.taken() == 1));
        clients.push(client);
    }
    let mut left = RawClient::to_broker(&cluster, "broker-a");
    all.on(SEND).once().delay(LONG);
    send(&mut left, 1);
    drop(left);
    all.pause();
    send(&mut clients[0], 2);
    let began = Instant::now();
    drop(cluster);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
