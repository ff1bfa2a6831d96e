//! What the programs in `benches/` are made of.

#![allow(dead_code, reason = "no program uses every part")]

pub(crate) mod arguments;
pub(crate) mod driver;
pub(crate) mod histogram;
pub(crate) mod meter;
pub(crate) mod process;

/// Whatever ends a program early; `main` prints it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
