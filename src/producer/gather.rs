//! Messages that are being gathered into a batch, and those who wait for it. Pure: time is passed in, and nothing is sent
//! here; `auto_batch` does.
//!
//! 1. A group gathers one batch at a time; any number of earlier ones may be under way.
//! 2. A message is put into the body of the batch when it comes, under the lock of its group. A batch is given as much memory
//!    as the one before it took, so that a busy group never moves what it has gathered, and an idle one takes little.
//! 3. Who leaves while the batch is gathered takes its bytes along. The others keep their index.
//! 4. A batch that is taken from its group is ended once, with [`Load::end`], and [`Group::ended`] is called.

use std::{sync::Arc, time::Instant};

use super::{
    attempt::Prepared,
    batch::{self, Places},
    result::SendResult,
};
use crate::{
    error::Error,
    message::{
        batch::{MOST_MESSAGES, content_bytes},
        property,
    },
    net::{
        deadline::Deadline,
        sync::{Condvar, Mutex},
    },
    wire::message::BATCH_ELEMENT_OVERHEAD,
};

/// How much is gathered, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) hold: std::time::Duration,
    pub(super) max_bytes: usize,
    /// What the records of a batch may take, and what each takes beside topic, body and its own properties.
    pub(super) max_record_bytes: usize,
    pub(super) added_record_bytes: usize,
}

/// A message that is gathered. `W` is what its sender needs to be told, if it does not wait itself.
pub(super) struct Member<W> {
    pub(super) prepared: Prepared,
    pub(super) deadline: Deadline,
    /// `None`: its thread is blocked until the batch has ended.
    pub(super) closing: Option<W>,
    bytes: usize,
}

/// Bytes of a message in the body of a batch.
pub(super) fn element_bytes(prepared: &Prepared) -> usize {
    let message = &prepared.message;
    let id = property::encoded_length(property::UNIQ_KEY, prepared.message_id.as_str());
    BATCH_ELEMENT_OVERHEAD + message.body().len() + message.properties_length() + id
}

impl<W> Member<W> {
    pub(super) fn new(prepared: Prepared, deadline: Deadline, closing: Option<W>) -> Self {
        Self {
            bytes: element_bytes(&prepared),
            prepared,
            deadline,
            closing,
        }
    }
}

/// A batch that is gathered, or ready to go.
pub(super) struct Gathered<W> {
    pub(super) load: Arc<Load>,
    pub(super) body: Vec<u8>,
    /// By index; `None` for who has left.
    pub(super) members: Vec<Option<Member<W>>>,
    /// The earliest of all members.
    pub(super) deadline: Deadline,
    /// Room that it holds, of those who have left too.
    pub(super) held_bytes: usize,
    record_bytes: usize,
    blocked: usize,
    first_came: Instant,
}

impl<W> Gathered<W> {
    fn new((bytes, members): (usize, usize), now: Instant, first: &Member<W>) -> Self {
        Self {
            load: Arc::default(),
            body: Vec::with_capacity(bytes.max(first.bytes)),
            members: Vec::with_capacity(members),
            deadline: first.deadline,
            held_bytes: 0,
            record_bytes: 0,
            blocked: 0,
            first_came: now,
        }
    }

    fn push(&mut self, limits: &Limits, member: Member<W>) {
        self.held_bytes += member.bytes;
        self.record_bytes += limits.record_bytes(&member);
        self.blocked += usize::from(member.closing.is_none());
        if member.deadline.at() < self.deadline.at() {
            self.deadline = member.deadline;
        }
        self.members.push(Some(member));
    }

    /// Whether a member finds room, and a deadline that is about its own.
    fn suits(&self, limits: &Limits, member: &Member<W>) -> bool {
        let (mine, other) = (self.deadline.at(), member.deadline.at());
        let apart = mine.max(other) - mine.min(other);
        // Who has waited long for room must not take the time of all others.
        let tolerated = (member.deadline.at() - member.deadline.began()) / 8;
        self.has_room(limits, member.bytes, limits.record_bytes(member)) && apart <= tolerated
    }

    fn has_room(&self, limits: &Limits, bytes: usize, record_bytes: usize) -> bool {
        self.body.len() + bytes <= limits.max_bytes
            && self.record_bytes + record_bytes <= limits.max_record_bytes
            && self.members.len() < MOST_MESSAGES
    }

