//! `UNREGISTER_CLIENT` (35): takes the registration of a client back (`UnregisterClientRequestHeader`).

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};

/// The fields of the request; there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unregister<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) producer_group: &'a str,
}

impl Unregister<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("clientID", self.client_id);
        writer.text("producerGroup", self.producer_group);
    }
}

/// The request as a server reads it: either group may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedUnregister<'a> {
    pub(crate) client_id: Cow<'a, str>,
    pub(crate) producer_group: Option<Cow<'a, str>>,
    pub(crate) consumer_group: Option<Cow<'a, str>>,
}

impl<'a> ReceivedUnregister<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        match header.field("clientID") {
            Some(client_id) => Ok(Self {
                client_id,
                producer_group: header.field("producerGroup"),
                consumer_group: header.field("consumerGroup"),
            }),
            None => Err(WireError::new("request to unregister has no clientID")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ReceivedUnregister, Unregister};
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::header::{Envelope, Header, Language, encode_frame};

    #[test]
    fn what_is_written_is_read() {
        let envelope = Envelope {
            code: 35,
            opaque: 1,
            flag: 0,
            language: Language::OTHER,
            version: 513,
            remark: None,
            serialization: Serialization::Json,
        };
        let request = Unregister {
            client_id: "10.0.0.5@1234",
            producer_group: "group",
        };
        let mut out = Vec::new();
        encode_frame(&mut out, &envelope, |writer| request.write(writer), b"").unwrap();
        let (frame, _) = split_frame(&out).unwrap().unwrap();
        let expected = ReceivedUnregister {
            client_id: "10.0.0.5@1234".into(),
            producer_group: Some("group".into()),
            consumer_group: None,
        };
        assert_eq!(
            ReceivedUnregister::decode(&frame.header().unwrap()).unwrap(),
            expected
        );
    }

    #[test]
    fn the_client_must_be_named_and_the_groups_need_not() {
        let json = br#"{"code":35,"opaque":1,"extFields":{"clientID":"c"}}"#;
        let received = Header::decode(Serialization::Json, json).unwrap();
        let received = ReceivedUnregister::decode(&received).unwrap();
        assert_eq!((received.producer_group, received.consumer_group), (None, None));
        let json = br#"{"code":35,"opaque":1,"extFields":{"producerGroup":"g"}}"#;
        assert!(ReceivedUnregister::decode(&Header::decode(Serialization::Json, json).unwrap()).is_err());
    }
}
