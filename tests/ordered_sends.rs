//! Ordered sends to one queue go one after another, whatever happens to each; an unknown outcome ends the order and says so.

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
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use rocketmq_producer::{
    Error, Message, MessageQueue, Phase, Producer, Redelivery, Target, mock::MockCluster,
};
use support::{
    PATIENCE,
    fake_server::{FakeServer, SEND_MESSAGE_V2},
    message, producer_for, within,
};

fn numbered(number: usize) -> Message {
    Message::new("orders", number.to_string()).unwrap()
}

/// The bodies of all sends that came, in the order in which they came.
fn bodies(broker: &FakeServer) -> Vec<String> {
    broker.log(|log| {
        log.of(SEND_MESSAGE_V2)
            .map(|send| String::from_utf8_lossy(&send.body).into_owned())
            .collect()
    })
}

#[test]
fn one_message_at_a_time_is_on_its_way_and_the_others_follow_in_order() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker =
            FakeServer::broker(move |request, peer| arrived.send((request.clone(), peer.clone())).unwrap());
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        let order = producer.to(Target::key("k")).ordered(true);
        for number in 0..20 {
            let done = done.clone();
            order.send_async(numbered(number), move |outcome| {
                done.send((number, outcome.is_ok())).unwrap();
            });
        }
        for number in 0..20 {
            let (request, peer) = arrivals.recv().unwrap();
            assert_eq!(request.body, number.to_string().as_bytes());
            assert!(
                arrivals.recv_timeout(Duration::from_millis(5)).is_err(),
                "a second one is on its way"
            );
            peer.stored(&request, number);
        }
        let mut finished: Vec<_> = (0..20).map(|_| outcomes.recv().unwrap()).collect();
        finished.sort_unstable();
        assert_eq!(finished, (0..20).map(|number| (number, true)).collect::<Vec<_>>());
    });
}

#[test]
fn a_message_that_is_refused_for_a_moment_is_sent_again_before_the_next() {
    within(PATIENCE, || {
        let count = AtomicUsize::new(0);
        let broker = FakeServer::broker(move |request, peer| {
            if count.fetch_add(1, Ordering::SeqCst) % 3 == 0 {
                peer.refuse(request, 2, "[TIMEOUT_CLEAN_QUEUE]broker busy");
            } else {
                peer.stored(request, 0);
            }
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let (done, outcomes) = mpsc::channel();
        for number in 0..6 {
            let done = done.clone();
            let order = producer.to(Target::key("k")).ordered(true);
            order.send_async(numbered(number), move |outcome| {
                done.send(outcome.is_ok()).unwrap();
            });
        }
        assert!((0..6).all(|_| outcomes.recv().unwrap()));
        let mut seen = bodies(&broker);
        seen.dedup();
        assert_eq!(seen, (0..6).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(broker.sends() > 6, "some were sent again");
    });
}

#[test]
fn an_unknown_outcome_ends_the_order_for_those_that_wait_behind() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker = FakeServer::broker(move |request, peer| {
            if request.body == b"0" {
                arrived.send(peer.clone()).unwrap();
            } else {
                peer.stored(request, 0);
            }
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .redelivery(Redelivery::NoDuplicates)
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let order = producer.to(Target::key("k")).ordered(true);
        for number in 0..3 {
            let done = done.clone();
            order.send_async(numbered(number), move |outcome| {
                done.send((number, outcome.map_err(|failure| failure.error)))
                    .unwrap();
            });
        }
        arrivals.recv().unwrap().close();
        let mut outcomes: Vec<_> = (0..3).map(|_| outcomes.recv().unwrap()).collect();
        outcomes.sort_by_key(|(number, _)| *number);
        let first = outcomes[0].1.as_ref().unwrap_err();
        assert_eq!(first.delivery(), rocketmq_producer::Delivery::Unknown, "{first}");
        for (number, outcome) in &outcomes[1..] {
            let error = outcome.as_ref().unwrap_err();
            assert!(matches!(error, Error::OrderEnded { .. }), "{number}: {error}");
            assert!(error.to_string().contains("orders@broker-a#"), "{error}");
        }
        assert_eq!(broker.sends(), 1, "nothing was sent behind it");
        // A new order begins with the next message.
        assert!(order.send(&numbered(4)).is_ok());
    });
}

#[test]
fn whoever_waits_for_his_turn_too_long_is_told_and_others_still_get_theirs() {
    within(PATIENCE, || {
        let (arrived, arrivals) = mpsc::channel();
        let broker = FakeServer::broker(move |request, peer| {
            if request.body == b"0" {
                arrived.send((request.clone(), peer.clone())).unwrap();
            } else {
                peer.stored(request, 0);
            }
        });
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address())
            .send_timeout(Duration::from_secs(20))
            .start()
            .unwrap();
        let (done, outcomes) = mpsc::channel();
        let order = producer.to(Target::key("k")).ordered(true);
        let finished = done.clone();
        order.send_async(numbered(0), move |outcome| {
            finished.send(outcome.is_ok()).unwrap();
        });
        let (request, peer) = arrivals.recv().unwrap();
        let impatient = order.clone().timeout(Duration::from_millis(30));
        let error = impatient.send(&numbered(1)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Timeout {
                    phase: Phase::Order,
                    ..
                }
            ),
            "{error}"
        );
        let (told, late) = mpsc::channel();
        impatient.send_async(numbered(2), move |outcome| {
            told.send(outcome.unwrap_err().error).unwrap();
        });
        assert!(matches!(
            late.recv().unwrap(),
            Error::Timeout {
                phase: Phase::Order,
                ..
            }
        ));
        order.send_async(numbered(3), move |outcome| done.send(outcome.is_ok()).unwrap());
        peer.stored(&request, 0);
        assert!(outcomes.recv().unwrap() && outcomes.recv().unwrap());
        assert_eq!(bodies(&broker), ["0", "3"]);
    });
}

