//! The one-way send: one attempt, no answer.

use std::{sync::Arc, time::Duration};

use super::{
    attempt::{self, Prepared},
    choose,
    shared::Shared,
    target::Aim,
};
use crate::{
    error::{Error, Phase, Written},
    message::Message,
    net::deadline::Deadline,
};

/// Hands a message to the connection of a broker. `Ok` says that the connection has taken it over.
pub(super) fn send(
    shared: &Arc<Shared>,
    message: &Message,
    aim: Option<&Aim>,
    timeout: Duration,
) -> Result<(), Error> {
    let deadline = Deadline::after(timeout);
    let _inside = shared.gate.enter()?;
    let prepared = Prepared::new(shared, message)?;
    let topic = message.shared_topic();
    let route = shared.routes.wait(topic, &deadline)?;
    let to = match aim {
        Some(aim) => choose::aimed(aim, &route, message)?,
        None => choose::in_turn(&route, |_| false).ok_or_else(|| Error::Timeout {
            phase: Phase::Route,
            target: Arc::clone(topic),
            waited: deadline.waited(),
            written: Written::Nothing,
        })?,
    };
    let sent = shared
        .connections
        .wait(&to.broker.address, &deadline)
        .and_then(|connection| attempt::send_oneway(shared, &prepared, to, &connection, deadline.at()));
    if let Err(error) = &sent {
        shared.learn_from(topic, error);
    }
    sent
}
