//! A request ends once: with the first reply, or with an error that says whether the request is stored and that no reply
//! came. Whatever happens to the connections meanwhile, the way of the reply is kept open.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod raw_client;
#[path = "support/harness.rs"]
mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use raw_client::RawClient;
use rocketmq_producer::{
    Delivery, Error, Message, MessageQueue, NoReply, NoReplyCause, Phase, Producer, Reply, RequestCode,
    ResponseCode, SendFailure, Target,
    mock::{MockCluster, MockMessage, ServerVersion},
};
use serde_json::json;
use support::{
    GRACE, GROUP, PATIENCE, assert_says, assert_took, message, milliseconds, producer_for, timed, within,
};

const VERSIONS: [ServerVersion; 3] = [
    ServerVersion::V4_7_0,
    ServerVersion::V4_9_7,
    ServerVersion::V5_5_0,
];

const REPLY_TOPIC: &str = "DefaultCluster_REPLY_TOPIC";

const PUSH: RequestCode = RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT;

/// A cluster of so many brokers whose consumers of `prices` reply with the body that they were asked with.
fn cluster(brokers: usize) -> MockCluster {
    let cluster = MockCluster::start(brokers).unwrap();
    cluster.create_topic("prices", 4);
    cluster.reply_with("prices", echo);
    cluster
}

#[allow(clippy::unnecessary_wraps, reason = "as a replier is")]
fn echo(request: &MockMessage) -> Option<Vec<u8>> {
    Some([b"re: ", &*request.body].concat())
}

fn producer(cluster: &MockCluster) -> Producer {
    producer_for(cluster.name_servers()).start().unwrap()
}

/// Asks asynchronously, and gives back where the outcome comes.
fn ask(
    producer: &Producer,
    message: Message,
    timeout: Duration,
) -> mpsc::Receiver<Result<Reply, SendFailure>> {
    let (done, outcome) = mpsc::channel();
    producer.request_async(message, timeout, move |result| done.send(result).unwrap());
    outcome
}

fn outcome_of(outcome: &mpsc::Receiver<Result<Reply, SendFailure>>) -> Result<Reply, SendFailure> {
    outcome.recv_timeout(PATIENCE).expect("the closure is called")
}

#[track_caller]
fn no_reply(error: &Error) -> &NoReply {
    match error {
        Error::NoReply(no_reply) => no_reply,
        other => panic!("expected NoReply, got {other:?}"),
    }
}

/// Pushes a reply as a consumer's would be, on every connection of a broker.
fn push(
    cluster: &MockCluster,
    broker: &str,
    correlation_id: &str,
    body: &str,
) -> rocketmq_producer::mock::MockPush {
    let properties = format!("MSG_TYPE\u{1}reply\u{2}CORRELATION_ID\u{1}{correlation_id}\u{2}");
    cluster
        .broker(broker)
        .push(PUSH)
        .field("topic", REPLY_TOPIC)
        .field("queueId", "0")
        .field("sysFlag", "0")
        .field("properties", properties)
        .body(body)
        .send()
}

/// The stored requests of a topic, when there are so many.
fn stored(cluster: &MockCluster, topic: &str, count: usize) -> Vec<MockMessage> {
    assert!(
        cluster.wait_until(PATIENCE, |cluster| cluster.messages(topic).len() >= count),
        "{:?}",
        cluster.messages(topic)
    );
    cluster.messages(topic)
}

fn correlation_id(request: &MockMessage) -> String {
    request.property("CORRELATION_ID").unwrap().to_owned()
}

