//! A topic route as senders use it: the queues that take messages, in the order in which every client numbers them.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use super::{broker_health::BrokerHealth, logical_queues::logical_queues};
use crate::{
    message::MessageQueue,
    net::{
        connections::Link,
        sync::{AtomicBool, AtomicUsize, Ordering},
    },
    wire::{
        request::route::{BrokerData, QueueData, RouteData},
        template::Template,
    },
};

/// The id of the master in a group of brokers.
pub(super) const MASTER_ID: i64 = 0;

/// `PermName.PERM_WRITE`.
pub(super) const PERM_WRITE: u32 = 2;

/// A broker that takes messages: the master of its group.
#[derive(Debug)]
pub(crate) struct RouteBroker {
    pub(crate) name: Arc<str>,
    pub(crate) address: Arc<str>,
    /// The cluster that it says it belongs to.
    pub(crate) cluster: Arc<str>,
    /// The way to its connection.
    pub(crate) link: Link,
}

impl PartialEq for RouteBroker {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.address == other.address
    }
}

/// A queue that takes messages, with the broker that holds it.
#[derive(Debug)]
pub(crate) struct PublishQueue {
    pub(crate) queue: Arc<MessageQueue>,
    pub(crate) broker: Arc<RouteBroker>,
    pub(crate) templates: Arc<Templates>,
}

/// What the requests of all messages of one topic have in common, encoded when the first is sent.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    pub(crate) send: OnceLock<Template>,
    pub(crate) oneway: OnceLock<Template>,
}

/// Where messages of a topic can go. A snapshot: refreshing puts another in its place.
#[derive(Debug)]
pub(crate) struct TopicRoute {
    pub(crate) topic: Arc<str>,
    pub(crate) queues: Vec<Arc<PublishQueue>>,
    /// The queues as users see them, in the order in which keys count them: the same, and of an order topic also those of
    /// brokers that have no master now.
    pub(crate) listed: Vec<MessageQueue>,
    pub(crate) brokers: Vec<Arc<RouteBroker>>,
    /// Made from the template topic: the topic itself does not exist yet.
    pub(crate) from_template: bool,
    /// Somebody has asked for it since the last refresh.
    pub(crate) used: AtomicBool,
    /// Where the round robin stands. It outlives the snapshot.
    pub(crate) cursor: Arc<AtomicUsize>,
    /// How its brokers have been doing lately, if that is watched. It outlives the snapshot.
    pub(crate) health: Option<Arc<BrokerHealth>>,
}

impl TopicRoute {
    /// Keeps the route from being forgotten at the next refresh.
    pub(crate) fn note_use(&self) {
        // Looked at first: senders would else write to a cache line that they share.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Makes the route of `topic` as 5.x and 4.7.0 `MQClientInstance.topicRouteData2TopicPublishInfo` do. `None` if no
    /// broker takes messages.
    pub(crate) fn from_data(topic: &Arc<str>, data: &RouteData, cursor: Arc<AtomicUsize>) -> Option<Self> {
        let masters = masters(&data.broker_datas);
        let mut route = Self {
            topic: Arc::clone(topic),
            queues: Vec::new(),
            listed: Vec::new(),
            brokers: Vec::new(),
            from_template: false,
            used: AtomicBool::new(true),
            cursor,
            health: None,
        };
        let templates = Arc::<Templates>::default();
        let static_queues = logical_queues(topic, data);
        if static_queues.is_empty() {
            let order_conf = data.order_topic_conf.as_deref().filter(|conf| !conf.is_empty());
            let queue_counts = match order_conf {
                Some(conf) => ordered_queue_counts(conf),
                None => writable_queue_counts(&data.queue_datas),
            };
            for (broker_name, queue_count) in queue_counts {
                let Some(broker) = masters.get(broker_name) else {
                    // As in Java: the keys of an order topic wait for their broker and move to no other.
                    if order_conf.is_some() {
                        let name: Arc<str> = broker_name.into();
                        let queue = |id| MessageQueue::new(Arc::clone(topic), Arc::clone(&name), id);
                        route.listed.extend((0..queue_count).map(queue));
                    }
                    continue;
                };
                for queue_id in 0..queue_count {
                    let queue = MessageQueue::new(Arc::clone(topic), Arc::clone(&broker.name), queue_id);
                    route.add(queue, broker, &templates);
                }
            }
        }
        for (queue, broker_name) in static_queues {
            if let Some(broker) = masters.get(broker_name) {
                route.add(queue, broker, &templates);
            }
        }
        if route.queues.is_empty() {
            None
        } else {
            Some(route)
        }
    }

    fn add(&mut self, queue: MessageQueue, broker: &Arc<RouteBroker>, templates: &Arc<Templates>) {
        // Mostly queues of one broker come one after another.
        if self.brokers.last() != Some(broker) && !self.brokers.contains(broker) {
            self.brokers.push(Arc::clone(broker));
        }
        self.listed.push(queue.clone());
        self.queues.push(Arc::new(PublishQueue {
            queue: Arc::new(queue),
            broker: Arc::clone(broker),
            templates: Arc::clone(templates),
        }));
    }

    /// Makes the route of a topic that does not exist yet from the template topic's: brokers create it with so many
    /// queues when the first message comes (4.7.0 `MQClientInstance.updateTopicRouteInfoFromNameServer`).
    pub(crate) fn from_template(
        topic: &Arc<str>,
        template: &RouteData,
        most_queues: u32,
        cursor: Arc<AtomicUsize>,
    ) -> Option<Self> {
        let mut data = template.clone();
        for queue_data in &mut data.queue_datas {
            queue_data.write_queue_nums = queue_data.read_queue_nums.min(most_queues);
        }
        Self::from_data(topic, &data, cursor).map(|route| Self {
            from_template: true,
            ..route
        })
    }

    /// The same route, with brokers whose health is watched.
    pub(crate) fn watched(self, health: Option<&Arc<BrokerHealth>>) -> Self {
        let health = health.map(Arc::clone);
        Self { health, ..self }
    }

    /// Whether the other names the same queues on the same addresses.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let (ours, others) = (self.queues.iter(), other.queues.iter());
        self.brokers == other.brokers
            && self.listed == other.listed
            // A logical queue may move from one broker to another.
            && ours.map(|known| &known.broker).eq(others.map(|known| &known.broker))
            && self.from_template == other.from_template
    }

