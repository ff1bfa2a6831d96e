//! Tests of the plan: every rule of its header as a table of what is asked and answered, with a clock made by hand.

use std::fmt::Write as _;

use super::*;
use crate::{
    error::Delivery,
    message::OffsetMessageId,
    producer::record::KEPT_RECORDS,
    wire::request::{
        route::{BrokerData, QueueData, RouteData},
        send_message::SendReply,
    },
};

/// What a test does or expects next. Times are milliseconds since the send began.
#[derive(Debug)]
enum Event {
    /// `next` begins an attempt of this number on this broker, whose share ends then.
    Begins(u64, u32, &'static str, u64),
    /// The same, on whichever broker.
    BeginsSomewhere(u64, u32, u64),
    /// `next` says to wait until then.
    Waits(u64, u64),
    /// `next` says that it is over.
    Ends(u64),
    Stored(u32),
    /// Stored, but not as safely as it should be.
    StoredUnsafely(u32),
    Fails(u64, u32, Error),
    Overdue(u32),
}

use Event::{Begins, BeginsSomewhere, Ends, Fails, Overdue, Stored, StoredUnsafely, Waits};

const TIMEOUT: Duration = Duration::from_secs(3);

fn address(broker_name: &str) -> Arc<str> {
    format!("{broker_name}:10911").into()
}

/// A route with one queue on each broker, in this order.
fn route(brokers: &[&str]) -> TopicRoute {
    let data = RouteData {
        broker_datas: brokers
            .iter()
            .map(|name| BrokerData {
                cluster: "c".to_owned(),
                broker_name: (*name).to_owned(),
                broker_addresses: [(0, format!("{name}:10911"))].into(),
            })
            .collect(),
        queue_datas: brokers
            .iter()
            .map(|name| QueueData {
                broker_name: (*name).to_owned(),
                read_queue_nums: 1,
                write_queue_nums: 1,
                perm: 6,
                topic_sys_flag: 0,
            })
            .collect(),
        ..RouteData::default()
    };
    TopicRoute::from_data(&"t".into(), &data, Arc::default()).unwrap()
}

fn rules(attempts: u32) -> Rules {
    Rules {
        attempts,
        retry_response_codes: crate::config::RETRY_RESPONSE_CODES.into(),
        retry_another_broker_when_not_store_ok: false,
        redelivery: Redelivery::AtLeastOnce,
        back_off: (Duration::ZERO, Duration::ZERO),
        round: None,
    }
}

fn busy() -> Error {
    refused(ResponseCode::SYSTEM_BUSY, "[TIMEOUT_CLEAN_QUEUE]broker busy")
}

fn illegal() -> Error {
    refused(ResponseCode::MESSAGE_ILLEGAL, "the message body is empty")
}

fn refused(code: ResponseCode, remark: &str) -> Error {
    Error::refused(&address("a"), code, Some(remark))
}

fn no_connection() -> Error {
    Error::Connect {
        address: address("a"),
        waited: Duration::ZERO,
        source: Arc::new(std::io::ErrorKind::ConnectionRefused.into()),
    }
}

fn lost(written: Written) -> Error {
    Error::ConnectionLost {
        address: address("a"),
        written,
        waited: Duration::ZERO,
        source: Arc::new(std::io::ErrorKind::ConnectionReset.into()),
    }
}

fn timed_out(written: Written) -> Error {
    Error::Timeout {
        phase: Phase::Reply,
        target: address("a"),
        waited: Duration::ZERO,
        written,
    }
}

fn reply(status: SendStatus) -> crate::producer::attempt::Stored {
    let reply = SendReply {
        offset_message_id: OffsetMessageId::from_text("0A00000100002A9F0000000000000000").unwrap(),
        queue_id: 0,
        queue_offset: 0,
        transaction_id: None,
        region_id: None,
        trace_on: true,
        rare: None,
    };
    (status, reply)
}

struct Run {
    plan: SendPlan,
    route: TopicRoute,
    aimed: Option<Destination>,
    began: Instant,
}

impl Run {
    fn new(brokers: &[&str], rules: Rules) -> Self {
        let began = Instant::now();
        let deadline = Deadline::starting(began, TIMEOUT);
        Self {
            plan: SendPlan::new(rules, "t".into(), deadline),
            route: route(brokers),
            aimed: None,
            began,
        }
    }

    /// Aims it at the queue of a broker.
    fn aimed_at(mut self, broker_name: &str) -> Self {
        let queue = self
            .route
            .queues
            .iter()
            .find(|queue| &*queue.broker.name == broker_name);
        self.aimed = queue.cloned();
        self
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.began + Duration::from_millis(milliseconds)
    }

