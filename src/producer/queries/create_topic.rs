//! Creates a topic on several brokers, and waits until the name servers tell of it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{Query, ask::Question, check_topic, invalid};
use crate::{
    cluster::query_route::QueryRoute,
    code::RequestCode,
    error::{BrokerFailure, Error, FailedOnBrokers},
    message::names::check_new_topic,
    wire::{limits::MAX_QUEUES_PER_TOPIC, request::create_topic::CreateTopic},
};

/// `PermName.PERM_READ | PERM_WRITE`.
const READ_AND_WRITE: u32 = 6;

/// How often the name servers are asked whether they know the topic by now. Brokers tell them at once; that takes
/// milliseconds.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A topic to [create](crate::Producer::create_topic).
///
/// ```
/// use rocketmq_producer::NewTopic;
///
/// let orders = NewTopic::new("orders", 8);
/// let audit = NewTopic::new("audit", 1).where_topic("DefaultCluster");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    name: String,
    queues: u32,
    where_topic: Option<String>,
    sys_flag: u32,
}

impl NewTopic {
    /// A topic with so many queues for reading and for writing on each broker, at least 1 and at most 65,536 on all
    /// brokers together: routes with more are not read.
    pub fn new(name: impl Into<String>, queues_per_broker: u32) -> Self {
        Self {
            name: name.into(),
            queues: queues_per_broker,
            where_topic: None,
            sys_flag: 0,
        }
    }

    /// Sets the existing topic whose brokers get the new one; the name of a cluster is one, which is on all brokers of
    /// that cluster. Default: the producer's [`create_topic_key`](crate::ProducerBuilder::create_topic_key), `TBW102`
    /// unless set, which is on all brokers that create topics by themselves. It is `key` of Java's `createTopic`.
    #[must_use]
    pub fn where_topic(self, topic: impl Into<String>) -> Self {
        Self {
            where_topic: Some(topic.into()),
            ..self
        }
    }

    /// Sets the system flag (`TopicSysFlag`): 1 for a topic of units, 2 for one that units subscribe to, 3 for both.
    /// Default 0.
    #[must_use]
    pub fn sys_flag(self, sys_flag: u32) -> Self {
        Self { sys_flag, ..self }
    }
}

/// A topic that was [created](crate::Producer::create_topic).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CreatedTopic {
    /// The names of the brokers that have it, in alphabetical order.
    pub brokers: Vec<Arc<str>>,
    /// Whether a name server told of it on all of them before the time was over. Else it will soon.
    pub is_routed: bool,
}

pub(super) fn create(query: &Query<'_>, new: &NewTopic) -> Result<CreatedTopic, Error> {
    check_new_topic(&new.name).map_err(invalid)?;
    if new.queues == 0 {
        return Err(invalid(format!("topic {} is to have 0 queues", new.name)));
    }
    let topic: Arc<str> = new.name.as_str().into();
    let key = new
        .where_topic
        .as_deref()
        .unwrap_or(&query.shared.config.create_topic_key);
    let key = check_topic(key)?;
    check_queues(new, 1)?;
    let route = query.shared.routes.wait_for_query(&key, &query.deadline)?;
    check_queues(new, route.brokers.len())?;
    let (succeeded, failed) = ask_masters(query, &route, new, &topic);
    if !failed.is_empty() {
        let what = format!("creating topic {topic}");
        let failed = FailedOnBrokers::new(what, succeeded, failed);
        return Err(Error::FailedOnBrokers(Box::new(failed)));
    }
    let is_routed = wait_until_routed(query, &topic, &succeeded, new.queues);
    if is_routed {
        query.shared.routes.wait_for_refresh(&topic, &query.deadline);
    }
    Ok(CreatedTopic {
        brokers: succeeded,
        is_routed,
    })
}

fn check_queues(new: &NewTopic, brokers: usize) -> Result<(), Error> {
    let brokers = u32::try_from(brokers).unwrap_or(u32::MAX);
    if new.queues.saturating_mul(brokers) <= MAX_QUEUES_PER_TOPIC {
        return Ok(());
    }
    Err(invalid(format!(
        "topic {} is to have {} queues on each of {brokers} broker(s); the limit is {MAX_QUEUES_PER_TOPIC} queues in all",
        new.name, new.queues
    )))
}

/// Asks all masters at the same time. Gives back who did it and who did not.
fn ask_masters(
    query: &Query<'_>,
    route: &QueryRoute,
    new: &NewTopic,
    topic: &Arc<str>,
) -> (Vec<Arc<str>>, Vec<BrokerFailure>) {
    let (masters, without): (Vec<_>, Vec<_>) =
        route.brokers.iter().partition(|broker| broker.master.is_some());
    let mut failed: Vec<_> = without
        .into_iter()
        .map(|broker| BrokerFailure {
            broker_name: Arc::clone(&broker.name),
            error: Error::NoRoute {
                topic: Arc::clone(topic),
                reason: "the broker has no master now, and only masters create topics".into(),
            },
        })
        .collect();
    let addresses: Vec<_> = masters
        .iter()
        .filter_map(|broker| broker.master.clone())
        .collect();
    let (asked_topic, key, new) = (Arc::clone(topic), Arc::clone(&route.topic), new.clone());
    let question = Question::new(RequestCode::UPDATE_AND_CREATE_TOPIC, move |writer| {
        let request = CreateTopic {
            topic: &asked_topic,
            default_topic: &key,
            read_queue_nums: new.queues,
            write_queue_nums: new.queues,
            perm: READ_AND_WRITE,
            topic_sys_flag: new.sys_flag,
            order: false,
        };
        request.write(writer);
    });
    let answers = query.ask_all(&route.topic, &addresses, &question);
    let mut succeeded = Vec::new();
    for ((broker, address), answer) in masters.into_iter().zip(&addresses).zip(answers) {
        let broker_name = Arc::clone(&broker.name);
        match answer.and_then(|answer| answer.check(address)) {
            Ok(()) => succeeded.push(broker_name),
            Err(error) => failed.push(BrokerFailure { broker_name, error }),
        }
    }
    failed.sort_by(|one, other| one.broker_name.cmp(&other.broker_name));
    (succeeded, failed)
}

/// Asks the name servers until one tells of the topic with these queues on all these brokers. False: the time was over.
fn wait_until_routed(query: &Query<'_>, topic: &Arc<str>, brokers: &[Arc<str>], queues: u32) -> bool {
    let wanted: BTreeMap<&str, u32> = brokers.iter().map(|name| (&**name, queues)).collect();
    loop {
        let route = query.shared.routes.wait_for_query(topic, &query.deadline);
        if route.is_ok_and(|route| route.has_queues(&wanted)) {
            return true;
        }
        let now = Instant::now();
        if query.deadline.is_over(now) || query.shared.gate.is_closed() {
            return false;
        }
        thread::sleep(LOOK_PAUSE.min(query.deadline.remaining(now)));
    }
}
