//! Apache's own producers send to the embedded cluster, which must store exactly what they were given. So the cluster
//! is what it says it is for clients that do not share a line with this library.

#![cfg(all(feature = "mock", unix))]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic, and not all of the support is used here"
)]

#[path = "support/java.rs"]
mod java;
#[path = "support/left_out.rs"]
mod left_out;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use java::{JavaClient, ReadMessage};
use process::run;
use rocketmq_producer::mock::{MockCluster, MockMessage, ServerVersion};
use rocketmq_producer::{Boundary, Message, Producer, RequestCode, StoredMessage};

/// Messages sent in each of the ways sync, async and one-way.
const COUNT: usize = 50;

/// Transactions that end in each of the ways commit, rollback and unknown.
const TRANSACTIONS: usize = 10;

/// Messages of the one batch.
const BATCH: usize = 10;

/// A client that is not done by then is killed.
const CLIENT_DEADLINE: Duration = Duration::from_secs(120);

/// The first run fetches from Maven Central, or from the Go module proxy.
const FETCH_DEADLINE: Duration = Duration::from_secs(1300);

const TOPIC: &str = "orders";
const GROUP: &str = "apache_client_group";

#[test]
fn java_4_7_0_sends_to_4_7_0() {
    java("java_4_7_0_sends_to_4_7_0", "4.7.0", ServerVersion::V4_7_0);
}

#[test]
fn java_4_7_0_sends_to_4_9_7() {
    java("java_4_7_0_sends_to_4_9_7", "4.7.0", ServerVersion::V4_9_7);
}

#[test]
fn java_4_7_0_sends_to_5_5_0() {
    java("java_4_7_0_sends_to_5_5_0", "4.7.0", ServerVersion::V5_5_0);
}

#[test]
fn java_5_5_0_sends_to_4_7_0() {
    java("java_5_5_0_sends_to_4_7_0", "5.5.0", ServerVersion::V4_7_0);
}

#[test]
fn java_5_5_0_sends_to_4_9_7() {
    java("java_5_5_0_sends_to_4_9_7", "5.5.0", ServerVersion::V4_9_7);
}

#[test]
fn java_5_5_0_sends_to_5_5_0() {
    java("java_5_5_0_sends_to_5_5_0", "5.5.0", ServerVersion::V5_5_0);
}

#[test]
fn java_4_7_0_asks_4_7_0() {
    asks("java_4_7_0_asks_4_7_0", "4.7.0", ServerVersion::V4_7_0);
}

#[test]
fn java_4_7_0_asks_5_5_0() {
    asks("java_4_7_0_asks_5_5_0", "4.7.0", ServerVersion::V5_5_0);
}

#[test]
fn java_5_5_0_asks_4_7_0() {
    asks("java_5_5_0_asks_4_7_0", "5.5.0", ServerVersion::V4_7_0);
}

#[test]
fn java_5_5_0_asks_4_9_7() {
    asks("java_5_5_0_asks_4_9_7", "5.5.0", ServerVersion::V4_9_7);
}

#[test]
fn java_5_5_0_asks_5_5_0() {
    asks("java_5_5_0_asks_5_5_0", "5.5.0", ServerVersion::V5_5_0);
}

#[test]
fn java_4_7_0_gets_replies_from_4_7_0() {
    java_requests(
        "java_4_7_0_gets_replies_from_4_7_0",
        "4.7.0",
        ServerVersion::V4_7_0,
    );
}

#[test]
fn java_4_7_0_gets_replies_from_5_5_0() {
    java_requests(
        "java_4_7_0_gets_replies_from_5_5_0",
        "4.7.0",
        ServerVersion::V5_5_0,
    );
}

#[test]
fn java_5_5_0_gets_replies_from_4_7_0() {
    java_requests(
        "java_5_5_0_gets_replies_from_4_7_0",
        "5.5.0",
        ServerVersion::V4_7_0,
    );
}

#[test]
fn java_5_5_0_gets_replies_from_5_5_0() {
    java_requests(
        "java_5_5_0_gets_replies_from_5_5_0",
        "5.5.0",
        ServerVersion::V5_5_0,
    );
}