    fn milliseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.began).as_millis()).unwrap()
    }

    fn step(&mut self, at: u64) -> Step {
        self.plan.next(self.at(at), &self.route, self.aimed.as_ref())
    }

    /// Lets all that happen, and says how the send ends.
    fn play(mut self, events: impl IntoIterator<Item = Event>) -> Ending {
        let mut last = 0;
        for event in events {
            let described = format!("{event:?}");
            match event {
                Begins(at, number, broker_name, share) => {
                    let begun = self.begin(at, &described);
                    assert_eq!(begun, (number, broker_name.into(), share), "{described}");
                    last = at;
                }
                BeginsSomewhere(at, number, share) => {
                    let (begun, _, ends) = self.begin(at, &described);
                    assert_eq!((begun, ends), (number, share), "{described}");
                    last = at;
                }
                Waits(at, until) => {
                    let Step::Wait { until: found } = self.step(at) else {
                        panic!("{described}");
                    };
                    assert_eq!(self.milliseconds(found), until, "{described}");
                    last = at;
                }
                Ends(at) => {
                    assert!(matches!(self.step(at), Step::Finish), "{described}");
                    assert!(self.plan.is_done());
                    last = at;
                }
                Stored(number) => self.stored(number, SendStatus::SendOk),
                StoredUnsafely(number) => self.stored(number, SendStatus::FlushDiskTimeout),
                Fails(at, number, error) => {
                    let now = self.at(at);
                    self.plan.failed(number, now, error);
                    last = at;
                }
                Overdue(number) => self.plan.overdue(number),
            }
        }
        let now = self.at(last);
        assert!(
            matches!(
                self.plan.next(now, &self.route, self.aimed.as_ref()),
                Step::Finish
            ),
            "it is not over"
        );
        Ending(self.plan.finish(now))
    }

    fn begin(&mut self, at: u64, described: &str) -> (u32, String, u64) {
        match self.step(at) {
            Step::Attempt {
                number, to, share, ..
            } => (number, to.broker.name.to_string(), self.milliseconds(share)),
            other => panic!("{described}: {other:?}"),
        }
    }

    fn stored(&mut self, number: u32, status: SendStatus) {
        self.plan.stored(number, reply(status));
    }
}

struct Ending(Result<Finished, Error>);

impl Ending {
    /// Broker, attempts and whether there may be a copy.
    fn stored(self) -> (String, u32, bool) {
        let result = self.0.expect("stored");
        (
            result.to.queue.broker_name().to_owned(),
            result.attempts,
            result.may_be_duplicated,
        )
    }

    fn status(&self) -> SendStatus {
        self.0.as_ref().expect("stored").stored.0
    }

    /// Why it stopped, the verdict, and one line for each attempt.
    fn failed(self) -> (String, Delivery, Vec<String>) {
        let Err(Error::Failed(failed)) = self.0 else {
            panic!("not a failed send: {:?}", self.0);
        };
        let text = failed.to_string();
        let (_, rest) = text.split_once("; ").unwrap();
        let (reason, _) = rest.split_once("):").unwrap();
        let lines = failed.attempts().iter().map(|attempt| {
            let mut line = format!("{}#{}", attempt.broker_name, attempt.queue_id);
            write!(
                line,
                " {}ms {}",
                attempt.took.as_millis(),
                attempt.error.delivery()
            )
            .unwrap();
            line
        });
        (reason.to_owned(), failed.delivery(), lines.collect())
    }
}

#[test]
fn a_first_attempt_that_is_stored_ends_the_send() {
    for brokers in [&["a"][..], &["a", "b"], &["a", "b", "c"]] {
        let share = if brokers.len() == 1 { 3000 } else { 1000 };
        let ending = Run::new(brokers, rules(3)).play([
            Begins(0, 0, "a", share),
            Waits(0, share),
            Waits(share - 1, share),
            Stored(0),
            Ends(share - 1),
        ]);
        assert_eq!(ending.stored(), ("a".to_owned(), 1, false));
    }
}

#[test]
fn with_one_broker_an_attempt_keeps_all_that_is_left() {
    let ending = Run::new(&["a"], rules(3)).play([
        Begins(0, 0, "a", 3000),
        Fails(100, 0, busy()),
        Begins(100, 1, "a", 3000),
        Fails(200, 1, busy()),
        Begins(200, 2, "a", 3000),
        Waits(1400, 3000),
        Stored(2),
        Ends(1400),
    ]);
    // Both refusals say for certain that nothing was stored.
    assert_eq!(ending.stored(), ("a".to_owned(), 3, false));
}

