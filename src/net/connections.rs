//! Address -> live connection. Dials once per address, on a short-lived thread, and buries the dead.
//!
//! 1. The lock is never held while something is dialled, completed or closed.
//! 2. Whoever needs a connection that is being dialled leaves a continuation; each is called exactly once, on the thread
//!    that dialled or at once, and must not block.
//! 3. An address that could not be connected to is left alone for a while: see `redial`.
//! 4. A retired connection is not handed out any more, but answers may still come on it.
//! 5. After `close` nothing is dialled, and what a dial still brings is closed.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, OnceLock, Weak},
    thread,
    time::{Duration, Instant},
};

use super::{
    connection::{Connection, ConnectionSettings, EndCause, Events},
    deadline::Deadline,
    dial::dial,
    inbound::{Handled, Inbound, InboundRequest},
    meter::Meters,
    redial::{self, Redials},
    sync::{AtomicU64, Mutex, Ordering, channel},
    timer::Timer,
};
use crate::error::{Error, Phase, Written};

/// A retired connection is closed after so long even if something still waits on it: ten of Java's send timeouts.
const RETIRED_FOR: Duration = Duration::from_secs(30);

/// How often a retired connection is looked at. Whoever got hold of it just before may still send on it.
const RETIRED_LOOK: Duration = Duration::from_millis(100);

/// Called with the connection, or with why there is none.
pub(crate) type Continuation = Box<dyn FnOnce(Result<Arc<Connection>, Error>) + Send>;

/// Called with each new connection before anybody can send on it.
pub(crate) type OnConnect = Box<dyn Fn(&Arc<Connection>) + Send + Sync>;

/// Called with the address of a connection that has ended, when it is in the table no more.
pub(crate) type OnEnd = Box<dyn Fn(&Arc<str>) + Send + Sync>;

/// Says which address to dial in the place of another, if it is not the same.
pub(crate) type DialAs = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

enum Slot {
    Live(Arc<Connection>),
    Dialling(Vec<Continuation>),
}

#[derive(Default)]
struct State {
    slots: HashMap<Arc<str>, Slot>,
    retired: Vec<Arc<Connection>>,
    redials: Redials,
    closed: bool,
}

/// The way to the connection of one address, so that it need not be looked up for each request.
#[derive(Default)]
pub(crate) struct Link(Mutex<Weak<Connection>>);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

pub(crate) struct Connections {
    state: Mutex<State>,
    settings: ConnectionSettings,
    connect_timeout: Duration,
    timer: Arc<Timer>,
    on_connect: OnceLock<OnConnect>,
    on_end: OnceLock<OnEnd>,
    pub(crate) meters: Meters,
    dial_as: OnceLock<DialAs>,
    inbound: OnceLock<Arc<dyn Inbound>>,
    /// One-way frames that died in the buffer of a connection.
    oneway_lost: AtomicU64,
    /// What connections that have ended had counted.
    unmatched_replies: AtomicU64,
}

