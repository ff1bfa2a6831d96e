//! Drives the same plan from completions: the asynchronous send.
//!
//! 1. A step runs where its cause is seen: on the caller's thread, a reader, the timer or a dialling thread. It never
//!    blocks; where it needs a route or a connection it is *parked* until that comes or its time is over.
//! 2. The state is never locked while something is sent, looked up or called, since the answer may come at once.
//! 3. Whoever finds the plan at its end finishes the send, once: gives up what is open and hands it to a worker, which
//!    runs the user's closure.

mod ending;

use std::{sync::Arc, time::Instant};

use super::{
    admission::Closing,
    attempt::{self, Prepared},
    choose,
    lanes::{self, Turn},
    plan::{Destination, SendPlan, Step},
    result::{SendResult, SendStatus},
    shared::Shared,
    target::Aim,
};
use crate::{
    cluster::topic_route::{PublishQueue, TopicRoute},
    error::{Error, Phase, Written},
    message::MessageQueue,
    net::{
        connection::{Alarm, Cancelled, Connection},
        meter::Judge,
        sync::Mutex,
        timer::TimerKey,
        waiter::{Outcome, Waiter},
    },
};

/// An attempt that is registered with a connection.
struct Open {
    number: u32,
    connection: Arc<Connection>,
    opaque: i32,
}

/// What a parked send waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    ForRoute,
    /// For the ordered messages before it.
    ForTurn,
    ForConnection {
        number: u32,
    },
    /// For nothing but time, before it looks for the route again.
    BeforeRoute,
    /// For nothing but time, before the next attempt.
    BeforeAttempt,
}

struct State {
    plan: SendPlan,
    route: Option<(Arc<TopicRoute>, Option<PublishQueue>)>,
    open: Vec<Open>,
    /// The timer's key is missing for a moment, while the job is handed to it.
    parked: Option<(Parked, Option<TimerKey>)>,
    /// The line that it stands in, and the number to give up with.
    line: Option<(MessageQueue, u64)>,
    /// Held until the send has its place in the line of its queue.
    entrance: Option<Turn>,
    /// The right to send to an ordered queue, held until the outcome is known.
    turn: Option<Turn>,
    finished: bool,
    outcome: Option<Result<SendResult, Error>>,
    /// What the closure needs; taken by the worker that runs it.
    closing: Option<Closing>,
}

pub(super) struct AsyncSend {
    shared: Arc<Shared>,
    prepared: Prepared,
    aim: Option<Aim>,
    is_ordered: bool,
    state: Mutex<State>,
}

impl AsyncSend {
    pub(super) fn new(
        shared: &Arc<Shared>,
        prepared: Prepared,
        aim: Option<Aim>,
        is_ordered: bool,
        plan: SendPlan,
        closing: Closing,
    ) -> Arc<Self> {
        let state = State {
            plan,
            route: None,
            open: Vec::new(),
            parked: None,
            line: None,
            entrance: None,
            turn: None,
            finished: false,
            outcome: None,
            closing: Some(closing),
        };
        Arc::new(Self {
            shared: Arc::clone(shared),
            prepared,
            aim,
            is_ordered,
            state: Mutex::new(state),
        })
    }

    fn topic(&self) -> &Arc<str> {
        self.prepared.message.shared_topic()
    }

    pub(super) fn start(self: &Arc<Self>) {
        if self.is_ordered {
            let entrance = self.shared.lanes.entrance(self.topic());
            self.line_up(&entrance, |send, turn| {
                send.state.lock().entrance = Some(turn);
                send.look_for_route();
            });
        } else {
            self.look_for_route();
        }
    }

    fn look_for_route(self: &Arc<Self>) {
        if let Some(route) = self.shared.routes.known(self.topic()) {
            return self.take_route(Ok(route));
        }
        let until = self.state.lock().plan.deadline().at();
        self.park(Parked::ForRoute, until);
        let send = Arc::clone(self);
        let then = move |found| {
            if send.unpark(Parked::ForRoute) {
                send.take_route(found);
            }
        };
        self.shared.routes.when_known(self.topic(), Box::new(then));
    }