#[test]
fn time_is_shared_out_as_long_as_there_is_a_broker_that_was_not_tried() {
    for (brokers, attempts, shares) in [
        (&["a", "b"][..], 3, &[("a", 1000), ("b", 3000)][..]),
        (&["a", "b"], 2, &[("a", 1500), ("b", 3000)]),
        (&["a", "b", "c"], 3, &[("a", 1000), ("b", 2000), ("c", 3000)]),
        // Two attempts cannot reach the third broker.
        (&["a", "b", "c"], 2, &[("a", 1500), ("b", 3000)]),
        (&["a", "b", "c"], 1, &[("a", 3000)]),
    ] {
        let mut run = Run::new(brokers, rules(attempts));
        let mut now = 0;
        for (number, (broker_name, share)) in (0..).zip(shares) {
            let begun = run.begin(now, "shares");
            assert_eq!(begun, (number, (*broker_name).to_owned(), *share), "{brokers:?}");
            run.plan.overdue(number);
            now = *share;
        }
    }
}

#[test]
fn every_broker_is_tried_before_one_is_tried_again() {
    let mut run = Run::new(&["a", "b", "c"], rules(6));
    let mut tried = Vec::new();
    for number in 0..6 {
        let at = u64::from(number);
        let (_, broker_name, _) = run.begin(at, "round");
        run.plan.failed(number, run.at(at), no_connection());
        tried.push(broker_name);
    }
    assert_eq!(tried[..3], ["a", "b", "c"]);
    for pair in tried.windows(2) {
        assert_ne!(
            pair[0], pair[1],
            "the broker that has just failed is avoided: {tried:?}"
        );
    }
}

#[test]
fn an_overdue_attempt_that_is_answered_later_ends_the_send_as_stored() {
    // The first broker answers after 1.2 s, the second is silent: the message is stored once or twice.
    let ending = Run::new(&["a", "b"], rules(3)).play([
        Begins(0, 0, "a", 1000),
        Overdue(0),
        Begins(1000, 1, "b", 3000),
        Waits(1000, 3000),
        Stored(0),
        Ends(1200),
        // The second attempt is given up; it had been written.
        Fails(1200, 1, timed_out(Written::All)),
    ]);
    assert_eq!(ending.stored(), ("a".to_owned(), 2, true));
}

#[test]
fn a_copy_that_was_never_written_is_no_copy() {
    for (written, may_be_duplicated) in [
        (Written::Nothing, false),
        (Written::Part, false),
        (Written::All, true),
    ] {
        let ending = Run::new(&["a", "b"], rules(3)).play([
            Begins(0, 0, "a", 1000),
            Overdue(0),
            Begins(1000, 1, "b", 3000),
            Stored(0),
            Ends(1200),
            Fails(1200, 1, timed_out(written)),
        ]);
        assert_eq!(
            ending.stored(),
            ("a".to_owned(), 2, may_be_duplicated),
            "{written}"
        );
    }
}

#[test]
fn an_overdue_attempt_keeps_the_send_open_until_the_deadline() {
    let (reason, delivery, attempts) = Run::new(&["a", "b"], rules(2))
        .play([
            Begins(0, 0, "a", 1500),
            Overdue(0),
            Begins(1500, 1, "b", 3000),
            Fails(1600, 1, no_connection()),
            Waits(1600, 3000),
            Ends(3000),
            Fails(3000, 0, timed_out(Written::All)),
        ])
        .failed();
    assert_eq!(reason, "the time is over");
    assert_eq!(delivery, Delivery::Unknown);
    assert_eq!(
        attempts,
        ["a#0 3000ms unknown, may be stored", "b#0 100ms not stored"]
    );
}

#[test]
fn a_final_refusal_still_waits_for_an_overdue_attempt() {
    let ending = Run::new(&["a", "b", "c"], rules(3)).play([
        Begins(0, 0, "a", 1000),
        Overdue(0),
        Begins(1000, 1, "b", 2000),
        Fails(1100, 1, illegal()),
        Waits(1100, 3000),
        Stored(0),
        Ends(1200),
    ]);
    assert_eq!(ending.stored(), ("a".to_owned(), 2, false));
}

