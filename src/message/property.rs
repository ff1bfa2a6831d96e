//! Stand-in: reserved property names.

/// The client's own message id.
pub(crate) const UNIQ_KEY: &str = "UNIQ_KEY";

/// Words to find the message by.
pub(crate) const KEYS: &str = "KEYS";

/// The tag that consumers filter by.
pub(crate) const TAGS: &str = "TAGS";