    fn take_route(self: &Arc<Self>, found: Result<Arc<TopicRoute>, Error>) {
        let aimed = found.and_then(|route| {
            let aimed = self
                .aim
                .as_ref()
                .map(|aim| choose::aimed(aim, &route, &self.prepared.message));
            let aimed = aimed.transpose()?.cloned();
            Ok((route, aimed))
        });
        match aimed {
            Ok((route, Some(aim))) if self.is_ordered => {
                let queue = Arc::clone(&aim.queue);
                self.state.lock().route = Some((route, Some(aim)));
                self.line_up(&queue, |send, turn| {
                    send.state.lock().turn = Some(turn);
                    send.drive();
                });
                // Whoever comes next finds this one in the line before it.
                let entrance = self.state.lock().entrance.take();
                drop(entrance);
            }
            Ok(route) => {
                self.state.lock().route = Some(route);
                self.drive();
            }
            Err(error) => {
                let mut state = self.state.lock();
                let pause = if error.is_passing() {
                    state.plan.pause_without_route(Instant::now())
                } else {
                    None
                };
                drop(state);
                match pause {
                    Some(until) => {
                        self.park(Parked::BeforeRoute, until);
                    }
                    None => self.finish_without_attempt(error),
                }
            }
        }
    }

    /// Parks until it is this send's turn, and then calls `enter`.
    fn line_up(
        self: &Arc<Self>,
        queue: &MessageQueue,
        enter: impl FnOnce(&Arc<Self>, Turn) + Send + 'static,
    ) {
        let lanes = &self.shared.lanes;
        let number = lanes.number();
        let mut state = self.state.lock();
        state.line = Some((queue.clone(), number));
        let until = state.plan.deadline().at();
        drop(state);
        self.park(Parked::ForTurn, until);
        let send = Arc::clone(self);
        let enter = move |turn: Result<Turn, Error>| {
            // If its time is over, the turn goes on to the next one, since nothing was sent in it.
            match (send.unpark(Parked::ForTurn), turn) {
                (true, Ok(turn)) => enter(&send, turn),
                (true, Err(error)) => send.finish_without_attempt(error),
                (false, Ok(turn)) => turn.end(None),
                (false, Err(_)) => {}
            }
        };
        lanes.take_turn(queue, number, Box::new(enter));
    }

