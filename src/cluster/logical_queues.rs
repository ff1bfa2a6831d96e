//! The queues of a static topic as users see them (5.x `ClientMetadata.topicRouteData2EndpointsForStaticTopic`).
//!
//! A logical queue keeps its id when it is moved to another broker, so it is named with a broker that does not exist.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    message::MessageQueue,
    wire::request::{route::RouteData, static_topic::QueueMapping},
};

/// `MixAll.LOGICAL_QUEUE_MOCK_BROKER_PREFIX`.
const BROKER_PREFIX: &str = "__syslo__";

/// `MixAll.METADATA_SCOPE_GLOBAL`: the scope of topics that are made by the administrator's tools.
const GLOBAL_SCOPE: &str = "__global__";

/// All logical queues that a broker holds now, each with the name of that broker, sorted by id. None for a topic that is not
/// static, or that is ordered by the name server's configuration.
///
/// Unlike 5.x, a queue that nobody holds is left out, as are the queues of brokers without a master: no message can be
/// sent to it.
pub(super) fn logical_queues<'d>(topic: &Arc<str>, data: &'d RouteData) -> Vec<(MessageQueue, &'d str)> {
    if data.order_topic_conf.is_some() {
        return Vec::new();
    }
    let mut holders: BTreeMap<(u32, &str), &QueueMapping> = BTreeMap::new();
    for mapping in &data.queue_mappings {
        for logical_id in mapping.current.keys() {
            let holder = holders
                .entry((*logical_id, mapping.scope.as_str()))
                .or_insert(mapping);
            if holder.epoch <= mapping.epoch {
                *holder = mapping;
            }
        }
    }
    let queue = |((logical_id, scope), mapping): ((u32, &str), &'d QueueMapping)| {
        let queue = MessageQueue::new(Arc::clone(topic), broker_name_of(scope), logical_id);
        (queue, mapping.broker_name.as_str())
    };
    holders.into_iter().map(queue).collect()
}

/// `TopicQueueMappingUtils.getMockBrokerName`.
fn broker_name_of(scope: &str) -> String {
    let shown = match scope {
        GLOBAL_SCOPE => scope.trim_start_matches('_'),
        other => other,
    };
    format!("{BROKER_PREFIX}{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_as_java_names_them() {
        assert_eq!(broker_name_of("__global__"), "__syslo__global__");
        assert_eq!(broker_name_of("__other__"), "__syslo____other__");
    }

    #[test]
    fn an_order_configuration_wins() {
        let mapping = QueueMapping {
            scope: GLOBAL_SCOPE.to_owned(),
            current: [(0, 0)].into(),
            ..QueueMapping::default()
        };
        let mut data = RouteData {
            queue_mappings: vec![mapping],
            ..RouteData::default()
        };
        assert_eq!(logical_queues(&"t".into(), &data).len(), 1);
        data.order_topic_conf = Some(String::new());
        assert!(logical_queues(&"t".into(), &data).is_empty());
    }
}
