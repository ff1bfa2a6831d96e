//! Requests that consumers reply to: Apache's Java consumer, and this library's own replies.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rocketmq_producer::{Delivery, Error, Message, Producer, Reply, SendFailure, Target};

use crate::{
    PATIENCE, Shared, builder, find, producer, shut_down,
    support::{RealCluster, Replier, read_all},
};

/// Blocking and asynchronous requests each, so many that all queues are asked through.
const EACH: usize = 10;

type Outcome = Result<Reply, SendFailure>;

fn question(topic: &str, text: &str) -> Message {
    Message::builder(topic).keys([text]).body(text).build().unwrap()
}

fn ask(producer: &Producer, message: Message, timeout: Duration) -> mpsc::Receiver<Outcome> {
    let (done, outcome) = mpsc::channel();
    producer.request_async(message, timeout, move |result| done.send(result).unwrap());
    outcome
}

#[track_caller]
fn replied(outcome: &mpsc::Receiver<Outcome>) -> Reply {
    let outcome = outcome.recv_timeout(3 * PATIENCE).expect("the closure is called");
    outcome.unwrap_or_else(|failure| panic!("{}", failure.error))
}

#[track_caller]
fn assert_reply(reply: &Reply, text: &str) {
    assert_eq!(
        String::from_utf8_lossy(reply.body()),
        format!("re: {text}"),
        "{reply:?}"
    );
    assert_eq!(reply.message.property("asked"), Some(text));
    assert_eq!(reply.message.topic(), "DefaultCluster_REPLY_TOPIC");
    assert!(reply.message.born_host().ip().is_loopback(), "{reply:?}");
}

pub(crate) fn a_java_consumer_replies_in_every_way_of_asking(version: &str) {
    let cluster = Shared::Open.of(version);
    cluster.create_topic("questions", 2);
    let replier = Replier::start(version, &cluster.name_servers, "questions", "repliers");
    let producer = producer(&cluster, "askers");
    let mut results = Vec::new();
    // The first request of a producer that has sent nothing, not even a heartbeat.
    for i in 0..EACH {
        let text = format!("blocking-{i}");
        let reply = producer
            .request(&question("questions", &text), 2 * PATIENCE)
            .unwrap();
        assert_reply(&reply, &text);
        results.extend(reply.sent);
    }
    let waiting: Vec<_> = (0..EACH)
        .map(|i| {
            let text = format!("closure-{i}");
            let outcome = ask(&producer, question("questions", &text), 2 * PATIENCE);
            (text, outcome)
        })
        .collect();
    for (text, outcome) in &waiting {
        let reply = replied(outcome);
        assert_reply(&reply, text);
        results.extend(reply.sent);
    }
    let queues = producer.publish_queues("questions").unwrap();
    assert_eq!(queues.len(), 4);
    for (i, queue) in queues.iter().enumerate() {
        let text = format!("queue-{i}");
        let aimed = producer.to(queue.clone());
        let reply = aimed
            .request(&question("questions", &text), 2 * PATIENCE)
            .unwrap();
        assert_reply(&reply, &text);
        assert_eq!(*reply.sent.as_ref().unwrap().queue, *queue);
        results.extend(reply.sent);
    }
    let by_key: BTreeSet<_> = (0..2)
        .map(|i| {
            let text = format!("key-{i}");
            let aimed = producer.to(Target::key("order-1"));
            let reply = aimed
                .request(&question("questions", &text), 2 * PATIENCE)
                .unwrap();
            assert_reply(&reply, &text);
            let queue = reply.sent.as_ref().unwrap().queue.queue_id();
            results.extend(reply.sent);
            queue
        })
        .collect();
    assert_eq!(by_key.len(), 1);
    let asked = 2 * EACH + 4 + 2;
    for (id, status) in replier.said(asked, PATIENCE) {
        assert_eq!(
            status, "SEND_OK",
            "the broker could not hand over the reply to {id}"
        );
    }
    let stats = producer.stats();
    assert_eq!(stats.requests.replied, u64::try_from(asked).unwrap());
    assert_eq!((stats.requests.waiting, stats.requests.late_replies), (0, 0));
    // The second reply of a replier that sends two is late, and taken all the same.
    let twice = producer
        .request(&question("questions", "twice"), 2 * PATIENCE)
        .unwrap();
    assert_reply(&twice, "twice");
    assert!(
        replier
            .said(2, PATIENCE)
            .iter()
            .all(|(_, status)| status == "SEND_OK")
    );
    assert_eq!(producer.stats().requests.late_replies, 1);
    results.extend(twice.sent);
    // Java compresses what is longer than 4096 bytes.
    if cfg!(feature = "zlib") {
        let long = producer
            .request(&question("questions", "long"), 2 * PATIENCE)
            .unwrap();
        assert_eq!(long.body(), "x".repeat(20_000).as_bytes());
        assert_eq!(long.message.sys_flag() & 1, 1, "it was not compressed");
        results.extend(long.sent);
    }
    shut_down(&producer);
    let stored = asked + 1 + usize::from(cfg!(feature = "zlib"));
    let read = read_all(&cluster, &["questions"], stored);
    assert_eq!(read.len(), stored);
    assert!(!results.is_empty());
    for result in &results {
        let request = find(&read, result);
        assert_eq!(request.properties["REPLY_TO_CLIENT"], producer.client_id());
        assert_eq!(request.properties["CLUSTER"], "DefaultCluster");
        assert_eq!(request.properties["TTL"], (2 * PATIENCE).as_millis().to_string());
        assert_eq!(request.properties["CORRELATION_ID"].len(), 36);
    }
}