#[test]
fn the_reply_comes_to_a_blocking_caller_and_to_a_closure() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = MockCluster::builder().brokers(2).speaks(version).start().unwrap();
            cluster.reply_with("prices", echo);
            let producer = producer(&cluster);
            // The very first request: nothing is known, connected or greeted.
            let reply = producer.request(&message("prices"), PATIENCE).unwrap();
            assert_eq!(reply.body(), b"re: Hello RocketMQ");
            assert_eq!(reply.message.topic(), REPLY_TOPIC);
            assert!(reply.message.property("ARRIVE_TIME").is_some());
            assert!(reply.message.property("PUSH_REPLY_TIME").is_some());
            assert!(reply.message.born_host().ip().is_loopback());
            let outcome = ask(&producer, message("prices"), PATIENCE);
            let reply = outcome_of(&outcome).unwrap();
            assert_eq!(reply.body(), b"re: Hello RocketMQ");
            let stats = producer.stats();
            assert_eq!((stats.requests.replied, stats.requests.waiting), (2, 0));
            assert_eq!(stats.sends.total(), stats.sends.stored);
            assert!(stats.to_string().contains("requests: 2 replied"), "{stats}");
            assert!(producer.shutdown(PATIENCE).is_clean());
            assert_eq!(cluster.message_count(REPLY_TOPIC), 2, "{version:?}");
        }
    });
}

#[test]
fn a_request_tells_the_consumer_whom_and_where_to_reply_to() {
    within(PATIENCE, || {
        for version in VERSIONS {
            let cluster = MockCluster::builder().speaks(version).start().unwrap();
            cluster.reply_with("prices", echo);
            let producer = producer(&cluster);
            let question = Message::builder("prices")
                .tags("now")
                .keys(["shirt"])
                .property("size", "M")
                .body("how much?")
                .build()
                .unwrap();
            let reply = producer.request(&question, milliseconds(4321)).unwrap();
            let request = &cluster.messages("prices")[0];
            assert_eq!(request.property("REPLY_TO_CLIENT"), Some(producer.client_id()));
            assert_eq!(request.property("TTL"), Some("4321"));
            assert_eq!(
                request.property("CLUSTER"),
                Some("DefaultCluster"),
                "{version:?} needs it"
            );
            assert_eq!(request.property("size"), Some("M"));
            assert_eq!(
                (request.tags.as_deref(), &*request.keys[0]),
                (Some("now"), "shirt")
            );
            assert_eq!(
                reply.message.property("CORRELATION_ID"),
                Some(&*correlation_id(request))
            );
            // Each request has an id of its own, and the message is not changed.
            producer.request(&question, PATIENCE).unwrap();
            let requests = cluster.messages("prices");
            assert_ne!(correlation_id(&requests[0]), correlation_id(&requests[1]));
            assert_eq!(question.properties().count(), 3);
        }
    });
}

#[test]
fn a_request_can_be_aimed() {
    within(PATIENCE, || {
        let cluster = cluster(2);
        let producer = producer(&cluster);
        let queue = MessageQueue::new("prices", "broker-b", 3);
        let targets = [
            Target::from(queue.clone()),
            Target::select(|queues, _| queues.len() - 1),
            Target::key("shirt"),
        ];
        for target in &targets {
            let aimed = producer.to(target.clone());
            let blocking = aimed.request(&message("prices"), PATIENCE).unwrap();
            let (done, outcome) = mpsc::channel();
            aimed.request_async(message("prices"), PATIENCE, move |result| {
                done.send(result).unwrap();
            });
            let closure = outcome_of(&outcome).unwrap();
            assert_eq!(blocking.body(), closure.body());
        }
        let places: Vec<_> = cluster
            .messages("prices")
            .iter()
            .map(|request| (request.broker_name.clone(), request.queue_id))
            .collect();
        assert!(
            places[..4]
                .iter()
                .all(|place| *place == ("broker-b".to_owned(), 3)),
            "{places:?}"
        );
        assert_eq!(places[4], places[5], "by the same key");
    });
}

