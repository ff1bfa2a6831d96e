//! How an asynchronous send gets in: through the gate, with a permit and a chosen queue, or refused. Either way its closure
//! runs once, on a worker.

use std::{io, sync::Arc, thread, time::Instant};

use super::{
    attempt::Prepared,
    auto_batch::{self, Admission},
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
    message::{Batch, Message},
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
    /// The messages of a batch, each of which has this outcome.
    batch: Option<Batch>,
    /// Not the user's: counts nothing, and runs where the send ends.
    is_internal: bool,
}

/// Begins a send. `on_done` is called exactly once, on a worker, whatever happens; only if no worker can be started it is
/// called here. Blocks for a permit, and for the route if a selector has to choose.
pub(super) fn send(shared: &Arc<Shared>, message: Message, options: &Options, on_done: OnDone) {
    let prepare = |message: &Message| Prepared::new(shared, message);
    send_prepared(shared, message, None, options, on_done, prepare);
}

/// Begins a send of what `prepare` makes of a message, or of a batch and its first message.
pub(super) fn send_prepared(
    shared: &Arc<Shared>,
    message: Message,
    batch: Option<Batch>,
    options: &Options,
    on_done: OnDone,
    prepare: impl FnOnce(&Message) -> Result<Prepared, Error>,
) {
    let deadline = options.deadline(&shared.config);
    if let Err(error) = shared.workers.ensure_one() {
        return on_done(Err(SendFailure::new(message, no_worker(error))));
    }
    let inside = match shared.gate.enter_detached() {
        Ok(inside) => inside,
        Err(error) => return refuse(shared, message, error, Closing::new(on_done, batch), None),
    };
    let admitted = options
        .check()
        .and_then(|()| prepare(&message))
        .and_then(|prepared| {
            let permit = shared.permits.acquire(prepared.size(), deadline.at());
            let permit = permit.ok_or_else(|| no_permit(&message, &deadline))?;
            match auto_batch::admit(
                shared,
                &prepared,
                options,
                &shared.async_rules,
                &deadline,
                deadline.at(),
            ) {
                Admission::NoRoom => Err(no_permit(&message, &deadline)),
                admission => Ok((prepared, permit, admission)),
            }
        });
    match admitted {
        Ok((prepared, permit, admission)) => {
            let closing = Closing::new(on_done, batch).holding(Some(permit), Some(inside));
            begin(shared, prepared, admission, options, deadline, closing);
        }
        Err(error) => refuse(shared, message, error, Closing::new(on_done, batch), Some(inside)),
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
    let deadline = options.deadline(&shared.config);
    let rules = &shared.async_rules;
    let admission = auto_batch::admit(shared, &prepared, options, rules, &deadline, Instant::now());
    if matches!(admission, Admission::NoRoom) {
        return Err(Full::new(message, on_done));
    }
    if shared.workers.ensure_one().is_err() {
        drop((permit, admission));
        send(shared, message, options, Box::new(on_done));
        return Ok(());
    }
    match shared.gate.enter_detached() {
        Ok(inside) => {
            let closing = Closing::new(Box::new(on_done), None).holding(Some(permit), Some(inside));
            begin(shared, prepared, admission, options, deadline, closing);
        }
        Err(error) => refuse(
            shared,
            message,
            error,
            Closing::new(Box::new(on_done), None),
            None,
        ),
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
    closing: Closing,
    inside: Option<Inside<Arc<Gate>>>,
) {
    let until = Deadline::after(shared.config.send_timeout).at();
    let room = shared.refusals.acquire(0, until);
    let has_room = room.is_some() || is_worker();
    let closing = closing.holding(room, inside);
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
    admission: Admission,
    options: &Options,
    deadline: Deadline,
    closing: Closing,
) {
    if let Admission::Gather(ticket) = admission {
        return auto_batch::send_async(shared, ticket, prepared, deadline, closing);
    }
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
        let Some(until) = plan.pause_without_route(&error, now) else {
            return Err(error);
        };
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
    pub(super) fn new(on_done: OnDone, batch: Option<Batch>) -> Self {
        Self {
            on_done,
            permit: None,
            _inside: None,
            batch,
            is_internal: false,
        }
    }

    /// For a batch of messages that were gathered, each of which has a closing of its own.
    pub(super) fn of_gathered(on_done: Box<dyn FnOnce(Result<SendResult, Error>) + Send>) -> Self {
        let on_done = |outcome: Result<SendResult, SendFailure>| on_done(outcome.map_err(|it| it.error));
        Self {
            is_internal: true,
            ..Self::new(Box::new(on_done), None)
        }
    }

    pub(super) fn is_internal(&self) -> bool {
        self.is_internal
    }

    /// What is given back when the closure is run.
    pub(super) fn holding(self, permit: Option<Permit>, inside: Option<Inside<Arc<Gate>>>) -> Self {
        Self {
            permit,
            _inside: inside,
            ..self
        }
    }

    pub(super) fn run(self, shared: &Arc<Shared>, outcome: Result<SendResult, SendFailure>) {
        let Self {
            on_done,
            permit,
            _inside,
            batch,
            is_internal,
        } = self;
        if is_internal {
            return on_done(outcome);
        }
        let failure = outcome.as_ref().err();
        let error = failure.map(|failure| &failure.error);
        match &batch {
            None => {
                shared.tally.ended(error);
                shutdown::note(shared, failure.map(|failure| (&failure.message, &failure.error)));
            }
            Some(batch) => {
                shared.tally.ended_together(error, batch.len());
                for message in batch.messages() {
                    shutdown::note(shared, error.map(|error| (message, error)));
                }
            }
        }
        shared.gate.run_closure(|| match permit {
            Some(permit) => permit.carry(|| on_done(outcome)),
            None => on_done(outcome),
        });
    }
}
