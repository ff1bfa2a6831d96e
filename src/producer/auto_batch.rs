//! Gathers messages into batches and tells each sender what became of its own. What is gathered, and when it goes, is decided
//! in `gather`; how a batch goes, and how its end is told, in `departure`.
//!
//! 1. Nothing is sent, looked up or told under the lock of a group.
//! 2. Whoever makes a batch full sends it; else the timer does, or whoever sees the end of the batch before it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admission::{Closing, no_permit},
    attempt::Prepared,
    choose,
    departure::{depart, send_alone},
    gather::{Ending, Group, Limits, Load, Member, Told, TurnedAway, element_bytes},
    ids::id_length,
    options::Options,
    plan::Rules,
    result::SendResult,
    room::Room,
    shared::Shared,
    target::Aim,
};
use crate::{
    config::{ProducerConfig, Redelivery},
    error::{Error, Phase, Written},
    message::{
        Message, MessageQueue,
        batch::{added_bytes, waits, why_alone},
    },
    net::{deadline::Deadline, sync::Mutex, workers::is_worker},
};

/// The outcome of a batch may come a moment after its deadline.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// What must be equal for messages to share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) topic: Arc<str>,
    pub(super) to: To,
    pub(super) wait_store_ok: bool,
    timeout: Duration,
    attempts: u32,
    redelivery: Redelivery,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum To {
    Any,
    Queue(MessageQueue),
    /// The hash of a key, as long as the route is not known.
    Key(i32),
}

/// Messages of one kind that are gathered.
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) rules: Arc<Rules>,
    pub(super) group: Group<Closing>,
}

/// All that is gathered of one producer.
pub(super) struct AutoBatcher {
    limits: Limits,
    lines: Mutex<HashMap<Kind, Arc<Line>>>,
    pub(super) room: Room,
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
    pub(super) fn new(config: &ProducerConfig, ip: IpAddr) -> Option<Arc<Self>> {
        let auto_batch = config.auto_batch.as_ref()?;
        let batcher = Self {
            limits: Limits {
                hold: auto_batch.hold,
                max_bytes: auto_batch.max_bytes,
                max_record_bytes: config.max_message_size,
                added_record_bytes: added_bytes(id_length(ip)),
            },
            lines: Mutex::default(),
            room: Room::new(auto_batch.max_total_bytes),
        };
        Some(Arc::new(batcher))
    }

    fn line(&self, kind: Kind, rules: impl FnOnce() -> Arc<Rules>) -> Arc<Line> {
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
    pub(super) fn held_bytes(&self) -> usize {
        self.room.held()
    }
}

/// Decides whether a message is gathered, and takes room for it: waits for that until then, but not on a worker.
pub(super) fn admit(
    shared: &Arc<Shared>,
    prepared: &Prepared,
    options: &Options,
    usual_rules: &Arc<Rules>,
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
        || !prepared.is_usual()
        || prepared.compressed.is_some()
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
    let rules = options.rules(&shared.config, usual_rules);
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

    pub(super) fn aim(&self) -> Option<Aim> {
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
                line = held.batcher.line(line.kind.clone(), || Arc::clone(&line.rules));
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
    let rules = &shared.blocking_rules;
    let ticket = match admit(shared, prepared, options, rules, &deadline, deadline.at()) {
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

pub(super) fn outcome(
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

pub(super) fn gathered_too_long(prepared: &Prepared, deadline: &Deadline) -> Error {
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