#[test]
fn without_a_replier_the_error_says_that_the_request_is_stored_and_no_reply_came() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer(&cluster);
        let timeout = milliseconds(200);
        let (blocking, took) = timed(|| producer.request(&message("prices"), timeout));
        assert_took(took, timeout, timeout + GRACE);
        let outcome = ask(&producer, message("prices"), timeout);
        let failure = outcome_of(&outcome).unwrap_err();
        assert_eq!(failure.message, message("prices"));
        let requests = stored(&cluster, "prices", 2);
        for (error, request) in [blocking.unwrap_err(), failure.error].iter().zip(&requests) {
            assert_eq!(error.delivery(), Delivery::Stored);
            assert!(error.is_timeout());
            let id = correlation_id(request);
            assert_says(
                error,
                &["prices", "no reply", &id, "TTL 200 ms", "the request is stored"],
            );
            let no_reply = no_reply(error);
            assert_eq!((no_reply.correlation_id(), no_reply.ttl()), (&*id, timeout));
            assert!(no_reply.waited() >= timeout && no_reply.send_error().is_none());
            assert_eq!(no_reply.cause(), &NoReplyCause::TimeOver);
        }
        let stats = producer.stats();
        assert_eq!((stats.requests.unanswered, stats.requests.waiting), (2, 0));
        assert_eq!(stats.sends.stored, 2);
    });
}

#[test]
fn late_foreign_and_repeated_replies_are_counted_and_acknowledged() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer(&cluster);
        let late = producer
            .request(&message("prices"), milliseconds(50))
            .unwrap_err();
        let late_id = no_reply(&late).correlation_id().to_owned();
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let id = correlation_id(&stored(&cluster, "prices", 2)[1]);
        // Four pushes, of which only the third is waited for.
        let pushes = [
            push(&cluster, "broker-a", &late_id, "late"),
            push(&cluster, "broker-a", "no-such-request", "foreign"),
            push(&cluster, "broker-a", &id, "first"),
            push(&cluster, "broker-a", &id, "repeated"),
        ];
        assert_eq!(outcome_of(&outcome).unwrap().body(), b"first");
        for push in &pushes {
            assert!(cluster.wait_until(PATIENCE, |_| push.answers().len() == 1));
            assert_eq!(push.answers()[0].code, ResponseCode::SUCCESS);
        }
        let requests = producer.stats().requests;
        assert_eq!(
            (requests.late_replies, requests.replied, requests.unanswered),
            (3, 1, 1)
        );
        assert!(
            outcome.recv_timeout(milliseconds(50)).is_err(),
            "the closure was called once"
        );
    });
}

#[test]
fn a_push_that_is_no_reply_is_refused_and_harms_nobody() {
    within(PATIENCE, || {
        let cluster = cluster(1);
        let producer = producer(&cluster);
        producer.request(&message("prices"), PATIENCE).unwrap();
        let broken = cluster.broker("broker-a").push(PUSH).field("sysFlag", "x").send();
        assert!(cluster.wait_until(PATIENCE, |_| broken.answers().len() == 1));
        assert_eq!(broken.answers()[0].code, ResponseCode::SYSTEM_ERROR);
        let without_id = cluster.broker("broker-a").push(PUSH).field("topic", "t").send();
        assert!(cluster.wait_until(PATIENCE, |_| without_id.answers().len() == 1));
        assert_eq!(without_id.answers()[0].code, ResponseCode::SUCCESS);
        producer.request(&message("prices"), PATIENCE).unwrap();
        assert_eq!(producer.stats().requests.late_replies, 1);
    });
}

#[test]
fn a_reply_that_cannot_be_read_ends_its_request_and_says_why() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer(&cluster);
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let id = correlation_id(&stored(&cluster, "prices", 1)[0]);
        // Bit 0: compressed, with zlib. It is not.
        let push = cluster
            .broker("broker-a")
            .push(PUSH)
            .field("topic", REPLY_TOPIC)
            .field("sysFlag", "1")
            .field("properties", format!("CORRELATION_ID\u{1}{id}\u{2}"))
            .body("no zlib")
            .send();
        let error = outcome_of(&outcome).unwrap_err().error;
        assert_eq!(error.delivery(), Delivery::Stored);
        assert!(matches!(no_reply(&error).cause(), NoReplyCause::Unreadable(_)));
        assert_says(&error, &["cannot be read", "ZLIB", &id, "the request is stored"]);
        assert!(cluster.wait_until(PATIENCE, |_| push.answers().len() == 1));
        assert_eq!(push.answers()[0].code, ResponseCode::SUCCESS);
    });
}