impl Connections {
    pub(crate) fn new(
        settings: ConnectionSettings,
        connect_timeout: Duration,
        timer: Arc<Timer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            settings,
            connect_timeout,
            timer,
            on_connect: OnceLock::new(),
            on_end: OnceLock::new(),
            meters: Meters::default(),
            dial_as: OnceLock::new(),
            inbound: OnceLock::new(),
            oneway_lost: AtomicU64::new(0),
            unmatched_replies: AtomicU64::new(0),
        })
    }

    /// Sets what is done first with a new connection. Only the first call counts.
    pub(crate) fn on_connect(&self, action: OnConnect) {
        drop(self.on_connect.set(action));
    }

    /// Sets what is done when a connection has ended. It must not block. Only the first call counts.
    pub(crate) fn on_end(&self, action: OnEnd) {
        drop(self.on_end.set(action));
    }

    /// Sets which address is dialled in the place of another. Connections keep the name of the other. Called on the thread
    /// that dials. Only the first call counts.
    pub(crate) fn set_dial_as(&self, dial_as: DialAs) {
        drop(self.dial_as.set(dial_as));
    }

    /// Sets who serves the requests of brokers; until then they are declined. Only the first call counts.
    pub(crate) fn set_inbound(&self, inbound: Arc<dyn Inbound>) {
        drop(self.inbound.set(inbound));
    }

    /// What is dialled in the place of an address, if it is not the same.
    pub(crate) fn dialled_as(&self, address: &str) -> Option<String> {
        self.dial_as.get().and_then(|dial_as| dial_as(address))
    }

    /// The connection to an address, if there is one.
    pub(crate) fn live(&self, address: &str) -> Option<Arc<Connection>> {
        match self.state.lock().slots.get(address) {
            Some(Slot::Live(connection)) if connection.is_live() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// The same, for whoever remembers the way.
    pub(crate) fn live_by(&self, link: &Link, address: &str) -> Option<Arc<Connection>> {
        let known = link.0.lock().upgrade();
        if known
            .as_ref()
            .is_some_and(|connection| connection.is_handed_out())
        {
            return known;
        }
        let found = self.live(address)?;
        *link.0.lock() = Arc::downgrade(&found);
        Some(found)
    }

    /// The connections that are handed out.
    pub(crate) fn current(&self) -> Vec<Arc<Connection>> {
        self.state.lock().current().map(Arc::clone).collect()
    }

    /// All connections there are, retired ones too.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        let state = self.state.lock();
        state.current().chain(&state.retired).map(Arc::clone).collect()
    }

    /// When an address may be dialled again, if that is not now. Whoever wants the connection before that gets the error
    /// of the last dial, unless somebody has been connected meanwhile.
    pub(crate) fn when_worth_dialling(&self, address: &str) -> Option<Instant> {
        let state = self.state.lock();
        if state.slots.contains_key(address) {
            return None;
        }
        state.redials.not_before(address, Instant::now())
    }

    /// Calls `then` with a connection: now, or when it has been dialled.
    pub(crate) fn when_ready(self: &Arc<Self>, address: &Arc<str>, then: Continuation) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return then(Err(Error::ShutDown));
        }
        match state.slots.get_mut(address) {
            Some(Slot::Dialling(waiting)) => return waiting.push(then),
            Some(Slot::Live(connection)) if connection.is_live() => {
                let connection = Arc::clone(connection);
                drop(state);
                return then(Ok(connection));
            }
            _ => {}
        }
        if let Some(error) = state.redials.remembered(address, Instant::now()) {
            drop(state);
            return then(Err(error));
        }
        state
            .slots
            .insert(Arc::clone(address), Slot::Dialling(vec![then]));
        drop(state);
        self.dial(address);
    }

    /// Blocks until there is a connection, dialling has failed, or the deadline is over.
    pub(crate) fn wait(
        self: &Arc<Self>,
        address: &Arc<str>,
        deadline: &Deadline,
    ) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.live(address) {
            return Ok(connection);
        }
        let began = Instant::now();
        let (sender, receiver) = channel::bounded(1);
        // The receiver may have gone when its deadline was over.
        self.when_ready(address, Box::new(move |ready| drop(sender.try_send(ready))));
        receiver.recv_deadline(deadline.at()).unwrap_or_else(|_| {
            Err(Error::Timeout {
                phase: Phase::Connect,
                target: Arc::clone(address),
                waited: began.elapsed(),
                written: Written::Nothing,
            })
        })
    }

    /// The same, for whoever remembers the way.
    pub(crate) fn wait_by(
        self: &Arc<Self>,
        link: &Link,
        address: &Arc<str>,
        deadline: &Deadline,
    ) -> Result<Arc<Connection>, Error> {
        self.live_by(link, address)
            .map_or_else(|| self.wait(address, deadline), Ok)
    }

    /// Closes the connections to addresses that `keep` does not want, unless something is still on its way there, and
    /// forgets what was remembered of such addresses.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let failed = self.state.lock().redials.addresses();
        let unwanted: Vec<_> = failed.into_iter().filter(|address| !keep(address)).collect();
        if !unwanted.is_empty() {
            let mut state = self.state.lock();
            for address in &unwanted {
                state.redials.forget(address);
            }
        }
        let unwanted: Vec<_> = self
            .current()
            .into_iter()
            .filter(|connection| !keep(connection.address()) && connection.is_idle())
            .collect();
        for connection in unwanted {
            log::info!(
                "closing the connection to {}: no topic route names it any more",
                connection.address()
            );
            connection.close();
        }
    }

    /// Takes a connection out of the table, so that the next who needs one dials anew. What waits on it may still be
    /// answered; it is closed when nothing does any more, or after [`RETIRED_FOR`].
    pub(crate) fn retire(self: &Arc<Self>, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        if state.remove(connection).is_none() {
            return;
        }
        connection.set_retired();
        state.retired.push(Arc::clone(connection));
        drop(state);
        log::debug!("the connection to {} is retired", connection.address());
        self.bury_later(Arc::clone(connection), Instant::now() + RETIRED_FOR);
    }

    fn bury_later(self: &Arc<Self>, connection: Arc<Connection>, until: Instant) {
        let connections = Arc::clone(self);
        self.timer.at(Instant::now() + RETIRED_LOOK, move || {
            if !connection.is_live() {
                return;
            }
            if connection.is_idle() || Instant::now() >= until {
                return connection.close();
            }
            connections.bury_later(connection, until);
        });
    }

    /// Tells those whose time is over, and says when it must be called again.
    pub(crate) fn look_at_alarms(&self, now: Instant) -> Option<Instant> {
        let connections = self.all();
        for connection in &connections {
            if connection.next_alarm().is_some_and(|alarm| alarm <= now) {
                connection.look_at_alarms(now);
            }
        }
        connections
            .iter()
            .filter_map(|connection| connection.next_alarm())
            .min()
    }

    /// Closes all connections, which fails whoever waits on them, and refuses new ones. Joins their threads.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let slots = std::mem::take(&mut state.slots);
        let mut connections = std::mem::take(&mut state.retired);
        drop(state);
        for slot in slots.into_values() {
            match slot {
                Slot::Live(connection) => connections.push(connection),
                Slot::Dialling(waiting) => waiting.into_iter().for_each(|then| then(Err(Error::ShutDown))),
            }
        }
        for connection in &connections {
            connection.close();
        }
        for connection in &connections {
            connection.join();
        }
    }

    /// One-way messages that were accepted and then not written, because their connection ended.
    pub(crate) fn oneway_lost(&self) -> u64 {
        self.oneway_lost.load(Ordering::Relaxed)
    }

    /// Replies that nobody waited for.
    pub(crate) fn unmatched_replies(&self) -> u64 {
        let live: u64 = self
            .all()
            .iter()
            .map(|c| c.counters().unmatched_replies.load(Ordering::Relaxed))
            .sum();
        live + self.unmatched_replies.load(Ordering::Relaxed)
    }

    fn dial(self: &Arc<Self>, address: &Arc<str>) {
        let dialling = DialGuard {
            connections: Arc::clone(self),
            address: Arc::clone(address),
        };
        let run = move || {
            let result = dialling.connections.connect(&dialling.address);
            dialling.connections.settle(&dialling.address, result);
        };
        if let Err(error) = thread::Builder::new()
            .name(format!("rmq-dial {address}"))
            .spawn(run)
        {
            let source = Arc::new(error);
            self.settle(
                address,
                Err(Error::Thread {
                    purpose: "connecting to a broker or name server",
                    source,
                }),
            );
        }
    }

    fn connect(self: &Arc<Self>, address: &Arc<str>) -> Result<Arc<Connection>, Error> {
        let began = Instant::now();
        let events: Arc<dyn Events> = Arc::<Self>::clone(self);
        let meter = self.meters.of(address);
        let dialled_as = self.dialled_as(address);
        let dialled = dial(dialled_as.as_deref().unwrap_or(address), self.connect_timeout);
        let connected = dialled.and_then(|stream| {
            Connection::start(
                stream,
                Arc::clone(address),
                self.settings.clone(),
                events,
                Arc::clone(&meter),
            )
        });
        match connected {
            Ok(connection) => {
                meter.connected();
                log::debug!("connected to {address} in {:.1?}", began.elapsed());
                if let Some(action) = self.on_connect.get() {
                    action(&connection);
                }
                Ok(connection)
            }
            Err(error) => {
                let waited = began.elapsed();
                let error = match dialled_as {
                    Some(other) => io::Error::new(error.kind(), format!("{error}, dialled as {other}")),
                    None => error,
                };
                log::debug!("cannot connect to {address} after {waited:.1?}: {error}");
                let error = Error::Connect {
                    address: Arc::clone(address),
                    waited,
                    source: Arc::new(error),
                };
                meter.connect_failed(&error);
                Err(error)
            }
        }
    }

    /// Ends a dial, once: later calls find nobody waiting.
    fn settle(&self, address: &Arc<str>, result: Result<Arc<Connection>, Error>) {
        let mut state = self.state.lock();
        let waiting = match state.slots.get_mut(address) {
            Some(Slot::Dialling(waiting)) => std::mem::take(waiting),
            _ => Vec::new(),
        };
        let result = match result {
            Ok(connection) if state.closed => {
                drop(state);
                connection.close();
                Err(Error::ShutDown)
            }
            Ok(connection) => {
                state
                    .slots
                    .insert(Arc::clone(address), Slot::Live(Arc::clone(&connection)));
                drop(state);
                // What was asked for before the connection was in the table, the timer has not seen.
                if let Some(alarm) = connection.next_alarm() {
                    self.timer.wake_by(alarm);
                }
                if !connection.is_live() {
                    // It ended before it was in the table: what it did then did not find it there.
                    self.forget(&connection);
                }
                Ok(connection)
            }
            Err(error) => {
                if matches!(state.slots.get(address), Some(Slot::Dialling(_))) {
                    state.slots.remove(address);
                    state
                        .redials
                        .failed(address, error.clone(), Instant::now(), redial::chance());
                }
                drop(state);
                Err(error)
            }
        };
        for then in waiting {
            then(result.clone());
        }
    }

    fn forget(&self, ended: &Connection) {
        let mut state = self.state.lock();
        let removed = state.remove(ended);
        state
            .retired
            .retain(|retired| !std::ptr::eq(&raw const **retired, ended));
        drop(state);
        drop(removed);
    }

    /// A connection has ended: what that says about dialling its address again.
    fn learn_from_end(&self, connection: &Connection, cause: &EndCause) {
        let address = connection.address();
        if connection.has_spoken() {
            return self.state.lock().redials.forget(address);
        }
        let Some(source) = cause.of_an_unfit_peer() else {
            return;
        };
        let error = Error::Connect {
            address: Arc::clone(address),
            waited: connection.age(),
            source,
        };
        let chance = redial::chance();
        self.state
            .lock()
            .redials
            .failed(address, error, Instant::now(), chance);
    }
}

