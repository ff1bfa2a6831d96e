//! Stand-in: reserved property names.

/// The client's own message id.
pub(crate) const UNIQ_KEY: &str = "UNIQ_KEY";
