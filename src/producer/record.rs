//! The account that a plan keeps of its attempts. Pure.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::plan::Destination;
use crate::error::{Attempt, Delivery, Error, Phase, Written};

/// Attempts whose account is kept. Only a send with a delivery timeout can have more, and then the first one, which shows
/// how the trouble began, and the latest are kept.
pub(super) const KEPT_RECORDS: usize = 16;

pub(super) struct Record {
    pub(super) number: u32,
    pub(super) to: Destination,
    pub(super) began: Instant,
    pub(super) share: Instant,
    pub(super) until: Instant,
    /// Of an earlier round: its broker may be tried again.
    pub(super) is_past: bool,
    /// Its address was not dialled, since it could not be connected to a moment ago, and is not before then.
    pub(super) closed_until: Option<Instant>,
    pub(super) state: RecordState,
}

pub(super) enum RecordState {
    /// Within its share.
    Awaited,
    /// Beyond its share, but still registered.
    Overdue,
    Failed {
        took: Duration,
        error: Error,
    },
    Stored,
}

impl Record {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, RecordState::Awaited | RecordState::Overdue)
    }

    /// The line of this attempt in the account of a failed send.
    pub(super) fn account(self, now: Instant) -> Attempt {
        let (took, error) = match self.state {
            RecordState::Failed { took, error } => (took, error),
            RecordState::Awaited | RecordState::Overdue | RecordState::Stored => {
                let waited = now.saturating_duration_since(self.began);
                let error = Error::Timeout {
                    phase: Phase::Reply,
                    target: Arc::clone(&self.to.broker.address),
                    waited,
                    written: Written::All,
                };
                (waited, error)
            }
        };
        let queue_id = self.to.queue.queue_id();
        Attempt::new(Arc::clone(&self.to.broker.name), queue_id, took, error)
    }

    /// Whether no broker has seen the whole message because of this attempt.
    pub(super) fn never_left(&self) -> bool {
        matches!(&self.state, RecordState::Failed { error, .. } if error.delivery() == Delivery::NotStored)
    }

    /// Whether this attempt may have left a copy behind.
    pub(super) fn may_be_stored(&self) -> bool {
        match &self.state {
            RecordState::Awaited | RecordState::Overdue | RecordState::Stored => true,
            RecordState::Failed { error, .. } => error.delivery() == Delivery::Unknown,
        }
    }
}

/// The attempts of one send, oldest first. Nearly every send has one, which needs no memory of its own.
#[derive(Default)]
pub(super) struct Records {
    first: Option<Record>,
    others: Vec<Record>,
}

impl Records {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.first.iter().chain(&self.others)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.first.iter_mut().chain(&mut self.others)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn last(&self) -> Option<&Record> {
        self.others.last().or(self.first.as_ref())
    }

    /// The record of an attempt.
    pub(super) fn of(&self, number: u32) -> Option<&Record> {
        self.iter().find(|record| record.number == number)
    }

    pub(super) fn of_mut(&mut self, number: u32) -> Option<&mut Record> {
        self.iter_mut().find(|record| record.number == number)
    }

    /// Adds the record of a new attempt. When there are too many, the oldest failed one but the first is forgotten and given
    /// back.
    pub(super) fn push(&mut self, record: Record) -> Option<Record> {
        if self.first.is_none() {
            self.first = Some(record);
            return None;
        }
        let failed = |record: &Record| matches!(record.state, RecordState::Failed { .. });
        let oldest = if self.others.len() + 1 < KEPT_RECORDS {
            None
        } else {
            self.others.iter().position(failed)
        };
        let forgotten = oldest.map(|oldest| self.others.remove(oldest));
        self.others.push(record);
        forgotten
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = Record> {
        self.first.into_iter().chain(self.others)
    }
}
