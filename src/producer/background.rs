//! Drives the same plan from completions: the asynchronous send.
//!
//! 1. A step runs where its cause is seen: on the caller's thread, a reader, the timer or a dialling thread. It never
//!    blocks; where it needs a route or a connection it is *parked* until that comes or its time is over.
//! 2. The state is never locked while something is sent, looked up or called, since the answer may come at once.
//! 3. Whoever finds the plan at its end finishes the send, once: gives up what is open and hands it to a worker, which
//!    runs the user's closure.

use std::{sync::Arc, time::Instant};

use super::{
    admission::Closing,
    async_state::{Open, Parked, State},
    attempt::{self, Prepared},
    choose,
    lanes::{self, Turn},
    plan::{Destination, SendPlan, Step},
    release,
    result::SendFailure,
    shared::Shared,
    target::Aim,
};
use crate::{
    cluster::topic_route::TopicRoute,
    error::{Error, Phase, Written},
    message::MessageQueue,
    net::{
        connection::{Alarm, Cancelled, Connection},
        meter::Judge,
        sync::{Mutex, MutexGuard},
        timer::TimerKey,
        waiter::{Outcome, Waiter, WakeUps},
        workers::{Task, Workers},
    },
};

pub(super) struct AsyncSend {
    shared: Arc<Shared>,
    prepared: Prepared,
    aim: Option<Aim>,
    is_ordered: bool,
    /// Whoever is told is not the user, and is told where the send ends.
    is_internal: bool,
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
        Arc::new(Self {
            shared: Arc::clone(shared),
            prepared,
            aim,
            is_ordered,
            is_internal: closing.is_internal(),
            state: Mutex::new(State::new(plan, closing)),
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
                let mut state = self.state.lock();
                state.route = Some(route);
                self.drive_on(state, &mut WakeUps::default());
            }
            Err(error) => {
                let mut state = self.state.lock();
                let pause = state.plan.pause_without_route(&error, Instant::now());
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
        self.drive_on(self.state.lock(), &mut WakeUps::default());
    }

    /// Does what the plan says until there is nothing to do but wait.
    fn drive_on<'s>(self: &'s Arc<Self>, mut state: MutexGuard<'s, State>, wake_ups: &mut WakeUps) {
        loop {
            if state.finished {
                return;
            }
            if state.plan.is_done() {
                return self.finish(state, wake_ups);
            }
            let State { plan, route, .. } = &mut *state;
            let Some((route, aimed)) = route else { return };
            let now = Instant::now();
            let step = plan.next(now, route, aimed.as_ref());
            let retried = plan.take_retried();
            match step {
                Step::Attempt {
                    number,
                    to,
                    share,
                    until,
                } => {
                    drop(state);
                    self.shared.note_retry(retried);
                    let alarm = Alarm { share, until };
                    let Some(connection) = release::live(&self.shared, &self.prepared, &to) else {
                        return self.wait_for_connection(number, &to, alarm);
                    };
                    match self.begin(number, &to, alarm, &connection, now) {
                        // Its answer or its alarm calls back.
                        Ok(()) => return,
                        Err(error) => self.failed(number, error),
                    }
                    state = self.state.lock();
                }
                Step::Pause { until } => {
                    drop(state);
                    self.park(Parked::BeforeAttempt, until);
                    return;
                }
                // The alarm of the attempt calls back.
                Step::Wait { .. } => return,
                Step::Finish => return self.finish(state, wake_ups),
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
            let begun = ready.and_then(|connection| send.begin_unless_done(number, &to, alarm, &connection));
            if let Err(error) = begun {
                send.failed(number, error);
                send.drive();
            }
        };
        let (shared, prepared) = (&self.shared, &self.prepared);
        release::when_ready(shared, prepared, &address, alarm.share, Box::new(then));
    }

    /// Begins an attempt that had to wait.
    fn begin_unless_done(
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
        self.begin(number, to, alarm, connection, Instant::now())
    }

    fn begin(
        self: &Arc<Self>,
        number: u32,
        to: &Destination,
        alarm: Alarm,
        connection: &Arc<Connection>,
        now: Instant,
    ) -> Result<(), Error> {
        let waiter: Arc<dyn Waiter> = Arc::<Self>::clone(self);
        let waiting = attempt::waiting(&waiter, number, Some(alarm));
        let manner = (connection.immediately(), now);
        let opaque = attempt::send(&self.shared, &self.prepared, to, connection, &waiting, manner)?;
        let mut state = self.state.lock();
        if !state.plan.is_open(number) {
            // Its outcome came before this thread did.
            return Ok(());
        }
        if !state.plan.is_done() {
            state.add_open(Open {
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
        state.remove_open(number);
        state.plan.failed(number, Instant::now(), error);
    }

    /// The plan is at its end: gives up what is open, and closes the account when every attempt is in it. Several threads
    /// may be here at once; whoever closes the last attempt finishes the send.
    fn finish<'s>(self: &'s Arc<Self>, mut state: MutexGuard<'s, State>, wake_ups: &mut WakeUps) {
        if state.has_loose_ends() {
            let open: Vec<_> = state.open.take().into_iter().collect();
            let more_open = std::mem::take(&mut state.more_open);
            let parked = state.parked.take();
            drop(state);
            self.give_up(open.into_iter().chain(more_open), parked);
            state = self.state.lock();
        }
        if state.finished || state.plan.has_open() {
            // Another thread has the outcome of an attempt in its hands, or is just beginning one. It comes here next.
            return;
        }
        state.finished = true;
        if !state.plan.is_stored() {
            state.failure = state.plan.finish(Instant::now()).err();
        }
        let turn = state.turn.take();
        let failure = state.failure.as_ref().map(Error::delivery);
        drop(state);
        Arc::clone(self).hand_over(wake_ups);
        if let Some(turn) = turn {
            turn.end(failure);
        }
    }

    fn give_up(&self, open: impl Iterator<Item = Open>, parked: Option<(Parked, Option<TimerKey>)>) {
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
    }

    pub(super) fn finish_without_attempt(self: &Arc<Self>, error: Error) {
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        state.finished = true;
        state.failure = Some(error);
        let entrance = state.entrance.take();
        drop(state);
        drop(entrance);
        Arc::clone(self).hand_over(&mut WakeUps::default());
    }

    /// Has the outcome told: by a worker, unless nobody outside is told.
    fn hand_over(self: Arc<Self>, wake_ups: &mut WakeUps) {
        if self.is_internal {
            self.run();
        } else {
            wake_ups.task(self);
        }
    }
}

impl Waiter for AsyncSend {
    fn complete(self: Arc<Self>, ticket: u32, outcome: Outcome<'_>, wake_ups: &mut WakeUps) {
        let verdict = match outcome {
            Outcome::Reply { address, header, .. } => attempt::read_reply(address, header),
            Outcome::Failed(error) => Err(error),
            Outcome::Overdue => {
                let mut state = self.state.lock();
                state.plan.overdue(ticket);
                if let Some(to) = state.plan.destination(ticket) {
                    self.shared.learn_from_silence(&to.broker);
                }
                return self.drive_on(state, wake_ups);
            }
        };
        let stored = match verdict {
            Ok(stored) => stored,
            Err(error) => {
                self.failed(ticket, error);
                return self.drive_on(self.state.lock(), wake_ups);
            }
        };
        let mut state = self.state.lock();
        state.remove_open(ticket);
        if let (Some(to), Some(began)) = (state.plan.destination(ticket), state.plan.began(ticket)) {
            self.shared.learn_from_success(&to.broker, began);
            state.plan.stored(ticket, stored);
        }
        self.drive_on(state, wake_ups);
    }

    fn judge(&self) -> Option<Judge> {
        Some(attempt::judge)
    }
}

impl Task for AsyncSend {
    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        let (closing, failure) = (state.closing.take(), state.failure.take());
        let finished = state.plan.finish_stored();
        drop(state);
        let Some(closing) = closing else { return };
        let outcome = match (failure, finished) {
            (None, Some(finished)) => Ok(attempt::result(&self.shared, &self.prepared, finished)),
            (failure, _) => {
                let message = self.prepared.message.clone();
                Err(SendFailure::new(message, failure.unwrap_or(Error::ShutDown)))
            }
        };
        closing.run(&self.shared, outcome);
    }

    fn pool(&self) -> &Workers {
        &self.shared.workers
    }
}

#[cfg(test)]
#[path = "background_tests.rs"]
mod tests;
