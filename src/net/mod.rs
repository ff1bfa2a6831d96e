//! Sockets and threads. Knows frames, opaques and deadlines; never a topic, a queue or a message.

mod company;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod deadline;
pub(crate) mod dial;
mod end_cause;
pub(crate) mod histogram;
pub(crate) mod in_flight;
pub(crate) mod inbound;
pub(crate) mod meter;
mod outgoing;
mod redial;
pub(crate) mod sync;
pub(crate) mod timer;
pub(crate) mod waiter;
pub(crate) mod workers;
