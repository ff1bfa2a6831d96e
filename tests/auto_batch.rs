//! Messages that are gathered into batches: each sender gets the outcome of its own message, once and in time, whatever
//! becomes of the others.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Barrier, mpsc},
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{
    AutoBatch, Delivery, Error, Message, Phase, ProducerBuilder, RequestCode, ResponseCode, SendResult,
    Target,
    mock::{MockCluster, RequestMatch, ServerVersion},
};
use support::{GRACE, Outcome, PATIENCE, assert_says, milliseconds, producer_for, timed, within};
