//! Whole frames of real clients and servers: every header field and body, our own encoding of them, and the requests
//! and replies that a producer knows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::bodies::{check_heartbeat, check_route};
use super::transactions::{check_check, check_end};
use super::{Checked, Tally, bytes, name_of, number, queries, reason, same, text};
use crate::code::{RequestCode, ResponseCode};
use crate::wire::command::Command;
use crate::wire::frame::{FrameRef, Serialization, split_frame};
use crate::wire::header::{Envelope, FieldWriter, Header, Language, encode_frame};
use crate::wire::request::push_reply::PushReply;
use crate::wire::request::recall_message::{RecallMessage, ReceivedRecall};
use crate::wire::request::route::{GetRoute, ReceivedGetRoute};
use crate::wire::request::send_message::{PropertyList, ReceivedSend, SendMessage, SendReply};
use crate::wire::request::unregister::{ReceivedUnregister, Unregister};

pub(super) const BOTH_FORMS: [Serialization; 2] = [Serialization::Json, Serialization::Binary];

pub(super) fn check(rows: &[Value], tally: &mut Tally) {
    // A reply does not say what it answers; the request of the same pair does.
    let requests: HashMap<&str, i64> = rows
        .iter()
        .filter(|row| row["decoded"]["flag"].as_i64().is_some_and(|flag| flag & 1 == 0))
        .filter_map(|row| Some((row["pair"].as_str()?, row["decoded"]["code"].as_i64()?)))
        .collect();
    for row in rows {
        let name = name_of(row);
        let request_code = row["pair"]
            .as_str()
            .and_then(|pair| requests.get(pair))
            .and_then(|code| i32::try_from(*code).ok());
        let frame = match row["frame_hex"]
            .as_str()
            .ok_or("frame_hex is no text".to_owned())
            .and_then(bytes)
        {
            Ok(frame) => frame,
            Err(error) => {
                tally.record("frame", &name, Err(error));
                continue;
            }
        };
        let outcome = check_row(row, &frame);
        let is_sound = outcome.is_ok();
        tally.record("frame", &name, outcome);
        if is_sound {
            check_meaning(&name, &frame, request_code.map(RequestCode::new), tally);
        }
    }
}

fn whole_frame(frame: &[u8]) -> Result<FrameRef<'_>, String> {
    match split_frame(frame).map_err(reason)? {
        Some((found, used)) if used == frame.len() => Ok(found),
        Some(_) => Err("bytes left over behind the frame".to_owned()),
        None => Err("the frame is not whole".to_owned()),
    }
}

fn check_row(row: &Value, frame: &[u8]) -> Checked {
    let found = whole_frame(frame)?;
    let decoded = &row["decoded"];
    if let Some(form) = row["serialize"].as_str() {
        let expected = if form == "json" {
            Serialization::Json
        } else {
            Serialization::Binary
        };
        same("serialization", &found.serialization, &expected)?;
    }
    check_header(&found.header().map_err(reason)?, decoded)?;
    if let Some(expected) = decoded["body_hex"].as_str() {
        same("body", &found.body, &bytes(expected)?)?;
    } else {
        same(
            "length of the body",
            &found.body.len(),
            &number::<usize>(decoded, "body_len")?,
        )?;
        same(
            "digest of the body",
            &hex(&Sha256::digest(found.body)),
            &text(decoded, "body_sha256")?,
        )?;
    }
    check_encoding(frame, found)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn check_header(header: &Header<'_>, decoded: &Value) -> Checked {
    same("code", &header.code, &number::<i32>(decoded, "code")?)?;
    same("opaque", &header.opaque, &number::<i32>(decoded, "opaque")?)?;
    same("flag", &header.flag, &number::<i32>(decoded, "flag")?)?;
    same("version", &header.version, &number::<i32>(decoded, "version")?)?;
    // Names outside of the protocol's list, and none, are all unknown.
    let expected = decoded["language"]
        .as_str()
        .filter(|name| Language::from_name(name) != Language::UNKNOWN);
    same("language", &header.language.name(), &expected)?;
    same("remark", &header.remark.as_deref(), &decoded["remark"].as_str())?;
    let found = fields(header);
    let expected: BTreeMap<String, String> = match decoded["extFields"].as_object() {
        Some(object) => {
            let value = |value: &Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), ToOwned::to_owned)
            };
            object
                .iter()
                .filter(|(_, text)| !text.is_null())
                .map(|(name, text)| (name.clone(), value(text)))
                .collect()
        }
        None => BTreeMap::new(),
    };
    for (name, value) in &expected {
        same(name, &header.field(name).as_deref(), &Some(value.as_str()))?;
    }
    same("the fields", &found, &expected)
}

