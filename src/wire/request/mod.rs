//! One file for each request, named as the protocol names it: the header fields, the body, and the reply.

pub(crate) mod heartbeat;
pub(crate) mod push_reply;
pub(crate) mod route;
pub(crate) mod send_message;
pub(crate) mod unregister;
