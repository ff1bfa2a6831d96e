//! Who is inside: counts the sends that are under way, refuses new ones once closed, and waits until all have left.

use std::{cell::Cell, sync::Arc, time::Instant};

use crate::{
    error::Error,
    net::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering},
};

#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: AtomicUsize,
    closed: AtomicBool,
    lock: Mutex<()>,
    left: Condvar,
}

/// A send that is under way. Dropping it lets it leave.
#[derive(Debug)]
pub(super) struct Inside(Arc<Gate>);

thread_local! {
    /// The gate of the producer whose closure this thread is running, as an address: never followed, only compared.
    static RUNNING_FOR: Cell<usize> = const { Cell::new(0) };
}

impl Gate {
    /// Lets a send in.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Inside, Error> {
        // Counted first, so that whoever closes the gate sees it.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(self));
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
        let own = usize::from(self.is_running_closure());
        self.inside.load(Ordering::SeqCst).saturating_sub(own)
    }

    /// Blocks until all others have left or `until` is over. Only after [`Self::close`].
    pub(super) fn wait_until_empty(self: &Arc<Self>, until: Instant) {
        let mut guard = self.lock.lock();
        while self.others_inside() > 0 {
            if self.left.wait_until(&mut guard, until).timed_out() {
                return;
            }
        }
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

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        if self.0.closed.load(Ordering::SeqCst) {
            // The lock makes sure that whoever found somebody inside is waiting by now.
            drop(self.0.lock.lock());
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_waits_for_those_inside() {
        let gate = Arc::new(Gate::default());
        let inside = gate.enter().unwrap();
        gate.close();
        assert!(matches!(gate.enter(), Err(Error::ShutDown)));
        gate.wait_until_empty(Instant::now() + Duration::from_millis(10));
        assert_eq!(gate.others_inside(), 1);
        let leaving = thread::spawn(move || drop(inside));
        gate.wait_until_empty(Instant::now() + Duration::from_secs(20));
        assert_eq!(gate.others_inside(), 0);
        leaving.join().unwrap();
    }

    #[test]
    fn nobody_waits_for_himself() {
        let gate = Arc::new(Gate::default());
        let _inside = gate.enter().unwrap();
        gate.run_closure(|| assert_eq!(gate.others_inside(), 0));
        assert_eq!(gate.others_inside(), 1);
    }
}
