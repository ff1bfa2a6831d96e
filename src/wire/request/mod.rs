//! One file for each request, named as the protocol names it: the header fields, the body, and the reply.

pub(crate) mod check_transaction;
pub(crate) mod create_topic;
pub(crate) mod end_transaction;
pub(crate) mod heartbeat;
pub(crate) mod push_reply;
pub(crate) mod query_message;
pub(crate) mod queue_query;
pub(crate) mod recall_message;
pub(crate) mod route;
pub(crate) mod send_message;
pub(crate) mod static_topic;
pub(crate) mod unregister;
pub(crate) mod view_message;
