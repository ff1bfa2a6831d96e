//! Bytes to values and back: frames, headers, requests and their replies.
//!
//! Pure: no sockets, no threads, no locks, no clocks, no logging. What comes from the network is never trusted:
//! every length is checked against [`limits`] before anything is allocated, and every failure is a [`WireError`].

// The tests with the mock use every item, so a forgotten one is still found there.
#![cfg_attr(
    not(all(test, feature = "mock")),
    allow(
        dead_code,
        reason = "the room speaks for both sides: the mock reads what the producer writes"
    )
)]

pub(crate) mod command;
pub(crate) mod compression;
pub(crate) mod decimal;
pub(crate) mod frame;
#[cfg(test)]
mod golden;
pub(crate) mod header;
pub(crate) mod header_binary;
pub(crate) mod header_json;
pub(crate) mod id;
pub(crate) mod json;
pub(crate) mod json_text;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod properties;
pub(crate) mod reply_shape;
pub(crate) mod request;
pub(crate) mod stored_message;
pub(crate) mod template;

use std::borrow::Cow;
use std::fmt;

/// Bytes that are not what the protocol says, or a value that the protocol cannot carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireError {
    reason: Cow<'static, str>,
}

impl WireError {
    /// An error whose text is `reason`, complete in itself.
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
        }
    }

    /// What was wrong.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for WireError {}
