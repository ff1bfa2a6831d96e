//! Who is inside: counts the sends that are under way, refuses new ones once closed, and waits until all have left.
//!
//! Sends belong to the *generation* that was current when they came. A flush begins a new one and waits for those before, so
//! it does not wait for sends that come later.

use std::{cell::Cell, sync::Arc, time::Instant};

use crate::{
    error::Error,
    net::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering},
};

#[derive(Debug, Default)]
struct Generation {
    inside: AtomicUsize,
}

#[derive(Debug, Default)]
struct Generations {
    current: Arc<Generation>,
    /// Earlier ones that somebody may be in.
    earlier: Vec<Arc<Generation>>,
}

#[derive(Debug, Default)]
pub(super) struct Gate {
    generations: Mutex<Generations>,
    closed: AtomicBool,
    /// How many wait for somebody to leave.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

/// A send that is under way. Dropping it lets it leave.
#[derive(Debug)]
pub(super) struct Inside {
    gate: Arc<Gate>,
    generation: Arc<Generation>,
}

thread_local! {
    /// The gate of the producer whose closure this thread is running, as an address: never followed, only compared.
    static RUNNING_FOR: Cell<usize> = const { Cell::new(0) };
}

impl Gate {
    /// Lets a send in.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Inside, Error> {
        let generation = {
            let generations = self.generations.lock();
            // Counted under the lock and before `closed` is looked at, so that whoever begins a generation or closes the
            // gate sees it.
            generations.current.inside.fetch_add(1, Ordering::SeqCst);
            Arc::clone(&generations.current)
        };
        let inside = Inside {
            gate: Arc::clone(self),
            generation,
        };
        if self.closed.load(Ordering::SeqCst) {
            drop(inside);
            return Err(Error::ShutDown);
        }
        Ok(inside)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether the caller is in a closure of this producer.
    pub(super) fn is_running_closure(self: &Arc<Self>) -> bool {
        RUNNING_FOR.with(Cell::get) == self.address()
    }

    /// How many sends are under way, apart from the one whose closure the caller runs: nobody waits for himself.
    pub(super) fn others_inside(self: &Arc<Self>) -> usize {
        let generations = self.generations.lock();
        let all = generations.earlier.iter().chain([&generations.current]);
        self.without_own(
            all.map(|generation| generation.inside.load(Ordering::SeqCst))
                .sum(),
        )
    }

    /// Blocks until all others have left or `until` is over. Those who come meanwhile count too, so only after
    /// [`Self::close`].
    pub(super) fn wait_until_empty(self: &Arc<Self>, until: Instant) {
        self.wait(until, || self.others_inside());
    }

    /// Blocks until all who are inside now have left, apart from the one whose closure the caller runs. Gives back how many
    /// have not when `until` is over.
    pub(super) fn wait_for_those_inside(self: &Arc<Self>, until: Instant) -> usize {
        let mut generations = self.generations.lock();
        let old = std::mem::take(&mut generations.current);
        generations.earlier.push(old);
        let before = generations.earlier.clone();
        drop(generations);
        let left_inside = || {
            let inside = before
                .iter()
                .map(|generation| generation.inside.load(Ordering::SeqCst));
            self.without_own(inside.sum())
        };
        let left_inside = self.wait(until, left_inside);
        self.generations
            .lock()
            .earlier
            .retain(|generation| generation.inside.load(Ordering::SeqCst) > 0);
        left_inside
    }

    /// Runs the closure of a send of this producer.
    pub(super) fn run_closure(self: &Arc<Self>, run: impl FnOnce()) {
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

    fn without_own(self: &Arc<Self>, inside: usize) -> usize {
        inside.saturating_sub(usize::from(self.is_running_closure()))
    }

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.generation.inside.fetch_sub(1, Ordering::SeqCst);
        if self.gate.waiting.load(Ordering::SeqCst) > 0 {
            // The lock makes sure that whoever found somebody inside is waiting by now.
            drop(self.gate.lock.lock());
            self.gate.left.notify_all();
        }
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
        let inside = gate.enter().unwrap();
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
        let before = gate.enter().unwrap();
        assert_eq!(gate.wait_for_those_inside(soon()), 1);
        let after = gate.enter().unwrap();
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
        let latest = gate.enter().unwrap();
        drop(after);
        assert_eq!(flushing.join().unwrap(), 0);
        assert_eq!(gate.others_inside(), 1);
        drop(latest);
        assert_eq!(gate.wait_for_those_inside(soon()), 0);
        assert!(gate.generations.lock().earlier.is_empty());
    }
}
