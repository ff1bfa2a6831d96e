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
    cluster.broker("broker-a").on(SEND).once().delay(LONG);
    for number in 0..3 {
        send(&mut client, number);
    }
    assert_eq!([opaque(&mut client), opaque(&mut client)], [1, 2]);
    assert_eq!(cluster.message_count("orders"), 2);

    cluster.broker("broker-a").on(SEND).once().delay(SHORT);
    let began = Instant::now();
    send(&mut client, 3);
    assert_eq!(opaque(&mut client), 3);
    assert!(began.elapsed() >= SHORT);
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

#[test]
fn half_an_answer_is_followed_by_the_end_or_by_silence() {
    let (cluster, mut client) = one_broker();
    send(&mut client, 0);
    let whole = client.read().unwrap();
    let length = 8 + whole.header_bytes.len();
    let on = || cluster.broker("broker-a").on(SEND).once();

    let closes = on().half_answer_then_close();
    send(&mut client, 1);
    let mut half = Vec::new();
    assert_eq!(client.stream.read_to_end(&mut half).unwrap(), length / 2);
    assert_eq!(closes.taken(), 1);

    on().half_answer_then_silence();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    send(&mut client, 1);
    client.stream.read_exact(&mut half[..length / 2]).unwrap();
    send(&mut client, 2);
    client.stream.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(
        client.stream.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert_eq!(cluster.message_count("orders"), 3);
    assert_eq!(cluster.connections().len(), 1);
}

#[test]
fn answers_come_twice_under_other_numbers_in_pieces_or_incomplete() {
    let (cluster, mut client) = one_broker();
    let on = || cluster.broker("broker-a").on(SEND).once();
    on().duplicate_answer();
    send(&mut client, 1);
    assert_eq!((opaque(&mut client), opaque(&mut client)), (1, 1));

    on().wrong_opaque();
    send(&mut client, 2);
    assert_eq!(opaque(&mut client), 2 + (1 << 30));
    on().act(MockAction::usual().opaque(77));
    send(&mut client, 2);
    assert_eq!(opaque(&mut client), 77);

    on().answer_without("queueOffset");
    let answer = client.send("orders", 0, "", b"x");
    assert_eq!(
        (
            answer.code(),
            answer.field("queueId"),
            answer.field("queueOffset")
        ),
        (0, "0", "")
    );
    on().act(MockAction::usual().field("queueOffset", "many").body("body"));
    let answer = client.send("orders", 0, "", b"x");
    assert_eq!(
        (answer.field("queueOffset"), &*answer.body),
        ("many", &b"body"[..])
    );

    let began = Instant::now();
    on().drip(100, Duration::from_millis(5));
    send(&mut client, 3);
    send(&mut client, 4);
    assert_eq!((opaque(&mut client), opaque(&mut client)), (3, 4));
    assert!(began.elapsed() >= Duration::from_millis(10));
    assert_eq!(cluster.message_count("orders"), 7);
}

#[test]
fn bytes_that_are_no_answer_are_sent_as_they_are() {
    let (cluster, mut client) = one_broker();
    cluster
        .broker("broker-a")
        .on(SEND)
        .once()
        .raw(*b"HTTP/1.1 400 Bad Request\r\n\r\n");
    send(&mut client, 0);
    let mut bytes = [0; 28];
    client.stream.read_exact(&mut bytes).unwrap();
    assert!(bytes.starts_with(b"HTTP/1.1 400"));
    cluster.broker("broker-a").on(SEND).once().garbage();
    send(&mut client, 0);
    let mut length = [0; 4];
    client.stream.read_exact(&mut length).unwrap();
    assert_eq!(u32::from_be_bytes(length), 0x7fff_ffff);
    assert_eq!(cluster.message_count("orders"), 0);
}

#[test]
fn answers_are_held_and_sent_in_the_opposite_order() {
    let cluster = MockCluster::start(1).unwrap();
    let rule = cluster.broker("broker-a").on(SEND).times(7).reverse_answers(3);
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    let mut other = RawClient::to_broker(&cluster, "broker-a");
    send(&mut client, 0);
    send(&mut client, 1);
    assert!(cluster.wait_until(PATIENCE, |_| rule.taken() == 2));
    send(&mut other, 2);
    assert_eq!(
        (opaque(&mut other), opaque(&mut client), opaque(&mut client)),
        (2, 1, 0)
    );
    for number in 3..8 {
        send(&mut client, number);
    }
    // Three, then the seventh alone, because the rule is used up; the eighth is nobody's.
    let numbers: Vec<_> = (0..5).map(|_| opaque(&mut client)).collect();
    assert_eq!(numbers, [5, 4, 3, 6, 7]);

    // What is held when a rule is removed is sent.
    let rule = cluster.broker("broker-a").on(SEND).reverse_answers(3);
    send(&mut client, 8);
    send(&mut client, 9);
    assert!(cluster.wait_until(PATIENCE, |cluster| {
        rule.taken() == 2 && cluster.message_count("orders") == 10
    }));
    // An answer is held a moment after its message is stored: ask behind it.
    client.write(&request(34, 10, &serde_json::json!({}), b"{\"clientID\":\"c\"}"));
    assert_eq!(opaque(&mut client), 10);
    rule.clear();
    assert_eq!((opaque(&mut client), opaque(&mut client)), (9, 8));
}

#[test]
fn reading_stops_for_a_while() {
    let (cluster, mut client) = one_broker();
    cluster.broker("broker-a").on(SEND).once().stop_reading(LONG);
    send(&mut client, 0);
    assert_eq!(opaque(&mut client), 0);
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let piece = vec![0; 1 << 20];
    let is_full = (0..64).any(|_| std::io::Write::write_all(&mut client.stream, &piece).is_err());
    assert!(is_full, "the buffers of the system fill up");
    // Others are served.
    let mut other = RawClient::to_broker(&cluster, "broker-a");
    assert_eq!(other.send("orders", 0, "", b"x").code(), 0);

    cluster.broker("broker-a").on(SEND).once().stop_reading(SHORT);
    let began = Instant::now();
    send(&mut other, 1);
    send(&mut other, 2);
    assert_eq!((opaque(&mut other), opaque(&mut other)), (1, 2));
    assert!(began.elapsed() >= SHORT);
}

#[test]
fn rules_take_what_they_are_for_and_the_oldest_one_wins() {
    let cluster = MockCluster::builder().brokers(2).name_servers(2).start().unwrap();
    let busy = ResponseCode::SYSTEM_BUSY;
    cluster
        .broker("broker-a")
        .on(SEND)
        .topic("orders")
        .skip(1)
        .every(2)
        .times(2)
        .reply(busy, "first");
    cluster.any_broker().on(SEND).once().reply(busy, "second");
    let mut a = RawClient::to_broker(&cluster, "broker-a");
    let mut b = RawClient::to_broker(&cluster, "broker-b");
    let remark = |client: &mut RawClient, topic| client.send(topic, 0, "", b"x").remark().to_owned();
    assert_eq!(remark(&mut b, "orders"), "second");
    assert_eq!(remark(&mut b, "orders"), "");
    assert_eq!(remark(&mut a, "others"), "");
    let remarks: Vec<_> = (0..8).map(|_| remark(&mut a, "orders")).collect();
    assert_eq!(remarks, ["", "", "first", "", "first", "", "", ""]);
    cluster.assert_no_rule_left();

    let any = cluster
        .name_server(1)
        .on_any()
        .always()
        .reply(busy, "name server");
    let ask = |index: usize| {
        let addresses = cluster.name_servers();
        let address = addresses.split(';').nth(index).unwrap().parse().unwrap();
        RawClient::connect(address)
            .ask(105, &serde_json::json!({"topic": "orders"}), b"")
            .code()
    };
    assert_eq!((ask(0), ask(1), ask(1)), (0, 2, 2));
    assert_eq!(any.taken(), 2);
    cluster.any_name_server().on_any().reply(busy, "");
    assert_eq!(ask(0), 2);
    cluster.clear_faults();
    assert_eq!((ask(0), ask(1)), (0, 0));
    cluster.any_server().on(SEND).topic("elsewhere").silence();
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.assert_no_rule_left()));
    assert!(left.is_err());
}