#[test]
fn every_broker_that_may_bring_the_reply_knows_the_producer_before_the_request_is_sent() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        // Only broker-a has the topic; the reply may come through either.
        cluster.broker("broker-a").set_queues("prices", 4);
        cluster.record_requests();
        let producer = producer(&cluster);
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let request = stored(&cluster, "prices", 1).remove(0);
        let log = cluster.request_log();
        let sent = log
            .iter()
            .position(|request| request.code == RequestCode::SEND_MESSAGE_V2);
        let heartbeats = |of: &str| {
            log[..sent.unwrap()]
                .iter()
                .filter(|request| request.server_name == of && request.code == RequestCode::HEART_BEAT)
                .count()
        };
        assert_eq!((heartbeats("broker-a"), heartbeats("broker-b")), (1, 1));
        // Another producer replies, through broker-b.
        let replier = producer_for(cluster.name_servers()).start().unwrap();
        let properties = request.properties.iter();
        let reply = Message::reply_to(properties.map(|(name, value)| (&**name, &**value)))
            .unwrap()
            .body("42")
            .build()
            .unwrap();
        let result = replier
            .to(MessageQueue::new(REPLY_TOPIC, "broker-b", 0))
            .send(&reply)
            .unwrap();
        assert_eq!(result.queue.broker_name(), "broker-b");
        let reply = outcome_of(&outcome).unwrap();
        assert_eq!(reply.body(), b"42");
        assert_eq!(reply.message.queue().broker_name(), "broker-b");
        assert_eq!(cluster.requests(RequestCode::SEND_REPLY_MESSAGE_V2), 1);
    });
}

#[test]
fn a_reply_to_somebody_who_has_left_is_refused_and_says_so() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).retries(0).start().unwrap();
        let gone = [
            ("CLUSTER", "DefaultCluster"),
            ("CORRELATION_ID", "c"),
            ("REPLY_TO_CLIENT", "10.0.0.9@gone"),
        ];
        let reply = Message::reply_to(gone).unwrap().body("42").build().unwrap();
        let error = producer.send(&reply).unwrap_err();
        assert_says(&error, &["channel of <10.0.0.9@gone> not found"]);
        assert_eq!(error.delivery(), Delivery::Unknown);
    });
}

#[test]
fn a_connection_that_is_lost_before_the_reply_is_made_anew_for_it() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("prices", 4);
        let producer = producer(&cluster);
        for brokers in [&["broker-a"][..], &["broker-a", "broker-b"]] {
            let count = cluster.messages("prices").len();
            let outcome = ask(&producer, message("prices"), PATIENCE);
            let request = stored(&cluster, "prices", count + 1).pop().unwrap();
            let heartbeats = cluster.heartbeats();
            for broker in brokers {
                cluster.broker(broker).reset_connections();
            }
            let expected = heartbeats + u64::try_from(brokers.len()).unwrap();
            // Nothing is sent meanwhile, so nobody else would connect.
            assert!(
                cluster.wait_until(PATIENCE, |cluster| cluster.heartbeats() >= expected),
                "{:?}",
                cluster.clients()
            );
            let replier = producer_for(cluster.name_servers()).start().unwrap();
            let properties = request.properties.iter();
            let reply = Message::reply_to(properties.map(|(name, value)| (&**name, &**value)));
            let reply = reply.unwrap().body("after all").build().unwrap();
            let queue = MessageQueue::new(REPLY_TOPIC, brokers[0], 0);
            replier
                .to(queue)
                .send(&reply)
                .expect("the broker knows where the requester is");
            assert_eq!(outcome_of(&outcome).unwrap().body(), b"after all");
        }
    });
}

