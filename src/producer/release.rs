//! Whether a broker is of a release that heeds what a message asks for. Older ones ignore it without a word, so such a message
//! is only sent to a broker whose release is known.
//!
//! A broker names its release in every frame. On a connection that has not heard any, a heartbeat is sent, which all releases
//! answer. Messages that ask for nothing never wait for it.

use std::{sync::Arc, time::Instant};

use super::{attempt::Prepared, plan::Destination, shared::Shared};
use crate::{
    error::{Error, Phase, Written},
    message::timing::Requirement,
    net::{connection::Connection, connections::Continuation, sync::channel},
};

/// Refuses a message that the broker at the other end would not deliver as wished.
pub(super) fn check(prepared: &Prepared, connection: &Connection) -> Result<(), Error> {
    match prepared.message.requirement() {
        None => Ok(()),
        Some(requirement) => demand(requirement, connection),
    }
}

/// Refuses a broker that is too old, or has not told how old it is.
pub(super) fn demand(requirement: &Requirement, connection: &Connection) -> Result<(), Error> {
    let version = connection.peer_version();
    if version.is_some_and(|version| version >= requirement.ordinal) {
        return Ok(());
    }
    Err(Error::NotSupported {
        address: Arc::clone(connection.address()),
        what: requirement.what,
        since: requirement.since,
        version,
    })
}

/// Whether the message can be judged, or needs not be.
pub(super) fn is_known(prepared: &Prepared, connection: &Connection) -> bool {
    prepared.message.requirement().is_none() || connection.peer_version().is_some()
}

/// The live connection for an attempt, if there is one on which the message can be judged.
pub(super) fn live(shared: &Shared, prepared: &Prepared, to: &Destination) -> Option<Arc<Connection>> {
    let live = shared.connections.live_by(&to.broker.link, &to.broker.address);
    live.filter(|connection| is_known(prepared, connection))
}

/// Blocks until the broker has told its release, or until then.
pub(super) fn wait(shared: &Shared, connection: &Arc<Connection>, until: Instant) -> Result<(), Error> {
    if connection.peer_version().is_some() {
        return Ok(());
    }
    let began = Instant::now();
    let (sender, answered) = channel::bounded(1);
    let timeout = until.saturating_duration_since(began);
    shared
        .housekeeping
        .heartbeat_then(connection, timeout, move |answer| {
            // Whoever waits may have stopped.
            sender.try_send(answer).ok();
        });
    match answered.recv_deadline(until) {
        // A refusal tells the release as well.
        Ok(Ok(()) | Err(Error::Refused { .. })) => Ok(()),
        Ok(Err(error @ (Error::ConnectionLost { .. } | Error::ShutDown))) => Err(unsent(error)),
        _ => Err(Error::Timeout {
            phase: Phase::Connect,
            target: Arc::clone(connection.address()),
            waited: began.elapsed(),
            written: Written::Nothing,
        }),
    }
}

/// The heartbeat was written; the message was not.
fn unsent(error: Error) -> Error {
    match error {
        Error::ConnectionLost {
            address,
            waited,
            source,
            ..
        } => Error::ConnectionLost {
            address,
            written: Written::Nothing,
            waited,
            source,
        },
        other => other,
    }
}

/// Calls `then` with a connection on which the message can be judged, or with why there is none. As
/// [`Connections::when_ready`](crate::net::connections::Connections::when_ready) it never blocks.
pub(super) fn when_ready(
    shared: &Arc<Shared>,
    prepared: &Prepared,
    address: &Arc<str>,
    until: Instant,
    then: Continuation,
) {
    if prepared.message.requirement().is_none() {
        return shared.connections.when_ready(address, then);
    }
    let asking = Arc::clone(shared);
    let ask = move |ready: Result<Arc<Connection>, Error>| match ready {
        Ok(connection) if connection.peer_version().is_none() => {
            let timeout = until.saturating_duration_since(Instant::now());
            let asked = Arc::clone(&connection);
            asking
                .housekeeping
                .heartbeat_then(&asked, timeout, move |answer| match answer {
                    Err(error @ Error::ConnectionLost { .. }) => then(Err(unsent(error))),
                    // Without an answer the attempt is refused when it is begun.
                    _ => then(Ok(connection)),
                });
        }
        other => then(other),
    };
    shared.connections.when_ready(address, Box::new(ask));
}
