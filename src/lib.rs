#![deny(clippy::print_stdout, clippy::print_stderr)]
#![doc = include_str!("../README.md")]
//!
//! # What is logged
//!
//! Through the `log` crate: `error` for a callback that panicked; `warn` for what someone should look at, such as a peer
//! that breaks the protocol or a broker that refuses heartbeats; `info` for start, end, new routes and lost connections;
//! `debug` for each connection and failed attempt; `trace` for heartbeats. Never a message body, a property value or a
//! secret. The library prints nothing and writes no files.
//!
//! # Threads
//!
//! One timer per producer; one reader per connection, and one writer for those that carry asynchronous or one-way
//! messages; up to `callback_threads` workers once a message is sent asynchronously; up to `transaction_check_threads` that ask
//! the listener of a transactional producer; and a thread that lives as long as a
//! connection is being made. A producer that sends to one broker in the blocking way has three: the timer, and a reader each
//! for the name server and the broker.

mod cluster;
mod code;
mod config;
mod error;
pub mod guide;
mod message;
#[cfg(feature = "mock")]
pub mod mock;
mod net;
mod producer;
mod wire;

pub use code::{RequestCode, ResponseCode};
pub use config::{AutoBatch, EndTransactions, FaultTable, HeaderSerialization, Redelivery};
pub use error::{
    Attempt, BrokerFailure, Delivery, Error, FailedOnBrokers, FailedSend, NoReply, NoReplyCause, Phase,
    Written,
};
pub use message::{
    Batch, CompressionType, Message, MessageBuilder, MessageId, MessageQueue, OffsetMessageId, StoredMessage,
};
pub use producer::{
    Aimed, AnyMessageId, BatchFailure, BatchResult, Boundary, BrokerStats, Check, CheckOutcome, CreatedTopic,
    Diagnosis, DiagnosisStep, FailureCounts, FoundMessages, Full, LastError, Latency, LocalTransaction,
    NameServerStats, NewTopic, Outcomes, Producer, ProducerBuilder, Queries, Reply, RequestCounts,
    RetryCounts, SendCounts, SendFailure, SendResult, SendStatus, ShutdownReport, Stats, Target, TopicStats,
    TransactionEnd, TransactionListener, TransactionProducer, TransactionSendResult, Unflushed,
};
