//! Room for messages that are gathered, in bytes. Taking and giving back is one atomic act each while there is enough.

use std::time::Instant;

use crate::net::{
    sync::{AtomicUsize, Condvar, Mutex, Ordering},
    workers::is_worker,
};

/// Room for what is gathered or on its way, in bytes.
pub(super) struct Room {
    limit: usize,
    held: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    lock: Mutex<()>,
    freed: Condvar,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn try_acquire(&self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.limit);
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits)
            .is_ok()
    }

    /// Waits until then, but not on a worker: only other closures could make room.
    pub(super) fn acquire(&self, bytes: usize, until: Instant) -> bool {
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

    pub(super) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // The lock makes sure that whoever found no room is waiting by now.
            drop(self.lock.lock());
            self.freed.notify_all();
        }
    }
}
