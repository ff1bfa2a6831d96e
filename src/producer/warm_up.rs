//! Looks up routes, connects and greets before the first send has to.
//!
//! Everything is started at once and goes on by completions: the route of a topic starts the dials of its brokers, a
//! connection its heartbeat. The caller waits on one channel and keeps the first failure in the order of the topics, and
//! of the brokers within a topic.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Producer, shared::Shared};
use crate::{
    cluster::topic_route::TopicRoute,
    error::{Error, Phase, Written},
    message::names::check_topic,
    net::{deadline::Deadline, sync::channel},
};

/// Something that was waited for has come.
enum Event {
    Route(usize, Result<Arc<TopicRoute>, Error>),
    Greeted(Arc<str>, Result<(), Error>),
}

struct WarmUp<'a> {
    shared: &'a Arc<Shared>,
    topics: Vec<Arc<str>>,
    deadline: Deadline,
    sender: channel::Sender<Event>,
    /// By topic; `None` while it is looked up.
    routes: Vec<Option<Result<Arc<TopicRoute>, Error>>>,
    /// By address; `None` while it is being connected to or greeted.
    brokers: HashMap<Arc<str>, Option<Result<(), Error>>>,
}

impl Producer {
    /// Looks up the routes of these topics and connects to all their brokers, so that the first send is no slower than the
    /// second: it needs no look-up and no new connection, and the brokers know the producer.
    ///
    /// Blocks for at most the send timeout, until every broker has answered a heartbeat or something has failed. Topics and
    /// brokers are seen to at the same time. A topic that brokers create by its first message is connected to where it
    /// would be created.
    ///
    /// # Errors
    /// What happened to the first topic or broker that failed, in the order of `topics`; its address or the topic is part of
    /// the error. What has succeeded stays: a producer that is not wholly warm sends all the same.
    /// [`Error::InvalidMessage`] for an illegal topic; nothing is begun then.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(2)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// if let Err(error) = producer.warm_up(&["orders", "payments"]) {
    ///     eprintln!("the first sends will be slower, or fail: {error}");
    /// }
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn warm_up(&self, topics: &[&str]) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let _inside = shared.gate.enter()?;
        for topic in topics {
            check_topic(topic).map_err(|reason| Error::InvalidMessage { reason })?;
        }
        let (sender, events) = channel::unbounded();
        let mut warm_up = WarmUp {
            shared,
            topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
            deadline: Deadline::after(shared.config.send_timeout),
            sender,
            routes: topics.iter().map(|_| None).collect(),
            brokers: HashMap::new(),
        };
        warm_up.look_up();
        while warm_up.is_waiting() {
            match events.recv_deadline(warm_up.deadline.at()) {
                Ok(Event::Route(index, found)) => warm_up.take_route(index, found),
                Ok(Event::Greeted(address, result)) => {
                    warm_up.brokers.insert(address, Some(result));
                }
                Err(_) => break,
            }
        }
        warm_up.first_failure().map_or(Ok(()), Err)
    }
}

impl WarmUp<'_> {
    fn look_up(&self) {
        for (index, topic) in self.topics.iter().enumerate() {
            let sender = self.sender.clone();
            // The receiver has gone when the time was over.
            let then = move |found| drop(sender.send(Event::Route(index, found)));
            self.shared.routes.when_known(topic, Box::new(then));
        }
    }

    fn take_route(&mut self, index: usize, found: Result<Arc<TopicRoute>, Error>) {
        if let Ok(route) = &found {
            for broker in &route.brokers {
                if !self.brokers.contains_key(&broker.address) {
                    self.brokers.insert(Arc::clone(&broker.address), None);
                    self.connect(&broker.address);
                }
            }
        }
        if let Some(slot) = self.routes.get_mut(index) {
            *slot = Some(found);
        }
    }

    fn connect(&self, address: &Arc<str>) {
        let (sender, name) = (self.sender.clone(), Arc::clone(address));
        let housekeeping = Arc::clone(&self.shared.housekeeping);
        let deadline = self.deadline;
        let then = move |ready| {
            let done = move |result| drop(sender.send(Event::Greeted(name, result)));
            match ready {
                Ok(connection) => {
                    housekeeping.heartbeat_then(&connection, deadline.remaining(Instant::now()), done);
                }
                Err(error) => done(Err(error)),
            }
        };
        self.shared.connections.when_ready(address, Box::new(then));
    }

    fn is_waiting(&self) -> bool {
        self.routes.iter().any(Option::is_none) || self.brokers.values().any(Option::is_none)
    }

    fn first_failure(&self) -> Option<Error> {
        let topics = self.topics.iter().zip(&self.routes);
        topics.into_iter().find_map(|(topic, found)| match found {
            None => Some(self.shared.routes.late(topic, self.deadline.waited())),
            Some(Err(error)) => Some(error.clone()),
            Some(Ok(route)) => route
                .brokers
                .iter()
                .find_map(|broker| self.failure_of(&broker.address)),
        })
    }

    fn failure_of(&self, address: &Arc<str>) -> Option<Error> {
        match self.brokers.get(address) {
            Some(Some(result)) => result.clone().err(),
            _ => Some(late(self.shared, address, self.deadline.waited())),
        }
    }
}

/// A broker has not been greeted in time.
fn late(shared: &Shared, address: &Arc<str>, waited: Duration) -> Error {
    let phase = match shared.connections.live(address) {
        Some(_) => Phase::Reply,
        None => Phase::Connect,
    };
    Error::Timeout {
        phase,
        target: Arc::clone(address),
        waited,
        written: Written::Nothing,
    }
}
