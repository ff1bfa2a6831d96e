//! What happens by the clock: routes are refreshed, brokers are greeted, unused connections are closed. And the farewell.
//!
//! 1. Everything runs on the timer thread or on the thread of a completion, and starts requests without waiting for them;
//!    only `unregister` blocks, until it is told to stop.
//! 2. Once a connection has carried a heartbeat it must go on doing so: brokers close it after 120 s without one, whatever
//!    else it carries (`ProducerManager`, `ClientHousekeepingService`).
//! 3. A broker keeps which connection a client id is on from the first heartbeat of a connection, and forgets it when any
//!    connection of that client closes. So a connection that takes the place of an earlier one unregisters first and then
//!    sends its heartbeat: else, if the broker sees the end of the earlier one late, it can push nothing any more, and no
//!    later heartbeat repairs that (4.7.0 to 5.5.0).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    call::{Answer, call},
    greetings::{Greetings, OnGreeted},
    name_servers::NameServers,
    reachability::{DETECTOR_INTERVAL, Detector},
    routes::Routes,
};
use crate::{
    code::RequestCode,
    error::Error,
    net::{
        connection::{Connection, Request},
        connections::Connections,
        deadline::Deadline,
        sync::{AtomicBool, Mutex, Ordering, channel},
        timer::Timer,
    },
    wire::{
        header::FieldWriter,
        request::{heartbeat::encode_heartbeat, unregister::Unregister},
    },
};

/// How long a broker may take to answer the farewell (4.7.0 `mqClientApiTimeout`), however much time is left.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// A broker has seen the end of a connection after so long, as a rule: its threads do not keep the order of what happens on
/// two connections.
const END_IS_SEEN: Duration = Duration::from_millis(100);

/// Who this producer is to the brokers.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) client_id: Arc<str>,
    pub(crate) producer_group: Arc<str>,
}

/// How often things are done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    pub(crate) route_refresh: Duration,
    pub(crate) heartbeat: Duration,
    /// At least as long as a send waits: a connection on which a heartbeat hears nothing for so long is given up, and
    /// with it the sends that wait there.
    pub(crate) heartbeat_timeout: Duration,
}

/// How far it has come with a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Done {
        /// An earlier connection was greeted before.
        again: bool,
    },
    /// The farewell of an earlier connection is under way, the heartbeat comes after it.
    Farewell,
    /// It is done, but an earlier connection was still open: when that closes, the broker forgets this one.
    Repeat,
}

pub(crate) struct Housekeeping {
    identity: Identity,
    intervals: Intervals,
    heartbeat_body: Vec<u8>,
    connections: Arc<Connections>,
    name_servers: Arc<NameServers>,
    routes: Arc<Routes>,
    timer: Arc<Timer>,
    /// Brokers that have been greeted, by address.
    greeted: Mutex<HashMap<Arc<str>, Greeting>>,
    /// How far the greeting of each has come.
    greetings: Greetings,
    detector: Option<Detector>,
    stopped: AtomicBool,
}

impl Housekeeping {
    pub(crate) fn start(
        identity: Identity,
        intervals: Intervals,
        connections: Arc<Connections>,
        name_servers: Arc<NameServers>,
        routes: Arc<Routes>,
        timer: Arc<Timer>,
        detector: Option<Detector>,
    ) -> Arc<Self> {
        let mut heartbeat_body = Vec::new();
        encode_heartbeat(
            &mut heartbeat_body,
            &identity.client_id,
            [&*identity.producer_group].into_iter(),
        );
        let housekeeping = Arc::new(Self {
            identity,
            intervals,
            heartbeat_body,
            connections,
            name_servers,
            routes,
            timer,
            greeted: Mutex::default(),
            greetings: Greetings::default(),
            detector,
            stopped: AtomicBool::new(false),
        });
        let greeter = Arc::downgrade(&housekeeping);
        let greet = move |connection: &Arc<Connection>| {
            if let Some(housekeeping) = greeter.upgrade() {
                housekeeping.greet(connection);
            }
        };
        housekeeping.connections.on_connect(Box::new(greet));
        housekeeping.refresh_later();
        housekeeping.heartbeat_later();
        housekeeping.detect_later();
        housekeeping
    }

    /// No more rounds.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// There are other name servers from now on: leaves those that are gone, and looks everything up anew.
    pub(crate) fn set_name_servers(&self, name_servers: NameServers) {
        let gone = self.name_servers.replace_by(name_servers);
        log::info!(
            "the name servers are now {}",
            self.name_servers.in_order().join(";")
        );
        self.routes.ask_others();
        let is_gone = |connection: &Arc<Connection>| gone.contains(connection.address());
        for connection in self.connections.current() {
            // One that a route names too is a broker's.
            if is_gone(&connection) && !self.routes.names(connection.address()) {
                self.connections.retire(&connection);
            }
        }
    }