#[test]
fn blocking_and_asynchronous_senders_share_the_order() {
    within(PATIENCE, || {
        let cluster = rocketmq_producer::mock::MockCluster::start(2).unwrap();
        let producer = Arc::new(
            rocketmq_producer::Producer::builder("g")
                .name_servers(cluster.name_servers())
                .start()
                .unwrap(),
        );
        let order = producer.to(Target::key("k")).ordered(true);
        for number in 0..50 {
            if number % 5 == 4 {
                order.send(&numbered(number)).unwrap();
            } else {
                order.send_async(numbered(number), |outcome| assert!(outcome.is_ok()));
            }
        }
        producer.flush(PATIENCE).unwrap();
        let mut stored = cluster.messages("orders");
        stored.sort_by_key(|message| message.queue_offset);
        let bodies: Vec<_> = stored
            .iter()
            .map(|message| String::from_utf8_lossy(&message.body).into_owned())
            .collect();
        assert_eq!(
            bodies,
            (0..50).map(|number| number.to_string()).collect::<Vec<_>>()
        );
    });
}

#[test]
fn an_order_needs_a_target_and_an_answer() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let error = producer
            .timeout(PATIENCE)
            .ordered(true)
            .send(&message("orders"))
            .unwrap_err();
        assert!(
            error.to_string().contains("an ordered send needs a target"),
            "{error}"
        );
        let error = producer
            .to(Target::key("k"))
            .ordered(true)
            .send_oneway(&message("orders"))
            .unwrap_err();
        assert!(
            error.to_string().contains("one-way send cannot be ordered"),
            "{error}"
        );
        assert_eq!(broker.sends(), 0);
    });
}

/// A topic on two brokers, a producer that looks its route up all the time, and what it does with numbered messages.
struct Growing {
    cluster: MockCluster,
    producer: Producer,
}

impl Growing {
    fn start(queues: u32) -> Growing {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("orders", queues);
        let producer = producer_for(cluster.name_servers())
            .route_refresh_interval(Duration::from_millis(50))
            .start()
            .unwrap();
        let growing = Growing { cluster, producer };
        growing.wait_for_queues(2 * queues);
        growing
    }

    /// Waits until the producer knows of so many queues.
    fn wait_for_queues(&self, queues: u32) {
        let known = || self.producer.publish_queues("orders").unwrap().len();
        let wanted = usize::try_from(queues).unwrap();
        assert!(
            self.cluster.wait_until(PATIENCE, |_| known() == wanted),
            "{} queues",
            known()
        );
    }

