//! Tests of the route table: what each way in which a look-up can end does to what is known.

use super::*;
use crate::wire::request::route::{BrokerData, QueueData, RouteData};

fn route(queues: u32, from_template: bool) -> TopicRoute {
    let data = RouteData {
        broker_datas: vec![BrokerData {
            cluster: "c".to_owned(),
            broker_name: "a".to_owned(),
            broker_addresses: [(0, "a:10911".to_owned())].into(),
        }],
        queue_datas: vec![QueueData {
            broker_name: "a".to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: 6,
            topic_sys_flag: 0,
        }],
        ..RouteData::default()
    };
    let make = if from_template {
        TopicRoute::from_template(&"t".into(), &data, queues, Arc::default())
    } else {
        TopicRoute::from_data(&"t".into(), &data, Arc::default())
    };
    make.unwrap()
}

fn unknown() -> Outcome {
    Outcome::Unknown(Error::NoRoute {
        topic: "t".into(),
        reason: "unknown".into(),
    })
}

fn unreachable() -> Outcome {
    Outcome::unreachable(&"t".into(), Vec::new(), Duration::ZERO)
}

/// Takes in the outcome of a look-up by the clock, and says how many queues those who wait get, or `None` for an error.
fn by_clock(topic: &mut Topic, outcome: Outcome) -> Option<usize> {
    topic.by_clock = true;
    asked_for(topic, outcome)
}

/// The same for a look-up that a failed send asked for.
fn asked_for(topic: &mut Topic, outcome: Outcome) -> Option<usize> {
    let (result, _) = topic.take_in(outcome);
    result.ok().map(|route| route.queues.len())
}

#[test]
fn a_new_route_takes_the_place_of_the_old_one() {
    let mut topic = Topic::new();
    assert_eq!(by_clock(&mut topic, Outcome::Route(route(4, false))), Some(4));
    assert_eq!(by_clock(&mut topic, Outcome::Route(route(8, false))), Some(8));
    assert_eq!(topic.route.map(|route| route.queues.len()), Some(8));
}

#[test]
fn a_route_outlives_name_servers_that_do_not_answer() {
    let mut topic = Topic::new();
    assert_eq!(by_clock(&mut topic, unreachable()), None);
    by_clock(&mut topic, Outcome::Route(route(4, false)));
    for _ in 0..100 {
        assert_eq!(by_clock(&mut topic, unreachable()), Some(4));
    }
}

#[test]
fn a_topic_that_is_unknown_is_given_up_at_the_third_refresh_in_a_row() {
    let template = || Outcome::Route(route(2, true));
    for (outcome, given_up) in [
        (&unknown as &dyn Fn() -> Outcome, None),
        // Brokers that create topics by themselves: the template stands in for what is gone.
        (&template, Some(2)),
    ] {
        let mut topic = Topic::new();
        by_clock(&mut topic, Outcome::Route(route(4, false)));
        assert_eq!(by_clock(&mut topic, outcome()), Some(4));
        assert_eq!(by_clock(&mut topic, outcome()), Some(4));
        // The count begins anew when the topic is there again.
        assert_eq!(by_clock(&mut topic, Outcome::Route(route(4, false))), Some(4));
        assert_eq!(by_clock(&mut topic, outcome()), Some(4));
        assert_eq!(by_clock(&mut topic, outcome()), Some(4));
        assert_eq!(by_clock(&mut topic, outcome()), given_up);
        assert_eq!(topic.route.map(|route| route.queues.len()), given_up);
    }
}

#[test]
fn failed_sends_do_not_use_up_the_patience_with_a_restarted_name_server() {
    let mut topic = Topic::new();
    by_clock(&mut topic, Outcome::Route(route(4, false)));
    for _ in 0..100 {
        assert_eq!(asked_for(&mut topic, unknown()), Some(4));
    }
    assert_eq!(by_clock(&mut topic, unknown()), Some(4));
}

#[test]
fn a_template_gives_way_to_the_real_route_and_to_another_template_at_once() {
    let mut topic = Topic::new();
    assert_eq!(by_clock(&mut topic, Outcome::Route(route(4, true))), Some(4));
    assert_eq!(by_clock(&mut topic, Outcome::Route(route(8, true))), Some(8));
    assert_eq!(by_clock(&mut topic, Outcome::Route(route(2, false))), Some(2));
}

#[test]
fn one_look_up_at_a_time_is_begun() {
    let mut topic = Topic::new();
    assert!(topic.begin());
    assert!(!topic.begin());
    topic.look_up = LookUp::None;
    assert!(topic.begin());
}

#[test]
fn a_topic_is_forgotten_when_nobody_has_sent_to_it_for_long() {
    let mut topic = Topic::new();
    by_clock(&mut topic, Outcome::Route(route(4, false)));
    let used = Arc::clone(topic.route.as_ref().unwrap());
    assert!(topic.is_wanted(), "just used");
    for _ in 1..IDLE_REFRESHES {
        assert!(topic.is_wanted());
    }
    assert!(!topic.is_wanted());
    used.used.store(true, Ordering::Relaxed);
    assert!(topic.is_wanted());
    by_clock(&mut topic, Outcome::Route(route(8, false)));
    assert!(
        topic
            .route
            .as_ref()
            .is_some_and(|new| !new.used.load(Ordering::Relaxed)),
        "a new route is no use"
    );
    topic.look_up = LookUp::UnderWay;
    for _ in 0..100 {
        assert!(topic.is_wanted(), "somebody waits for its look-up");
    }
}
