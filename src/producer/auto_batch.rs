//! Gathers messages into batches and tells each sender what became of its own. What is gathered, and when it goes, is decided
//! in `gather`; a batch goes as an asynchronous send like any other.
//!
//! 1. Nothing is sent, looked up or told under the lock of a group.
//! 2. Whoever makes a batch full sends it; else the timer does, or whoever sees the end of the batch before it.
//! 3. The end of a batch is told where it is seen: blocked threads are woken, closures go to the workers.
//! 4. A batch that ends while another is being sent off leaves what follows to the timer, so that threads which fail at once
//!    do not stack up.

use std::{
    cell::Cell,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admission::{Closing, no_permit},
    attempt::Prepared,
    background::AsyncSend,
    batch::{BatchBody, Places},
    choose,
    gather::{Ending, Gathered, Group, How, Limits, Load, Member, Told, TurnedAway, element_bytes},
    options::Options,
    plan::{Rules, SendPlan},
    result::{SendFailure, SendResult},
    shared::Shared,
    target::Aim,
};
use crate::{
    code::ResponseCode,
    config::{ProducerConfig, Redelivery},
    error::{Error, Phase, Written, is_size_refusal},
    message::{
        Message, MessageQueue,
        batch::{added_bytes, waits, why_alone},
    },
    net::{
        deadline::Deadline,
        sync::{AtomicUsize, Condvar, Mutex, Ordering},
        workers::{Task, is_worker},
    },
};

/// The outcome of a batch may come a moment after its deadline.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// What must be equal for messages to share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    topic: Arc<str>,
    to: To,
    wait_store_ok: bool,
    timeout: Duration,
    attempts: u32,
    redelivery: Redelivery,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum To {
    Any,
    Queue(MessageQueue),
    /// The hash of a key, as long as the route is not known.
    Key(i32),
}

/// Messages of one kind that are gathered.
struct Line {
    kind: Kind,
    rules: Rules,
    group: Group<Closing>,
}

/// All that is gathered of one producer.
pub(super) struct AutoBatcher {
    limits: Limits,
    lines: Mutex<HashMap<Kind, Arc<Line>>>,
    room: Room,
}

/// Where a message is to be gathered, with the room that it takes.
pub(super) struct Ticket {
    line: Arc<Line>,
    held: Held,
}

/// Whether a message is to be gathered.
pub(super) enum Admission {
    /// It goes by itself.
    Alone,
    Gather(Ticket),
    /// There was no room in time.
    NoRoom,
}

impl AutoBatcher {
    pub(super) fn new(config: &ProducerConfig, id_length: usize) -> Option<Arc<Self>> {
        let auto_batch = config.auto_batch.as_ref()?;
        let batcher = Self {
            limits: Limits {
                hold: auto_batch.hold,
                max_bytes: auto_batch.max_bytes,
                max_record_bytes: config.max_message_size,
                added_record_bytes: added_bytes(id_length),
            },
            lines: Mutex::default(),
            room: Room::new(auto_batch.max_total_bytes),
        };
        Some(Arc::new(batcher))
    }

    fn line(&self, kind: Kind, rules: impl FnOnce() -> Rules) -> Arc<Line> {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get(&kind) {
            return Arc::clone(line);
        }
        let group = Group::new();
        let line = Arc::new(Line {
            kind: kind.clone(),
            rules: rules(),
            group,
        });
        lines.insert(kind, Arc::clone(&line));
        line
    }

    fn forget_if_idle(&self, line: &Arc<Line>) {
        let mut lines = self.lines.lock();
        let is_known = lines
            .get(&line.kind)
            .is_some_and(|known| Arc::ptr_eq(known, line));
        if line.group.forget_if_idle() && is_known {
            lines.remove(&line.kind);
        }
    }

    /// Bytes that are gathered or on their way.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        self.room.held.load(Ordering::SeqCst)
    }
}

