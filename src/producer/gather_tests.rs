//! Tests of what is gathered and when it goes. Time is made up.

use std::{thread, time::Duration};

use super::*;
use crate::{
    message::{Message, MessageId, MessageQueue, OffsetMessageId},
    producer::result::SendStatus,
    wire::{message::BatchElements, request::send_message::RareParts},
};

/// Overhead, body, and the message id with name and separators.
const OF_100: usize = 22 + 100 + 42;

fn limits() -> Limits {
    Limits {
        hold: Duration::from_millis(10),
        max_bytes: 4 * OF_100,
        max_record_bytes: 4 << 20,
        added_record_bytes: 133,
    }
}

fn prepared(number: usize, body_length: usize) -> Prepared {
    let mut body = vec![b'.'; body_length];
    body[0] = u8::try_from(number).unwrap();
    Prepared {
        message: Message::new("topic", body).unwrap(),
        message_id: MessageId::from_text(&format!("{number:032X}")).unwrap(),
        born_timestamp_ms: 1,
        batch: None,
        compressed: None,
        kind: crate::producer::attempt::Kind::Usual,
    }
}

/// One that a thread waits for if `is_blocked`.
fn member(number: usize, now: Instant, is_blocked: bool) -> Member<&'static str> {
    let deadline = Deadline::starting(now, Duration::from_secs(3));
    Member::new(
        prepared(number, 100),
        deadline,
        (!is_blocked).then_some("closure"),
    )
}

#[track_caller]
fn add(group: &Group<&'static str>, now: Instant, coming: Member<&'static str>) -> Added<&'static str> {
    let added = group.add(&limits(), now, coming, false).ok();
    added.expect("it is not turned away")
}

/// The first bytes of the bodies in a batch, and of its members.
#[track_caller]
fn numbers(gathered: &Gathered<&'static str>) -> Vec<u8> {
    let elements: Vec<_> = BatchElements::new(&gathered.body)
        .collect::<Result<_, _>>()
        .unwrap();
    let members: Vec<_> = gathered.members.iter().flatten().collect();
    assert_eq!(elements.len(), members.len());
    for (element, member) in elements.iter().zip(&members) {
        assert_eq!(element.body, member.prepared.message.body());
        let id = format!("UNIQ_KEY\u{1}{}\u{2}", member.prepared.message_id);
        assert_eq!(element.properties, id);
        assert_eq!(member.bytes, OF_100 - 100 + element.body.len());
    }
    elements.iter().map(|element| element.body[0]).collect()
}

#[test]
fn a_batch_goes_when_it_is_full_and_not_before() {
    let (group, now) = (Group::new(), Instant::now());
    for number in 0..3 {
        let added = add(&group, now, member(number, now, false));
        assert_eq!((added.index, added.ready.len()), (number, 0));
        // The timer is asked for once.
        assert_eq!(added.arm.is_some(), number == 0);
    }
    let mut added = add(&group, now, member(3, now, false));
    assert_eq!((added.index, added.ready.len()), (3, 1));
    let full = added.ready.remove(0);
    assert_eq!(numbers(&full), [0, 1, 2, 3]);
    assert_eq!((full.body.len(), full.held_bytes), (4 * OF_100, 4 * OF_100));
    assert!(group.take().is_none());
    // The next one has as much memory from the beginning, and need not be moved.
    add(&group, now, member(4, now, false));
    let next = group.take().unwrap();
    assert!(next.body.capacity() >= 4 * OF_100 && next.members.capacity() >= 4);
}

#[test]
fn a_message_that_does_not_fit_any_more_goes_into_the_next_batch() {
    let (group, now) = (Group::new(), Instant::now());
    add(&group, now, member(0, now, false));
    let deadline = Deadline::starting(now, Duration::from_secs(3));
    let long = Member::new(prepared(1, 3 * OF_100), deadline, Some("closure"));
    let mut added = add(&group, now, long);
    assert_eq!((added.index, added.ready.len()), (0, 1));
    assert_eq!(numbers(&added.ready.remove(0)), [0]);
    assert_eq!(numbers(&group.take().unwrap()), [1]);
}

