//! `GET_ROUTEINFO_BY_TOPIC` (105) and the route data of its reply (`TopicRouteData`), both ways.
//!
//! 4.7.0 always writes the map of broker addresses with bare integer keys, which is no JSON; 4.9.4 and later write
//! standard JSON when they are asked to. Both are read alike. What a producer makes of a route is not decided here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::static_topic::{QueueMapping, read_mappings};
use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};
use crate::wire::json::{Dialect, JsonReader};
use crate::wire::json_text;
use crate::wire::limits::{MAX_ADDRESSES_PER_BROKER, MAX_BROKERS, MAX_QUEUES_PER_TOPIC};

/// The fields of the request; there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GetRoute<'a> {
    pub(crate) topic: &'a str,
    /// Asks 4.9.4 and later for standard JSON whatever version the client claims; older ones do not know the field.
    pub(crate) accept_standard_json_only: bool,
}

impl GetRoute<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("topic", self.topic);
        if self.accept_standard_json_only {
            writer.boolean("acceptStandardJsonOnly", true);
        }
    }
}

/// The request as a name server reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedGetRoute<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) accept_standard_json_only: bool,
}

impl<'a> ReceivedGetRoute<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        match header.field("topic") {
            Some(topic) => Ok(Self {
                topic,
                accept_standard_json_only: header.boolean("acceptStandardJsonOnly").unwrap_or(false),
            }),
            None => Err(WireError::new("request for a route has no topic")),
        }
    }
}

/// Where a topic lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteData {
    pub(crate) broker_datas: Vec<BrokerData>,
    pub(crate) queue_datas: Vec<QueueData>,
    /// `broker-a:4;broker-b:4`: a fixed list of queues for ordered topics.
    pub(crate) order_topic_conf: Option<String>,
    /// Of a static topic of 5.x: who holds its logical queues.
    pub(crate) queue_mappings: Vec<QueueMapping>,
}

/// A broker name with its addresses; id 0 is the master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BrokerData {
    pub(crate) cluster: String,
    pub(crate) broker_name: String,
    pub(crate) broker_addresses: BTreeMap<i64, String>,
}

/// The queues of the topic on one broker name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueData {
    pub(crate) broker_name: String,
    pub(crate) read_queue_nums: u32,
    pub(crate) write_queue_nums: u32,
    /// Bits of `PermName`: 4 read, 2 write, 1 inherit.
    pub(crate) perm: u32,
    /// `topicSynFlag` in 4.7.0.
    pub(crate) topic_sys_flag: i32,
}

/// The form in which a name server writes route data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteDialect {
    /// 4.7.0: bare integer keys and `topicSynFlag`.
    Fastjson,
    /// 4.9.4 and later when asked: standard JSON and `topicSysFlag`.
    Standard,
}

impl RouteData {
    /// Reads either dialect. Unknown keys are skipped, null is absent.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = JsonReader::new(body, Dialect::Fastjson)?;
        let mut route = Self::default();
        reader.enter_object();
        while let Some(key) = reader.next_key() {
            if key.is("brokerDatas") {
                route.broker_datas = read_list(&mut reader, read_broker);
            } else if key.is("queueDatas") {
                route.queue_datas = read_list(&mut reader, read_queue);
            } else if key.is("orderTopicConf") {
                route.order_topic_conf = optional_text(&mut reader);
            } else if key.is("topicQueueMappingByBroker") {
                route.queue_mappings = read_mappings(&mut reader);
            } else {
                reader.skip_value();
            }
        }
        reader.finish()?;
        route.check_queues()?;
        Ok(route)
    }

    /// Lists of queues are made from these numbers, so their sums have a limit.
    fn check_queues(&self) -> Result<(), WireError> {
        let mut read: u32 = 0;
        let mut write: u32 = 0;
        for queue in &self.queue_datas {
            read = read.saturating_add(queue.read_queue_nums);
            write = write.saturating_add(queue.write_queue_nums);
        }
        let mapped = self.queue_mappings.iter().map(|mapping| mapping.total_queues);
        let most = read.max(write).max(mapped.max().unwrap_or(0));
        if most > MAX_QUEUES_PER_TOPIC {
            return Err(WireError::new(format!(
                "route with {most} queues is over the limit of {MAX_QUEUES_PER_TOPIC}"
            )));
        }
        Ok(())
    }

    /// Appends the body as a name server writes it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, dialect: RouteDialect) {
        out.extend_from_slice(b"{\"brokerDatas\":[");
        for (position, broker) in self.broker_datas.iter().enumerate() {
            write_comma(out, position);
            write_broker(out, broker, dialect);
        }
        out.extend_from_slice(b"],\"filterServerTable\":{}");
        if let Some(conf) = &self.order_topic_conf {
            out.extend_from_slice(b",\"orderTopicConf\":");
            json_text::write_string(out, conf);
        }
        out.extend_from_slice(b",\"queueDatas\":[");
        for (position, queue) in self.queue_datas.iter().enumerate() {
            write_comma(out, position);
            write_queue(out, queue, dialect);
        }
        out.extend_from_slice(b"]}");
    }
}