#[test]
fn a_closure_sees_the_request_and_says_what_happens() {
    let (cluster, mut client) = one_broker();
    let rule = cluster.broker("broker-a").on(SEND).respond_with(|request| {
        assert_eq!(request.server_name, "broker-a");
        assert_ne!(request.body, b"panic", "what a panic does");
        match request.field("e") {
            Some("0") => MockAction::usual(),
            Some("1") => MockAction::usual()
                .not_carried_out()
                .reply(ResponseCode::NO_PERMISSION, "no"),
            _ => MockAction::usual().silence().then_close(),
        }
    });
    assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
    assert_eq!(client.send("orders", 1, "", b"x").code(), 16);
    client.write(&request(310, 9, &send_fields("orders", 2, ""), b"x"));
    assert!(client.read().is_none());
    assert_eq!((rule.taken(), cluster.message_count("orders")), (3, 2));
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    client.write(&request(310, 9, &send_fields("orders", 0, ""), b"panic"));
    assert!(client.read().is_none());
    assert_eq!(
        RawClient::to_broker(&cluster, "broker-a")
            .send("orders", 0, "", b"x")
            .code(),
        0
    );
}

#[test]
fn requests_without_an_answer_get_none_whatever_a_rule_says() {
    let (cluster, mut client) = one_broker();
    let rule = cluster
        .broker("broker-a")
        .on(SEND)
        .times(3)
        .after_store()
        .reply(ResponseCode::SYSTEM_BUSY, "");
    let header =
        serde_json::json!({"code": 310, "opaque": 5, "flag": 2, "extFields": send_fields("orders", 0, "")});
    client.write(&raw_client::frame(&header, b"x"));
    cluster.broker("broker-a").on(SEND).duplicate_answer();
    assert_eq!(client.send("orders", 0, "", b"x").code(), 2);
    assert_eq!(rule.taken(), 2);
    assert_eq!(cluster.message_count("orders"), 2);
}

