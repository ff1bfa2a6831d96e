//! Which queue takes the next attempt. Pure, but for the cursor of the round robin.

use std::{sync::Arc, time::Instant};

use super::target::Aim;
use crate::{
    cluster::{
        broker_health::Standing,
        topic_route::{PublishQueue, RouteBroker, TopicRoute},
    },
    error::Error,
    message::{Message, MessageQueue},
    net::sync::Ordering,
};

/// The next queue in turn. Brokers that `avoid` names are passed over as long as there is another (4.7.0
/// `TopicPublishInfo.selectOneMessageQueue`, which passes over the last broker only).
///
/// Where the health of brokers is watched, as 5.x `MQFaultStrategy.selectOneMessageQueue`: first one that is available and
/// not to be avoided, then one that can at least be reached, then any. Unlike 4.7.0, which takes only the broker that it
/// means to avoid.
pub(crate) fn in_turn(
    route: &TopicRoute,
    now: Instant,
    avoid: impl Fn(&RouteBroker) -> bool,
) -> Option<&Arc<PublishQueue>> {
    let count = route.queues.len();
    let start = route.cursor.fetch_add(1, Ordering::Relaxed);
    let turn = |step: usize| route.queues.get(start.wrapping_add(step).checked_rem(count)?);
    let watched = route
        .health
        .as_ref()
        .filter(|health| !health.all_are_available(now));
    if let Some(health) = watched {
        let standings: Vec<_> = route
            .brokers
            .iter()
            .map(|broker| (&**broker, health.standing(&broker.name, now)))
            .collect();
        let is_at_least = |broker: &RouteBroker, least| {
            let known = standings.iter().find(|(known, _)| *known == broker);
            known.is_none_or(|(_, standing)| *standing >= least)
        };
        let best = [Standing::Available, Standing::Reachable]
            .into_iter()
            .find_map(|least| {
                let fits =
                    |known: &&Arc<PublishQueue>| !avoid(&known.broker) && is_at_least(&known.broker, least);
                (0..count).filter_map(turn).find(fits)
            });
        if best.is_some() {
            return best;
        }
    }
    (0..count)
        .filter_map(turn)
        .find(|known| !avoid(&known.broker))
        .or_else(|| turn(0))
}

/// The queue that a send is aimed at.
pub(super) fn aimed<'r>(
    aim: &Aim,
    route: &'r TopicRoute,
    message: &Message,
) -> Result<&'r Arc<PublishQueue>, Error> {
    let count = route.listed.len();
    let invalid = |reason: String| Error::InvalidMessage { reason };
    match aim {
        Aim::Queue(queue) => route.find(queue).ok_or_else(|| {
            if route.listed.contains(queue) {
                return without_master(route, queue);
            }
            let listed = route
                .listed
                .iter()
                .take(4)
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            invalid(format!(
                "queue {queue} is not one of the {count} queues that take messages for topic {} ({listed}{})",
                route.topic,
                if count > 4 { ", …" } else { "" }
            ))
        }),
        Aim::Key(hash) => {
            let hash = usize::try_from(hash.unsigned_abs()).unwrap_or(usize::MAX);
            let index = hash.checked_rem(count);
            let index = index.ok_or_else(|| invalid(format!("topic {} has no queue", route.topic)))?;
            at(route, index)
        }
        Aim::Select(choose) => {
            let index = choose(&route.listed, message);
            if index >= count {
                return Err(invalid(format!(
                    "the selector chose index {index}, but topic {} has {count} queues, counted from 0",
                    route.topic
                )));
            }
            at(route, index)
        }
    }
}

/// The queue at a place of the list, unless it takes no message now.
fn at(route: &TopicRoute, index: usize) -> Result<&Arc<PublishQueue>, Error> {
    route.at(index).ok_or_else(|| match route.listed.get(index) {
        Some(queue) => without_master(route, queue),
        None => Error::InvalidMessage {
            reason: format!("topic {} has no queue", route.topic),
        },
    })
}

