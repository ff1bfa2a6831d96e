//! Who waits for a reply, and what it is told.

use std::{sync::Arc, thread::Thread};

use super::{meter::Judge, workers::Task};
use crate::{error::Error, wire::header::Header};

/// What a waiter is told about its request.
pub(crate) enum Outcome<'a> {
    /// The peer answered. Header and body are borrowed from the receive buffer: what is needed later is decoded now.
    Reply {
        /// The address of the peer.
        address: &'a Arc<str>,
        /// The decoded header of the answer.
        header: &'a Header<'a>,
        /// The body of the answer.
        body: &'a [u8],
    },
    /// The waiter's share of the time is over. The request stays registered: an answer may still come.
    Overdue,
    /// There will be no answer.
    Failed(Error),
}

/// Whoever waits for the reply to a request: a blocked thread behind its channel, an asynchronous send, a route query.
///
/// `complete` is called on the thread that saw the event: the reader, the timer, or whoever noticed the end of the
/// connection. It must not block, must not run the user's code, and must not assume that no lock of the caller of
/// `Connection::request` is held elsewhere.
pub(crate) trait Waiter: Send + Sync {
    /// Called exactly once per request with a reply or a failure, and before that at most once with
    /// [`Outcome::Overdue`]. `ticket` is what the request was registered with. Whoever has to be woken goes into `wake_ups`.
    fn complete(self: Arc<Self>, ticket: u32, outcome: Outcome<'_>, wake_ups: &mut WakeUps);

    /// How answers are counted, if the requests of this waiter are attempts.
    fn judge(&self) -> Option<Judge> {
        None
    }
}

/// Those whom a thread has to wake when it has handled everything that came in one go. Waking them one by one would
/// make it change places with each of them. Dropping it wakes them.
#[derive(Default)]
pub(crate) struct WakeUps {
    threads: Vec<Thread>,
    tasks: Vec<Arc<dyn Task>>,
}

impl WakeUps {
    /// A blocked thread for which something has come.
    pub(crate) fn thread(&mut self, thread: &Thread) {
        self.threads.push(thread.clone());
    }

    /// Something for a worker to run. All tasks are of the same pool.
    pub(crate) fn task(&mut self, task: Arc<dyn Task>) {
        self.tasks.push(task);
    }

    /// Wakes them now.
    pub(crate) fn wake(&mut self) {
        for thread in self.threads.drain(..) {
            thread.unpark();
        }
        if let Some(task) = self.tasks.first() {
            let task = Arc::clone(task);
            task.pool().submit_all(&mut self.tasks);
        }
    }
}

impl Drop for WakeUps {
    fn drop(&mut self) {
        self.wake();
    }
}
