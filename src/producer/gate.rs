//! Who is inside: counts the sends that are under way, refuses new ones once closed, and waits until all have left.
//!
//! Sends belong to the *generation* that was current when they came. A flush begins a new one and waits for those before, so
//! it does not wait for sends that come later. Generations have a number, and the counts of the last few stand in a ring.

use std::{cell::Cell, ops::Deref, sync::Arc, time::Instant};

use crate::{
    error::Error,
    net::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering},
};

/// Generations that somebody may be in at once. When a flush finds no free one it begins none, and waits for those who come
/// meanwhile too: only so many flushes that overlap can do that.
const GENERATIONS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Gate {
    /// How many are inside, by generation.
    inside: [AtomicUsize; GENERATIONS],
    current: AtomicUsize,
    closed: AtomicBool,
    /// How many wait for somebody to leave.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

/// A send that is under way. Dropping it lets it leave.
#[derive(Debug)]
pub(super) struct Inside<G: Deref<Target = Gate>> {
    gate: G,
    generation: usize,
}

thread_local! {
    /// The gate of the producer whose closure this thread is running, as an address: never followed, only compared.
    static RUNNING_FOR: Cell<usize> = const { Cell::new(0) };
}

impl Gate {
    /// Lets the caller's thread in.
    pub(super) fn enter(&self) -> Result<Inside<&Self>, Error> {
        let generation = self.count_in()?;
        Ok(Inside {
            gate: self,
            generation,
        })
    }

    /// Lets a send in that is nobody's thread.
    pub(super) fn enter_detached(self: &Arc<Self>) -> Result<Inside<Arc<Self>>, Error> {
        let generation = self.count_in()?;
        Ok(Inside {
            gate: Arc::clone(self),
            generation,
        })
    }

    fn count_in(&self) -> Result<usize, Error> {
        loop {
            let generation = self.current.load(Ordering::SeqCst);
            self.count_of(generation).fetch_add(1, Ordering::SeqCst);
            // Looked at after counting: whoever closes the gate or begins a generation sees the count, or is seen here.
            let is_closed = self.closed.load(Ordering::SeqCst);
            if !is_closed && self.current.load(Ordering::SeqCst) == generation {
                return Ok(generation);
            }
            self.count_out(generation);
            if is_closed {
                return Err(Error::ShutDown);
            }
        }
    }

    fn count_out(&self, generation: usize) {
        self.count_of(generation).fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // The lock makes sure that whoever found somebody inside is waiting by now.
            drop(self.lock.lock());
            self.left.notify_all();
        }
    }

    fn count_of(&self, generation: usize) -> &AtomicUsize {
        let [first, ..] = &self.inside;
        self.inside.get(generation % GENERATIONS).unwrap_or(first)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether the caller is in a closure of this producer.
    pub(super) fn is_running_closure(&self) -> bool {
        RUNNING_FOR.with(Cell::get) == self.address()
    }

    /// How many sends are under way, apart from the one whose closure the caller runs: nobody waits for himself.
    pub(super) fn others_inside(&self) -> usize {
        self.without_own(self.inside.iter().map(|count| count.load(Ordering::SeqCst)).sum())
    }

    /// Blocks until all others have left or `until` is over. Those who come meanwhile count too, so only after
    /// [`Self::close`].
    pub(super) fn wait_until_empty(&self, until: Instant) {
        self.wait(until, || self.others_inside());
    }

    /// Blocks until all who are inside now have left, apart from the one whose closure the caller runs. Gives back how many
    /// have not when `until` is over.
    pub(super) fn wait_for_those_inside(&self, until: Instant) -> usize {
        let guard = self.lock.lock();
        let last = self.current.load(Ordering::SeqCst);
        let next = last.wrapping_add(1);
        let is_free = self.count_of(next).load(Ordering::SeqCst) == 0;
        if is_free {
            self.current.store(next, Ordering::SeqCst);
        }
        drop(guard);
        // From the oldest of the ring to the one that was current: all that were there before.
        let before = |step: usize| self.count_of(last.wrapping_sub(step)).load(Ordering::SeqCst);
        let oldest = if is_free { GENERATIONS - 1 } else { GENERATIONS };
        self.wait(until, || self.without_own((0..oldest).map(before).sum()))
    }

    /// Runs the closure of a send of this producer.
    pub(super) fn run_closure(&self, run: impl FnOnce()) {
        struct Restore(usize);
        impl Drop for Restore {
            fn drop(&mut self) {
                RUNNING_FOR.with(|running| running.set(self.0));
            }
        }
        let _restore = Restore(RUNNING_FOR.with(|running| running.replace(self.address())));
        run();
    }

    fn wait(&self, until: Instant, inside: impl Fn() -> usize) -> usize {
        let mut guard = self.lock.lock();
        // Announced before it is looked, so that whoever leaves after the look wakes us.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut count = inside();
        while count > 0 && !self.left.wait_until(&mut guard, until).timed_out() {
            count = inside();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        inside().min(count)
    }

    fn without_own(&self, inside: usize) -> usize {
        inside.saturating_sub(usize::from(self.is_running_closure()))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<G: Deref<Target = Gate>> Drop for Inside<G> {
    fn drop(&mut self) {
        self.gate.count_out(self.generation);
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_closed_gate_lets_nobody_in_and_waits_for_those_inside() {
        let gate = Arc::new(Gate::default());
        let inside = gate.enter_detached().unwrap();
        gate.close();
        assert!(matches!(gate.enter(), Err(Error::ShutDown)));
        gate.wait_until_empty(soon());
        assert_eq!(gate.others_inside(), 1);
        let leaving = thread::spawn(move || drop(inside));
        gate.wait_until_empty(later());
        assert_eq!(gate.others_inside(), 0);
        leaving.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_himself() {
        let gate = Arc::new(Gate::default());
        let _inside = gate.enter().unwrap();
        gate.run_closure(|| {
            assert_eq!(gate.others_inside(), 0);
            assert_eq!(gate.wait_for_those_inside(later()), 0);
        });
        assert_eq!(gate.others_inside(), 1);
    }

    #[test]
    fn a_flush_waits_for_those_before_it_and_not_for_those_after() {
        let gate = Arc::new(Gate::default());
        let before = gate.enter_detached().unwrap();
        assert_eq!(gate.wait_for_those_inside(soon()), 1);
        let after = gate.enter_detached().unwrap();
        let (began, has_begun) = crate::net::sync::channel::bounded(1);
        let flushing = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                began.send(()).unwrap();
                gate.wait_for_those_inside(later())
            })
        };
        has_begun.recv().unwrap();
        // Whichever generation the flush finds it in, it must not hang once both have left.
        drop(before);
        let latest = gate.enter_detached().unwrap();
        drop(after);
        assert_eq!(flushing.join().unwrap(), 0);
        assert_eq!(gate.others_inside(), 1);
        drop(latest);
        assert_eq!(gate.wait_for_those_inside(soon()), 0);
    }

    #[test]
    fn more_flushes_than_generations_still_wait_for_all_before_them() {
        let gate = Arc::new(Gate::default());
        let long: Vec<_> = (0..2 * GENERATIONS)
            .map(|_| {
                let inside = gate.enter_detached().unwrap();
                assert!(gate.wait_for_those_inside(soon()) > 0);
                inside
            })
            .collect();
        assert_eq!(gate.wait_for_those_inside(soon()), long.len());
        assert_eq!(gate.others_inside(), long.len());
        drop(long);
        assert_eq!(gate.wait_for_those_inside(soon()), 0);
    }

    #[test]
    fn nobody_is_counted_twice_or_lost_while_generations_change() {
        let gate = Arc::new(Gate::default());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..20_000).for_each(|_| drop(gate.enter().unwrap())));
                scope.spawn(|| (0..2000).for_each(|_| assert_eq!(gate.wait_for_those_inside(later()), 0)));
            }
        });
        assert_eq!(gate.others_inside(), 0);
    }
}
