//! Drives the same plan from completions: the asynchronous send.
//!
//! 1. A step runs where its cause is seen: on the caller's thread, a reader, the timer or a dialling thread. It never
//!    blocks; where it needs a route or a connection it is *parked* until that comes or its time is over.
//! 2. The state is never locked while something is sent, looked up or called, since the answer may come at once.
//! 3. Whoever finds the plan at its end finishes the send, once: gives up what is open and hands it to a worker, which
//!    runs the user's closure.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    attempt::{self, Prepared},
    choose,
    gate::Inside,
    permits::Permit,
    plan::{Destination, SendPlan, Step},
    result::{SendFailure, SendResult, SendStatus},
    shared::Shared,
    target::Aim,
};
use crate::{
    cluster::topic_route::{PublishQueue, TopicRoute},
    error::{Error, Phase, Written},
    message::Message,
    net::{
        connection::{Alarm, Cancelled, Connection, Manner},
        deadline::Deadline,
        sync::{Mutex, MutexGuard},
        timer::TimerKey,
        waiter::{Outcome, Waiter},
        workers::Task,
    },
};

/// What the user wants to be told.
pub(super) type OnDone = Box<dyn FnOnce(Result<SendResult, SendFailure>) + Send>;

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
    ForConnection { number: u32 },
}

struct State {
    plan: SendPlan,
    route: Option<(Arc<TopicRoute>, Option<PublishQueue>)>,
    open: Vec<Open>,
    /// The timer's key is missing for a moment, while the job is handed to it.
    parked: Option<(Parked, Option<TimerKey>)>,
    finished: bool,
    outcome: Option<Result<SendResult, Error>>,
    /// What the closure needs; taken by the worker that runs it.
    closing: Option<Closing>,
}

struct Closing {
    on_done: OnDone,
    permit: Option<Permit>,
    _inside: Option<Inside>,
}

pub(super) struct AsyncSend {
    shared: Arc<Shared>,
    prepared: Prepared,
    aim: Option<Aim>,
    state: Mutex<State>,
}

/// Begins a send. `on_done` is called exactly once, on a worker, whatever happens; only if no worker can be started it is
/// called here. Blocks for a permit, and for the route if a selector has to choose.
pub(super) fn send(
    shared: &Arc<Shared>,
    message: Message,
    aim: Option<&Aim>,
    timeout: Duration,
    on_done: OnDone,
) {
    let deadline = Deadline::after(timeout);
    if let Err(error) = shared.workers.ensure_one() {
        let source = Arc::new(error);
        return on_done(Err(SendFailure::new(
            message,
            Error::Thread {
                purpose: "callbacks",
                source,
            },
        )));
    }
    let (inside, admitted) = match shared.gate.enter() {
        Ok(inside) => (Some(inside), admit(shared, &message, aim, &deadline)),
        Err(error) => (None, Err(error)),
    };
    match admitted {
        Ok((prepared, permit, aim)) => {
            let rules = shared.rules(if aim.is_some() {
                0
            } else {
                shared.config.async_retries
            });
            let plan = SendPlan::new(rules, Arc::clone(message.shared_topic()), deadline);
            let closing = Closing {
                on_done,
                permit: Some(permit),
                _inside: inside,
            };
            AsyncSend::new(shared, prepared, aim, plan, closing).look_for_route();
        }
        Err(error) => {
            let closing = Closing {
                on_done,
                permit: None,
                _inside: inside,
            };
            let refused = Refused {
                shared: Arc::clone(shared),
                what: Mutex::new(Some((closing, message, error))),
            };
            shared.workers.submit(Arc::new(refused));
        }
    }
}

