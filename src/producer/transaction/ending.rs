//! The end of a transaction: how a verdict gets to the broker that keeps the half message.
//!
//! Brokers publish a message as often as it is committed (4.7.0 to 5.5.0, apache/rocketmq#5574). So an end that may have been
//! received is never sent again from here; one that certainly was not is, as long as there is time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::decided::Reached;
use crate::{
    cluster::call::call_and_wait,
    code::{RequestCode, ResponseCode},
    config::EndTransactions,
    error::{Error, is_busy_refusal},
    net::{
        connection::{Connection, Request},
        deadline::Deadline,
    },
    producer::shared::Shared,
    wire::{
        header::FieldWriter,
        request::end_transaction::{EndTransaction, Verdict},
    },
};

/// The pause before an end that nobody has received is sent again: a connection that was lost is dialled in that time.
const PAUSE: Duration = Duration::from_millis(50);

/// What the answer may come late beyond the time of its request: the timer that says so runs on a thread of its own.
const TIMER_SLACK: Duration = Duration::from_secs(1);

/// Remarks of code 1 with which a broker says that it has done nothing (`EndTransactionProcessor.checkPrepareMessage`).
/// Others may come after the message was stored.
const NOTHING_DONE: &[&str] = &[
    "The producer group wrong",
    "The transaction state table offset wrong",
    "The commit log offset wrong",
    "Find prepared transaction message failed",
];

/// What came of it.
#[derive(Debug)]
pub(super) enum Ended {
    /// The broker has answered that it is done.
    Confirmed,
    /// It is on its way, and nobody hears more of it. Since when.
    Sent(Instant),
    /// It was sent, and what became of it is not known. Since when.
    Unconfirmed(Instant, Error),
    /// The broker has not received it, or has done nothing.
    NotDone(Error),
}

impl Ended {
    pub(super) fn reached(&self) -> Reached {
        match self {
            Self::Confirmed => Reached::Confirmed,
            Self::Sent(at) | Self::Unconfirmed(at, _) => Reached::Maybe(*at),
            Self::NotDone(_) => Reached::Nobody,
        }
    }
}

/// Sends the end of a transaction to the broker at this address, or to where it is then if it has to be sent again. Blocks
/// until it is confirmed, is handed over if it is one-way, or the deadline is over.
pub(super) fn end(
    shared: &Arc<Shared>,
    address: &Arc<str>,
    moved: impl Fn() -> Option<Arc<str>>,
    request: &EndTransaction<'_>,
    deadline: &Deadline,
) -> Ended {
    let mut address = Arc::clone(address);
    loop {
        let sent = Instant::now();
        let attempt = shared
            .connections
            .wait(&address, deadline)
            .and_then(|connection| attempt(shared, &connection, request, deadline));
        let error = match attempt {
            Ok(ended) => return ended,
            Err(error) => error,
        };
        // Looks the route up again, and leaves a connection whose broker goes away.
        shared.learn_from_failure(&request.topic.into(), None, &error);
        if !nothing_done(&error) {
            return Ended::Unconfirmed(sent, error);
        }
        let may_help = match &error {
            Error::Refused { code, remark, .. } => {
                *code == ResponseCode::GO_AWAY || is_busy_refusal(*code, remark)
            }
            Error::Connect { .. } | Error::ConnectionLost { .. } => true,
            _ => false,
        };
        if !may_help || deadline.remaining(Instant::now()) <= PAUSE {
            return Ended::NotDone(error);
        }
        log::debug!("the end of a transaction at {address} was not received, sending it again: {error}");
        thread::sleep(PAUSE);
        address = moved().unwrap_or(address);
    }
}

/// Whether the broker has certainly not acted on it.
fn nothing_done(error: &Error) -> bool {
    match error {
        // A slave: it refuses before it looks.
        Error::Refused { code, .. } if *code == ResponseCode::SLAVE_NOT_AVAILABLE => true,
        Error::Refused { remark, .. } if NOTHING_DONE.contains(&&**remark) => true,
        _ => error.delivery().is_not_stored(),
    }
}

fn attempt(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    end: &EndTransaction<'_>,
    deadline: &Deadline,
) -> Result<Ended, Error> {
    let request = Request {
        code: RequestCode::END_TRANSACTION,
        write_fields: |writer: &mut FieldWriter<'_>| end.write(writer),
        body: &[],
    };
    let began = Instant::now();
    // No broker answers an unknown.
    if end.verdict == Verdict::Unknown || shared.config.end_transactions == EndTransactions::OneWay {
        return connection
            .notify(request, deadline.at())
            .map(|()| Ended::Sent(began));
    }
    let until = deadline.at() + TIMER_SLACK;
    let answer = call_and_wait(connection, request, deadline.remaining(began), until)?;
    // A rollback is confirmed with the remark "not set any response code": the code alone counts.
    answer.check(connection.address()).map(|()| Ended::Confirmed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Phase, Written};

    #[test]
    fn only_what_a_broker_has_not_acted_on_may_be_sent_again() {
        let refused = |code, remark: &str| Error::refused(&"b".into(), code, Some(remark));
        for (code, remark) in [
            (
                ResponseCode::SYSTEM_ERROR,
                "Find prepared transaction message failed",
            ),
            (ResponseCode::SYSTEM_ERROR, "The producer group wrong"),
            (ResponseCode::SLAVE_NOT_AVAILABLE, ""),
            (ResponseCode::SYSTEM_BUSY, "[OVERLOAD]system busy"),
        ] {
            assert!(nothing_done(&refused(code, remark)), "{code} {remark}");
        }
        for (code, remark) in [
            (ResponseCode::SYSTEM_ERROR, "UNKNOWN_ERROR"),
            (ResponseCode::SYSTEM_ERROR, "store putMessage return null"),
            (ResponseCode::new(4711), ""),
        ] {
            assert!(!nothing_done(&refused(code, remark)), "{code} {remark}");
        }
        let timeout = |written| Error::Timeout {
            phase: Phase::Reply,
            target: "b".into(),
            waited: Duration::ZERO,
            written,
        };
        assert!(nothing_done(&timeout(Written::Part)) && !nothing_done(&timeout(Written::All)));
    }
}
