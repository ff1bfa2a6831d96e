//! Address -> live connection. Dials once per address, on a short-lived thread, and buries the dead.
//!
//! 1. The lock is never held while something is dialled, completed or closed.
//! 2. Whoever needs a connection that is being dialled leaves a continuation; each is called exactly once, on the thread
//!    that dialled, and must not block.
//! 3. After `close` nothing is dialled, and what a dial still brings is closed.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use super::{
    connection::{Connection, ConnectionSettings, EndCause, Events},
    deadline::Deadline,
    dial::dial,
    meter::Meters,
    sync::{AtomicU64, Mutex, Ordering, channel},
    timer::Timer,
};
use crate::error::{Error, Phase, Written};

/// Called with the connection, or with why there is none.
pub(crate) type Continuation = Box<dyn FnOnce(Result<Arc<Connection>, Error>) + Send>;

/// Called with each new connection before anybody can send on it.
pub(crate) type OnConnect = Box<dyn Fn(&Arc<Connection>) + Send + Sync>;

enum Slot {
    Live(Arc<Connection>),
    Dialling(Vec<Continuation>),
}

#[derive(Default)]
struct State {
    slots: HashMap<Arc<str>, Slot>,
    closed: bool,
}

pub(crate) struct Connections {
    state: Mutex<State>,
    settings: ConnectionSettings,
    connect_timeout: Duration,
    timer: Arc<Timer>,
    on_connect: OnceLock<OnConnect>,
    pub(crate) meters: Meters,
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
            meters: Meters::default(),
            oneway_lost: AtomicU64::new(0),
            unmatched_replies: AtomicU64::new(0),
        })
    }

    /// Sets what is done first with a new connection. Only the first call counts.
    pub(crate) fn on_connect(&self, action: OnConnect) {
        drop(self.on_connect.set(action));
    }

    /// The connection to an address, if there is one.
    pub(crate) fn live(&self, address: &str) -> Option<Arc<Connection>> {
        match self.state.lock().slots.get(address) {
            Some(Slot::Live(connection)) if connection.is_live() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// All connections there are.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        let state = self.state.lock();
        let live = |slot: &Slot| match slot {
            Slot::Live(connection) => Some(Arc::clone(connection)),
            Slot::Dialling(_) => None,
        };
        state.slots.values().filter_map(live).collect()
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

    /// Closes the connections to addresses that `keep` does not want, unless something is still on its way there.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let unwanted: Vec<_> = self
            .all()
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
        drop(state);
        let mut connections = Vec::new();
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
        let connected = dial(address, self.connect_timeout).and_then(|stream| {
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
        let same = |slot: &Slot| matches!(slot, Slot::Live(known) if std::ptr::eq(&raw const **known, ended));
        if state.slots.get(ended.address()).is_some_and(same) {
            let slot = state.slots.remove(ended.address());
            drop(state);
            drop(slot);
        }
    }
}

impl Events for Connections {
    fn alarm_set(&self, at: Instant) {
        self.timer.wake_by(at);
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
        self.forget(connection);
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
            let reason = std::io::Error::other("the dialling thread panicked");
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
