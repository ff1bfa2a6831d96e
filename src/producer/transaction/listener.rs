//! What a user says about a transaction, and who is asked for it.

use std::sync::Arc;

use crate::{
    message::{Message, StoredMessage},
    producer::SendResult,
    wire::request::end_transaction::Verdict,
};

/// How the local part of a transaction ended, and so what becomes of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "LocalTransactionState")]
#[non_exhaustive]
pub enum LocalTransaction {
    /// It is done: the message is delivered.
    Commit,
    /// It is not done and will not be: the message is thrown away.
    Rollback,
    /// It cannot be told yet. The broker asks later, 15 times unless it is configured otherwise, and then gives the
    /// message up.
    #[doc(alias = "UNKNOW")]
    Unknown,
}

impl LocalTransaction {
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Commit => Verdict::Commit,
            Self::Rollback => Verdict::Rollback,
            Self::Unknown => Verdict::Unknown,
        }
    }
}

/// Does the local part of transactions, and knows how those ended that a broker asks about.
///
/// The answer to a check must come from what the local transaction itself has stored, such as a row that it wrote: a check
/// may be about a transaction of another process of the same group, or of one that has died since.
///
/// The producer keeps its listener. So a listener that keeps a handle of its own producer keeps that running until somebody
/// calls [`shutdown`](super::TransactionProducer::shutdown).
///
/// ```
/// use rocketmq_producer::{LocalTransaction, Message, SendResult, StoredMessage, TransactionListener};
///
/// struct Payments;
///
/// impl TransactionListener for Payments {
///     fn execute(&self, message: &Message, _half: &SendResult) -> LocalTransaction {
///         match message.property("payment") {
///             Some(_) => LocalTransaction::Commit, // … and write it down in the same database transaction
///             None => LocalTransaction::Rollback,
///         }
///     }
///
///     fn check(&self, message: &StoredMessage) -> LocalTransaction {
///         match message.property("payment") {
///             Some(_) => LocalTransaction::Commit, // … if the database says so
///             None => LocalTransaction::Rollback,
///         }
///     }
/// }
/// ```
pub trait TransactionListener: Send + Sync + 'static {
    /// Does the local part of a transaction, after its message was stored out of sight. Called by
    /// [`TransactionProducer::send`](super::TransactionProducer::send) on the thread that sends. A panic is logged and
    /// counts as [`LocalTransaction::Unknown`].
    #[doc(alias = "executeLocalTransaction")]
    fn execute(&self, message: &Message, half: &SendResult) -> LocalTransaction;

    /// Says how a transaction ended that a broker asks about. Called on one of the threads that
    /// [`transaction_check_threads`](crate::ProducerBuilder::transaction_check_threads) limits, several at a time; it may
    /// block and send, and holds up other checks while it does. A panic is logged and counts as
    /// [`LocalTransaction::Unknown`].
    #[doc(alias = "checkLocalTransaction")]
    fn check(&self, message: &StoredMessage) -> LocalTransaction;
}

/// A listener that is shared with other parts of a program.
impl<L: TransactionListener + ?Sized> TransactionListener for Arc<L> {
    fn execute(&self, message: &Message, half: &SendResult) -> LocalTransaction {
        (**self).execute(message, half)
    }

    fn check(&self, message: &StoredMessage) -> LocalTransaction {
        (**self).check(message)
    }
}
