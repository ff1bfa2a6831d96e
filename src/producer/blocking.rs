//! Drives the plan on the caller's thread: the blocking send. Where the caller waits is in `desk.rs`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    attempt::{self, Prepared},
    auto_batch, choose,
    desk::{Arrival, Desk, What},
    options::Options,
    plan::{Destination, SendPlan, Step},
    release,
    result::SendResult,
    shared::Shared,
    shutdown,
};
use crate::{
    cluster::topic_route::TopicRoute,
    error::{Error, Phase, Written},
    message::Message,
    net::{
        connection::{Cancelled, Connection, Manner},
        deadline::Deadline,
    },
};

/// A verdict that was taken out of a table at the last moment is on its way; so long it may take at most.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// An attempt that is registered with a connection.
struct Open {
    number: u32,
    connection: Arc<Connection>,
    opaque: i32,
    began: Instant,
    until: Instant,
}

/// Sends a message and blocks until it is over.
pub(super) fn send(shared: &Arc<Shared>, message: &Message, options: &Options) -> Result<SendResult, Error> {
    options.check()?;
    let deadline = options.deadline(&shared.config);
    let _inside = shared.gate.enter()?;
    let prepared = Prepared::new(shared, message)?;
    if let Some(outcome) = auto_batch::send(shared, &prepared, options, deadline) {
        shutdown::note(shared, outcome.as_ref().err().map(|error| (message, error)));
        return outcome;
    }
    send_prepared(shared, std::slice::from_ref(message), prepared, options, deadline)
}

/// The same, by someone who is inside the gate already. Several messages are those of a batch.
pub(super) fn send_prepared(
    shared: &Arc<Shared>,
    messages: &[Message],
    prepared: Prepared,
    options: &Options,
    deadline: Deadline,
) -> Result<SendResult, Error> {
    let rules = options.rules(&shared.config, &shared.blocking_rules);
    let plan = SendPlan::new(rules, Arc::clone(prepared.message.shared_topic()), deadline);
    let desk = Desk::sit_down();
    let mut sending = Sending {
        shared,
        prepared,
        base: desk.next_ticket(),
        desk,
        plan,
        open: None,
        more_open: Vec::new(),
    };
    let outcome = sending.run(options, &deadline);
    let used = sending.plan.begun();
    sending.desk.get_up(used);
    for message in messages {
        shutdown::note(shared, outcome.as_ref().err().map(|error| (message, error)));
    }
    outcome
}

struct Sending<'a> {
    shared: &'a Arc<Shared>,
    prepared: Prepared,
    desk: Desk,
    /// The ticket of attempt 0.
    base: u32,
    plan: SendPlan,
    /// Nearly every send has one open attempt, so only further ones need memory.
    open: Option<Open>,
    more_open: Vec<Open>,
}