#[test]
fn routes_follow_brokers_that_hide_move_and_change() {
    let cluster = MockCluster::start(2).unwrap();
    cluster.create_topic("orders", 4);
    let mut name_server = RawClient::to_name_server(&cluster);
    let mut route = || {
        let answer = name_server.ask(
            105,
            &serde_json::json!({"topic": "orders", "acceptStandardJsonOnly": "true"}),
            b"",
        );
        serde_json::from_slice(&answer.body).unwrap_or(serde_json::Value::Null)
    };
    let names = |route: &serde_json::Value| route["brokerDatas"].as_array().map_or(0, Vec::len);
    assert_eq!(names(&route()), 2);
    cluster.broker("broker-b").hide_from_routes(true);
    let hidden = route();
    assert_eq!(
        (names(&hidden), &hidden["queueDatas"][0]["brokerName"]),
        (1, &"broker-a".into())
    );
    cluster.broker("broker-a").hide_from_routes(true);
    assert!(route().is_null());
    cluster.any_broker().hide_from_routes(false);
    cluster.broker("broker-a").set_queues("orders", 1);
    cluster.broker("broker-b").set_permission("orders", 4);
    let changed = route();
    assert_eq!(changed["queueDatas"][0]["writeQueueNums"], 1);
    assert_eq!(
        (
            &changed["queueDatas"][0]["perm"],
            &changed["queueDatas"][1]["perm"]
        ),
        (&6.into(), &4.into())
    );

    let mut client = RawClient::to_broker(&cluster, "broker-a");
    client.send("orders", 0, "", b"x");
    let before = cluster.broker_address("broker-a").unwrap();
    cluster.broker("broker-a").move_to_another_port().unwrap();
    let after = cluster.broker_address("broker-a").unwrap();
    assert_ne!(before, after);
    assert!(TcpStream::connect(before).is_err());
    assert_eq!(route()["brokerDatas"][0]["brokerAddrs"]["0"], after.to_string());
    RawClient::connect(after).send("orders", 0, "", b"x");
    let messages = cluster.messages("orders");
    assert_eq!(messages[1].queue_offset, 1);
    assert_ne!(
        messages[0].offset_message_id.as_str()[..16],
        messages[1].offset_message_id.as_str()[..16]
    );
}

#[test]
fn a_broker_that_goes_away_serves_new_connections_only() {
    let (cluster, mut client) = one_broker();
    client.send("orders", 0, "", b"x");
    cluster.broker("broker-a").go_away();
    let answer = client.send("orders", 0, "", b"x");
    assert_eq!((answer.code(), answer.remark()), (1500, "please go away"));
    assert_eq!(client.heartbeat("c", &["g"]).code(), 0);
    assert_eq!(client.send("orders", 0, "", b"x").code(), 1500);
    assert_eq!(
        RawClient::to_broker(&cluster, "broker-a")
            .send("orders", 0, "", b"x")
            .code(),
        0
    );
    assert_eq!(cluster.message_count("orders"), 2);
}

