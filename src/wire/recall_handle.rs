//! The handle by which a timer message is recalled (`RecallMessageHandle` of 5.3.2): what names the message, as text in
//! URL-safe base64.

use super::WireError;

/// `RecallMessageHandle.VERSION_1`.
const VERSION_1: &str = "v1";

/// RFC 4648, section 5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecallHandle {
    pub(crate) topic: String,
    /// The broker that holds the message.
    pub(crate) broker_name: String,
    /// When it is to be delivered, in milliseconds since 1970.
    pub(crate) deliver_at_ms: u64,
    /// The message's `UNIQ_KEY`.
    pub(crate) message_id: String,
}

impl RecallHandle {
    /// Reads a handle. More parts than there are today may follow, as Java allows.
    pub(crate) fn decode(handle: &str) -> Result<Self, WireError> {
        let text = base64_decode(handle).and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| WireError::new("it is no text in URL-safe base64"))?;
        let mut parts = text.split(' ');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let version = next();
        if version != Some(VERSION_1) {
            return Err(WireError::new(format!(
                "its version is {:.20?}, and only {VERSION_1} is known",
                version.unwrap_or_default()
            )));
        }
        let (Some(topic), Some(broker_name), Some(time), Some(message_id)) = (next(), next(), next(), next())
        else {
            return Err(WireError::new(
                "it does not name a topic, a broker, a time and a message",
            ));
        };
        let deliver_at_ms = time
            .parse()
            .map_err(|_| WireError::new(format!("its time {time:.40?} is no number")))?;
        Ok(Self {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            deliver_at_ms,
            message_id: message_id.to_owned(),
        })
    }

    /// Writes the handle as a broker does.
    pub(crate) fn encode(&self) -> String {
        let Self {
            topic,
            broker_name,
            deliver_at_ms,
            message_id,
        } = self;
        base64_encode(format!("{VERSION_1} {topic} {broker_name} {deliver_at_ms} {message_id}").as_bytes())
    }
}

fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| group.get(index).copied().map_or(0, u32::from);
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            // A group of n bytes has n + 1 characters.
            if place > group.len() {
                text.push('=');
                continue;
            }
            let index = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap_or_default();
            text.push(ALPHABET.get(index).copied().map_or('A', char::from));
        }
    }
    text
}

/// The bytes of a text with or without its padding, as Java's decoder takes both. `None`: it is none.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let unpadded = text.trim_end_matches('=');
    let padding = text.len() - unpadded.len();
    if padding > 0 && (padding > 2 || text.len() % 4 != 0) || unpadded.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(unpadded.len() / 4 * 3 + 2);
    for group in unpadded.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for place in 0..4 {
            let value = match group.get(place) {
                Some(byte) => ALPHABET.iter().position(|known| known == byte)?,
                None => 0,
            };
            bits = bits << 6 | u32::try_from(value).ok()?;
        }
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend([first, second, third].into_iter().take(group.len() - 1));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64_encode(plain.as_bytes()), text);
            assert_eq!(base64_decode(text).unwrap(), plain.as_bytes());
            assert_eq!(
                base64_decode(text.trim_end_matches('=')).unwrap(),
                plain.as_bytes()
            );
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64_decode(&base64_encode(&all)), Some(all));
        assert_eq!(base64_encode(&[0xff, 0xef]), "_-8=");
        for bad in [
            "A", "AAAAA", "A===", "AA=", "=", "AA==AA==", "+/==", "Zg==\n", "ä",
        ] {
            assert_eq!(base64_decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_handle_survives_the_round_trip_and_nothing_else_is_one() {
        let handle = RecallHandle {
            topic: "orders".to_owned(),
            broker_name: "broker-a".to_owned(),
            deliver_at_ms: 1_795_422_676_001,
            message_id: "7F0000010A5C00000001000000000001".to_owned(),
        };
        assert_eq!(RecallHandle::decode(&handle.encode()), Ok(handle.clone()));
        let more = base64_encode(b"v1 orders broker-a 1795422676001 7F0000010A5C00000001000000000001 more");
        assert_eq!(RecallHandle::decode(&more), Ok(handle));
        for (text, wanted) in [
            ("v2 orders broker-a 1 ID", "its version is \"v2\""),
            ("v1 orders broker-a 1", "does not name"),
            ("v1  broker-a 1 ID", "does not name"),
            ("v1 orders broker-a soon ID", "its time \"soon\" is no number"),
            ("v1 orders broker-a -1 ID", "is no number"),
        ] {
            let error = RecallHandle::decode(&base64_encode(text.as_bytes())).unwrap_err();
            assert!(error.reason().contains(wanted), "{text}: {error}");
        }
        for text in ["", "no handle", "7F0000010A5C00000001000000000001"] {
            assert!(RecallHandle::decode(text).is_err(), "{text}");
        }
    }
}
