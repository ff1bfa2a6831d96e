//! Message ids as values: short ASCII text held in place, so that a result can be copied and logged without
//! allocating. How ids are built and taken apart is the business of `wire::id`.

use std::{fmt, hash};

/// The longest id of RocketMQ is 56 characters (28 bytes in hex, IPv6); a little room is left for servers to come.
pub(crate) const ID_CAPACITY: usize = 62;

/// Text of at most [`ID_CAPACITY`] printable ASCII characters, stored inline.
#[derive(Clone, Copy)]
struct ShortText {
    length: u8,
    bytes: [u8; ID_CAPACITY],
}

impl ShortText {
    fn from_bytes(text: &[u8]) -> Option<Self> {
        let length = u8::try_from(text.len()).ok()?;
        let mut bytes = [0; ID_CAPACITY];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        // Without leaving early, so that many bytes are looked at in one step.
        let is_printable = text.iter().fold(true, |all, byte| all & byte.is_ascii_graphic());
        is_printable.then_some(Self { length, bytes })
    }

    fn as_str(&self) -> &str {
        // Only ASCII gets in, so the fallbacks are never taken.
        self.bytes
            .get(..usize::from(self.length))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name(ShortText);

        impl $name {
            /// Takes over an id in text form; `None` for text that is empty, longer than 62 bytes or not printable
            /// ASCII.
            pub fn from_text(text: &str) -> Option<Self> {
                Self::from_bytes(text.as_bytes())
            }

            pub(crate) fn from_bytes(text: &[u8]) -> Option<Self> {
                if text.is_empty() {
                    return None;
                }
                ShortText::from_bytes(text).map(Self)
            }

            /// Takes over digits that this library has made itself: the first `length` of them.
            #[inline]
            pub(crate) fn from_digits(digits: [u8; ID_CAPACITY], length: usize) -> Self {
                debug_assert!(digits.iter().take(length).all(u8::is_ascii_hexdigit));
                Self(ShortText {
                    length: u8::try_from(length).unwrap_or_default(),
                    bytes: digits,
                })
            }

            /// The id as text, as RocketMQ's tools print it.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.as_str())
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl hash::Hash for $name {
            fn hash<H: hash::Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
    };
}

id_type! {
    /// The id that the client gives a message: the `UNIQ_KEY` property, upper-case hex of 16 bytes (28 on IPv6).
    ///
    /// It is made once per send and kept over all attempts, so copies of one message carry the same id. Apache's
    /// tools find a message by it (`queryMsgByUniqueKey`).
    ///
    /// ```
    /// use rocketmq_producer::MessageId;
    ///
    /// let id = MessageId::from_text("7F0000010A5C00000001000000000001").expect("a short ASCII text");
    /// assert_eq!(id.as_str(), "7F0000010A5C00000001000000000001");
    /// assert_eq!(MessageId::from_text(""), None);
    /// ```
    #[doc(alias = "UNIQ_KEY")]
    #[doc(alias = "msgId")]
    MessageId
}

id_type! {
    /// The id that the broker gives a stored message: the broker's address and the position in its commit log, in
    /// upper-case hex.
    ///
    /// The form is the same as that of a [`MessageId`], so the two are types of their own here. For delayed and half
    /// messages it names the copy in the system topic.
    ///
    /// ```
    /// use rocketmq_producer::OffsetMessageId;
    ///
    /// let id = OffsetMessageId::from_text("7F00000100002A9F0000000000000126").expect("a short ASCII text");
    /// assert_eq!(id.to_string(), "7F00000100002A9F0000000000000126");
    /// ```
    #[doc(alias = "offsetMsgId")]
    OffsetMessageId
}

impl OffsetMessageId {
    /// The same text in the place of an id that the sender has not given (as `MessageExt.getMsgId`).
    pub(crate) fn for_sender(self) -> MessageId {
        MessageId(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_cannot_be_an_id_is_refused() {
        assert_eq!(MessageId::from_text(""), None);
        assert_eq!(MessageId::from_text("with space"), None);
        assert_eq!(MessageId::from_text("ä"), None);
        assert_eq!(MessageId::from_text(&"A".repeat(63)), None);
        assert_eq!(
            MessageId::from_text(&"A".repeat(62)).map(|id| id.as_str().len()),
            Some(62)
        );
        assert_eq!(
            OffsetMessageId::from_text("0").map(|id| id.to_string()),
            Some("0".to_owned())
        );
    }
}
