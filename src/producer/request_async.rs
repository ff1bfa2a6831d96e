//! The asynchronous request: an asynchronous send, and then a wait that blocks nobody.
//!
//! 1. A request holds its permit and its place inside until its closure is run; its send holds neither of its own.
//! 2. Three may end it: the reply, on a reader thread; the end of its send, on a worker; the alarm, on the timer. Whoever
//!    finds `finished` unset does. The alarm leaves the last word to a send that is still under way and has the same deadline.
//! 3. The user's closure runs on a worker, as that of a send.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admission::{self, Closing},
    auto_batch::Admission,
    choose,
    gate::{Gate, Inside},
    options::Options,
    permits::Permit,
    replies::{Arrival, Requester, Waiting},
    reply::Reply,
    request::{check, no_reply, not_opened, opening_until, prepare},
    result::{SendFailure, SendResult},
    shared::Shared,
    target::{Aim, Target},
};
use crate::{
    cluster::{reply_path::OpenPath, topic_route::TopicRoute},
    error::{Error, NoReplyCause},
    message::Message,
    net::{
        deadline::Deadline,
        sync::Mutex,
        timer::TimerKey,
        workers::{Task, Workers},
    },
};

/// What the user wants to be told.
pub(super) type OnReply = Box<dyn FnOnce(Result<Reply, SendFailure>) + Send>;

/// What a request knows of its send.
enum Sent {
    NotBegun,
    UnderWay,
    Stored(Box<SendResult>),
    Unknown(Error),
}

struct State {
    sent: Sent,
    /// It has its route; the way of the reply is being opened.
    has_route: bool,
    path: Option<OpenPath>,
    waiting: Option<Waiting>,
    alarm: Option<TimerKey>,
    /// No reply is waited for any more, but the send is still under way.
    over: Option<NoReplyCause>,
    finished: bool,
    outcome: Option<Result<Reply, Error>>,
    /// What running the closure needs; taken by the worker that does.
    closing: Option<(OnReply, Permit, Inside<Arc<Gate>>)>,
}

struct AsyncRequest {
    shared: Arc<Shared>,
    message: Message,
    options: Options,
    timeout: Duration,
    deadline: Deadline,
    state: Mutex<State>,
}

/// Begins a request. `on_done` is called exactly once, on a worker, whatever happens; only if no worker can be started it is
/// called here. Blocks for a permit, and for the route if a selector has to choose.
pub(super) fn request(
    shared: &Arc<Shared>,
    message: Message,
    timeout: Duration,
    options: &Options,
    on_done: OnReply,
) {
    let deadline = Deadline::after(timeout);
    if let Err(error) = shared.workers.ensure_one() {
        return on_done(Err(SendFailure::new(message, admission::no_worker(error))));
    }
    let inside = match shared.gate.enter_detached() {
        Ok(inside) => inside,
        Err(error) => return refuse(shared, message, error, on_done, None),
    };
    let admitted = check(timeout, options).and_then(|()| {
        let size = message.body().len() + message.properties_length();
        let permit = shared.permits.acquire(size, deadline.at());
        let permit = permit.ok_or_else(|| admission::no_permit(&message, &deadline))?;
        let target = fixed_target(shared, &message, options, &deadline)?;
        Ok((permit, target))
    });
    let (permit, target) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => return refuse(shared, message, error, on_done, Some(inside)),
    };
    let options = Options {
        target,
        ..options.clone()
    };
    let state = State {
        sent: Sent::NotBegun,
        has_route: false,
        path: None,
        waiting: None,
        alarm: None,
        over: None,
        finished: false,
        outcome: None,
        closing: Some((on_done, permit, inside)),
    };
    let request = Arc::new(AsyncRequest {
        shared: Arc::clone(shared),
        message,
        options,
        timeout,
        deadline,
        state: Mutex::new(state),
    });
    request.start();
}

/// A request that was not begun ends as such a send does.
fn refuse(
    shared: &Arc<Shared>,
    message: Message,
    error: Error,
    on_done: OnReply,
    inside: Option<Inside<Arc<Gate>>>,
) {
    shared.replies.ended(&Err(error.clone()));
    let on_done = move |outcome: Result<SendResult, SendFailure>| {
        if let Err(failure) = outcome {
            on_done(Err(failure));
        }
    };
    let closing = Closing::new(Box::new(on_done), None);
    admission::refuse(shared, message, error, closing, inside);
}

/// The target, with a queue in the place of a selector: that is the user's code, so it runs here.
fn fixed_target(
    shared: &Arc<Shared>,
    message: &Message,
    options: &Options,
    deadline: &Deadline,
) -> Result<Option<Target>, Error> {
    match options.aim() {
        Some(aim @ Aim::Select(_)) => {
            let route = shared.routes.wait(message.shared_topic(), deadline)?;
            let queue = choose::aimed(aim, &route, message)?;
            Ok(Some(Target::from((*queue.queue).clone())))
        }
        _ => Ok(options.target.clone()),
    }
}

impl AsyncRequest {
    fn start(self: &Arc<Self>) {
        let late = Arc::clone(self);
        let alarm = self.shared.timer.at(self.deadline.at(), move || late.time_over());
        let mut state = self.state.lock();
        state.alarm = Some(alarm);
        let finished = state.finished;
        drop(state);
        if finished {
            return self.shared.timer.cancel(alarm);
        }
        let topic = self.message.shared_topic();
        let request = Arc::clone(self);
        let found = move |found: Result<Arc<TopicRoute>, Error>| match found {
            Ok(route) => request.open_path(&route),
            Err(error) => request.finish(Err(error)),
        };
        self.shared.routes.when_known(topic, Box::new(found));
    }