#[test]
fn requests_of_a_broker_are_answered_by_its_clients() {
    let (cluster, mut client) = one_broker();
    let mut other = RawClient::to_broker(&cluster, "broker-a");
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().len() == 2));
    let broker = cluster.broker("broker-a");
    let push = broker
        .push(RequestCode::CHECK_TRANSACTION_STATE)
        .field("msgId", "abc")
        .body("half")
        .send();
    assert_eq!(push.sent_to().len(), 2);
    for asked in [&mut client, &mut other] {
        let request = asked.read().unwrap();
        assert_eq!(
            (request.code(), request.field("msgId"), &*request.body),
            (39, "abc", &b"half"[..])
        );
        assert_eq!((request.opaque(), request.header["flag"].as_i64()), (0, Some(0)));
        let header =
            serde_json::json!({"code": 3, "opaque": 0, "flag": 1, "remark": "no", "extFields": {"a": "b"}});
        asked.write(&raw_client::frame(&header, b"answer"));
    }
    assert!(cluster.wait_until(PATIENCE, |_| push.answers().len() == 2));
    let answer = &push.answers()[0];
    assert_eq!(
        (answer.code.value(), answer.remark.as_deref(), &*answer.body),
        (3, Some("no"), &b"answer"[..])
    );
    assert_eq!(answer.fields, [("a".to_owned(), "b".to_owned())]);

    let oneway = broker
        .push(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED)
        .oneway()
        .send();
    let request = client.read().unwrap();
    assert_eq!(
        (request.code(), request.opaque(), request.header["flag"].as_i64()),
        (40, 1, Some(2))
    );
    assert!(oneway.answers().is_empty());
    // Answers go on as before.
    assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
}

#[test]
fn recorded_requests_tell_what_came_where_and_when() {
    let (cluster, mut client) = one_broker();
    client.send("before", 0, "", b"x");
    cluster.record_requests();
    let began = Instant::now();
    client.send(
        "orders",
        0,
        "UNIQ_KEY\u{1}7F00000100000000000000000000ABCD\u{2}",
        b"x",
    );
    RawClient::to_name_server(&cluster).ask(105, &serde_json::json!({"topic": "orders"}), b"");
    let log = cluster.request_log();
    assert_eq!(log.len(), 2);
    assert_eq!(
        (&*log[0].server_name, log[0].topic.as_deref(), log[0].opaque),
        ("broker-a", Some("orders"), 2)
    );
    assert_eq!(
        log[0].message_id.unwrap().as_str(),
        "7F00000100000000000000000000ABCD"
    );
    assert_eq!(
        (log[0].connection, log[0].client_address),
        (0, client.stream.local_addr().unwrap())
    );
    assert!(log[0].received_at >= began && log[0].body == b"x" && !log[0].is_oneway);
    assert_eq!(
        (&*log[1].server_name, log[1].topic.as_deref()),
        ("name-server-1", Some("orders"))
    );
    let copies = cluster.copies_by_message_id("orders");
    assert_eq!(
        copies.into_iter().collect::<Vec<_>>(),
        [("7F00000100000000000000000000ABCD".to_owned(), 1)]
    );
}

#[test]
fn connections_are_ended_from_outside() {
    let (cluster, mut client) = one_broker();
    client.send("orders", 0, "", b"x");
    cluster.broker("broker-a").close_connections();
    assert!(client.read().is_none());
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    client.send("orders", 0, "", b"x");
    cluster.broker("broker-a").reset_connections();
    assert_eq!(
        client.stream.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().is_empty()));
}

#[cfg(target_os = "linux")]
#[test]
fn connecting_to_a_server_that_cannot_be_reached_hangs() {
    let (cluster, mut client) = one_broker();
    let address = cluster.broker_address("broker-a").unwrap();
    cluster.broker("broker-a").set_unreachable().unwrap();
    assert!(client.read().is_none());
    for _ in 0..2 {
        let error = TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    cluster.broker("broker-a").set_up().unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
    cluster.broker("broker-a").set_unreachable().unwrap();
}
