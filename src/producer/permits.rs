//! Room for asynchronous sends, by count and by bytes.
//!
//! 1. A permit is taken before a send is begun, and given back when a worker takes up its closure.
//! 2. A worker never waits for a permit: all workers could wait for permits of sends whose closures need a worker. A send
//!    that is started inside a closure takes over the permit of the send that it completes; further ones try once.

use std::{cell::RefCell, sync::Arc, time::Instant};

use crate::net::{
    sync::{Condvar, Mutex},
    workers::is_worker,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    sends: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Permits {
    limit: Held,
    held: Mutex<Held>,
    freed: Condvar,
}

/// Room for one send. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    bytes: usize,
}

thread_local! {
    /// The permit of the send whose closure this worker is running.
    static CARRIED: RefCell<Option<Permit>> = const { RefCell::new(None) };
}

impl Permits {
    pub(super) fn new(sends: usize, bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: Held { sends, bytes },
            held: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    /// Takes room for a send of so many bytes, waiting for it until then unless the caller is a worker. A send that is
    /// larger than the whole limit is let in alone.
    pub(super) fn acquire(self: &Arc<Self>, bytes: usize, until: Instant) -> Option<Permit> {
        if let Some(mut carried) = take_carried(self) {
            if self.resize(&mut carried, bytes) {
                return Some(carried);
            }
        }
        let mut held = self.held.lock();
        while !self.fits(*held, bytes) {
            if is_worker() || self.freed.wait_until(&mut held, until).timed_out() && !self.fits(*held, bytes)
            {
                return None;
            }
        }
        held.sends += 1;
        held.bytes += bytes;
        drop(held);
        Some(Permit {
            permits: Arc::clone(self),
            bytes,
        })
    }

    /// How many sends hold room now, and how many bytes.
    pub(super) fn in_use(&self) -> (usize, usize) {
        let held = *self.held.lock();
        (held.sends, held.bytes)
    }

    /// Makes a permit one for so many bytes, if they fit. In one act: if it were given back first, a thread that waits
    /// could take the room.
    fn resize(&self, permit: &mut Permit, bytes: usize) -> bool {
        let mut held = self.held.lock();
        let others = Held {
            sends: held.sends.saturating_sub(1),
            bytes: held.bytes.saturating_sub(permit.bytes),
        };
        if !self.fits(others, bytes) {
            return false;
        }
        held.bytes = others.bytes.saturating_add(bytes);
        drop(held);
        let shrinks = bytes < permit.bytes;
        permit.bytes = bytes;
        if shrinks {
            self.freed.notify_all();
        }
        true
    }

    fn fits(&self, held: Held, bytes: usize) -> bool {
        held.sends == 0
            || held.sends < self.limit.sends && held.bytes.saturating_add(bytes) <= self.limit.bytes
    }
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
        let mut held = self.permits.held.lock();
        held.sends = held.sends.saturating_sub(1);
        held.bytes = held.bytes.saturating_sub(self.bytes);
        drop(held);
        // Several may fit into what one large send leaves.
        self.permits.freed.notify_all();
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
        assert_eq!(*permits.held.lock(), Held::default());
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
        assert_eq!(*permits.held.lock(), Held::default());
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
        assert_eq!(*permits.held.lock(), Held::default());
    }
}