impl Sending<'_> {
    fn run(&mut self, options: &Options, deadline: &Deadline) -> Result<SendResult, Error> {
        let lanes = &self.shared.lanes;
        let entrance = options
            .ordered
            .then(|| lanes.line_up(&lanes.entrance(self.prepared.message.shared_topic())))
            .map(|place| place.wait(deadline))
            .transpose()?;
        let route = self.find_route(deadline)?;
        let aim = options
            .aim()
            .map(|aim| choose::aimed(aim, &route, &self.prepared.message))
            .transpose()?
            .cloned();
        let queue = aim
            .as_ref()
            .filter(|_| options.ordered)
            .map(|aim| Arc::clone(&aim.queue));
        let place = queue.map(|queue| self.shared.lanes.line_up(&queue));
        // Whoever comes next finds this one in the line before it.
        drop(entrance);
        let turn = place.map(|place| place.wait(deadline)).transpose()?;
        let outcome = self.drive(route, aim.as_ref());
        if let Some(turn) = turn {
            turn.end(outcome.as_ref().err().map(Error::delivery));
        }
        outcome
    }

    /// The route, or with a delivery timeout the route as soon as there is one.
    fn find_route(&mut self, deadline: &Deadline) -> Result<Arc<TopicRoute>, Error> {
        let topic = Arc::clone(self.prepared.message.shared_topic());
        loop {
            let error = match self.shared.routes.wait(&topic, deadline) {
                Ok(route) => return Ok(route),
                Err(error) => error,
            };
            let Some(until) = self.plan.pause_without_route(&error, Instant::now()) else {
                return Err(error);
            };
            log::debug!("topic {topic}: no route yet, looking again: {error}");
            // Nothing has been sent, so nothing can arrive but for earlier sends.
            drop(self.desk.receive(until));
        }
    }

    fn drive(&mut self, mut route: Arc<TopicRoute>, aim: Option<&Destination>) -> Result<SendResult, Error> {
        // Nothing has been waited for yet, unless for the route.
        let mut now = Instant::now();
        loop {
            match self.plan.next(now, &route, aim) {
                Step::Attempt {
                    number,
                    to,
                    share,
                    until,
                } => {
                    self.shared.note_retry(self.plan.take_retried());
                    if let Err(error) = self.begin(number, &to, (now, share, until)) {
                        self.failed(number, error);
                        // What failed may have moved.
                        route = self.shared.routes.known(&route.topic).unwrap_or(route);
                    }
                }
                Step::Wait { until } => {
                    if !self.receive(until) {
                        match self.plan.awaited() {
                            Some(number) => self.overdue(number),
                            None => self.give_up_open(Instant::now()),
                        }
                    }
                }
                Step::Pause { until } => {
                    if !self.receive(until) {
                        self.give_up_open(Instant::now());
                        route = self.shared.routes.known(&route.topic).unwrap_or(route);
                    }
                }
                Step::Finish => {
                    self.give_up_open(self.plan.deadline().at());
                    let finished = match self.plan.finish_stored() {
                        Some(finished) => finished,
                        None => self.plan.finish(Instant::now())?,
                    };
                    return Ok(attempt::result(self.shared, &self.prepared, finished));
                }
            }
            if !self.plan.is_done() {
                now = Instant::now();
            }
        }
    }

    /// Takes in one verdict. False if none came until then.
    fn receive(&mut self, until: Instant) -> bool {
        let arrival = self.desk.receive(until);
        arrival.map(|arrival| self.take_in(arrival)).is_some()
    }

    fn begin(
        &mut self,
        number: u32,
        to: &Destination,
        (began, share, until): (Instant, Instant, Instant),
    ) -> Result<(), Error> {
        let is_alone = self.open.is_none() && self.more_open.is_empty();
        let live = self
            .shared
            .connections
            .live_by(&to.broker.link, &to.broker.address);
        let (connection, mut now) = match live {
            Some(connection) if is_alone => (connection, began),
            live => (self.connect(number, to, share, live.is_some())?, Instant::now()),
        };
        if !release::is_known(&self.prepared, &connection) {
            release::wait(self.shared, &connection, share)?;
            now = Instant::now();
        }
        let waiting = attempt::waiting(self.desk.counter(), self.base.wrapping_add(number), None);
        let manner = (Manner::Blocking { until: share }, now);
        let opaque = attempt::send(self.shared, &self.prepared, to, &connection, &waiting, manner)?;
        let open = Open {
            number,
            connection,
            opaque,
            began,
            until,
        };
        match self.open {
            None => self.open = Some(open),
            Some(_) => self.more_open.push(open),
        }
        Ok(())
    }

    /// The connection for an attempt. If an answer of an earlier attempt ends the send meanwhile, there is none.
    fn connect(
        &mut self,
        number: u32,
        to: &Destination,
        share: Instant,
        is_connected: bool,
    ) -> Result<Arc<Connection>, Error> {
        let began = Instant::now();
        let (connections, address) = (&self.shared.connections, &to.broker.address);
        if !is_connected {
            if let Some(until) = connections.when_worth_dialling(address) {
                self.plan.closed(number, until);
            }
        }
        if self.open.is_none() && self.more_open.is_empty() {
            let deadline = Deadline::starting(began, share.saturating_duration_since(began));
            return connections.wait(address, &deadline);
        }
        let ticket = self.base.wrapping_add(number);
        // Whatever lies on the desk by now is taken in before the connection.
        connections.when_ready(address, Box::new(self.desk.for_connection(ticket)));
        while let Some(arrival) = self.desk.receive(share) {
            match arrival.what {
                What::Connection(ready) if arrival.ticket == ticket => {
                    if let Some(connection) = ready?.upgrade() {
                        return Ok(connection);
                    }
                    break;
                }
                _ => self.take_in(arrival),
            }
            if self.plan.is_done() {
                break;
            }
        }
        Err(Error::Timeout {
            phase: Phase::Connect,
            target: Arc::clone(address),
            waited: began.elapsed(),
            written: Written::Nothing,
        })
    }

    fn take_in(&mut self, arrival: Arrival) {
        let What::Verdict(verdict) = arrival.what else {
            // An attempt that has not waited for it so long.
            return;
        };
        let number = arrival.ticket.wrapping_sub(self.base);
        if number >= self.plan.begun() {
            // Of a send that is over.
            return;
        }
        self.open.take_if(|open| open.number == number);
        self.more_open.retain(|open| open.number != number);
        match verdict {
            Ok(stored) => {
                let Some(to) = self.plan.destination(number) else {
                    return;
                };
                if let Some(began) = self.plan.began(number) {
                    self.shared.learn_from_success(&to.broker, began);
                }
                self.plan.stored(number, stored);
            }
            Err(error) => self.failed(number, error),
        }
    }

    fn overdue(&mut self, number: u32) {
        if let Some(to) = self.plan.destination(number) {
            self.shared.learn_from_silence(&to.broker);
        }
        self.plan.overdue(number);
    }

    fn failed(&mut self, number: u32, error: Error) {
        let topic = self.prepared.message.shared_topic();
        if let Some(to) = self.plan.destination(number) {
            log::debug!(
                "topic {topic}: attempt {} at {} failed: {error}",
                number + 1,
                to.queue
            );
        }
        let broker = self.plan.blamed(number, &error);
        self.shared
            .learn_from_failure(topic, broker.map(|broker| &**broker), &error);
        self.plan.failed(number, Instant::now(), error);
    }

    /// Takes back every attempt that is over by then and has no verdict. One whose verdict is on its way is waited for, for
    /// it may say that the message is stored.
    fn give_up_open(&mut self, by: Instant) {
        if self.open.is_none() && self.more_open.is_empty() {
            return;
        }
        let mut open: Vec<_> = self.open.take_if(|open| open.until <= by).into_iter().collect();
        let (over, still_open): (Vec<_>, _) = self.more_open.drain(..).partition(|open| open.until <= by);
        self.more_open = still_open;
        open.extend(over);
        let mut expected = 0_usize;
        for open in &open {
            match open.connection.cancel(open.opaque) {
                Cancelled::Waiting(error) => self.plan.failed(open.number, Instant::now(), error),
                Cancelled::TooLate => expected += 1,
            }
        }
        let until = Instant::now() + LAST_MOMENT;
        while expected > 0 {
            let Some(arrival) = self.desk.receive(until) else {
                break;
            };
            let number = arrival.ticket.wrapping_sub(self.base);
            let is_one =
                matches!(arrival.what, What::Verdict(_)) && open.iter().any(|open| open.number == number);
            expected -= usize::from(is_one);
            self.take_in(arrival);
        }
        for open in open {
            // Whatever has not come by now counts as unknown, and the plan does not wait for it any more.
            let error = open.connection.timeout(Written::All, open.began.elapsed());
            self.plan.failed(open.number, Instant::now(), error);
        }
    }
}