/// Decides whether a message is gathered, and takes room for it: waits for that until then, but not on a worker.
pub(super) fn admit(
    shared: &Arc<Shared>,
    prepared: &Prepared,
    options: &Options,
    retries: u32,
    deadline: &Deadline,
    until: Instant,
) -> Admission {
    let Some(batcher) = &shared.auto_batch else {
        return Admission::Alone;
    };
    let message = &prepared.message;
    let bytes = element_bytes(prepared);
    let timeout = deadline.at() - deadline.began();
    if prepared.batch.is_some()
        || options.ordered
        || bytes > batcher.limits.max_bytes
        || timeout < batcher.limits.hold * 2
        || why_alone(message).is_some()
    {
        return Admission::Alone;
    }
    let Some(to) = To::of(shared, message, options.aim()) else {
        return Admission::Alone;
    };
    if !batcher.room.acquire(bytes, until) {
        return if is_worker() {
            Admission::Alone
        } else {
            Admission::NoRoom
        };
    }
    let held = Held {
        batcher: Arc::clone(batcher),
        bytes,
    };
    let rules = options.rules(&shared.config, retries);
    let kind = Kind {
        topic: Arc::clone(message.shared_topic()),
        to,
        wait_store_ok: waits(message),
        timeout,
        attempts: rules.attempts,
        redelivery: rules.redelivery,
    };
    let line = batcher.line(kind, || rules);
    Admission::Gather(Ticket { line, held })
}

impl To {
    /// `None` for a selector: what it would choose is not known here.
    fn of(shared: &Shared, message: &Message, aim: Option<&Aim>) -> Option<Self> {
        match aim {
            None => Some(Self::Any),
            Some(Aim::Queue(queue)) => Some(Self::Queue(queue.clone())),
            Some(aim @ Aim::Key(hash)) => {
                let route = shared.routes.known(message.topic());
                let queue = route.and_then(|route| {
                    let queue = choose::aimed(aim, &route, message).ok()?;
                    Some((*queue.queue).clone())
                });
                Some(queue.map_or(Self::Key(*hash), Self::Queue))
            }
            Some(Aim::Select(_)) => None,
        }
    }

    fn aim(&self) -> Option<Aim> {
        match self {
            Self::Any => None,
            Self::Queue(queue) => Some(Aim::Queue(queue.clone())),
            Self::Key(hash) => Some(Aim::Key(*hash)),
        }
    }
}

/// Where a message is that was gathered.
struct Seat {
    line: Arc<Line>,
    load: Arc<Load>,
    index: usize,
}

/// Gathers a message, and sends off what is full. Gives the message back if it cannot be in a batch.
fn gather(
    shared: &Arc<Shared>,
    ticket: Ticket,
    mut member: Member<Closing>,
) -> Result<Seat, Box<Member<Closing>>> {
    let Ticket { mut line, held } = ticket;
    let limits = &held.batcher.limits;
    loop {
        // Looked at before the message is in: a shutdown that has not seen the message is seen here.
        let at_once = shared.gate.is_closed();
        match line.group.add(limits, Instant::now(), member, at_once) {
            Ok(added) => {
                // The room goes back when the batch has ended.
                held.keep();
                for gathered in added.ready {
                    depart(shared, &line, gathered);
                }
                if let Some(due) = added.arm {
                    arm(shared, &line, due);
                }
                let (load, index) = (added.load, added.index);
                return Ok(Seat { line, load, index });
            }
            Err(TurnedAway::Forgotten(coming)) => {
                member = *coming;
                line = held.batcher.line(line.kind.clone(), || line.rules.clone());
            }
            Err(TurnedAway::Unfit { coming, ready }) => {
                for gathered in ready {
                    depart(shared, &line, gathered);
                }
                return Err(coming);
            }
        }
    }
}

