//! Chapters of the manual that belong to no single item.

#[doc = include_str!("differences.md")]
pub mod differences {}

#[doc = include_str!("diagnosing.md")]
pub mod diagnosing {}

#[doc = include_str!("order.md")]
pub mod order {}

#[doc = include_str!("outcomes.md")]
pub mod outcomes {}
