//! The way of a reply: the brokers through which one may come are connected to and know the producer before a request is
//! sent, and stay connected for as long as somebody waits for a reply.
//!
//! A replier sends its reply to the reply topic of the cluster, and whichever broker gets it pushes it to the connection on
//! which that same broker had a heartbeat of the requester (`ReplyMessageProcessor`). So beside the brokers of the topic,
//! those of the reply topic are greeted too. Unlike 4.7.0, which greets the brokers of the routes that it knows already.
//!
//! Rule: nobody is called while a lock is held.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{housekeeping::Housekeeping, routes::Routes, topic_route::TopicRoute};
use crate::{
    error::Error,
    message::reply::reply_topic,
    net::{
        connection::Connection,
        connections::Connections,
        sync::Mutex,
        timer::{Timer, TimerKey},
    },
};

/// A broker that did not answer its greeting in time is not waited for by the requests of so long: the others may bring the
/// reply.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// How long to wait before a broker is dialled again, if nothing else says it.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// Brokers that were greeted anew in vain are left alone for so long (4.7.0 `heartbeatBrokerInterval`).
const DOUBT_PAUSE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    /// How many requests wait for a reply that may come through this broker.
    held: HashMap<Arc<str>, usize>,
    redialling: HashSet<Arc<str>>,
    silent_until: HashMap<Arc<str>, Instant>,
    doubted: Option<Instant>,
}

pub(crate) struct ReplyPath {
    connections: Arc<Connections>,
    routes: Arc<Routes>,
    housekeeping: Arc<Housekeeping>,
    timer: Arc<Timer>,
    state: Mutex<State>,
}

/// The brokers through which a reply may come. While it lives, their connections are made anew when they end.
pub(crate) struct OpenPath {
    path: Arc<ReplyPath>,
    brokers: Vec<Arc<str>>,
}

/// Called when the path is open, or as open as it gets in time. It must not block.
type OnOpen = Box<dyn FnOnce(OpenPath) + Send>;

/// A path that is being opened.
struct Opening {
    path: Arc<ReplyPath>,
    state: Mutex<OpeningState>,
}

struct OpeningState {
    brokers: Vec<Arc<str>>,
    /// Routes that are looked up.
    look_ups: usize,
    /// Brokers that have not answered yet.
    greeted: HashSet<Arc<str>>,
    then: Option<OnOpen>,
    alarm: Option<TimerKey>,
}

impl ReplyPath {
    pub(crate) fn new(
        connections: &Arc<Connections>,
        routes: &Arc<Routes>,
        housekeeping: &Arc<Housekeeping>,
        timer: &Arc<Timer>,
    ) -> Arc<Self> {
        let path = Arc::new(Self {
            connections: Arc::clone(connections),
            routes: Arc::clone(routes),
            housekeeping: Arc::clone(housekeeping),
            timer: Arc::clone(timer),
            state: Mutex::default(),
        });
        let weak = Arc::downgrade(&path);
        connections.on_end(Box::new(move |address| {
            if let Some(path) = weak.upgrade() {
                path.housekeeping.ended(address);
                path.reconnect(address);
            }
        }));
        path
    }

    /// Has all brokers that may bring a reply to a message of this route connected and greeted, and calls `then` once: on this
    /// thread if they are, else when the last has answered, cannot be reached, or `until` is over.
    pub(crate) fn open(self: &Arc<Self>, route: &TopicRoute, until: Instant, then: OnOpen) {
        let mut clusters: Vec<&str> = route.brokers.iter().map(|broker| &*broker.cluster).collect();
        clusters.sort_unstable();
        clusters.dedup();
        clusters.retain(|cluster| !cluster.is_empty());
        let opening = Arc::new(Opening {
            path: Arc::clone(self),
            state: Mutex::new(OpeningState {
                brokers: Vec::new(),
                // One more for this function.
                look_ups: clusters.len() + 1,
                greeted: HashSet::new(),
                then: Some(then),
                alarm: None,
            }),
        });
        for cluster in clusters {
            let opening = Arc::clone(&opening);
            let found = move |found: Result<Arc<TopicRoute>, Error>| {
                if let Ok(route) = found {
                    opening.greet_all(&route);
                }
                opening.looked_up();
            };
            let topic: Arc<str> = reply_topic(cluster).into();
            self.routes.when_known(&topic, Box::new(found));
        }
        opening.greet_all(route);
        opening.looked_up();
        if opening.state.lock().then.is_some() {
            let late = Arc::clone(&opening);
            let key = self.timer.at(until, move || late.finish(true));
            opening.state.lock().alarm = Some(key);
            if opening.state.lock().then.is_none() {
                // It was opened meanwhile.
                self.timer.cancel(key);
            }
        }
    }

