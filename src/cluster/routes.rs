//! Topic -> route. Looks up what is unknown, once however many ask, and refreshes what is known.
//!
//! 1. The lock is never held while something is sent, called or logged: loggers are the user's code.
//! 2. At most one look-up per topic is under way. Whoever needs its result leaves a continuation, which is called exactly
//!    once and must not block.
//! 3. A refresh that fails keeps the old route: sends go on while all name servers are down.
//! 4. A topic that nobody sends to is forgotten, so the table cannot grow for ever.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    broker_health::BrokerHealth,
    name_servers::NameServers,
    query_route::QueryRoute,
    refresh::Refresh,
    route_faults,
    route_query::{Found, Means, RouteQuery},
    topic_route::{PublishQueue, TopicRoute},
};
use crate::{
    error::{Error, Phase, Written},
    net::{
        connections::Connections,
        deadline::Deadline,
        sync::{AtomicUsize, Mutex, Ordering, channel},
        timer::Timer,
    },
    wire::request::route::RouteData,
};

/// A name server that has just been restarted knows nothing for a while: a known route is given up when so many refreshes
/// by the clock in a row find the topic unknown. Refreshes that failed sends ask for do not count, since they come as
/// quickly as sends fail.
const UNKNOWN_REFRESHES: u32 = 3;

/// Failed sends have a topic looked up at most so often: a dead broker under load must not become a storm of queries.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// A topic is forgotten after so many refreshes without a send: ten minutes.
const IDLE_REFRESHES: u32 = 20;