#[test]
fn a_stored_answer_wins_over_a_failure_before_and_after_it() {
    let ending = Run::new(&["a", "b"], rules(3)).play([
        Begins(0, 0, "a", 1000),
        Overdue(0),
        Begins(1000, 1, "b", 3000),
        Stored(0),
        Fails(1201, 1, illegal()),
        Ends(1201),
    ]);
    assert_eq!(ending.stored(), ("a".to_owned(), 2, false));
    let ending = Run::new(&["a", "b"], rules(3)).play([
        Begins(0, 0, "a", 1000),
        Fails(10, 0, lost(Written::All)),
        Begins(10, 1, "b", 3000),
        Stored(1),
        Ends(20),
    ]);
    assert_eq!(ending.stored(), ("b".to_owned(), 2, true));
}

#[test]
fn what_is_retried_and_what_is_final() {
    let acl_4x = "org.apache.rocketmq.acl.common.AclException: signature check failed";
    let refusals = [
        (ResponseCode::SYSTEM_BUSY, "broker busy", None),
        (ResponseCode::TOPIC_NOT_EXIST, "", None),
        (ResponseCode::SERVICE_NOT_AVAILABLE, "", None),
        (ResponseCode::NO_PERMISSION, "sending message is forbidden", None),
        (ResponseCode::NO_BUYER_ID, "", None),
        (ResponseCode::NOT_IN_CURRENT_UNIT, "", None),
        (ResponseCode::SYSTEM_ERROR, "UNKNOWN_ERROR", None),
        (ResponseCode::GO_AWAY, "", None),
        (
            ResponseCode::MESSAGE_ILLEGAL,
            "",
            Some("a refusal that is not retried"),
        ),
        (
            ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
            "",
            Some("a refusal that is not retried"),
        ),
        (ResponseCode::new(4711), "", Some("a refusal that is not retried")),
        (
            ResponseCode::SYSTEM_ERROR,
            acl_4x,
            Some("access refused, which is not retried"),
        ),
        (
            ResponseCode::NO_PERMISSION,
            "User:x has no permission",
            Some("access refused, which is not retried"),
        ),
    ];
    let refusals = refusals.map(|(code, remark, reason)| (refused(code, remark), reason));
    let others = [
        (no_connection(), None),
        (lost(Written::Nothing), None),
        (lost(Written::All), None),
        (timed_out(Written::Nothing), None),
        (Error::ShutDown, Some("the producer is shut down")),
        (
            Error::InvalidMessage {
                reason: "too large".to_owned(),
            },
            Some("the message cannot be sent"),
        ),
    ];
    for (error, reason) in refusals.into_iter().chain(others) {
        let described = error.to_string();
        let mut run = Run::new(&["a", "b"], rules(3));
        run.begin(0, &described);
        run.plan.failed(0, run.at(5), error);
        let Some(reason) = reason else {
            assert_eq!(run.begin(5, &described).1, "b", "{described}");
            continue;
        };
        assert!(matches!(run.step(5), Step::Finish), "{described}");
        let (found, _, attempts) = Ending(run.plan.finish(run.at(5))).failed();
        assert_eq!((found.as_str(), attempts.len()), (reason, 1), "{described}");
    }
}

#[test]
fn a_failed_send_lists_its_attempts_and_is_as_uncertain_as_the_worst() {
    for (second, delivery) in [
        (busy(), Delivery::Refused),
        (no_connection(), Delivery::Refused),
        (lost(Written::Part), Delivery::Refused),
        (lost(Written::All), Delivery::Unknown),
        (
            refused(ResponseCode::SYSTEM_ERROR, "UNKNOWN_ERROR"),
            Delivery::Unknown,
        ),
    ] {
        let verdict = second.delivery();
        let (reason, found, attempts) = Run::new(&["a", "b"], rules(3))
            .play([
                Begins(0, 0, "a", 1000),
                Fails(20, 0, no_connection()),
                Begins(20, 1, "b", 3000),
                Fails(50, 1, second),
                BeginsSomewhere(50, 2, 3000),
                Fails(51, 2, busy()),
                Ends(51),
            ])
            .failed();
        assert_eq!((reason.as_str(), found), ("no attempt is left", delivery));
        assert_eq!(
            attempts,
            [
                "a#0 20ms not stored".to_owned(),
                format!("b#0 30ms {verdict}"),
                "a#0 1ms refused, not stored".to_owned()
            ]
        );
    }
}

