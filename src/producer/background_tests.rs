//! Tests of the asynchronous send where threads meet: each is put at its place by hand, so nothing is sent.

use std::{sync::Barrier, thread, time::Duration};

use super::*;
use crate::{
    config::{ProducerConfig, Redelivery},
    error::Delivery,
    message::{Message, OffsetMessageId},
    net::{deadline::Deadline, sync::channel},
    producer::{
        plan::Rules,
        result::{SendResult, SendStatus},
    },
    wire::request::{
        route::{BrokerData, QueueData, RouteData},
        send_message::SendReply,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

type Told = channel::Receiver<Result<SendResult, SendFailure>>;

fn shared() -> Arc<Shared> {
    let mut config = ProducerConfig::new("group".to_owned());
    // Nobody listens there, and nobody is asked.
    config.name_servers = Some("127.0.0.1:1".to_owned());
    Shared::start(config, None).unwrap()
}

fn stop(shared: &Arc<Shared>) {
    drop(crate::producer::shutdown::shut_down(shared, PATIENCE));
}

fn route() -> Arc<TopicRoute> {
    let brokers = ["a", "b"];
    let data = RouteData {
        broker_datas: brokers
            .iter()
            .map(|name| BrokerData {
                cluster: "c".to_owned(),
                broker_name: (*name).to_owned(),
                broker_addresses: [(0, "127.0.0.1:1".to_owned())].into(),
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
    Arc::new(TopicRoute::from_data(&"t".into(), &data, Arc::default()).unwrap())
}

fn plan(route: &TopicRoute, timeout: Duration, attempts: u32) -> SendPlan {
    let mut plan = SendPlan::new(plan_rules(attempts), "t".into(), Deadline::after(timeout));
    begin(&mut plan, route);
    plan
}

fn plan_rules(attempts: u32) -> Rules {
    Rules {
        attempts,
        retry_response_codes: [].into(),
        retry_another_broker_when_not_store_ok: false,
        redelivery: Redelivery::AtLeastOnce,
        back_off: (Duration::from_millis(1), Duration::from_millis(1)),
        round: None,
    }
}

fn begin(plan: &mut SendPlan, route: &TopicRoute) -> (Destination, Alarm) {
    match plan.next(Instant::now(), route, None) {
        Step::Attempt { to, share, until, .. } => (to, Alarm { share, until }),
        other => panic!("{other:?}"),
    }
}

fn store(plan: &mut SendPlan, number: u32) {
    let reply = SendReply {
        offset_message_id: OffsetMessageId::from_text("0A00000100002A9F0000000000000000").unwrap(),
        queue_id: 0,
        queue_offset: 0,
        transaction_id: None,
        region_id: None,
        trace_on: true,
        rare: None,
    };
    plan.stored(number, (SendStatus::SendOk, reply));
}

fn sending(shared: &Arc<Shared>, route: &Arc<TopicRoute>, plan: SendPlan) -> (Arc<AsyncSend>, Told) {
    let (sender, told) = channel::unbounded();
    let on_done = Box::new(move |outcome| sender.send(outcome).unwrap());
    let closing = Closing::new(on_done, None);
    let message = Message::new("t", "x").unwrap();
    let prepared = Prepared::new(shared, &message).unwrap();
    let send = AsyncSend::new(shared, prepared, None, false, plan, closing);
    send.state.lock().route = Some((Arc::clone(route), None));
    (send, told)
}

/// The sender comes back from the socket while the reader has already taken in the answer: both find the plan at its end.
#[test]
fn threads_that_find_the_end_together_hand_out_one_outcome() {
    let (shared, route) = (shared(), route());
    for round in 0..500 {
        let mut plan = plan(&route, PATIENCE, 1);
        store(&mut plan, 0);
        let (send, told) = sending(&shared, &route, plan);
        let start = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    start.wait();
                    send.drive();
                });
            }
        });
        let outcome = told.recv_timeout(PATIENCE).unwrap();
        assert!(outcome.is_ok(), "round {round}: {outcome:?}");
        drop(send);
        assert!(told.recv_timeout(PATIENCE).is_err(), "round {round}: told twice");
    }
    stop(&shared);
}

/// Another thread has the verdict of an attempt in its hands: the send ends with it, not without it.
#[test]
fn a_verdict_that_is_on_its_way_is_waited_for() {
    let (shared, route) = (shared(), route());
    let mut plan = plan(&route, Duration::from_millis(20), 1);
    thread::sleep(Duration::from_millis(30));
    assert!(matches!(plan.next(Instant::now(), &route, None), Step::Finish));
    let (send, told) = sending(&shared, &route, plan);
    send.drive();
    assert!(told.try_recv().is_err(), "the attempt may still be stored");
    let error = Error::Timeout {
        phase: Phase::Reply,
        target: "a".into(),
        waited: Duration::ZERO,
        written: Written::All,
    };
    Arc::clone(&send).complete(0, Outcome::Failed(error), &mut WakeUps::default());
    let failure = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(failure.error.attempts().len(), 1);
    assert_eq!(failure.error.delivery(), Delivery::Unknown);
    stop(&shared);
}

