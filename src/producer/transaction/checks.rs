//! Answers brokers that ask what became of a half message, on threads of their own.
//!
//! 1. The reader thread only copies the question and puts it in the queue. When that is full, the question is dropped: the
//!    broker asks again.
//! 2. Everything else happens on the threads of the checks: decoding, the listener, the answer.
//! 3. A question is answered at most once, and never by two threads at a time: see `decided`.
//! 4. From the shutdown on no question is begun; those under way are waited for.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, Weak},
    time::Instant,
};

use super::{
    decided::{Advice, Decided, HalfCopy, Reached},
    ending::{self, Ended},
    listener::{LocalTransaction, TransactionListener},
};
use crate::{
    config::{CHECK_BYTES, CHECK_QUEUE, END_TRANSACTION_TIMEOUT},
    error::{Error, printable},
    message::{StoredMessage, property},
    net::{
        deadline::Deadline,
        inbound::{Handled, InboundRequest},
        workers::{Task, Workers},
    },
    producer::{
        gate::{Gate, Inside},
        permits::{Permit, Permits},
        queries::is_indexed,
        shared::Shared,
    },
    wire::{
        message::StoredRecord,
        request::{
            check_transaction::CheckTransaction,
            end_transaction::{EndTransaction, Verdict},
        },
        stored_message::stored_message,
    },
};

pub(super) struct Checks {
    listener: Arc<dyn TransactionListener>,
    decided: Arc<Decided>,
    workers: Workers,
    room: Arc<Permits>,
    /// Of the checks alone: a flush of sends does not wait for them.
    gate: Arc<Gate>,
    shared: OnceLock<Weak<Shared>>,
}

/// A question of a broker, as it came.
struct Question {
    checks: Arc<Checks>,
    broker: Arc<str>,
    queue_offset: u64,
    commit_log_offset: u64,
    broker_name: Option<String>,
    transaction_id: Option<String>,
    body: Vec<u8>,
    _room: Permit,
}

impl Checks {
    pub(super) fn new(
        listener: Arc<dyn TransactionListener>,
        decided: Arc<Decided>,
        threads: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            listener,
            decided,
            workers: Workers::named(threads, "rmq-check", Box::new(|| {})),
            room: Permits::new(CHECK_QUEUE, CHECK_BYTES),
            gate: Arc::default(),
            shared: OnceLock::new(),
        })
    }

    /// Called once, before the first connection.
    pub(super) fn serve_for(&self, shared: &Arc<Shared>) {
        drop(self.shared.set(Arc::downgrade(shared)));
    }

    /// Takes a question over. Called on a reader thread.
    pub(super) fn take(self: &Arc<Self>, request: &InboundRequest<'_>) -> Handled {
        let broker = request.connection.address();
        let check = match CheckTransaction::decode(request.header) {
            Ok(check) => check,
            Err(error) => {
                log::warn!("{broker}: a check of a transaction that cannot be read: {error}");
                return Handled::TakenOver;
            }
        };
        let Some(room) = self.room.acquire(request.body.len(), Instant::now()) else {
            log::warn!(
                "{broker}: a check of a transaction is left unanswered, since {CHECK_QUEUE} are waiting; the broker asks \
                 again"
            );
            return Handled::TakenOver;
        };
        self.workers.submit(Arc::new(Question {
            checks: Arc::clone(self),
            broker: Arc::clone(broker),
            queue_offset: check.queue_offset,
            commit_log_offset: check.commit_log_offset,
            broker_name: check.broker_name.map(Cow::into_owned),
            transaction_id: check.transaction_id.map(Cow::into_owned),
            body: request.body.to_vec(),
            _room: room,
        }));
        Handled::TakenOver
    }

    /// Begins no further check, and waits for those under way until then.
    pub(super) fn finish(&self, until: Instant) {
        self.gate.close();
        self.gate.wait_until_empty(until);
    }

    /// Joins the threads, or leaves behind those whose listener has not returned by then.
    pub(super) fn stop(&self, until: Instant) {
        self.workers.stop(until);
    }

    /// Whether the caller is in the listener, asked by a broker.
    pub(super) fn is_running_check(&self) -> bool {
        self.gate.is_running_closure()
    }

    fn ask_listener(&self, message: &StoredMessage) -> LocalTransaction {
        let mut said = LocalTransaction::Unknown;
        let ask = AssertUnwindSafe(|| self.listener.check(message));
        self.gate.run_closure(|| match catch_unwind(ask) {
            Ok(local) => said = local,
            Err(_) => log::error!(
                "the transaction listener panicked when it was asked about {}, which counts as unknown",
                message.message_id()
            ),
        });
        said
    }
}

