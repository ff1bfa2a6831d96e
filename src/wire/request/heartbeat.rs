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

#[cfg(test)]
mod tests {
    use super::{ReceivedHeartbeat, encode_heartbeat};
    use crate::wire::limits::MAX_GROUPS_PER_HEARTBEAT;

    fn parse(text: &str) -> Result<ReceivedHeartbeat, String> {
        ReceivedHeartbeat::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn is_written_as_java_writes_it() {
        let mut out = Vec::new();
        encode_heartbeat(
            &mut out,
            "10.0.0.5@1234",
            ["CLIENT_INNER_PRODUCER", "my_group"].into_iter(),
        );
        // From `HeartbeatData` of 4.7.0.
        let expected = r#"{"clientID":"10.0.0.5@1234","consumerDataSet":[],"producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"},{"groupName":"my_group"}]}"#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        let received = ReceivedHeartbeat::parse(&out).unwrap();
        assert_eq!(received.client_id, "10.0.0.5@1234");
        assert_eq!(received.producer_groups, ["CLIENT_INNER_PRODUCER", "my_group"]);
        assert!(received.consumer_groups.is_empty());
    }

    #[test]
    fn odd_names_are_escaped() {
        let mut out = Vec::new();
        encode_heartbeat(&mut out, "a\"b\n", ["\u{4e2d}\\"].into_iter());
        let received = ReceivedHeartbeat::parse(&out).unwrap();
        assert_eq!(
            (received.client_id.as_str(), received.producer_groups),
            ("a\"b\n", vec!["\u{4e2d}\\".to_owned()])
        );
    }

    #[test]
    fn consumers_and_later_keys_are_read_over() {
        // [probe] `consumerDataSet` may be missing; 5.x adds the fingerprint.
        let text = r#"{"clientID":"c","heartbeatFingerprint":0,"producerDataSet":null,"withoutSub":false}"#;
        assert!(parse(text).unwrap().producer_groups.is_empty());
        let text = r#"{"clientID":"c","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","groupName":"cg","subscriptionDataSet":[{"codeSet":[1],"topic":"t"}]}],"producerDataSet":[]}"#;
        assert_eq!(parse(text).unwrap().consumer_groups, ["cg"]);
    }

    #[test]
    fn what_is_no_heartbeat_is_an_error() {
        for (text, expected) in [
            ("{}", "heartbeat has no clientID"),
            (r#"{"clientID":null}"#, "heartbeat has no clientID"),
            (
                r#"{"clientID":"c","producerDataSet":[{}]}"#,
                "group without a name in a heartbeat",
            ),
            (
                r#"{"clientID":"c","producerDataSet":["g"]}"#,
                "no object at byte 35 of the JSON text",
            ),
            (
                r#"{"clientID":"c""#,
                "JSON text ends where comma or end of object was expected",
            ),
            ("", "JSON text ends where object was expected"),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn the_number_of_groups_has_a_limit() {
        let mut out = Vec::new();
        encode_heartbeat(&mut out, "c", std::iter::repeat_n("g", MAX_GROUPS_PER_HEARTBEAT));
        assert_eq!(
            ReceivedHeartbeat::parse(&out).unwrap().producer_groups.len(),
            MAX_GROUPS_PER_HEARTBEAT
        );
        out.clear();
        encode_heartbeat(
            &mut out,
            "c",
            std::iter::repeat_n("g", MAX_GROUPS_PER_HEARTBEAT + 1),
        );
        assert_eq!(
            ReceivedHeartbeat::parse(&out).unwrap_err().reason(),
            "heartbeat has too many groups"
        );
    }
}