/// The first attempt's answer comes while the second one is about to wait for its connection.
#[test]
fn a_send_that_is_decided_begins_no_further_attempt() {
    let (shared, route) = (shared(), route());
    let mut plan = plan(&route, PATIENCE, 2);
    plan.overdue(0);
    let (to, alarm) = begin(&mut plan, &route);
    store(&mut plan, 0);
    let (send, told) = sending(&shared, &route, plan);
    send.wait_for_connection(1, &to, alarm);
    let result = told.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((result.attempts, result.may_be_duplicated), (2, false));
    assert!(send.state.lock().parked.is_none());
    stop(&shared);
}

/// The answer comes while the second attempt is parked.
#[test]
fn a_parked_attempt_is_given_up_when_the_send_is_decided() {
    let (shared, route) = (shared(), route());
    let mut plan = plan(&route, PATIENCE, 2);
    plan.overdue(0);
    let (_, alarm) = begin(&mut plan, &route);
    let (send, told) = sending(&shared, &route, plan);
    let parked = Parked::ForConnection { number: 1 };
    assert!(send.park(parked, alarm.share));
    store(&mut send.state.lock().plan, 0);
    send.drive();
    let result = told.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((result.attempts, result.may_be_duplicated), (2, false));
    assert!(!send.unpark(parked), "whoever brings the connection finds nobody");
    stop(&shared);
}

/// When the timer is stopped, what is parked ends. An earlier attempt may be stored, so the end is not "not stored".
#[test]
fn stopping_the_timer_ends_a_parked_send_with_what_is_known() {
    let (shared, route) = (shared(), route());
    let mut plan = plan(&route, PATIENCE, 2);
    plan.overdue(0);
    let (_, alarm) = begin(&mut plan, &route);
    let (send, told) = sending(&shared, &route, plan);
    assert!(send.park(Parked::ForConnection { number: 1 }, alarm.share));
    shared.housekeeping.stop();
    shared.timer.stop();
    let error = Error::Timeout {
        phase: Phase::Reply,
        target: "a".into(),
        waited: Duration::ZERO,
        written: Written::All,
    };
    Arc::clone(&send).complete(0, Outcome::Failed(error), &mut WakeUps::default());
    let failure = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(failure.error.attempts().len(), 2, "{}", failure.error);
    assert_eq!(failure.error.delivery(), Delivery::Unknown);
    stop(&shared);
}

/// The one before it takes long: whoever gives up waiting for his turn is not kept in the line.
#[test]
fn an_ordered_send_whose_time_is_over_leaves_the_line() {
    let (shared, route) = (shared(), route());
    let queue = Arc::clone(&route.queues[0].queue);
    let before = shared
        .lanes
        .line_up(&queue)
        .wait(&Deadline::after(PATIENCE))
        .unwrap();
    let rules = plan_rules(1);
    let plan = SendPlan::new(rules, "t".into(), Deadline::after(Duration::from_millis(20)));
    let (send, told) = sending(&shared, &route, plan);
    send.state.lock().route = Some((Arc::clone(&route), Some(route.queues[0].clone())));
    send.line_up(&queue, |_, _| panic!("it is not its turn"));
    let weak = Arc::downgrade(&send);
    drop(send);
    let failure = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(matches!(
        failure.error,
        Error::Timeout {
            phase: Phase::Order,
            ..
        }
    ));
    assert!(told.recv_timeout(PATIENCE).is_err(), "nobody holds the closure");
    let until = Instant::now() + PATIENCE;
    while weak.strong_count() > 0 {
        assert!(Instant::now() < until, "it is still in the line");
        thread::sleep(Duration::from_millis(1));
    }
    before.end(None);
    stop(&shared);
}

/// The first one looks for the route, or pauses since there is none. The next one, which would find it at once, waits.
#[test]
fn an_ordered_send_does_not_overtake_one_that_looks_for_its_route() {
    let (shared, route) = (shared(), route());
    let aim = (*route.queues[0].queue).clone();
    let ordered = || {
        let rules = Rules {
            back_off: (PATIENCE, PATIENCE),
            round: Some(PATIENCE),
            ..plan_rules(1)
        };
        let plan = SendPlan::new(rules, "t".into(), Deadline::after(4 * PATIENCE));
        let on_done = Box::new(|_| {});
        let closing = Closing::new(on_done, None);
        let prepared = Prepared::new(&shared, &Message::new("t", "x").unwrap()).unwrap();
        AsyncSend::new(
            &shared,
            prepared,
            Some(Aim::Queue(aim.clone())),
            true,
            plan,
            closing,
        )
    };
    let parked = |send: &AsyncSend| send.state.lock().parked.as_ref().map(|(what, _)| *what);
    // As if the route had come, whatever it was that the send was waiting for.
    let bring_route = |send: &Arc<AsyncSend>| {
        let until = Instant::now() + PATIENCE;
        while !send.unpark(Parked::ForRoute) && !send.unpark(Parked::BeforeRoute) {
            assert!(Instant::now() < until, "{:?}", parked(send));
        }
        send.take_route(Ok(Arc::clone(&route)));
    };
    let (first, second) = (ordered(), ordered());
    first.start();
    second.start();
    assert_eq!(parked(&second), Some(Parked::ForTurn), "at the entrance");
    bring_route(&first);
    assert!(first.state.lock().turn.is_some());
    bring_route(&second);
    assert_eq!(parked(&second), Some(Parked::ForTurn), "behind the first one");
    assert!(first.state.lock().entrance.is_none() && second.state.lock().entrance.is_none());
    stop(&shared);
}