    /// Takes a message out again, with its bytes.
    pub(super) fn take_out(&mut self, index: usize) -> Option<Member<W>> {
        let before = self.members.iter().take(index).flatten();
        let start: usize = before.map(|member| member.bytes).sum();
        let member = self.members.get_mut(index)?.take()?;
        self.body.drain(start..start + member.bytes);
        self.blocked -= usize::from(member.closing.is_none());
        let left = self.members.iter().flatten().map(|member| member.deadline);
        self.deadline = left.min_by_key(Deadline::at).unwrap_or(member.deadline);
        Some(member)
    }

    /// Takes out those whose time is over.
    pub(super) fn take_out_late(&mut self, now: Instant) -> Vec<Member<W>> {
        if !self.deadline.is_over(now) {
            return Vec::new();
        }
        let is_late = |member: &Member<W>| member.deadline.is_over(now);
        let members = self.members.iter().enumerate();
        let late: Vec<_> = members
            .filter(|(_, member)| member.as_ref().is_some_and(is_late))
            .map(|(index, _)| index)
            .collect();
        late.into_iter()
            .filter_map(|index| self.take_out(index))
            .collect()
    }

    /// The indexes of those who have left.
    pub(super) fn left(&self) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, member)| member.is_none())
            .map(|(index, _)| index)
            .collect()
    }
}

impl Limits {
    fn record_bytes<W>(&self, member: &Member<W>) -> usize {
        content_bytes(&member.prepared.message) + self.added_record_bytes
    }
}

struct GroupState<W> {
    open: Option<Gathered<W>>,
    /// Bytes and messages of the batch before.
    last_size: (usize, usize),
    under_way: usize,
    /// The timer will call.
    is_armed: bool,
    is_forgotten: bool,
}

/// Messages that may share a batch.
pub(super) struct Group<W> {
    state: Mutex<GroupState<W>>,
}

/// What a message that has come in brings about.
pub(super) struct Added<W> {
    pub(super) load: Arc<Load>,
    pub(super) index: usize,
    /// Batches that must go now, in this order.
    pub(super) ready: Vec<Gathered<W>>,
    /// When the timer must call [`Group::on_time`].
    pub(super) arm: Option<Instant>,
}

/// Why a message has not come in; it comes back.
pub(super) enum TurnedAway<W> {
    /// The group is closed for good.
    Forgotten(Box<Member<W>>),
    /// It cannot be in a batch. What had to make way for it must go all the same.
    Unfit {
        coming: Box<Member<W>>,
        ready: Vec<Gathered<W>>,
    },
}

/// What the timer must do next.
pub(super) struct OnTime<W> {
    pub(super) ready: Option<Gathered<W>>,
    pub(super) arm: Option<Instant>,
}

