//! Where a blocked sender waits: a *desk*, a channel that the reader threads put verdicts on.
//!
//! 1. Each thread keeps its desk and uses it again, so a send allocates none, and threads share none.
//! 2. Tickets grow from send to send, so a verdict that comes when its send is over is recognised.
//! 3. The thread parks by itself and is unparked by whoever puts something on the desk, at the end of what that has to do. It
//!    does not spin: the answer of a broker takes longer than that, and others need the processor meanwhile.
//! 4. While an earlier attempt is open, even a connection is waited for here: the answer may make it unneeded.

use std::{
    cell::Cell,
    sync::{Arc, Weak},
    thread::{self, Thread},
    time::Instant,
};

use super::attempt::{self, Verdict};
use crate::{
    error::Error,
    net::{
        connection::Connection,
        meter::Judge,
        sync::channel,
        waiter::{Outcome, Waiter, WakeUps},
    },
};

/// Verdicts that can lie on a desk at once: those of the open attempts of one send and, for a moment, of the send before.
const DESK_CAPACITY: usize = 32;

pub(super) struct Arrival {
    /// Of the attempt that it is for.
    pub(super) ticket: u32,
    pub(super) what: What,
}

pub(super) enum What {
    Verdict(Verdict),
    /// The connection that the attempt waits for, or why there is none. A desk must not keep it open.
    Connection(Result<Weak<Connection>, Error>),
}

/// The side of a desk that verdicts come from.
struct Counter {
    arrivals: channel::Sender<Arrival>,
    sender: Thread,
}

impl Waiter for Counter {
    fn complete(self: Arc<Self>, ticket: u32, outcome: Outcome<'_>, wake_ups: &mut WakeUps) {
        let verdict = match outcome {
            Outcome::Reply { address, header, .. } => attempt::read_reply(address, header),
            // The sender keeps its own time.
            Outcome::Overdue => return,
            Outcome::Failed(error) => Err(error),
        };
        // Full is impossible: the capacity covers all open attempts of two sends. Disconnected means that nobody waits.
        let what = What::Verdict(verdict);
        self.arrivals.try_send(Arrival { ticket, what }).ok();
        wake_ups.thread(&self.sender);
    }

    fn judge(&self) -> Option<Judge> {
        Some(attempt::judge)
    }
}

pub(super) struct Desk {
    counter: Arc<dyn Waiter>,
    sender: channel::Sender<Arrival>,
    arrivals: channel::Receiver<Arrival>,
    next_ticket: u32,
}

thread_local! {
    /// The desk of this thread. It is not there while a send uses it: a selector may send, too.
    static DESK: Cell<Option<Desk>> = const { Cell::new(None) };
}

impl Desk {
    /// The desk of this thread.
    pub(super) fn sit_down() -> Self {
        // While a thread ends it has no memory of its own any more, and yet may send.
        DESK.try_with(Cell::take).ok().flatten().unwrap_or_else(Self::new)
    }

    fn new() -> Self {
        let (sender, arrivals) = channel::bounded(DESK_CAPACITY);
        let counter = Counter {
            arrivals: sender.clone(),
            sender: thread::current(),
        };
        Self {
            counter: Arc::new(counter),
            sender,
            arrivals,
            next_ticket: 0,
        }
    }

    /// Leaves the desk for the next send of this thread, after so many attempts.
    pub(super) fn get_up(mut self, used: u32) {
        self.next_ticket = self.next_ticket.wrapping_add(used);
        // A thread that is ending takes the desk along.
        DESK.try_with(|desk| desk.set(Some(self))).ok();
    }

    /// The ticket of the first attempt of this send.
    pub(super) fn next_ticket(&self) -> u32 {
        self.next_ticket
    }

    pub(super) fn counter(&self) -> &Arc<dyn Waiter> {
        &self.counter
    }

    /// Waits until something comes, or until then.
    pub(super) fn receive(&self, until: Instant) -> Option<Arrival> {
        loop {
            if let Ok(arrival) = self.arrivals.try_recv() {
                return Some(arrival);
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            // What was put down before this begins ends it at once.
            thread::park_timeout(until - now);
        }
    }

    /// Puts the connection on the desk that the attempt of this ticket waits for.
    pub(super) fn for_connection(
        &self,
        ticket: u32,
    ) -> impl FnOnce(Result<Arc<Connection>, Error>) + Send + use<> {
        let (arrivals, sender) = (self.sender.clone(), thread::current());
        move |ready| {
            let what = What::Connection(ready.map(|connection| Arc::downgrade(&connection)));
            arrivals.try_send(Arrival { ticket, what }).ok();
            sender.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_uses_its_desk_again_and_gets_another_one_within_a_send() {
        let desk = Desk::sit_down();
        let inner = Desk::sit_down();
        inner.get_up(1);
        desk.get_up(3);
        assert_eq!(Desk::sit_down().next_ticket(), 3);
        assert_eq!(Desk::sit_down().next_ticket(), 0, "it was not put back");
    }

    #[test]
    fn what_comes_from_another_thread_wakes_the_sender() {
        let desk = Desk::sit_down();
        for round in 0..200 {
            let counter = Arc::clone(desk.counter());
            let reader = thread::spawn(move || {
                let mut wake_ups = WakeUps::default();
                counter.complete(round, Outcome::Failed(Error::ShutDown), &mut wake_ups);
            });
            let arrival = desk.receive(Instant::now() + Duration::from_secs(20));
            assert_eq!(arrival.map(|arrival| arrival.ticket), Some(round));
            reader.join().unwrap();
        }
        assert!(desk.receive(Instant::now() + Duration::from_millis(5)).is_none());
    }
}