/// Called with the route, or with why there is none.
pub(crate) type RouteContinuation = Box<dyn FnOnce(Result<Arc<TopicRoute>, Error>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookUp {
    None,
    UnderWay,
    /// One is under way, but the name servers are others than when it was begun: what it ends with is not wanted.
    Outdated,
}

struct Topic {
    route: Option<Arc<TopicRoute>>,
    /// When a name server last answered with a route.
    confirmed: Instant,
    waiting: Vec<RouteContinuation>,
    look_up: LookUp,
    /// It was asked for by the clock.
    by_clock: bool,
    /// When a failed send may have it looked up again.
    doubtful_from: Instant,
    /// A failed send has asked, and the timer will do it.
    is_doubted: bool,
    unknown_refreshes: u32,
    idle_refreshes: u32,
    cursor: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Table {
    topics: HashMap<Arc<str>, Topic>,
    /// The route that was asked for last, which is often the next one too. Whoever changes a route empties it.
    latest: Option<Arc<TopicRoute>>,
    closed: bool,
}

impl Table {
    fn routes(&self) -> impl Iterator<Item = &Arc<TopicRoute>> {
        self.topics.values().filter_map(|topic| topic.route.as_ref())
    }
}

/// How topics that do not exist yet are sent to.
#[derive(Clone, Debug)]
pub(crate) struct TemplateTopic {
    /// The topic whose route stands in, `TBW102` unless the brokers are configured otherwise.
    pub(crate) name: Arc<str>,
    /// Most queues per broker that a new topic gets.
    pub(crate) most_queues: u32,
}

pub(crate) struct Routes {
    table: Mutex<Table>,
    refreshing: Refresh,
    means: Means,
    template: TemplateTopic,
    health: Option<Arc<BrokerHealth>>,
}

/// What one look-up ended with.
enum Outcome {
    Route(TopicRoute),
    Unknown(Error),
    Failed(Error),
}

impl Routes {
    pub(crate) fn new(
        connections: Arc<Connections>,
        timer: Arc<Timer>,
        name_servers: Arc<NameServers>,
        timeout: Duration,
        template: TemplateTopic,
        health: Option<Arc<BrokerHealth>>,
    ) -> Arc<Self> {
        let means = Means {
            connections,
            timer,
            name_servers,
            timeout,
        };
        Arc::new(Self {
            table: Mutex::new(Table::default()),
            refreshing: Refresh::default(),
            means,
            template,
            health,
        })
    }

    /// How topics that do not exist yet are sent to.
    pub(crate) fn template(&self) -> &TemplateTopic {
        &self.template
    }

    /// The route of a topic, if it is known.
    pub(crate) fn known(&self, topic: &str) -> Option<Arc<TopicRoute>> {
        let mut table = self.table.lock();
        let route = match &table.latest {
            Some(route) if *route.topic == *topic => Arc::clone(route),
            _ => {
                let route = table.topics.get(topic)?.route.clone()?;
                table.latest = Some(Arc::clone(&route));
                route
            }
        };
        drop(table);
        route.note_use();
        Some(route)
    }

    /// Calls `then` with the route: now, or when it has been looked up.
    pub(crate) fn when_known(self: &Arc<Self>, topic: &Arc<str>, then: RouteContinuation) {
        let mut table = self.table.lock();
        if table.closed {
            drop(table);
            return then(Err(Error::ShutDown));
        }
        let entry = table.topics.entry(Arc::clone(topic)).or_insert_with(Topic::new);
        if let Some(route) = &entry.route {
            let route = Arc::clone(route);
            drop(table);
            route.note_use();
            return then(Ok(route));
        }
        entry.waiting.push(then);
        let start = entry.begin();
        drop(table);
        if start {
            self.look_up(topic);
        }
    }

    /// Blocks until the route is known, its look-up has failed, or the deadline is over.
    pub(crate) fn wait(
        self: &Arc<Self>,
        topic: &Arc<str>,
        deadline: &Deadline,
    ) -> Result<Arc<TopicRoute>, Error> {
        if let Some(route) = self.known(topic) {
            return Ok(route);
        }
        let (sender, receiver) = channel::bounded(1);
        // The receiver may have gone when its deadline was over.
        self.when_known(topic, Box::new(move |found| drop(sender.try_send(found))));
        receiver
            .recv_deadline(deadline.at())
            .unwrap_or_else(|_| Err(self.late(topic, deadline.waited())))
    }

    /// Asks the name servers about a topic, whatever is known of it, and blocks until one has answered or the deadline is
    /// over. Nothing is kept of the answer.
    pub(crate) fn wait_for_query(&self, topic: &Arc<str>, deadline: &Deadline) -> Result<QueryRoute, Error> {
        let means = Means {
            timeout: self.means.timeout.min(deadline.remaining(Instant::now())),
            ..self.means.clone()
        };
        let (sender, receiver) = channel::bounded(1);
        // The receiver may have gone when its deadline was over.
        let then = move |found| drop(sender.try_send(found));
        RouteQuery::start(means, Arc::clone(topic), Box::new(then));
        match receiver.recv_deadline(deadline.at()) {
            Ok(Found::Route(data)) => Ok(QueryRoute::new(Arc::clone(topic), data)),
            Ok(Found::Unknown { address, remark }) => Err(Error::NoRoute {
                topic: Arc::clone(topic),
                reason: route_faults::not_there(&address, &remark).into(),
            }),
            Ok(Found::Nothing { tried, waited }) => Err(unreachable(topic, tried, waited)),
            Err(_) => Err(self.late(topic, deadline.waited())),
        }
    }

    /// Has a topic looked up again, and blocks until that is done or the deadline is over. Nothing happens if nobody has
    /// wanted to know it so far.
    pub(crate) fn wait_for_refresh(self: &Arc<Self>, topic: &Arc<str>, deadline: &Deadline) {
        let (sender, receiver) = channel::bounded(1);
        let mut table = self.table.lock();
        let Some(entry) = table.topics.get_mut(topic) else {
            return;
        };
        // The receiver may have gone when its deadline was over.
        entry
            .waiting
            .push(Box::new(move |found| drop(sender.try_send(found))));
        let start = entry.begin();
        drop(table);
        if start {
            self.look_up(topic);
        }
        drop(receiver.recv_deadline(deadline.at()));
    }

    /// What whoever waits for a route reports when the time is over.
    pub(crate) fn late(&self, topic: &str, waited: Duration) -> Error {
        let servers: Vec<_> = self
            .means
            .name_servers
            .in_order()
            .iter()
            .map(ToString::to_string)
            .collect();
        let target = format!("topic {topic}, name servers {}", servers.join(";"));
        Error::Timeout {
            phase: Phase::Route,
            target: target.into(),
            waited,
            written: Written::Nothing,
        }
    }

    /// Looks a known topic up again in the background, for example because a broker of its route is gone. However often
    /// it is called: at most once per [`REFRESH_PAUSE`], the last time by the timer.
    pub(crate) fn refresh(self: &Arc<Self>, topic: &Arc<str>) {
        let now = Instant::now();
        let mut table = self.table.lock();
        let Some(entry) = table.topics.get_mut(topic) else {
            return;
        };
        let start = now >= entry.doubtful_from && entry.begin();
        if start {
            entry.doubtful_from = now + REFRESH_PAUSE;
            entry.is_doubted = false;
        }
        let later =
            !start && entry.look_up == LookUp::None && !std::mem::replace(&mut entry.is_doubted, true);
        let at = entry.doubtful_from;
        drop(table);
        if start {
            self.look_up(topic);
        } else if later {
            let (routes, topic) = (Arc::clone(self), Arc::clone(topic));
            self.means.timer.at(at, move || routes.refresh_if_doubted(&topic));
        }
    }

    fn refresh_if_doubted(self: &Arc<Self>, topic: &Arc<str>) {
        let is_doubted = |entry: &mut Topic| std::mem::take(&mut entry.is_doubted);
        if self.table.lock().topics.get_mut(topic).is_some_and(is_doubted) {
            self.refresh(topic);
        }
    }

    /// Looks all topics up again, and forgets those that nobody sends to, and what is known of brokers that are gone.
    pub(crate) fn refresh_all(self: &Arc<Self>) {
        let mut table = self.table.lock();
        table.latest = None;
        table.topics.retain(|_, topic| topic.is_wanted());
        table.topics.values_mut().for_each(|topic| topic.by_clock = true);
        let to_ask = table.topics.keys().map(Arc::clone).collect();
        drop(table);
        self.refresh_in_turn(to_ask, false);
        if let Some(health) = &self.health {
            let table = self.table.lock();
            let routes: Vec<_> = table.routes().map(Arc::clone).collect();
            drop(table);
            health.retain(|name| routes.iter().any(|route| route.queue_of(name).is_some()));
        }
    }

    /// Looks everything up anew, since there are other name servers now.
    pub(crate) fn ask_others(self: &Arc<Self>) {
        let mut table = self.table.lock();
        let mut to_ask = Vec::new();
        for (name, topic) in &mut table.topics {
            if topic.look_up == LookUp::None {
                to_ask.push(Arc::clone(name));
            } else {
                topic.look_up = LookUp::Outdated;
            }
        }
        drop(table);
        self.refresh_in_turn(to_ask, true);
    }

    /// Looks a topic up, unless it is forgotten or that is under way.
    pub(super) fn look_up_again(self: &Arc<Self>, topic: &Arc<str>) {
        if self.table.lock().topics.get_mut(topic).is_some_and(Topic::begin) {
            self.look_up(topic);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.table.lock().closed
    }

    pub(super) fn refreshing(&self) -> &Refresh {
        &self.refreshing
    }

    pub(super) fn timer(&self) -> &Arc<Timer> {
        &self.means.timer
    }

    /// Some queue of a broker, whatever the topic.
    pub(crate) fn queue_of(&self, broker_name: &str) -> Option<Arc<PublishQueue>> {
        let table = self.table.lock();
        let queue = table.routes().find_map(|route| route.queue_of(broker_name));
        queue.cloned()
    }

    /// The name of the broker whose master has this address.
    pub(crate) fn broker_name(&self, address: &str) -> Option<Arc<str>> {
        let table = self.table.lock();
        let brokers = table.routes().flat_map(|route| &route.brokers);
        let mut named = brokers.filter(|broker| &*broker.address == address);
        named.next().map(|broker| Arc::clone(&broker.name))
    }

    /// Whether a route names this address.
    pub(crate) fn names(&self, address: &str) -> bool {
        let table = self.table.lock();
        table.routes().any(|route| route.has_address(address))
    }

    /// All routes that are known, with the moment when a name server last answered with one, sorted by topic.
    pub(crate) fn all(&self) -> Vec<(Arc<TopicRoute>, Instant)> {
        let table = self.table.lock();
        let known = |topic: &Topic| Some((Arc::clone(topic.route.as_ref()?), topic.confirmed));
        let mut all: Vec<_> = table.topics.values().filter_map(known).collect();
        drop(table);
        all.sort_by(|one, other| one.0.topic.cmp(&other.0.topic));
        all
    }

    /// Whether a route names this address, or a look-up that may do so is under way.
    pub(crate) fn may_need(&self, address: &str) -> bool {
        let table = self.table.lock();
        table.topics.values().any(|topic| topic.route.is_none())
            || table.routes().any(|route| route.has_address(address))
    }

    /// Fails everybody who waits, and everybody who comes later.
    pub(crate) fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        table.latest = None;
        let topics = std::mem::take(&mut table.topics);
        drop(table);
        let waiting = topics.into_values().flat_map(|topic| topic.waiting);
        waiting.for_each(|then| then(Err(Error::ShutDown)));
    }

    fn look_up(self: &Arc<Self>, topic: &Arc<str>) {
        self.refreshing.begin();
        let routes = Arc::clone(self);
        let asked = Arc::clone(topic);
        let then = move |found| match found {
            Found::Route(data) => routes.settle(&asked, routes.read_route(&asked, &data)),
            Found::Unknown { address, remark } => routes.ask_for_template(&asked, address, remark),
            Found::Nothing { tried, waited } => {
                routes.settle(&asked, Outcome::unreachable(&asked, tried, waited));
            }
        };
        RouteQuery::start(self.means.clone(), Arc::clone(topic), Box::new(then));
    }

    /// The topic is unknown: brokers that create topics by themselves say so by the route of the template topic. Only an
    /// answer leads here, never silence: else a slow name server would send messages to the wrong brokers.
    fn ask_for_template(self: &Arc<Self>, topic: &Arc<str>, address: Arc<str>, remark: String) {
        let routes = Arc::clone(self);
        let asked = Arc::clone(topic);
        let then = move |found| {
            let outcome = match found {
                Found::Route(data) => {
                    let cursor = routes.cursor(&asked);
                    match TopicRoute::from_template(&asked, &data, routes.template.most_queues, cursor) {
                        Some(route) => Outcome::Route(route.watched(routes.health.as_ref())),
                        None => Outcome::Unknown(routes.no_route(&asked, &address, &remark)),
                    }
                }
                Found::Unknown { .. } => Outcome::Unknown(routes.no_route(&asked, &address, &remark)),
                Found::Nothing { tried, waited } => Outcome::unreachable(&asked, tried, waited),
            };
            routes.settle(&asked, outcome);
        };
        RouteQuery::start(
            self.means.clone(),
            Arc::clone(&self.template.name),
            Box::new(then),
        );
    }

    fn no_route(&self, topic: &Arc<str>, address: &str, remark: &str) -> Error {
        Error::NoRoute {
            topic: Arc::clone(topic),
            reason: route_faults::unknown_topic(address, remark, &self.template.name).into(),
        }
    }

    fn read_route(&self, topic: &Arc<str>, data: &RouteData) -> Outcome {
        match TopicRoute::from_data(topic, data, self.cursor(topic)) {
            Some(route) => Outcome::Route(route.watched(self.health.as_ref())),
            None => Outcome::Unknown(Error::NoRoute {
                topic: Arc::clone(topic),
                reason: route_faults::no_queue(data).into(),
            }),
        }
    }

    fn cursor(&self, topic: &str) -> Arc<AtomicUsize> {
        self.table
            .lock()
            .topics
            .get(topic)
            .map(|entry| Arc::clone(&entry.cursor))
            .unwrap_or_default()
    }

    fn settle(self: &Arc<Self>, topic: &Arc<str>, outcome: Outcome) {
        self.refreshing.end();
        let mut table = self.table.lock();
        table.latest = None;
        let Some(entry) = table.topics.get_mut(topic) else {
            return;
        };
        if entry.look_up == LookUp::Outdated {
            entry.look_up = LookUp::UnderWay;
            drop(table);
            return self.look_up(topic);
        }
        entry.look_up = LookUp::None;
        let waiting = std::mem::take(&mut entry.waiting);
        let (result, change) = entry.take_in(outcome);
        if result.is_err() && entry.route.is_none() {
            // Asked for again when somebody sends again, not by the clock.
            table.topics.remove(topic);
        }
        drop(table);
        change.log(topic);
        for then in waiting {
            then(result.clone());
        }
    }
}

impl Topic {
    fn new() -> Self {
        Self {
            route: None,
            confirmed: Instant::now(),
            waiting: Vec::new(),
            look_up: LookUp::None,
            by_clock: false,
            doubtful_from: Instant::now(),
            is_doubted: false,
            unknown_refreshes: 0,
            idle_refreshes: 0,
            cursor: Arc::new(AtomicUsize::new(random_start())),
        }
    }

    fn is_wanted(&mut self) -> bool {
        let is_used = |route: &Arc<TopicRoute>| route.used.swap(false, Ordering::Relaxed);
        let used = self.route.as_ref().is_some_and(is_used) || self.look_up != LookUp::None;
        self.idle_refreshes = if used { 0 } else { self.idle_refreshes + 1 };
        self.idle_refreshes < IDLE_REFRESHES
    }

    /// Notes that a look-up begins. False if one is under way.
    fn begin(&mut self) -> bool {
        if self.look_up != LookUp::None {
            return false;
        }
        self.look_up = LookUp::UnderWay;
        true
    }

    /// Whether the known route is kept although the topic is unknown now. That more likely means that the name server
    /// has just been restarted than that the topic is gone.
    fn outlives_unknown(&mut self) -> bool {
        self.unknown_refreshes += u32::from(self.by_clock);
        self.unknown_refreshes < UNKNOWN_REFRESHES
    }

    /// Takes in what a look-up ended with, and says what those are told who wait for it.
    fn take_in(&mut self, outcome: Outcome) -> (Result<Arc<TopicRoute>, Error>, Change) {
        if matches!(outcome, Outcome::Route(_)) {
            self.confirmed = Instant::now();
        }
        let known = self.route.clone();
        let result = match (outcome, known) {
            // The topic is not what is known, but what it would become if it did not exist.
            (Outcome::Route(new), Some(old))
                if new.from_template && !old.from_template && self.outlives_unknown() =>
            {
                (Ok(old), Change::None)
            }
            (Outcome::Route(new), Some(old)) if old.is_same(&new) => {
                // With all that is remembered in it.
                self.unknown_refreshes = 0;
                (Ok(old), Change::None)
            }
            (Outcome::Route(new), old) => {
                let change = Change::New(new.queues.len(), new.brokers.len());
                if let Some(old) = old {
                    new.used
                        .store(old.used.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                let new = Arc::new(new);
                self.unknown_refreshes = 0;
                self.route = Some(Arc::clone(&new));
                (Ok(new), change)
            }
            (Outcome::Unknown(_), Some(old)) if self.outlives_unknown() => (Ok(old), Change::None),
            (Outcome::Unknown(error), Some(_)) => {
                self.route = None;
                (Err(error.clone()), Change::GivenUp(error))
            }
            (Outcome::Failed(error), Some(old)) => (Ok(old), Change::Kept(error)),
            (Outcome::Unknown(error) | Outcome::Failed(error), None) => (Err(error), Change::None),
        };
        self.by_clock = false;
        result
    }
}

/// What a look-up changed, for the log.
enum Change {
    None,
    New(usize, usize),
    Kept(Error),
    GivenUp(Error),
}

impl Change {
    fn log(&self, topic: &str) {
        match self {
            Self::None => {}
            Self::New(queues, brokers) => {
                log::info!("topic {topic}: the route has {queues} queues on {brokers} brokers");
            }
            Self::Kept(error) => log::debug!("topic {topic}: the old route is kept: {error}"),
            Self::GivenUp(error) => log::warn!("topic {topic}: the route is given up: {error}"),
        }
    }
}

impl Outcome {
    fn unreachable(topic: &Arc<str>, tried: Vec<Error>, waited: Duration) -> Self {
        Self::Failed(unreachable(topic, tried, waited))
    }
}

fn unreachable(topic: &Arc<str>, tried: Vec<Error>, waited: Duration) -> Error {
    Error::NameServersUnreachable {
        topic: Arc::clone(topic),
        waited,
        tried: tried.into(),
    }
}

/// Where a round robin begins: anywhere, so that many producers that start together do not all begin with the same
/// queue (4.7.0 `ThreadLocalIndex`).
fn random_start() -> usize {
    use std::hash::{BuildHasher, RandomState};
    usize::try_from(RandomState::new().hash_one(0_u8) & 0xFFFF).unwrap_or_default()
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
