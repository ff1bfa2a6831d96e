//! Keeps a transactional producer known to every broker that may ask it.
//!
//! A broker asks a producer of the group whose heartbeat came on a connection that is open, and a half message may lie on any
//! broker of its topic, left there by a process that is no more. So unlike a plain producer, which connects to the brokers
//! that it sends to, this one keeps a connection to the master of every broker of its topics, and their routes are never
//! forgotten. The first thing on each connection is a heartbeat: see `cluster::housekeeping`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use crate::{
    cluster::topic_route::TopicRoute,
    error::Error,
    net::{deadline::Deadline, sync::Mutex},
    producer::shared::Shared,
};

/// So many topics are kept known. Whoever sends transactions to more has most of them answered all the same: brokers
/// that hold one topic usually hold others.
const MOST_TOPICS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Registration {
    topics: Mutex<BTreeSet<Arc<str>>>,
}

impl Registration {
    /// Keeps the producer known to all brokers of this topic from now on. The first time, it connects to them in the
    /// background.
    pub(super) fn add(&self, shared: &Arc<Shared>, topic: &Arc<str>) {
        let mut topics = self.topics.lock();
        let is_new = !topics.contains(topic) && topics.len() < MOST_TOPICS;
        if is_new {
            topics.insert(Arc::clone(topic));
        }
        drop(topics);
        if is_new {
            connect(shared, topic);
        }
    }

    fn topics(&self) -> Vec<Arc<str>> {
        self.topics.lock().iter().map(Arc::clone).collect()
    }
}

/// Looks after the connections by the clock, as often as heartbeats are sent, as long as there is a producer.
pub(super) fn keep(registration: &Arc<Registration>, shared: &Arc<Shared>) {
    let at = Deadline::after(shared.config.heartbeat_interval).at();
    let (registration, producer) = (Arc::clone(registration), Arc::downgrade(shared));
    shared.timer.at(at, move || {
        let Some(shared) = Weak::upgrade(&producer).filter(|shared| !shared.gate.is_closed()) else {
            return;
        };
        for topic in registration.topics() {
            connect(&shared, &topic);
        }
        keep(&registration, &shared);
    });
}

/// Connects to all brokers of a topic that there is no connection to. Returns at once.
fn connect(shared: &Arc<Shared>, topic: &Arc<str>) {
    let producer = Arc::downgrade(shared);
    let then = move |found: Result<Arc<TopicRoute>, Error>| {
        let (Some(shared), Ok(route)) = (Weak::upgrade(&producer), found) else {
            return;
        };
        for broker in &route.brokers {
            if shared.connections.live(&broker.address).is_none() {
                // Whoever is not reached now is tried again by the clock.
                shared.connections.when_ready(&broker.address, Box::new(drop));
            }
        }
    };
    shared.routes.when_known(topic, Box::new(then));
}