/// A binary frame must come out as the same bytes; a JSON frame, whose order is free, as the same command.
fn check_encoding(frame: &[u8], found: FrameRef<'_>) -> Checked {
    let command = Command::decode(found).map_err(reason)?;
    let mut ours = Vec::new();
    command.encode(&mut ours).map_err(reason)?;
    if found.serialization == Serialization::Binary {
        same("our frame", &hex(&ours), &hex(frame))?;
    }
    same(
        "our frame, read back",
        &Command::decode(whole_frame(&ours)?).map_err(reason)?,
        &command,
    )
}

/// Checks what a producer or the mock makes of the command, if it is one that they know.
fn check_meaning(name: &str, frame: &[u8], request_code: Option<RequestCode>, tally: &mut Tally) {
    let (Ok(found), Some(code)) = (whole_frame(frame), request_code) else {
        return;
    };
    let Ok(header) = found.header() else { return };
    if let Some((kind, outcome)) = queries::check(code, &header, found.body) {
        return tally.record(kind, name, outcome);
    }
    let is_send = matches!(
        code,
        RequestCode::SEND_MESSAGE
            | RequestCode::SEND_MESSAGE_V2
            | RequestCode::SEND_BATCH_MESSAGE
            | RequestCode::SEND_REPLY_MESSAGE
            | RequestCode::SEND_REPLY_MESSAGE_V2
    );
    if header.is_response() {
        let is_stored = matches!(ResponseCode::new(header.code).value(), 0 | 10 | 11 | 12);
        if is_send && is_stored {
            tally.record("reply to a send", name, check_send_reply(&header));
        } else if is_send {
            let refused = SendReply::decode(&header)
                .err()
                .map(|_| ())
                .ok_or("a refusal reads as a success".to_owned());
            tally.record("refused send", name, refused);
        } else if code == RequestCode::GET_ROUTEINFO_BY_TOPIC && header.code == 0 {
            tally.record("route", name, check_route(found.body));
        }
    } else if is_send {
        tally.record("send", name, check_send(&header));
    } else if code == RequestCode::GET_ROUTEINFO_BY_TOPIC {
        tally.record("request for a route", name, check_get_route(&header));
    } else if code == RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT {
        tally.record("pushed reply", name, check_push_reply(&header, found.body));
    } else if code == RequestCode::UNREGISTER_CLIENT {
        tally.record("unregister", name, check_unregister(&header));
    } else if code == RequestCode::RECALL_MESSAGE {
        tally.record("recall", name, check_recall(&header));
    } else if code == RequestCode::HEART_BEAT {
        tally.record("heartbeat", name, check_heartbeat(found.body));
    } else if code == RequestCode::END_TRANSACTION {
        tally.record("end of a transaction", name, check_end(&header));
    } else if code == RequestCode::CHECK_TRANSACTION_STATE {
        tally.record("check of a transaction", name, check_check(&header, found.body));
    }
}

