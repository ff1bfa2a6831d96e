//! Drives the plan on the caller's thread: the blocking send.
//!
//! The caller waits at a *desk*: a channel that the reader threads put verdicts on. Desks are kept and used again, so a
//! send allocates none. Tickets grow from send to send, so a verdict that comes when its send is over is recognised.
//! While an earlier attempt is open, even a connection is waited for there: the answer may make it unneeded.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{
    attempt::{self, Prepared, Verdict},
    choose,
    options::Options,
    plan::{Destination, SendPlan, Step},
    result::{SendResult, SendStatus},
    shared::Shared,
    shutdown,
};
use crate::{
    cluster::topic_route::{PublishQueue, TopicRoute},
    error::{Error, Phase, Written},
    message::Message,
    net::{
        connection::{Cancelled, Connection, Manner},
        deadline::Deadline,
        meter::Judge,
        sync::channel,
        waiter::{Outcome, Waiter},
    },
};

/// Verdicts that can lie on a desk at once: those of the open attempts of one send and, for a moment, of the send before.
const DESK_CAPACITY: usize = 32;

/// Desks that are kept for the next senders.
const MOST_DESKS: usize = 256;

/// A verdict that was taken out of a table at the last moment is on its way; so long it may take at most.
const LAST_MOMENT: Duration = Duration::from_millis(100);

struct Arrival {
    /// Of the attempt that it is for.
    ticket: u32,
    what: What,
}

enum What {
    Verdict(Verdict),
    /// The connection that the attempt waits for, or why there is none. A desk must not keep it open.
    Connection(Result<Weak<Connection>, Error>),
}

/// The side of a desk that verdicts come from.
struct Counter(channel::Sender<Arrival>);

impl Waiter for Counter {
    fn complete(self: Arc<Self>, ticket: u32, outcome: Outcome<'_>) {
        let verdict = match outcome {
            Outcome::Reply { address, header, .. } => attempt::read_reply(address, header),
            // The sender keeps its own time.
            Outcome::Overdue => return,
            Outcome::Failed(error) => Err(error),
        };
        // Full is impossible: the capacity covers all open attempts of two sends. Disconnected means that nobody waits.
        let what = What::Verdict(verdict);
        self.0.try_send(Arrival { ticket, what }).ok();
    }

    fn judge(&self) -> Option<Judge> {
        Some(attempt::judge)
    }
}

/// Where a blocked sender waits.
pub(super) struct Desk {
    counter: Arc<dyn Waiter>,
    sender: channel::Sender<Arrival>,
    arrivals: channel::Receiver<Arrival>,
    next_ticket: u32,
}

impl Desk {
    fn new() -> Self {
        let (sender, arrivals) = channel::bounded(DESK_CAPACITY);
        Self {
            counter: Arc::new(Counter(sender.clone())),
            sender,
            arrivals,
            next_ticket: 0,
        }
    }
}

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
    send_inside(shared, message, options, deadline)
}

/// The same for somebody who is inside the gate already.
pub(super) fn send_inside(
    shared: &Arc<Shared>,
    message: &Message,
    options: &Options,
    deadline: Deadline,
) -> Result<SendResult, Error> {
    let prepared = Prepared::new(shared, message, options)?;
    let rules = options.rules(&shared.config, shared.config.retries);
    let plan = SendPlan::new(rules, Arc::clone(message.shared_topic()), deadline);
    let desk = shared.desks.lock().pop().unwrap_or_else(Desk::new);
    let mut sending = Sending {
        shared,
        prepared,
        base: desk.next_ticket,
        desk,
        plan,
        open: None,
        more_open: Vec::new(),
    };
    let outcome = sending.run(options, &deadline);
    sending.put_desk_back();
    shutdown::note(shared, outcome.as_ref().err().map(|error| (message, error)));
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
            let pause = if error.is_passing() {
                self.plan.pause_without_route(Instant::now())
            } else {
                None
            };
            let Some(until) = pause else { return Err(error) };
            log::debug!("topic {topic}: no route yet, looking again: {error}");
            // Nothing has been sent, so nothing can arrive but for earlier sends.
            drop(self.desk.arrivals.recv_deadline(until));
        }
    }

    fn drive(&mut self, mut route: Arc<TopicRoute>, aim: Option<&PublishQueue>) -> Result<SendResult, Error> {
        loop {
            match self.plan.next(Instant::now(), &route, aim) {
                Step::Attempt {
                    number,
                    to,
                    share,
                    until,
                } => {
                    self.shared.note_retry(self.plan.take_retried());
                    if let Err(error) = self.begin(number, &to, share, until) {
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
                    return self.plan.finish(Instant::now());
                }
            }
        }
    }

    /// Takes in one verdict. False if none came until then.
    fn receive(&mut self, until: Instant) -> bool {
        let arrival = self.desk.arrivals.recv_deadline(until);
        arrival.map(|arrival| self.take_in(arrival)).is_ok()
    }

    fn begin(&mut self, number: u32, to: &Destination, share: Instant, until: Instant) -> Result<(), Error> {
        let began = Instant::now();
        let connection = self.connect(number, to, share)?;
        let waiting = attempt::waiting(&self.desk.counter, self.base.wrapping_add(number), None);
        let manner = Manner::Blocking { until: share };
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
    fn connect(&mut self, number: u32, to: &Destination, share: Instant) -> Result<Arc<Connection>, Error> {
        let began = Instant::now();
        let (connections, address) = (&self.shared.connections, &to.broker.address);
        let is_alone = self.open.is_none() && self.more_open.is_empty();
        match connections.live(address) {
            Some(connection) if is_alone => return Ok(connection),
            Some(_) => {}
            None => {
                if let Some(until) = connections.when_worth_dialling(address) {
                    self.plan.closed(number, until);
                }
            }
        }
        if is_alone {
            let deadline = Deadline::starting(began, share.saturating_duration_since(began));
            return connections.wait(address, &deadline);
        }
        let ticket = self.base.wrapping_add(number);
        let desk = self.desk.sender.clone();
        let then = move |ready: Result<Arc<Connection>, Error>| {
            let what = What::Connection(ready.map(|connection| Arc::downgrade(&connection)));
            desk.try_send(Arrival { ticket, what }).ok();
        };
        // Whatever lies on the desk by now is taken in before the connection.
        connections.when_ready(address, Box::new(then));
        while let Ok(arrival) = self.desk.arrivals.recv_deadline(share) {
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
                let is_ok = stored.0 == SendStatus::SendOk;
                let result = attempt::result(self.shared, &self.prepared, to, stored);
                self.plan.stored(number, result, is_ok);
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
            let Ok(arrival) = self.desk.arrivals.recv_deadline(until) else {
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

    fn put_desk_back(mut self) {
        self.desk.next_ticket = self.base.wrapping_add(self.plan.begun());
        let mut desks = self.shared.desks.lock();
        if desks.len() < MOST_DESKS {
            desks.push(self.desk);
        }
    }
}
