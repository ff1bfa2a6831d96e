//! Which broker has which topic, with how many queues: what brokers decide sends by and name servers answer routes
//! from. There is no delay between the two, unlike in a real cluster, where a broker's registration takes a moment.
//!
//! Rule: the table's lock is held for look-ups and changes only, never while another lock is taken.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::shared::CLUSTER_NAME;

/// The topic whose settings new topics are created from (`TopicValidator.AUTO_CREATE_TOPIC_KEY_TOPIC`).
pub(super) const TEMPLATE_TOPIC: &str = "TBW102";

/// Queues of the topic that has the cluster's name (`TopicConfig`).
const CLUSTER_TOPIC_QUEUES: u32 = 16;

/// Readable and writable (`PermName.PERM_READ | PERM_WRITE`).
const PERM_READ_WRITE: u32 = 6;

/// New topics may take over these settings (`PermName.PERM_INHERIT`).
const PERM_INHERIT: u32 = 1;

/// Set for topics that were created by a producer in unit mode (`TopicSysFlag.FLAG_UNIT`).
const SYS_FLAG_UNIT: i32 = 1;

/// What one broker knows of a topic (`TopicConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicSettings {
    pub(super) read_queue_nums: u32,
    pub(super) write_queue_nums: u32,
    pub(super) perm: u32,
    pub(super) topic_sys_flag: i32,
}

impl TopicSettings {
    fn new(queues: u32, perm: u32, topic_sys_flag: i32) -> TopicSettings {
        TopicSettings {
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm,
            topic_sys_flag,
        }
    }
}

/// All topics of a cluster.
#[derive(Debug)]
pub(super) struct Topics {
    brokers: usize,
    /// Settings by broker index.
    table: RwLock<HashMap<Arc<str>, Vec<Option<TopicSettings>>>>,
}

impl Topics {
    /// A table with the topic that has the cluster's name, and maybe with the template topic, which has `template_queues`
    /// queues on each broker.
    pub(super) fn new(brokers: usize, template_queues: Option<u32>) -> Topics {
        let topics = Topics {
            brokers,
            table: RwLock::new(HashMap::new()),
        };
        topics.insert(
            CLUSTER_NAME,
            TopicSettings::new(CLUSTER_TOPIC_QUEUES, PERM_READ_WRITE | PERM_INHERIT, 0),
        );
        if let Some(queues) = template_queues {
            topics.insert(
                TEMPLATE_TOPIC,
                TopicSettings::new(queues, PERM_READ_WRITE | PERM_INHERIT, 0),
            );
        }
        topics
    }

    /// Creates a topic on all brokers, or changes its number of queues.
    pub(super) fn create(&self, topic: &str, queues_per_broker: u32) {
        self.insert(topic, TopicSettings::new(queues_per_broker, PERM_READ_WRITE, 0));
    }

    fn insert(&self, topic: &str, settings: TopicSettings) {
        self.table
            .write()
            .insert(topic.into(), vec![Some(settings); self.brokers]);
    }

    /// Changes what one broker knows of a topic, which it gets if it has not got it.
    pub(super) fn change(&self, broker: usize, topic: &str, queues: Option<u32>, perm: Option<u32>) {
        let mut table = self.table.write();
        let by_broker = table
            .entry(topic.into())
            .or_insert_with(|| vec![None; self.brokers]);
        if let Some(place) = by_broker.get_mut(broker) {
            let settings = place.get_or_insert(TopicSettings::new(0, PERM_READ_WRITE, 0));
            if let Some(queues) = queues {
                settings.read_queue_nums = queues;
                settings.write_queue_nums = queues;
            }
            settings.perm = perm.unwrap_or(settings.perm);
        }
    }

    /// Sets what one broker knows of a topic.
    pub(super) fn put(&self, broker: usize, topic: &str, settings: TopicSettings) {
        let mut table = self.table.write();
        let by_broker = table
            .entry(topic.into())
            .or_insert_with(|| vec![None; self.brokers]);
        if let Some(place) = by_broker.get_mut(broker) {
            *place = Some(settings);
        }
    }

