//! Which requests of brokers a producer serves: a table by request code. What is not in it is declined, as are the requests
//! that only consumers can answer.

use crate::{
    code::RequestCode,
    net::inbound::{Handled, Inbound, InboundRequest},
};

/// Serves one kind of request, on a reader thread: it must not block, and run no user code.
pub(super) type Serve = Box<dyn Fn(&InboundRequest<'_>) -> Handled + Send + Sync>;

/// The table; set before the first connection is made.
#[derive(Default)]
pub(super) struct Served {
    by_code: Vec<(RequestCode, Serve)>,
}

impl Served {
    /// Adds a kind of request.
    pub(super) fn with(mut self, code: RequestCode, serve: Serve) -> Self {
        self.by_code.push((code, serve));
        self
    }
}

impl Inbound for Served {
    fn take(&self, request: &InboundRequest<'_>) -> Handled {
        let code = RequestCode::new(request.header.code);
        self.by_code
            .iter()
            .find(|(served, _)| *served == code)
            .map_or(Handled::NotServed, |(_, serve)| serve(request))
    }
}
