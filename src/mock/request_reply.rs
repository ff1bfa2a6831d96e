//! Request and reply: what a broker does with a reply, and a replier that a test may put in the place of a consumer.
//!
//! As `ReplyMessageProcessor`: a broker looks where *it* had a heartbeat of the requester, pushes the reply there, and stores
//! it in any case.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::RwLock;

use crate::code::{RequestCode, ResponseCode};
use crate::message::property;
use crate::message::reply::{REPLY, reply_topic};
use crate::wire::frame::Serialization;
use crate::wire::header::{Envelope, Header, Language, encode_frame};
use crate::wire::properties;
use crate::wire::request::push_reply::PushReply;
use crate::wire::request::send_message::ReceivedSend;

use super::MockCluster;
use super::broker::Session;
use super::dialect::ServerVersion;
use super::line::{Line, Outgoing, Work};
use super::message::MockMessage;
use super::reply::{Reply, ReplyFields, StoredFields};
use super::scripted;
use super::send_message;
use super::server::Server;
use super::shared::CLUSTER_NAME;

/// The group that scripted repliers name.
const REPLIER_GROUP: &str = "mock_replier";

type Replier = dyn Fn(&MockMessage) -> Option<Vec<u8>> + Send + Sync;

/// Scripted repliers by topic.
#[derive(Default)]
pub(super) struct Repliers {
    any: AtomicBool,
    by_topic: RwLock<HashMap<String, Arc<Replier>>>,
}

impl Repliers {
    fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn of(&self, topic: &str) -> Option<Arc<Replier>> {
        self.by_topic.read().get(topic).cloned()
    }
}

impl fmt::Debug for Repliers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repliers").finish_non_exhaustive()
    }
}

impl MockCluster {
    /// Replies to the requests of a topic, as a consumer would: with the body that the closure makes of a request, or not at
    /// all for `None`. Only what is sent as a request is replied to, by this library's `Producer::request` or by Java's. A
    /// second replier of a topic takes the place of the first.
    ///
    /// The reply goes to the broker that stored the request, which pushes it to the requester at once, maybe before the
    /// requester hears that its request is stored, and keeps a copy in `DefaultCluster_REPLY_TOPIC`. The closure runs on a
    /// thread of the cluster. A cluster that keeps no messages does not call it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rocketmq_producer::{Message, Producer, mock::MockCluster};
    ///
    /// let cluster = MockCluster::start(1)?;
    /// cluster.reply_with("echo", |request| Some(request.body.clone()));
    /// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
    /// let reply = producer.request(&Message::new("echo", "hello")?, Duration::from_secs(3))?;
    /// assert_eq!(reply.body(), b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reply_with(
        &self,
        topic: impl Into<String>,
        replier: impl Fn(&MockMessage) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) {
        let repliers = &self.shared.repliers;
        repliers.by_topic.write().insert(topic.into(), Arc::new(replier));
        repliers.any.store(true, Ordering::Release);
    }
}

/// Answers a reply (324 and 325). Unlike real brokers, which wait up to 10 s for the requester's answer first.
pub(super) fn answer(server: &Arc<Server>, session: &mut Session, header: &Header<'_>, body: &[u8]) -> Reply {
    let shared = server.shared();
    match send_message::decode(shared, session, header, body) {
        Ok(send) => take_in(server, session, &send, body),
        Err(refusal) => refusal,
    }
}

fn take_in(server: &Arc<Server>, session: &Session, send: &ReceivedSend<'_>, body: &[u8]) -> Reply {
    let shared = server.shared();
    let text = reply_properties(shared.version, &send.properties);
    let rules = shared.version.reading_rules();
    let pushed = match properties::find(&text, property::REPLY_TO_CLIENT, rules) {
        None => Err(format!(
            "reply message properties[{}] is null",
            property::REPLY_TO_CLIENT
        )),
        Some(client_id) => match reply_line(server, session, client_id) {
            None => Err(format!(
                "push reply message fail, channel of <{client_id}> not found."
            )),
            Some(line) => {
                push(server, &line, &push_of(server, session, send, &text), body);
                Ok(())
            }
        },
    };
    let stored = send_message::keep_reply(shared, session, send, body, &text);
    match (stored, pushed) {
        (Err(refusal), _) => refusal,
        (Ok(stored), Ok(())) => Reply::success(ReplyFields::Stored(stored)),
        // Stored all the same, and the answer says where.
        (Ok(stored), Err(remark)) => {
            Reply::refusal(ResponseCode::SYSTEM_ERROR, remark, ReplyFields::Stored(stored))
        }
    }
}

/// The properties of a reply as they are pushed and stored: 5.5.0 adds its region and trace switch.
fn reply_properties(version: ServerVersion, sent: &str) -> String {
    match version {
        ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => sent.to_owned(),
        ServerVersion::V5_5_0 => send_message::with_region(version, sent),
    }
}