#[test]
fn go_sends_to_4_7_0() {
    go("go_sends_to_4_7_0", ServerVersion::V4_7_0);
}

#[test]
fn go_sends_to_4_9_7() {
    go("go_sends_to_4_9_7", ServerVersion::V4_9_7);
}

#[test]
fn go_sends_to_5_5_0() {
    go("go_sends_to_5_5_0", ServerVersion::V5_5_0);
}

#[test]
fn java_4_7_0_sends_transactions_to_4_7_0() {
    java_transactions(
        "java_4_7_0_sends_transactions_to_4_7_0",
        "4.7.0",
        ServerVersion::V4_7_0,
    );
}

#[test]
fn java_5_5_0_sends_transactions_to_5_5_0() {
    java_transactions(
        "java_5_5_0_sends_transactions_to_5_5_0",
        "5.5.0",
        ServerVersion::V5_5_0,
    );
}

#[test]
fn java_5_5_0_sends_transactions_to_4_7_0() {
    java_transactions(
        "java_5_5_0_sends_transactions_to_4_7_0",
        "5.5.0",
        ServerVersion::V4_7_0,
    );
}

#[test]
fn java_4_7_0_sends_later_to_4_7_0() {
    later("java_4_7_0_sends_later_to_4_7_0", "4.7.0", ServerVersion::V4_7_0);
}

#[test]
fn java_4_7_0_sends_later_to_5_5_0() {
    later("java_4_7_0_sends_later_to_5_5_0", "4.7.0", ServerVersion::V5_5_0);
}

#[test]
fn java_5_5_0_sends_later_to_4_7_0() {
    later("java_5_5_0_sends_later_to_4_7_0", "5.5.0", ServerVersion::V4_7_0);
}

#[test]
fn java_5_5_0_sends_later_to_5_5_0() {
    later("java_5_5_0_sends_later_to_5_5_0", "5.5.0", ServerVersion::V5_5_0);
}

/// Delayed, timed, recalled, prioritized and compressed messages of Java end where those of a real broker of the release do.
fn later(test: &str, client: &str, server: ServerVersion) {
    let Some(mut command) = java_client(test, client, "SendLater.java") else {
        return;
    };
    let is_5 = server == ServerVersion::V5_5_0;
    let cluster = MockCluster::builder()
        .brokers(1)
        .speaks(server)
        .recalls(true)
        .start()
        .unwrap();
    cluster.create_topic(TOPIC, 4);
    command.args([&cluster.name_servers(), TOPIC, GROUP]);
    let output = run(&mut command, CLIENT_DEADLINE).or_panic("the client").stdout;
    let sent = |kind: &str| -> Option<Vec<String>> {
        let line = output
            .lines()
            .find(|line| line.starts_with(&format!("sent {kind} ")))?;
        Some(line.split(' ').skip(2).map(str::to_owned).collect())
    };
    let kinds = || -> Vec<String> {
        let mut kinds: Vec<_> = cluster
            .messages(TOPIC)
            .iter()
            .map(|message| message.keys.join(" "))
            .collect();
        kinds.sort();
        kinds
    };
    let can_time = client.starts_with('5');
    assert_eq!(sent("delay").is_some(), can_time, "{output}");

    // The level's second may be over by now.
    cluster.let_time_pass(Duration::from_secs(2));
    let at_once: &[&str] = match (can_time, is_5) {
        (false, _) => &["compressed", "level"],
        (true, true) => &["compressed", "level", "priority"],
        // 4.x takes them for ordinary properties.
        (true, false) => &["at", "compressed", "delay", "level", "priority", "recalled"],
    };
    assert_eq!(kinds(), at_once);
    cluster.let_time_pass(Duration::from_secs(62));
    if can_time && is_5 {
        assert_eq!(kinds(), ["at", "compressed", "delay", "level", "priority"]);
    }
    for message in cluster.messages(TOPIC) {
        let kind = message.keys.join(" ");
        let sent = sent(&kind).unwrap();
        assert_eq!(
            message.message_id.map(|id| id.to_string()),
            Some(sent[0].clone()),
            "{kind}"
        );
        assert_eq!(message.queue_id.to_string(), sent[3], "{kind}");
        match &*kind {
            "compressed" => {
                // 5.x tells the algorithm of zlib too.
                assert_eq!(message.sys_flag, if can_time { 0x301 } else { 1 });
                assert!(message.body.len() < 5_000 && message.body.starts_with(&[0x78]));
            }
            "priority" if is_5 => assert_eq!(message.queue_id, 2),
            _ => assert_eq!(message.body, kind.as_bytes()),
        }
    }
    let waited = cluster.messages("SCHEDULE_TOPIC_XXXX");
    assert_eq!(waited.len(), 1);
    assert_eq!(waited[0].offset_message_id.as_str(), sent("level").unwrap()[1]);
}