#[test]
fn a_connection_that_takes_the_place_of_one_that_still_lives_brings_replies() {
    within(PATIENCE, || {
        let cluster = cluster(1);
        let producer = producer(&cluster);
        producer.request(&message("prices"), PATIENCE).unwrap();
        // The broker sends it away, so the next request goes on another connection, while the first is still open.
        cluster.broker("broker-a").go_away();
        let reply = producer.request(&message("prices"), PATIENCE).unwrap();
        assert_eq!(reply.body(), b"re: Hello RocketMQ");
        let to_broker = |cluster: &MockCluster| {
            let connections = cluster.connections();
            connections.iter().filter(|c| c.server_name == "broker-a").count()
        };
        // When the first ends, the broker forgets where the producer is.
        assert!(cluster.wait_until(PATIENCE, |cluster| to_broker(cluster) == 1));
        // The first connection began with one heartbeat, the second with two; then the producer is introduced anew.
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.heartbeats() >= 4));
        let (reply, took) = timed(|| producer.request(&message("prices"), PATIENCE));
        assert_eq!(reply.unwrap().body(), b"re: Hello RocketMQ");
        assert_took(took, Duration::ZERO, GRACE);
    });
}

#[test]
fn a_broker_that_has_forgotten_the_producer_is_greeted_anew_after_an_unanswered_request() {
    within(PATIENCE, || {
        let cluster = cluster(1);
        let producer = producer(&cluster);
        producer.request(&message("prices"), PATIENCE).unwrap();
        cluster.broker("broker-a").reset_connections();
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().is_empty()));
        producer.request(&message("prices"), PATIENCE).unwrap();
        // As if the broker saw the end of the first connection only now: it forgets the client, on whatever connection.
        let mut late = RawClient::to_broker(&cluster, "broker-a");
        let body = json!({
            "clientID": producer.client_id(),
            "producerDataSet": [{"groupName": GROUP}],
            "consumerDataSet": [],
        });
        assert_eq!(late.ask(34, &json!({}), body.to_string().as_bytes()).code(), 0);
        drop(late);
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().len() == 1));
        let error = producer
            .request(&message("prices"), milliseconds(300))
            .unwrap_err();
        assert_eq!(error.delivery(), Delivery::Stored);
        let reply = producer.request(&message("prices"), PATIENCE).unwrap();
        assert_eq!(reply.body(), b"re: Hello RocketMQ");
    });
}

#[test]
fn a_broker_that_goes_down_and_comes_back_can_bring_the_reply() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer(&cluster);
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let request = stored(&cluster, "prices", 1).remove(0);
        cluster.broker("broker-a").set_down();
        cluster.broker("broker-a").set_up().unwrap();
        assert!(cluster.wait_until(PATIENCE, |cluster| !cluster.clients().is_empty()));
        push(&cluster, "broker-a", &correlation_id(&request), "back");
        assert_eq!(outcome_of(&outcome).unwrap().body(), b"back");
    });
}

#[test]
fn a_connection_that_is_made_anew_for_nobody_is_not() {
    within(PATIENCE, || {
        let cluster = cluster(1);
        let producer = producer(&cluster);
        producer.request(&message("prices"), PATIENCE).unwrap();
        cluster.broker("broker-a").reset_connections();
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().is_empty()));
        thread::sleep(milliseconds(200));
        assert!(cluster.clients().is_empty(), "no request waits");
        // The next one connects, says goodbye for the connection before, and greets before it sends.
        producer.request(&message("prices"), PATIENCE).unwrap();
    });
}