/// Sends the message of a blocked thread in a batch. `None`: it is to go by itself.
pub(super) fn send(
    shared: &Arc<Shared>,
    prepared: &Prepared,
    options: &Options,
    deadline: Deadline,
) -> Option<Result<SendResult, Error>> {
    let retries = shared.config.retries;
    let ticket = match admit(shared, prepared, options, retries, &deadline, deadline.at()) {
        Admission::Alone => return None,
        Admission::Gather(ticket) => ticket,
        Admission::NoRoom => return Some(Err(no_permit(&prepared.message, &deadline))),
    };
    let seat = gather(shared, ticket, Member::new(prepared.clone(), deadline, None)).ok()?;
    if let Some(ending) = seat.load.wait(deadline.at()) {
        return outcome(&ending, seat.index, prepared, &deadline);
    }
    if let Some(member) = seat.line.group.take_out(&seat.load, seat.index) {
        return Some(Err(gathered_too_long(&member.prepared, &deadline)));
    }
    if let Some(ending) = seat.load.wait(deadline.at() + LAST_MOMENT) {
        return outcome(&ending, seat.index, prepared, &deadline);
    }
    Some(Err(Error::Timeout {
        phase: Phase::Reply,
        target: format!("a batch for topic {}", prepared.message.topic()).into(),
        waited: deadline.waited(),
        written: Written::All,
    }))
}

fn outcome(
    ending: &Ending,
    index: usize,
    prepared: &Prepared,
    deadline: &Deadline,
) -> Option<Result<SendResult, Error>> {
    match ending.tell(index, prepared) {
        Told::Outcome(outcome) => Some(outcome),
        Told::TakenOut => Some(Err(gathered_too_long(prepared, deadline))),
        Told::Alone => None,
    }
}

fn gathered_too_long(prepared: &Prepared, deadline: &Deadline) -> Error {
    Error::Timeout {
        phase: Phase::Gather,
        target: format!("topic {}", prepared.message.topic()).into(),
        waited: deadline.waited(),
        written: Written::Nothing,
    }
}

/// Gathers the message of an asynchronous send, whose closure is run when the batch has ended.
pub(super) fn send_async(
    shared: &Arc<Shared>,
    ticket: Ticket,
    prepared: Prepared,
    deadline: Deadline,
    closing: Closing,
) {
    let line = Arc::clone(&ticket.line);
    if let Err(member) = gather(shared, ticket, Member::new(prepared, deadline, Some(closing))) {
        send_alone(shared, *member, &line);
    }
}

/// Has the timer look at a line.
fn arm(shared: &Arc<Shared>, line: &Arc<Line>, due: Instant) {
    let (of, line) = (Arc::clone(shared), Arc::clone(line));
    shared.timer.at(due, move || look_at(&of, &line, due));
}

fn look_at(shared: &Arc<Shared>, line: &Arc<Line>, due: Instant) {
    let Some(batcher) = &shared.auto_batch else { return };
    let now = Instant::now();
    // The timer calls early only when it is stopped.
    let looked = line.group.on_time(&batcher.limits, now, now < due);
    if let Some(gathered) = looked.ready {
        depart(shared, line, gathered);
    }
    match looked.arm {
        Some(due) => arm(shared, line, due),
        None => batcher.forget_if_idle(line),
    }
}

/// Sends off everything that is gathered.
pub(super) fn flush(shared: &Arc<Shared>) {
    let Some(batcher) = &shared.auto_batch else { return };
    let lines: Vec<_> = batcher.lines.lock().values().map(Arc::clone).collect();
    for line in lines {
        if let Some(gathered) = line.group.take() {
            depart(shared, &line, gathered);
        }
    }
}

thread_local! {
    static IS_SENDING_OFF: Cell<bool> = const { Cell::new(false) };
}

/// Sends a batch off. Never blocks.
fn depart(shared: &Arc<Shared>, line: &Arc<Line>, gathered: Gathered<Closing>) {
    if IS_SENDING_OFF.with(Cell::get) {
        let (of, line) = (Arc::clone(shared), Arc::clone(line));
        let later = move || send_off(&of, &line, gathered);
        shared.timer.at(Instant::now(), later);
    } else {
        send_off(shared, line, gathered);
    }
}

