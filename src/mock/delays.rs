//! Messages that are not for consumers yet: delay levels of all releases, timer messages and recalls of 5.x.
//!
//! As in a broker such a message is stored in a system topic at once, and in its own topic when its time has come. The
//! clock is the system's, and what [`MockCluster::let_time_pass`](super::MockCluster::let_time_pass) has added to it.
//! Bounded: what waits lies in the store too, which has a limit, and is limited in number.
//!
//! Rule: the lock is held while a message goes over into its topic, so a recall finds it in one place or the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::code::ResponseCode;
use crate::message::property;
use crate::wire::header::Header;
use crate::wire::properties;
use crate::wire::recall_handle::RecallHandle;
use crate::wire::request::recall_message::ReceivedRecall;

use super::broker::Session;
use super::dialect::ServerVersion;
use super::reply::{Reply, ReplyFields};
use super::shared::{BrokerPlace, Shared};
use super::store::{Incoming, Item};

/// Seconds of the delay levels from 1 on (`MessageStoreConfig.messageDelayLevel`).
const LEVELS: [u64; 18] = [
    1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200,
];

/// Where messages with a level wait, each level in a queue of its own (`TopicValidator.RMQ_SYS_SCHEDULE_TOPIC`).
const LEVEL_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

/// Where timer messages wait (`TimerMessageStore.TIMER_TOPIC`).
const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";

/// `MessageStoreConfig.timerMaxDelaySec`.
const MAX_TIMER_DELAY_MS: u64 = 3 * 24 * 60 * 60 * 1000;

/// `MessageStoreConfig.timerPrecisionMs`: times are rounded down to it, and looked at one step later.
const TIMER_PRECISION_MS: u64 = 1000;

/// More than this wait for a mistake.
const MOST_WAITING: usize = 100_000;

/// The property that says when a timer message is due.
const TIMER_OUT_MS: &str = "TIMER_OUT_MS";

/// `MessageSysFlag.TRANSACTION_ROLLBACK_TYPE`: both bits of the transaction type.
const TRANSACTION_MASK: i32 = 12;

/// `MessageSysFlag.TRANSACTION_PREPARED_TYPE`.
const PREPARED: i32 = 4;

/// What a message has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For the time of its level.
    Level { index: usize },
    /// Until then, rounded.
    Timer { out_ms: u64 },
}

/// A refusal: code and remark.
type Refusal = (ResponseCode, String);

/// A message that waits, as it is to be stored in its topic.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) broker: usize,
    pub(super) broker_port: u16,
    pub(super) topic: Arc<str>,
    pub(super) queue_id: u32,
    pub(super) sys_flag: i32,
    pub(super) reconsume_times: i32,
    pub(super) born_timestamp_ms: i64,
    pub(super) born_host: SocketAddr,
    pub(super) producer_group: Arc<str>,
    pub(super) flag: i32,
    pub(super) body: Vec<u8>,
    pub(super) properties: String,
}

/// All messages that wait, and the clock.
#[derive(Debug, Default)]
pub(super) struct Delays {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By the time that they are due, then in the order in which they came.
    waiting: BTreeMap<(u64, u64), Waiting>,
    next_number: u64,
    /// How far this clock is ahead of the system's.
    ahead_ms: u64,
    stopped: bool,
}