/// Encodes a frame with our own writer and hands its header to `check`.
pub(super) fn written(
    like: &Header<'_>,
    serialization: Serialization,
    write_fields: impl FnOnce(&mut FieldWriter<'_>),
    check: impl FnOnce(&Header<'_>) -> Checked,
) -> Checked {
    let envelope = Envelope {
        code: like.code,
        opaque: like.opaque,
        flag: like.flag,
        language: like.language,
        version: like.version,
        remark: like.remark.as_deref(),
        serialization,
    };
    let mut ours = Vec::new();
    encode_frame(&mut ours, &envelope, write_fields, b"body").map_err(reason)?;
    let header = whole_frame(&ours)?.header().map_err(reason)?;
    same("our opaque", &header.opaque, &like.opaque)?;
    same("our code", &header.code, &like.code)?;
    check(&header)
}

/// Names of what every send must have, long and short (`SendMessageRequestHeader`, `…V2`).
const REQUIRED: [[&str; 2]; 8] = [
    ["producerGroup", "a"],
    ["topic", "b"],
    ["defaultTopic", "c"],
    ["defaultTopicQueueNums", "d"],
    ["queueId", "e"],
    ["sysFlag", "f"],
    ["bornTimestamp", "g"],
    ["flag", "h"],
];

fn check_send(header: &Header<'_>) -> Checked {
    let form = usize::from(!matches!(header.code, 10 | 324));
    let field = |names: [&str; 2]| header.field(names[form]);
    if REQUIRED.iter().any(|names| field(*names).is_none()) {
        return match ReceivedSend::decode(header) {
            Ok(_) => Err("a send without a field that it must have was read".to_owned()),
            Err(_) => Ok(()),
        };
    }
    let send = ReceivedSend::decode(header).map_err(reason)?;
    let texts = [
        send.producer_group.to_string(),
        send.topic.to_string(),
        send.default_topic.to_string(),
        send.default_topic_queue_nums.to_string(),
        send.queue_id.to_string(),
        send.sys_flag.to_string(),
        send.born_timestamp_ms.to_string(),
        send.flag.to_string(),
    ];
    for (ours, names) in texts.iter().zip(REQUIRED) {
        same(names[form], &Some(ours.as_str()), &field(names).as_deref())?;
    }
    same(
        "properties",
        &send.properties,
        &field(["properties", "i"]).unwrap_or_default(),
    )?;
    let number = |names| field(names).map(Cow::into_owned);
    same(
        "reconsume times",
        &send.reconsume_times.to_string(),
        &number(["reconsumeTimes", "j"]).unwrap_or("0".to_owned()),
    )?;
    same(
        "unit mode",
        &send.unit_mode,
        &(field(["unitMode", "k"]).as_deref() == Some("true")),
    )?;
    same(
        "max reconsume times",
        &send.max_reconsume_times.map(|times| times.to_string()),
        &number(["maxReconsumeTimes", "l"]),
    )?;
    same(
        "batch",
        &send.batch,
        &(field(["batch", "m"]).as_deref() == Some("true")),
    )?;
    same("broker name", &send.broker_name, &field(["bname", "n"]))?;
    check_our_send(header, &send)
}

/// The same send, written by us, must be read as the same.
fn check_our_send(header: &Header<'_>, send: &ReceivedSend<'_>) -> Checked {
    let items = send
        .properties
        .split('\u{2}')
        .filter_map(|item| item.split_once('\u{1}'));
    let pairs: Vec<(Box<str>, Box<str>)> = items.map(|(name, value)| (name.into(), value.into())).collect();
    let properties = PropertyList {
        own: &pairs,
        added: &[],
    };
    let message = SendMessage {
        producer_group: &send.producer_group,
        topic: &send.topic,
        default_topic: &send.default_topic,
        default_topic_queue_nums: send.default_topic_queue_nums,
        queue_id: send.queue_id,
        sys_flag: send.sys_flag,
        born_timestamp_ms: send.born_timestamp_ms,
        flag: send.flag,
        properties,
        reconsume_times: send.reconsume_times,
        unit_mode: send.unit_mode,
        max_reconsume_times: send.max_reconsume_times,
        batch: send.batch,
        broker_name: send.broker_name.as_deref(),
    };
    for serialization in BOTH_FORMS {
        let is_v1 = matches!(header.code, 10 | 324);
        let write = |writer: &mut FieldWriter<'_>| {
            if is_v1 {
                message.write_v1(writer);
            } else {
                message.write_v2(writer);
            }
        };
        written(header, serialization, write, |ours| {
            let ours = ReceivedSend::decode(ours).map_err(reason)?;
            same(
                "length of our properties",
                &ours.properties.len(),
                &properties.encoded_len(),
            )?;
            // Java 4.9.7 leaves out the last separator, which we write.
            let trimmed = |text: &str| text.trim_end_matches('\u{2}').to_owned();
            same(
                "our properties",
                &trimmed(&ours.properties),
                &trimmed(&send.properties),
            )?;
            let ours = ReceivedSend {
                properties: send.properties.clone(),
                ..ours
            };
            same("our send, read back", &ours, send)
        })?;
    }
    Ok(())
}

fn check_send_reply(header: &Header<'_>) -> Checked {
    let reply = SendReply::decode(header).map_err(reason)?;
    let field = |name| header.field(name).map(Cow::into_owned);
    // A batch is answered with the ids of all its messages.
    same(
        "all ids",
        &reply.all_ids().map(ToOwned::to_owned),
        &field("msgId").filter(|ids| ids.contains(',')),
    )?;
    let first = field("msgId").and_then(|ids| ids.split(',').next().map(ToOwned::to_owned));
    same("msgId", &Some(reply.offset_message_id.to_string()), &first)?;
    same("queueId", &Some(reply.queue_id.to_string()), &field("queueId"))?;
    same(
        "queueOffset",
        &Some(reply.queue_offset.to_string()),
        &field("queueOffset"),
    )?;
    same(
        "transactionId",
        &reply.transaction_id.map(|id| id.to_string()),
        &field("transactionId"),
    )?;
    let region_id = field("MSG_REGION").filter(|region_id| region_id != "DefaultRegion");
    same("MSG_REGION", &reply.region_id.as_deref(), &region_id.as_deref())?;
    same(
        "TRACE_ON",
        &reply.trace_on,
        &(field("TRACE_ON").as_deref() != Some("false")),
    )?;
    same(
        "recallHandle",
        &reply.recall_handle(),
        &field("recallHandle").as_deref(),
    )?;
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| reply.write(writer),
            |ours| {
                same(
                    "our reply, read back",
                    &SendReply::decode(ours).map_err(reason)?,
                    &reply,
                )
            },
        )?;
    }
    Ok(())
}

