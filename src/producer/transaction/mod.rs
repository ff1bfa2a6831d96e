//! Transactions: a message that is stored out of sight, local work, and then the end that makes it visible or throws it away.

mod checks;
mod decided;
mod ending;
mod listener;
mod registration;
mod result;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

pub use listener::{LocalTransaction, TransactionListener};
pub use result::{TransactionEnd, TransactionSendResult};

use self::{
    checks::Checks,
    decided::{Decided, HalfCopy, Reached},
    ending::Ended,
    registration::Registration,
};
use super::{
    Producer, ProducerBuilder, SendResult, SendStatus, ShutdownReport, attempt::Prepared, blocking,
    inbound::Served, options::Options, shared::Shared,
};
use crate::{
    code::RequestCode,
    config::{END_TRANSACTION_TIMEOUT, ProducerConfig, Redelivery},
    error::{Error, Written},
    message::{Message, MessageId, property},
    net::deadline::Deadline,
    wire::{
        id::parse_offset_message_id,
        request::end_transaction::{EndTransaction, Verdict},
    },
};

/// A producer that sends messages together with a local transaction: a message is delivered if, and only if, the local part
/// says so, even if this process dies in between.
///
/// The message is first stored out of sight, as a *half message*. Then the local part runs: the
/// [listener](TransactionListener::execute), or a closure. What it says is told to the broker, which delivers the message or
/// throws it away. If the broker hears nothing, it asks a producer of the group, and the
/// [listener](TransactionListener::check) answers from what the local part has stored.
///
/// Clones are handles of the same producer. Messages without a transaction go through [`Self::producer`].
///
/// ```
/// # #[cfg(feature = "mock")] {
/// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
/// # let name_servers = cluster.name_servers();
/// use rocketmq_producer::{LocalTransaction, Message, Producer, SendResult, StoredMessage, TransactionListener};
///
/// struct Payments;
///
/// impl TransactionListener for Payments {
///     fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
///         LocalTransaction::Commit // the database has committed
///     }
///
///     fn check(&self, _: &StoredMessage) -> LocalTransaction {
///         LocalTransaction::Commit // the database says that it has
///     }
/// }
///
/// let producer = Producer::builder("payments").name_servers(name_servers).start_transactional(Payments)?;
/// let result = producer.send(&Message::new("orders", "paid")?)?;
/// assert!(result.is_committed(), "{result}");
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias = "TransactionMQProducer")]
pub struct TransactionProducer {
    producer: Producer,
}

/// What a transactional producer has beside a plain one.
pub(super) struct Transactions {
    listener: Arc<dyn TransactionListener>,
    decided: Arc<Decided>,
    checks: Arc<Checks>,
    registration: Arc<Registration>,
}

impl Transactions {
    fn new(listener: Arc<dyn TransactionListener>, config: &ProducerConfig) -> Self {
        let may_repeat = config.redelivery == Redelivery::AtLeastOnce;
        let decided = Arc::new(Decided::new(config.unconfirmed_commit_pause, may_repeat));
        let threads = config.transaction_check_threads;
        Self {
            checks: Checks::new(Arc::clone(&listener), Arc::clone(&decided), threads),
            listener,
            decided,
            registration: Arc::default(),
        }
    }

    /// Which requests of brokers are served.
    pub(super) fn serve(&self, served: Served) -> Served {
        let checks = Arc::clone(&self.checks);
        served.with(
            RequestCode::CHECK_TRANSACTION_STATE,
            Box::new(move |request| checks.take(request)),
        )
    }

    /// Called once, before the first connection.
    pub(super) fn started(&self, shared: &Arc<Shared>) {
        self.checks.serve_for(shared);
        registration::keep(&self.registration, shared);
    }

    /// Begins no further check, and waits for those under way until then.
    pub(super) fn finish(&self, until: Instant) {
        self.checks.finish(until);
    }

    /// Joins the threads of the checks.
    pub(super) fn stop(&self, until: Instant) {
        self.checks.stop(until);
    }

    /// Whether the caller is the listener, asked by a broker.
    pub(super) fn is_running_check(&self) -> bool {
        self.checks.is_running_check()
    }
}

impl ProducerBuilder {
    /// Checks the settings and starts a producer of transactions. Nothing is sent yet; brokers ask it from its first
    /// transaction on, or from [`TransactionProducer::register`] on.
    ///
    /// # Errors
    /// Those of [`ProducerBuilder::start`].
    pub fn start_transactional(
        self,
        listener: impl TransactionListener,
    ) -> Result<TransactionProducer, Error> {
        let config = self.into_config();
        let transactions = Transactions::new(Arc::new(listener), &config);
        let shared = Shared::start(config, Some(transactions))?;
        Ok(TransactionProducer {
            producer: Producer::new(shared),
        })
    }
}