/// Reads an array; an element that `read` cannot make sense of must have failed the reader.
fn read_list<T>(reader: &mut JsonReader<'_>, read: impl Fn(&mut JsonReader<'_>) -> Option<T>) -> Vec<T> {
    let mut list = Vec::new();
    if reader.take_null() {
        return list;
    }
    reader.enter_array();
    while reader.next_element() {
        if list.len() == MAX_BROKERS {
            reader.fail(|| WireError::new(format!("route with more than {MAX_BROKERS} brokers")));
        }
        list.extend(read(reader));
    }
    list
}

pub(super) fn optional_text(reader: &mut JsonReader<'_>) -> Option<String> {
    reader.optional_string().map(|text| text.text().into_owned())
}

fn read_broker(reader: &mut JsonReader<'_>) -> Option<BrokerData> {
    let mut cluster = None;
    let mut broker_name = None;
    let mut broker_addresses = BTreeMap::new();
    reader.enter_object();
    while let Some(key) = reader.next_key() {
        if key.is("brokerName") {
            broker_name = optional_text(reader);
        } else if key.is("cluster") {
            cluster = optional_text(reader);
        } else if key.is("brokerAddrs") {
            broker_addresses = read_addresses(reader);
        } else {
            reader.skip_value();
        }
    }
    let Some(broker_name) = broker_name else {
        reader.fail(|| WireError::new("broker without a name in route data"));
        return None;
    };
    Some(BrokerData {
        cluster: cluster.unwrap_or_default(),
        broker_name,
        broker_addresses,
    })
}

fn read_addresses(reader: &mut JsonReader<'_>) -> BTreeMap<i64, String> {
    let mut addresses = BTreeMap::new();
    if reader.take_null() {
        return addresses;
    }
    reader.enter_object();
    while let Some(key) = reader.next_key() {
        if addresses.len() == MAX_ADDRESSES_PER_BROKER {
            reader.fail(|| {
                WireError::new(format!(
                    "broker with more than {MAX_ADDRESSES_PER_BROKER} addresses"
                ))
            });
        }
        let Ok(broker_id) = key.text().parse() else {
            reader.fail(|| WireError::new("broker id in route data is no number"));
            break;
        };
        if let Some(address) = optional_text(reader) {
            addresses.insert(broker_id, address);
        }
    }
    addresses
}

fn read_queue(reader: &mut JsonReader<'_>) -> Option<QueueData> {
    let mut broker_name = None;
    let mut read_queue_nums = None;
    let mut write_queue_nums = None;
    let mut perm = None;
    let mut topic_sys_flag = None;
    reader.enter_object();
    while let Some(key) = reader.next_key() {
        if key.is("brokerName") {
            broker_name = optional_text(reader);
        } else if key.is("readQueueNums") {
            read_queue_nums = reader.integer();
        } else if key.is("writeQueueNums") {
            write_queue_nums = reader.integer();
        } else if key.is("perm") {
            perm = reader.integer();
        } else if key.is("topicSysFlag") || key.is("topicSynFlag") {
            topic_sys_flag = reader.integer();
        } else {
            reader.skip_value();
        }
    }
    let (Some(broker_name), Some(read_queue_nums), Some(write_queue_nums), Some(perm)) =
        (broker_name, read_queue_nums, write_queue_nums, perm)
    else {
        reader
            .fail(|| WireError::new("queue data without broker name, queue counts or permission in a route"));
        return None;
    };
    Some(QueueData {
        broker_name,
        read_queue_nums,
        write_queue_nums,
        perm,
        topic_sys_flag: topic_sys_flag.unwrap_or(0),
    })
}

