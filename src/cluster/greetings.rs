//! Which brokers have answered a heartbeat on the connection that is in use, and who waits for that: before, a broker knows
//! no connection to push a reply on.
//!
//! Rule: nobody is called while the lock is held.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::{
    error::Error,
    net::{connection::Connection, sync::Mutex},
};

/// Called when the broker knows the connection, or with why it does not. It must not block.
pub(crate) type OnGreeted = Box<dyn FnOnce(Result<(), Error>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    UnderWay,
    Answered,
    Failed,
}

struct Greeting {
    connection: Weak<Connection>,
    progress: Progress,
    waiting: Vec<OnGreeted>,
}

impl Greeting {
    fn is_of(&self, connection: &Arc<Connection>) -> bool {
        std::ptr::eq(self.connection.as_ptr(), Arc::as_ptr(connection))
    }
}

/// By address.
#[derive(Default)]
pub(super) struct Greetings {
    greetings: Mutex<HashMap<Arc<str>, Greeting>>,
}

impl Greetings {
    /// A greeting begins on this connection: until it is answered the broker may push nothing there.
    pub(super) fn begun(&self, connection: &Arc<Connection>) {
        let mut greetings = self.greetings.lock();
        let greeting = greetings
            .entry(Arc::clone(connection.address()))
            .or_insert_with(|| Greeting {
                connection: Weak::new(),
                progress: Progress::UnderWay,
                waiting: Vec::new(),
            });
        greeting.connection = Arc::downgrade(connection);
        greeting.progress = Progress::UnderWay;
    }

    /// The heartbeat of a greeting is answered, or has failed.
    pub(super) fn ended(&self, connection: &Arc<Connection>, answer: &Result<(), Error>) {
        let mut greetings = self.greetings.lock();
        let greeting = greetings.get_mut(connection.address());
        let Some(greeting) = greeting.filter(|greeting| greeting.is_of(connection)) else {
            return;
        };
        greeting.progress = if answer.is_ok() {
            Progress::Answered
        } else {
            Progress::Failed
        };
        let waiting = std::mem::take(&mut greeting.waiting);
        drop(greetings);
        for then in waiting {
            then(answer.clone());
        }
    }

    /// Whether the broker knows this connection.
    pub(super) fn is_answered(&self, connection: &Arc<Connection>) -> bool {
        let greetings = self.greetings.lock();
        greetings
            .get(connection.address())
            .is_some_and(|greeting| greeting.is_of(connection) && greeting.progress == Progress::Answered)
    }

    /// Calls `then` when the greeting on this connection has ended. True: none is under way, so one must be begun.
    #[must_use = "nobody is told if no greeting is begun"]
    pub(super) fn wait(&self, connection: &Arc<Connection>, then: OnGreeted) -> bool {
        let mut greetings = self.greetings.lock();
        let greeting = greetings
            .entry(Arc::clone(connection.address()))
            .or_insert_with(|| Greeting {
                connection: Weak::new(),
                progress: Progress::Failed,
                waiting: Vec::new(),
            });
        if greeting.is_of(connection) && greeting.progress == Progress::Answered {
            drop(greetings);
            then(Ok(()));
            return false;
        }
        greeting.waiting.push(then);
        !greeting.is_of(connection) || greeting.progress == Progress::Failed
    }

    pub(super) fn forget(&self, address: &str) {
        let forgotten = self.greetings.lock().remove(address);
        let waiting = forgotten.into_iter().flat_map(|greeting| greeting.waiting);
        waiting.for_each(|then| then(Err(Error::ShutDown)));
    }
}
