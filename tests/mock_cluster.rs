//! The life of an embedded cluster: what tests see of it, clusters apart from each other, hostile and lazy clients,
//! and an end without remains.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod raw_client;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use raw_client::{PATIENCE, RawClient, request, send_fields};
use rocketmq_producer::RequestCode;
use rocketmq_producer::mock::MockCluster;
use serde_json::json;

#[test]
fn two_clusters_in_one_process_are_apart() {
    let first = MockCluster::start(1).unwrap();
    let second = MockCluster::start(1).unwrap();
    assert_ne!(first.name_servers(), second.name_servers());
    first.create_topic("orders", 4);
    let route = |cluster: &MockCluster| {
        RawClient::to_name_server(cluster)
            .ask(105, &json!({"topic": "orders"}), b"")
            .code()
    };
    assert_eq!((route(&first), route(&second)), (0, 17));
    let mut client = RawClient::to_broker(&second, "broker-a");
    assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
    assert_eq!(
        (first.message_count("orders"), second.message_count("orders")),
        (0, 1)
    );
    assert!(first.wait_until(PATIENCE, |first| first.connections().is_empty()));
    assert!(second.wait_until(PATIENCE, |second| second.connections().len() == 1));
    drop(first);
    assert_eq!(client.send("orders", 0, "", b"y").code(), 0);
}

#[test]
fn builders_refuse_numbers_that_cannot_be() {
    for builder in [
        MockCluster::builder().name_servers(0),
        MockCluster::builder().name_servers(17),
        MockCluster::builder().brokers(27),
    ] {
        assert_eq!(
            builder.start().unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
    }
    let empty = MockCluster::start(0).unwrap();
    assert!(empty.broker_names().is_empty());
    assert_eq!(
        RawClient::to_name_server(&empty)
            .ask(105, &json!({"topic": "TBW102"}), b"")
            .code(),
        17
    );
    let largest = MockCluster::builder()
        .brokers(26)
        .name_servers(2)
        .start()
        .unwrap();
    assert_eq!(largest.broker_names().last().unwrap(), "broker-z");
    assert_eq!(largest.broker_address("broker-aa"), None);
}

#[test]
fn all_requests_of_one_read_are_answered_in_order() {
    let cluster = MockCluster::start(1).unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    let mut bytes = Vec::new();
    for opaque in 0..1000 {
        bytes.extend(request(
            310,
            opaque,
            &send_fields("orders", 1, ""),
            opaque.to_string().as_bytes(),
        ));
    }
    // Cut into pieces that end anywhere.
    for piece in bytes.chunks(777) {
        client.write(piece);
    }
    for opaque in 0..1000 {
        let answer = client.read().unwrap();
        assert_eq!((answer.code(), answer.opaque()), (0, opaque));
        assert_eq!(answer.field("queueOffset"), opaque.to_string());
    }
    let messages = cluster.messages("orders");
    assert_eq!(messages.len(), 1000);
    assert!(
        messages
            .iter()
            .enumerate()
            .all(|(at, message)| message.body == at.to_string().as_bytes())
    );
}

#[test]
fn oneway_requests_are_carried_out_and_not_answered() {
    let cluster = MockCluster::start(1).unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    for opaque in 0..10 {
        let header = json!({
            "code": 310, "opaque": opaque, "flag": 2, "extFields": send_fields("orders", 0, "")
        });
        client.write(&raw_client::frame(&header, b"x"));
    }
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == 10));
    // `ask` insists that the next frame answers its own request.
    assert_eq!(client.heartbeat("client", &["group"]).code(), 0);
}

#[test]
fn requests_written_before_the_client_left_are_carried_out() {
    let cluster = MockCluster::start(1).unwrap();
    for round in 1..=20 {
        let mut client = RawClient::to_broker(&cluster, "broker-a");
        let send = request(310, 1, &send_fields("orders", 0, ""), b"x");
        client.write(&send);
        // An answer is there to be read when it goes, so that its end is a reset.
        assert_eq!(client.stream.peek(&mut [0; 1]).unwrap(), 1);
        client.write(&send.repeat(149));
        drop(client);
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") == round * 150));
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().is_empty()));
    }
}