fn write_comma(out: &mut Vec<u8>, position: usize) {
    if position > 0 {
        out.push(b',');
    }
}

fn write_broker(out: &mut Vec<u8>, broker: &BrokerData, dialect: RouteDialect) {
    out.extend_from_slice(b"{\"brokerAddrs\":{");
    for (position, (broker_id, address)) in broker.broker_addresses.iter().enumerate() {
        write_comma(out, position);
        match dialect {
            RouteDialect::Fastjson => json_text::write_integer(out, *broker_id),
            RouteDialect::Standard => {
                out.push(b'"');
                json_text::write_integer(out, *broker_id);
                out.push(b'"');
            }
        }
        out.push(b':');
        json_text::write_string(out, address);
    }
    out.extend_from_slice(b"},\"brokerName\":");
    json_text::write_string(out, &broker.broker_name);
    out.extend_from_slice(b",\"cluster\":");
    json_text::write_string(out, &broker.cluster);
    out.push(b'}');
}

fn write_queue(out: &mut Vec<u8>, queue: &QueueData, dialect: RouteDialect) {
    out.extend_from_slice(b"{\"brokerName\":");
    json_text::write_string(out, &queue.broker_name);
    out.extend_from_slice(b",\"perm\":");
    json_text::write_integer(out, queue.perm.into());
    out.extend_from_slice(b",\"readQueueNums\":");
    json_text::write_integer(out, queue.read_queue_nums.into());
    out.extend_from_slice(match dialect {
        RouteDialect::Fastjson => b",\"topicSynFlag\":",
        RouteDialect::Standard => b",\"topicSysFlag\":",
    });
    json_text::write_integer(out, queue.topic_sys_flag.into());
    out.extend_from_slice(b",\"writeQueueNums\":");
    json_text::write_integer(out, queue.write_queue_nums.into());
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::{BrokerData, GetRoute, QueueData, QueueMapping, ReceivedGetRoute, RouteData, RouteDialect};
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::header::{Envelope, Header, Language, encode_frame};
    use crate::wire::limits::{MAX_BROKERS, MAX_QUEUES_PER_TOPIC};

    /// As 4.7.0 answers for TBW102.
    const OF_4_7_0: &str = r#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster"}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":7,"readQueueNums":8,"topicSynFlag":0,"writeQueueNums":8}]}"#;

    fn parse(text: &str) -> Result<RouteData, String> {
        RouteData::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn route() -> RouteData {
        let broker = BrokerData {
            cluster: "DefaultCluster".to_owned(),
            broker_name: "broker-a".to_owned(),
            broker_addresses: [(0, "127.0.0.1:10911".to_owned())].into(),
        };
        let queue = QueueData {
            broker_name: "broker-a".to_owned(),
            read_queue_nums: 8,
            write_queue_nums: 8,
            perm: 7,
            topic_sys_flag: 0,
        };
        RouteData {
            broker_datas: vec![broker],
            queue_datas: vec![queue],
            ..RouteData::default()
        }
    }

    #[test]
    fn both_dialects_are_read_and_written() {
        assert_eq!(parse(OF_4_7_0), Ok(route()));
        let standard = OF_4_7_0
            .replace("{0:", "{\"0\":")
            .replace("topicSynFlag", "topicSysFlag");
        assert_eq!(parse(&standard), Ok(route()));
        for (dialect, expected) in [
            (RouteDialect::Fastjson, OF_4_7_0),
            (RouteDialect::Standard, &standard),
        ] {
            let mut out = Vec::new();
            route().encode(&mut out, dialect);
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        }
    }

    #[test]
    fn several_brokers_slaves_and_an_order_configuration() {
        let mut sent = route();
        sent.broker_datas[0]
            .broker_addresses
            .extend([(-1, "[fd00::2]:10911".to_owned()), (2, "slave:1".to_owned())]);
        sent.broker_datas.push(BrokerData {
            broker_name: "b\"\u{4e2d}".to_owned(),
            ..BrokerData::default()
        });
        sent.queue_datas.push(QueueData {
            broker_name: "b".to_owned(),
            topic_sys_flag: -1,
            ..QueueData::default()
        });
        sent.order_topic_conf = Some("broker-a:4;broker-b:4".to_owned());
        for dialect in [RouteDialect::Fastjson, RouteDialect::Standard] {
            let mut out = Vec::new();
            sent.encode(&mut out, dialect);
            assert_eq!(RouteData::parse(&out).unwrap(), sent);
        }
    }

    #[test]
    fn what_later_servers_add_is_read_over() {
        // 5.x with `zoneName`, `enableActingMaster` and a mapping of static topics without a scope.
        let text = r#"{"brokerDatas":[{"brokerAddrs":{"0":"h:1"},"brokerName":"a","cluster":"c","enableActingMaster":false,"zoneName":"z"}],"filterServerTable":{"a":["x"]},"orderTopicConf":null,"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":4,"topicSysFlag":2,"writeQueueNums":4}],"topicQueueMappingByBroker":{"a":{"currIdMap":{0:1,1:2},"dirty":false,"epoch":5}}}"#;
        let route = parse(text).unwrap();
        assert_eq!(
            (route.queue_datas[0].topic_sys_flag, route.order_topic_conf),
            (2, None)
        );
        assert_eq!(parse("{}"), Ok(RouteData::default()));
        assert_eq!(
            parse(r#"{"brokerDatas":null,"queueDatas":null}"#),
            Ok(RouteData::default())
        );
        let without_addresses = parse(r#"{"brokerDatas":[{"brokerName":"a","brokerAddrs":null}]}"#).unwrap();
        assert!(without_addresses.broker_datas[0].broker_addresses.is_empty());
    }

    #[test]
    fn the_logical_queues_of_a_static_topic_are_read() {
        // The keys of the map are bare or quoted as those of the addresses.
        for [one, two] in [["0", "3"], ["\"0\"", "\"3\""]] {
            let text = format!(
                r#"{{"topicQueueMappingByBroker":{{"a":{{"bname":"a","currIdMap":{{{one}:1,{two}:0}},"dirty":false,"epoch":1795422517838,"scope":"__global__","topic":"t","totalQueues":4}},"b":null}}}}"#
            );
            let expected = QueueMapping {
                scope: "__global__".to_owned(),
                broker_name: "a".to_owned(),
                total_queues: 4,
                epoch: 1_795_422_517_838,
                current: [(0, 1), (3, 0)].into(),
            };
            assert_eq!(parse(&text).unwrap().queue_mappings, [expected]);
        }
        for (mapping, expected) in [
            (
                r#"{"totalQueues":65537,"scope":"s"}"#,
                "route with 65537 queues is over the limit of 65536",
            ),
            (
                r#"{"currIdMap":{"65536":0}}"#,
                "logical queue id that is no number below 65536",
            ),
            (
                r#"{"currIdMap":{"-1":0}}"#,
                "logical queue id that is no number below 65536",
            ),
            (r#"{"currIdMap":{"0":-1}}"#, "JSON number -1 is out of range"),
            ("1", "no object at byte 34 of the JSON text"),
        ] {
            let text = format!(r#"{{"topicQueueMappingByBroker":{{"a":{mapping}}}}}"#);
            assert_eq!(parse(&text).unwrap_err(), expected, "{mapping}");
        }
    }

    #[test]
    fn what_is_no_route_is_an_error() {
        let queue = "queue data without broker name, queue counts or permission in a route";
        for (text, expected) in [
            ("", "JSON text ends where object was expected"),
            ("[]", "no object at byte 0 of the JSON text"),
            (
                r#"{"brokerDatas":[{"cluster":"c"}]}"#,
                "broker without a name in route data",
            ),
            (
                r#"{"brokerDatas":[{"brokerName":"a","brokerAddrs":{"x":"h:1"}}]}"#,
                "broker id in route data is no number",
            ),
            (r#"{"queueDatas":[{}]}"#, queue),
            (
                r#"{"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":4}]}"#,
                queue,
            ),
            (
                r#"{"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":-4}]}"#,
                "JSON number -4 is out of range",
            ),
            (
                r#"{"queueDatas":[{"brokerName":5}]}"#,
                "no string at byte 29 of the JSON text",
            ),
            (r#"{"queueDatas":[1]}"#, "no object at byte 15 of the JSON text"),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        for end in 0..OF_4_7_0.len() {
            assert!(parse(&OF_4_7_0[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn no_changed_byte_panics() {
        for place in 0..OF_4_7_0.len() {
            for byte in b"\"\\{}[]:,0-9ex\x00\xff" {
                let mut bytes = OF_4_7_0.as_bytes().to_vec();
                bytes[place] = *byte;
                if let Ok(route) = RouteData::parse(&bytes) {
                    assert!(route.broker_datas.len() <= 1);
                }
            }
        }
    }

    #[test]
    fn limits_hold() {
        let with_queues = |read: u32, write: u32| {
            format!(
                r#"{{"queueDatas":[{{"brokerName":"a","perm":6,"readQueueNums":{read},"writeQueueNums":{write}}},{{"brokerName":"b","perm":6,"readQueueNums":1,"writeQueueNums":1}}]}}"#
            )
        };
        assert!(parse(&with_queues(MAX_QUEUES_PER_TOPIC - 1, MAX_QUEUES_PER_TOPIC - 1)).is_ok());
        for (read, write) in [
            (MAX_QUEUES_PER_TOPIC, 0),
            (0, MAX_QUEUES_PER_TOPIC),
            (u32::MAX, u32::MAX),
        ] {
            assert!(
                parse(&with_queues(read, write))
                    .unwrap_err()
                    .contains("over the limit of 65536")
            );
        }
        let brokers = |count: usize| {
            format!(
                r#"{{"brokerDatas":[{}]}}"#,
                vec![r#"{"brokerName":"a"}"#; count].join(",")
            )
        };
        assert_eq!(
            parse(&brokers(MAX_BROKERS)).unwrap().broker_datas.len(),
            MAX_BROKERS
        );
        assert_eq!(
            parse(&brokers(MAX_BROKERS + 1)).unwrap_err(),
            "route with more than 4096 brokers"
        );
        let addresses: Vec<String> = (0..1025).map(|id| format!(r#"{id}:"h""#)).collect();
        let text = format!(
            r#"{{"brokerDatas":[{{"brokerName":"a","brokerAddrs":{{{}}}}}]}}"#,
            addresses.join(",")
        );
        assert_eq!(parse(&text).unwrap_err(), "broker with more than 1024 addresses");
    }

    #[test]
    fn the_request_is_read_as_it_was_written() {
        for accept_standard_json_only in [true, false] {
            let envelope = Envelope {
                code: 105,
                opaque: 1,
                flag: 0,
                language: Language::OTHER,
                version: 513,
                remark: None,
                serialization: Serialization::Json,
            };
            let request = GetRoute {
                topic: "TopicTest",
                accept_standard_json_only,
            };
            let mut out = Vec::new();
            encode_frame(&mut out, &envelope, |writer| request.write(writer), b"").unwrap();
            let (frame, _) = split_frame(&out).unwrap().unwrap();
            let received = ReceivedGetRoute::decode(&frame.header().unwrap()).unwrap();
            assert_eq!(
                received,
                ReceivedGetRoute {
                    topic: "TopicTest".into(),
                    accept_standard_json_only
                }
            );
        }
        let header = Header::decode(Serialization::Json, br#"{"code":105,"opaque":1}"#).unwrap();
        assert_eq!(
            ReceivedGetRoute::decode(&header).unwrap_err().reason(),
            "request for a route has no topic"
        );
    }
}
