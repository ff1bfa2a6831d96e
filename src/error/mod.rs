//! Everything that can go wrong, as values that answer the one question of a producer's user: what became of my
//! message? No I/O happens here.

mod attempts;
mod brokers;
mod delivery;
mod no_reply;

use std::{fmt, io, sync::Arc, time::Duration};

pub use attempts::{Attempt, FailedSend};
pub use brokers::{BrokerFailure, FailedOnBrokers};
pub use delivery::{Delivery, Phase, Written};
pub(crate) use delivery::{is_access_refusal, is_busy_refusal, is_size_refusal};
pub use no_reply::{NoReply, NoReplyCause};

use crate::code::ResponseCode;

/// Why something failed. [`Error::delivery`] says what became of the message.
///
/// Errors are cheap to clone, and never contain a message body or a secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A setting of the producer cannot work. Nothing was started.
    InvalidConfig {
        /// The name of the setting, as in the builder.
        setting: &'static str,
        /// The rule that is broken, and the value.
        reason: String,
    },
    /// The message breaks a rule. Nothing has left the process.
    InvalidMessage {
        /// The rule that is broken, and the value.
        reason: String,
    },
    /// What was asked for breaks a rule: an id that is none, a queue that does not exist, a time range turned round. No
    /// broker was asked.
    InvalidQuery {
        /// The rule that is broken, and the value.
        reason: String,
    },
    /// No name server could be asked for the route of the topic.
    NameServersUnreachable {
        /// The topic.
        topic: Arc<str>,
        /// How long it was tried.
        waited: Duration,
        /// Each name server that was tried, with what happened.
        tried: Arc<[Error]>,
    },
    /// The name servers answer, but know no broker that takes messages for the topic.
    NoRoute {
        /// The topic.
        topic: Arc<str>,
        /// What the name servers said, and what to look at.
        reason: Arc<str>,
    },
    /// An address could not be connected to.
    Connect {
        /// The address as the route or the configuration names it.
        address: Arc<str>,
        /// How long it was tried.
        waited: Duration,
        /// The error of the operating system or of the resolver.
        source: Arc<io::Error>,
    },
    /// The connection ended while the request was on its way.
    ConnectionLost {
        /// The address of the peer.
        address: Arc<str>,
        /// How much of the request had been written.
        written: Written,
        /// How long the request had been on its way.
        waited: Duration,
        /// Why the connection ended.
        source: Arc<io::Error>,
    },
    /// The time was over.
    Timeout {
        /// What was waited for.
        phase: Phase,
        /// The address or the topic that was waited for.
        target: Arc<str>,
        /// How long it was waited.
        waited: Duration,
        /// How much of the request had been written.
        written: Written,
    },
    /// A broker or a name server answered with a refusal.
    Refused {
        /// The address of the peer.
        address: Arc<str>,
        /// The code of the answer.
        code: ResponseCode,
        /// The text of the answer, cut at 1 KiB and with control characters escaped.
        remark: Arc<str>,
    },
    /// The peer sent something that is not RocketMQ's protocol, or an answer that lacks what it must contain.
    Protocol {
        /// The address of the peer.
        address: Arc<str>,
        /// How much of the request had been written.
        written: Written,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// The broker is of a release that would ignore what is asked of it, and deliver a timer message at once, for example. It
    /// was not sent.
    NotSupported {
        /// The address of the broker.
        address: Arc<str>,
        /// What it does not support.
        what: &'static str,
        /// The first release that does.
        since: &'static str,
        /// The broker's own release, as a number of `MQVersion` (353 is 4.7.0, 513 is 5.5.0). `None`: it has not said it.
        version: Option<i32>,
    },
    /// The send was attempted and failed: every attempt is listed.
    Failed(Box<FailedSend>),
    /// The request was sent, and no reply came: [`Error::delivery`] says whether a broker has stored the request.
    NoReply(Box<NoReply>),
    /// Several brokers were asked, and not all did it: each is listed.
    FailedOnBrokers(Box<FailedOnBrokers>),
    /// The producer is shut down, or was shut down before the send could be attempted.
    ShutDown,
    /// An ordered message before this one in the same queue ended without a verdict, so whether this one may follow cannot be
    /// told. It has not been sent.
    OrderEnded {
        /// The queue whose order ended, as `topic@broker#id`.
        queue: Arc<str>,
    },
    /// The operating system refused a thread.
    Thread {
        /// What the thread was for.
        purpose: &'static str,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
}

impl Error {
    /// What may have become of the message.
    ///
    /// For a send with several attempts it is [`Delivery::Unknown`] if any attempt was.
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::InvalidConfig { .. }
            | Self::InvalidMessage { .. }
            | Self::InvalidQuery { .. }
            | Self::FailedOnBrokers(_)
            | Self::NameServersUnreachable { .. }
            | Self::NoRoute { .. }
            | Self::Connect { .. }
            | Self::NotSupported { .. }
            | Self::ShutDown
            | Self::OrderEnded { .. }
            | Self::Thread { .. } => Delivery::NotStored,
            Self::ConnectionLost { written, .. }
            | Self::Timeout { written, .. }
            | Self::Protocol { written, .. } => written.delivery(),
            Self::Refused { code, remark, .. } => delivery::refusal_delivery(*code, remark),
            Self::Failed(failed) => failed.delivery(),
            Self::NoReply(no_reply) => no_reply.delivery(),
        }
    }

    /// The broker's code, if the last word was a broker's or a name server's refusal.
    pub fn response_code(&self) -> Option<ResponseCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Failed(failed) => failed.last_error().and_then(Self::response_code),
            Self::NoReply(no_reply) => no_reply.send_error().and_then(Self::response_code),
            Self::FailedOnBrokers(failed) => failed.failed().last().and_then(|it| it.error.response_code()),
            _ => None,
        }
    }

    /// Whether the time ran out, in whatever phase.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Failed(failed) => failed.last_error().is_some_and(Self::is_timeout),
            Self::NoReply(no_reply) => matches!(no_reply.cause(), NoReplyCause::TimeOver),
            Self::FailedOnBrokers(failed) => failed.failed().iter().any(|it| it.error.is_timeout()),
            _ => false,
        }
    }

    /// Whether the cluster may get over it, without anything being changed here.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NameServersUnreachable { .. }
                | Self::NoRoute { .. }
                | Self::Timeout { .. }
                | Self::Connect { .. }
        )
    }

    /// The attempts of a failed send, none if it failed before the first.
    pub fn attempts(&self) -> &[Attempt] {
        match self {
            Self::Failed(failed) => failed.attempts(),
            Self::NoReply(no_reply) => no_reply.send_error().map_or(&[], Self::attempts),
            _ => &[],
        }
    }

    /// A refusal with a remark from the network: cut and escaped before it can reach a log.
    pub(crate) fn refused(address: &Arc<str>, code: ResponseCode, remark: Option<&str>) -> Self {
        let remark = printable(remark.unwrap_or("(no remark)"));
        Self::Refused {
            address: Arc::clone(address),
            code,
            remark: remark.into(),
        }
    }
}