#[test]
fn negative_queue_ids_take_turns() {
    let cluster = MockCluster::start(1).unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    for _ in 0..8 {
        assert_eq!(client.send("orders", -1, "", b"x").code(), 0);
    }
    let mut queues: Vec<_> = cluster
        .messages("orders")
        .iter()
        .map(|message| message.queue_id)
        .collect();
    queues.sort_unstable();
    assert_eq!(queues, [0, 0, 1, 1, 2, 2, 3, 3]);
    cluster.create_topic("none", 0);
    assert_eq!(client.send("none", -1, "", b"x").code(), 1);
}

#[test]
fn clients_are_registered_by_heartbeat_until_they_leave() {
    let cluster = MockCluster::start(2).unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-b");
    assert!(cluster.clients().is_empty());
    client.heartbeat("10.0.0.5@1", &["orders_group", "CLIENT_INNER_PRODUCER"]);
    client.heartbeat("10.0.0.5@1", &["other_group"]);
    let clients = cluster.clients();
    assert_eq!(clients.len(), 1);
    assert_eq!(
        (&*clients[0].broker_name, &*clients[0].client_id),
        ("broker-b", "10.0.0.5@1")
    );
    assert_eq!(
        clients[0].producer_groups,
        ["CLIENT_INNER_PRODUCER", "orders_group", "other_group"]
    );
    assert_eq!((clients[0].version, clients[0].heartbeats), (513, 2));
    assert_eq!(clients[0].address, client.stream.local_addr().unwrap());
    assert_eq!(cluster.heartbeats(), 2);

    let unregister = json!({"clientID": "10.0.0.5@1", "producerGroup": "orders_group"});
    assert_eq!(client.ask(35, &unregister, b"").code(), 0);
    assert_eq!(
        cluster.clients()[0].producer_groups,
        ["CLIENT_INNER_PRODUCER", "other_group"]
    );
    drop(client);
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().is_empty()));
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().is_empty()));
}

#[test]
fn requests_are_counted_by_code_and_server() {
    let cluster = MockCluster::builder().brokers(2).name_servers(2).start().unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-b");
    client.send("orders", 0, "", b"x");
    client.send("bad/topic", 0, "", b"x");
    RawClient::to_name_server(&cluster).ask(105, &json!({"topic": "orders"}), b"");
    assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), 2);
    assert_eq!(cluster.requests_to("broker-b", RequestCode::SEND_MESSAGE_V2), 2);
    assert_eq!(cluster.requests_to("broker-a", RequestCode::SEND_MESSAGE_V2), 0);
    assert_eq!(
        cluster.requests_to("name-server-1", RequestCode::GET_ROUTEINFO_BY_TOPIC),
        1
    );
    assert_eq!(
        cluster.requests_to("name-server-2", RequestCode::GET_ROUTEINFO_BY_TOPIC),
        0
    );
    assert_eq!(cluster.requests(RequestCode::HEART_BEAT), 0);
}

#[test]
fn a_store_that_keeps_no_messages_counts_them() {
    let cluster = MockCluster::builder()
        .keep_messages(false)
        .store_limit(0)
        .start()
        .unwrap();
    let mut client = RawClient::to_broker(&cluster, "broker-a");
    for offset in 0..3 {
        assert_eq!(
            client.send("orders", 0, "", b"x").field("queueOffset"),
            offset.to_string()
        );
    }
    assert_eq!(cluster.message_count("orders"), 3);
    assert!(cluster.messages("orders").is_empty());
}

#[test]
fn clients_that_send_no_frames_are_cut_off_and_others_live_on() {
    let cluster = MockCluster::start(1).unwrap();
    let mut good = RawClient::to_broker(&cluster, "broker-a");
    assert_eq!(good.send("orders", 0, "", b"x").code(), 0);
    let mut binary_garbage = vec![0, 0, 0, 40, 1, 0, 0, 36];
    binary_garbage.extend([0xff; 36]);
    let too_long = 16_777_213_u32.to_be_bytes();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x08\x00\x00\x00\x04null",
        b"\x00\x00\x00\x06\x00\x00\x00\x02{}....",
        &too_long,
        &binary_garbage,
    ] {
        let mut bad = RawClient::to_broker(&cluster, "broker-a");
        bad.write(garbage);
        let answer = bad.read();
        // An empty JSON object is a header: of a request with code 0, which nobody knows.
        assert!(answer.is_none_or(|answer| answer.code() == 3), "{garbage:?}");
    }
    // A request before the garbage is still carried out and answered.
    let mut both = RawClient::to_broker(&cluster, "broker-a");
    let mut bytes = request(310, 1, &send_fields("orders", 0, ""), b"y");
    bytes.extend([0xff; 100]);
    both.write(&bytes);
    assert_eq!(both.read().unwrap().code(), 0);
    assert!(both.read().is_none());

    assert_eq!(good.send("orders", 0, "", b"z").code(), 0);
    assert_eq!(cluster.message_count("orders"), 3);
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().len() == 1));
}

