//! Room for asynchronous sends, by count and by bytes.
//!
//! 1. A permit is taken before a send is begun, and given back when a worker takes up its closure.
//! 2. A worker never waits for a permit: all workers could wait for permits of sends whose closures need a worker. A send
//!    that is started inside a closure takes over the permit of the send that it completes; further ones try once.
//! 3. Both numbers stand in one word, which is changed in one act, so room is never promised twice.
//! 4. Whoever waits is not woken for each permit: a thread that sends faster than brokers answer would change places with a
//!    worker for each message. It is woken when a quarter of the room is free, when the workers have nothing else to do, and
//!    by itself after a little while.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::net::{
    sync::{AtomicU64, AtomicUsize, Condvar, Mutex, Ordering},
    workers::is_worker,
};

/// Whoever waits for room looks again after so long, then after twice as long each time up to the second.
const LOOKS_AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// Bytes stand in the low bits of the word: one tebibyte.
const BYTES_BITS: u32 = 40;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;

/// Sends stand in the others: sixteen million.
const MOST_SENDS: u64 = (1 << (u64::BITS - BYTES_BITS)) - 1;

/// A number of sends and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held(u64);

impl Held {
    fn new(sends: u64, bytes: u64) -> Self {
        Self(sends << BYTES_BITS | bytes)
    }

    fn sends(self) -> u64 {
        self.0 >> BYTES_BITS
    }

    fn bytes(self) -> u64 {
        self.0 & BYTES_MASK
    }

    fn with(self, bytes: u64) -> Self {
        Self::new(self.sends() + 1, self.bytes() + bytes)
    }

    fn without(self, bytes: u64) -> Self {
        Self::new(self.sends().saturating_sub(1), self.bytes().saturating_sub(bytes))
    }
}

#[derive(Debug)]
pub(super) struct Permits {
    limit: Held,
    held: AtomicU64,
    /// How many wait for room.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    freed: Condvar,
}

/// Room for one send. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    bytes: u64,
}

thread_local! {
    /// The permit of the send whose closure this worker is running.
    static CARRIED: RefCell<Option<Permit>> = const { RefCell::new(None) };
}

