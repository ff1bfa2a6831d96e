//! Waking those who wait for the cluster to change, without polling. Nothing else of the mock may block.
//!
//! Rules:
//! 1. State is changed first, then [`Events::happened`] is called, with no lock of the mock held.
//! 2. `lock` guards nothing but the sleep itself; it is never held while a condition is evaluated.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Counts what happened, and wakes waiters.
#[derive(Debug, Default)]
pub(super) struct Events {
    count: AtomicU64,
    waiters: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Events {
    /// Something that a condition may look at has changed.
    pub(super) fn happened(&self) {
        // Sequentially consistent, as is the pair in `wait_until`: either this thread sees the waiter, or the
        // waiter sees this count.
        self.count.fetch_add(1, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock());
            self.changed.notify_all();
        }
    }

    /// Waits until `condition` holds, evaluating it once now and once after each change. False when `within` is over.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the lock is for the sleep, to its end"
    )]
    pub(super) fn wait_until(&self, within: Duration, mut condition: impl FnMut() -> bool) -> bool {
        // A duration that no clock can count is as good as none.
        let deadline = Instant::now().checked_add(within);
        let _waiting = Waiting::new(&self.waiters);
        loop {
            let seen = self.count.load(Ordering::SeqCst);
            if condition() {
                return true;
            }
            let mut guard = self.lock.lock();
            while self.count.load(Ordering::SeqCst) == seen {
                match deadline {
                    None => self.changed.wait(&mut guard),
                    Some(deadline) if Instant::now() >= deadline => return false,
                    Some(deadline) => {
                        // Whether time is over is asked at the top of the loop.
                        let _timed_out = self.changed.wait_until(&mut guard, deadline);
                    }
                }
            }
        }
    }
}

/// One waiter, counted for as long as this lives: a condition may panic.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiters: &'a AtomicUsize) -> Waiting<'a> {
        waiters.fetch_add(1, Ordering::SeqCst);
        Waiting(waiters)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_needs_no_event() {
        assert!(Events::default().wait_until(Duration::ZERO, || true));
        assert!(!Events::default().wait_until(Duration::ZERO, || false));
    }

    #[test]
    fn each_change_wakes_the_waiter() {
        let events = Events::default();
        let value = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    value.fetch_add(1, Ordering::SeqCst);
                    events.happened();
                }
            });
            for target in 1..=10_000 {
                assert!(events.wait_until(Duration::MAX, || value.load(Ordering::SeqCst) >= target));
            }
        });
        assert!(!events.wait_until(Duration::from_millis(5), || value.load(Ordering::SeqCst) > 10_000));
    }
}