/// Everything that may fail or block before a send is begun.
fn admit(
    shared: &Arc<Shared>,
    message: &Message,
    aim: Option<&Aim>,
    deadline: &Deadline,
) -> Result<(Prepared, Permit, Option<Aim>), Error> {
    let prepared = Prepared::new(shared, message)?;
    let permit = shared
        .permits
        .acquire(prepared.size(), deadline.at())
        .ok_or_else(|| Error::Timeout {
            phase: Phase::Permit,
            target: format!("topic {}", message.topic()).into(),
            waited: deadline.waited(),
            written: Written::Nothing,
        })?;
    let aim = match aim {
        // The closure is the user's, so it runs here and not on a thread of the library.
        Some(aim @ Aim::Select(_)) => {
            let route = shared.routes.wait(message.shared_topic(), deadline)?;
            let chosen = choose::aimed(aim, &route, message)?;
            Some(Aim::Queue((*chosen.queue).clone()))
        }
        other => other.cloned(),
    };
    Ok((prepared, permit, aim))
}

impl AsyncSend {
    fn new(
        shared: &Arc<Shared>,
        prepared: Prepared,
        aim: Option<Aim>,
        plan: SendPlan,
        closing: Closing,
    ) -> Arc<Self> {
        let state = State {
            plan,
            route: None,
            open: Vec::new(),
            parked: None,
            finished: false,
            outcome: None,
            closing: Some(closing),
        };
        Arc::new(Self {
            shared: Arc::clone(shared),
            prepared,
            aim,
            state: Mutex::new(state),
        })
    }

    fn topic(&self) -> &Arc<str> {
        self.prepared.message.shared_topic()
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
            Ok(route) => {
                self.state.lock().route = Some(route);
                self.drive();
            }
            Err(error) => self.finish_with(Err(error)),
        }
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
            drop(state);
            match step {
                Step::Attempt { number, to, share } => {
                    let Some(connection) = self.shared.connections.live(&to.broker.address) else {
                        return self.wait_for_connection(number, &to, share);
                    };
                    if let Err(error) = self.begin(number, &to, share, &connection) {
                        self.failed(number, error);
                    }
                }
                // The alarm of the attempt calls back.
                Step::Wait { .. } => return,
                Step::Finish => return self.finish(),
            }
        }
    }

    fn wait_for_connection(self: &Arc<Self>, number: u32, to: &Destination, share: Instant) {
        let parked = Parked::ForConnection { number };
        self.park(parked, share);
        let (send, to) = (Arc::clone(self), to.clone());
        let address = Arc::clone(&to.broker.address);
        let then = move |ready: Result<Arc<Connection>, Error>| {
            if !send.unpark(parked) {
                return;
            }
            let begun = ready.and_then(|connection| send.begin(number, &to, share, &connection));
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
        share: Instant,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        let until = self.state.lock().plan.deadline().at();
        let waiter: Arc<dyn Waiter> = Arc::<Self>::clone(self);
        let waiting = attempt::waiting(&waiter, number, Some(Alarm { share, until }));
        let opaque = attempt::send(
            &self.shared,
            &self.prepared,
            to,
            connection,
            &waiting,
            Manner::Immediate,
        )?;
        let mut state = self.state.lock();
        let too_late = state.finished;
        state.open.push(Open {
            number,
            connection: Arc::clone(connection),
            opaque,
        });
        drop(state);
        if too_late {
            // Its outcome came while it was being registered here, or another attempt's did.
            connection.cancel(opaque);
        }
        Ok(())
    }

    /// Parks the send until whoever it waits for calls, or until then.
    fn park(self: &Arc<Self>, what: Parked, until: Instant) {
        self.state.lock().parked = Some((what, None));
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
        let is_shut_down = Instant::now() < until;
        let state = self.state.lock();
        let waited = state.plan.deadline().waited();
        let address = match what {
            Parked::ForRoute => None,
            Parked::ForConnection { number } => state
                .plan
                .destination(number)
                .map(|to| (number, Arc::clone(&to.broker.address))),
        };
        drop(state);
        match address {
            None if is_shut_down => self.finish_with(Err(Error::ShutDown)),
            None => self.finish_with(Err(self.shared.routes.late(self.topic(), waited))),
            Some((number, target)) => {
                let error = if is_shut_down {
                    Error::ShutDown
                } else {
                    Error::Timeout {
                        phase: Phase::Connect,
                        target,
                        waited,
                        written: Written::Nothing,
                    }
                };
                self.failed(number, error);
                self.drive();
            }
        }
    }

    fn failed(&self, number: u32, error: Error) {
        log::debug!(
            "topic {}: asynchronous attempt {} failed: {error}",
            self.topic(),
            number + 1
        );
        self.shared.learn_from(self.topic(), &error);
        let mut state = self.state.lock();
        state.open.retain(|open| open.number != number);
        state.plan.failed(number, Instant::now(), error);
    }

    fn finish(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        let open = std::mem::take(&mut state.open);
        drop(state);
        for open in open {
            if let Cancelled::Waiting(written) = open.connection.cancel(open.opaque) {
                let mut state = self.state.lock();
                let waited = state.plan.deadline().waited();
                state.plan.failed(
                    open.number,
                    Instant::now(),
                    open.connection.timeout(written, waited),
                );
            }
        }
        let mut state = self.state.lock();
        if state.finished || state.plan.is_open() {
            // Finished by whoever else came here; or an attempt was taken out of its table before it could be cancelled,
            // and whoever has it reports it and comes here after that.
            return;
        }
        let outcome = state.plan.finish(Instant::now());
        self.end(state, outcome);
    }

    fn finish_with(self: &Arc<Self>, outcome: Result<SendResult, Error>) {
        let state = self.state.lock();
        if !state.finished {
            self.end(state, outcome);
        }
    }

    /// Hands the outcome to a worker. The lock has been held since `finished` was looked at, and for what the plan said.
    fn end(self: &Arc<Self>, mut state: MutexGuard<'_, State>, outcome: Result<SendResult, Error>) {
        state.finished = true;
        state.outcome = Some(outcome);
        let parked = state.parked.take();
        drop(state);
        if let Some((_, Some(key))) = parked {
            self.shared.timer.cancel(key);
        }
        let task: Arc<dyn Task> = Arc::<Self>::clone(self);
        self.shared.workers.submit(task);
    }
}