    fn open_path(self: &Arc<Self>, route: &Arc<TopicRoute>) {
        self.state.lock().has_route = true;
        let until = opening_until(&self.deadline, self.timeout);
        let (request, of) = (Arc::clone(self), Arc::clone(route));
        let then = move |path| request.send(path, &of);
        self.shared.reply_path.open(route, until, Box::new(then));
    }

    fn send(self: &Arc<Self>, path: OpenPath, route: &TopicRoute) {
        let requester: Arc<dyn Requester> = Arc::<Self>::clone(self);
        let prepared = self.shared.replies.wait(requester).and_then(|waiting| {
            let id = &waiting.correlation_id;
            let prepared = prepare(&self.shared, &self.message, self.timeout, route, id)?;
            Ok((waiting, prepared))
        });
        let (waiting, prepared) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return self.finish(Err(error)),
        };
        let mut state = self.state.lock();
        if state.finished {
            return;
        }
        state.sent = Sent::UnderWay;
        state.path = Some(path);
        state.waiting = Some(waiting);
        drop(state);
        let request = Arc::clone(self);
        let on_sent = move |outcome| request.sent(outcome);
        let closing = Closing::new(Box::new(on_sent), None);
        admission::begin(
            &self.shared,
            prepared,
            Admission::Alone,
            &self.options,
            self.deadline,
            closing,
        );
    }

    /// The send has ended.
    fn sent(self: &Arc<Self>, outcome: Result<SendResult, SendFailure>) {
        let sent = match outcome {
            Ok(result) => Sent::Stored(Box::new(result)),
            Err(failure) if failure.error.delivery().is_not_stored() => {
                return self.finish(Err(failure.error));
            }
            // A reply would be the best verdict of all.
            Err(failure) => Sent::Unknown(failure.error),
        };
        let mut state = self.state.lock();
        state.sent = sent;
        let over = state.over.take();
        drop(state);
        if let Some(cause) = over {
            self.give_up(cause);
        }
    }

    fn time_over(self: &Arc<Self>) {
        // A timer that is stopped runs its jobs early.
        let is_early = Instant::now() < self.deadline.at();
        self.give_up(if is_early {
            NoReplyCause::ShutDown
        } else {
            NoReplyCause::TimeOver
        });
    }

    /// No reply is waited for any more.
    fn give_up(self: &Arc<Self>, cause: NoReplyCause) {
        let mut state = self.state.lock();
        let send_error = match &state.sent {
            Sent::UnderWay => {
                state.over.get_or_insert(cause);
                return;
            }
            Sent::NotBegun => {
                let has_route = state.has_route;
                drop(state);
                return self.finish(Err(self.not_begun(&cause, has_route)));
            }
            Sent::Stored(_) => None,
            Sent::Unknown(error) => Some(error.clone()),
        };
        let id = state
            .waiting
            .as_ref()
            .map(|waiting| Arc::clone(&waiting.correlation_id));
        // None if it has been finished meanwhile.
        let Some(id) = id else { return };
        let path = state.path.take();
        drop(state);
        if let (NoReplyCause::TimeOver, Some(path)) = (&cause, &path) {
            self.shared.reply_path.doubt(path);
        }
        let times = (self.deadline.waited(), self.timeout);
        self.finish(Err(no_reply(&self.message, &id, times, cause, send_error)));
    }

    fn not_begun(&self, cause: &NoReplyCause, has_route: bool) -> Error {
        if *cause == NoReplyCause::ShutDown {
            Error::ShutDown
        } else if has_route {
            not_opened(self.message.topic(), &self.deadline)
        } else {
            self.shared
                .routes
                .late(self.message.topic(), self.deadline.waited())
        }
    }

    /// Ends the request, once.
    fn finish(self: &Arc<Self>, outcome: Result<Reply, Error>) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.finished, true) {
            return;
        }
        self.shared.replies.ended(&outcome);
        state.outcome = Some(outcome);
        let (path, waiting, alarm) = (state.path.take(), state.waiting.take(), state.alarm.take());
        drop(state);
        if let Some(alarm) = alarm {
            self.shared.timer.cancel(alarm);
        }
        drop((path, waiting));
        let task: Arc<dyn Task> = Arc::<Self>::clone(self);
        self.shared.workers.submit(task);
    }
}

impl Requester for AsyncRequest {
    fn arrived(self: Arc<Self>, arrival: Arrival) {
        match arrival {
            Arrival::Reply(message) => {
                let sent = match &self.state.lock().sent {
                    Sent::Stored(result) => Some(SendResult::clone(result)),
                    _ => None,
                };
                let took = self.deadline.waited();
                self.finish(Ok(Reply { message, sent, took }));
            }
            Arrival::Unreadable(reason) => self.give_up(NoReplyCause::Unreadable(reason)),
            Arrival::ShutDown => self.give_up(NoReplyCause::ShutDown),
        }
    }
}

impl Task for AsyncRequest {
    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        let taken = state.closing.take().zip(state.outcome.take());
        drop(state);
        let Some(((on_done, permit, _inside), outcome)) = taken else {
            return;
        };
        let outcome = outcome.map_err(|error| SendFailure::new(self.message.clone(), error));
        self.shared.gate.run_closure(|| permit.carry(|| on_done(outcome)));
    }

    fn pool(&self) -> &Workers {
        &self.shared.workers
    }
}