/// Text from a peer made fit for logs: control characters escaped, at most 1 KiB or so.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST_REMARK: usize = 1024;
    let mut shown = String::with_capacity(text.len().min(LONGEST_REMARK));
    for character in text.chars() {
        if shown.len() >= LONGEST_REMARK {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

impl Error {
    fn fmt_not_supported(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NotSupported {
            address,
            what,
            since,
            version,
        } = self
        else {
            return Ok(());
        };
        write!(
            f,
            "not sent: {what} needs brokers of {since} or later, since older ones ignore what it asks for, and {address} "
        )?;
        match version {
            Some(version) => write!(f, "is of an older release (its version number is {version})"),
            None => f.write_str("has not told its release"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidConfig { setting, reason } => write!(f, "invalid setting {setting}: {reason}"),
            Self::InvalidMessage { reason } => write!(f, "invalid message: {reason}"),
            Self::InvalidQuery { reason } => write!(f, "invalid query: {reason}"),
            Self::NameServersUnreachable { topic, waited, tried } => {
                fmt_unreachable(f, topic, *waited, tried)
            }
            Self::NoRoute { topic, reason } => write!(f, "no route for topic {topic}: {reason}"),
            Self::Connect {
                address,
                waited,
                source,
            } => {
                write!(f, "cannot connect to {address} (after {waited:.1?}): {source}")
            }
            Self::ConnectionLost {
                address,
                written,
                waited,
                source,
            } => {
                write!(
                    f,
                    "connection to {address} lost after {waited:.1?} ({written}): {source}"
                )
            }
            Self::Timeout {
                phase,
                target,
                waited,
                written,
            } => {
                write!(f, "time over after {waited:.1?} while {phase}: {target} ")?;
                match phase {
                    Phase::Connect | Phase::Write | Phase::Reply => write!(f, "({written})"),
                    // What was written then, if anything, was not the message.
                    Phase::Permit | Phase::Gather | Phase::Route | Phase::Order => {
                        f.write_str("(message not sent)")
                    }
                }
            }
            Self::Refused {
                address,
                code,
                remark,
            } => write!(f, "{address} answered {code}: {remark}"),
            Self::Protocol {
                address,
                written,
                reason,
            } => {
                write!(f, "{address} broke the protocol ({written}): {reason}")
            }
            Self::NotSupported { .. } => self.fmt_not_supported(f),
            Self::Failed(failed) => failed.fmt(f),
            Self::NoReply(no_reply) => no_reply.fmt(f),
            Self::FailedOnBrokers(failed) => failed.fmt(f),
            Self::ShutDown => f.write_str("the producer is shut down"),
            Self::OrderEnded { queue } => write!(
                f,
                "not sent: the outcome of an ordered message before it in queue {queue} is unknown, which ends the order"
            ),
            Self::Thread { purpose, source } => write!(f, "cannot start a thread for {purpose}: {source}"),
        }
    }
}

fn fmt_unreachable(
    f: &mut fmt::Formatter<'_>,
    topic: &str,
    waited: Duration,
    tried: &[Error],
) -> fmt::Result {
    write!(
        f,
        "no name server could be asked for the route of topic {topic} within {waited:.1?}:"
    )?;
    tried
        .iter()
        .enumerate()
        .try_for_each(|(number, error)| write!(f, "{} {error}", if number == 0 { "" } else { ";" }))
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. }
            | Self::ConnectionLost { source, .. }
            | Self::Thread { source, .. } => Some(&**source),
            Self::NameServersUnreachable { tried, .. } => tried.last().map(|error| error as _),
            Self::Failed(failed) => failed.last_error().map(|error| error as _),
            Self::NoReply(no_reply) => no_reply.send_error().map(|error| error as _),
            Self::FailedOnBrokers(failed) => failed.failed().last().map(|failure| &failure.error as _),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_small_enough_to_return_by_value() {
        assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
    }

    #[test]
    fn text_from_a_peer_cannot_forge_a_log_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert!(printable(&"x".repeat(100_000)).len() < 1100);
    }

    #[test]
    fn a_written_request_without_a_verdict_is_unknown() {
        let address: Arc<str> = "10.0.0.1:10911".into();
        let lost = |written| Error::ConnectionLost {
            address: Arc::clone(&address),
            written,
            waited: Duration::from_millis(3),
            source: Arc::new(io::ErrorKind::ConnectionReset.into()),
        };
        assert_eq!(lost(Written::Nothing).delivery(), Delivery::NotStored);
        assert_eq!(lost(Written::Part).delivery(), Delivery::NotStored);
        assert_eq!(lost(Written::All).delivery(), Delivery::Unknown);
        assert_eq!(
            lost(Written::All).to_string(),
            "connection to 10.0.0.1:10911 lost after 3.0ms (fully written): connection reset"
        );
    }
}