    fn drive(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let State {
                plan,
                route,
                finished,
                ..
            } = &mut *state;
            let Some((route, aimed)) = route else { return };
            if *finished {
                return;
            }
            let step = plan.next(Instant::now(), route, aimed.as_ref());
            let retried = plan.take_retried();
            drop(state);
            self.shared.note_retry(retried);
            match step {
                Step::Attempt {
                    number,
                    to,
                    share,
                    until,
                } => {
                    let alarm = Alarm { share, until };
                    let Some(connection) = self.shared.connections.live(&to.broker.address) else {
                        return self.wait_for_connection(number, &to, alarm);
                    };
                    if let Err(error) = self.begin(number, &to, alarm, &connection) {
                        self.failed(number, error);
                    }
                }
                Step::Pause { until } => {
                    self.park(Parked::BeforeAttempt, until);
                    return;
                }
                // The alarm of the attempt calls back.
                Step::Wait { .. } => return,
                Step::Finish => return self.finish(),
            }
        }
    }

    fn wait_for_connection(self: &Arc<Self>, number: u32, to: &Destination, alarm: Alarm) {
        let parked = Parked::ForConnection { number };
        if !self.park(parked, alarm.share) {
            self.failed(number, self.not_connected(number));
            return self.drive();
        }
        if let Some(until) = self.shared.connections.when_worth_dialling(&to.broker.address) {
            self.state.lock().plan.closed(number, until);
        }
        let (send, to) = (Arc::clone(self), to.clone());
        let address = Arc::clone(&to.broker.address);
        let then = move |ready: Result<Arc<Connection>, Error>| {
            if !send.unpark(parked) {
                return;
            }
            let begun = ready.and_then(|connection| send.begin(number, &to, alarm, &connection));
            if let Err(error) = begun {
                send.failed(number, error);
                send.drive();
            }
        };
        self.shared.connections.when_ready(&address, Box::new(then));
    }

    fn begin(
        self: &Arc<Self>,
        number: u32,
        to: &Destination,
        alarm: Alarm,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        let state = self.state.lock();
        let deadline = *state.plan.deadline();
        let is_done = state.plan.is_done();
        drop(state);
        if is_done {
            // Another attempt's answer came meanwhile: a further copy is not wanted.
            return Err(connection.timeout(Written::Nothing, deadline.waited()));
        }
        let waiter: Arc<dyn Waiter> = Arc::<Self>::clone(self);
        let waiting = attempt::waiting(&waiter, number, Some(alarm));
        let opaque = attempt::send(
            &self.shared,
            &self.prepared,
            to,
            connection,
            &waiting,
            connection.immediately(),
        )?;
        let mut state = self.state.lock();
        if !state.plan.is_open(number) {
            // Its outcome came before this thread did.
            return Ok(());
        }
        if !state.plan.is_done() {
            state.open.push(Open {
                number,
                connection: Arc::clone(connection),
                opaque,
            });
            return Ok(());
        }
        drop(state);
        match connection.cancel(opaque) {
            Cancelled::Waiting(error) => Err(error),
            Cancelled::TooLate => Ok(()),
        }
    }

    /// Parks the send until whoever it waits for calls, or until then. False if there is nothing to wait for any more.
    fn park(self: &Arc<Self>, what: Parked, until: Instant) -> bool {
        let mut state = self.state.lock();
        if state.plan.is_done() {
            return false;
        }
        state.parked = Some((what, None));
        drop(state);
        let send = Arc::clone(self);
        let key = self
            .shared
            .timer
            .at(until, move || send.parked_too_long(what, until));
        let mut state = self.state.lock();
        match &mut state.parked {
            Some((parked, slot)) if *parked == what => *slot = Some(key),
            _ => {
                drop(state);
                self.shared.timer.cancel(key);
            }
        }
        true
    }

    /// True if the send was parked for this, and is not any more.
    fn unpark(&self, what: Parked) -> bool {
        let mut state = self.state.lock();
        let parked = state.parked.take_if(|(parked, _)| *parked == what);
        drop(state);
        if let Some((_, Some(key))) = parked {
            self.shared.timer.cancel(key);
        }
        parked.is_some()
    }

    fn parked_too_long(self: &Arc<Self>, what: Parked, until: Instant) {
        if !self.unpark(what) {
            return;
        }
        // The timer calls early only when it is stopped.
        let is_stopped = Instant::now() < until;
        match what {
            Parked::BeforeRoute if !is_stopped => self.look_for_route(),
            Parked::BeforeAttempt if !is_stopped => {
                self.take_newer_route();
                self.drive();
            }
            Parked::BeforeAttempt => {
                self.state.lock().plan.stop("the producer is shut down");
                self.drive();
            }
            Parked::ForTurn => self.give_up_turn(is_stopped),
            Parked::ForRoute | Parked::BeforeRoute => {
                let waited = self.state.lock().plan.deadline().waited();
                let error = if is_stopped {
                    Error::ShutDown
                } else {
                    self.shared.routes.late(self.topic(), waited)
                };
                self.finish_without_attempt(error);
            }
            // An earlier attempt may be open, or may be stored: the plan knows.
            Parked::ForConnection { number } => {
                let error = if is_stopped {
                    Error::ShutDown
                } else {
                    self.not_connected(number)
                };
                self.failed(number, error);
                self.drive();
            }
        }
    }

    fn give_up_turn(self: &Arc<Self>, is_stopped: bool) {
        let mut state = self.state.lock();
        let line = state.line.take();
        let began = state.plan.deadline().began();
        drop(state);
        if let Some((queue, number)) = &line {
            // Else it would be kept in the line until all before it have left.
            self.shared.lanes.give_up(queue, *number);
        }
        let late = line
            .filter(|_| !is_stopped)
            .map(|(queue, _)| lanes::late(&queue, began));
        self.finish_without_attempt(late.unwrap_or(Error::ShutDown));
    }

    /// What failed before the pause may have moved since.
    fn take_newer_route(&self) {
        let newer = self.shared.routes.known(self.topic());
        if let (Some(newer), Some((route, _))) = (newer, &mut self.state.lock().route) {
            *route = newer;
        }
    }

    /// What becomes of an attempt that waited for its connection in vain.
    fn not_connected(&self, number: u32) -> Error {
        let state = self.state.lock();
        let to = state.plan.destination(number);
        Error::Timeout {
            phase: Phase::Connect,
            target: to.map_or_else(|| Arc::clone(self.topic()), |to| Arc::clone(&to.broker.address)),
            waited: state.plan.deadline().waited(),
            written: Written::Nothing,
        }
    }

    fn failed(&self, number: u32, error: Error) {
        log::debug!(
            "topic {}: asynchronous attempt {} failed: {error}",
            self.topic(),
            number + 1
        );
        let state = self.state.lock();
        let broker = state.plan.blamed(number, &error).map(Arc::clone);
        drop(state);
        self.shared
            .learn_from_failure(self.topic(), broker.as_deref(), &error);
        let mut state = self.state.lock();
        state.open.retain(|open| open.number != number);
        state.plan.failed(number, Instant::now(), error);
    }

    /// The plan is at its end: gives up what is open, and closes the account when every attempt is in it. Several threads
    /// may be here at once; whoever closes the last attempt finishes the send.
    fn finish(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        let open = std::mem::take(&mut state.open);
        let parked = state.parked.take();
        drop(state);
        if let Some((what, key)) = parked {
            if let Some(key) = key {
                self.shared.timer.cancel(key);
            }
            if let Parked::ForConnection { number } = what {
                self.failed(number, self.not_connected(number));
            }
        }
        for open in open {
            if let Cancelled::Waiting(error) = open.connection.cancel(open.opaque) {
                self.state.lock().plan.failed(open.number, Instant::now(), error);
            }
        }
        let mut state = self.state.lock();
        if state.finished || state.plan.has_open() {
            // Another thread has the outcome of an attempt in its hands, or is just beginning one. It comes here next.
            return;
        }
        let outcome = state.plan.finish(Instant::now());
        let turn = state.turn.take();
        let failure = outcome.as_ref().err().map(Error::delivery);
        state.hand_out(outcome);
        drop(state);
        self.run_closure();
        if let Some(turn) = turn {
            turn.end(failure);
        }
    }

    pub(super) fn finish_without_attempt(self: &Arc<Self>, error: Error) {
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        state.hand_out(Err(error));
        let entrance = state.entrance.take();
        drop(state);
        drop(entrance);
        self.run_closure();
    }
}