impl Waiter for AsyncSend {
    fn complete(self: Arc<Self>, ticket: u32, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Overdue => self.state.lock().plan.overdue(ticket),
            Outcome::Failed(error) => self.failed(ticket, error),
            Outcome::Reply { address, header, .. } => match attempt::read_reply(address, header) {
                Err(error) => self.failed(ticket, error),
                Ok(stored) => {
                    let is_ok = stored.0 == SendStatus::SendOk;
                    let mut state = self.state.lock();
                    let State { plan, open, .. } = &mut *state;
                    open.retain(|open| open.number != ticket);
                    if let Some(to) = plan.destination(ticket) {
                        let result = attempt::result(&self.shared, &self.prepared, to, stored);
                        plan.stored(ticket, result, is_ok);
                    }
                }
            },
        }
        self.drive();
    }
}

impl Task for AsyncSend {
    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        let taken = state.closing.take().zip(state.outcome.take());
        drop(state);
        let Some((closing, outcome)) = taken else { return };
        let outcome = outcome.map_err(|error| SendFailure::new(self.prepared.message.clone(), error));
        closing.run(&self.shared, outcome);
    }
}

/// A send that was refused before it was begun; its closure is still called on a worker.
struct Refused {
    shared: Arc<Shared>,
    what: Mutex<Option<(Closing, Message, Error)>>,
}

impl Task for Refused {
    fn run(self: Arc<Self>) {
        let what = self.what.lock().take();
        if let Some((closing, message, error)) = what {
            closing.run(&self.shared, Err(SendFailure::new(message, error)));
        }
    }
}

impl Closing {
    fn run(self, shared: &Arc<Shared>, outcome: Result<SendResult, SendFailure>) {
        let Self {
            on_done,
            permit,
            _inside,
        } = self;
        shared.gate.run_closure(|| match permit {
            Some(permit) => permit.carry(|| on_done(outcome)),
            None => on_done(outcome),
        });
    }
}