/// The command that runs one of the Java clients, or `None` after having said why it cannot be run.
fn java_client(test: &str, client: &str, program: &str) -> Option<Command> {
    if !left_out::may_run(test, client) {
        return None;
    }
    let jars = run(
        Command::new(path("tests/cluster/get")).arg(client),
        FETCH_DEADLINE,
    );
    let jars = jars.or_panic("tests/cluster/get").stdout;
    let folder = scratch(test);
    let mut command = Command::new(left_out::program("java").expect("java"));
    command
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"])
        // Netty of 4.7.0 reaches into the JDK.
        .args([
            "--add-opens=java.base/java.nio=ALL-UNNAMED",
            "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
        ])
        // Apache's client logs into the home folder unless it is told otherwise.
        .arg(format!("-Duser.home={}", folder.display()))
        .arg(format!(
            "-Drocketmq.client.logRoot={}",
            folder.join("logs").display()
        ))
        .args(["-cp", &format!("{}/*", jars.trim())])
        // Java compiles a single source file itself.
        .arg(path("tests/clients/java").join(program));
    Some(command)
}

/// Apache's producer asks, and a scripted replier answers.
fn java_requests(test: &str, client: &str, server: ServerVersion) {
    const EACH: usize = 8;
    let Some(mut command) = java_client(test, client, "RequestAll.java") else {
        return;
    };
    let cluster = MockCluster::builder().brokers(2).speaks(server).start().unwrap();
    cluster.create_topic(TOPIC, 2);
    cluster.create_topic("silent", 1);
    cluster.reply_with(TOPIC, |request| Some([b"re: ", &*request.body].concat()));
    command.args([&cluster.name_servers(), TOPIC, GROUP, &EACH.to_string(), "silent"]);
    let said = run(&mut command, CLIENT_DEADLINE).or_panic("the client").stdout;
    for way in ["sync", "callback", "queue", "selector"] {
        for number in 0..EACH {
            let line = format!("{way} {number} re: {way} {number}");
            assert!(
                said.lines().any(|said| said == line),
                "{line:?} is not in:\n{said}"
            );
        }
    }
    assert!(said.contains("silent timeout"), "{said}");
    let replies = u64::try_from(4 * EACH).unwrap();
    assert_eq!(cluster.message_count("DefaultCluster_REPLY_TOPIC"), replies);
    for request in cluster.messages(TOPIC) {
        assert!(request.property("CORRELATION_ID").is_some(), "{request:?}");
        // Java leaves that to the brokers, and 4.7.0 brokers do not do it.
        let is_stamped = server != ServerVersion::V4_7_0;
        assert_eq!(request.property("CLUSTER").is_some(), is_stamped);
    }
}

fn java(test: &str, client: &str, server: ServerVersion) {
    let Some(command) = java_client(test, client, "SendAll.java") else {
        return;
    };
    let cluster = send_all(command, server);
    assert!(cluster.heartbeats() > 0);
    assert!(cluster.requests(RequestCode::UNREGISTER_CLIENT) > 0);
    // Java numbers the messages by their flag, in a batch too.
    for message in cluster.messages(TOPIC) {
        let (_, number) = way_and_number(&message);
        assert_eq!(usize::try_from(message.flag).unwrap(), number, "{message:?}");
    }
}

