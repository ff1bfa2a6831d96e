//! Parts of messages: property texts, batches, stored records, ids, routes and heartbeats.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Checked, bytes, number, reason, same, text, text_pairs};
use crate::message::id::{MessageId, OffsetMessageId};
use crate::wire::compression;
use crate::wire::id;
use crate::wire::message::{BatchElements, StoredRecord, append_batch_element, body_crc};
use crate::wire::properties::{self, ReadingRules};
use crate::wire::request::heartbeat::{ReceivedHeartbeat, encode_heartbeat};
use crate::wire::request::route::{BrokerData, QueueData, RouteData, RouteDialect};

const BOTH_RULES: [ReadingRules; 2] = [ReadingRules::V4_7, ReadingRules::V4_9];

/// Checks a row of the kind.
pub(super) fn check(kind: &str, row: &Value) -> Checked {
    match kind {
        "properties_string" => check_properties(row),
        "batch_body" => check_batch(row),
        "stored_message" => check_stored(row),
        "stored_message_list" => check_stored_list(row),
        "message_id_client" => check_unique_key(row),
        "message_id_offset" => check_offset_id(row),
        "route_json" => check_route(text(row, "text")?.as_bytes()),
        "compressed_body" => check_compressed(row),
        "heartbeat_json" => check_heartbeat(text(row, "text")?.as_bytes()),
        _ => Err("unknown kind of row".to_owned()),
    }
}

fn encoded(row: &Value) -> Result<Vec<u8>, String> {
    bytes(text(row, "encoded_hex")?)
}

fn check_properties(row: &Value) -> Checked {
    let encoded = encoded(row)?;
    let encoded = std::str::from_utf8(&encoded).map_err(|error| error.to_string())?;
    let expected = text_pairs(&row["properties"]).ok_or("the row has no properties")?;
    for rules in BOTH_RULES {
        same("the list of properties", &owned_pairs(encoded, rules), &expected)?;
    }
    let mut ours = String::new();
    let pairs = || {
        expected
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    };
    properties::append(&mut ours, pairs());
    same("the length", &properties::encoded_len(pairs()), &ours.len())?;
    same(
        "our text",
        &ours.trim_end_matches('\u{2}'),
        &encoded.trim_end_matches('\u{2}'),
    )
}

/// What Java and Go have compressed is read back; without the feature for it, the error names that.
fn check_compressed(row: &Value) -> Checked {
    let sys_flag = number(row, "sysFlag")?;
    let body = bytes(text(row, "compressed_hex")?)?;
    let compression = compression::compression(sys_flag).map_err(reason)?;
    let compression = compression.ok_or("the flag says that it is not compressed")?;
    same(
        "the algorithm",
        &compression.to_string().to_lowercase(),
        &text(row, "algorithm")?,
    )?;
    let plain = compression::decompress(sys_flag, &body);
    if !compression.is_built_in() {
        let named = plain.is_err_and(|error| error.reason().contains("needs the feature"));
        return same("the missing feature is named", &named, &true);
    }
    let plain = plain.map_err(reason)?;
    if let Some(hex) = row["uncompressed_hex"].as_str() {
        return same("the body", &plain.to_vec(), &bytes(hex)?);
    }
    same(
        "the length",
        &plain.len(),
        &number::<usize>(row, "uncompressed_len")?,
    )?;
    let digest = Sha256::digest(&plain);
    let digest = digest
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    same("the checksum", &digest, &text(row, "uncompressed_sha256")?)
}

