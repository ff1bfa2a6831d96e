//! One question to one name server: where does this topic live?

use std::{sync::Arc, time::Duration};

use super::call::{Answer, call};
use crate::{
    code::{RequestCode, ResponseCode},
    error::{Error, Written},
    net::connection::{Connection, Request},
    wire::{
        header::FieldWriter,
        request::route::{GetRoute, RouteData},
    },
};

/// What a name server says of a topic.
#[derive(Debug)]
pub(crate) enum RouteAnswer {
    Route(RouteData),
    /// It does not know the topic; its remark.
    Unknown(String),
}

/// Asks for the route of a topic. `then` is called once, on the thread that sees the answer, and must not block.
pub(crate) fn ask_route(
    connection: &Arc<Connection>,
    topic: &str,
    timeout: Duration,
    then: impl FnOnce(Result<RouteAnswer, Error>) + Send + 'static,
) {
    let header = GetRoute {
        topic,
        accept_standard_json_only: true,
    };
    let request = Request {
        code: RequestCode::GET_ROUTEINFO_BY_TOPIC,
        write_fields: |writer: &mut FieldWriter<'_>| header.write(writer),
        body: &[],
    };
    let address = Arc::clone(connection.address());
    call(connection, request, timeout, move |answer| {
        then(answer.and_then(|answer| read(&address, answer)));
    });
}

fn read(address: &Arc<str>, answer: Answer) -> Result<RouteAnswer, Error> {
    match answer.code {
        ResponseCode::SUCCESS => match RouteData::parse(&answer.body) {
            Ok(data) => Ok(RouteAnswer::Route(data)),
            Err(error) => Err(Error::Protocol {
                address: Arc::clone(address),
                written: Written::All,
                reason: format!("the topic route cannot be read: {error}").into(),
            }),
        },
        ResponseCode::TOPIC_NOT_EXIST => Ok(RouteAnswer::Unknown(answer.remark.unwrap_or_default())),
        code => Err(Error::refused(address, code, answer.remark.as_deref())),
    }
}
