//! Stand-in: what `wire` uses of the message room.

pub(crate) mod id;
pub(crate) mod property;