#[test]
fn waiting_ends_with_the_event_or_in_time() {
    let cluster = MockCluster::start(1).unwrap();
    let begin = Instant::now();
    assert!(
        !cluster.wait_until(Duration::from_millis(50), |cluster| cluster.message_count("t")
            > 0)
    );
    assert!(begin.elapsed() >= Duration::from_millis(50));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cluster.wait_until(PATIENCE, |cluster| cluster.message_count("t") > 0));
        RawClient::to_broker(&cluster, "broker-a").send("t", 0, "", b"x");
        assert!(waiting.join().unwrap());
    });
    assert!(begin.elapsed() < PATIENCE);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cluster.wait_until(PATIENCE, |cluster| cluster.message_count("t") == 0));
        cluster.delete_topic("t");
        assert!(waiting.join().unwrap());
    });
}

/// Whether this process comes to have this many threads that serve the given ports. A new thread names itself, and a
/// joined one stays listed for a moment: both take microseconds that nothing tells of.
#[cfg(target_os = "linux")]
fn has_threads(ports: &[u16], count: usize) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while threads_of(ports).len() != count {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Names of this process's threads that serve the given ports.
#[cfg(target_os = "linux")]
fn threads_of(ports: &[u16]) -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|entry| {
        let name = std::fs::read_to_string(entry.unwrap().path().join("comm")).ok()?;
        ports
            .iter()
            .any(|port| name.starts_with(&format!("mock {port}")))
            .then_some(name)
    });
    names.collect()
}

#[cfg(target_os = "linux")]
#[test]
fn dropping_a_cluster_ends_its_threads_and_frees_its_ports() {
    let cluster = MockCluster::builder().brokers(3).name_servers(2).start().unwrap();
    let names = cluster.broker_names();
    let brokers = names.iter().map(|name| cluster.broker_address(name).unwrap());
    let name_servers = cluster.name_servers();
    let name_servers = name_servers.split(';').map(|address| address.parse().unwrap());
    let addresses: Vec<std::net::SocketAddr> = brokers.chain(name_servers).collect();
    let ports: Vec<_> = addresses.iter().map(std::net::SocketAddr::port).collect();

    // One client is idle, one is in the middle of a frame, one does not read its answers.
    let mut idle: Vec<_> = addresses
        .iter()
        .map(|address| RawClient::connect(*address))
        .collect();
    let mut within_frame = RawClient::to_broker(&cluster, "broker-a");
    within_frame.write(&[0, 0, 1, 0, 0, 0, 0, 200, b'{']);
    let lazy = RawClient::to_broker(&cluster, "broker-b");
    lazy.stream.set_nonblocking(true).unwrap();
    let flood = request(310, 1, &send_fields("orders", 0, ""), b"x").repeat(1000);
    while (&lazy.stream).write(&flood).is_ok() {}
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.connections().len() == 7));
    assert!(cluster.wait_until(PATIENCE, |cluster| cluster.message_count("orders") > 0));
    assert!(has_threads(&ports, 5 + 7), "{:?}", threads_of(&ports));

    let begin = Instant::now();
    drop(cluster);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(has_threads(&ports, 0), "{:?}", threads_of(&ports));
    for address in addresses {
        assert!(TcpStream::connect(address).is_err());
    }
    assert!(idle.iter_mut().all(|client| client.read().is_none()));
    assert!(matches!(within_frame.stream.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn clusters_come_and_go_many_times() {
    for _ in 0..50 {
        let cluster = MockCluster::start(2).unwrap();
        let mut client = RawClient::to_broker(&cluster, "broker-b");
        assert_eq!(client.send("orders", 0, "", b"x").code(), 0);
        drop(cluster);
        assert!(client.read().is_none());
    }
}