/// Whether a message has to wait, by its properties: `None` if it is for consumers at once. As `HookUtils.handleScheduleMessage`.
pub(super) fn wanted(
    version: ServerVersion,
    sys_flag: i32,
    property_text: &str,
    now_ms: u64,
) -> Result<Option<Wait>, Refusal> {
    // Nearly all messages ask for nothing: not to be slowed down.
    let may_wait =
        property_text.contains(property::DELAY) || property_text.contains(property::TIMER_DELIVER_MS);
    if !may_wait || sys_flag & TRANSACTION_MASK == PREPARED {
        return Ok(None);
    }
    let find = |name| properties::find(property_text, name, version.reading_rules());
    let level: i64 = find(property::DELAY)
        .and_then(|level| level.parse().ok())
        .unwrap_or(0);
    if level > 0 {
        // A level that there is not is lowered to the highest.
        let index = usize::try_from(level - 1)
            .unwrap_or(usize::MAX)
            .min(LEVELS.len() - 1);
        return Ok(Some(Wait::Level { index }));
    }
    if version != ServerVersion::V5_5_0 {
        return Ok(None);
    }
    let timers = [
        (find(property::TIMER_DELAY_SEC), 1000, now_ms),
        (find(property::TIMER_DELAY_MS), 1, now_ms),
        (find(property::TIMER_DELIVER_MS), 1, 0),
    ];
    let Some((text, unit, from)) = timers
        .into_iter()
        .find_map(|(text, unit, from)| Some((text?, unit, from)))
    else {
        return Ok(None);
    };
    let Ok(value) = text.parse::<i64>() else {
        return Err(timer_illegal());
    };
    let value = u64::try_from(value).unwrap_or(0);
    let deliver_ms = value.saturating_mul(unit).saturating_add(from);
    if deliver_ms <= now_ms {
        return Ok(None);
    }
    if deliver_ms - now_ms > MAX_TIMER_DELAY_MS {
        return Err(timer_illegal());
    }
    let out_ms = (deliver_ms - 1) / TIMER_PRECISION_MS * TIMER_PRECISION_MS;
    Ok(Some(Wait::Timer { out_ms }))
}

fn timer_illegal() -> Refusal {
    let remark = format!(
        "timer message illegal, the delay time should not be bigger than the max delay {MAX_TIMER_DELAY_MS}ms; or if set \
         del msg, the delay time should be bigger than the current time"
    );
    (ResponseCode::MESSAGE_ILLEGAL, remark)
}

impl Wait {
    /// Where the message waits: a system topic and a queue of it.
    pub(super) fn place(self) -> (Arc<str>, u32) {
        match self {
            Wait::Level { index } => (LEVEL_TOPIC.into(), u32::try_from(index).unwrap_or(u32::MAX)),
            Wait::Timer { .. } => (TIMER_TOPIC.into(), 0),
        }
    }

    /// What the broker adds to the properties of a message for this topic and queue.
    pub(super) fn properties(self, topic: &str, queue_id: u32) -> Vec<(&'static str, String)> {
        let mut added = vec![
            (property::REAL_TOPIC, topic.to_owned()),
            (property::REAL_QID, queue_id.to_string()),
        ];
        if let Wait::Timer { out_ms } = self {
            added.push((TIMER_OUT_MS, out_ms.to_string()));
        }
        added
    }

    /// When it goes over into its topic, if it came at `now_ms`.
    fn due_ms(self, now_ms: u64) -> u64 {
        match self {
            Wait::Level { index } => {
                let seconds = LEVELS.get(index).copied().unwrap_or_default();
                now_ms.saturating_add(seconds.saturating_mul(1000))
            }
            Wait::Timer { out_ms } => out_ms.saturating_add(TIMER_PRECISION_MS),
        }
    }

    /// By what the sender may recall the message.
    pub(super) fn recall_handle(
        self,
        topic: &str,
        broker_name: &str,
        unique_key: Option<&str>,
    ) -> Option<RecallHandle> {
        let Wait::Timer { out_ms } = self else { return None };
        Some(RecallHandle {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            // A broker adds one, because of the rounding.
            deliver_at_ms: out_ms.saturating_add(1),
            message_id: unique_key?.to_owned(),
        })
    }
}

