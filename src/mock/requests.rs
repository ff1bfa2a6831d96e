//! A request as tests and the closures of rules see it, and the log of requests.

use std::net::SocketAddr;
use std::time::Instant;

use crate::code::RequestCode;
use crate::message::id::MessageId;
use crate::message::property;
use crate::wire::header::Header;
use crate::wire::properties::{self, ReadingRules};

/// A request as a server of the embedded cluster received it.
///
/// ```
/// use rocketmq_producer::{Message, Producer, RequestCode, mock::MockCluster};
///
/// let cluster = MockCluster::start(1)?;
/// cluster.record_requests();
/// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
/// producer.send(&Message::new("orders", "first")?)?;
/// let requests = cluster.request_log();
/// let send = requests.iter().find(|request| request.code == RequestCode::SEND_MESSAGE_V2).expect("it was sent");
/// assert_eq!(send.topic.as_deref(), Some("orders"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MockRequest {
    /// The broker's name, or `name-server-1`, `name-server-2`, … for a name server.
    pub server_name: String,
    /// What is asked for.
    pub code: RequestCode,
    /// The number that the answer is to carry.
    pub opaque: i32,
    /// Whether no answer is wanted.
    pub is_oneway: bool,
    /// The topic that it names.
    pub topic: Option<String>,
    /// Property `UNIQ_KEY` of the message that it sends. Not of a batch.
    pub message_id: Option<MessageId>,
    /// Number of the connection: each server counts its own from 0.
    pub connection: u64,
    /// The client's end of the connection.
    pub client_address: SocketAddr,
    /// When it had been read.
    pub received_at: Instant,
    /// The header fields, in the order of the wire.
    pub fields: Vec<(String, String)>,
    /// The body: of a send the message's own.
    pub body: Vec<u8>,
}

impl MockRequest {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        // The last of a name counts.
        self.fields
            .iter()
            .rev()
            .find(|field| field.0 == name)
            .map(|field| field.1.as_str())
    }

    pub(super) fn new(
        server_name: &str,
        connection: u64,
        client_address: SocketAddr,
        header: &Header<'_>,
        body: &[u8],
    ) -> MockRequest {
        let code = RequestCode::new(header.code);
        let properties = match code {
            RequestCode::SEND_MESSAGE => header.field("properties"),
            RequestCode::SEND_MESSAGE_V2 => header.field("i"),
            _ => None,
        };
        let message_id = properties
            .and_then(|text| {
                properties::find(&text, property::UNIQ_KEY, ReadingRules::V4_9).map(MessageId::from_text)
            })
            .flatten();
        MockRequest {
            server_name: server_name.to_owned(),
            code,
            opaque: header.opaque,
            is_oneway: header.is_oneway(),
            topic: topic(header).map(std::borrow::Cow::into_owned),
            message_id,
            connection,
            client_address,
            received_at: Instant::now(),
            fields: header
                .fields
                .iter()
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
            body: body.to_vec(),
        }
    }
}

/// The topic that a request names.
pub(super) fn topic<'a>(header: &Header<'a>) -> Option<std::borrow::Cow<'a, str>> {
    match RequestCode::new(header.code) {
        RequestCode::SEND_MESSAGE_V2
        | RequestCode::SEND_BATCH_MESSAGE
        | RequestCode::SEND_REPLY_MESSAGE_V2 => header.field("b"),
        _ => header.field("topic"),
    }
}