fn check_get_route(header: &Header<'_>) -> Checked {
    let Some(topic) = header.field("topic") else {
        return ReceivedGetRoute::decode(header)
            .err()
            .map(|_| ())
            .ok_or("a route without a topic was read".to_owned());
    };
    let received = ReceivedGetRoute::decode(header).map_err(reason)?;
    same("topic", &received.topic, &topic)?;
    let standard = header.field("acceptStandardJsonOnly").as_deref() == Some("true");
    same(
        "acceptStandardJsonOnly",
        &received.accept_standard_json_only,
        &standard,
    )?;
    let request = GetRoute {
        topic: &topic,
        accept_standard_json_only: standard,
    };
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| request.write(writer),
            |ours| {
                same(
                    "our request, read back",
                    &ReceivedGetRoute::decode(ours).map_err(reason)?,
                    &received,
                )
            },
        )?;
    }
    Ok(())
}

fn check_recall(header: &Header<'_>) -> Checked {
    let received = ReceivedRecall::decode(header).map_err(reason)?;
    let field = |name| header.field(name);
    same("topic", &Some(&received.topic), &field("topic").as_ref())?;
    same(
        "recallHandle",
        &Some(&received.recall_handle),
        &field("recallHandle").as_ref(),
    )?;
    let request = RecallMessage {
        producer_group: &field("producerGroup").unwrap_or_default(),
        topic: &received.topic,
        recall_handle: &received.recall_handle,
        broker_name: &field("bname").unwrap_or_default(),
    };
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| request.write(writer),
            |ours| same("our fields", &fields(ours), &fields(header)),
        )?;
    }
    Ok(())
}

fn fields(header: &Header<'_>) -> BTreeMap<String, String> {
    let owned = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into_owned(), value.into_owned());
    header.fields.iter().map(owned).collect()
}

fn check_unregister(header: &Header<'_>) -> Checked {
    let received = ReceivedUnregister::decode(header).map_err(reason)?;
    same(
        "clientID",
        &Some(&received.client_id),
        &header.field("clientID").as_ref(),
    )?;
    same(
        "producerGroup",
        &received.producer_group,
        &header.field("producerGroup"),
    )?;
    same(
        "consumerGroup",
        &received.consumer_group,
        &header.field("consumerGroup"),
    )?;
    // We only ever take producers back.
    let (Some(producer_group), None) = (&received.producer_group, &received.consumer_group) else {
        return Ok(());
    };
    let request = Unregister {
        client_id: &received.client_id,
        producer_group,
    };
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| request.write(writer),
            |ours| {
                same(
                    "our request, read back",
                    &ReceivedUnregister::decode(ours).map_err(reason)?,
                    &received,
                )
            },
        )?;
    }
    Ok(())
}

fn check_push_reply(header: &Header<'_>, body: &[u8]) -> Checked {
    let push = PushReply::decode(header).map_err(reason)?;
    let field = |name| header.field(name).unwrap_or_default().into_owned();
    let texts = [
        ("producerGroup", push.producer_group.to_string()),
        ("topic", push.topic.to_string()),
        ("defaultTopic", push.default_topic.to_string()),
        ("defaultTopicQueueNums", push.default_topic_queue_nums.to_string()),
        ("queueId", push.queue_id.to_string()),
        ("sysFlag", push.sys_flag.to_string()),
        ("bornTimestamp", push.born_timestamp_ms.to_string()),
        ("flag", push.flag.to_string()),
        ("properties", push.properties.to_string()),
        ("reconsumeTimes", push.reconsume_times.to_string()),
        ("unitMode", push.unit_mode.to_string()),
        ("bornHost", push.born_host.to_string()),
        ("storeHost", push.store_host.to_string()),
        ("storeTimestamp", push.store_timestamp_ms.to_string()),
    ];
    for (name, ours) in texts {
        same(name, &ours, &field(name))?;
    }
    let message = push.message(body.to_vec(), "broker-a".into(), 7);
    same("the shown body", &message.body(), &body)?;
    same(
        "the shown correlation id",
        &message.property("CORRELATION_ID"),
        &push.correlation_id(),
    )?;
    let hosts = [
        (message.born_host(), &push.born_host),
        (message.store_host(), &push.store_host),
    ];
    for (shown, sent) in hosts {
        same(
            "a host",
            &shown.to_string(),
            &sent.trim_start_matches('/').to_owned(),
        )?;
    }
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| push.write(writer),
            |ours| {
                same(
                    "our push, read back",
                    &PushReply::decode(ours).map_err(reason)?,
                    &push,
                )
            },
        )?;
    }
    Ok(())
}