fn owned_pairs(text: &str, rules: ReadingRules) -> Vec<(String, String)> {
    properties::pairs(text, rules)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn check_batch(row: &Value) -> Checked {
    let encoded = encoded(row)?;
    let expected = row["messages"].as_array().ok_or("the row has no messages")?;
    let elements: Result<Vec<_>, _> = BatchElements::new(&encoded).collect();
    let elements = elements.map_err(reason)?;
    same("the number of messages", &elements.len(), &expected.len())?;
    let mut ours = Vec::new();
    let mut ends_with_separator = true;
    for (element, message) in elements.iter().zip(expected) {
        same("flag", &element.flag, &number::<i32>(message, "flag")?)?;
        same("body", &element.body, &bytes(text(message, "body_hex")?)?)?;
        let pairs = text_pairs(&message["properties"]).ok_or("a message has no properties")?;
        for rules in BOTH_RULES {
            same(
                "the list of properties",
                &owned_pairs(element.properties, rules),
                &pairs,
            )?;
        }
        ends_with_separator &= element.properties.ends_with('\u{2}');
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        append_batch_element(&mut ours, element.flag, element.body, pairs).map_err(reason)?;
    }
    // 4.9.7 leaves out the last separator of each message.
    if ends_with_separator {
        same("our batch", &ours, &encoded)
    } else {
        Ok(())
    }
}

fn check_stored(row: &Value) -> Checked {
    let encoded = encoded(row)?;
    let decoded = &row["decoded"];
    let (record, used) = StoredRecord::decode(&encoded).map_err(reason)?;
    same("the size", &used, &encoded.len())?;
    same("the size", &used, &number::<usize>(decoded, "totalSize")?)?;
    same("checksum", &record.body_crc, &number::<u32>(decoded, "bodyCRC")?)?;
    same("checksum of the body", &body_crc(record.body), &record.body_crc)?;
    same("queue id", &record.queue_id, &number::<i32>(decoded, "queueId")?)?;
    same("flag", &record.flag, &number::<i32>(decoded, "flag")?)?;
    same(
        "queue offset",
        &record.queue_offset,
        &number::<i64>(decoded, "queueOffset")?,
    )?;
    same(
        "physical offset",
        &record.physical_offset,
        &number::<i64>(decoded, "commitLogOffset")?,
    )?;
    same(
        "system flag",
        &record.sys_flag,
        &number::<i32>(decoded, "sysFlag")?,
    )?;
    same(
        "born timestamp",
        &record.born_timestamp_ms,
        &number::<i64>(decoded, "bornTimestamp")?,
    )?;
    same(
        "born host",
        &record.born_host.to_string(),
        &text(decoded, "bornHost")?,
    )?;
    same(
        "store timestamp",
        &record.store_timestamp_ms,
        &number::<i64>(decoded, "storeTimestamp")?,
    )?;
    same(
        "store host",
        &record.store_host.to_string(),
        &text(decoded, "storeHost")?,
    )?;
    same(
        "reconsume times",
        &record.reconsume_times,
        &number::<i32>(decoded, "reconsumeTimes")?,
    )?;
    let prepared = number::<i64>(decoded, "preparedTransactionOffset")?;
    same(
        "prepared transaction offset",
        &record.prepared_transaction_offset,
        &prepared,
    )?;
    same("body", &record.body, &bytes(text(decoded, "body_hex")?)?)?;
    same("topic", &record.topic, &text(decoded, "topic")?)?;
    let expected = text_pairs(&decoded["properties"]).ok_or("the row has no properties")?;
    for rules in BOTH_RULES {
        same(
            "the list of properties",
            &owned_pairs(&record.properties, rules),
            &expected,
        )?;
    }
    let mut ours = Vec::new();
    record.encode(&mut ours).map_err(reason)?;
    same("our record", &ours, &encoded)
}

fn check_stored_list(row: &Value) -> Checked {
    let encoded = encoded(row)?;
    let expected: Option<Vec<_>> = row["sizes"]
        .as_array()
        .map(|sizes| sizes.iter().filter_map(Value::as_u64).collect());
    let mut sizes = Vec::new();
    let mut ours = Vec::new();
    let mut rest = encoded.as_slice();
    while !rest.is_empty() {
        let (record, used) = StoredRecord::decode(rest).map_err(reason)?;
        same("checksum of a body", &body_crc(record.body), &record.body_crc)?;
        record.encode(&mut ours).map_err(reason)?;
        sizes.push(used as u64);
        rest = &rest[used..];
    }
    same("the list of sizes", &Some(sizes), &expected)?;
    same("our records", &ours, &encoded)
}

fn check_unique_key(row: &Value) -> Checked {
    let expected = text(row, "id")?;
    let address: IpAddr = text(row, "ip")?
        .parse()
        .map_err(|_| "the row's ip is no address")?;
    let tag = u32::from_str_radix(text(row, "process_tag_hex")?, 16).map_err(|error| error.to_string())?;
    let milliseconds = number::<u32>(row, "time_diff_ms")?;
    let prefix = id::UniqueKeyPrefix::new(address, number(row, "pid_low16")?, tag);
    let ours = prefix.key(milliseconds, number(row, "counter")?);
    // Go writes the last twelve digits in lower case.
    same("our id", &ours.as_str(), &expected.to_ascii_uppercase().as_str())?;
    same(
        "the id kept as text",
        &MessageId::from_text(expected).map(|id| id.to_string()).as_deref(),
        &Some(expected),
    )
}

fn check_offset_id(row: &Value) -> Checked {
    let expected = text(row, "id")?;
    let address: IpAddr = text(row, "ip")?
        .parse()
        .map_err(|_| "the row's ip is no address")?;
    let store_host = SocketAddr::new(address, number(row, "port")?);
    let offset = number::<u64>(row, "commitLogOffset")?;
    same(
        "the parts",
        &id::parse_offset_message_id(expected).map_err(reason)?,
        &(store_host, offset),
    )?;
    same(
        "our id",
        &id::offset_message_id(store_host, offset).as_str(),
        &expected,
    )?;
    same(
        "the id kept as text",
        &OffsetMessageId::from_text(expected)
            .map(|id| id.to_string())
            .as_deref(),
        &Some(expected),
    )
}

/// Route data must hold what an independent reader finds, and survive being written in both dialects.
pub(super) fn check_route(body: &[u8]) -> Checked {
    let route = RouteData::parse(body).map_err(reason)?;
    let quoted = quote_bare_keys(std::str::from_utf8(body).map_err(|error| error.to_string())?);
    let expected: Value = serde_json::from_str(&quoted).map_err(|error| error.to_string())?;
    let list = |field: &str| expected[field].as_array().cloned().unwrap_or_default();
    same(
        "the number of brokers",
        &route.broker_datas.len(),
        &list("brokerDatas").len(),
    )?;
    for (broker, row) in route.broker_datas.iter().zip(list("brokerDatas")) {
        check_broker(broker, &row)?;
    }
    same(
        "the number of queue entries",
        &route.queue_datas.len(),
        &list("queueDatas").len(),
    )?;
    for (queue, row) in route.queue_datas.iter().zip(list("queueDatas")) {
        check_queue(queue, &row)?;
    }
    same(
        "order configuration",
        &route.order_topic_conf.as_deref(),
        &expected["orderTopicConf"].as_str(),
    )?;
    for dialect in [RouteDialect::Fastjson, RouteDialect::Standard] {
        let mut ours = Vec::new();
        route.encode(&mut ours, dialect);
        same(
            "our route, read back",
            &RouteData::parse(&ours).map_err(reason)?,
            &route,
        )?;
    }
    Ok(())
}

fn check_broker(broker: &BrokerData, row: &Value) -> Checked {
    same(
        "broker name",
        &Some(broker.broker_name.as_str()),
        &row["brokerName"].as_str(),
    )?;
    same(
        "cluster",
        &Some(broker.cluster.as_str()),
        &row["cluster"].as_str(),
    )?;
    let address = |(id, address): (&i64, &String)| (id.to_string(), address.as_str().into());
    let addresses: serde_json::Map<_, _> = broker.broker_addresses.iter().map(address).collect();
    same("addresses", &Some(&addresses), &row["brokerAddrs"].as_object())
}

fn check_queue(queue: &QueueData, row: &Value) -> Checked {
    same(
        "broker name",
        &Some(queue.broker_name.as_str()),
        &row["brokerName"].as_str(),
    )?;
    same(
        "read queues",
        &queue.read_queue_nums,
        &number::<u32>(row, "readQueueNums")?,
    )?;
    same(
        "write queues",
        &queue.write_queue_nums,
        &number::<u32>(row, "writeQueueNums")?,
    )?;
    same("permission", &queue.perm, &number::<u32>(row, "perm")?)?;
    let flag = row
        .get("topicSysFlag")
        .or(row.get("topicSynFlag"))
        .and_then(Value::as_i64);
    same(
        "system flag",
        &i64::from(queue.topic_sys_flag),
        &flag.unwrap_or(0),
    )
}

/// Puts integer keys, which fastjson leaves bare, into quotes: digits that follow a brace or a comma.
fn quote_bare_keys(text: &str) -> String {
    let mut quoted = String::new();
    let mut is_in_string = false;
    let mut is_in_key = false;
    let mut is_escaped = false;
    let mut before = ' ';
    for character in text.chars() {
        let is_digit = character == '-' || character.is_ascii_digit();
        let begins_key = !is_in_string && is_digit && matches!(before, '{' | ',');
        if begins_key || (is_in_key && !is_digit) {
            quoted.push('"');
            is_in_key = begins_key;
        }
        if character == '"' && !is_escaped {
            is_in_string = !is_in_string;
        }
        is_escaped = is_in_string && character == '\\' && !is_escaped;
        quoted.push(character);
        before = character;
    }
    quoted
}

/// A heartbeat must hold what an independent reader finds, and survive being written.
pub(super) fn check_heartbeat(body: &[u8]) -> Checked {
    let heartbeat = ReceivedHeartbeat::parse(body).map_err(reason)?;
    let expected: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let groups = |field: &str| -> Vec<String> {
        let list = expected[field].as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(|group| group["groupName"].as_str().map(ToOwned::to_owned))
            .collect()
    };
    same(
        "client id",
        &Some(heartbeat.client_id.as_str()),
        &expected["clientID"].as_str(),
    )?;
    same(
        "producer groups",
        &heartbeat.producer_groups,
        &groups("producerDataSet"),
    )?;
    same(
        "consumer groups",
        &heartbeat.consumer_groups,
        &groups("consumerDataSet"),
    )?;
    let mut ours = Vec::new();
    let producer_groups = heartbeat.producer_groups.iter().map(String::as_str);
    encode_heartbeat(&mut ours, &heartbeat.client_id, producer_groups);
    let expected = ReceivedHeartbeat {
        consumer_groups: Vec::new(),
        ..heartbeat
    };
    same(
        "our heartbeat, read back",
        &ReceivedHeartbeat::parse(&ours).map_err(reason)?,
        &expected,
    )
}