/// Small messages take far more room as records than on their way.
#[test]
fn the_records_of_a_batch_are_within_their_limit() {
    let (group, now) = (Group::new(), Instant::now());
    let tight = Limits {
        max_record_bytes: 2 * (5 + 100 + 133),
        ..limits()
    };
    let mut sizes = Vec::new();
    for number in 0..5 {
        let added = group.add(&tight, now, member(number, now, false), false);
        let Ok(added) = added else { panic!("turned away") };
        sizes.extend(added.ready.iter().map(|ready| ready.members.len()));
    }
    assert_eq!(sizes, [2, 2]);
}

#[test]
fn the_timer_takes_what_has_waited_long_enough() {
    let (group, now) = (Group::new(), Instant::now());
    let at = |milliseconds| now + Duration::from_millis(milliseconds);
    let due = add(&group, now, member(0, now, false)).arm.unwrap();
    assert_eq!(due, at(10));
    // That one goes for another reason, and the next one comes later.
    assert!(group.take().is_some());
    assert!(add(&group, at(4), member(1, at(4), false)).arm.is_none());
    let looked = group.on_time(&limits(), at(10), false);
    assert!(looked.ready.is_none());
    assert_eq!(looked.arm, Some(at(14)));
    assert!(!group.forget_if_idle());
    let looked = group.on_time(&limits(), at(14), false);
    assert_eq!(numbers(&looked.ready.unwrap()), [1]);
    assert_eq!(looked.arm, None);
    assert!(group.forget_if_idle());
    let turned_away = group.add(&limits(), at(15), member(2, at(15), false), false);
    assert!(matches!(turned_away, Err(TurnedAway::Forgotten(back)) if back.closing == Some("closure")));
}

#[test]
fn the_last_look_of_the_timer_leaves_nothing_behind() {
    let (group, now) = (Group::new(), Instant::now());
    add(&group, now, member(0, now, false));
    assert_eq!(numbers(&group.on_time(&limits(), now, true).ready.unwrap()), [0]);
}

/// Who is blocked waits for an answer that is under way, but never for nothing.
#[test]
fn a_blocked_thread_does_not_wait_while_nothing_is_under_way() {
    let (group, now) = (Group::new(), Instant::now());
    let mut added = add(&group, now, member(0, now, true));
    assert_eq!(numbers(&added.ready.remove(0)), [0]);
    for number in 1..3 {
        assert!(add(&group, now, member(number, now, true)).ready.is_empty());
    }
    assert_eq!(numbers(&group.ended().unwrap()), [1, 2]);
    assert!(group.ended().is_none());
    // A closure waits for its time, unless a thread comes along.
    assert!(add(&group, now, member(3, now, false)).ready.is_empty());
    assert!(group.ended().is_none());
    let mut added = add(&group, now, member(4, now, true));
    assert_eq!(numbers(&added.ready.remove(0)), [3, 4]);
}

#[test]
fn who_leaves_takes_his_bytes_along_and_the_others_keep_their_index() {
    let (group, now) = (Group::new(), Instant::now());
    let seats: Vec<_> = (0..3)
        .map(|number| add(&group, now, member(number, now, false)))
        .collect();
    let load = Arc::clone(&seats[1].load);
    assert!(group.take_out(&Arc::default(), 1).is_none(), "another batch");
    let left = group.take_out(&load, 1).unwrap();
    assert_eq!(left.prepared.message.body()[0], 1);
    assert!(group.take_out(&load, 1).is_none());
    let gathered = group.take().unwrap();
    assert_eq!(numbers(&gathered), [0, 2]);
    assert_eq!(gathered.held_bytes, 3 * OF_100, "the room is given back at once");
    assert!(group.take_out(&load, 2).is_none(), "it is on its way");

    let ids = "7F0000010000465A0000000000000001,7F0000010000465A0000000000000002";
    let places = Places::new(stored(ids), 2).unwrap();
    let ending = Ending {
        how: How::Stored(Box::new(places)),
        left: gathered.left(),
    };
    let told = |index: usize| match ending.tell(index, &prepared(index, 1)) {
        Told::Outcome(Ok(result)) => Some((
            result.queue_offset,
            result.message_id.to_string(),
            result.offset_message_id.to_string(),
        )),
        Told::TakenOut => None,
        other => panic!("{other:?}"),
    };
    let place =
        |offset: u64, number: usize, id: &str| Some((offset, format!("{number:032X}"), id.to_owned()));
    assert_eq!(told(0), place(40, 0, &ids[..32]));
    assert_eq!(told(1), None);
    assert_eq!(told(2), place(41, 2, &ids[33..]));
}

