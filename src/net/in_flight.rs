//! Requests waiting for their reply, by opaque. The kernel of a connection.
//!
//! 1. A request is registered before its first byte can be written, so no reply is early.
//! 2. Whoever takes a waiter out of the table completes it; everyone else finds nothing. So every request ends once.
//! 3. The end of the connection marks every slot: nobody can register after the last waiter was woken.
//! 4. A slot is chosen by the low bits of the opaque and keeps the whole opaque, which a reply must equal: a reply that
//!    is late by exactly one round of the table still finds nothing. An occupied slot means: take the next number.
//! 5. Each slot has a lock of its own, held for a few instructions and never while a waiter is completed.
//! 6. Alarms cost nothing per request: `earliest` is a lower bound of all alarms, and the table is walked only when that
//!    bound is reached, which then becomes exact again. With equal timeouts that is once per timeout, not per request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering},
    waiter::Waiter,
};

/// What one-way requests carry. No waiter ever has it, so that an answer to one (early refusals of 4.7.0 do answer)
/// finds nobody.
pub(super) const ONEWAY_OPAQUE: i32 = 0;

/// Opaques go from here to the largest number, and round again: all have as many digits, so that one is written over another
/// in a frame that is copied.
pub(super) const FIRST_OPAQUE: i32 = 1_000_000_000;
const OPAQUES: u32 = i32::MAX.abs_diff(FIRST_OPAQUE) + 1;

/// A registered request.
pub(crate) struct Entry {
    pub(super) opaque: i32,
    pub(super) waiter: Arc<dyn Waiter>,
    /// Handed back to the waiter, to tell its attempts apart.
    pub(super) ticket: u32,
    pub(super) registered: Moment,
    /// When the timer has to look, [`Moment::NEVER`] if the waiter keeps its own time.
    alarm: Moment,
    /// When the request is over.
    until: Moment,
}

/// Microseconds since the connection began: half the size of an `Instant`, and it fits an atomic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(super) const NEVER: Self = Self(u64::MAX);

    pub(super) fn new(epoch: Instant, at: Instant) -> Self {
        Self(u64::try_from(at.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.saturating_sub(self.0))
    }

    fn to_instant(self, epoch: Instant) -> Option<Instant> {
        if self == Self::NEVER {
            None
        } else {
            epoch.checked_add(Duration::from_micros(self.0))
        }
    }
}

/// A moment that several threads set.
pub(super) struct AtomicMoment(AtomicU64);

impl AtomicMoment {
    pub(super) fn new(moment: Moment) -> Self {
        Self(AtomicU64::new(moment.0))
    }

    pub(super) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, moment: Moment) {
        // Mostly it is set to what it is: a load spares the other threads' caches.
        if self.0.load(Ordering::Relaxed) != moment.0 {
            self.0.store(moment.0, Ordering::Relaxed);
        }
    }

    pub(super) fn set_if_never(&self, moment: Moment) {
        if self.0.load(Ordering::Relaxed) == Moment::NEVER.0 {
            // Whoever was first stays.
            self.0
                .compare_exchange(Moment::NEVER.0, moment.0, Ordering::Relaxed, Ordering::Relaxed)
                .ok();
        }
    }
}

/// What a request wants of the timer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alarm {
    /// The waiter is told once that its share of the time is over, and stays registered.
    pub(crate) share: Instant,
    /// The request is taken out and fails.
    pub(crate) until: Instant,
}

/// Why a request could not be registered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The connection has ended.
    Ended,
    /// Every slot is taken.
    Full,
}

/// What the timer has to tell a waiter.
pub(super) enum Due {
    /// Its share is over; it is still registered.
    Share(Arc<dyn Waiter>, u32),
    /// Its time is over; it has been taken out.
    Over(Entry),
}

enum Slot {
    Free,
    Taken(Entry),
    Ended,
}

pub(crate) struct InFlight {
    epoch: Instant,
    slots: Box<[Mutex<Slot>]>,
    mask: usize,
    next: AtomicU32,
    waiting: AtomicUsize,
    earliest: AtomicU64,
}

impl InFlight {
    /// A table for at most `capacity` requests at once, rounded up to a power of two.
    pub(crate) fn new(epoch: Instant, capacity: usize) -> Self {
        let size = capacity.max(2).next_power_of_two();
        Self {
            epoch,
            slots: (0..size).map(|_| Mutex::new(Slot::Free)).collect(),
            mask: size - 1,
            next: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            earliest: AtomicU64::new(u64::MAX),
        }
    }

