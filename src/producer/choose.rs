//! Which queue takes the next attempt. Pure, but for the cursor of the round robin.

use std::{sync::Arc, time::Instant};

use super::target::Aim;
use crate::{
    cluster::{
        broker_health::Standing,
        topic_route::{PublishQueue, RouteBroker, TopicRoute},
    },
    error::Error,
    message::Message,
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
    let count = route.queues.len();
    let invalid = |reason: String| Error::InvalidMessage { reason };
    match aim {
        Aim::Queue(queue) => route.find(queue).ok_or_else(|| {
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
            let queue = hash.checked_rem(count).and_then(|index| route.queues.get(index));
            queue.ok_or_else(|| invalid(format!("topic {} has no queue", route.topic)))
        }
        Aim::Select(choose) => {
            let index = choose(&route.listed, message);
            route.queues.get(index).ok_or_else(|| {
                invalid(format!(
                    "the selector chose index {index}, but topic {} has {count} queues, counted from 0",
                    route.topic
                ))
            })
        }
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
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        cluster::broker_health::{BrokerHealth, FAULT_RULES_V5, Failure},
        message::MessageQueue,
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