#[test]
fn an_attempt_without_a_known_outcome_makes_the_send_unknown() {
    // The driver gave up, and the verdict was on its way but did not come.
    let (_, delivery, attempts) = Run::new(&["a", "b"], rules(2))
        .play([
            Begins(0, 0, "a", 1500),
            Overdue(0),
            Begins(1500, 1, "b", 3000),
            Fails(1600, 1, illegal()),
            Ends(3000),
        ])
        .failed();
    assert_eq!(delivery, Delivery::Unknown);
    assert_eq!(
        attempts,
        [
            "a#0 3000ms unknown, may be stored",
            "b#0 100ms refused, not stored"
        ]
    );
}

#[test]
fn stored_less_safely_is_a_success_unless_another_broker_is_wanted() {
    let ending = Run::new(&["a", "b"], rules(3)).play([Begins(0, 0, "a", 1000), StoredUnsafely(0), Ends(5)]);
    assert_eq!(ending.status(), SendStatus::FlushDiskTimeout);

    let wanting = || Rules {
        retry_another_broker_when_not_store_ok: true,
        ..rules(3)
    };
    let ending = Run::new(&["a", "b"], wanting()).play([
        Begins(0, 0, "a", 1000),
        StoredUnsafely(0),
        Begins(5, 1, "b", 3000),
        Stored(1),
        Ends(9),
    ]);
    assert_eq!(ending.status(), SendStatus::SendOk);
    assert_eq!(
        ending.stored(),
        ("b".to_owned(), 2, true),
        "a has a copy for certain"
    );

    // Whatever the others say, it is stored.
    for (error, may_be_duplicated) in [
        (illegal(), false),
        (no_connection(), false),
        (lost(Written::All), true),
    ] {
        let ending = Run::new(&["a", "b"], wanting()).play([
            Begins(0, 0, "a", 1000),
            StoredUnsafely(0),
            Begins(5, 1, "b", 3000),
            Fails(9, 1, error),
            Ends(9),
        ]);
        assert_eq!(ending.status(), SendStatus::FlushDiskTimeout);
        assert_eq!(ending.stored(), ("a".to_owned(), 2, may_be_duplicated));
    }

    // A copy on the same broker would be no safer.
    let ending = Run::new(&["a"], wanting()).play([Begins(0, 0, "a", 3000), StoredUnsafely(0), Ends(5)]);
    assert_eq!(ending.stored(), ("a".to_owned(), 1, false));
}

#[test]
fn the_first_of_two_answers_that_are_not_ok_is_kept() {
    let wanting = Rules {
        retry_another_broker_when_not_store_ok: true,
        ..rules(2)
    };
    let ending = Run::new(&["a", "b"], wanting).play([
        Begins(0, 0, "a", 1500),
        StoredUnsafely(0),
        Begins(5, 1, "b", 3000),
        StoredUnsafely(1),
        Ends(9),
    ]);
    assert_eq!(ending.stored(), ("a".to_owned(), 2, true));
}

#[test]
fn an_aimed_send_keeps_its_queue_and_all_its_time() {
    let ending = Run::new(&["a", "b", "c"], rules(1)).aimed_at("b").play([
        Begins(0, 0, "b", 3000),
        Fails(5, 0, busy()),
        Ends(5),
    ]);
    assert_eq!(ending.failed().2, ["b#0 5ms refused, not stored"]);
    // If it may be retried, then there.
    let ending = Run::new(&["a", "b", "c"], rules(2)).aimed_at("b").play([
        Begins(0, 0, "b", 3000),
        Fails(5, 0, busy()),
        Begins(5, 1, "b", 3000),
        Stored(1),
        Ends(6),
    ]);
    assert_eq!(ending.stored(), ("b".to_owned(), 2, false));
}

#[test]
fn no_attempt_is_begun_after_the_deadline_or_just_before_it() {
    let mut run = Run::new(&["a"], rules(3));
    assert!(matches!(run.step(3000), Step::Finish));
    let error = run.plan.finish(run.at(3000)).unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.delivery(), Delivery::NotStored);
    assert!(error.attempts().is_empty());

    // The first attempt is worth any time that is left; a further one is not.
    let (reason, ..) = Run::new(&["a", "b"], rules(3))
        .play([Begins(2990, 0, "a", 2993), Fails(2995, 0, busy()), Ends(2995)])
        .failed();
    assert_eq!(reason, "no attempt is left");
    let mut run = Run::new(&["a", "b"], rules(3));
    run.begin(0, "first");
    run.plan.failed(0, run.at(2985), busy());
    assert_eq!(run.begin(2985, "second"), (1, "b".to_owned(), 3000));
}

