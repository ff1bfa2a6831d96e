//! What a server does with one request, when a rule says so: from the moment it has been read to the end of its answer.
//! A value; it is carried out in `scripted`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::code::ResponseCode;
use crate::wire::WireError;
use crate::wire::command::Command;
use crate::wire::frame::{Serialization, split_frame};
use crate::wire::header::Header;

use super::dialect::ServerVersion;
use super::reply::{Reply, ReplyFields};

/// This bit of a number in use is never set by a client that counts from 0.
const HIGH_BIT: i32 = 1 << 30;

/// What a server does with one request, step by step:
///
/// 1. It may wait ([`delay`](Self::delay)).
/// 2. It carries the request out, so that a message is stored, or does not ([`not_carried_out`](Self::not_carried_out)).
/// 3. It may wait again ([`delay_answer`](Self::delay_answer)).
/// 4. It answers as usual, or [something else](Self::reply), or [nothing](Self::silence).
/// 5. It may [close](Self::then_close), [reset](Self::then_reset) or [fall silent](Self::then_mute).
///
/// Waiting holds up this request only: those behind it on the same connection overtake it. The answer to a one-way
/// request stays out, whatever is said here, but for [`raw`](Self::raw).
///
/// ```
/// use std::time::Duration;
/// use rocketmq_producer::{RequestCode, ResponseCode, mock::{MockAction, MockCluster}};
///
/// let cluster = MockCluster::start(1)?;
/// // The first message is stored late, and its answer comes in single bytes and without an offset.
/// let action = MockAction::usual()
///     .delay(Duration::from_millis(20))
///     .without_field("queueOffset")
///     .drip(1, Duration::from_millis(1));
/// cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2).once().act(action);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "an action does nothing by itself"]
pub struct MockAction {
    pub(super) wait: Duration,
    pub(super) is_carried_out: bool,
    pub(super) answer_wait: Duration,
    answer: Answer,
    edits: Vec<Edit>,
    copies: usize,
    length: Length,
    pub(super) drip: Option<(usize, Duration)>,
    pub(super) end: End,
    pub(super) stop_reading: Duration,
}

#[derive(Clone)]
enum Answer {
    Usual,
    Code(ResponseCode, String),
    Silence,
    Raw(Arc<[u8]>),
}

#[derive(Clone)]
enum Edit {
    Set(String, String),
    Remove(String),
    Body(Vec<u8>),
    Opaque(i32),
    OtherOpaque,
}

#[derive(Clone, Copy)]
enum Length {
    Whole,
    Half,
    Bytes(usize),
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Stay,
    Mute,
    Close,
    Reset,
}

impl MockAction {
    /// Carried out at once and answered as usual: what happens without a rule.
    pub fn usual() -> MockAction {
        MockAction {
            wait: Duration::ZERO,
            is_carried_out: true,
            answer_wait: Duration::ZERO,
            answer: Answer::Usual,
            edits: Vec::new(),
            copies: 1,
            length: Length::Whole,
            drip: None,
            end: End::Stay,
            stop_reading: Duration::ZERO,
        }
    }

    /// The request is read and has no effect: nothing is stored. Without another word the answer is then silence.
    pub fn not_carried_out(mut self) -> MockAction {
        self.is_carried_out = false;
        self
    }

    /// The request waits for this long before it is carried out.
    pub fn delay(mut self, time: Duration) -> MockAction {
        self.wait = time;
        self
    }

    /// The answer waits for this long; the request is carried out before.
    pub fn delay_answer(mut self, time: Duration) -> MockAction {
        self.answer_wait = time;
        self
    }

    /// Answers with this code and remark; an empty remark is none. If the request is carried out, and is so with
    /// success, header fields and body of the usual answer stay: code 10 comes with the place of the message.
    pub fn reply(mut self, code: ResponseCode, remark: impl Into<String>) -> MockAction {
        self.answer = Answer::Code(code, remark.into());
        self
    }

    /// Answers nothing.
    pub fn silence(mut self) -> MockAction {
        self.answer = Answer::Silence;
        self
    }

    /// Sends these bytes in the place of an answer, whatever they are.
    pub fn raw(mut self, bytes: impl Into<Vec<u8>>) -> MockAction {
        self.answer = Answer::Raw(bytes.into().into());
        self
    }