    pub(super) fn delete(&self, topic: &str) {
        self.table.write().remove(topic);
    }

    /// The topic as this broker has it.
    pub(super) fn find(&self, broker: usize, topic: &str) -> Option<(Arc<str>, TopicSettings)> {
        let table = self.table.read();
        let (topic, by_broker) = table.get_key_value(topic)?;
        let settings = (*by_broker.get(broker)?)?;
        let topic = Arc::clone(topic);
        drop(table);
        Some((topic, settings))
    }

    /// The topic as this broker has it after a send, which may have created it: as
    /// `TopicConfigManager.createTopicInSendMessageMethod`, on this broker only, with at most the queues of its
    /// template, and the template's permission without the right to inherit. `None`: there is no such template.
    pub(super) fn find_or_create(
        &self,
        broker: usize,
        topic: &str,
        template: &str,
        queues: i32,
        unit_mode: bool,
    ) -> Option<(Arc<str>, TopicSettings)> {
        if let Some(found) = self.find(broker, topic) {
            return Some(found);
        }
        let (_, model) = self.find(broker, template)?;
        if model.perm & PERM_INHERIT == 0 {
            return None;
        }
        let queues = u32::try_from(queues).unwrap_or(0).min(model.write_queue_nums);
        let unit = if unit_mode { SYS_FLAG_UNIT } else { 0 };
        let new = TopicSettings::new(queues, model.perm & !PERM_INHERIT, unit);
        let mut table = self.table.write();
        let name = table
            .get_key_value(topic)
            .map_or_else(|| Arc::from(topic), |(name, _)| Arc::clone(name));
        let by_broker = table
            .entry(Arc::clone(&name))
            .or_insert_with(|| vec![None; self.brokers]);
        let place = by_broker.get_mut(broker)?;
        // Another connection may have come first.
        let settings = *place.get_or_insert(new);
        drop(table);
        Some((name, settings))
    }

    /// The topic's settings on each broker that has it, by broker index. Empty: no broker has it.
    pub(super) fn by_broker(&self, topic: &str) -> Vec<(usize, TopicSettings)> {
        let by_broker = self.table.read().get(topic).cloned().unwrap_or_default();
        let present = |(broker, settings): (usize, Option<TopicSettings>)| Some((broker, settings?));
        by_broker.into_iter().enumerate().filter_map(present).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_creates_its_topic_on_one_broker_only() {
        let topics = Topics::new(2, Some(8));
        assert_eq!(topics.by_broker("t"), []);
        let (name, settings) = topics.find_or_create(1, "t", TEMPLATE_TOPIC, 4, false).unwrap();
        assert_eq!(&*name, "t");
        assert_eq!(settings, TopicSettings::new(4, PERM_READ_WRITE, 0));
        assert_eq!(topics.by_broker("t"), [(1, settings)]);
        let (_, again) = topics.find_or_create(1, "t", TEMPLATE_TOPIC, 1, true).unwrap();
        assert_eq!(again, settings);
        let (_, other) = topics.find_or_create(0, "t", TEMPLATE_TOPIC, 100, true).unwrap();
        assert_eq!(other, TopicSettings::new(8, PERM_READ_WRITE, SYS_FLAG_UNIT));
        topics.delete("t");
        assert_eq!(topics.by_broker("t"), []);
    }

    #[test]
    fn only_a_template_that_allows_it_creates_topics() {
        let without = Topics::new(1, None);
        assert!(without.find_or_create(0, "t", TEMPLATE_TOPIC, 4, false).is_none());
        let with = Topics::new(1, Some(8));
        with.create("plain", 4);
        assert!(with.find_or_create(0, "t", "plain", 4, false).is_none());
        assert!(with.find_or_create(0, "t", "absent", 4, false).is_none());
        assert_eq!(
            with.find_or_create(0, "t", TEMPLATE_TOPIC, -1, false)
                .unwrap()
                .1
                .write_queue_nums,
            0
        );
    }
}