impl Task for Question {
    fn run(self: Arc<Self>) {
        // Held to the end, for whoever shuts down.
        let Ok(inside) = self.checks.gate.enter() else {
            return;
        };
        if let Some(shared) = self.checks.shared.get().and_then(Weak::upgrade) {
            self.answer(&shared, &inside);
        }
    }

    fn pool(&self) -> &Workers {
        &self.checks.workers
    }
}

impl Question {
    fn answer(&self, shared: &Arc<Shared>, _inside: &Inside<&Gate>) {
        let broker = &self.broker;
        let message = match self.read(shared) {
            Ok(message) => message,
            Err(reason) => {
                return log::warn!("{broker}: a check of a transaction that cannot be read: {reason}");
            }
        };
        let group = message.property(property::PGROUP).unwrap_or_default();
        if group != shared.config.producer_group {
            return log::warn!(
                "{broker}: a check of a transaction of group {:?}, which is not the group {:?} of this producer, is left \
                 unanswered",
                printable(group),
                shared.config.producer_group
            );
        }
        let copy = HalfCopy {
            broker: Arc::clone(broker),
            commit_log_offset: self.commit_log_offset,
        };
        let id = message.message_id();
        let verdict = match self.checks.decided.asked(id, &copy, Instant::now()) {
            Advice::SayNothing(why) => {
                return log::debug!("{broker}: a check of transaction {id} is left unanswered: {why}");
            }
            Advice::Answer(verdict) => verdict,
            advice => {
                let verdict = match advice {
                    Advice::AskListener => self.checks.ask_listener(&message).verdict(),
                    _ => Verdict::Commit,
                };
                match self.unless_there(shared, &message, verdict) {
                    Ok(verdict) => verdict,
                    // Without the listener's word it is better to be asked again.
                    Err(error) if advice == Advice::Repeat => {
                        self.checks.decided.forget(id);
                        return log::info!(
                            "{broker}: whether transaction {id} is committed is not known: {error}"
                        );
                    }
                    Err(_) => verdict,
                }
            }
        };
        let ended = self.end(shared, &message, verdict);
        self.checks
            .decided
            .settle(id, verdict, Some(copy), ended.reached());
        match ended {
            Ended::Confirmed | Ended::Sent(_) => {
                log::debug!("{broker}: a check of transaction {id} was answered with {verdict:?}");
            }
            Ended::Unconfirmed(_, error) | Ended::NotDone(error) => {
                log::warn!("{broker}: the answer {verdict:?} to a check of transaction {id}: {error}");
            }
        }
    }

    /// The verdict, or the rollback of what is left over if the message was committed before: by another process of the
    /// group, or by an end whose confirmation was lost. Brokers do not look.
    fn unless_there(
        &self,
        shared: &Arc<Shared>,
        message: &StoredMessage,
        verdict: Verdict,
    ) -> Result<Verdict, Error> {
        if verdict != Verdict::Commit {
            return Ok(verdict);
        }
        let (broker, id) = (&self.broker, message.message_id());
        let topic = message.topic();
        match is_indexed(shared, broker, topic, id.as_str(), END_TRANSACTION_TIMEOUT) {
            Ok(true) => {
                log::info!(
                    "{broker}: transaction {id} is committed already: what is left of it is rolled back"
                );
                self.checks
                    .decided
                    .settle(id, Verdict::Commit, None, Reached::Confirmed);
                Ok(Verdict::Rollback)
            }
            // Whoever may not ask, or asks a broker without an index, has to do without.
            Ok(false) | Err(Error::Refused { .. }) => Ok(verdict),
            Err(error) => Err(error),
        }
    }

    fn read(&self, shared: &Shared) -> Result<StoredMessage, String> {
        let (record, _) = StoredRecord::decode(&self.body).map_err(|error| error.to_string())?;
        // 4.x does not say who it is.
        let broker_name = match &self.broker_name {
            Some(name) => Arc::from(name.as_str()),
            None => shared
                .routes
                .broker_name(&self.broker)
                .unwrap_or_else(|| Arc::clone(&self.broker)),
        };
        stored_message(&record, broker_name).map_err(|error| error.to_string())
    }

    fn end(&self, shared: &Arc<Shared>, message: &StoredMessage, verdict: Verdict) -> Ended {
        let id = message.message_id();
        let request = EndTransaction {
            producer_group: &shared.config.producer_group,
            // Those of the question: the broker has written the half message anew.
            queue_offset: self.queue_offset,
            commit_log_offset: self.commit_log_offset,
            verdict,
            from_check: true,
            message_id: id.as_str(),
            transaction_id: self.transaction_id.as_deref(),
            topic: message.topic(),
            broker_name: message.queue().broker_name(),
        };
        let deadline = Deadline::after(END_TRANSACTION_TIMEOUT);
        ending::end(shared, &self.broker, || None, &request, &deadline)
    }
}