#[test]
fn whose_time_is_over_is_taken_out_and_its_deadline_with_it() {
    let (group, now) = (Group::new(), Instant::now());
    let of = |number: usize, timeout: Duration| {
        Member::new(
            prepared(number, 100),
            Deadline::starting(now, timeout),
            Some("closure"),
        )
    };
    let timeout = Duration::from_millis(100);
    let short = Duration::from_millis(90);
    add(&group, now, of(0, timeout));
    add(&group, now, of(1, short));
    add(&group, now, of(2, timeout));
    let mut gathered = group.take().unwrap();
    assert_eq!(gathered.deadline.at(), now + short);
    assert!(gathered.take_out_late(now).is_empty());
    let late = gathered.take_out_late(now + Duration::from_millis(95));
    assert_eq!(late.len(), 1);
    assert_eq!((gathered.left(), numbers(&gathered)), (vec![1], vec![0, 2]));
    assert_eq!(gathered.deadline.at(), now + timeout);
}

/// Who has waited long for room has little time left: the others are not to share that.
#[test]
fn deadlines_that_are_far_apart_do_not_share_a_batch() {
    let (group, now) = (Group::new(), Instant::now());
    let later = now + Duration::from_millis(200);
    let much_later = now + Duration::from_secs(1);
    add(&group, now, member(0, now, false));
    assert!(add(&group, later, member(1, later, false)).ready.is_empty());
    let mut added = add(&group, much_later, member(2, much_later, false));
    assert_eq!(numbers(&added.ready.remove(0)), [0, 1]);
}

fn stored(ids: &str) -> SendResult {
    SendResult {
        status: SendStatus::SendOk,
        message_id: MessageId::from_text("A").unwrap(),
        offset_message_id: OffsetMessageId::from_text(&ids[..32]).unwrap(),
        queue: Arc::new(MessageQueue::new("topic", "broker-a", 0)),
        queue_offset: 40,
        transaction_id: None,
        region_id: "DefaultRegion".into(),
        trace_on: true,
        attempts: 1,
        may_be_duplicated: false,
        rare: Some(Box::new(RareParts {
            all_ids: Some(ids.into()),
            ..RareParts::default()
        })),
    }
}

#[test]
fn an_answer_that_names_another_number_of_messages_is_not_believed() {
    let ids = "7F0000010000465A0000000000000001,7F0000010000465A0000000000000002";
    let error = Places::new(stored(ids), 3).unwrap_err();
    assert_eq!(error.delivery(), crate::error::Delivery::Unknown);
    assert!(
        error.to_string().contains("a batch of 3 messages and named 2"),
        "{error}"
    );
    // A batch that is kept as one record has one id, and its messages follow one another.
    let single = SendResult {
        rare: None,
        ..stored(ids)
    };
    let places = Places::new(single, 3).unwrap();
    let last = places.result(2, MessageId::from_text("B").unwrap());
    assert_eq!(
        (last.queue_offset, last.offset_message_id.as_str()),
        (42, &ids[..32])
    );
    // Ids of different lengths: one broker's are not, but nothing depends on that.
    let places = Places::new(stored(&format!("{},B", &ids[..32])), 2).unwrap();
    let last = places.result(1, MessageId::from_text("B").unwrap());
    assert_eq!(last.offset_message_id.as_str(), "B");
}

#[test]
fn all_who_wait_for_a_batch_are_woken_by_its_end() {
    let load = Arc::new(Load::default());
    assert!(load.wait(Instant::now()).is_none());
    let until = Instant::now() + Duration::from_secs(20);
    let waiting: Vec<_> = (0..8)
        .map(|index| {
            let load = Arc::clone(&load);
            thread::spawn(move || {
                let ending = load.wait(until).expect("it ends");
                matches!(ending.tell(index, &prepared(0, 1)), Told::Alone)
            })
        })
        .collect();
    let left = Vec::new();
    load.end(Arc::new(Ending {
        how: How::Scattered,
        left,
    }));
    assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
}
