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
