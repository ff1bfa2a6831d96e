//! Requests that a broker sends to this client: what the reader hands over, and what it is told to do.
//!
//! The reader thread asks, so whoever serves such a request must not block and must run no user code there. A panic ends
//! the connection that the request came on, and nothing else.

use std::{borrow::Cow, sync::Arc};

use super::connection::Connection;
use crate::{code::ResponseCode, wire::header::Header};

/// A request of a broker, borrowed from the receive buffer: what is needed later is decoded now.
pub(crate) struct InboundRequest<'a> {
    /// What it came on, for whoever answers later with a request of its own.
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) header: &'a Header<'a>,
    pub(crate) body: &'a [u8],
}

/// What becomes of such a request.
pub(crate) enum Handled {
    /// Nobody here serves it, and the broker is told so.
    NotServed,
    /// It is answered at once. Without effect when it is one-way.
    Answered(Answer),
    /// It is taken over, and the broker gets no answer to it.
    TakenOver,
}

/// What a broker is answered.
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) remark: Option<Cow<'static, str>>,
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl Answer {
    /// Done, and nothing to say about it.
    pub(crate) fn success() -> Self {
        Self {
            code: ResponseCode::SUCCESS,
            remark: None,
            fields: Vec::new(),
        }
    }

    /// As servers say it (`NettyRemotingAbstract.processRequestCommand`).
    pub(crate) fn not_supported(request_code: i32) -> Self {
        Self {
            code: ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
            remark: Some(format!(" request type {request_code} not supported").into()),
            fields: Vec::new(),
        }
    }

    /// Bytes of its texts, roughly.
    pub(super) fn size(&self) -> usize {
        let fields: usize = self
            .fields
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        fields + self.remark.as_ref().map_or(0, |remark| remark.len())
    }
}

/// Whoever serves requests of brokers.
pub(crate) trait Inbound: Send + Sync {
    /// Called on the reader thread of the connection, one request after the other.
    fn take(&self, request: &InboundRequest<'_>) -> Handled;
}
