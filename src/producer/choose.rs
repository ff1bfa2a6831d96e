//! Which queue takes the next attempt. Pure, but for the cursor of the round robin.

use super::target::Aim;
use crate::{
    cluster::topic_route::{PublishQueue, RouteBroker, TopicRoute},
    error::Error,
    message::Message,
    net::sync::Ordering,
};

/// The next queue in turn. Brokers that `avoid` names are passed over as long as there is another (4.7.0
/// `TopicPublishInfo.selectOneMessageQueue`, which passes over the last broker only).
pub(super) fn in_turn(route: &TopicRoute, avoid: impl Fn(&RouteBroker) -> bool) -> Option<&PublishQueue> {
    let count = route.queues.len();
    let start = route.cursor.fetch_add(1, Ordering::Relaxed);
    let turn = |step: usize| route.queues.get(start.wrapping_add(step).checked_rem(count)?);
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
) -> Result<&'r PublishQueue, Error> {
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
                    "the selector chose queue number {index} of {count} of topic {}",
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
    use std::sync::Arc;

    use super::*;
    use crate::{
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
            order_topic_conf: None,
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
            .map(|_| in_turn(&route, |_| false).unwrap().queue.to_string())
            .collect();
        assert_eq!(chosen, ["t@a#0", "t@a#1", "t@b#0", "t@a#0", "t@a#1", "t@b#0"]);
    }

    #[test]
    fn a_broker_is_avoided_as_long_as_there_is_another() {
        let route = route(&[("a", 2), ("b", 1)]);
        for _ in 0..5 {
            assert_eq!(
                in_turn(&route, |broker| &*broker.name == "a")
                    .unwrap()
                    .queue
                    .broker_name(),
                "b"
            );
        }
        assert!(in_turn(&route, |_| true).is_some());
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
        assert!(fault(&beyond).contains("chose queue number 1 of 1"));
    }
}