#[test]
fn an_attempt_is_waited_for_until_the_deadline_and_not_beyond() {
    let (reason, delivery, _) = Run::new(&["a"], rules(3))
        .play([
            Begins(0, 0, "a", 3000),
            Waits(2999, 3000),
            Ends(3000),
            Fails(3000, 0, timed_out(Written::All)),
        ])
        .failed();
    assert_eq!(
        (reason.as_str(), delivery),
        ("the time is over", Delivery::Unknown)
    );
}

#[test]
fn what_is_reported_twice_or_too_late_changes_nothing() {
    let mut run = Run::new(&["a", "b"], rules(3));
    run.begin(0, "first");
    run.plan.failed(0, run.at(5), no_connection());
    run.plan.failed(0, run.at(6), lost(Written::All));
    run.plan.overdue(0);
    run.plan.overdue(9);
    run.plan.failed(9, run.at(6), busy());
    assert!(!run.plan.is_open(0));
    assert_eq!(run.begin(7, "second").1, "b");
    assert_eq!(run.plan.awaited(), Some(1));
    assert!(run.plan.is_open(1) && run.plan.has_open());
    run.plan.overdue(1);
    assert_eq!(run.plan.awaited(), None);
    assert!(run.plan.is_open(1));
    run.stored(1, SendStatus::SendOk);
    assert!(!run.plan.has_open());
    assert!(matches!(run.step(8), Step::Finish));
    assert!(matches!(run.step(8), Step::Finish));
    assert_eq!(
        Ending(run.plan.finish(run.at(8))).stored(),
        ("b".to_owned(), 2, false)
    );
}

fn patient(first: u64, longest: u64) -> Rules {
    let back_off = (Duration::from_millis(first), Duration::from_millis(longest));
    Rules { back_off, ..rules(4) }
}

impl Run {
    fn pause(&mut self, at: u64) -> u64 {
        match self.step(at) {
            Step::Pause { until } => self.milliseconds(until),
            other => panic!("expected a pause at {at}: {other:?}"),
        }
    }
}

#[test]
fn a_busy_broker_is_asked_again_after_pauses_that_grow() {
    let mut run = Run::new(&["a"], patient(100, 250));
    run.begin(0, "first");
    run.plan.failed(0, run.at(0), busy());
    let first = run.pause(0);
    assert!((50..=100).contains(&first), "{first}");
    assert_eq!(run.pause(1), first, "asked again, it says the same");
    run.begin(first + 1, "second");
    run.plan.failed(1, run.at(1000), busy());
    let second = run.pause(1000);
    assert!((1100..=1200).contains(&second), "{second}");
    run.begin(second + 1, "third");
    run.plan.failed(2, run.at(2000), busy());
    let third = run.pause(2000);
    assert!((2125..=2250).contains(&third), "the longest pause: {third}");
}

#[test]
fn a_failure_that_is_reported_twice_lengthens_no_pause() {
    let mut run = Run::new(&["a"], patient(100, 10_000));
    run.begin(0, "first");
    for _ in 0..5 {
        run.plan.failed(0, run.at(0), busy());
    }
    let until = run.pause(0);
    assert!(until <= 100, "{until}");
}

#[test]
fn there_is_no_pause_while_another_broker_can_be_asked_nor_after_a_refused_connection() {
    let mut run = Run::new(&["a", "b"], patient(100, 250));
    assert_eq!(run.begin(0, "first").1, "a");
    run.plan.failed(0, run.at(0), busy());
    assert_eq!(run.begin(0, "second").1, "b");
    run.plan.failed(1, run.at(0), no_connection());
    let until = run.pause(0);
    assert!(until <= 100, "a is still busy: {until}");

    let mut run = Run::new(&["a"], patient(100, 250));
    run.begin(0, "first");
    run.plan.failed(0, run.at(0), no_connection());
    run.begin(0, "second");
}

#[test]
fn a_pause_that_leaves_no_time_ends_the_send() {
    let mut run = Run::new(&["a"], patient(4000, 4000));
    run.begin(0, "first");
    run.plan.failed(0, run.at(2000), busy());
    assert!(matches!(run.step(2000), Step::Finish));
    let error = run.plan.finish(run.at(2000)).unwrap_err();
    assert!(
        error.to_string().contains("no time is left for another attempt"),
        "{error}"
    );
}

