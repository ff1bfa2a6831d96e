//! Request and response codes as the protocol numbers and names them. A leaf: imports nothing of the crate.
//!
//! Values from `RequestCode`, `ResponseCode` and `RemotingSysResponseCode` of 4.7.0 and 5.x. A code that is not in the
//! tables survives as its number.

use std::fmt;

/// What a command asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestCode(i32);

/// How a server answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResponseCode(i32);

macro_rules! codes {
    ($type:ident { $($name:ident = $value:literal, $meaning:literal;)* }) => {
        impl $type {
            $(
                #[doc = $meaning]
                pub const $name: Self = Self($value);
            )*

            /// The code with this number, known or not.
            pub const fn new(value: i32) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn value(self) -> i32 {
                self.0
            }

            /// The name that the protocol gives to the code, if it is known here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{} {name}", self.0),
                    None => write!(f, "{}", self.0),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

codes! {
    RequestCode {
        SEND_MESSAGE = 10, "A message with the long field names (`SendMessageRequestHeader`).";
        PULL_MESSAGE = 11, "A consumer pulls.";
        QUERY_MESSAGE = 12, "Messages by key or by unique key.";
        QUERY_CONSUMER_OFFSET = 14, "A consumer asks for its offset.";
        UPDATE_CONSUMER_OFFSET = 15, "A consumer stores its offset.";
        UPDATE_AND_CREATE_TOPIC = 17, "Creates or changes a topic on one broker.";
        SEARCH_OFFSET_BY_TIMESTAMP = 29, "The offset of the first message stored at or after a time.";
        GET_MAX_OFFSET = 30, "The next offset to be written in a queue.";
        GET_MIN_OFFSET = 31, "The smallest offset kept in a queue.";
        GET_EARLIEST_MSG_STORETIME = 32, "When the oldest message kept in a queue was stored.";
        VIEW_MESSAGE_BY_ID = 33, "One message by its physical offset.";
        HEART_BEAT = 34, "Registers the connection for its producer groups.";
        UNREGISTER_CLIENT = 35, "Takes the registration back.";
        END_TRANSACTION = 37, "Commits or rolls back a half message.";
        GET_CONSUMER_LIST_BY_GROUP = 38, "The client ids of a consumer group.";
        CHECK_TRANSACTION_STATE = 39, "The broker asks what became of a half message.";
        NOTIFY_CONSUMER_IDS_CHANGED = 40, "The broker tells consumers that their group has changed.";
        CHECK_CLIENT_CONFIG = 46, "Checks the filter of a consumer.";
        PUT_KV_CONFIG = 100, "Stores a configuration value at a name server.";
        GET_KV_CONFIG = 101, "Reads a configuration value of a name server.";
        GET_ROUTEINFO_BY_TOPIC = 105, "The route of a topic; `GET_ROUTEINTO_BY_TOPIC` in 4.7.0.";
        GET_BROKER_CLUSTER_INFO = 106, "All clusters and brokers that a name server knows.";
        GET_PRODUCER_CONNECTION_LIST = 204, "The connections of a producer group.";
        DELETE_TOPIC_IN_BROKER = 215, "Removes a topic from one broker.";
        DELETE_TOPIC_IN_NAMESRV = 216, "Removes a topic from one name server.";
        RESET_CONSUMER_CLIENT_OFFSET = 220, "The broker tells a consumer to go to other offsets.";
        GET_CONSUMER_STATUS_FROM_CLIENT = 221, "The broker asks a consumer for its offsets.";
        GET_CONSUMER_RUNNING_INFO = 307, "The broker asks a consumer how it is doing.";
        CONSUME_MESSAGE_DIRECTLY = 309, "The broker hands a consumer one message.";
        SEND_MESSAGE_V2 = 310, "A message with one-letter field names (`SendMessageRequestHeaderV2`).";
        SEND_BATCH_MESSAGE = 320, "A batch of messages with one-letter field names.";
        SEND_REPLY_MESSAGE = 324, "A reply of request-reply with the long field names.";
        SEND_REPLY_MESSAGE_V2 = 325, "A reply of request-reply with one-letter field names.";
        PUSH_REPLY_MESSAGE_TO_CLIENT = 326, "The broker hands a reply to the client that waits for it.";
        RECALL_MESSAGE = 370, "Takes a timer message back (late 5.x).";
    }
}

codes! {
    ResponseCode {
        SUCCESS = 0, "Done.";
        SYSTEM_ERROR = 1, "Catch-all: store errors, bad queue ids and topic names (4.x), refused access (4.x).";
        SYSTEM_BUSY = 2, "Flow control: the message was not stored.";
        REQUEST_CODE_NOT_SUPPORTED = 3, "The server does not know the request code.";
        TRANSACTION_FAILED = 4, "Not used for producers.";
        FLUSH_DISK_TIMEOUT = 10, "Stored, but not yet flushed to disk.";
        SLAVE_NOT_AVAILABLE = 11, "Stored on the master only.";
        FLUSH_SLAVE_TIMEOUT = 12, "Stored on the master, the slave is late.";
        MESSAGE_ILLEGAL = 13, "Message or properties too large, or a timer value that is not allowed (5.x).";
        SERVICE_NOT_AVAILABLE = 14, "Disk full, a slave, or the store is shut down.";
        VERSION_NOT_SUPPORTED = 15, "The server does not support the version.";
        NO_PERMISSION = 16, "Not writable, or access refused (5.x).";
        TOPIC_NOT_EXIST = 17, "No such topic.";
        TOPIC_EXIST_ALREADY = 18, "The topic exists already.";
        PULL_NOT_FOUND = 19, "Nothing to pull at this offset yet.";
        QUERY_NOT_FOUND = 22, "The query found nothing.";
        SUBSCRIPTION_NOT_LATEST = 25, "The broker has an older subscription of the consumer.";
        SUBSCRIPTION_GROUP_NOT_EXIST = 26, "No such consumer group, for `%RETRY%` topics.";
        INVALID_PARAMETER = 29, "A bad topic name or queue id (5.x).";
        TRANSACTION_SHOULD_COMMIT = 200, "Legacy.";
        TRANSACTION_SHOULD_ROLLBACK = 201, "Legacy.";
        TRANSACTION_STATE_UNKNOW = 202, "Legacy.";
        TRANSACTION_STATE_GROUP_WRONG = 203, "Legacy.";
        NO_BUYER_ID = 204, "Legacy.";
        NOT_IN_CURRENT_UNIT = 205, "The broker does not serve this unit.";
        CONSUMER_NOT_ONLINE = 206, "The consumer is not online.";
        CONSUME_MSG_TIMEOUT = 207, "The consumer took too long.";
        NO_MESSAGE = 208, "No such message.";
        POLLING_FULL = 209, "5.x; a failed change of access rules in 4.7.0.";
        POLLING_TIMEOUT = 210, "5.x; a failed removal of access rules in 4.7.0.";
        BROKER_NOT_EXIST = 211, "5.x; a failed change of the address white list in 4.7.0.";
        FLOW_CONTROL = 215, "The 5.x proxy limits the rate.";
        NOT_LEADER_FOR_QUEUE = 501, "The queue of a static topic has moved (5.x).";
        ILLEGAL_OPERATION = 604, "A recall handle that is bad, foreign or expired (5.x).";
        GO_AWAY = 1500, "The server is shutting down (5.x, for clients that claim a version over 475).";
        RPC_UNKNOWN = -1000, "Between 5.x servers.";
        RPC_ADDR_IS_NULL = -1002, "Between 5.x servers.";
        RPC_SEND_TO_CHANNEL_FAILED = -1004, "Between 5.x servers.";
        RPC_TIME_OUT = -1006, "Between 5.x servers.";
    }
}

#[cfg(test)]
mod tests {
    use super::{RequestCode, ResponseCode};

    #[test]
    fn known_codes_show_number_and_name() {
        assert_eq!(RequestCode::SEND_MESSAGE_V2.to_string(), "310 SEND_MESSAGE_V2");
        assert_eq!(format!("{:?}", ResponseCode::new(2)), "2 SYSTEM_BUSY");
        assert_eq!(ResponseCode::RPC_TIME_OUT.value(), -1006);
    }

    #[test]
    fn unknown_codes_survive_as_numbers() {
        assert_eq!(RequestCode::new(9999).to_string(), "9999");
        assert_eq!(ResponseCode::new(i32::MIN).value(), i32::MIN);
        assert_eq!(ResponseCode::new(777).name(), None);
    }
}
