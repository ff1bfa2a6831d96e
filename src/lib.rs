//! placeholder

mod cluster;
mod code;
mod config;
mod error;
mod message;
#[cfg(feature = "mock")]
pub mod mock;
mod net;
mod producer;
mod wire;

pub use code::{RequestCode, ResponseCode};
pub use config::HeaderSerialization;
pub use error::{Attempt, Delivery, Error, FailedSend, Phase, Written};
pub use message::{Message, MessageBuilder, MessageId, MessageQueue, OffsetMessageId};
pub use producer::{Aimed, Producer, ProducerBuilder, SendFailure, SendResult, SendStatus, ShutdownReport, Target};