fn send_off(shared: &Arc<Shared>, line: &Arc<Line>, mut gathered: Gathered<Closing>) {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_SENDING_OFF.with(|sending| sending.set(self.0));
        }
    }
    let _restore = Restore(IS_SENDING_OFF.with(|sending| sending.replace(true)));
    let now = Instant::now();
    for member in gathered.take_out_late(now) {
        close_late(shared, member);
    }
    let left = gathered.left();
    let Gathered {
        load,
        body,
        members,
        deadline,
        held_bytes,
        ..
    } = gathered;
    let count = members.len() - left.len();
    let departed = Departed {
        shared: Arc::clone(shared),
        line: Arc::clone(line),
        load,
        held_bytes,
        left,
        count,
    };
    let Some(first) = members.iter().flatten().next() else {
        return departed.end(How::Failed(Error::ShutDown), members);
    };
    let batch = BatchBody {
        bytes: body,
        wait_store_ok: line.kind.wait_store_ok,
    };
    let prepared = Prepared {
        // A message that is alone goes as one.
        batch: (count > 1).then(|| Arc::new(batch)),
        ..first.prepared.clone()
    };
    let plan = SendPlan::new(line.rules.clone(), Arc::clone(&line.kind.topic), deadline);
    let on_done = move |outcome: Result<SendResult, Error>| {
        let how = match outcome.and_then(|first| Places::new(first, departed.count)) {
            Ok(places) => How::Stored(Box::new(places)),
            Err(error) if departed.count > 1 && is_about_a_message(&error) => How::Scattered,
            Err(error) => How::Failed(error),
        };
        departed.end(how, members);
    };
    let closing = Closing::of_gathered(Box::new(on_done));
    AsyncSend::new(shared, prepared, line.kind.to.aim(), false, plan, closing).start();
}

/// Whether a broker refused a batch for what is in it or for being one, so that its messages may still be taken one by one.
fn is_about_a_message(error: &Error) -> bool {
    let last = match error {
        Error::Failed(failed) => failed.last_error(),
        other => Some(other),
    };
    let is_about = matches!(last, Some(Error::Refused { code, remark, .. })
        if matches!(*code, ResponseCode::MESSAGE_ILLEGAL | ResponseCode::REQUEST_CODE_NOT_SUPPORTED)
            || is_size_refusal(*code, remark));
    is_about && error.delivery().is_not_stored()
}

/// A batch on its way.
struct Departed {
    shared: Arc<Shared>,
    line: Arc<Line>,
    load: Arc<Load>,
    held_bytes: usize,
    left: Vec<usize>,
    count: usize,
}

impl Departed {
    /// Tells all who are in the batch, and lets the next one go.
    fn end(self, how: How, members: Vec<Option<Member<Closing>>>) {
        let Self {
            shared,
            line,
            load,
            held_bytes,
            left,
            ..
        } = self;
        let ending = Arc::new(Ending { how, left });
        load.end(Arc::clone(&ending));
        if let Some(batcher) = &shared.auto_batch {
            batcher.room.release(held_bytes);
        }
        let closures = members.iter().flatten().filter(|member| member.closing.is_some());
        match (closures.count(), &ending.how) {
            (0, _) => {}
            (_, How::Scattered) => {
                for member in members.into_iter().flatten() {
                    if member.closing.is_some() {
                        send_alone(&shared, member, &line);
                    }
                }
            }
            (closures, _) => Delivery::submit(&shared, ending, members, closures),
        }
        if let Some(next) = line.group.ended() {
            depart(&shared, &line, next);
        }
    }
}

/// Sends a message by itself after all.
fn send_alone(shared: &Arc<Shared>, member: Member<Closing>, line: &Line) {
    let Member {
        prepared,
        deadline,
        closing,
        ..
    } = member;
    let Some(closing) = closing else { return };
    let plan = SendPlan::new(line.rules.clone(), Arc::clone(&line.kind.topic), deadline);
    AsyncSend::new(shared, prepared, line.kind.to.aim(), false, plan, closing).start();
}

