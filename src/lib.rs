//! placeholder

mod code;
mod error;
mod message;
mod net;
mod wire;

pub use code::{RequestCode, ResponseCode};
pub use error::*;
pub use message::{Message, MessageBuilder, MessageId, MessageQueue, OffsetMessageId};
