//! What the releases of RocketMQ do differently: ordinals, codes, texts, properties. No state, no sockets.
//!
//! Texts were read off servers 4.7.0, 4.9.7 and 5.5.0; where a text holds an exception of Java, its place in the
//! sources is left out, as it changes with every build.

use std::fmt;
use std::net::SocketAddr;

use crate::code::ResponseCode;
use crate::wire::frame::Serialization;
use crate::wire::properties::ReadingRules;

/// The release of RocketMQ that an embedded cluster speaks like.
///
/// They differ in the JSON of routes, in the form of replies to binary requests, in codes and remarks of refusals,
/// in which limits apply, and in the properties that a broker adds to a message.
///
/// ```
/// use rocketmq_producer::mock::{MockCluster, ServerVersion};
///
/// let cluster = MockCluster::builder().speaks(ServerVersion::V4_7_0).start()?;
/// assert_eq!(cluster.version(), ServerVersion::V4_7_0);
/// assert_eq!(cluster.version().to_string(), "4.7.0");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerVersion {
    /// 4.7.0: routes are never valid JSON, replies are JSON, unknown requests are never answered.
    V4_7_0,
    /// 4.9.7: replies come in the form of the request, batch elements get the properties of the batch appended.
    V4_9_7,
    /// 5.5.0, the default: adds four properties to a message, uses code 29 for bad arguments.
    #[default]
    V5_5_0,
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServerVersion::V4_7_0 => "4.7.0",
            ServerVersion::V4_9_7 => "4.9.7",
            ServerVersion::V5_5_0 => "5.5.0",
        })
    }
}

/// First client release (4.9.4) that is sent routes as standard JSON without asking for it.
const FIRST_VERSION_WITH_STANDARD_JSON: i32 = 401;

/// Most bytes of a topic's name.
const MAX_TOPIC_LENGTH: usize = 127;

