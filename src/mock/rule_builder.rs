//! A rule of a fault script while it is being said: `cluster.broker("broker-a").on(code).times(1).reply(…)`.

use std::sync::Arc;
use std::time::Duration;

use crate::code::{RequestCode, ResponseCode};

use super::action::MockAction;
use super::controls::MockServer;
use super::requests::MockRequest;
use super::rules::{MockRule, Pattern, What};

/// No frame begins like this: its length is far over any limit.
const GARBAGE: &[u8] = b"\x7f\xff\xff\xff this is no frame \x00\x01\x02\x03";

/// A rule being said: which requests, how often, at which moment; the last word says what happens and puts the rule in
/// force.
///
/// Without another word a rule takes every request that fits, for ever, and [`reply`](Self::reply),
/// [`silence`](Self::silence), [`close`](Self::close), [`reset`](Self::reset) and the like come **before the store**:
/// the request has no effect. Of several rules that fit a request the oldest one takes it.
///
/// ```
/// use rocketmq_producer::{Message, Producer, RequestCode, ResponseCode, mock::MockCluster};
///
/// let cluster = MockCluster::start(1)?;
/// cluster
///     .broker("broker-a")
///     .on(RequestCode::SEND_MESSAGE_V2)
///     .times(1)
///     .reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
/// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
/// producer.send(&Message::new("orders", "first")?)?; // refused once, then stored
/// assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), 2);
/// assert_eq!(cluster.message_count("orders"), 1);
/// cluster.assert_no_rule_left();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a rule is in force when its last word says what happens"]
pub struct MockRuleBuilder<'a> {
    server: MockServer<'a>,
    pattern: Pattern,
    moment: Moment,
}

/// When what happens comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeStore,
    AfterStore,
    AfterAnswer,
}

impl<'a> MockRuleBuilder<'a> {
    pub(super) fn new(server: MockServer<'a>, code: Option<RequestCode>) -> MockRuleBuilder<'a> {
        MockRuleBuilder {
            server,
            pattern: Pattern {
                servers: server.servers,
                code,
                topic: None,
                skip: 0,
                every: 1,
                times: None,
            },
            moment: Moment::BeforeStore,
        }
    }

    /// Only requests that name this topic.
    pub fn topic(mut self, topic: impl Into<String>) -> MockRuleBuilder<'a> {
        self.pattern.topic = Some(topic.into());
        self
    }