    /// No reply came in time to a request that was stored: greets those brokers anew that may have forgotten the producer.
    pub(crate) fn doubt(&self, open: &OpenPath) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.doubted.is_some_and(|doubted| now < doubted + DOUBT_PAUSE) {
            return;
        }
        state.doubted = Some(now);
        drop(state);
        for broker in &open.brokers {
            self.housekeeping.doubt(broker);
        }
    }

    fn is_held(&self, address: &str) -> bool {
        self.state.lock().held.contains_key(address)
    }

    /// Whether to wait for the answer of this broker.
    fn is_expected(&self, address: &str) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.silent_until.retain(|_, until| now < *until);
        !state.silent_until.contains_key(address)
    }

    /// Dials a broker for as long as somebody waits for a reply that may come through it.
    fn reconnect(self: &Arc<Self>, address: &Arc<str>) {
        let mut state = self.state.lock();
        if !state.held.contains_key(address) || !state.redialling.insert(Arc::clone(address)) {
            return;
        }
        drop(state);
        self.redial(address);
    }

    fn redial(self: &Arc<Self>, address: &Arc<str>) {
        if !self.is_held(address) {
            self.state.lock().redialling.remove(address);
            return;
        }
        let (path, dialled) = (Arc::clone(self), Arc::clone(address));
        // A new connection is greeted before anybody can send on it.
        let then = move |ready: Result<Arc<Connection>, Error>| match ready {
            Ok(connection) => {
                path.state.lock().redialling.remove(&dialled);
                if !connection.is_live() {
                    // It ended while this was still under way.
                    path.reconnect(&dialled);
                }
            }
            Err(Error::ShutDown) => {
                path.state.lock().redialling.remove(&dialled);
            }
            Err(_) => {
                let at = path.connections.when_worth_dialling(&dialled);
                let at = at.unwrap_or_else(|| Instant::now() + REDIAL_PAUSE);
                let (again, address) = (Arc::clone(&path), Arc::clone(&dialled));
                path.timer.at(at, move || again.redial(&address));
            }
        };
        self.connections.when_ready(address, Box::new(then));
    }
}

impl Opening {
    /// Begins to greet the brokers of a route that are not greeted yet.
    fn greet_all(self: &Arc<Self>, route: &TopicRoute) {
        for broker in &route.brokers {
            let address = &broker.address;
            let mut state = self.state.lock();
            if state.then.is_none() || state.brokers.contains(address) {
                continue;
            }
            state.brokers.push(Arc::clone(address));
            drop(state);
            if self.path.housekeeping.is_greeted(address) {
                continue;
            }
            if self.path.is_expected(address) {
                self.state.lock().greeted.insert(Arc::clone(address));
            }
            let (opening, greeted) = (Arc::clone(self), Arc::clone(address));
            let then = move |answer: Result<(), Error>| opening.answered(&greeted, answer.is_ok());
            self.path.housekeeping.when_greeted(address, Box::new(then));
        }
    }

    fn answered(&self, address: &Arc<str>, is_greeted: bool) {
        if is_greeted {
            self.path.state.lock().silent_until.remove(address);
        }
        self.state.lock().greeted.remove(address);
        self.finish(false);
    }

    fn looked_up(&self) {
        self.state.lock().look_ups -= 1;
        self.finish(false);
    }

    /// Hands the path out, if nothing is waited for any more or the time is over.
    fn finish(&self, is_late: bool) {
        let mut state = self.state.lock();
        if !is_late && (state.look_ups > 0 || !state.greeted.is_empty()) {
            return;
        }
        let Some(then) = state.then.take() else { return };
        let brokers = state.brokers.clone();
        let silent = std::mem::take(&mut state.greeted);
        let alarm = state.alarm.take();
        drop(state);
        if let Some(alarm) = alarm {
            self.path.timer.cancel(alarm);
        }
        let until = Instant::now() + SILENT_FOR;
        let mut path = self.path.state.lock();
        for address in silent {
            log::debug!("{address} has not answered its greeting in time, so no reply may come through it");
            path.silent_until.insert(address, until);
        }
        for broker in &brokers {
            *path.held.entry(Arc::clone(broker)).or_default() += 1;
        }
        drop(path);
        // One may have ended before it was held.
        for broker in &brokers {
            if self.path.connections.live(broker).is_none() {
                self.path.reconnect(broker);
            }
        }
        then(OpenPath {
            path: Arc::clone(&self.path),
            brokers,
        });
    }
}

impl Drop for OpenPath {
    fn drop(&mut self) {
        let mut state = self.path.state.lock();
        for broker in &self.brokers {
            if let Some(count) = state.held.get_mut(broker) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(broker);
                }
            }
        }
    }
}

impl fmt::Debug for OpenPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenPath")
            .field("brokers", &self.brokers)
            .finish_non_exhaustive()
    }
}