/// Transactions that end at once, and that are asked about twice: only what is committed can be seen, and each once.
fn java_transactions(test: &str, client: &str, server: ServerVersion) {
    let Some(mut command) = java_client(test, client, "SendTransactions.java") else {
        return;
    };
    let cluster = MockCluster::builder()
        .brokers(2)
        .speaks(server)
        // Java makes itself known one second after it has started, and who is not known cannot be asked.
        .transaction_checks(Duration::from_secs(3), Duration::from_millis(500), 15)
        .start()
        .unwrap();
    let count = TRANSACTIONS.to_string();
    command.args([&cluster.name_servers(), TOPIC, GROUP, &count]);
    let output = run(&mut command, CLIENT_DEADLINE).or_panic("the client").stdout;

    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split(' ').collect()).collect();
    let mut expected = Vec::new();
    for way in ["COMMIT_MESSAGE", "ROLLBACK_MESSAGE", "UNKNOW"] {
        let of_way: Vec<_> = lines.iter().filter(|words| words[0] == way).collect();
        assert_eq!(of_way.len(), TRANSACTIONS, "{way} in:\n{output}");
        for (number, words) in of_way.iter().enumerate() {
            assert_eq!(words[1], number.to_string(), "{output}");
            if way == "COMMIT_MESSAGE" || way == "UNKNOW" && number % 2 == 0 {
                expected.push((words[2].to_owned(), format!("body of {way} {number} 中")));
            }
        }
    }
    let asked = |times: &str| {
        lines
            .iter()
            .filter(|words| words[0] == "asked" && words[3] == times)
            .count()
    };
    assert_eq!((asked("1"), asked("2")), (TRANSACTIONS, TRANSACTIONS), "{output}");

    cluster.wait_until(Duration::from_secs(20), |cluster| {
        cluster.open_transactions() == 0
    });
    assert_eq!(cluster.open_transactions(), 0, "{output}");
    let mut seen = Vec::new();
    for message in cluster.messages(TOPIC) {
        assert_eq!(message.property("PGROUP"), Some(GROUP));
        assert_eq!(message.keys[1], "all");
        assert_eq!(message.sys_flag, 8);
        let id = message.message_id.unwrap().to_string();
        seen.push((id, String::from_utf8(message.body).unwrap()));
    }
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected, "{output}");
}

fn go(test: &str, server: ServerVersion) {
    if left_out::program("go").is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{test} must not be left out in CI: no go"
        );
        let line = format!("LEFT OUT: {test}: no go on this machine\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    let mut command = Command::new(go_client());
    command.env("HOME", scratch(test));
    send_all(command, server);
}

