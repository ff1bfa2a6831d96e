//! How an asynchronous send gets in: through the gate, with a permit and a chosen queue, or refused. Either way its closure
//! runs once, on a worker.

use std::{io, sync::Arc, thread, time::Instant};

use super::{
    attempt::Prepared,
    background::AsyncSend,
    choose,
    gate::{Gate, Inside},
    options::Options,
    permits::Permit,
    plan::SendPlan,
    result::{Full, SendFailure, SendResult},
    shared::Shared,
    shutdown,
    target::Aim,
};
use crate::{
    error::{Error, Phase, Written},
    message::Message,
    net::{
        deadline::Deadline,
        sync::Mutex,
        workers::{Task, Workers, is_worker},
    },
};

/// What the user wants to be told.
pub(super) type OnDone = Box<dyn FnOnce(Result<SendResult, SendFailure>) + Send>;

/// What the end of a send needs, and gives back.
pub(super) struct Closing {
    on_done: OnDone,
    permit: Option<Permit>,
    _inside: Option<Inside<Arc<Gate>>>,
}

/// Begins a send. `on_done` is called exactly once, on a worker, whatever happens; only if no worker can be started it is
/// called here. Blocks for a permit, and for the route if a selector has to choose.
pub(super) fn send(shared: &Arc<Shared>, message: Message, options: &Options, on_done: OnDone) {
    let deadline = options.deadline(&shared.config);
    if let Err(error) = shared.workers.ensure_one() {
        return on_done(Err(SendFailure::new(message, no_worker(error))));
    }
    let inside = match shared.gate.enter_detached() {
        Ok(inside) => inside,
        Err(error) => return refuse(shared, message, error, on_done, None),
    };
    let admitted = options
        .check()
        .and_then(|()| Prepared::new(shared, &message))
        .and_then(|prepared| {
            let permit = shared.permits.acquire(prepared.size(), deadline.at());
            let permit = permit.ok_or_else(|| no_permit(&message, &deadline))?;
            Ok((prepared, permit))
        });
    match admitted {
        Ok((prepared, permit)) => {
            let closing = Closing::new(on_done, Some(permit), Some(inside));
            begin(shared, prepared, options, deadline, closing);
        }
        Err(error) => refuse(shared, message, error, on_done, Some(inside)),
    }
}

/// As [`send`], but gives message and closure back at once if there is no room.
pub(super) fn try_send<F>(
    shared: &Arc<Shared>,
    message: Message,
    options: &Options,
    on_done: F,
) -> Result<(), Full<F>>
where
    F: FnOnce(Result<SendResult, SendFailure>) + Send + 'static,
{
    let prepared = match Prepared::new(shared, &message) {
        Ok(prepared) if options.check().is_ok() => prepared,
        _ => {
            // Whatever is wrong with it, the closure is told.
            send(shared, message, options, Box::new(on_done));
            return Ok(());
        }
    };
    let Some(permit) = shared.permits.acquire(prepared.size(), Instant::now()) else {
        return Err(Full::new(message, on_done));
    };
    if shared.workers.ensure_one().is_err() {
        drop(permit);
        send(shared, message, options, Box::new(on_done));
        return Ok(());
    }
    match shared.gate.enter_detached() {
        Ok(inside) => {
            let closing = Closing::new(Box::new(on_done), Some(permit), Some(inside));
            begin(
                shared,
                prepared,
                options,
                options.deadline(&shared.config),
                closing,
            );
        }
        Err(error) => refuse(shared, message, error, Box::new(on_done), None),
    }
    Ok(())
}

pub(super) fn no_worker(error: io::Error) -> Error {
    let source = Arc::new(error);
    Error::Thread {
        purpose: "callbacks",
        source,
    }
}

pub(super) fn no_permit(message: &Message, deadline: &Deadline) -> Error {
    Error::Timeout {
        phase: Phase::Permit,
        target: format!("topic {}", message.topic()).into(),
        waited: deadline.waited(),
        written: Written::Nothing,
    }
}

/// Has the closure of a send run that could not be begun. Such sends cost nothing, so a loop of them could queue closures
/// without end: those that wait for a worker are bounded too, and a caller that is too quick for the workers waits, within the
/// time of a send; if that is over the closure runs here. A worker does not wait: each closure that it runs makes room for one.
pub(super) fn refuse(
    shared: &Arc<Shared>,
    message: Message,
    error: Error,
    on_done: OnDone,
    inside: Option<Inside<Arc<Gate>>>,
) {
    let until = Deadline::after(shared.config.send_timeout).at();
    let room = shared.refusals.acquire(0, until);
    let has_room = room.is_some() || is_worker();
    let closing = Closing::new(on_done, room, inside);
    let what = Mutex::new(Some((closing, message, error)));
    let refused = Arc::new(Refused {
        shared: Arc::clone(shared),
        what,
    });
    if has_room {
        shared.workers.submit(refused);
    } else {
        shared.workers.run_here(refused);
    }
}

pub(super) fn begin(
    shared: &Arc<Shared>,
    prepared: Prepared,
    options: &Options,
    deadline: Deadline,
    closing: Closing,
) {
    let rules = options.rules(&shared.config, &shared.async_rules);
    let topic = Arc::clone(prepared.message.shared_topic());
    let mut plan = SendPlan::new(rules, topic, deadline);
    // A selector is the user's code, so it runs here and not on a thread of the library.
    let aim = match options.aim() {
        Some(aim @ Aim::Select(_)) => select(shared, &prepared.message, aim, &mut plan).map(Some),
        other => Ok(other.cloned()),
    };
    let (aim, error) = aim.map_or_else(|error| (None, Some(error)), |aim| (aim, None));
    let send = AsyncSend::new(shared, prepared, aim, options.ordered, plan, closing);
    match error {
        None => send.start(),
        Some(error) => send.finish_without_attempt(error),
    }
}

/// Lets the selector choose. With a delivery timeout the caller waits until there is a route, as a blocking sender does.
fn select(shared: &Arc<Shared>, message: &Message, aim: &Aim, plan: &mut SendPlan) -> Result<Aim, Error> {
    let deadline = *plan.deadline();
    loop {
        let error = match shared.routes.wait(message.shared_topic(), &deadline) {
            Ok(route) => return Ok(Aim::Queue((*choose::aimed(aim, &route, message)?.queue).clone())),
            Err(error) => error,
        };
        let now = Instant::now();
        let pause = if error.is_passing() {
            plan.pause_without_route(now)
        } else {
            None
        };
        let Some(until) = pause else { return Err(error) };
        thread::sleep(until.saturating_duration_since(now));
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

    fn pool(&self) -> &Workers {
        &self.shared.workers
    }
}

impl Closing {
    pub(super) fn new(on_done: OnDone, permit: Option<Permit>, inside: Option<Inside<Arc<Gate>>>) -> Self {
        Self {
            on_done,
            permit,
            _inside: inside,
        }
    }

    pub(super) fn run(self, shared: &Arc<Shared>, outcome: Result<SendResult, SendFailure>) {
        let Self {
            on_done,
            permit,
            _inside,
        } = self;
        let failure = outcome.as_ref().err();
        shared.tally.ended(failure.map(|failure| &failure.error));
        shutdown::note(shared, failure.map(|failure| (&failure.message, &failure.error)));
        shared.gate.run_closure(|| match permit {
            Some(permit) => permit.carry(|| on_done(outcome)),
            None => on_done(outcome),
        });
    }
}