    /// Requests that wait for their reply.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Registers a request and gives it its opaque.
    pub(crate) fn register(
        &self,
        waiter: &Arc<dyn Waiter>,
        ticket: u32,
        alarm: Option<Alarm>,
        now: Instant,
    ) -> Result<i32, Refusal> {
        let moment = |at| Moment::new(self.epoch, at);
        let (share, until) = alarm.map_or((Moment::NEVER, Moment::NEVER), |alarm| {
            let until = moment(alarm.until);
            let share = if alarm.share == alarm.until {
                until
            } else {
                moment(alarm.share)
            };
            (share, until)
        });
        for _ in 0..self.slots.len() {
            let number = self.next.fetch_add(1, Ordering::Relaxed) % OPAQUES;
            let opaque = FIRST_OPAQUE.saturating_add_unsigned(number);
            let Some(slot) = self.slot(opaque) else { break };
            let mut slot = slot.lock();
            match &*slot {
                Slot::Ended => return Err(Refusal::Ended),
                Slot::Taken(_) => {}
                Slot::Free => {
                    // Counted before anybody can take it out, so that the count never goes below zero.
                    self.waiting.fetch_add(1, Ordering::Relaxed);
                    *slot = Slot::Taken(Entry {
                        opaque,
                        waiter: Arc::clone(waiter),
                        ticket,
                        registered: moment(now),
                        alarm: share.min(until),
                        until,
                    });
                    drop(slot);
                    self.note_alarm(share.min(until));
                    return Ok(opaque);
                }
            }
        }
        Err(Refusal::Full)
    }

    /// Takes a request out, if it is still there.
    pub(crate) fn take(&self, opaque: i32) -> Option<Entry> {
        let mut slot = self.slot(opaque)?.lock();
        match &*slot {
            Slot::Taken(entry) if entry.opaque == opaque => {}
            _ => return None,
        }
        let taken = std::mem::replace(&mut *slot, Slot::Free);
        drop(slot);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        match taken {
            Slot::Taken(entry) => Some(entry),
            Slot::Free | Slot::Ended => None,
        }
    }

    /// Takes everything out and refuses what comes later.
    pub(super) fn end(&self) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(self.waiting());
        for slot in &self.slots {
            let taken = std::mem::replace(&mut *slot.lock(), Slot::Ended);
            if let Slot::Taken(entry) = taken {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                entries.push(entry);
            }
        }
        entries
    }

    /// When the table has to be looked at again, at the latest.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        Moment(self.earliest.load(Ordering::SeqCst)).to_instant(self.epoch)
    }

    /// Collects what is due at `now`. Cheap as long as no alarm can be due.
    pub(super) fn due(&self, now: Instant) -> Vec<Due> {
        let now = Moment::new(self.epoch, now);
        if self.earliest.load(Ordering::SeqCst) > now.0 {
            return Vec::new();
        }
        // From here on the bound is built anew. A request that registers behind the walk lowers it itself.
        self.earliest.store(u64::MAX, Ordering::SeqCst);
        let mut due = Vec::new();
        for slot in &self.slots {
            let mut slot = slot.lock();
            let Slot::Taken(entry) = &mut *slot else { continue };
            if entry.until <= now {
                if let Slot::Taken(entry) = std::mem::replace(&mut *slot, Slot::Free) {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    due.push(Due::Over(entry));
                }
                continue;
            }
            if entry.alarm <= now {
                entry.alarm = entry.until;
                due.push(Due::Share(Arc::clone(&entry.waiter), entry.ticket));
            }
            self.note_alarm(entry.alarm);
        }
        due
    }

    fn note_alarm(&self, alarm: Moment) {
        if alarm.0 < self.earliest.load(Ordering::SeqCst) {
            self.earliest.fetch_min(alarm.0, Ordering::SeqCst);
        }
    }

    fn slot(&self, opaque: i32) -> Option<&Mutex<Slot>> {
        // The low bits of the two's complement, whatever the sign: servers echo negative opaques too.
        let bits = u32::from_ne_bytes(opaque.to_ne_bytes());
        let index = usize::try_from(bits).unwrap_or(usize::MAX) & self.mask;
        self.slots.get(index)
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