    /// The bodies of the messages of a key, queue by queue in the order of the queues, as consumers read them.
    fn by_queue(&self, key: &str) -> Vec<(String, Vec<usize>)> {
        let mut queues = BTreeMap::<_, Vec<_>>::new();
        for message in self.cluster.messages("orders") {
            let body = String::from_utf8(message.body).unwrap();
            if let Some(number) = body.strip_prefix(&format!("{key} ")) {
                let queue = format!("{}#{}", message.broker_name, message.queue_id);
                let numbers = queues.entry(queue).or_default();
                numbers.push((message.queue_offset, number.parse().unwrap()));
            }
        }
        let sorted = |mut numbers: Vec<(u64, usize)>| {
            numbers.sort_unstable();
            numbers.into_iter().map(|(_, number)| number).collect()
        };
        queues
            .into_iter()
            .map(|(queue, numbers)| (queue, sorted(numbers)))
            .collect()
    }
}

/// What the guide says of more queues: a key moves, once, and is in order before and after.
#[test]
fn when_the_number_of_queues_changes_a_key_moves_once_and_is_in_order_in_both_queues() {
    within(PATIENCE, || {
        // java: "order-1".hashCode() is -1207111310, of 8 queues the 7th, of 12 the 3rd; "a" is 97, the 2nd of both.
        let growing = Growing::start(4);
        let send = |key: &str, number: usize| {
            let message = Message::new("orders", format!("{key} {number}")).unwrap();
            growing
                .producer
                .to(Target::key(key))
                .ordered(true)
                .send(&message)
                .unwrap();
        };
        for number in 0..10 {
            send("order-1", number);
            send("a", number);
        }
        growing.cluster.create_topic("orders", 6);
        growing.wait_for_queues(12);
        for number in 10..20 {
            send("order-1", number);
            send("a", number);
        }
        let whole = |from: usize, to: usize| (from..to).collect::<Vec<_>>();
        assert_eq!(
            growing.by_queue("order-1"),
            [
                ("broker-a#2".to_owned(), whole(10, 20)),
                ("broker-b#2".to_owned(), whole(0, 10)),
            ]
        );
        assert_eq!(growing.by_queue("a"), [("broker-a#1".to_owned(), whole(0, 20))]);
    });
}

/// A queue that is named stays, whatever is added; so does one that a closure finds by its name.
#[test]
fn a_given_queue_and_a_closure_that_looks_at_names_do_not_move() {
    within(PATIENCE, || {
        let growing = Growing::start(2);
        let send = |aim: Target, key: &str, number: usize| {
            let message = Message::new("orders", format!("{key} {number}")).unwrap();
            growing.producer.to(aim).ordered(true).send(&message).unwrap();
        };
        let given = || Target::from(MessageQueue::new("orders", "broker-b", 1));
        let by_name = || {
            Target::select(|queues, _| {
                let wanted =
                    |queue: &MessageQueue| (queue.broker_name(), queue.queue_id()) == ("broker-b", 0);
                queues.iter().position(wanted).unwrap_or(queues.len())
            })
        };
        for number in 0..5 {
            send(given(), "given", number);
            send(by_name(), "named", number);
        }
        growing.cluster.create_topic("orders", 5);
        growing.wait_for_queues(10);
        for number in 5..10 {
            send(given(), "given", number);
            send(by_name(), "named", number);
        }
        let all = (0..10).collect::<Vec<_>>();
        assert_eq!(
            growing.by_queue("given"),
            [("broker-b#1".to_owned(), all.clone())]
        );
        assert_eq!(growing.by_queue("named"), [("broker-b#0".to_owned(), all)]);
    });
}

/// Messages on their way while the number changes: none is lost or doubled, and each queue is in order.
#[test]
fn a_change_under_load_loses_nothing_and_leaves_each_queue_in_order() {
    within(PATIENCE, || {
        let growing = Growing::start(1);
        // The last waits for all others, however slow the machine is.
        let order = growing.producer.to(Target::key("order-1")).ordered(true);
        let order = order.timeout(PATIENCE);
        for number in 0..600 {
            let message = Message::new("orders", format!("order-1 {number}")).unwrap();
            order.send_async(message, |outcome| assert!(outcome.is_ok(), "{outcome:?}"));
            if number == 200 || number == 400 {
                growing
                    .cluster
                    .create_topic("orders", if number == 200 { 3 } else { 4 });
            }
        }
        growing.producer.flush(PATIENCE).unwrap();
        let by_queue = growing.by_queue("order-1");
        for (queue, numbers) in &by_queue {
            assert!(numbers.is_sorted(), "{queue}: {numbers:?}");
        }
        let mut all: Vec<_> = by_queue.into_iter().flat_map(|(_, numbers)| numbers).collect();
        all.sort_unstable();
        assert_eq!(all, (0..600).collect::<Vec<_>>());
    });
}