impl Permits {
    pub(super) fn new(sends: usize, bytes: usize) -> Arc<Self> {
        let sends = u64::try_from(sends).unwrap_or(MOST_SENDS).min(MOST_SENDS);
        Arc::new(Self {
            limit: Held::new(sends, countable(bytes)),
            held: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    /// Takes room for a send of so many bytes, waiting for it until then unless the caller is a worker. A send that is
    /// larger than the whole limit is let in alone.
    pub(super) fn acquire(self: &Arc<Self>, bytes: usize, until: Instant) -> Option<Permit> {
        let bytes = countable(bytes);
        if let Some(mut carried) = take_carried(self) {
            if self.resize(&mut carried, bytes) {
                return Some(carried);
            }
        }
        let has_room = self.take(bytes) || !is_worker() && self.wait(bytes, until);
        has_room.then(|| Permit {
            permits: Arc::clone(self),
            bytes,
        })
    }

    fn take(&self, bytes: u64) -> bool {
        self.change(|held| self.fits(held, bytes).then(|| held.with(bytes)))
    }

    fn change(&self, change: impl Fn(Held) -> Option<Held>) -> bool {
        let change = |held| change(Held(held)).map(|held| held.0);
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change)
            .is_ok()
    }

    #[cold]
    fn wait(&self, bytes: u64, until: Instant) -> bool {
        let (mut pause, longest) = LOOKS_AGAIN_AFTER;
        let mut guard = self.lock.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let has_room = loop {
            // Looked at after announcing it: whoever makes room from here on sees that somebody waits.
            if self.take(bytes) {
                break true;
            }
            let now = Instant::now();
            if now >= until {
                break false;
            }
            self.freed.wait_until(&mut guard, until.min(now + pause));
            pause = (2 * pause).min(longest);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        has_room
    }

    /// How many sends hold room now, and how many bytes.
    pub(super) fn in_use(&self) -> (usize, usize) {
        let held = Held(self.held.load(Ordering::Relaxed));
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        (count(held.sends()), count(held.bytes()))
    }

    /// Makes a permit one for so many bytes, if they fit. In one act: if it were given back first, a thread that waits
    /// could take the room.
    fn resize(&self, permit: &mut Permit, bytes: u64) -> bool {
        let fits = self.change(|held| {
            let others = held.without(permit.bytes);
            self.fits(others, bytes).then(|| others.with(bytes))
        });
        if fits && bytes < permit.bytes {
            self.wake_if_worth_it();
        }
        if fits {
            permit.bytes = bytes;
        }
        fits
    }

    fn fits(&self, held: Held, bytes: u64) -> bool {
        held.sends() == 0 || held.sends() < self.limit.sends() && held.bytes() + bytes <= self.limit.bytes()
    }

    /// Wakes those who wait if there is a good deal of room.
    fn wake_if_worth_it(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let held = Held(self.held.load(Ordering::SeqCst));
        let most = |limit: u64| limit - limit / 4;
        if held.sends() <= most(self.limit.sends() - 1) && held.bytes() <= most(self.limit.bytes()) {
            self.wake();
        }
    }

    /// Wakes those who wait: nothing more will be given back for now.
    pub(super) fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Whoever has announced himself and found no room is waiting by the time that the lock is free.
            drop(self.lock.lock());
            self.freed.notify_all();
        }
    }
}

/// What is more than can be counted counts as that.
fn countable(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(BYTES_MASK).min(BYTES_MASK / 2)
}

impl Permit {
    /// Runs a closure with this permit at hand for the sends that it starts.
    pub(super) fn carry<R>(self, run: impl FnOnce() -> R) -> R {
        /// Gives the permit back even if the closure panics.
        struct GiveBack;
        impl Drop for GiveBack {
            fn drop(&mut self) {
                drop(CARRIED.with(RefCell::take));
            }
        }
        CARRIED.with(|carried| carried.replace(Some(self)));
        let _give_back = GiveBack;
        run()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.change(|held| Some(held.without(self.bytes)));
        self.permits.wake_if_worth_it();
    }
}

fn take_carried(permits: &Arc<Permits>) -> Option<Permit> {
    CARRIED.with(|carried| {
        carried
            .borrow_mut()
            .take_if(|permit| Arc::ptr_eq(&permit.permits, permits))
    })
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::net::sync::{AtomicBool, Ordering};

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn count_and_bytes_are_bounded() {
        let permits = Permits::new(2, 100);
        let first = permits.acquire(60, soon()).unwrap();
        assert!(permits.acquire(60, soon()).is_none(), "bytes");
        let second = permits.acquire(40, soon()).unwrap();
        assert!(permits.acquire(0, soon()).is_none(), "count");
        drop((first, second));
        assert_eq!(permits.in_use(), (0, 0));
    }

    #[test]
    fn what_is_larger_than_the_limit_is_let_in_alone() {
        let permits = Permits::new(2, 100);
        let large = permits.acquire(1000, soon()).unwrap();
        assert!(permits.acquire(1, soon()).is_none());
        drop(large);
        assert!(permits.acquire(1, soon()).is_some());
    }

    #[test]
    fn whoever_waits_is_woken() {
        let permits = Permits::new(1, 100);
        let first = permits.acquire(1, soon()).unwrap();
        let waiting = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || {
                permits
                    .acquire(1, Instant::now() + Duration::from_secs(20))
                    .is_some()
            })
        };
        drop(first);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn a_carried_permit_goes_to_the_next_send_or_back() {
        let permits = Permits::new(1, 100);
        let permit = permits.acquire(1, soon()).unwrap();
        let next = permit.carry(|| permits.acquire(2, soon()).expect("the carried one makes room"));
        drop(next);
        permits.acquire(1, soon()).unwrap().carry(|| {});
        assert_eq!(permits.in_use(), (0, 0));
    }

    /// Threads that wait for room cannot take the place of the send that follows in a closure.
    #[test]
    fn a_carried_permit_is_never_lost_to_a_waiting_thread() {
        let permits = Permits::new(1, 100);
        let later = || Instant::now() + Duration::from_secs(20);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        drop(permits.acquire(1, later()).unwrap());
                    }
                });
            }
            for _ in 0..2000 {
                let permit = permits.acquire(1, later()).unwrap();
                permit.carry(|| {
                    let next = permits.acquire(2, Instant::now());
                    drop(next.expect("the carried one makes room"));
                });
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(permits.in_use(), (0, 0));
    }
}