impl State {
    fn current(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.slots.values().filter_map(|slot| match slot {
            Slot::Live(connection) => Some(connection),
            Slot::Dialling(_) => None,
        })
    }

    /// Takes a connection out of the table, if it is there. It is dropped by the caller, when the lock is not held.
    fn remove(&mut self, connection: &Connection) -> Option<Slot> {
        let address = connection.address();
        let same =
            |slot: &Slot| matches!(slot, Slot::Live(known) if std::ptr::eq(&raw const **known, connection));
        if self.slots.get(address).is_some_and(same) {
            self.slots.remove(address)
        } else {
            None
        }
    }
}

impl Events for Connections {
    fn alarm_set(&self, at: Instant) {
        self.timer.wake_by(at);
    }

    fn requested(&self, request: &InboundRequest<'_>) -> Handled {
        self.inbound
            .get()
            .map_or(Handled::NotServed, |inbound| inbound.take(request))
    }

    fn ended(&self, connection: &Connection, cause: &EndCause, oneway_unwritten: usize) {
        let address = connection.address();
        match cause {
            EndCause::Closed => log::debug!("connection to {address} closed"),
            EndCause::Io(error) => log::info!("connection to {address} ended: {error}"),
            EndCause::Protocol(reason) => {
                let reason = crate::error::printable(reason);
                log::warn!("connection to {address} closed, since the peer broke the protocol: {reason}");
            }
        }
        let lost = u64::try_from(oneway_unwritten).unwrap_or(u64::MAX);
        if lost > 0 {
            log::warn!("{lost} one-way messages to {address} were not written before the connection ended");
            self.oneway_lost.fetch_add(lost, Ordering::Relaxed);
            connection.meter().oneway_lost(lost);
        }
        let unmatched = connection.counters().unmatched_replies.load(Ordering::Relaxed);
        self.unmatched_replies.fetch_add(unmatched, Ordering::Relaxed);
        self.learn_from_end(connection, cause);
        self.forget(connection);
        if let Some(action) = self.on_end.get() {
            action(address);
        }
    }
}

/// Ends a dial even if its thread panics, so that nobody waits for ever.
struct DialGuard {
    connections: Arc<Connections>,
    address: Arc<str>,
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            let reason = io::Error::other("the dialling thread panicked");
            let source = Arc::new(reason);
            let error = Error::Connect {
                address: Arc::clone(&self.address),
                waited: Duration::ZERO,
                source,
            };
            self.connections.settle(&self.address, Err(error));
        }
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