#[test]
fn what_may_be_stored_is_sent_again_only_if_that_is_wished() {
    use Redelivery::{AtLeastOnce, AtMostOnce, NoDuplicates};
    for (redelivery, error, again) in [
        (AtLeastOnce, lost(Written::All), true),
        (AtLeastOnce, busy(), true),
        (NoDuplicates, lost(Written::All), false),
        (NoDuplicates, lost(Written::Part), true),
        (NoDuplicates, busy(), true),
        (NoDuplicates, no_connection(), true),
        (AtMostOnce, busy(), false),
        (AtMostOnce, lost(Written::All), false),
        (AtMostOnce, lost(Written::Part), true),
        (AtMostOnce, no_connection(), true),
    ] {
        let described = format!("{redelivery:?} after {error}");
        let mut run = Run::new(
            &["a", "b"],
            Rules {
                redelivery,
                ..rules(3)
            },
        );
        run.begin(0, &described);
        run.plan.failed(0, run.at(1), error);
        let is_attempt = matches!(run.step(1), Step::Attempt { .. });
        assert_eq!(is_attempt, again, "{described}");
    }
}

#[test]
fn an_overdue_attempt_is_waited_for_if_a_copy_is_not_wished() {
    let mut run = Run::new(
        &["a", "b"],
        Rules {
            redelivery: Redelivery::NoDuplicates,
            ..rules(3)
        },
    );
    run.begin(0, "first");
    run.plan.overdue(0);
    assert!(matches!(run.step(1000), Step::Wait { until } if until == run.at(3000)));
}

fn with_rounds() -> Rules {
    Rules {
        round: Some(Duration::from_millis(300)),
        ..patient(20, 40)
    }
}

#[test]
fn with_a_delivery_timeout_rounds_follow_one_another_until_the_time_is_over() {
    let mut run = Run::new(&["a", "b"], with_rounds());
    let mut now = 0;
    let mut begun = Vec::new();
    while now < 2990 {
        match run.step(now) {
            Step::Attempt {
                number, to, until, ..
            } => {
                assert!(
                    run.milliseconds(until) <= now + 300,
                    "an attempt lives as long as a round"
                );
                begun.push(to.broker.name.to_string());
                run.plan.failed(number, run.at(now), no_connection());
            }
            Step::Pause { until } => {
                assert_eq!(begun.len() % 2, 0, "both brokers are tried before a pause");
                now = run.milliseconds(until) + 1;
            }
            Step::Finish => break,
            Step::Wait { .. } => panic!("nothing is open"),
        }
    }
    assert!(begun.len() > 100, "{}", begun.len());
    assert!(now > 2900, "given up early, at {now}");
    assert!(matches!(run.step(3000), Step::Finish));
    let error = run.plan.finish(run.at(3000)).unwrap_err();
    assert_eq!(error.delivery(), Delivery::NotStored);
    let Error::Failed(failed) = error else {
        panic!("{error}")
    };
    assert_eq!(usize::try_from(failed.attempts_begun()).unwrap(), begun.len());
    assert!(failed.attempts().len() <= KEPT_RECORDS, "the account is bounded");
}

#[test]
fn no_round_begins_once_it_is_stored() {
    let wanting = Rules {
        retry_another_broker_when_not_store_ok: true,
        ..with_rounds()
    };
    let ending = Run::new(&["a", "b"], wanting).play([
        Begins(0, 0, "a", 75),
        StoredUnsafely(0),
        Begins(5, 1, "b", 305),
        Fails(9, 1, no_connection()),
        Ends(9),
    ]);
    assert_eq!(ending.stored(), ("a".to_owned(), 2, false));
}

#[test]
fn pauses_without_end_do_not_overflow_the_clock() {
    let back_off = (Duration::MAX, Duration::MAX);
    let mut run = Run::new(
        &["a"],
        Rules {
            back_off,
            ..with_rounds()
        },
    );
    // The last pause is cut short, whatever it would have been.
    assert_eq!(
        run.plan.pause_without_route(&no_connection(), run.at(0)),
        Some(run.at(2950))
    );
    run.begin(0, "first");
    run.plan.failed(0, run.at(0), busy());
    assert!(matches!(run.step(0), Step::Finish));
}

#[test]
fn an_unknown_attempt_that_was_forgotten_still_counts() {
    let mut run = Run::new(&["a"], with_rounds());
    let mut now = 0;
    let mut attempts = 0;
    while attempts < 40 {
        match run.step(now) {
            Step::Attempt { number, .. } => {
                // The first is always kept; so the second is the one to be forgotten.
                let error = if attempts == 1 {
                    lost(Written::All)
                } else {
                    no_connection()
                };
                run.plan.failed(number, run.at(now), error);
                attempts += 1;
            }
            Step::Pause { until } => now = run.milliseconds(until) + 1,
            other => panic!("{other:?}"),
        }
    }
    let error = run.plan.finish(run.at(now)).unwrap_err();
    assert!(
        error
            .attempts()
            .iter()
            .all(|attempt| attempt.error.delivery() == Delivery::NotStored)
    );
    assert_eq!(error.delivery(), Delivery::Unknown);
}