impl State {
    /// The one outcome of the send: from here on nothing that comes counts.
    fn hand_out(&mut self, outcome: Result<SendResult, Error>) {
        self.finished = true;
        self.outcome = Some(outcome);
    }
}

impl Waiter for AsyncSend {
    fn complete(self: Arc<Self>, ticket: u32, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Overdue => {
                let mut state = self.state.lock();
                state.plan.overdue(ticket);
                if let Some(to) = state.plan.destination(ticket) {
                    self.shared.learn_from_silence(&to.broker);
                }
            }
            Outcome::Failed(error) => self.failed(ticket, error),
            Outcome::Reply { address, header, .. } => match attempt::read_reply(address, header) {
                Err(error) => self.failed(ticket, error),
                Ok(stored) => {
                    let is_ok = stored.0 == SendStatus::SendOk;
                    let mut state = self.state.lock();
                    let State { plan, open, .. } = &mut *state;
                    open.retain(|open| open.number != ticket);
                    if let Some(to) = plan.destination(ticket) {
                        if let Some(began) = plan.began(ticket) {
                            self.shared.learn_from_success(&to.broker, began);
                        }
                        let result = attempt::result(&self.shared, &self.prepared, to, stored);
                        plan.stored(ticket, result, is_ok);
                    }
                }
            },
        }
        self.drive();
    }

    fn judge(&self) -> Option<Judge> {
        Some(attempt::judge)
    }
}

#[cfg(test)]
#[path = "background_tests.rs"]
mod tests;
