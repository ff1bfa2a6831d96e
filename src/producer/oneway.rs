//! The one-way send: one attempt, no answer.

use std::sync::Arc;

use super::{
    attempt::{self, Prepared},
    choose,
    options::Options,
    shared::Shared,
};
use crate::{
    error::{Error, Phase, Written},
    message::Message,
};

/// Hands a message to the connection of a broker. `Ok` says that the connection has taken it over.
pub(super) fn send(shared: &Arc<Shared>, message: &Message, options: &Options) -> Result<(), Error> {
    if options.ordered {
        let reason = "a one-way send cannot be ordered: nobody hears when it is stored".to_owned();
        return Err(Error::InvalidMessage { reason });
    }
    let deadline = options.oneway_deadline(&shared.config);
    let _inside = shared.gate.enter()?;
    let prepared = Prepared::new(shared, message)?;
    let topic = message.shared_topic();
    let route = shared.routes.wait(topic, &deadline)?;
    let to = match options.aim() {
        Some(aim) => choose::aimed(aim, &route, message)?,
        None => choose::in_turn(&route, deadline.began(), |_| false).ok_or_else(|| Error::Timeout {
            phase: Phase::Route,
            target: Arc::clone(topic),
            waited: deadline.waited(),
            written: Written::Nothing,
        })?,
    };
    let sent = shared
        .connections
        .wait_by(&to.broker.link, &to.broker.address, &deadline)
        .and_then(|connection| attempt::send_oneway(shared, &prepared, to, &connection, &deadline));
    if let Err(error) = &sent {
        shared.learn_from_failure(topic, Some(&to.broker), error);
    }
    sent
}