/// Tells the closure of a message whose time was over before its batch went. A blocked thread finds it out itself.
fn close_late(shared: &Arc<Shared>, member: Member<Closing>) {
    if member.closing.is_some() {
        let how = How::Failed(gathered_too_long(&member.prepared, &member.deadline));
        let left = Vec::new();
        Delivery::submit(shared, Arc::new(Ending { how, left }), vec![Some(member)], 1);
    }
}

/// The closures of a batch. As many workers as are free run them, each taking the next one, so that a closure that blocks
/// holds up no other.
struct Delivery {
    shared: Arc<Shared>,
    ending: Arc<Ending>,
    members: Mutex<std::iter::Enumerate<std::vec::IntoIter<Option<Member<Closing>>>>>,
}

impl Delivery {
    fn submit(
        shared: &Arc<Shared>,
        ending: Arc<Ending>,
        members: Vec<Option<Member<Closing>>>,
        closures: usize,
    ) {
        let delivery = Arc::new(Self {
            shared: Arc::clone(shared),
            ending,
            members: Mutex::new(members.into_iter().enumerate()),
        });
        for _ in 0..closures.min(shared.config.callback_threads) {
            let task: Arc<dyn Task> = Arc::<Self>::clone(&delivery);
            shared.workers.submit(task);
        }
    }

    fn next(&self) -> Option<(usize, Member<Closing>)> {
        let mut members = self.members.lock();
        members.find_map(|(index, member)| Some((index, member.filter(|member| member.closing.is_some())?)))
    }
}

impl Task for Delivery {
    fn run(self: Arc<Self>) {
        /// If a closure panics, the others are still run.
        struct Rest(Option<Arc<Delivery>>);
        impl Drop for Rest {
            fn drop(&mut self) {
                if let Some(delivery) = self.0.take() {
                    let shared = Arc::clone(&delivery.shared);
                    shared.workers.submit(delivery);
                }
            }
        }
        let mut rest = Rest(Some(Arc::clone(&self)));
        while let Some((index, member)) = self.next() {
            let Some(outcome) = outcome(&self.ending, index, &member.prepared, &member.deadline) else {
                continue;
            };
            let message = member.prepared.message;
            if let Some(closing) = member.closing {
                closing.run(
                    &self.shared,
                    outcome.map_err(|error| SendFailure::new(message, error)),
                );
            }
        }
        rest.0 = None;
    }
}

/// Room for what is gathered or on its way, in bytes.
struct Room {
    limit: usize,
    held: AtomicUsize,
    waiting: AtomicUsize,
    lock: Mutex<()>,
    freed: Condvar,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    fn try_acquire(&self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.limit);
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)
            .is_ok()
    }

    /// Waits until then, but not on a worker: only other closures could make room.
    fn acquire(&self, bytes: usize, until: Instant) -> bool {
        if self.try_acquire(bytes) {
            return true;
        }
        if is_worker() {
            return false;
        }
        let mut guard = self.lock.lock();
        // Announced before it is looked, so that whoever gives room back after the look wakes us.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut got = self.try_acquire(bytes);
        while !got {
            let is_late = self.freed.wait_until(&mut guard, until).timed_out();
            got = self.try_acquire(bytes);
            if is_late {
                break;
            }
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        got
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // The lock makes sure that whoever found no room is waiting by now.
            drop(self.lock.lock());
            self.freed.notify_all();
        }
    }
}

/// Room that goes back unless the message is gathered.
struct Held {
    batcher: Arc<AutoBatcher>,
    bytes: usize,
}

impl Held {
    fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.batcher.room.release(self.bytes);
        }
    }
}

#[cfg(test)]
#[path = "auto_batch_tests.rs"]
mod tests;