pub(crate) fn a_request_without_a_replier_is_stored_and_times_out(version: &str) {
    let cluster = Shared::Open.of(version);
    cluster.create_topic("ignored", 1);
    let producer = producer(&cluster, "ignored");
    let timeout = Duration::from_secs(2);
    let blocking = producer.request(&question("ignored", "a"), timeout).unwrap_err();
    let outcome = ask(&producer, question("ignored", "b"), timeout);
    let closure = outcome.recv_timeout(3 * PATIENCE).unwrap().unwrap_err();
    assert_eq!(closure.message, question("ignored", "b"));
    shut_down(&producer);
    let read = read_all(&cluster, &["ignored"], 2);
    assert_eq!(read.len(), 2);
    for error in [blocking, closure.error] {
        assert_eq!(error.delivery(), Delivery::Stored, "{error}");
        let Error::NoReply(no_reply) = &error else {
            panic!("{error:?}")
        };
        assert!(no_reply.waited() >= timeout && error.is_timeout());
        let id = no_reply.correlation_id();
        assert!(
            read.iter()
                .any(|request| request.properties["CORRELATION_ID"] == id),
            "{id} is not stored"
        );
    }
}

/// The properties of the one stored request, as Apache's client reads them.
fn consumed(cluster: &RealCluster, topic: &str) -> Vec<(String, String)> {
    let read = read_all(cluster, &[topic], 1);
    assert_eq!(read.len(), 1);
    read[0].properties.clone().into_iter().collect()
}

pub(crate) fn a_reply_of_this_library_comes_to_its_request(version: &str) {
    let cluster = Shared::Open.of(version);
    let replier = producer(&cluster, "our_repliers");
    let producer = producer(&cluster, "our_askers");
    // Through either broker, whichever stored the request.
    for broker in ["broker-a", "broker-b"] {
        let topic = format!("ours_{broker}");
        cluster.create_topic(&topic, 1);
        let outcome = ask(&producer, question(&topic, "ours"), 4 * PATIENCE);
        let request = consumed(&cluster, &topic);
        let reply = Message::reply_to(request.iter().map(|(name, value)| (&**name, &**value)))
            .unwrap()
            .property("asked", "ours")
            .body("re: ours")
            .build()
            .unwrap();
        let queues = replier.publish_queues(reply.topic()).unwrap();
        let queue = queues.iter().find(|queue| queue.broker_name() == broker).unwrap();
        let result = replier.to(queue.clone()).send(&reply).unwrap();
        assert_reply(&replied(&outcome), "ours");
        let read = read_all(&cluster, &["DefaultCluster_REPLY_TOPIC"], 1);
        assert_eq!(find(&read, &result).properties["MSG_TYPE"], "reply");
        // Nobody waits for it any more; a broker that could hand it over says so.
        replier.send(&reply).unwrap();
        assert!(producer.stats().requests.late_replies > 0);
    }
    shut_down(&producer);
    shut_down(&replier);
}

/// Passes bytes on between clients and one broker, until it is told to cut them off.
struct Proxy {
    address: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let kept = Arc::clone(&open);
        // It ends with the test process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else {
                    continue;
                };
                kept.lock()
                    .extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (upwards, downwards) = (
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                );
                for (from, to) in [upwards, downwards] {
                    thread::spawn(move || pass_on(from, to));
                }
            }
        });
        Self { address, open }
    }

    fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock());
        for stream in &open {
            drop(stream.shutdown(Shutdown::Both));
        }
        open.len() / 2
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}

pub(crate) fn a_lost_connection_is_made_anew_before_the_reply(version: &str) {
    let cluster = Shared::Open.of(version);
    cluster.create_topic("cut", 1);
    let replier = Replier::start(version, &cluster.name_servers, "cut", "cut_repliers");
    let proxies = Arc::<Mutex<std::collections::HashMap<String, Arc<Proxy>>>>::default();
    let mapped = Arc::clone(&proxies);
    let producer = builder(&cluster, "cut_askers")
        .address_map(move |address| {
            let mut mapped = mapped.lock();
            let proxy = mapped
                .entry(address.to_owned())
                .or_insert_with(|| Arc::new(Proxy::start(address.to_owned())));
            Some(proxy.address.clone())
        })
        .start()
        .unwrap();
    for _ in 0..3 {
        let outcome = ask(&producer, question("cut", "slow"), 2 * PATIENCE);
        // The replier takes two seconds; meanwhile every connection to every broker goes.
        thread::sleep(Duration::from_millis(700));
        let cut: usize = proxies.lock().values().map(|proxy| proxy.cut()).sum();
        assert!(cut >= 2, "{cut} connections cut");
        assert_reply(&replied(&outcome), "slow");
    }
    assert!(
        replier
            .said(3, PATIENCE)
            .iter()
            .all(|(_, status)| status == "SEND_OK")
    );
    shut_down(&producer);
}