#[test]
fn a_broker_that_is_down_or_silent_does_not_stop_requests_to_the_other() {
    within(PATIENCE, || {
        let cluster = cluster(2);
        cluster.broker("broker-b").set_down();
        let producer = producer(&cluster);
        let queue = MessageQueue::new("prices", "broker-a", 0);
        let reply = producer.to(queue.clone()).request(&message("prices"), PATIENCE);
        assert_eq!(reply.unwrap().body(), b"re: Hello RocketMQ");
        cluster.broker("broker-b").set_up().unwrap();
        cluster.broker("broker-b").pause();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let timeout = milliseconds(1500);
        for expected in [milliseconds(500), Duration::ZERO] {
            let aimed = producer.to(queue.clone());
            let (reply, took) = timed(|| aimed.request(&message("prices"), timeout));
            assert_eq!(reply.unwrap().body(), b"re: Hello RocketMQ");
            // The first waits a third of its time for the silent broker, the next do not.
            assert_took(took, expected, expected + milliseconds(450));
        }
        cluster.broker("broker-b").resume();
    });
}

#[test]
fn a_request_that_cannot_be_sent_ends_with_the_error_of_its_send() {
    within(PATIENCE, || {
        let cluster = MockCluster::builder().auto_create_topics(false).start().unwrap();
        let producer = producer_for(cluster.name_servers()).retries(0).start().unwrap();
        let no_route = producer.request(&message("prices"), PATIENCE).unwrap_err();
        assert!(matches!(no_route, Error::NoRoute { .. }), "{no_route:?}");
        let outcome = ask(&producer, message("prices"), PATIENCE);
        assert!(matches!(
            outcome_of(&outcome).unwrap_err().error,
            Error::NoRoute { .. }
        ));
        cluster.create_topic("refused", 1);
        let sends = || cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2);
        sends()
            .times(2)
            .reply(ResponseCode::MESSAGE_ILLEGAL, "no questions");
        let refused = producer.request(&message("refused"), PATIENCE).unwrap_err();
        assert_eq!(refused.delivery(), Delivery::Refused);
        let outcome = ask(&producer, message("refused"), PATIENCE);
        assert_eq!(
            outcome_of(&outcome).unwrap_err().error.delivery(),
            Delivery::Refused
        );
        assert_eq!(producer.stats().requests.failed, 4);
        assert_eq!(producer.stats().requests.waiting, 0);
    });
}

#[test]
fn a_request_whose_send_has_no_verdict_still_takes_its_reply() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        cluster.create_topic("prices", 1);
        let producer = producer_for(cluster.name_servers())
            .retries(0)
            .async_retries(0)
            .start()
            .unwrap();
        let lost = || {
            let sends = cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2);
            sends.once().after_store().reset()
        };
        // Without a reply it is not known whether the request is stored.
        lost();
        let error = producer
            .request(&message("prices"), milliseconds(600))
            .unwrap_err();
        assert_eq!(error.delivery(), Delivery::Unknown);
        assert!(no_reply(&error).send_error().is_some());
        assert_says(&error, &["no reply", "the request itself"]);
        // With one it does not matter.
        lost();
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let request = stored(&cluster, "prices", 2).pop().unwrap();
        let replier = producer_for(cluster.name_servers()).start().unwrap();
        let reply = Message::reply_to(request.properties.iter().map(|(name, value)| (&**name, &**value)));
        let reply = reply.unwrap().body("it was").build().unwrap();
        assert!(cluster.wait_until(PATIENCE, |cluster| {
            cluster
                .clients()
                .iter()
                .any(|client| client.client_id == producer.client_id())
        }));
        replier.send(&reply).unwrap();
        let reply = outcome_of(&outcome).unwrap();
        assert_eq!(reply.body(), b"it was");
        assert!(reply.sent.is_none());
    });
}