#[test]
fn without_a_route_only_a_send_with_a_delivery_timeout_pauses() {
    let mut run = Run::new(&["a"], rules(3));
    assert_eq!(run.plan.pause_without_route(&no_connection(), run.at(0)), None);
    let mut run = Run::new(&["a"], with_rounds());
    assert!(
        run.plan
            .pause_without_route(&no_connection(), run.at(0))
            .is_some_and(|until| until <= run.at(20))
    );
    assert_eq!(run.plan.pause_without_route(&no_connection(), run.at(2999)), None);
    assert_eq!(run.plan.pause_without_route(&Error::ShutDown, run.at(0)), None);
}

#[test]
fn an_address_that_is_not_dialled_yet_is_waited_for_and_another_one_that_opens_earlier_is_taken() {
    let mut run = Run::new(&["a", "b"], rules(4));
    assert_eq!(run.begin(0, "first").1, "a");
    run.plan.closed(0, run.at(400));
    run.plan.failed(0, run.at(0), no_connection());
    assert_eq!(
        run.begin(0, "second, on the broker that has not been tried").1,
        "b"
    );
    run.plan.closed(1, run.at(100));
    run.plan.failed(1, run.at(0), no_connection());
    assert_eq!(run.pause(0), 100);
    assert_eq!(run.begin(101, "third").1, "b");
    // This time it was dialled, and refused: no pause for a that opens later while b may be asked at once.
    run.plan.failed(2, run.at(101), no_connection());
    assert_eq!(run.begin(101, "fourth").1, "b");
}

#[test]
fn a_closed_address_that_opens_too_late_ends_the_send() {
    let mut run = Run::new(&["a"], rules(4));
    run.begin(0, "first");
    run.plan.closed(0, run.at(2999));
    run.plan.failed(0, run.at(2500), no_connection());
    assert!(matches!(run.step(2500), Step::Finish));
}

#[test]
fn a_broker_that_goes_away_is_asked_once_more_at_no_charge() {
    let going = || refused(ResponseCode::GO_AWAY, "the broker shuts down");
    let mut run = Run::new(&["a"], rules(1));
    run.begin(0, "first");
    run.plan.failed(0, run.at(1), going());
    assert_eq!(run.begin(1, "once more").1, "a");
    run.plan.failed(1, run.at(2), going());
    assert!(matches!(run.step(2), Step::Finish));
}

#[test]
fn an_address_that_was_not_dialled_costs_no_attempt() {
    let mut run = Run::new(&["a"], rules(1));
    run.begin(0, "remembered");
    run.plan.closed(0, run.at(40));
    run.plan.failed(0, run.at(0), no_connection());
    assert_eq!(run.pause(0), 40);
    run.begin(41, "dialled");
    run.plan.failed(1, run.at(42), no_connection());
    assert!(matches!(run.step(42), Step::Finish));
}

#[test]
fn an_attempt_is_free_of_charge_only_once() {
    // It was thought not to be dialled yet, and got a connection that somebody else had dialled meanwhile.
    let mut run = Run::new(&["a"], rules(1));
    run.begin(0, "first");
    run.plan.closed(0, run.at(40));
    run.plan.failed(
        0,
        run.at(50),
        refused(ResponseCode::GO_AWAY, "the broker shuts down"),
    );
    run.begin(51, "once more");
    run.plan.failed(1, run.at(52), busy());
    assert!(matches!(run.step(52), Step::Finish));
}

#[test]
fn no_broker_is_blamed_for_an_attempt_that_was_given_up_unsent() {
    let mut run = Run::new(&["a", "b"], rules(3));
    run.begin(0, "first");
    run.plan.overdue(0);
    run.begin(1000, "second");
    let blamed = |run: &Run, error: &Error| run.plan.blamed(1, error).map(|broker| broker.name.to_string());
    assert_eq!(blamed(&run, &timed_out(Written::Nothing)), Some("b".to_owned()));
    run.stored(0, SendStatus::SendOk);
    assert_eq!(blamed(&run, &timed_out(Written::Nothing)), None);
    assert_eq!(blamed(&run, &timed_out(Written::All)), Some("b".to_owned()));
    assert_eq!(blamed(&run, &no_connection()), Some("b".to_owned()));
}