    /// Says goodbye to all brokers at once (4.7.0 does it one after another), and blocks until all have answered or
    /// `until` is over. Brokers that do not hear of it notice the closed connection.
    pub(crate) fn unregister(&self, until: Instant) {
        let now = Instant::now();
        let until = until.min(now + FAREWELL_TIMEOUT);
        let timeout = until.saturating_duration_since(now);
        let mut brokers = self.connections.all();
        brokers.retain(|connection| !self.name_servers.contains(connection.address()));
        if timeout.is_zero() || brokers.is_empty() {
            return;
        }
        let (sender, receiver) = channel::bounded(brokers.len());
        for broker in &brokers {
            let (sender, address) = (sender.clone(), Arc::clone(broker.address()));
            self.say_goodbye(broker, timeout, move |answer| {
                if let Err(error) = answer {
                    log::debug!("the farewell to {address} failed: {error}");
                }
                // The receiver may have stopped waiting.
                sender.try_send(()).ok();
            });
        }
        for _ in &brokers {
            if receiver.recv_deadline(until).is_err() {
                log::debug!("not all brokers answered the farewell in time");
                return;
            }
        }
    }

    fn say_goodbye(
        &self,
        broker: &Arc<Connection>,
        timeout: Duration,
        then: impl FnOnce(Result<Answer, Error>) + Send + 'static,
    ) {
        let header = Unregister {
            client_id: &self.identity.client_id,
            producer_group: &self.identity.producer_group,
        };
        let request = Request {
            code: RequestCode::UNREGISTER_CLIENT,
            write_fields: |writer: &mut FieldWriter<'_>| header.write(writer),
            body: &[],
        };
        call(broker, request, timeout, then);
    }

    fn refresh_later(self: &Arc<Self>) {
        self.later(self.intervals.route_refresh, |housekeeping| {
            housekeeping.routes.refresh_all();
            housekeeping.forget_brokers();
            let (routes, name_servers) = (&housekeeping.routes, &housekeeping.name_servers);
            housekeeping
                .connections
                .retain(|address| name_servers.contains(address) || routes.may_need(address));
            housekeeping.refresh_later();
        });
    }

    fn heartbeat_later(self: &Arc<Self>) {
        self.later(self.intervals.heartbeat, |housekeeping| {
            for connection in housekeeping.connections.current() {
                if housekeeping.is_broker(connection.address()) {
                    housekeeping.heartbeat_by_clock(&connection);
                }
            }
            housekeeping.heartbeat_later();
        });
    }

    fn heartbeat_by_clock(self: &Arc<Self>, broker: &Arc<Connection>) {
        let greeting = self.greeted.lock().get(broker.address()).copied();
        match greeting {
            Some(Greeting::Farewell) => {}
            Some(Greeting::Repeat) if !self.is_another_open(broker) => self.greet_again(broker),
            Some(Greeting::Done { .. } | Greeting::Repeat) | None => self.heartbeat(broker),
        }
    }

    fn detect_later(self: &Arc<Self>) {
        if self.detector.is_some() {
            self.later(DETECTOR_INTERVAL, |housekeeping| {
                housekeeping.detector.iter().for_each(Detector::round);
                housekeeping.detect_later();
            });
        }
    }

    fn later(self: &Arc<Self>, after: Duration, job: impl FnOnce(&Arc<Self>) + Send + 'static) {
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        let housekeeping = Arc::clone(self);
        // `Deadline` knows what to do with an endless interval.
        self.timer.at(Deadline::after(after).at(), move || {
            if !housekeeping.stopped.load(Ordering::Acquire) {
                job(&housekeeping);
            }
        });
    }

    fn is_broker(&self, address: &str) -> bool {
        !self.name_servers.contains(address) && self.routes.may_need(address)
    }

    /// Forgets brokers that are connected to no more and that no route names. The broker has seen the end of their
    /// connection long ago.
    fn forget_brokers(&self) {
        let connected = self.connections.all();
        let is_known = |address: &Arc<str>| {
            self.routes.names(address) || connected.iter().any(|connection| connection.address() == address)
        };
        let addresses: Vec<_> = self.greeted.lock().keys().map(Arc::clone).collect();
        for gone in addresses.iter().filter(|address| !is_known(address)) {
            self.greeted.lock().remove(gone);
            self.greetings.forget(gone);
        }
    }

    /// The first thing that a broker hears on a connection: it needs to know the group before it can ask it anything.
    fn greet(self: &Arc<Self>, connection: &Arc<Connection>) {
        let address = connection.address();
        if !self.is_broker(address) {
            return;
        }
        let mut greeted = self.greeted.lock();
        if greeted.contains_key(address) {
            drop(greeted);
            return self.greet_again(connection);
        }
        greeted.insert(Arc::clone(address), Greeting::Done { again: false });
        drop(greeted);
        self.greetings.begun(connection);
        self.heartbeat(connection);
    }