#[test]
fn bad_requests_are_refused_before_anything_leaves() {
    within(PATIENCE, || {
        let cluster = cluster(1);
        let producer = producer_for(cluster.name_servers())
            .max_message_size(400)
            .start()
            .unwrap();
        let too_short = producer.request(&message("prices"), Duration::from_micros(999));
        assert_says(&too_short.unwrap_err(), &["at least 1 ms", "999"]);
        let too_long = producer.request(&message("prices"), Duration::MAX);
        assert_says(&too_long.unwrap_err(), &["cannot wait"]);
        let ordered = producer.to(Target::key("k")).ordered(true);
        assert_says(
            &ordered.request(&message("prices"), PATIENCE).unwrap_err(),
            &["cannot be ordered"],
        );
        let outcome = ask(&producer, message("prices"), Duration::ZERO);
        assert_says(&outcome_of(&outcome).unwrap_err().error, &["at least 1 ms"]);
        assert_eq!(cluster.requests(RequestCode::GET_ROUTEINFO_BY_TOPIC), 0);
        // What tells whom to reply to counts too.
        let large = Message::new("prices", vec![b'x'; 200]).unwrap();
        let error = producer.request(&large, PATIENCE).unwrap_err();
        assert_says(&error, &["max_message_size is 400"]);
        let outcome = ask(&producer, large, PATIENCE);
        assert_says(
            &outcome_of(&outcome).unwrap_err().error,
            &["max_message_size is 400"],
        );
        let elsewhere = producer.to(MessageQueue::new("prices", "broker-x", 0));
        assert!(matches!(
            elsewhere.request(&message("prices"), PATIENCE),
            Err(Error::InvalidMessage { .. })
        ));
        assert_eq!(cluster.message_count("prices"), 0);
        producer.request(&message("prices"), PATIENCE).unwrap();
    });
}

#[test]
fn a_flush_waits_for_replies() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer(&cluster);
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let request = stored(&cluster, "prices", 1).remove(0);
        let unflushed = producer.flush(milliseconds(50)).unwrap_err();
        assert_eq!(unflushed.sends, 1, "one request, however many steps it has");
        push(&cluster, "broker-a", &correlation_id(&request), "now");
        producer.flush(PATIENCE).unwrap();
        assert_eq!(
            outcome.try_recv().expect("its closure has run").unwrap().body(),
            b"now"
        );
    });
}

#[test]
fn a_shutdown_waits_for_replies_and_ends_what_has_none() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        // A reply that comes while the producer shuts down is still taken.
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let outcome = ask(&producer, message("prices"), PATIENCE);
        let request = stored(&cluster, "prices", 1).remove(0);
        let ending = {
            let producer = producer.clone();
            thread::spawn(move || producer.shutdown(PATIENCE))
        };
        while producer.publish_queues("prices").is_ok() {
            thread::yield_now();
        }
        push(&cluster, "broker-a", &correlation_id(&request), "in time");
        assert_eq!(outcome_of(&outcome).unwrap().body(), b"in time");
        assert!(ending.join().unwrap().is_clean());

        // Without one both ways end at the end of the shutdown's time.
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let outcome = ask(&producer, message("others"), PATIENCE);
        let blocked = {
            let producer = producer.clone();
            thread::spawn(move || producer.request(&message("others"), PATIENCE))
        };
        stored(&cluster, "others", 2);
        let (report, took) = timed(|| producer.shutdown(milliseconds(100)));
        assert_took(took, milliseconds(100), milliseconds(100) + GRACE);
        assert_eq!(report.ended_early, 2, "{report}");
        let failures = [
            outcome
                .try_recv()
                .expect("closures run before a shutdown returns")
                .unwrap_err()
                .error,
            blocked.join().unwrap().unwrap_err(),
        ];
        for error in failures {
            assert_eq!(error.delivery(), Delivery::Stored, "{error}");
            assert_eq!(no_reply(&error).cause(), &NoReplyCause::ShutDown);
            assert_says(&error, &["shut down while", "others", "the request is stored"]);
        }
        assert!(matches!(
            producer.request(&message("others"), PATIENCE),
            Err(Error::ShutDown)
        ));
        let outcome = ask(&producer, message("others"), PATIENCE);
        assert!(matches!(outcome_of(&outcome).unwrap_err().error, Error::ShutDown));
    });
}