impl<W> Group<W> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(GroupState {
                open: None,
                last_size: (0, 0),
                under_way: 0,
                is_armed: false,
                is_forgotten: false,
            }),
        }
    }

    /// Takes a message in. With `at_once` nothing is waited for.
    pub(super) fn add(
        &self,
        limits: &Limits,
        now: Instant,
        coming: Member<W>,
        at_once: bool,
    ) -> Result<Added<W>, TurnedAway<W>> {
        let mut state = self.state.lock();
        if state.is_forgotten {
            return Err(TurnedAway::Forgotten(Box::new(coming)));
        }
        let mut ready = Vec::new();
        if state
            .open
            .as_ref()
            .is_some_and(|open| !open.suits(limits, &coming))
        {
            ready.extend(state.seal());
        }
        let usual = state.last_size;
        let mut open = state
            .open
            .take()
            .unwrap_or_else(|| Gathered::new(usual, now, &coming));
        let bytes = coming.bytes;
        let prepared = &coming.prepared;
        if batch::append(&mut open.body, &prepared.message, &prepared.message_id).is_err() {
            state.open = Some(open).filter(|open| !open.members.is_empty());
            let coming = Box::new(coming);
            return Err(TurnedAway::Unfit { coming, ready });
        }
        open.push(limits, coming);
        let (load, index) = (Arc::clone(&open.load), open.members.len() - 1);
        // A message like the last one would not fit; a little room after a large one is still of use.
        let is_full = !open.has_room(limits, bytes.min(limits.max_bytes / 8), 0);
        let due = open.first_came + limits.hold;
        let is_waited_for = open.blocked > 0;
        state.open = Some(open);
        if at_once || is_full || is_waited_for && state.under_way == 0 {
            ready.extend(state.seal());
        }
        // Even if nothing is left for the timer to send: it is the timer that has idle groups forgotten.
        let was_armed = std::mem::replace(&mut state.is_armed, true);
        let arm = (!was_armed).then_some(due);
        Ok(Added {
            load,
            index,
            ready,
            arm,
        })
    }

    /// The timer calls. `is_last`: it does not call again, so nothing may be left behind.
    pub(super) fn on_time(&self, limits: &Limits, now: Instant, is_last: bool) -> OnTime<W> {
        let mut state = self.state.lock();
        let due = state.open.as_ref().map(|open| open.first_came + limits.hold);
        let later = due.filter(|due| *due > now && !is_last);
        let ready = if later.is_none() { state.seal() } else { None };
        state.is_armed = later.is_some();
        OnTime { ready, arm: later }
    }

    /// The batch that is being gathered, which must go now.
    pub(super) fn take(&self) -> Option<Gathered<W>> {
        self.state.lock().seal()
    }

    /// A batch has ended. Gives back the next one, if a thread waits for it and no other is under way.
    pub(super) fn ended(&self) -> Option<Gathered<W>> {
        let mut state = self.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
        let waited_for = state.open.as_ref().is_some_and(|open| open.blocked > 0);
        if state.under_way == 0 && waited_for {
            state.seal()
        } else {
            None
        }
    }

    /// Takes a message out whose batch is still being gathered. `None` if that is on its way.
    pub(super) fn take_out(&self, load: &Arc<Load>, index: usize) -> Option<Member<W>> {
        let mut state = self.state.lock();
        let open = state.open.as_mut()?;
        if !Arc::ptr_eq(&open.load, load) {
            return None;
        }
        open.take_out(index)
    }

    /// Closes the group for good if nothing is in it: whoever comes later finds another. True if it is closed.
    pub(super) fn forget_if_idle(&self) -> bool {
        let mut state = self.state.lock();
        state.is_forgotten |= state.open.is_none() && !state.is_armed;
        state.is_forgotten
    }
}

impl<W> GroupState<W> {
    fn seal(&mut self) -> Option<Gathered<W>> {
        let sealed = self.open.take();
        if let Some(gathered) = &sealed {
            self.last_size = (gathered.body.len(), gathered.members.len());
        }
        self.under_way += usize::from(sealed.is_some());
        sealed
    }
}

/// How a batch ended.
#[derive(Debug)]
pub(super) enum How {
    Stored(Box<Places>),
    Failed(Error),
    /// A broker refused it because of what is in it: each message is to go by itself.
    Scattered,
}

/// The end of a batch, from which everyone in it reads his own.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) how: How,
    /// The indexes of those who left before it went.
    pub(super) left: Vec<usize>,
}

/// What the end of a batch is for one message.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart at once")]
pub(super) enum Told {
    Outcome(Result<SendResult, Error>),
    /// It is to go by itself.
    Alone,
    /// It was taken out before the batch went, since its time was over.
    TakenOut,
}

impl Ending {
    pub(super) fn tell(&self, index: usize, prepared: &Prepared) -> Told {
        if self.left.contains(&index) {
            return Told::TakenOut;
        }
        match &self.how {
            How::Stored(places) => {
                let before = self.left.iter().filter(|left| **left < index).count();
                Told::Outcome(Ok(places.result(index - before, prepared.message_id)))
            }
            How::Failed(error) => Told::Outcome(Err(error.clone())),
            How::Scattered => Told::Alone,
        }
    }
}

/// Where those wait who are in a batch.
#[derive(Debug, Default)]
pub(super) struct Load {
    ending: Mutex<Option<Arc<Ending>>>,
    ended: Condvar,
}

impl Load {
    /// Wakes all who wait.
    pub(super) fn end(&self, ending: Arc<Ending>) {
        *self.ending.lock() = Some(ending);
        self.ended.notify_all();
    }

    /// Blocks until the batch has ended, or until then.
    pub(super) fn wait(&self, until: Instant) -> Option<Arc<Ending>> {
        let mut ending = self.ending.lock();
        while ending.is_none() {
            if self.ended.wait_until(&mut ending, until).timed_out() {
                break;
            }
        }
        ending.clone()
    }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
