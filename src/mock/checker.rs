//! Asks producers about half messages: the thread that does it by the clock, and the test that wants it done now.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crate::code::RequestCode;
use crate::wire::command::Command;
use crate::wire::frame::Serialization;
use crate::wire::header::{FLAG_ONEWAY, Language};

use super::MockCluster;
use super::line::{Line, Outgoing, Work};
use super::scripted;
use super::server::Server;
use super::shared::Shared;
use super::transactions::Question;

/// The thread that asks by the clock. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Checker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// `brokers` are in the order of their index.
    pub(super) fn start(shared: &Arc<Shared>, brokers: Vec<Arc<Server>>) -> io::Result<Checker> {
        let asked = Arc::clone(shared);
        let thread = Builder::new().name("mock checks".to_owned()).spawn(move || {
            while let Some(due) = asked.transactions.wait_for_due() {
                ask(&asked, &brokers, Some(due));
            }
        })?;
        Ok(Checker {
            shared: Arc::clone(shared),
            thread: Some(thread),
        })
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.transactions.stop();
        if let Some(thread) = self.thread.take() {
            // A panic has told of itself already.
            drop(thread.join());
        }
    }
}

impl MockCluster {
    /// Asks producers now about every half message that is open, whatever its age, and says how many questions were sent. A
    /// question finds nobody if no producer of the group has sent a heartbeat to the broker. Half messages that have been
    /// asked about often enough are given up instead.
    ///
    /// ```
    /// use rocketmq_producer::mock::MockCluster;
    ///
    /// let cluster = MockCluster::start(1)?;
    /// assert_eq!(cluster.check_transactions(), 0, "there is no half message");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn check_transactions(&self) -> usize {
        let brokers: Vec<_> = self
            .brokers
            .iter()
            .map(|running| Arc::clone(&running.server))
            .collect();
        ask(&self.shared, &brokers, None)
    }

    /// How many half messages were neither committed nor rolled back nor given up.
    pub fn open_transactions(&self) -> usize {
        self.shared.transactions.open()
    }
}

/// Asks about all half messages that are due, and says how many questions found somebody.
fn ask(shared: &Shared, brokers: &[Arc<Server>], due: Option<Instant>) -> usize {
    let is_up = |broker: usize| brokers.get(broker).is_some_and(|server| server.is_up());
    let questions = shared.transactions.round(shared, due, is_up);
    let found = questions
        .into_iter()
        .filter(|question| send(shared, brokers, question))
        .count();
    shared.events.happened();
    found
}

/// Sends a question to a producer of the group, in turn (`ProducerManager.getAvailableChannel`).
fn send(shared: &Shared, brokers: &[Arc<Server>], question: &Question) -> bool {
    let Some(server) = brokers.get(question.broker) else {
        return false;
    };
    let lines = server.lines();
    let connections = shared
        .clients
        .producers(question.broker, &question.producer_group);
    let of_group: Vec<&Arc<Line>> = connections
        .iter()
        .filter_map(|id| lines.iter().find(|line| line.id == *id))
        .collect();
    let count = u64::try_from(of_group.len()).unwrap_or(u64::MAX);
    let turn = question.turn.checked_rem(count).map(usize::try_from);
    let Some(Ok(Some(line))) = turn.map(|turn| turn.map(|turn| of_group.get(turn))) else {
        return false;
    };
    let command = Command {
        code: RequestCode::CHECK_TRANSACTION_STATE.value(),
        language: Language::JAVA,
        version: shared.version.ordinal(),
        opaque: server.pushes.next_oneway(),
        flag: FLAG_ONEWAY,
        remark: None,
        fields: question.fields.clone(),
        serialization: Serialization::Json,
        body: question.body.clone(),
    };
    let mut bytes = Vec::new();
    if command.encode(&mut bytes).is_err() {
        // Larger than a frame can be: nobody gets it.
        return false;
    }
    let outgoing = Outgoing {
        bytes,
        ..Outgoing::default()
    };
    scripted::queue(server, line, Instant::now(), Work::Write(outgoing));
    true
}