    /// Sets a header field of the answer.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<String>) -> MockAction {
        self.edits.push(Edit::Set(name.into(), value.into()));
        self
    }

    /// Leaves a header field of the answer out.
    pub fn without_field(mut self, name: impl Into<String>) -> MockAction {
        self.edits.push(Edit::Remove(name.into()));
        self
    }

    /// Replaces the body of the answer: the route, for example.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> MockAction {
        self.edits.push(Edit::Body(body.into()));
        self
    }

    /// Answers to a number that nobody has asked with (its bit 30 is turned).
    pub fn wrong_opaque(mut self) -> MockAction {
        self.edits.push(Edit::OtherOpaque);
        self
    }

    /// Answers to this number.
    pub fn opaque(mut self, opaque: i32) -> MockAction {
        self.edits.push(Edit::Opaque(opaque));
        self
    }

    /// Sends the same answer so many times.
    pub fn times_answered(mut self, times: usize) -> MockAction {
        self.copies = times;
        self
    }

    /// Sends the first half of the answer only.
    pub fn half(mut self) -> MockAction {
        self.length = Length::Half;
        self
    }

    /// Sends so many bytes of the answer only.
    pub fn first_bytes(mut self, count: usize) -> MockAction {
        self.length = Length::Bytes(count);
        self
    }

    /// Sends the answer in pieces of so many bytes, with a pause behind each. Later answers wait behind it.
    pub fn drip(mut self, chunk: usize, every: Duration) -> MockAction {
        self.drip = Some((chunk, every));
        self
    }

    /// Then closes the connection: the client reads an end of the stream. Requests behind this one are not acted on;
    /// they are read and thrown away until the client closes its end too.
    pub fn then_close(mut self) -> MockAction {
        self.end = End::Close;
        self
    }

    /// Then ends the connection by a reset (RST).
    pub fn then_reset(mut self) -> MockAction {
        self.end = End::Reset;
        self
    }

    /// Then falls silent: the connection stays open, but nothing on it is acted on or answered any more.
    pub fn then_mute(mut self) -> MockAction {
        self.end = End::Mute;
        self
    }

    /// Then reads nothing from this connection for this long, so that the client's writes fill the buffers.
    pub fn then_stop_reading(mut self, time: Duration) -> MockAction {
        self.stop_reading = time;
        self
    }

    /// Whether the answer goes out like any other.
    pub(super) fn is_plain(&self) -> bool {
        self.answer_wait.is_zero() && self.drip.is_none() && self.end == End::Stay
    }

    /// The bytes to send for `request`, none for silence. `usual` is the usual answer, if the request was carried out.
    pub(super) fn answer(
        &self,
        usual: Option<Reply>,
        version: ServerVersion,
        request: &Header<'_>,
        serialization: Serialization,
    ) -> Result<Vec<u8>, WireError> {
        if let Answer::Raw(bytes) = &self.answer {
            return Ok(bytes.to_vec());
        }
        let reply = match (&self.answer, usual) {
            _ if request.is_oneway() => None,
            (Answer::Code(code, remark), usual) => {
                let kept = usual.filter(|reply| reply.code == ResponseCode::SUCCESS);
                let empty = || Reply::success(ReplyFields::None);
                Some(Reply {
                    code: *code,
                    remark: Some(remark.clone())
                        .filter(|remark| !remark.is_empty())
                        .map(Cow::Owned),
                    ..kept.unwrap_or_else(empty)
                })
            }
            (Answer::Usual, usual) => usual,
            (Answer::Silence | Answer::Raw(_), _) => None,
        };
        let mut bytes = Vec::new();
        let Some(reply) = reply else {
            return Ok(bytes);
        };
        reply.encode(version, request, serialization, &mut bytes)?;
        if !self.edits.is_empty() {
            bytes = self.edited(&bytes)?;
        }
        bytes = bytes.repeat(self.copies);
        bytes.truncate(match self.length {
            Length::Whole => bytes.len(),
            Length::Half => bytes.len() / 2,
            Length::Bytes(count) => count,
        });
        Ok(bytes)
    }

    fn edited(&self, bytes: &[u8]) -> Result<Vec<u8>, WireError> {
        let Some((frame, _)) = split_frame(bytes)? else {
            return Ok(bytes.to_vec());
        };
        let mut command = Command::decode(frame)?;
        for edit in &self.edits {
            match edit {
                Edit::Set(name, value) => {
                    command.fields.retain(|field| field.0 != *name);
                    command.fields.push((name.clone(), value.clone()));
                }
                Edit::Remove(name) => command.fields.retain(|field| field.0 != *name),
                Edit::Body(body) => command.body.clone_from(body),
                Edit::Opaque(opaque) => command.opaque = *opaque,
                Edit::OtherOpaque => command.opaque ^= HIGH_BIT,
            }
        }
        let mut out = Vec::new();
        command.encode(&mut out)?;
        Ok(out)
    }
}

impl fmt::Debug for MockAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match &self.answer {
            Answer::Usual => "usual".to_owned(),
            Answer::Code(code, remark) => format!("{code} {remark:?}"),
            Answer::Silence => "silence".to_owned(),
            Answer::Raw(bytes) => format!("{} raw bytes", bytes.len()),
        };
        f.debug_struct("MockAction")
            .field("wait", &self.wait)
            .field("is_carried_out", &self.is_carried_out)
            .field("answer_wait", &self.answer_wait)
            .field("answer", &answer)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
