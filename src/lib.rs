//! Stand-in crate root: names the modules only.
#![allow(dead_code, reason = "the rooms above wire are not here yet")]

mod code;
mod message;
#[cfg(feature = "mock")]
pub mod mock;
mod wire;

pub use code::{RequestCode, ResponseCode};
pub use message::id::{MessageId, OffsetMessageId};
