//! What became of a message: the phases of an attempt, how much of it was written, and the table that turns a broker's
//! refusal into a verdict.

use std::fmt;

use crate::code::ResponseCode;

/// What may have become of the message of a failed send.
///
/// ```
/// use rocketmq_producer::{Delivery, Error};
///
/// fn may_send_again(error: &Error) -> bool {
///     // An unknown outcome may mean that the message is stored: sending again may store it twice.
///     !matches!(error.delivery(), Delivery::Unknown | Delivery::Stored)
/// }
/// # let error = Error::ShutDown;
/// # assert!(may_send_again(&error));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivery {
    /// No broker has the message: it never left this process as a whole.
    NotStored,
    /// A broker had the message and refused it, so it is not stored. Code and remark say why.
    Refused,
    /// The message was written and no verdict came back: it may be stored or not.
    Unknown,
    /// A broker has stored the message. What failed came after that: no reply came to a request.
    Stored,
}

impl Delivery {
    /// Whether the message is certainly not stored.
    pub fn is_not_stored(self) -> bool {
        matches!(self, Self::NotStored | Self::Refused)
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStored => "not stored",
            Self::Refused => "refused, not stored",
            Self::Unknown => "unknown, may be stored",
            Self::Stored => "stored",
        })
    }
}

/// How much of a request had left this process when the connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Written {
    /// Not one byte of it.
    Nothing,
    /// A beginning. A broker acts on whole frames only, so the message is not stored.
    Part,
    /// All of it: the broker may have acted.
    All,
}

impl Written {
    /// What it means for a message.
    pub fn delivery(self) -> Delivery {
        match self {
            Self::Nothing | Self::Part => Delivery::NotStored,
            Self::All => Delivery::Unknown,
        }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing written",
            Self::Part => "partly written",
            Self::All => "fully written",
        })
    }
}

/// What a send was waiting for when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// For room among the asynchronous sends in flight, or among the messages that are gathered into batches.
    Permit,
    /// For other messages to share a batch with.
    Gather,
    /// For the topic route from a name server.
    Route,
    /// For the connection to the broker.
    Connect,
    /// For the connection to take the request.
    Write,
    /// For the broker's answer.
    Reply,
    /// For the ordered messages before it in the same queue.
    Order,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permit => {
                "waiting for room (max_async_in_flight, max_async_bytes, max_total_bytes of auto_batch)"
            }
            Self::Gather => "being gathered into a batch",
            Self::Route => "waiting for the topic route",
            Self::Connect => "connecting",
            Self::Write => "writing the request",
            Self::Reply => "waiting for the reply",
            Self::Order => "waiting behind the ordered messages before it",
        })
    }
}

/// Remarks of code 1 with which brokers refuse a message before it reaches the log. Code 1 also stands for failures
/// after the append, so every other remark leaves the outcome open.
const REFUSED_BEFORE_THE_LOG: &[&str] = &[
    // 4.x SendMessageProcessor.handlePutMessageResult: page cache busy, mapped file could not be created.
    "[PC_SYNCHRONIZED]",
    "create mapped file failed",
    // 4.x AbstractSendMessageProcessor.msgCheck.
    "request queueId",
    "The specified topic is blank",
    "The specified topic contains illegal characters",
    "The specified topic is longer than topic max length",
    "The topic[TBW102] is conflict with system reserved words",
    BATCH_TOO_LARGE,
    BATCH_BODY_TOO_LARGE,
    // 5.x SendMessageProcessor.handlePutMessageResult: too many messages for one second, and no timer at all.
    "timer message is under flow control",
    "timer message is not enabled",
    // 4.x acl: checked before the request reaches its processor.
    ACL_EXCEPTION,
];

/// How 4.x refuses a batch that it measures before it is appended (4.7.0 `CommitLog.MessageExtBatchEncoder`).
const BATCH_TOO_LARGE: &str = "RuntimeException: message size exceeded";