    /// A connection has ended. If another took its place before, the broker forgets that one now (see `Greeting::Repeat`).
    pub(crate) fn ended(self: &Arc<Self>, address: &Arc<str>) {
        let is_repeat = self.greeted.lock().get(address) == Some(&Greeting::Repeat);
        let successor = self.connections.live(address).filter(|_| is_repeat);
        let Some(successor) = successor else { return };
        // Whoever needs the broker to know it waits from now on.
        self.greetings.begun(&successor);
        let housekeeping = Arc::clone(self);
        let then = move || housekeeping.greet_again(&successor);
        self.timer.at(Instant::now() + END_IS_SEEN, then);
    }

    /// Greets a broker anew if its connection took the place of an earlier one: if the broker saw the end of that one very
    /// late, it has forgotten this one.
    pub(crate) fn doubt(self: &Arc<Self>, address: &Arc<str>) {
        let may_be_forgotten = self.greeted.lock().get(address) == Some(&Greeting::Done { again: true });
        if may_be_forgotten {
            if let Some(connection) = self.connections.live(address) {
                log::debug!("greeting {address} anew, since no reply came");
                self.greet_again(&connection);
            }
        }
    }

    /// Whether the broker at this address knows the connection that is in use.
    pub(crate) fn is_greeted(&self, address: &str) -> bool {
        let connection = self.connections.live(address);
        connection.is_some_and(|connection| self.greetings.is_answered(&connection))
    }

    /// Connects to a broker, if need be, and calls `then` once when it knows the connection, or with why it does not.
    pub(crate) fn when_greeted(self: &Arc<Self>, address: &Arc<str>, then: OnGreeted) {
        let housekeeping = Arc::clone(self);
        let ready = move |ready: Result<Arc<Connection>, Error>| match ready {
            Ok(connection) => {
                // It was made before a route named the broker, or the last heartbeat there failed.
                if housekeeping.greetings.wait(&connection, then) {
                    housekeeping.greetings.begun(&connection);
                    housekeeping.heartbeat(&connection);
                }
            }
            Err(error) => then(Err(error)),
        };
        self.connections.when_ready(address, Box::new(ready));
    }

    fn greet_again(self: &Arc<Self>, broker: &Arc<Connection>) {
        let note = |housekeeping: &Self, broker: &Connection, greeting| {
            let address = Arc::clone(broker.address());
            housekeeping.greeted.lock().insert(address, greeting);
        };
        self.greetings.begun(broker);
        note(self, broker, Greeting::Farewell);
        let then = if self.is_another_open(broker) {
            Greeting::Repeat
        } else {
            Greeting::Done { again: true }
        };
        let (housekeeping, greeted) = (Arc::clone(self), Arc::clone(broker));
        // Whatever the answer is, and if there is none: a heartbeat is better than none.
        self.say_goodbye(broker, self.intervals.heartbeat_timeout, move |_| {
            note(&housekeeping, &greeted, then);
            housekeeping.heartbeat(&greeted);
        });
        // One goes out at once, so that the broker knows the connection before a message comes on it. But brokers have other
        // threads for heartbeats than for farewells, so the one behind the answer is the one that counts.
        self.heartbeat_then(broker, self.intervals.heartbeat_timeout, |_| {});
    }

    /// Whether a retired connection to the same broker has not been closed yet.
    fn is_another_open(&self, broker: &Arc<Connection>) -> bool {
        let others = self.connections.all();
        others
            .iter()
            .any(|other| other.address() == broker.address() && !Arc::ptr_eq(other, broker))
    }

    fn heartbeat(self: &Arc<Self>, broker: &Arc<Connection>) {
        let (housekeeping, greeted) = (Arc::clone(self), Arc::clone(broker));
        self.heartbeat_then(broker, self.intervals.heartbeat_timeout, move |answer| {
            let address = greeted.address();
            match &answer {
                Ok(()) => log::trace!("heartbeat to {address}"),
                Err(Error::Refused { code, remark, .. }) => {
                    log::warn!("broker {address} refused the heartbeat with {code}: {remark}");
                }
                Err(error) => log::debug!("heartbeat to {address} failed: {error}"),
            }
            housekeeping.heard(&greeted, &answer);
        });
    }

    /// A heartbeat has its answer. While the farewell of an earlier connection is under way, that is not the answer that
    /// counts.
    fn heard(&self, broker: &Arc<Connection>, answer: &Result<(), Error>) {
        let is_greeted = self.greeted.lock().get(broker.address()) != Some(&Greeting::Farewell);
        if is_greeted {
            self.greetings.ended(broker, answer);
        }
    }

    /// Sends a heartbeat and calls `then` once, on the thread that sees the answer; it must not block.
    pub(crate) fn heartbeat_then(
        &self,
        broker: &Arc<Connection>,
        timeout: Duration,
        then: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let request = Request {
            code: RequestCode::HEART_BEAT,
            write_fields: |_: &mut FieldWriter<'_>| {},
            body: &self.heartbeat_body,
        };
        let address = Arc::clone(broker.address());
        call(broker, request, timeout, move |answer| {
            then(answer.and_then(|answer| answer.check(&address)));
        });
    }
}