/// A queue of an order topic whose broker is down.
fn without_master(route: &TopicRoute, queue: &MessageQueue) -> Error {
    Error::NoRoute {
        topic: Arc::clone(&route.topic),
        reason: format!(
            "queue {queue}, which the message is for, is of a broker that has no master now; the messages of an order \
             topic go to no other queue meanwhile"
        )
        .into(),
    }
}

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
pub(super) fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cluster::broker_health::{BrokerHealth, FAULT_RULES_V5, Failure},
        wire::request::route::{BrokerData, QueueData, RouteData},
    };

    fn route(brokers: &[(&str, u32)]) -> TopicRoute {
        let data = RouteData {
            broker_datas: brokers
                .iter()
                .map(|(name, _)| BrokerData {
                    cluster: "c".to_owned(),
                    broker_name: (*name).to_owned(),
                    broker_addresses: [(0, format!("{name}:10911"))].into(),
                })
                .collect(),
            queue_datas: brokers
                .iter()
                .map(|(name, count)| QueueData {
                    broker_name: (*name).to_owned(),
                    read_queue_nums: *count,
                    write_queue_nums: *count,
                    perm: 6,
                    topic_sys_flag: 0,
                })
                .collect(),
            ..RouteData::default()
        };
        TopicRoute::from_data(&"t".into(), &data, Arc::default()).unwrap()
    }

    fn message() -> Message {
        Message::new("t", "x").unwrap()
    }

    #[test]
    fn all_queues_take_their_turn() {
        let route = route(&[("a", 2), ("b", 1)]);
        let chosen: Vec<_> = (0..6)
            .map(|_| {
                in_turn(&route, Instant::now(), |_| false)
                    .unwrap()
                    .queue
                    .to_string()
            })
            .collect();
        assert_eq!(chosen, ["t@a#0", "t@a#1", "t@b#0", "t@a#0", "t@a#1", "t@b#0"]);
    }

    #[test]
    fn a_broker_is_avoided_as_long_as_there_is_another() {
        let route = route(&[("a", 2), ("b", 1)]);
        for _ in 0..5 {
            assert_eq!(
                in_turn(&route, Instant::now(), |broker| &*broker.name == "a")
                    .unwrap()
                    .queue
                    .broker_name(),
                "b"
            );
        }
        assert!(in_turn(&route, Instant::now(), |_| true).is_some());
    }

    /// A route of brokers a, b and c whose health is watched, and the brokers that six sends choose that avoid these.
    fn chosen(break_some: impl Fn(&BrokerHealth), avoided: &[&str]) -> Vec<String> {
        let health = Arc::new(BrokerHealth::new(FAULT_RULES_V5, true, Instant::now()));
        break_some(&health);
        let route = route(&[("a", 1), ("b", 1), ("c", 1)]).watched(Some(&health));
        let listed = route.listed.clone();
        let mut names: Vec<_> = (0..6)
            .map(|_| {
                let avoid = |broker: &RouteBroker| avoided.contains(&&*broker.name);
                in_turn(&route, Instant::now(), avoid)
                    .unwrap()
                    .broker
                    .name
                    .to_string()
            })
            .collect();
        // Unlike 4.7.0, the queues that all senders share are not changed.
        assert_eq!(route.listed, listed);
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn a_broker_that_is_available_and_not_tried_comes_first_then_one_that_can_be_reached_then_any() {
        let slow = |health: &BrokerHealth, name: &str| {
            health.succeeded(&name.into(), Duration::from_secs(3), Instant::now());
        };
        let dead = |health: &BrokerHealth, name: &str| {
            health.failed(&name.into(), Failure::NoAnswer, Instant::now());
        };
        assert_eq!(chosen(|_| {}, &[]), ["a", "b", "c"]);
        assert_eq!(chosen(|h| slow(h, "a"), &[]), ["b", "c"]);
        // 4.7.0 would take only a here.
        assert_eq!(chosen(|h| slow(h, "b"), &["a"]), ["c"]);
        let slow_and_dead = |h: &BrokerHealth| {
            slow(h, "b");
            dead(h, "c");
        };
        assert_eq!(chosen(slow_and_dead, &[]), ["a"]);
        assert_eq!(chosen(slow_and_dead, &["a"]), ["b"]);
        assert_eq!(chosen(slow_and_dead, &["a", "b"]), ["c"]);
        assert_eq!(chosen(slow_and_dead, &["a", "b", "c"]), ["a", "b", "c"]);
    }

    /// Expected values are those of `"…".hashCode()` in Java.
    #[test]
    fn keys_are_hashed_as_java_hashes_them() {
        for (text, hash) in [
            ("", 0),
            ("a", 97),
            ("order-4711", 708_276_994),
            ("polygenelubricants", i32::MIN),
            ("ä€𝄞", 16_602_546),
            ("order-1", -1_207_111_310),
            ("Ελληνικά κλειδί", -230_931_056),
            ("主键-订单", -1_840_590_419),
            // Surrogate pairs: two units each.
            ("😀", 1_772_899),
            ("𝄞𝄢", 1_705_043_032),
            ("zürich-😀-鍵", -1_650_047_398),
            ("\u{10ffff}\u{e000}", 55_957_536),
        ] {
            assert_eq!(java_hash(text), hash, "{text}");
        }
    }

    #[test]
    fn a_key_keeps_its_queue_and_the_most_negative_hash_has_one() {
        let route = route(&[("a", 4), ("b", 4)]);
        let queue = |hash| {
            aimed(&Aim::Key(hash), &route, &message())
                .unwrap()
                .queue
                .to_string()
        };
        assert_eq!(queue(-9), "t@a#1");
        assert_eq!(queue(7), "t@b#3");
        assert_eq!(queue(i32::MIN), "t@a#0");
    }

    /// In the order and number that the name servers keep, whatever becomes of brokers.
    #[test]
    fn keys_of_an_order_topic_wait_for_their_broker() {
        let data = RouteData {
            broker_datas: vec![BrokerData {
                cluster: "c".to_owned(),
                broker_name: "a".to_owned(),
                broker_addresses: [(0, "a:10911".to_owned())].into(),
            }],
            queue_datas: Vec::new(),
            order_topic_conf: Some("b:2;a:2".to_owned()),
            queue_mappings: Vec::new(),
        };
        let route = TopicRoute::from_data(&"t".into(), &data, Arc::default()).unwrap();
        let queue = |aim: &Aim| aimed(aim, &route, &message()).map(|found| found.queue.to_string());
        assert_eq!(queue(&Aim::Key(2)).unwrap(), "t@a#0");
        assert_eq!(queue(&Aim::Key(-7)).unwrap(), "t@a#1");
        assert_eq!(
            queue(&Aim::Select(Arc::new(|queues, _| queues.len() - 1))).unwrap(),
            "t@a#1"
        );
        for aim in [
            Aim::Key(5),
            Aim::Select(Arc::new(|_, _| 1)),
            Aim::Queue(MessageQueue::new("t", "b", 1)),
        ] {
            let error = queue(&aim).unwrap_err();
            assert!(matches!(error, Error::NoRoute { .. }), "{error:?}");
            assert!(
                error
                    .to_string()
                    .contains("queue t@b#1, which the message is for"),
                "{error}"
            );
        }
        let taken: Vec<_> = (0..4)
            .map(|_| in_turn(&route, Instant::now(), |_| false).unwrap())
            .collect();
        assert!(taken.iter().all(|found| &*found.broker.name == "a"));
    }

    #[test]
    fn a_target_that_does_not_exist_is_named() {
        let route = route(&[("a", 1)]);
        let fault = |aim: &Aim| aimed(aim, &route, &message()).unwrap_err().to_string();
        let unknown = Aim::Queue(MessageQueue::new("t", "a", 1));
        assert!(
            fault(&unknown).contains("queue t@a#1 is not one of the 1 queues"),
            "{}",
            fault(&unknown)
        );
        let beyond = Aim::Select(Arc::new(|queues, _| queues.len()));
        assert!(fault(&beyond).contains("chose index 1, but topic t has 1 queues"));
    }
}
