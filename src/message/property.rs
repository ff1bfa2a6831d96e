//! Stand-in: reserved property names.

/// Words to find the message by.
pub(crate) const KEYS: &str = "KEYS";
/// The tag that consumers filter by.
pub(crate) const TAGS: &str = "TAGS";
/// `false`: do not wait for flush and replication.
pub(crate) const WAIT: &str = "WAIT";
/// The client's own message id.
pub(crate) const UNIQ_KEY: &str = "UNIQ_KEY";

/// What separates a name from its value in the property text.
pub(crate) const NAME_VALUE_SEPARATOR: char = '\u{1}';
/// What separates one property from the next.
pub(crate) const PROPERTY_SEPARATOR: char = '\u{2}';
/// What separates keys from one another inside `KEYS`.
pub(crate) const KEY_SEPARATOR: char = ' ';