impl TransactionProducer {
    /// Sends a message in a transaction whose local part the [listener](TransactionListener::execute) does.
    ///
    /// Blocks for at most the send timeout until the half message is stored, then for as long as the local part takes, then
    /// for at most 3 s until the broker has confirmed the end, unless that is sent [one-way](crate::EndTransactions::OneWay). The
    /// half message is sent again as [`Producer::send`] would; two copies of it are still delivered once.
    ///
    /// `Ok` says that the half message was stored, and the local part was run if it was stored safely. What became of the
    /// end is in the result, and is no error: a broker that did not get it asks.
    ///
    /// # Errors
    /// Those of [`Producer::send`], with which the local part was not run, and no copy of the message will be delivered as
    /// long as this process answers the checks. [`Error::InvalidMessage`] also for a message with a delay: brokers take it,
    /// confirm its commit, and never deliver it.
    #[doc(alias = "sendMessageInTransaction")]
    pub fn send(&self, message: &Message) -> Result<TransactionSendResult, Error> {
        let listener = Arc::clone(&self.transactions()?.listener);
        self.send_with(message, |half| listener.execute(message, half))
    }

    /// Sends a message in a transaction whose local part is a closure, which is run on this thread. Otherwise as
    /// [`Self::send`]; checks are answered by the listener.
    ///
    /// # Errors
    /// Those of [`Self::send`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # use rocketmq_producer::{LocalTransaction, Message, Producer, SendResult, StoredMessage, TransactionListener};
    /// # struct Payments;
    /// # impl TransactionListener for Payments {
    /// #     fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction { LocalTransaction::Unknown }
    /// #     fn check(&self, _: &StoredMessage) -> LocalTransaction { LocalTransaction::Unknown }
    /// # }
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let builder = Producer::builder("payments").name_servers(cluster.name_servers());
    /// # let producer = builder.start_transactional(Payments)?;
    /// let mut paid = Vec::new();
    /// let result = producer.send_with(&Message::new("orders", "paid")?, |half| {
    ///     paid.push(half.message_id);
    ///     LocalTransaction::Commit
    /// })?;
    /// assert!(result.is_committed() && paid == [result.half.message_id]);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_with(
        &self,
        message: &Message,
        local: impl FnOnce(&SendResult) -> LocalTransaction,
    ) -> Result<TransactionSendResult, Error> {
        let (shared, transactions) = (self.shared(), self.transactions()?);
        check(message.topic(), message.properties().map(|(name, _)| name))?;
        let deadline = Options::default().deadline(&shared.config);
        let _inside = shared.gate.enter()?;
        let prepared = Prepared::half(shared, message)?;
        let open = OpenTransaction::begin(transactions, prepared.message_id);
        let half = blocking::send_prepared(shared, message, prepared, &Options::default(), deadline);
        shared.tally.ended(half.as_ref().err());
        // Else a copy that was stored without our knowledge would be asked about in vain.
        transactions.registration.add(shared, message.shared_topic());
        let half = match half {
            Ok(half) => half,
            Err(error) => {
                open.was_not_begun(&error);
                return Err(error);
            }
        };
        let local = run_local(shared, &half, local);
        let (copy, ended) = end(shared, message, &half, local.verdict());
        open.end(local.verdict(), copy, &ended);
        let end = match ended {
            Ended::Confirmed => TransactionEnd::Confirmed,
            Ended::Sent(_) if local == LocalTransaction::Unknown => TransactionEnd::Open,
            Ended::Sent(_) => TransactionEnd::Sent,
            Ended::Unconfirmed(_, error) | Ended::NotDone(error) => {
                let (id, queue) = (half.message_id, &half.queue);
                log::warn!("the end of transaction {id} for {queue} ({local:?}) was not confirmed: {error}");
                TransactionEnd::Unconfirmed(error)
            }
        };
        Ok(TransactionSendResult { half, local, end })
    }

    /// Makes this producer known to all brokers of these topics, so that they can ask it about transactions that another
    /// process of the group, or an earlier one, has left open. A transaction that is sent does the same for its topic.
    ///
    /// Blocks for at most the send timeout, as [`Producer::warm_up`]. From now on connections to these brokers are kept, and
    /// are made again when they are lost.
    ///
    /// # Errors
    /// Those of [`Producer::warm_up`]. Brokers that were not reached are tried again, as often as heartbeats are sent.
    pub fn register(&self, topics: &[&str]) -> Result<(), Error> {
        let transactions = self.transactions()?;
        let warm = self.producer.warm_up(topics);
        if !matches!(warm, Err(Error::InvalidMessage { .. } | Error::ShutDown)) {
            for topic in topics {
                transactions.registration.add(self.shared(), &Arc::from(*topic));
            }
        }
        warm
    }

    /// The producer for messages without a transaction. It shares everything with this one, its end too.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Ends the producer as [`Producer::shutdown`] does. Transactions that are under way are waited for, their local parts
    /// included, and so are checks whose listener is running; checks that come later are left to other producers of the
    /// group.
    pub fn shutdown(&self, within: Duration) -> ShutdownReport {
        self.producer.shutdown(within)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.producer.handle.shared
    }

    fn transactions(&self) -> Result<&Transactions, Error> {
        self.shared().transactions.as_ref().ok_or(Error::ShutDown)
    }
}