/// Every query of Apache's producer is answered as this library's own.
fn asks(test: &str, client: &str, server: ServerVersion) {
    if !left_out::may_run(test, client) {
        return;
    }
    let cluster = MockCluster::builder().brokers(2).speaks(server).start().unwrap();
    cluster.create_topic(TOPIC, 2);
    let producer = Producer::builder(GROUP)
        .name_servers(cluster.name_servers())
        .start()
        .unwrap();
    let queues = producer.publish_queues(TOPIC).unwrap();
    for number in 0..3 {
        for queue in &queues {
            let message = Message::builder(TOPIC).keys(["all", "keys"]).tags("asked");
            let message = message.body(format!("{number} 中 in {queue}")).build().unwrap();
            producer.to(queue.clone()).send(&message).unwrap();
        }
    }
    let mut java = JavaClient::start(client, &cluster.name_servers(), &scratch(test));
    let mut java = |command: String| {
        java.ask(&command, CLIENT_DEADLINE)
            .unwrap_or_else(|error| panic!("{error}"))
    };

    let positions = java(format!("positions {TOPIC}"));
    assert_eq!(positions.len(), queues.len());
    for (queue, line) in queues.iter().zip(&positions) {
        assert_eq!(line["broker_name"].as_str(), Some(queue.broker_name()));
        assert_eq!(line["queue_id"].as_u64(), Some(queue.queue_id().into()));
        assert_eq!(line["min"].as_u64(), Some(producer.min_offset(queue).unwrap()));
        assert_eq!(line["max"].as_u64(), Some(producer.max_offset(queue).unwrap()));
        let earliest = producer.earliest_store_time(queue).unwrap().unwrap();
        let earliest = earliest.duration_since(std::time::UNIX_EPOCH).unwrap();
        let expected = u64::try_from(earliest.as_millis()).unwrap();
        assert_eq!(line["earliest"].as_u64(), Some(expected));
        for ms in [0, expected, expected + 3_600_000] {
            let place = format!("{} {} {ms}", queue.broker_name(), queue.queue_id());
            let found = java(format!("search {TOPIC} {place}"));
            let time = std::time::UNIX_EPOCH + Duration::from_millis(ms);
            let ours = producer.search_offset(queue, time, Boundary::Lower).unwrap();
            assert_eq!(found[0]["offset"].as_u64(), Some(ours));
        }
    }

    let found = producer.query_messages(TOPIC, "keys", 64, ..).unwrap().messages;
    assert_eq!(found.len(), 3 * queues.len());
    let mut read: Vec<_> = java(format!("key {TOPIC} keys 64 0 {}", i64::MAX))
        .iter()
        .map(ReadMessage::parse)
        .collect();
    assert_eq!(read.len(), found.len());
    for message in &found {
        let at = read
            .iter()
            .position(|read| read.offset_message_id == message.offset_message_id().as_str())
            .expect("Java finds it too");
        assert_same(message, &read.swap_remove(at));
    }
    let some = &found[0];
    for id in [
        some.message_id().to_string(),
        some.offset_message_id().to_string(),
    ] {
        let lines = java(format!("view {TOPIC} {id}"));
        assert_same(some, &ReadMessage::parse(&lines[0]));
    }

    java("new_topic DefaultCluster made_by_java 3".to_owned());
    assert_eq!(producer.publish_queues("made_by_java").unwrap().len(), 2 * 3);
}

/// A message as we show it and as Java shows it.
#[track_caller]
fn assert_same(ours: &StoredMessage, javas: &ReadMessage) {
    assert_eq!((ours.topic(), ours.body()), (&*javas.topic, &*javas.body));
    assert_eq!(
        (ours.queue().queue_id(), ours.queue_offset()),
        (javas.queue_id, javas.queue_offset)
    );
    assert_eq!(ours.message_id().as_str(), javas.message_id);
    assert_eq!(ours.offset_message_id().as_str(), javas.offset_message_id);
    assert_eq!(ours.tags(), javas.tags.as_deref());
    let properties: BTreeMap<_, _> = ours
        .properties()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(properties, javas.properties);
    assert_eq!(ours.store_timestamp_ms().unsigned_abs(), javas.store_timestamp_ms);
}

/// Builds the Go client, once.
fn go_client() -> &'static Path {
    static CLIENT: OnceLock<PathBuf> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let client = scratch("go_client").join("send_all");
        let mut build = Command::new(left_out::program("go").expect("go"));
        build
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&client)
            .arg(".");
        run(build.current_dir(path("tests/clients/go")), FETCH_DEADLINE).or_panic("go build");
        client
    })
}

