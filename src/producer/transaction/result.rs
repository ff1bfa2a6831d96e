//! What a transaction ended with.

use std::fmt;

use super::listener::LocalTransaction;
use crate::{error::Error, producer::SendResult};

/// A transaction whose half message was stored.
#[derive(Clone, Debug)]
#[must_use = "it says whether the transaction was committed, rolled back, or is open"]
#[non_exhaustive]
pub struct TransactionSendResult {
    /// Where the half message was stored: ids and offset are those of the broker's own topic for half messages, the queue is
    /// the one that the message will be in.
    pub half: SendResult,
    /// What the local part said. [`LocalTransaction::Rollback`] without the local part having been run if the half message
    /// was stored less safely than the broker is configured to (a status other than
    /// [`SendOk`](crate::SendStatus::SendOk)), as in Java.
    pub local: LocalTransaction,
    /// Whether the broker knows.
    pub end: TransactionEnd,
}

/// Whether the broker knows how a transaction ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransactionEnd {
    /// The broker has answered: the message is delivered, or thrown away.
    Confirmed,
    /// It was sent one-way, and nobody hears whether it arrived. If it was lost, the broker asks.
    Sent,
    /// The local part does not know yet. The broker asks later.
    Open,
    /// The broker has not confirmed it; the error says why. It may have acted on it, if
    /// [`Error::delivery`] is unknown. If it has not, it asks later, and is told the same again.
    Unconfirmed(Error),
}

impl TransactionSendResult {
    /// Whether the broker has confirmed that the message is delivered.
    pub fn is_committed(&self) -> bool {
        self.local == LocalTransaction::Commit && matches!(self.end, TransactionEnd::Confirmed)
    }
}

impl fmt::Display for TransactionSendResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = match self.local {
            LocalTransaction::Commit => "commit",
            LocalTransaction::Rollback => "rollback",
            LocalTransaction::Unknown => "unknown",
        };
        let (id, queue) = (self.half.message_id, &self.half.queue);
        write!(f, "{local} of {id} for {queue}: ")?;
        match &self.end {
            TransactionEnd::Confirmed => f.write_str("confirmed"),
            TransactionEnd::Sent => f.write_str("sent one-way"),
            TransactionEnd::Open => f.write_str("open, the broker will ask"),
            TransactionEnd::Unconfirmed(error) => write!(f, "not confirmed, the broker will ask: {error}"),
        }
    }
}