impl fmt::Debug for TransactionProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionProducer")
            .field("producer_group", &self.producer.producer_group())
            .field("client_id", &self.producer.client_id())
            .finish_non_exhaustive()
    }
}

/// Refuses what brokers would take and never deliver.
fn check<'a>(topic: &str, mut property_names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    match property_names.find(|name| property::DELAYS.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Error::InvalidMessage {
            reason: format!(
                "the message for topic {topic} has a delay (property {name}), which a transaction cannot have: brokers take it, \
                 confirm its commit, and never deliver it"
            ),
        }),
    }
}

/// Runs the local part, unless the half message may be lost when its broker dies.
fn run_local(
    shared: &Arc<Shared>,
    half: &SendResult,
    local: impl FnOnce(&SendResult) -> LocalTransaction,
) -> LocalTransaction {
    if half.status != SendStatus::SendOk {
        // As 4.7.0 DefaultMQProducerImpl.sendMessageInTransaction.
        log::warn!(
            "the half message {} was stored with status {}, so its transaction is rolled back",
            half.message_id,
            half.status
        );
        return LocalTransaction::Rollback;
    }
    let mut said = LocalTransaction::Unknown;
    let run = AssertUnwindSafe(|| local(half));
    shared.gate.run_closure(|| match catch_unwind(run) {
        Ok(local) => said = local,
        Err(_) => log::error!(
            "the local part of transaction {} panicked, which counts as unknown",
            half.message_id
        ),
    });
    said
}

/// Tells the broker that has the half message how its transaction ended.
fn end(
    shared: &Arc<Shared>,
    message: &Message,
    half: &SendResult,
    verdict: Verdict,
) -> (Option<HalfCopy>, Ended) {
    let broker_name = half.queue.broker_name();
    let Some(to) = shared.routes.queue_of(broker_name) else {
        let reason =
            format!("broker {broker_name}, which has the half message, is in no known route any more");
        let topic = Arc::clone(message.shared_topic());
        return (
            None,
            Ended::NotDone(Error::NoRoute {
                topic,
                reason: reason.into(),
            }),
        );
    };
    let address = &to.broker.address;
    let commit_log_offset = match parse_offset_message_id(half.offset_message_id.as_str()) {
        Ok((_, offset)) => offset,
        Err(error) => {
            let error = Error::Protocol {
                address: Arc::clone(address),
                written: Written::Nothing,
                reason: format!("the id that the broker gave the half message: {error}").into(),
            };
            return (None, Ended::NotDone(error));
        }
    };
    let transaction_id = half.transaction_id.unwrap_or(half.message_id);
    let request = EndTransaction {
        producer_group: &shared.config.producer_group,
        queue_offset: half.queue_offset,
        commit_log_offset,
        verdict,
        from_check: false,
        message_id: half.message_id.as_str(),
        transaction_id: Some(transaction_id.as_str()),
        topic: message.topic(),
        broker_name,
    };
    let deadline = Deadline::after(END_TRANSACTION_TIMEOUT);
    // A broker that is restarted in this moment may come back elsewhere.
    let moved = || {
        shared
            .routes
            .queue_of(broker_name)
            .map(|to| Arc::clone(&to.broker.address))
    };
    let ended = ending::end(shared, address, moved, &request, &deadline);
    let copy = HalfCopy {
        broker: Arc::clone(address),
        commit_log_offset,
    };
    (Some(copy), ended)
}

/// A transaction that is under way: a broker that asks meanwhile is not answered. If it is dropped before its end, its local
/// part was not run, so whatever copy of it there is will be rolled back.
struct OpenTransaction<'a> {
    transactions: &'a Transactions,
    id: MessageId,
    is_settled: bool,
}

impl<'a> OpenTransaction<'a> {
    fn begin(transactions: &'a Transactions, id: MessageId) -> Self {
        transactions.decided.begin(id);
        Self {
            transactions,
            id,
            is_settled: false,
        }
    }

    fn end(mut self, verdict: Verdict, copy: Option<HalfCopy>, ended: &Ended) {
        self.is_settled = true;
        self.transactions
            .decided
            .settle(self.id, verdict, copy, ended.reached());
    }

    /// The half message was not stored, or nobody knows.
    fn was_not_begun(mut self, error: &Error) {
        if error.delivery().is_not_stored() {
            // No copy can be asked about, so there is nothing to remember.
            self.is_settled = true;
            self.transactions.decided.forget(self.id);
        }
    }
}

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.transactions
                .decided
                .settle(self.id, Verdict::Rollback, None, Reached::Nobody);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_of_any_kind_is_refused() {
        assert!(check("orders", ["TAGS", "delay", "DELAYED"].into_iter()).is_ok());
        for name in ["DELAY", "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"] {
            let error = check("orders", ["TAGS", name].into_iter()).unwrap_err();
            assert!(matches!(error, Error::InvalidMessage { .. }));
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("never deliver"), "{text}");
        }
    }
}