/// Runs a client against a cluster of two brokers and compares what they have stored with what it was given and what
/// it was answered.
fn send_all(mut client: Command, server: ServerVersion) -> MockCluster {
    let cluster = MockCluster::builder().brokers(2).speaks(server).start().unwrap();
    let (count, batch) = (COUNT.to_string(), BATCH.to_string());
    client.args([&cluster.name_servers(), TOPIC, GROUP, &count, &batch]);
    let output = run(&mut client, CLIENT_DEADLINE).or_panic("the client").stdout;

    let messages = stored(&cluster);
    for (way, number) in expected() {
        let message = &messages[&(way, number)];
        assert_eq!(message.body, format!("body of {way} {number} 中").as_bytes());
        assert_eq!(message.tags.as_deref(), Some(&*format!("Tag-{way}")));
        assert_eq!(message.keys, [format!("key-{way}-{number}"), "all".to_owned()]);
        assert_eq!(message.producer_group, GROUP);
    }
    let answers: Vec<Answer> = output.lines().filter_map(Answer::parse).collect();
    assert_eq!(answers.len(), 2 * COUNT + 1, "{output}");
    for answer in answers {
        let count = if answer.way == "batch" { BATCH } else { 1 };
        assert_eq!(answer.offset_message_ids.len(), count, "{answer:?}");
        for (place, offset_message_id) in answer.offset_message_ids.iter().enumerate() {
            let message = &messages[&(answer.way.as_str(), answer.number + place)];
            assert_eq!(message.offset_message_id.as_str(), offset_message_id);
            assert_eq!(message.broker_name, answer.broker_name);
            assert_eq!(message.queue_id, answer.queue_id);
            assert_eq!(
                usize::try_from(message.queue_offset).unwrap(),
                answer.queue_offset + place
            );
            if count == 1 {
                assert_eq!(
                    message.message_id.map(|id| id.to_string()),
                    Some(answer.message_id.clone())
                );
            }
        }
    }
    cluster
}

fn expected() -> impl Iterator<Item = (&'static str, usize)> {
    [
        ("sync", COUNT),
        ("async", COUNT),
        ("oneway", COUNT),
        ("batch", BATCH),
    ]
    .into_iter()
    .flat_map(|(way, count)| (0..count).map(move |number| (way, number)))
}

/// All messages by way and number: none is missing, doubled or unexpected.
fn stored(cluster: &MockCluster) -> BTreeMap<(&'static str, usize), MockMessage> {
    let all = 3 * COUNT + BATCH;
    let wanted = u64::try_from(all).unwrap();
    cluster.wait_until(Duration::from_secs(20), |cluster| {
        cluster.message_count(TOPIC) >= wanted
    });
    let messages = cluster.messages(TOPIC);
    let seen: Vec<_> = messages.iter().map(way_and_number).collect();
    assert_eq!(messages.len(), all, "{seen:?}");
    let messages: BTreeMap<_, _> = messages
        .into_iter()
        .map(|message| (way_and_number(&message), message))
        .collect();
    assert!(messages.keys().copied().eq({
        let mut expected: Vec<_> = expected().collect();
        expected.sort_unstable();
        expected
    }));
    messages
}

/// From the key of a message, after property `way` has said the same.
fn way_and_number(message: &MockMessage) -> (&'static str, usize) {
    let parts: Vec<&str> = message.keys[0].split('-').collect();
    let way = ["sync", "async", "oneway", "batch"]
        .into_iter()
        .find(|way| *way == parts[1])
        .unwrap();
    assert_eq!(message.property("way"), Some(way));
    (way, parts[2].parse().unwrap())
}

/// What a client says about one send.
#[derive(Debug)]
struct Answer {
    way: String,
    number: usize,
    message_id: String,
    offset_message_ids: Vec<String>,
    broker_name: String,
    queue_id: u32,
    queue_offset: usize,
}

impl Answer {
    /// `None` for a line of something else, such as a logger's complaint.
    fn parse(line: &str) -> Option<Answer> {
        let words: Vec<&str> = line.split(' ').collect();
        let [
            way,
            number,
            message_id,
            offset_message_ids,
            broker_name,
            queue_id,
            queue_offset,
        ] = words[..]
        else {
            return None;
        };
        Some(Answer {
            way: way.to_owned(),
            number: number.parse().ok()?,
            message_id: message_id.to_owned(),
            offset_message_ids: offset_message_ids.split(',').map(str::to_owned).collect(),
            broker_name: broker_name.to_owned(),
            queue_id: queue_id.parse().ok()?,
            queue_offset: queue_offset.parse().ok()?,
        })
    }
}

fn path(in_crate: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(in_crate)
}

/// An empty folder under the build folder.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("apache_clients")
        .join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