    /// Takes one request.
    pub fn once(self) -> MockRuleBuilder<'a> {
        self.times(1)
    }

    /// Takes so many requests.
    pub fn times(mut self, times: u64) -> MockRuleBuilder<'a> {
        self.pattern.times = Some(times);
        self
    }

    /// Takes requests until it is cleared: what happens without another word.
    pub fn always(mut self) -> MockRuleBuilder<'a> {
        self.pattern.times = None;
        self
    }

    /// Lets so many requests that fit pass first. Those that an older rule takes do not count.
    pub fn skip(mut self, requests: u64) -> MockRuleBuilder<'a> {
        self.pattern.skip = requests;
        self
    }

    /// Takes only every k-th of the requests that fit: with 3 the third, the sixth, … Behind [`skip`](Self::skip), if
    /// that is given too.
    pub fn every(mut self, k: u64) -> MockRuleBuilder<'a> {
        self.pattern.every = k.max(1);
        self
    }

    /// What happens comes before the request has any effect: no message is stored. The default.
    pub fn before_store(mut self) -> MockRuleBuilder<'a> {
        self.moment = Moment::BeforeStore;
        self
    }

    /// What happens comes when the request has been carried out, in the place of its answer: the message is stored, and
    /// the sender is not told.
    pub fn after_store(mut self) -> MockRuleBuilder<'a> {
        self.moment = Moment::AfterStore;
        self
    }

    /// What happens comes behind the usual answer: for [`close`](Self::close), [`reset`](Self::reset) and
    /// [`mute`](Self::mute). For others it is the same as [`after_store`](Self::after_store).
    pub fn after_answer(mut self) -> MockRuleBuilder<'a> {
        self.moment = Moment::AfterAnswer;
        self
    }

    /// Answers with this code and remark. After the store, fields and body of the usual answer stay: code 10
    /// (`FLUSH_DISK_TIMEOUT`) comes with the place of the message.
    pub fn reply(self, code: ResponseCode, remark: impl Into<String>) -> MockRule {
        let action = self.up_to_moment().reply(code, remark);
        self.act(action)
    }

    /// Answers nothing. The connection stays as it is.
    pub fn silence(self) -> MockRule {
        let action = self.up_to_moment().silence();
        self.act(action)
    }

    /// Lets the request wait before it is carried out and answered as usual; after the store it is the answer that
    /// waits. Other requests on the connection overtake it.
    pub fn delay(self, time: Duration) -> MockRule {
        let action = match self.moment {
            Moment::BeforeStore => MockAction::usual().delay(time),
            Moment::AfterStore | Moment::AfterAnswer => MockAction::usual().delay_answer(time),
        };
        self.act(action)
    }

    /// Carries the request out at once and answers it after this time: longer than the sender's patience, perhaps.
    pub fn late_answer(self, time: Duration) -> MockRule {
        self.act(MockAction::usual().delay_answer(time))
    }

    /// Closes the connection: the client reads the end of the stream (FIN). Requests behind this one have no effect.
    pub fn close(self) -> MockRule {
        let action = self.ending().then_close();
        self.act(action)
    }

    /// Ends the connection by a reset (RST). Requests behind this one have no effect.
    pub fn reset(self) -> MockRule {
        let action = self.ending().then_reset();
        self.act(action)
    }

    /// Falls silent: the connection stays open, but neither this request nor those behind it are acted on or answered.
    pub fn mute(self) -> MockRule {
        let action = self.ending().then_mute();
        self.act(action)
    }

    /// Carries the request out, sends half of the answer, and closes.
    pub fn half_answer_then_close(self) -> MockRule {
        self.act(MockAction::usual().half().then_close())
    }

    /// Carries the request out, sends half of the answer, and falls silent.
    pub fn half_answer_then_silence(self) -> MockRule {
        self.act(MockAction::usual().half().then_mute())
    }

    /// Sends bytes that are no frame in the place of the answer.
    pub fn garbage(self) -> MockRule {
        self.raw(GARBAGE)
    }

    /// Sends these bytes in the place of the answer.
    pub fn raw(self, bytes: impl Into<Vec<u8>>) -> MockRule {
        let action = self.up_to_moment().raw(bytes);
        self.act(action)
    }

    /// Carries the request out and sends its answer twice.
    pub fn duplicate_answer(self) -> MockRule {
        self.act(MockAction::usual().times_answered(2))
    }

    /// Carries the request out and answers it under a number that nobody has asked with.
    pub fn wrong_opaque(self) -> MockRule {
        self.act(MockAction::usual().wrong_opaque())
    }

    /// Carries requests out, holds their answers until there are `group` of them, and sends those in the opposite
    /// order, each on its own connection. The last request of a limited rule completes the group.
    pub fn reverse_answers(self, group: usize) -> MockRule {
        self.in_force(What::Act(MockAction::usual()), Some(group))
    }

    /// Carries the request out and sends its answer in pieces of `chunk` bytes, with a pause behind each. Answers to
    /// other requests on the connection wait behind it.
    pub fn drip(self, chunk: usize, every: Duration) -> MockRule {
        self.act(MockAction::usual().drip(chunk, every))
    }

    /// Carries the request out and answers it, then reads nothing from its connection for this long.
    pub fn stop_reading(self, time: Duration) -> MockRule {
        self.act(MockAction::usual().then_stop_reading(time))
    }

    /// Carries the request out and answers it without this header field: without `queueOffset`, for example.
    pub fn answer_without(self, field: impl Into<String>) -> MockRule {
        self.act(MockAction::usual().without_field(field))
    }

    /// Does what `action` says, step by step.
    pub fn act(self, action: MockAction) -> MockRule {
        self.in_force(What::Act(action), None)
    }

    /// Asks a closure what to do with each request: the general case. The closure runs on the thread of the connection,
    /// which it must not take down; a panic in it ends the connection.
    ///
    /// ```
    /// use rocketmq_producer::{Message, Producer, RequestCode, ResponseCode};
    /// use rocketmq_producer::mock::{MockAction, MockCluster};
    ///
    /// let cluster = MockCluster::start(1)?;
    /// cluster.any_broker().on(RequestCode::SEND_MESSAGE_V2).respond_with(|request| {
    ///     if request.body.starts_with(b"bad") {
    ///         MockAction::usual().not_carried_out().reply(ResponseCode::MESSAGE_ILLEGAL, "no bad messages, please")
    ///     } else {
    ///         MockAction::usual()
    ///     }
    /// });
    /// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
    /// assert!(producer.send(&Message::new("orders", "good")?).is_ok());
    /// assert!(producer.send(&Message::new("orders", "bad")?).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn respond_with(
        self,
        closure: impl Fn(&MockRequest) -> MockAction + Send + Sync + 'static,
    ) -> MockRule {
        self.in_force(What::Ask(Arc::new(closure)), None)
    }

    /// The request is carried out or not, as the moment says.
    fn up_to_moment(&self) -> MockAction {
        match self.moment {
            Moment::BeforeStore => MockAction::usual().not_carried_out(),
            Moment::AfterStore | Moment::AfterAnswer => MockAction::usual(),
        }
    }

    /// The same, with the answer only if the end is to come behind it.
    fn ending(&self) -> MockAction {
        match self.moment {
            Moment::AfterAnswer => MockAction::usual(),
            Moment::BeforeStore | Moment::AfterStore => self.up_to_moment().silence(),
        }
    }

    fn in_force(self, what: What, group: Option<usize>) -> MockRule {
        let shared = Arc::clone(&self.server.cluster.shared);
        let (id, taken) = shared.faults.add(self.pattern, what, group);
        MockRule { id, taken, shared }
    }
}
