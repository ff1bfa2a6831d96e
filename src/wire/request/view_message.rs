//! `VIEW_MESSAGE_BY_ID` (33): the message at a place in a broker's commit log (`ViewMessageRequestHeader`). The reply's
//! body is one stored record.

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};

/// The fields of the request; there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViewMessage<'a> {
    /// Looked at by 5.x for access control alone.
    pub(crate) topic: &'a str,
    pub(crate) physical_offset: i64,
}

impl ViewMessage<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("topic", self.topic);
        writer.number("offset", self.physical_offset);
    }
}

/// The place that a broker is asked for.
pub(crate) fn received_offset(header: &Header<'_>) -> Result<i64, WireError> {
    header
        .number("offset")?
        .ok_or_else(|| WireError::new("request to view a message has no offset"))
}
