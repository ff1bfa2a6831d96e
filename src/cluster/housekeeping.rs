//! What happens by the clock: routes are refreshed, brokers are greeted, unused connections are closed. And the farewell.
//!
//! 1. Everything runs on the timer thread or on the thread of a completion, and starts requests without waiting for them;
//!    only `unregister` blocks, until it is told to stop.
//! 2. Once a connection has carried a heartbeat it must go on doing so: brokers close it after 120 s without one, whatever
//!    else it carries (`ProducerManager`, `ClientHousekeepingService`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{call::call, name_servers::NameServers, routes::Routes};
use crate::{
    code::{RequestCode, ResponseCode},
    error::Error,
    net::{
        connection::{Connection, Request},
        connections::Connections,
        deadline::Deadline,
        sync::{AtomicBool, Ordering, channel},
        timer::Timer,
    },
    wire::{
        header::FieldWriter,
        request::{heartbeat::encode_heartbeat, unregister::Unregister},
    },
};

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

pub(crate) struct Housekeeping {
    identity: Identity,
    intervals: Intervals,
    heartbeat_body: Vec<u8>,
    connections: Arc<Connections>,
    name_servers: Arc<NameServers>,
    routes: Arc<Routes>,
    timer: Arc<Timer>,
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
    ) -> Arc<Self> {
        let mut heartbeat_body = Vec::new();
        encode_heartbeat(
            &mut heartbeat_body,
            &identity.client_id,
            [&*identity.producer_group].into_iter(),
        );
        let stopped = AtomicBool::new(false);
        let housekeeping = Arc::new(Self {
            identity,
            intervals,
            heartbeat_body,
            connections,
            name_servers,
            routes,
            timer,
            stopped,
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
        housekeeping
    }

    /// No more rounds.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Says goodbye to all brokers at once (4.7.0 does it one after another), and blocks until all have answered or
    /// `until` is over. Brokers that do not hear of it notice the closed connection.
    pub(crate) fn unregister(&self, until: Instant) {
        let timeout = until.saturating_duration_since(Instant::now());
        let brokers = self.brokers();
        if timeout.is_zero() || brokers.is_empty() {
            return;
        }
        let (sender, receiver) = channel::bounded(brokers.len());
        for broker in &brokers {
            let header = Unregister {
                client_id: &self.identity.client_id,
                producer_group: &self.identity.producer_group,
            };
            let request = Request {
                code: RequestCode::UNREGISTER_CLIENT,
                write_fields: |writer: &mut FieldWriter<'_>| header.write(writer),
                body: &[],
            };
            let (sender, address) = (sender.clone(), Arc::clone(broker.address()));
            call(broker, request, timeout, move |answer| {
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

    fn refresh_later(self: &Arc<Self>) {
        self.later(self.intervals.route_refresh, |housekeeping| {
            housekeeping.routes.refresh_all();
            let (routes, name_servers) = (&housekeeping.routes, &housekeeping.name_servers);
            housekeeping
                .connections
                .retain(|address| name_servers.contains(address) || routes.may_need(address));
            housekeeping.refresh_later();
        });
    }

    fn heartbeat_later(self: &Arc<Self>) {
        self.later(self.intervals.heartbeat, |housekeeping| {
            housekeeping
                .brokers()
                .iter()
                .for_each(|broker| housekeeping.heartbeat(broker));
            housekeeping.heartbeat_later();
        });
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

    fn brokers(&self) -> Vec<Arc<Connection>> {
        let is_broker = |connection: &Arc<Connection>| !self.name_servers.contains(connection.address());
        self.connections.all().into_iter().filter(is_broker).collect()
    }

    /// The first thing that a broker hears on a connection: it needs to know the group before it can ask it anything.
    fn greet(&self, connection: &Arc<Connection>) {
        if !self.name_servers.contains(connection.address()) {
            self.heartbeat(connection);
        }
    }

    fn heartbeat(&self, broker: &Arc<Connection>) {
        let address = Arc::clone(broker.address());
        self.heartbeat_then(
            broker,
            self.intervals.heartbeat_timeout,
            move |answer| match answer {
                Ok(()) => log::trace!("heartbeat to {address}"),
                Err(Error::Refused { code, remark, .. }) => {
                    log::warn!("broker {address} refused the heartbeat with {code}: {remark}");
                }
                Err(error) => log::debug!("heartbeat to {address} failed: {error}"),
            },
        );
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
            then(answer.and_then(|answer| match answer.code {
                ResponseCode::SUCCESS => Ok(()),
                code => Err(Error::refused(&address, code, answer.remark.as_deref())),
            }));
        });
    }
}