impl Delays {
    /// What time it is in the cluster, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.state.lock().now_ms()
    }

    /// Keeps a message back. False: there is no room.
    pub(super) fn hold(&self, wait: Wait, waiting: Waiting) -> bool {
        let mut state = self.state.lock();
        if state.waiting.len() >= MOST_WAITING {
            return false;
        }
        let due_ms = wait.due_ms(state.now_ms());
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.insert((due_ms, number), waiting);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Takes messages for a topic out, as it is deleted.
    pub(super) fn forget(&self, topic: &str) {
        self.state
            .lock()
            .waiting
            .retain(|_, waiting| *waiting.topic != *topic);
    }

    /// How many messages wait for a topic.
    pub(super) fn count(&self, topic: &str) -> usize {
        let state = self.state.lock();
        let of_topic = |waiting: &&Waiting| *waiting.topic == *topic;
        state.waiting.values().filter(of_topic).count()
    }

    /// Puts the clock forward. What is due then is in its topic when this returns.
    pub(super) fn advance(&self, shared: &Shared, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        state.ahead_ms = state.ahead_ms.saturating_add(by);
        drop(state);
        self.release(shared);
        self.changed.notify_all();
    }

    /// Puts into their topics what is due.
    fn release(&self, shared: &Shared) {
        let mut state = self.state.lock();
        let now_ms = state.now_ms();
        let mut any = false;
        while let Some(first) = state
            .waiting
            .first_entry()
            .filter(|first| first.key().0 <= now_ms)
        {
            let waiting = first.remove();
            any = true;
            // A store that is full by now loses it. A broker would try again, and the test that fills it looks elsewhere.
            drop(waiting.store(shared, now_ms));
        }
        drop(state);
        if any {
            shared.events.happened();
        }
    }

    /// The life of the thread that keeps the time.
    pub(super) fn run(&self, shared: &Shared) {
        loop {
            self.release(shared);
            let mut state = self.state.lock();
            if state.stopped {
                return;
            }
            let next = state.waiting.first_key_value().map(|((due_ms, _), _)| *due_ms);
            match next.map(|due_ms| due_ms.saturating_sub(state.now_ms())) {
                None => self.changed.wait(&mut state),
                Some(0) => {}
                Some(milliseconds) => {
                    // Whether it is due is asked at the top of the loop.
                    let _timed_out = self
                        .changed
                        .wait_for(&mut state, Duration::from_millis(milliseconds));
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    fn recall(&self, broker: usize, handle: &RecallHandle, version: ServerVersion) {
        self.state.lock().waiting.retain(|_, waiting| {
            let unique_key =
                properties::find(&waiting.properties, property::UNIQ_KEY, version.reading_rules());
            waiting.broker != broker
                || *waiting.topic != *handle.topic
                || unique_key != Some(handle.message_id.as_str())
        });
    }
}

impl State {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 is no reason to refuse a message.
        let since_1970 = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_add(self.ahead_ms)
    }
}

impl Waiting {
    fn store(&self, shared: &Shared, now_ms: u64) -> Result<(), super::store::Full> {
        let incoming = Incoming {
            broker: self.broker,
            broker_port: self.broker_port,
            topic: &self.topic,
            queue_id: self.queue_id,
            sys_flag: self.sys_flag,
            reconsume_times: self.reconsume_times,
            born_timestamp_ms: self.born_timestamp_ms,
            born_host: self.born_host,
            store_timestamp_ms: i64::try_from(now_ms).unwrap_or(i64::MAX),
            producer_group: &self.producer_group,
        };
        let item = Item {
            flag: self.flag,
            body: &self.body,
            properties: &self.properties,
        };
        shared.store.put(&incoming, &[item]).map(|_| ())
    }
}

/// The answer to a request to take a timer message back, in the order of `RecallMessageProcessor`.
pub(super) fn answer_recall(shared: &Shared, session: &Session, header: &Header<'_>) -> Reply {
    match recall(shared, session, header) {
        Ok(message_id) => Reply {
            // A broker sets the code and leaves this.
            remark: Some("not set any response code".into()),
            ..Reply::success(ReplyFields::Recalled(message_id))
        },
        Err((code, remark)) => Reply::refusal(code, remark, ReplyFields::RegionAlone),
    }
}

fn recall(shared: &Shared, session: &Session, header: &Header<'_>) -> Result<String, Refusal> {
    let refuse = |code, remark: &str| Err((code, remark.to_owned()));
    let request = match ReceivedRecall::decode(header) {
        Ok(request) => request,
        Err(error) => return refuse(ResponseCode::SYSTEM_ERROR, error.reason()),
    };
    if !shared.recalls {
        return refuse(
            ResponseCode::NO_PERMISSION,
            "recall failed, operation is forbidden",
        );
    }
    let broker = session.origin.broker;
    if shared.topics.find(broker, &request.topic).is_none() {
        let remark = format!("recall failed, the topic[{}] not exist", request.topic);
        return Err((ResponseCode::TOPIC_NOT_EXIST, remark));
    }
    let Ok(handle) = RecallHandle::decode(&request.recall_handle) else {
        return refuse(ResponseCode::ILLEGAL_OPERATION, "recall handle is invalid");
    };
    if handle.topic != request.topic {
        return refuse(ResponseCode::ILLEGAL_OPERATION, "recall failed, topic not match");
    }
    let is_here = |place: &BrokerPlace| *place.name == *handle.broker_name;
    if !shared.brokers.get(broker).is_some_and(is_here) {
        let remark = "recall failed, broker service not available";
        return refuse(ResponseCode::ILLEGAL_OPERATION, remark);
    }
    let left = handle.deliver_at_ms.saturating_sub(shared.delays.now_ms());
    if left == 0 || left >= MAX_TIMER_DELAY_MS {
        return refuse(
            ResponseCode::ILLEGAL_OPERATION,
            "recall failed, timestamp invalid",
        );
    }
    shared.delays.recall(broker, &handle, shared.version);
    shared.events.happened();
    Ok(handle.message_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_422_676_500;

    fn wait(version: ServerVersion, text: &str) -> Option<Wait> {
        wanted(version, 0, text, NOW).unwrap()
    }

    #[test]
    fn levels_wait_in_all_releases_and_timers_in_5_x() {
        use ServerVersion::{V4_7_0, V4_9_7, V5_5_0};
        for version in [V4_7_0, V4_9_7, V5_5_0] {
            assert_eq!(wait(version, ""), None);
            assert_eq!(wait(version, "DELAY\u{1}0\u{2}"), None);
            assert_eq!(wait(version, "DELAY\u{1}-1\u{2}"), None);
            assert_eq!(wait(version, "DELAY\u{1}1\u{2}"), Some(Wait::Level { index: 0 }));
            assert_eq!(
                wait(version, "DELAY\u{1}99\u{2}"),
                Some(Wait::Level { index: 17 })
            );
            // The level wins.
            let both = "TIMER_DELAY_MS\u{1}5\u{2}DELAY\u{1}3\u{2}";
            assert_eq!(wait(version, both), Some(Wait::Level { index: 2 }));
            let half = wanted(version, PREPARED, "DELAY\u{1}1\u{2}", NOW);
            assert_eq!(half, Ok(None));
        }
        for text in [
            "TIMER_DELAY_MS\u{1}60000\u{2}",
            "TIMER_DELIVER_MS\u{1}1999999999999\u{2}",
        ] {
            assert_eq!(wait(V4_7_0, text), None);
            assert_eq!(wait(V4_9_7, text), None);
        }
        let out_ms = |text: &str| match wait(V5_5_0, text) {
            Some(Wait::Timer { out_ms }) => out_ms,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(out_ms("TIMER_DELAY_SEC\u{1}2\u{2}"), NOW + 1500);
        assert_eq!(out_ms("TIMER_DELAY_MS\u{1}2000\u{2}"), NOW + 1500);
        assert_eq!(out_ms("TIMER_DELIVER_MS\u{1}1795422678000\u{2}"), NOW + 500);
        assert_eq!(wait(V5_5_0, "TIMER_DELIVER_MS\u{1}1795422676500\u{2}"), None);
        for text in [
            "TIMER_DELAY_MS\u{1}soon\u{2}",
            "TIMER_DELAY_MS\u{1}259200001\u{2}",
        ] {
            let (code, remark) = wanted(V5_5_0, 0, text, NOW).unwrap_err();
            assert_eq!(code, ResponseCode::MESSAGE_ILLEGAL);
            assert!(remark.starts_with("timer message illegal"), "{remark}");
        }
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        assert_eq!(Wait::Level { index: 0 }.due_ms(NOW), NOW + 1000);
        assert_eq!(Wait::Level { index: 17 }.due_ms(NOW), NOW + 7_200_000);
        for after in [1, 499, 500, 501, 1000, 1500, 2000] {
            let text = format!("TIMER_DELAY_MS\u{1}{after}\u{2}");
            let due = wait(ServerVersion::V5_5_0, &text).unwrap().due_ms(NOW);
            assert!(
                (NOW + after..=NOW + after + 1000).contains(&due),
                "{after}: {due}"
            );
        }
    }
}