    pub(crate) fn has_address(&self, address: &str) -> bool {
        self.brokers.iter().any(|broker| &*broker.address == address)
    }

    /// Some queue of a broker, if it takes messages.
    pub(crate) fn queue_of(&self, broker_name: &str) -> Option<&Arc<PublishQueue>> {
        self.queues
            .iter()
            .find(|known| &*known.broker.name == broker_name)
    }

    /// The queue at a place of the list. `None`: its broker has no master now, or the list is shorter.
    pub(crate) fn at(&self, index: usize) -> Option<&Arc<PublishQueue>> {
        if self.queues.len() == self.listed.len() {
            self.queues.get(index)
        } else {
            self.find(self.listed.get(index)?)
        }
    }

    /// The queue of a name, if messages can be sent to it.
    pub(crate) fn find(&self, queue: &MessageQueue) -> Option<&Arc<PublishQueue>> {
        self.queues.iter().find(|known| *known.queue == *queue)
    }
}

pub(super) fn masters(broker_datas: &[BrokerData]) -> BTreeMap<&str, Arc<RouteBroker>> {
    let master = |data: &BrokerData| {
        let address = data.broker_addresses.get(&MASTER_ID)?;
        Some(Arc::new(RouteBroker {
            name: data.broker_name.as_str().into(),
            address: address.as_str().into(),
            cluster: data.cluster.as_str().into(),
            link: Link::default(),
        }))
    };
    broker_datas
        .iter()
        .filter_map(|data| Some((data.broker_name.as_str(), master(data)?)))
        .collect()
}

/// Sorted by broker name, so that clients that number the queues agree whatever order the name server sends.
fn writable_queue_counts(queue_datas: &[QueueData]) -> Vec<(&str, u32)> {
    let writable = queue_datas.iter().filter(|data| data.perm & PERM_WRITE != 0);
    let mut counts: Vec<_> = writable
        .map(|data| (data.broker_name.as_str(), data.write_queue_nums))
        .collect();
    counts.sort_by_key(|(broker_name, _)| *broker_name);
    counts
}

