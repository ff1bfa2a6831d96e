//! An owned command, for the mock and for tests. Senders and readers use the borrowed view in `header.rs` instead.

use super::WireError;
use super::frame::{FrameRef, Serialization};
use super::header::{Envelope, Header, Language, encode_frame};

/// A whole command, decoded from a frame or to be encoded as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) code: i32,
    pub(crate) language: Language,
    pub(crate) version: i32,
    pub(crate) opaque: i32,
    pub(crate) flag: i32,
    pub(crate) remark: Option<String>,
    /// In the order of the wire.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) serialization: Serialization,
    pub(crate) body: Vec<u8>,
}

impl Command {
    pub(crate) fn decode(frame: FrameRef<'_>) -> Result<Self, WireError> {
        let Header {
            code,
            opaque,
            flag,
            version,
            language,
            remark,
            fields,
        } = frame.header()?;
        Ok(Self {
            code,
            language,
            version,
            opaque,
            flag,
            remark: remark.map(std::borrow::Cow::into_owned),
            fields: fields
                .iter()
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
            serialization: frame.serialization,
            body: frame.body.to_vec(),
        })
    }

    /// Appends the command as one frame; on an error `out` is as it was.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let envelope = Envelope {
            code: self.code,
            opaque: self.opaque,
            flag: self.flag,
            language: self.language,
            version: self.version,
            remark: self.remark.as_deref(),
            serialization: self.serialization,
        };
        let write_fields = |writer: &mut super::header::FieldWriter<'_>| {
            for (name, value) in &self.fields {
                writer.text(name, value);
            }
        };
        encode_frame(out, &envelope, write_fields, &self.body)
    }

    /// The value of a field; of fields with the same name the last counts.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Command;
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::header::Language;

    fn command(serialization: Serialization) -> Command {
        Command {
            code: 1,
            language: Language::JAVA,
            version: 407,
            opaque: -9,
            flag: 1,
            remark: Some("[REJECTREQUEST]system busy".to_owned()),
            fields: [("a", "1"), ("b", "2"), ("a", "3")]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
            serialization,
            body: b"body".to_vec(),
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let sent = command(serialization);
            let mut out = b"before".to_vec();
            sent.encode(&mut out).unwrap();
            let (frame, used) = split_frame(&out[6..]).unwrap().unwrap();
            assert_eq!(used, out.len() - 6);
            let received = Command::decode(frame).unwrap();
            assert_eq!(received, sent);
            assert_eq!(
                (received.field("a"), received.field("b"), received.field("c")),
                (Some("3"), Some("2"), None)
            );
        }
    }

    #[test]
    fn what_cannot_be_encoded_leaves_the_buffer_as_it_was() {
        let mut out = b"before".to_vec();
        assert!(
            Command {
                code: 200_050,
                ..command(Serialization::Binary)
            }
            .encode(&mut out)
            .is_err()
        );
        assert_eq!(out, b"before");
    }
}