/// How 5.x does (`MessageExtEncoder`).
const BATCH_BODY_TOO_LARGE: &str = "RuntimeException: message body size exceeded";

/// How 4.x names the exception of a failed access check in the remark.
const ACL_EXCEPTION: &str = "AclException";

/// Whether a broker refuses a batch for its size. 13 is the code for that too, but not the only one.
pub(crate) fn is_size_refusal(code: ResponseCode, remark: &str) -> bool {
    let says = |text: &&str| remark.contains(*text);
    code == ResponseCode::SYSTEM_ERROR && [BATCH_TOO_LARGE, BATCH_BODY_TOO_LARGE].iter().any(says)
}

/// What a broker's refusal says about the message. A code that is not named here leaves the outcome open.
pub(crate) fn refusal_delivery(code: ResponseCode, remark: &str) -> Delivery {
    match code {
        ResponseCode::SYSTEM_BUSY
        | ResponseCode::REQUEST_CODE_NOT_SUPPORTED
        | ResponseCode::MESSAGE_ILLEGAL
        | ResponseCode::SERVICE_NOT_AVAILABLE
        | ResponseCode::NO_PERMISSION
        | ResponseCode::TOPIC_NOT_EXIST
        | ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST
        | ResponseCode::INVALID_PARAMETER
        | ResponseCode::NO_BUYER_ID
        | ResponseCode::NOT_IN_CURRENT_UNIT
        | ResponseCode::NOT_LEADER_FOR_QUEUE
        | ResponseCode::GO_AWAY => Delivery::Refused,
        ResponseCode::SYSTEM_ERROR if REFUSED_BEFORE_THE_LOG.iter().any(|text| remark.contains(text)) => {
            Delivery::Refused
        }
        _ => Delivery::Unknown,
    }
}

/// Whether a refusal is about who is asking: no other broker and no second try will change it. 4.x answers code 1 with
/// the exception's name, 5.x answers 16, which it shares with "sending is forbidden" on a read-only broker.
pub(crate) fn is_access_refusal(code: ResponseCode, remark: &str) -> bool {
    match code {
        ResponseCode::SYSTEM_ERROR => remark.contains(ACL_EXCEPTION),
        ResponseCode::NO_PERMISSION => !remark.contains("forbidden"),
        _ => false,
    }
}

/// Whether a broker refused because it has too much to do: another try may help, but not at once.
pub(crate) fn is_busy_refusal(code: ResponseCode, remark: &str) -> bool {
    // 4.x says so of a busy page cache with code 1.
    code == ResponseCode::SYSTEM_BUSY
        || code == ResponseCode::SYSTEM_ERROR && remark.contains("[PC_SYNCHRONIZED]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_1_is_open_unless_the_remark_is_known() {
        let system_error = ResponseCode::SYSTEM_ERROR;
        assert_eq!(refusal_delivery(system_error, "UNKNOWN_ERROR"), Delivery::Unknown);
        assert_eq!(
            refusal_delivery(system_error, "[PC_SYNCHRONIZED]broker busy"),
            Delivery::Refused
        );
        assert_eq!(
            refusal_delivery(system_error, "request queueId[99] is illegal, TopicConfig"),
            Delivery::Refused
        );
        assert_eq!(refusal_delivery(ResponseCode::new(4711), ""), Delivery::Unknown);
    }

    #[test]
    fn code_16_is_about_access_unless_sending_is_forbidden() {
        let no_permission = ResponseCode::NO_PERMISSION;
        assert!(is_access_refusal(
            no_permission,
            "User:x has no permission to access Topic:y"
        ));
        assert!(!is_access_refusal(
            no_permission,
            "the broker[10.0.0.1] sending message is forbidden"
        ));
        assert!(is_access_refusal(
            ResponseCode::SYSTEM_ERROR,
            "org.apache.rocketmq.acl.common.AclException: No acl"
        ));
    }
}