fn reply_line(server: &Server, session: &Session, client_id: &str) -> Option<Arc<Line>> {
    let broker = session.origin.broker;
    let connection = server.shared().clients.reply_connection(broker, client_id)?;
    server.lines().into_iter().find(|line| line.id == connection)
}

fn push_of<'a>(server: &Server, session: &Session, send: &'a ReceivedSend<'_>, text: &str) -> PushReply<'a> {
    let now = server.shared().delays.now_ms();
    let mut with_time = format!("{}\u{1}{now}\u{2}", property::PUSH_REPLY_TIME);
    with_time.push_str(text);
    let slash = match server.shared().version {
        ServerVersion::V4_7_0 => "/",
        ServerVersion::V4_9_7 | ServerVersion::V5_5_0 => "",
    };
    PushReply {
        producer_group: Cow::Borrowed(&send.producer_group),
        topic: Cow::Borrowed(&send.topic),
        default_topic: Cow::Borrowed(&send.default_topic),
        default_topic_queue_nums: send.default_topic_queue_nums,
        queue_id: send.queue_id,
        sys_flag: send.sys_flag,
        born_timestamp_ms: send.born_timestamp_ms,
        flag: send.flag,
        properties: Cow::Owned(with_time),
        reconsume_times: send.reconsume_times,
        unit_mode: send.unit_mode,
        born_host: Cow::Owned(format!("{slash}{}", session.client)),
        store_host: Cow::Owned(format!("{slash}{}", server.address())),
        store_timestamp_ms: i64::try_from(now).unwrap_or(i64::MAX),
    }
}

fn push(server: &Arc<Server>, line: &Arc<Line>, push: &PushReply<'_>, body: &[u8]) {
    let envelope = Envelope {
        code: RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT.value(),
        opaque: server.pushes.number(),
        flag: 0,
        language: Language::JAVA,
        version: server.shared().version.ordinal(),
        remark: None,
        serialization: Serialization::Json,
    };
    let mut bytes = Vec::new();
    // What came in one frame fits into another.
    if encode_frame(&mut bytes, &envelope, |writer| push.write(writer), body).is_ok() {
        let outgoing = Outgoing {
            bytes,
            ..Outgoing::default()
        };
        scripted::queue(server, line, Instant::now(), Work::Write(outgoing));
    }
}

/// Has a scripted replier look at what has just been stored.
pub(super) fn look_at_stored(server: &Arc<Server>, session: &Session, header: &Header<'_>, reply: &Reply) {
    let shared = server.shared();
    if !shared.repliers.is_any() {
        return;
    }
    let ReplyFields::Stored(stored) = &reply.fields else {
        return;
    };
    let Ok(send) = ReceivedSend::decode(header) else {
        return;
    };
    let Some(replier) = shared.repliers.of(&send.topic) else {
        return;
    };
    let Some(request) = stored_request(server, session, &send.topic, stored) else {
        return;
    };
    let value = |name| request.property(name).map(str::to_owned);
    let (Some(correlation_id), Some(client_id)) =
        (value(property::CORRELATION_ID), value(property::REPLY_TO_CLIENT))
    else {
        return;
    };
    let Some(body) = replier(&request) else {
        return;
    };
    let mut text = String::new();
    let ttl = value(property::TTL).unwrap_or_else(|| "0".to_owned());
    let unique_key = send_message::unique_key_of(shared, server.address());
    let pairs = [
        (property::MSG_TYPE, REPLY),
        (property::CORRELATION_ID, &correlation_id),
        (property::REPLY_TO_CLIENT, &client_id),
        (property::TTL, &ttl),
        (property::UNIQ_KEY, &unique_key),
    ];
    properties::append(&mut text, pairs);
    let send = ReceivedSend {
        producer_group: REPLIER_GROUP.into(),
        topic: reply_topic(CLUSTER_NAME).into(),
        default_topic: "".into(),
        default_topic_queue_nums: 0,
        queue_id: 0,
        sys_flag: 0,
        born_timestamp_ms: i64::try_from(shared.delays.now_ms()).unwrap_or(i64::MAX),
        flag: 0,
        properties: text.into(),
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    };
    let session = Session::new(session.origin, server.address());
    // A requester that has left gets nothing, as from a real broker.
    drop(take_in(server, &session, &send, &body));
}

fn stored_request(
    server: &Server,
    session: &Session,
    topic: &str,
    stored: &StoredFields,
) -> Option<MockMessage> {
    let shared = server.shared();
    let place = (session.origin.broker, stored.queue_id, stored.queue_offset);
    let record = shared.store.find(topic, place)?;
    Some(MockMessage::new(shared, topic, &record))
}
