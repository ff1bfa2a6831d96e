//! The route of a topic as queries use it: all brokers and queues that can be asked, not only those that take messages.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{logical_queues::logical_queues, topic_route::MASTER_ID};
use crate::{message::MessageQueue, wire::request::route::RouteData};

/// A group of a master and its slaves that has a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueryBroker {
    pub(crate) name: Arc<str>,
    pub(crate) master: Option<Arc<str>>,
    /// All of them, the master's first.
    pub(crate) addresses: Vec<Arc<str>>,
}

/// Who can be asked about a topic. Made for one query.
#[derive(Debug)]
pub(crate) struct QueryRoute {
    pub(crate) topic: Arc<str>,
    /// Sorted by name.
    pub(crate) brokers: Vec<QueryBroker>,
    data: RouteData,
}

impl QueryRoute {
    pub(crate) fn new(topic: Arc<str>, data: RouteData) -> Self {
        let mut brokers: Vec<_> = data
            .broker_datas
            .iter()
            .map(|broker| QueryBroker {
                name: broker.broker_name.as_str().into(),
                master: broker
                    .broker_addresses
                    .get(&MASTER_ID)
                    .map(|it| it.as_str().into()),
                addresses: broker
                    .broker_addresses
                    .values()
                    .map(|it| it.as_str().into())
                    .collect(),
            })
            .collect();
        brokers.sort_by(|one, other| one.name.cmp(&other.name));
        brokers.dedup_by(|one, other| one.name == other.name);
        Self { topic, brokers, data }
    }

    pub(crate) fn broker(&self, name: &str) -> Option<&QueryBroker> {
        self.brokers.iter().find(|broker| &*broker.name == name)
    }

    /// The names of all brokers, for errors.
    pub(crate) fn broker_names(&self) -> String {
        let names: Vec<&str> = self.brokers.iter().map(|broker| &*broker.name).collect();
        crate::error::printable(&names.join(", "))
    }

    /// The broker that holds a queue. `Err` says why there is none.
    pub(crate) fn holder(&self, queue: &MessageQueue) -> Result<&QueryBroker, String> {
        let static_queues = logical_queues(&self.topic, &self.data);
        if let Some((first, _)) = static_queues.first() {
            let held = static_queues.iter().find(|(known, _)| known == queue);
            let holder = held.and_then(|(_, broker_name)| self.broker(broker_name));
            return holder.ok_or_else(|| {
                let first = crate::error::printable(&first.to_string());
                format!(
                    "queue {queue} is none of the {} queues of static topic {}, such as {first}",
                    static_queues.len(),
                    self.topic
                )
            });
        }
        let Some(broker) = self.broker(queue.broker_name()) else {
            return Err(format!(
                "queue {queue} does not exist: topic {} is on brokers {}",
                self.topic,
                self.broker_names()
            ));
        };
        let mut queue_datas = self.data.queue_datas.iter();
        let queues = queue_datas.find(|data| *data.broker_name == *broker.name);
        let count = queues.map_or(0, |data| data.read_queue_nums.max(data.write_queue_nums));
        if queue.queue_id() < count {
            Ok(broker)
        } else {
            Err(format!(
                "queue {queue} does not exist: topic {} has {count} queues on broker {}",
                self.topic, broker.name
            ))
        }
    }

    /// Whether the topic has exactly these numbers of queues on these brokers, for reading and for writing.
    pub(crate) fn has_queues(&self, wanted: &BTreeMap<&str, u32>) -> bool {
        wanted.iter().all(|(broker_name, count)| {
            let mut queue_datas = self.data.queue_datas.iter();
            let queues = queue_datas.find(|data| data.broker_name == *broker_name);
            queues.is_some_and(|data| (data.read_queue_nums, data.write_queue_nums) == (*count, *count))
        })
    }

    /// The broker that advertises this address.
    pub(crate) fn with_address(&self, address: SocketAddr) -> Option<(&QueryBroker, &Arc<str>)> {
        self.brokers.iter().find_map(|broker| {
            let is_it = |text: &&Arc<str>| text.parse::<SocketAddr>() == Ok(address);
            broker.addresses.iter().find(is_it).map(|text| (broker, text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::{
        route::{BrokerData, QueueData},
        static_topic::QueueMapping,
    };

    fn route(data: impl FnOnce(&mut RouteData)) -> QueryRoute {
        let broker = |name: &str, addresses: &[(i64, &str)]| BrokerData {
            cluster: "c".to_owned(),
            broker_name: name.to_owned(),
            broker_addresses: addresses.iter().map(|(id, it)| (*id, (*it).to_owned())).collect(),
        };
        let queues = QueueData {
            broker_name: "a".to_owned(),
            read_queue_nums: 4,
            write_queue_nums: 2,
            // Read only: messages are not sent there, but those that are there can be asked for.
            perm: 4,
            topic_sys_flag: 0,
        };
        let mut all = RouteData {
            broker_datas: vec![
                broker("b", &[(1, "10.0.0.3:10911")]),
                broker("a", &[(0, "10.0.0.1:10911"), (1, "[fd00::2]:10911")]),
            ],
            queue_datas: vec![queues],
            ..RouteData::default()
        };
        data(&mut all);
        QueryRoute::new("t".into(), all)
    }

    fn holder<'r>(route: &'r QueryRoute, broker: &str, queue_id: u32) -> Result<&'r str, String> {
        let queue = MessageQueue::new("t", broker, queue_id);
        route.holder(&queue).map(|broker| &*broker.name)
    }

    #[test]
    fn queues_that_can_only_be_read_can_be_asked() {
        let route = route(|_| {});
        assert_eq!(holder(&route, "a", 3), Ok("a"));
        assert_eq!(
            holder(&route, "a", 4).unwrap_err(),
            "queue t@a#4 does not exist: topic t has 4 queues on broker a"
        );
        assert_eq!(
            holder(&route, "b", 0).unwrap_err(),
            "queue t@b#0 does not exist: topic t has 0 queues on broker b"
        );
        assert_eq!(
            holder(&route, "x", 0).unwrap_err(),
            "queue t@x#0 does not exist: topic t is on brokers a, b"
        );
    }

    #[test]
    fn the_logical_queues_of_a_static_topic_are_held_by_a_real_broker() {
        let route = route(|data| {
            data.queue_mappings.push(QueueMapping {
                scope: "__global__".to_owned(),
                broker_name: "b".to_owned(),
                total_queues: 1,
                epoch: 1,
                current: [(0, 3)].into(),
            });
        });
        assert_eq!(holder(&route, "__syslo__global__", 0), Ok("b"));
        assert_eq!(
            holder(&route, "b", 3).unwrap_err(),
            "queue t@b#3 is none of the 1 queues of static topic t, such as t@__syslo__global__#0"
        );
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let route = route(|data| {
            let host = BrokerData {
                broker_name: "c".to_owned(),
                broker_addresses: [(0, "broker.example:10911".to_owned())].into(),
                ..BrokerData::default()
            };
            data.broker_datas.push(host);
        });
        let find = |address: &str| {
            let found = route.with_address(address.parse().unwrap());
            found.map(|(broker, address)| (&*broker.name, &**address))
        };
        assert_eq!(find("10.0.0.1:10911"), Some(("a", "10.0.0.1:10911")));
        assert_eq!(find("[fd00:0::2]:10911"), Some(("a", "[fd00::2]:10911")));
        assert_eq!(find("10.0.0.3:10911"), Some(("b", "10.0.0.3:10911")));
        assert_eq!(find("10.0.0.1:10912"), None);
        assert_eq!(route.broker("b").unwrap().master, None);
    }
}
