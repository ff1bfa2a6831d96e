//! Stand-in: message ids as inline text.

use std::fmt;

macro_rules! inline_id {
    ($name:ident) => {
        /// Inline ASCII text of at most 62 bytes.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name {
            length: u8,
            text: [u8; 62],
        }

        impl $name {
            /// `None` for empty, non-ASCII or too long text.
            pub fn from_text(text: &str) -> Option<Self> {
                if text.is_empty() || !text.is_ascii() {
                    return None;
                }
                let length = u8::try_from(text.len()).ok()?;
                let mut bytes = [0; 62];
                bytes
                    .get_mut(..text.len())?
                    .copy_from_slice(text.as_bytes());
                Some(Self {
                    length,
                    text: bytes,
                })
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                let bytes = self
                    .text
                    .get(..usize::from(self.length))
                    .unwrap_or_default();
                std::str::from_utf8(bytes).unwrap_or_default()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    length: 0,
                    text: [0; 62],
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

inline_id!(MessageId);
inline_id!(OffsetMessageId);