/// `brokerA:4;brokerB:4`, kept for strictly ordered topics in the name server's configuration. What is malformed is
/// left out.
fn ordered_queue_counts(conf: &str) -> Vec<(&str, u32)> {
    let entry = |text: &'_ str| -> Option<(usize, u32)> {
        let (broker_name, count) = text.rsplit_once(':')?;
        Some((broker_name.len(), count.trim().parse().ok()?))
    };
    let parse = |text| entry(text).and_then(|(length, count)| Some((text.get(..length)?, count)));
    let limit = crate::wire::limits::MAX_QUEUES_PER_TOPIC;
    conf.split(';')
        .filter_map(parse)
        .filter(|(_, count)| *count <= limit)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::static_topic::QueueMapping;

    fn broker(name: &str, ids: &[i64]) -> BrokerData {
        BrokerData {
            cluster: "c".to_owned(),
            broker_name: name.to_owned(),
            broker_addresses: ids.iter().map(|id| (*id, format!("10.0.0.{id}:10911"))).collect(),
        }
    }

    fn queues(name: &str, write: u32, perm: u32) -> QueueData {
        QueueData {
            broker_name: name.to_owned(),
            read_queue_nums: 8,
            write_queue_nums: write,
            perm,
            topic_sys_flag: 0,
        }
    }

    fn names(route: &TopicRoute) -> Vec<String> {
        route.queues.iter().map(|known| known.queue.to_string()).collect()
    }

    fn from_data(data: &RouteData) -> Option<TopicRoute> {
        TopicRoute::from_data(&"t".into(), data, Arc::default())
    }

    #[test]
    fn only_writable_queues_of_brokers_with_a_master_count_sorted_by_broker_name() {
        let data = RouteData {
            broker_datas: vec![
                broker("b", &[0, 1]),
                broker("slave-only", &[1]),
                broker("a", &[0]),
                broker("ro", &[0]),
            ],
            queue_datas: vec![
                queues("b", 1, 6),
                queues("slave-only", 2, 6),
                queues("a", 2, 6),
                queues("ro", 2, 4),
            ],
            ..RouteData::default()
        };
        let route = from_data(&data).unwrap();
        assert_eq!(names(&route), ["t@a#0", "t@a#1", "t@b#0"]);
        assert_eq!(route.brokers.len(), 2);
        assert!(
            from_data(&RouteData {
                queue_datas: vec![queues("ro", 2, 4)],
                ..data
            })
            .is_none()
        );
    }

    #[test]
    fn the_order_configuration_wins_over_permissions() {
        let data = RouteData {
            broker_datas: vec![broker("b", &[0]), broker("a", &[0])],
            queue_datas: vec![queues("a", 8, 4)],
            order_topic_conf: Some("b:1;a:2;broken;gone:1;".to_owned()),
            ..RouteData::default()
        };
        assert_eq!(names(&from_data(&data).unwrap()), ["t@b#0", "t@a#0", "t@a#1"]);
    }

    #[test]
    fn a_static_topic_has_its_logical_queues_where_they_are_held_now() {
        let mapping = |name: &str, epoch: i64, ids: &[(u32, u32)]| QueueMapping {
            scope: "__global__".to_owned(),
            broker_name: name.to_owned(),
            total_queues: 4,
            epoch,
            current: ids.iter().copied().collect(),
        };
        let data = RouteData {
            broker_datas: vec![broker("b", &[0]), broker("a", &[0]), broker("slave", &[1])],
            queue_datas: vec![queues("a", 2, 6), queues("b", 2, 6)],
            // Queue 1 has moved from b to a; nobody holds queue 2; queue 3 is on a broker without a master.
            queue_mappings: vec![
                mapping("b", 7, &[(0, 5), (1, 6)]),
                mapping("a", 8, &[(1, 0)]),
                mapping("slave", 8, &[(3, 0)]),
            ],
            ..RouteData::default()
        };
        let route = from_data(&data).unwrap();
        assert_eq!(names(&route), ["t@__syslo__global__#0", "t@__syslo__global__#1"]);
        let holders: Vec<_> = route.queues.iter().map(|known| &*known.broker.name).collect();
        assert_eq!(holders, ["b", "a"]);
        assert_eq!(route.brokers.len(), 2);
        assert!(
            route.queue_of("a").is_some(),
            "the detector finds it by its real name"
        );
        // Queue 2 on either: the queues have the same names, and the brokers are the same.
        let with_queue_2 = |on: usize| {
            let mut data = data.clone();
            data.queue_mappings[on].current.insert(2, 1);
            from_data(&data).unwrap()
        };
        let (on_b, on_a) = (with_queue_2(0), with_queue_2(1));
        assert_eq!((names(&on_b), &on_b.brokers), (names(&on_a), &on_a.brokers));
        assert!(on_a.is_same(&with_queue_2(1)) && !on_a.is_same(&on_b));
    }

    #[test]
    fn a_new_topic_takes_its_queues_from_the_template_up_to_the_cap() {
        let data = RouteData {
            broker_datas: vec![broker("a", &[0])],
            queue_datas: vec![queues("a", 8, 7)],
            ..RouteData::default()
        };
        let route = TopicRoute::from_template(&"t".into(), &data, 4, Arc::default()).unwrap();
        assert_eq!(names(&route), ["t@a#0", "t@a#1", "t@a#2", "t@a#3"]);
        assert!(route.from_template);
    }
}
