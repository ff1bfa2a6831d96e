//! `HEART_BEAT` (34): registers the connection for producer groups. No header fields; the body is JSON
//! (`HeartbeatData`, `ProducerData`).

use crate::wire::WireError;
use crate::wire::json::{Dialect, JsonReader};
use crate::wire::json_text;
use crate::wire::limits::MAX_GROUPS_PER_HEARTBEAT;

/// Appends the body for a client that only produces.
///
/// 5.x clients add `heartbeatFingerprint` 0 and `withoutSub` false, which are the values that absent keys have.
pub(crate) fn encode_heartbeat<'g>(
    out: &mut Vec<u8>,
    client_id: &str,
    producer_groups: impl Iterator<Item = &'g str>,
) {
    out.extend_from_slice(b"{\"clientID\":");
    json_text::write_string(out, client_id);
    out.extend_from_slice(b",\"consumerDataSet\":[],\"producerDataSet\":[");
    for (position, group) in producer_groups.enumerate() {
        out.extend_from_slice(if position == 0 {
            b"{\"groupName\":"
        } else {
            b",{\"groupName\":"
        });
        json_text::write_string(out, group);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// The body as a server reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedHeartbeat {
    pub(crate) client_id: String,
    pub(crate) producer_groups: Vec<String>,
    pub(crate) consumer_groups: Vec<String>,
}

impl ReceivedHeartbeat {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        // Subscriptions of consumers are maps and sets that fastjson may write in its own dialect.
        let mut reader = JsonReader::new(body, Dialect::Fastjson)?;
        let mut client_id = None;
        let mut producer_groups = Vec::new();
        let mut consumer_groups = Vec::new();
        reader.enter_object();
        while let Some(key) = reader.next_key() {
            if key.is("clientID") {
                client_id = reader.optional_string();
            } else if key.is("producerDataSet") {
                producer_groups = read_groups(&mut reader);
            } else if key.is("consumerDataSet") {
                consumer_groups = read_groups(&mut reader);
            } else {
                reader.skip_value();
            }
        }
        reader.finish()?;
        match client_id {
            Some(client_id) => Ok(Self {
                client_id: client_id.text().into_owned(),
                producer_groups,
                consumer_groups,
            }),
            None => Err(WireError::new("heartbeat has no clientID")),
        }
    }
}

fn read_groups(reader: &mut JsonReader<'_>) -> Vec<String> {
    let mut groups = Vec::new();
    if reader.take_null() {
        return groups;
    }
    reader.enter_array();
    while reader.next_element() {
        if groups.len() == MAX_GROUPS_PER_HEARTBEAT {
            reader.fail(|| WireError::new("heartbeat has too many groups"));
        }
        let mut name = None;
        reader.enter_object();
        while let Some(key) = reader.next_key() {
            if key.is("groupName") {
                name = reader.optional_string();
            } else {
                reader.skip_value();
            }
        }
        match name {
            Some(name) => groups.push(name.text().into_owned()),
            None => reader.fail(|| WireError::new("group without a name in a heartbeat")),
        }
    }
    groups
}
