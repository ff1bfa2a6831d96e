//! Which broker holds which queue of a static topic (5.x `TopicQueueMappingInfo`): a part of route data.
//!
//! A static topic has a fixed number of logical queues, which can be moved from broker to broker. What a sender makes of
//! it is not decided here.

use std::collections::BTreeMap;

use crate::wire::WireError;
use crate::wire::json::JsonReader;
use crate::wire::limits::{MAX_BROKERS, MAX_QUEUES_PER_TOPIC};
use crate::wire::request::route::optional_text;

/// What one broker says of the logical queues of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueMapping {
    /// Logical queues of equal ids and different scopes are different queues.
    pub(crate) scope: String,
    pub(crate) broker_name: String,
    pub(crate) total_queues: u32,
    /// When the mapping was made: a later one is right.
    pub(crate) epoch: i64,
    /// The logical queues that the broker holds, with the ids that they have there.
    pub(crate) current: BTreeMap<u32, u32>,
}

/// Reads the map from broker name to mapping. What has no scope is left out, as in `ClientMetadata` of 5.x.
pub(super) fn read_mappings(reader: &mut JsonReader<'_>) -> Vec<QueueMapping> {
    let mut mappings = Vec::new();
    if reader.take_null() {
        return mappings;
    }
    reader.enter_object();
    while reader.next_key().is_some() {
        if mappings.len() == MAX_BROKERS {
            reader.fail(|| WireError::new(format!("queue mappings of more than {MAX_BROKERS} brokers")));
        }
        let mapping = read_mapping(reader);
        if !mapping.scope.is_empty() {
            mappings.push(mapping);
        }
    }
    mappings
}

fn read_mapping(reader: &mut JsonReader<'_>) -> QueueMapping {
    let mut mapping = QueueMapping::default();
    if reader.take_null() {
        return mapping;
    }
    reader.enter_object();
    while let Some(key) = reader.next_key() {
        if key.is("scope") {
            mapping.scope = optional_text(reader).unwrap_or_default();
        } else if key.is("bname") {
            mapping.broker_name = optional_text(reader).unwrap_or_default();
        } else if key.is("totalQueues") {
            mapping.total_queues = reader.integer().unwrap_or_default();
        } else if key.is("epoch") {
            mapping.epoch = reader.integer().unwrap_or_default();
        } else if key.is("currIdMap") {
            mapping.current = read_ids(reader);
        } else {
            reader.skip_value();
        }
    }
    mapping
}

fn read_ids(reader: &mut JsonReader<'_>) -> BTreeMap<u32, u32> {
    let mut ids = BTreeMap::new();
    if reader.take_null() {
        return ids;
    }
    reader.enter_object();
    while let Some(key) = reader.next_key() {
        let logical_id = key.text().parse().ok().filter(|id| *id < MAX_QUEUES_PER_TOPIC);
        let Some(logical_id) = logical_id else {
            reader.fail(|| {
                WireError::new(format!(
                    "logical queue id that is no number below {MAX_QUEUES_PER_TOPIC}"
                ))
            });
            break;
        };
        if let Some(id) = reader.integer() {
            ids.insert(logical_id, id);
        }
    }
    ids
}
