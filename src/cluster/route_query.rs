//! One look-up of a route: name server after name server, until one answers or the time is over. Driven by completions;
//! nothing waits.
//!
//! 1. `step` numbers the server that is being asked. A failure of an earlier step finds a later number and is dropped; an
//!    answer is one, from whichever server and however late.
//! 2. The state is never locked while something is sent or called.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ask_route::{RouteAnswer, ask_route},
    name_servers::NameServers,
};
use crate::{
    error::{Error, Phase, Written},
    net::{
        connection::Connection,
        connections::Connections,
        deadline::Deadline,
        sync::Mutex,
        timer::{Timer, TimerKey},
    },
    wire::request::route::RouteData,
};

/// What a look-up found.
#[derive(Debug)]
pub(super) enum Found {
    Route(RouteData),
    /// A name server answers that it does not know the topic. Its address, and what it said.
    Unknown {
        address: Arc<str>,
        remark: String,
    },
    /// No name server answered. What happened with each.
    Nothing {
        tried: Vec<Error>,
        waited: Duration,
    },
}

type Then = Box<dyn FnOnce(Found) + Send>;

/// What a query needs of its surroundings.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) connections: Arc<Connections>,
    pub(super) timer: Arc<Timer>,
    pub(super) name_servers: Arc<NameServers>,
    /// For all name servers together.
    pub(super) timeout: Duration,
}

/// The connection that the server of a step has been asked on, and when.
type Asked = (Arc<Connection>, Instant);

struct Progress {
    step: usize,
    tried: Vec<Error>,
    alarm: Option<TimerKey>,
    asked: Option<Asked>,
    then: Option<Then>,
}

impl Progress {
    /// Whether that step is being taken.
    fn is_at(&self, step: usize) -> bool {
        self.step == step && self.then.is_some()
    }
}

pub(super) struct RouteQuery {
    means: Means,
    topic: Arc<str>,
    servers: Vec<Arc<str>>,
    deadline: Deadline,
    progress: Mutex<Progress>,
}

impl RouteQuery {
    /// Asks for the route of `topic`; `then` is called once and must not block.
    pub(super) fn start(means: Means, topic: Arc<str>, then: Then) {
        let mut servers = means.name_servers.in_order();
        // Those that could not be connected to a moment ago are asked last.
        servers.sort_by_cached_key(|address| means.connections.when_worth_dialling(address));
        let query = Arc::new(Self {
            servers,
            deadline: Deadline::after(means.timeout),
            topic,
            progress: Mutex::new(Progress {
                step: 0,
                tried: Vec::new(),
                alarm: None,
                asked: None,
                then: Some(then),
            }),
            means,
        });
        query.ask(0);
    }

    fn ask(self: &Arc<Self>, step: usize) {
        let Some(address) = self.servers.get(step) else {
            return self.give_up();
        };
        // What is left is shared out, so that a silent server leaves time for the next.
        let left = u32::try_from(self.servers.len() - step).unwrap_or(u32::MAX);
        let share = self.deadline.remaining(Instant::now()) / left;
        let until = Instant::now() + share;
        let query = Arc::clone(self);
        let alarm = self.means.timer.at(until, move || query.time_over(step, share));
        let mut progress = self.progress.lock();
        if progress.is_at(step) {
            progress.alarm = Some(alarm);
        }
        drop(progress);
        match self.means.connections.when_worth_dialling(address) {
            Some(at) if at < until => {
                let query = Arc::clone(self);
                self.means.timer.at(at, move || query.connect(step, share));
            }
            _ => self.connect(step, share),
        }
    }

    fn connect(self: &Arc<Self>, step: usize, share: Duration) {
        let Some(address) = self.servers.get(step) else {
            return;
        };
        if !self.progress.lock().is_at(step) {
            return;
        }
        let query = Arc::clone(self);
        let then = move |ready| match ready {
            Ok(connection) => query.send(step, &connection, share),
            Err(error) => query.failed(step, error),
        };
        self.means.connections.when_ready(address, Box::new(then));
    }

    fn send(self: &Arc<Self>, step: usize, connection: &Arc<Connection>, share: Duration) {
        let mut progress = self.progress.lock();
        if progress.step == step {
            progress.asked = Some((Arc::clone(connection), Instant::now()));
        }
        drop(progress);
        let query = Arc::clone(self);
        let address = Arc::clone(connection.address());
        ask_route(connection, &self.topic, share, move |answer| {
            let found = match answer {
                Ok(RouteAnswer::Route(data)) => Found::Route(data),
                Ok(RouteAnswer::Unknown(remark)) => Found::Unknown {
                    address: Arc::clone(&address),
                    remark,
                },
                Err(error) => return query.failed(step, error),
            };
            query.means.name_servers.answered(&address);
            query.finish(found);
        });
    }

    fn time_over(self: &Arc<Self>, step: usize, waited: Duration) {
        let target = self
            .servers
            .get(step)
            .map_or_else(|| Arc::clone(&self.topic), Arc::clone);
        let error = Error::Timeout {
            phase: Phase::Route,
            target,
            waited,
            written: Written::Nothing,
        };
        let mut progress = self.progress.lock();
        let is_current = progress.step == step;
        let asked = progress.asked.take_if(|_| is_current);
        drop(progress);
        if !self.leave(step, error) {
            return;
        }
        // A server that has gone without a word would cost every later look-up its time too. One that was asked late,
        // since dialling took so long, has not had its chance yet.
        if let Some((connection, since)) = asked.filter(|(_, since)| since.elapsed() >= waited / 2) {
            connection.give_up_if_silent(since.elapsed().mul_f32(0.9));
        }
        self.ask(step + 1);
    }

    fn failed(self: &Arc<Self>, step: usize, error: Error) {
        if self.leave(step, error) {
            self.ask(step + 1);
        }
    }

    /// Ends a step. False if it has been over before.
    fn leave(&self, step: usize, error: Error) -> bool {
        let mut progress = self.progress.lock();
        if !progress.is_at(step) {
            return false;
        }
        progress.step += 1;
        progress.tried.push(error);
        progress.asked = None;
        let alarm = progress.alarm.take();
        drop(progress);
        if let Some(alarm) = alarm {
            self.means.timer.cancel(alarm);
        }
        true
    }

    fn give_up(&self) {
        let tried = std::mem::take(&mut self.progress.lock().tried);
        self.finish(Found::Nothing {
            tried,
            waited: self.deadline.waited(),
        });
    }

    /// Only the first call counts.
    fn finish(&self, found: Found) {
        let mut progress = self.progress.lock();
        let alarm = progress.alarm.take();
        let then = progress.then.take();
        drop(progress);
        if let Some(alarm) = alarm {
            self.means.timer.cancel(alarm);
        }
        if let Some(then) = then {
            then(found);
        }
    }
}
