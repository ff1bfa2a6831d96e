//! What a request gives back.

use std::{fmt, time::Duration};

use super::result::SendResult;
use crate::message::StoredMessage;

/// The reply to a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reply {
    /// The reply as the broker handed it over, before it stored it: its queue offset, commit log offset and offset message id
    /// say nothing. Property `ARRIVE_TIME` is when it came, in milliseconds since 1970.
    pub message: StoredMessage,
    /// Where the request is stored. `None` if the reply came before the broker had told it.
    pub sent: Option<SendResult>,
    /// How long it took from the call to the reply.
    pub took: Duration,
}

impl Reply {
    /// The body of the reply.
    pub fn body(&self) -> &[u8] {
        self.message.body()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, took, .. } = self;
        write!(
            f,
            "reply {} of {} bytes from {} in {took:.1?}",
            message.message_id(),
            message.body().len(),
            message.born_host()
        )
    }
}