#[test]
fn closures_may_panic_request_again_and_block() {
    within(PATIENCE, || {
        let cluster = cluster(1);
        let producer = producer_for(cluster.name_servers())
            .callback_threads(1)
            .start()
            .unwrap();
        producer.request_async(message("prices"), PATIENCE, |_| panic!("on purpose"));
        let (done, outcome) = mpsc::channel();
        let again = producer.clone();
        producer.request_async(message("prices"), PATIENCE, move |first| {
            assert!(first.is_ok());
            // The only worker is busy with this closure, so nothing here may need another.
            let second = again
                .request(&message("prices"), PATIENCE)
                .map(|reply| reply.body().to_vec());
            again.request_async(message("prices"), PATIENCE, move |third| {
                done.send((second, third.is_ok())).unwrap();
            });
        });
        let (second, third) = outcome.recv_timeout(PATIENCE).unwrap();
        assert_eq!((second.unwrap(), third), (b"re: Hello RocketMQ".to_vec(), true));
        assert_eq!(producer.stats().callback_panics, 1);
    });
}

#[test]
fn room_is_held_until_the_reply_and_given_back() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers())
            .max_async_in_flight(2)
            .start()
            .unwrap();
        let waiting = [1, 2].map(|_| ask(&producer, message("prices"), PATIENCE));
        let requests = stored(&cluster, "prices", 2);
        let (refused, took) = timed(|| {
            let outcome = ask(&producer, message("prices"), milliseconds(100));
            outcome_of(&outcome).unwrap_err().error
        });
        assert!(
            matches!(
                refused,
                Error::Timeout {
                    phase: Phase::Permit,
                    ..
                }
            ),
            "{refused:?}"
        );
        assert_took(took, milliseconds(100), milliseconds(100) + GRACE);
        for request in &requests {
            push(&cluster, "broker-a", &correlation_id(request), "yes");
        }
        for outcome in &waiting {
            outcome_of(outcome).unwrap();
        }
        let outcome = ask(&producer, message("prices"), milliseconds(100));
        assert!(matches!(
            outcome_of(&outcome).unwrap_err().error,
            Error::NoReply(_)
        ));
        assert_eq!(cluster.message_count("prices"), 3);
        producer.flush(PATIENCE).unwrap();
        assert_eq!(producer.stats().async_sends, 0);
    });
}

#[test]
fn many_requests_at_once_get_their_own_replies() {
    within(PATIENCE, || {
        const EACH: usize = 100;
        let cluster = cluster(2);
        let producer = producer(&cluster);
        let right = Arc::new(AtomicUsize::new(0));
        let wrong = Arc::new(Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for sender in 0..4 {
                let (producer, right, wrong) = (&producer, &right, &wrong);
                scope.spawn(move || {
                    for number in 0..EACH {
                        let text = format!("{sender}-{number}");
                        let expected = format!("re: {text}").into_bytes();
                        let question = Message::new("prices", text).unwrap();
                        let (right, wrong) = (Arc::clone(right), Arc::clone(wrong));
                        let check = move |outcome: Result<Vec<u8>, String>| {
                            if outcome.as_ref() == Ok(&expected) {
                                right.fetch_add(1, Ordering::SeqCst);
                            } else {
                                wrong.lock().unwrap().push(outcome);
                            }
                        };
                        if sender % 2 == 0 {
                            let reply = producer.request(&question, PATIENCE);
                            check(
                                reply
                                    .map(|reply| reply.body().to_vec())
                                    .map_err(|e| e.to_string()),
                            );
                        } else {
                            producer.request_async(question, PATIENCE, move |reply| {
                                check(
                                    reply
                                        .map(|reply| reply.body().to_vec())
                                        .map_err(|e| e.to_string()),
                                );
                            });
                        }
                    }
                });
            }
        });
        producer.flush(PATIENCE).unwrap();
        assert_eq!(*wrong.lock().unwrap(), []);
        assert_eq!(right.load(Ordering::SeqCst), 4 * EACH);
        let requests = producer.stats().requests;
        assert_eq!(
            (requests.replied, requests.late_replies),
            (4 * u64::try_from(EACH).unwrap(), 0)
        );
        assert!(producer.shutdown(PATIENCE).is_clean());
    });
}