/// Topics that clients may not send to (`TopicValidator.NOT_ALLOWED_SEND_TOPIC_SET` of 4.9.7).
const FORBIDDEN_TOPICS: [&str; 6] = [
    "SCHEDULE_TOPIC_XXXX",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

/// Topics that 5.5.0 forbids as well.
const FORBIDDEN_TOPICS_OF_5_5_0: [&str; 2] = [
    "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC",
    "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC",
];

/// Topics that nobody may create, besides those (`TopicValidator.SYSTEM_TOPIC_SET` of 4.9.7).
const SYSTEM_TOPICS: [&str; 2] = ["BenchmarkTest", "RMQ_SYS_TRACE_TOPIC"];

impl ServerVersion {
    /// The release as the header of a reply tells it (`MQVersion.Version`).
    pub(super) fn ordinal(self) -> i32 {
        match self {
            ServerVersion::V4_7_0 => 353,
            ServerVersion::V4_9_7 => 407,
            ServerVersion::V5_5_0 => 513,
        }
    }

    /// The form of the reply to a request of this form.
    pub(super) fn reply_serialization(self, request: Serialization) -> Serialization {
        match self {
            ServerVersion::V4_9_7 => request,
            ServerVersion::V4_7_0 | ServerVersion::V5_5_0 => Serialization::Json,
        }
    }

    /// Whether routes are sent as standard JSON, with quoted keys, to this client.
    pub(super) fn standard_route_json(self, client_version: i32, asked_for: bool) -> bool {
        self != ServerVersion::V4_7_0 && (asked_for || client_version >= FIRST_VERSION_WITH_STANDARD_JSON)
    }

    /// Whether a name server answers requests whose code it does not know.
    pub(super) fn name_server_answers_unknown_codes(self) -> bool {
        self == ServerVersion::V5_5_0
    }

    /// Whether a broker does.
    pub(super) fn broker_answers_unknown_codes(self) -> bool {
        self != ServerVersion::V4_7_0
    }

    /// How property text is read.
    pub(super) fn reading_rules(self) -> ReadingRules {
        match self {
            ServerVersion::V4_7_0 => ReadingRules::V4_7,
            ServerVersion::V4_9_7 | ServerVersion::V5_5_0 => ReadingRules::V4_9,
        }
    }

    /// The code for a bad topic name or queue id.
    fn bad_argument(self) -> ResponseCode {
        match self {
            ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => ResponseCode::SYSTEM_ERROR,
            ServerVersion::V5_5_0 => ResponseCode::INVALID_PARAMETER,
        }
    }

    /// `FAQUrl.suggestTodo`.
    fn advice(self) -> &'static str {
        match self {
            ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => {
                "\nSee http://rocketmq.apache.org/docs/faq/ for further details."
            }
            ServerVersion::V5_5_0 => {
                "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
            }
        }
    }

    /// The remark of a name server that does not know a topic. `None`: the request named none.
    pub(super) fn no_route(self, topic: Option<&str>) -> String {
        let topic = topic.unwrap_or("null");
        format!(
            "No topic route info in name server for the topic: {topic}{}",
            self.advice()
        )
    }

    /// The remark of a broker that neither knows a topic nor may create it.
    pub(super) fn no_topic(self, topic: &str) -> String {
        format!("topic[{topic}] not exist, apply first please!{}", self.advice())
    }

    /// Refuses a topic that `TopicValidator` of this release refuses to have messages sent to.
    pub(super) fn check_topic(self, topic: &str) -> Result<(), (ResponseCode, String)> {
        self.check_topic_name(topic)?;
        let is_forbidden = FORBIDDEN_TOPICS.contains(&topic)
            || self == ServerVersion::V5_5_0 && FORBIDDEN_TOPICS_OF_5_5_0.contains(&topic);
        // 4.7.0 does not refuse its system topics.
        if is_forbidden && self != ServerVersion::V4_7_0 {
            return Err((
                ResponseCode::NO_PERMISSION,
                format!("Sending message to topic[{topic}] is forbidden."),
            ));
        }
        Ok(())
    }

    /// Refuses a topic that an administrator may not create (`AdminBrokerProcessor.updateAndCreateTopic`).
    pub(super) fn check_new_topic(self, topic: &str) -> Result<(), (ResponseCode, String)> {
        if self == ServerVersion::V4_7_0 && topic == super::shared::CLUSTER_NAME {
            let remark = format!("the topic[{topic}] is conflict with system reserved words.");
            return Err((ResponseCode::SYSTEM_ERROR, remark));
        }
        self.check_topic_name(topic)?;
        let is_system_topic = topic == super::topics::TEMPLATE_TOPIC
            || FORBIDDEN_TOPICS.contains(&topic)
            || SYSTEM_TOPICS.contains(&topic)
            || topic.starts_with("rmq_sys_");
        if is_system_topic && self != ServerVersion::V4_7_0 {
            let remark = format!("The topic[{topic}] is conflict with system topic.");
            return Err((self.bad_argument(), remark));
        }
        Ok(())
    }

    /// Refuses what is no name of a topic.
    fn check_topic_name(self, topic: &str) -> Result<(), (ResponseCode, String)> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"%|-_".contains(&byte);
        let named = |what: &str| match self {
            ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => format!("The specified topic {what}"),
            ServerVersion::V5_5_0 => format!("The specified topic: {topic}, {what}"),
        };
        if topic.trim().is_empty() {
            Err((self.bad_argument(), "The specified topic is blank.".to_owned()))
        } else if !topic.bytes().all(is_legal) {
            let remark = named("contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
            Err((self.bad_argument(), remark))
        } else if topic.len() > MAX_TOPIC_LENGTH {
            let remark = match self {
                ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => named("is longer than topic max length."),
                ServerVersion::V5_5_0 => named("is longer than topic max length: 127"),
            };
            Err((self.bad_argument(), remark))
        } else if self == ServerVersion::V4_7_0 && topic == super::topics::TEMPLATE_TOPIC {
            // Only 4.7.0 refuses its template.
            let remark = "The specified topic is conflict with AUTO_CREATE_TOPIC_KEY_TOPIC.".to_owned();
            Err((ResponseCode::SYSTEM_ERROR, remark))
        } else {
            Ok(())
        }
    }

    /// Refuses a queue id that the topic does not have.
    pub(super) fn illegal_queue(
        self,
        queue_id: i32,
        topic: &str,
        settings: super::topics::TopicSettings,
        producer: SocketAddr,
    ) -> (ResponseCode, String) {
        let attributes = match self {
            ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => "",
            ServerVersion::V5_5_0 => ", attributes={}",
        };
        let bit = |mask: u32, letter: char| if settings.perm & mask == 0 { '-' } else { letter };
        let remark = format!(
            "request queueId[{queue_id}] is illegal, TopicConfig [topicName={topic}, readQueueNums={}, \
             writeQueueNums={}, perm={}{}{}, topicFilterType=SINGLE_TAG, topicSysFlag={}, order=false{attributes}] \
             Producer: {producer}",
            settings.read_queue_nums,
            settings.write_queue_nums,
            bit(4, 'R'),
            bit(2, 'W'),
            bit(1, 'X'),
            settings.topic_sys_flag,
        );
        (self.bad_argument(), remark)
    }

    /// The refusal of a message that is too large, or has too many properties.
    pub(super) fn message_illegal(self, max_message_size: usize) -> (ResponseCode, String) {
        let limits = match self {
            ServerVersion::V4_7_0 => {
                "msg body length limit 128k, msg properties length limit 32k.".to_owned()
            }
            ServerVersion::V4_9_7 | ServerVersion::V5_5_0 => {
                format!("msg body length limit {max_message_size}B, msg properties length limit 32KB.")
            }
        };
        let remark =
            format!("the message is illegal, maybe msg body or properties length not matched. {limits}");
        (ResponseCode::MESSAGE_ILLEGAL, remark)
    }

    /// The refusal of a broker whose disk is full.
    pub(super) fn disk_full(self) -> (ResponseCode, String) {
        let disk = "CL:  1.00 CQ:  1.00 INDEX:  1.00";
        let remark = match self {
            ServerVersion::V4_7_0 => format!(
                "service not available now, maybe disk full, {disk}, maybe your broker machine memory too small."
            ),
            ServerVersion::V4_9_7 | ServerVersion::V5_5_0 => format!(
                "service not available now. It may be caused by one of the following reasons: the broker's disk is \
                 full [{disk}], messages are put to the slave, message store has been shut down, etc."
            ),
        };
        (ResponseCode::SERVICE_NOT_AVAILABLE, remark)
    }

    /// What a header without a topic is answered with. The flag tells whether the answer carries region and trace.
    pub(super) fn topic_missing(self) -> (ResponseCode, &'static str, bool) {
        match self {
            ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => {
                (ResponseCode::SYSTEM_ERROR, "The specified topic is blank.", true)
            }
            ServerVersion::V5_5_0 => (
                ResponseCode::SYSTEM_ERROR,
                "java.lang.NullPointerException: Cannot invoke \"Object.hashCode()\" because \"key\" is null",
                false,
            ),
        }
    }

    /// What a header that lacks a required number, or has a text in its place, is answered with.
    pub(super) fn number_missing(self, given: Option<&str>) -> (ResponseCode, String) {
        let remark = match (self, given) {
            // 4.7.0 logs the failed conversion and trips over the absent value later.
            (ServerVersion::V4_9_7 | ServerVersion::V5_5_0, Some(text)) => {
                format!("java.lang.NumberFormatException: For input string: \"{text}\"")
            }
            _ => "java.lang.NullPointerException: Cannot invoke \"java.lang.Integer.intValue()\"".to_owned(),
        };
        (ResponseCode::SYSTEM_ERROR, remark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_refused_as_each_release_refuses_them() {
        use ServerVersion::{V4_7_0, V4_9_7, V5_5_0};
        let long = "t".repeat(128);
        let refusal = |version: ServerVersion, topic: &str| version.check_topic(topic).unwrap_err();
        for version in [V4_7_0, V4_9_7] {
            assert_eq!(
                refusal(version, "bad/topic"),
                (
                    ResponseCode::SYSTEM_ERROR,
                    "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
                        .into()
                )
            );
            assert_eq!(
                refusal(version, &long),
                (
                    ResponseCode::SYSTEM_ERROR,
                    "The specified topic is longer than topic max length.".into()
                )
            );
        }
        assert_eq!(
            refusal(V5_5_0, "bad/topic"),
            (
                ResponseCode::INVALID_PARAMETER,
                "The specified topic: bad/topic, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
                    .into()
            )
        );
        assert_eq!(
            refusal(V5_5_0, &long),
            (
                ResponseCode::INVALID_PARAMETER,
                format!("The specified topic: {long}, is longer than topic max length: 127")
            )
        );
        assert!(
            refusal(V4_7_0, "TBW102")
                .1
                .contains("AUTO_CREATE_TOPIC_KEY_TOPIC")
        );
        assert!(V4_7_0.check_topic("SCHEDULE_TOPIC_XXXX").is_ok());
        for version in [V4_9_7, V5_5_0] {
            assert!(version.check_topic("TBW102").is_ok());
            assert_eq!(
                refusal(version, "SCHEDULE_TOPIC_XXXX"),
                (
                    ResponseCode::NO_PERMISSION,
                    "Sending message to topic[SCHEDULE_TOPIC_XXXX] is forbidden.".into()
                )
            );
        }
        for version in [V4_7_0, V4_9_7, V5_5_0] {
            assert!(version.check_topic("%RETRY%a|b-c_D9").is_ok());
            assert!(version.check_topic(&long[1..]).is_ok());
            assert_eq!(refusal(version, " ").1, "The specified topic is blank.");
        }
    }
}
