//! What a broker answers to everything but sends and queries, which have files of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::code::{RequestCode, ResponseCode};
use crate::wire::header::Header;
use crate::wire::request::end_transaction::ReceivedEndTransaction;
use crate::wire::request::heartbeat::ReceivedHeartbeat;
use crate::wire::request::unregister::ReceivedUnregister;

use super::clients::Origin;
use super::delays;
use super::dialect::ServerVersion;
use super::name_server::unsupported;
use super::queries;
use super::reply::{Reply, ReplyFields};
use super::request_reply;
use super::send_message;
use super::server::Server;
use super::shared::Shared;

/// One connection to a broker, as its requests see it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) origin: Origin,
    /// The client's end.
    pub(super) client: SocketAddr,
    /// The group of the last send: usually that of the next one, which then needs no copy.
    pub(super) producer_group: Arc<str>,
}

impl Session {
    pub(super) fn new(origin: Origin, client: SocketAddr) -> Session {
        Session {
            origin,
            client,
            producer_group: "".into(),
        }
    }
}

/// The answer to a request. `None`: a broker of this release says nothing.
pub(super) fn answer(
    server: &Arc<Server>,
    session: &mut Session,
    header: &Header<'_>,
    body: &[u8],
) -> Option<Reply> {
    let shared = server.shared();
    match RequestCode::new(header.code) {
        RequestCode::SEND_MESSAGE | RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE => {
            let reply = send_message::answer(shared, session, header, body);
            request_reply::look_at_stored(server, session, header, &reply);
            Some(reply)
        }
        RequestCode::SEND_REPLY_MESSAGE | RequestCode::SEND_REPLY_MESSAGE_V2 => {
            Some(request_reply::answer(server, session, header, body))
        }
        RequestCode::END_TRANSACTION => end_transaction(shared, session, header),
        RequestCode::RECALL_MESSAGE if shared.version == ServerVersion::V5_5_0 => {
            Some(delays::answer_recall(shared, session, header))
        }
        RequestCode::HEART_BEAT => Some(heartbeat(shared, session, header, body)),
        RequestCode::UNREGISTER_CLIENT => Some(unregister(shared, session, header)),
        _ => queries::answer(shared, session.origin.broker, header).or_else(|| {
            let answers = shared.version.broker_answers_unknown_codes();
            answers.then(|| unsupported(header.code))
        }),
    }
}

fn end_transaction(shared: &Shared, session: &Session, header: &Header<'_>) -> Option<Reply> {
    match ReceivedEndTransaction::decode(header) {
        Ok(request) => shared.transactions.end(shared, session.origin.broker, &request),
        Err(error) => Some(Reply::refusal(
            ResponseCode::SYSTEM_ERROR,
            error.to_string(),
            ReplyFields::None,
        )),
    }
}

fn heartbeat(shared: &Shared, session: &Session, header: &Header<'_>, body: &[u8]) -> Reply {
    match ReceivedHeartbeat::parse(body) {
        Ok(heartbeat) => {
            shared
                .clients
                .heartbeat(session.origin, session.client, header.version, heartbeat);
            Reply::success(match shared.version {
                ServerVersion::V5_5_0 => ReplyFields::Heartbeat,
                ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => ReplyFields::None,
            })
        }
        Err(error) => Reply::refusal(ResponseCode::SYSTEM_ERROR, error.to_string(), ReplyFields::None),
    }
}

fn unregister(shared: &Shared, session: &Session, header: &Header<'_>) -> Reply {
    match ReceivedUnregister::decode(header) {
        Ok(request) => {
            shared.clients.unregister(session.origin, &request);
            Reply::success(ReplyFields::None)
        }
        Err(error) => Reply::refusal(ResponseCode::SYSTEM_ERROR, error.to_string(), ReplyFields::None),
    }
}
