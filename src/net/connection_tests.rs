//! Tests of a connection over a real socket pair: every waiter is told once or has given up, whoever comes first of the
//! answer, the timer, the owner and the end.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Barrier, mpsc},
};

use super::*;
use crate::{
    net::{
        inbound::Answer,
        meter::{Answered, Judge},
        sync::{AtomicBool, AtomicUsize, Ordering},
    },
    wire::{frame::FrameBuffer, header::FLAG_RESPONSE},
};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Noted {
    ended: AtomicUsize,
    oneway_unwritten: AtomicUsize,
    taken_over: Mutex<Vec<Vec<u8>>>,
}

impl Events for Noted {
    fn alarm_set(&self, _: Instant) {}

    fn requested(&self, request: &InboundRequest<'_>) -> Handled {
        match RequestCode::new(request.header.code) {
            RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT => Handled::Answered(Answer {
                fields: vec![("topic", "replies".to_owned())],
                ..Answer::success()
            }),
            RequestCode::CHECK_TRANSACTION_STATE => {
                self.taken_over.lock().push(request.body.to_vec());
                Handled::TakenOver
            }
            RequestCode::CONSUME_MESSAGE_DIRECTLY => panic!("whoever serves this request is broken"),
            _ => Handled::NotServed,
        }
    }

    fn ended(&self, _: &Connection, _: &EndCause, oneway_unwritten: usize) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.oneway_unwritten
            .fetch_add(oneway_unwritten, Ordering::SeqCst);
    }
}

/// Counts what it is told.
#[derive(Default)]
struct Counting {
    replies: AtomicUsize,
    overdue: AtomicUsize,
    failures: Mutex<Vec<Error>>,
}

impl Counting {
    fn told(&self) -> usize {
        self.replies.load(Ordering::SeqCst) + self.failures.lock().len()
    }
}

impl Waiter for Counting {
    fn complete(self: Arc<Self>, _: u32, outcome: Outcome<'_>, _: &mut WakeUps) {
        match outcome {
            Outcome::Reply { .. } => {
                self.replies.fetch_add(1, Ordering::SeqCst);
            }
            Outcome::Overdue => {
                self.overdue.fetch_add(1, Ordering::SeqCst);
            }
            Outcome::Failed(error) => self.failures.lock().push(error),
        }
    }

    fn judge(&self) -> Option<Judge> {
        Some(|_, _| Answered::Done)
    }
}

fn settings(half_open_after: Duration) -> ConnectionSettings {
    ConnectionSettings {
        language: Language::from_code(7),
        version: 513,
        serialization: Serialization::Json,
        in_flight_limit: 256,
        half_open_after,
    }
}

fn connect(half_open_after: Duration) -> (Arc<Connection>, TcpStream, Arc<Noted>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let noted = Arc::<Noted>::default();
    let events: Arc<dyn Events> = Arc::<Noted>::clone(&noted);
    let connection = Connection::start(
        stream,
        address.to_string().into(),
        settings(half_open_after),
        events,
        Arc::default(),
    );
    (connection.unwrap(), peer, noted)
}

fn send(
    connection: &Arc<Connection>,
    waiter: &Arc<Counting>,
    alarm: Option<Alarm>,
    manner: Manner,
    body: &[u8],
) -> Result<i32, Error> {
    let waiter: Arc<dyn Waiter> = Arc::<Counting>::clone(waiter);
    let request = Request {
        code: RequestCode::SEND_MESSAGE_V2,
        write_fields: |writer: &mut FieldWriter<'_>| writer.text("a", "group"),
        body,
    };
    let waiting = Waiting {
        waiter: &waiter,
        ticket: 0,
        alarm,
    };
    connection.request(request, &waiting, manner, Instant::now())
}

fn answer(mut peer: &TcpStream, opaque: i32) -> io::Result<()> {
    let mut out = Vec::new();
    let envelope = Envelope {
        code: 0,
        opaque,
        flag: FLAG_RESPONSE,
        language: Language::from_code(0),
        version: 0,
        remark: None,
        serialization: Serialization::Json,
    };
    encode_frame(&mut out, &envelope, |_| {}, &[]).unwrap();
    peer.write_all(&out)
}

/// Answers requests until `of` says no, and then resets the connection or closes it.
fn serve(peer: &TcpStream, mut of: impl FnMut(i32) -> bool) {
    let mut buffer = FrameBuffer::new();
    loop {
        match (&*peer).read(buffer.space()) {
            Ok(0) | Err(_) => return,
            Ok(count) => buffer.filled(count),
        }
        while let Some(frame) = buffer.next_frame().unwrap() {
            let header = frame.header().unwrap();
            if !of(header.opaque) {
                return;
            }
            if !header.is_oneway() && answer(peer, header.opaque).is_err() {
                return;
            }
        }
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 27)
}

fn wait_until(condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it never happens");
        thread::sleep(Duration::from_millis(1));
    }
}

/// One sender of the race. Says how many of its requests were taken in.
fn send_and_cancel(connection: &Arc<Connection>, seed: u64, requests: usize) {
    let mut state = seed;
    for number in 0..requests {
        let mood = random(&mut state);
        let now = Instant::now();
        let until = now + PATIENCE;
        let (manner, alarm) = match mood % 3 {
            0 => (Manner::Blocking { until }, None),
            1 => (connection.immediately(), None),
            _ => {
                let share = now + Duration::from_micros(mood % 700);
                let until = share + Duration::from_micros(mood % 1300);
                (connection.immediately(), Some(Alarm { share, until }))
            }
        };
        let waiter = Arc::<Counting>::default();
        let body = vec![7; usize::try_from(mood % 5000).unwrap()];
        let Ok(opaque) = send(connection, &waiter, alarm, manner, &body) else {
            assert_eq!(waiter.told(), 0, "refused, and told nevertheless");
            return;
        };
        if mood % 2 == 0 && alarm.is_none() {
            if mood % 4 == 0 {
                thread::yield_now();
            }
            if let Cancelled::Waiting(_) = connection.cancel(opaque) {
                assert_eq!(waiter.told(), 0, "given up, and told nevertheless");
                continue;
            }
        }
        let what = || format!("request {number} of {seed}");
        wait_until(|| waiter.told() > 0);
        assert_eq!(waiter.told(), 1, "{}", what());
        assert!(waiter.overdue.load(Ordering::SeqCst) <= 1, "{}", what());
    }
}

#[test]
fn in_a_race_every_waiter_is_told_once_or_has_given_up() {
    const ROUNDS: u64 = 200;
    const SENDERS: u64 = 4;
    for round in 0..ROUNDS {
        let (connection, peer, noted) = connect(PATIENCE);
        let mut state = round;
        let lives = random(&mut state) % 120;
        let closes_itself = round % 5 == 4;
        let over = AtomicBool::new(false);
        let start = Barrier::new(usize::try_from(SENDERS).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut answered = 0;
                serve(&peer, |_| {
                    answered += 1;
                    answered <= lives
                });
                // What the peer has not read makes this a reset, else it is an orderly end.
                peer.shutdown(Shutdown::Both).ok();
            });
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    connection.look_at_alarms(Instant::now());
                    thread::sleep(Duration::from_micros(300));
                }
            });
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| {
                    let (connection, start) = (&connection, &start);
                    scope.spawn(move || {
                        start.wait();
                        send_and_cancel(connection, round * 100 + sender, 40);
                    })
                })
                .collect();
            if closes_itself {
                thread::sleep(Duration::from_micros(random(&mut state) % 2000));
                connection.close();
            }
            let results: Vec<_> = senders.into_iter().map(thread::ScopedJoinHandle::join).collect();
            // Whatever they say, the others must end.
            over.store(true, Ordering::SeqCst);
            connection.close();
            connection.join();
            results.into_iter().for_each(Result::unwrap);
        });
        assert_eq!(noted.ended.load(Ordering::SeqCst), 1);
        assert!(!connection.is_live());
        assert_eq!(connection.in_flight.waiting(), 0);
        let counted = connection.meter().read();
        let ended = counted.done + counted.timeouts + counted.lost + counted.protocol;
        assert_eq!(counted.begun, ended, "each is counted once: {counted:?}");
    }
}

#[test]
fn a_peer_that_answers_nothing_is_given_up_for_the_oldest_request() {
    let half_open_after = Duration::from_millis(200);
    let (connection, _peer, noted) = connect(half_open_after);
    let began = Instant::now();
    let waiter = Arc::<Counting>::default();
    // Each has less time than a silent peer is given, all together have more.
    while connection.is_live() {
        assert!(began.elapsed() < PATIENCE, "it is never given up");
        let manner = Manner::Blocking {
            until: Instant::now() + PATIENCE,
        };
        let opaque = send(&connection, &waiter, None, manner, b"x").unwrap();
        thread::sleep(Duration::from_millis(10));
        assert!(matches!(
            connection.cancel(opaque),
            Cancelled::Waiting(Error::Timeout {
                written: Written::All,
                ..
            })
        ));
    }
    assert!(began.elapsed() >= half_open_after);
    assert_eq!(noted.ended.load(Ordering::SeqCst), 1);
    assert_eq!(waiter.told(), 0);
    connection.join();
}

#[test]
fn a_peer_that_answers_others_is_not_given_up() {
    let half_open_after = Duration::from_millis(60);
    let (connection, peer, noted) = connect(half_open_after);
    thread::scope(|scope| {
        // The first request is never answered.
        scope.spawn(|| {
            let mut first = None;
            let mut buffer = FrameBuffer::new();
            while let Ok(count @ 1..) = (&peer).read(buffer.space()) {
                buffer.filled(count);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    let opaque = frame.header().unwrap().opaque;
                    if *first.get_or_insert(opaque) != opaque {
                        answer(&peer, opaque).unwrap();
                    }
                }
            }
        });
        let manner = || Manner::Blocking {
            until: Instant::now() + PATIENCE,
        };
        let unanswered = Arc::<Counting>::default();
        let opaque = send(&connection, &unanswered, None, manner(), b"x").unwrap();
        let began = Instant::now();
        while began.elapsed() < 3 * half_open_after {
            let waiter = Arc::<Counting>::default();
            send(&connection, &waiter, None, manner(), b"x").unwrap();
            wait_until(|| waiter.told() == 1);
        }
        assert!(matches!(
            connection.cancel(opaque),
            Cancelled::Waiting(Error::Timeout {
                written: Written::All,
                ..
            })
        ));
        assert!(connection.is_live());
        assert_eq!(unanswered.told(), 0);
        connection.close();
        connection.join();
    });
    assert_eq!(noted.ended.load(Ordering::SeqCst), 1);
}

/// Requests whose time ends in one look of the timer are all judged before any of them ends the connection.
#[test]
fn requests_that_end_together_do_not_spoil_each_others_verdict() {
    let half_open_after = Duration::from_millis(50);
    let (connection, _peer, noted) = connect(half_open_after);
    let now = Instant::now();
    let alarm = |until| Some(Alarm { share: until, until });
    let written = Arc::<Counting>::default();
    let until = now + half_open_after;
    let manner = Manner::Blocking {
        until: now + PATIENCE,
    };
    send(&connection, &written, alarm(until), manner, b"x").unwrap();
    // Nobody writes these: the writer role is taken.
    let role = connection.outgoing.append::<()>(manner, 1, now, |out| {
        out.push(0);
        Ok(None)
    });
    assert!(matches!(role, Ok(Next::Write)));
    let pending: Vec<_> = (0..5)
        .map(|_| {
            let waiter = Arc::<Counting>::default();
            send(&connection, &waiter, alarm(until), connection.immediately(), b"y").unwrap();
            waiter
        })
        .collect();
    thread::sleep(half_open_after);
    connection.look_at_alarms(Instant::now());
    assert!(!connection.is_live(), "the peer has been silent for long");
    let verdict = |waiter: &Counting| {
        waiter
            .failures
            .lock()
            .iter()
            .map(Error::delivery)
            .collect::<Vec<_>>()
    };
    assert_eq!(verdict(&written), [crate::error::Delivery::Unknown]);
    for waiter in &pending {
        assert_eq!(verdict(waiter), [crate::error::Delivery::NotStored]);
    }
    connection.join();
    assert_eq!(noted.ended.load(Ordering::SeqCst), 1);
}

#[test]
fn one_way_frames_that_die_with_the_connection_are_counted() {
    let (connection, peer, noted) = connect(PATIENCE);
    let oneway = |body: &[u8]| {
        let request = Request {
            code: RequestCode::SEND_MESSAGE_V2,
            write_fields: |_: &mut FieldWriter<'_>| {},
            body,
        };
        connection.oneway(request, Instant::now() + PATIENCE, Instant::now())
    };
    let (sender, receiver) = mpsc::channel();
    let reading = peer.try_clone().unwrap();
    let server = thread::spawn(move || {
        serve(&reading, |opaque| {
            sender.send(opaque).unwrap();
            true
        });
    });
    oneway(b"x").unwrap();
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(ONEWAY_OPAQUE));
    connection.wait_until_written(Instant::now() + PATIENCE);
    assert!(connection.is_idle());
    connection.close();
    connection.join();
    assert!(oneway(b"y").is_err());
    assert_eq!(noted.oneway_unwritten.load(Ordering::SeqCst), 0);
    server.join().unwrap();

    // A peer that reads nothing: the kernel takes some of it, the rest dies here.
    let (connection, _peer, noted) = connect(PATIENCE);
    let large = vec![0; 1024 * 1024];
    let mut accepted = 0;
    while connection
        .oneway(
            Request {
                code: RequestCode::SEND_MESSAGE_V2,
                write_fields: |_: &mut FieldWriter<'_>| {},
                body: &large,
            },
            Instant::now() + Duration::from_millis(100),
            Instant::now(),
        )
        .is_ok()
    {
        accepted += 1;
    }
    assert!(!connection.is_idle());
    connection.close();
    connection.join();
    let lost = noted.oneway_unwritten.load(Ordering::SeqCst);
    assert!((1..=accepted).contains(&lost), "{lost} of {accepted}");
}

#[test]
fn what_is_no_answer_of_ours_is_counted_and_what_is_no_frame_ends_it() {
    let (connection, mut peer, _) = connect(PATIENCE);
    answer(&peer, 4711).unwrap();
    wait_until(|| connection.counters().unmatched_replies.load(Ordering::SeqCst) == 1);
    let waiter = Arc::<Counting>::default();
    let manner = Manner::Blocking {
        until: Instant::now() + PATIENCE,
    };
    send(&connection, &waiter, None, manner, b"x").unwrap();
    peer.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
    wait_until(|| waiter.told() == 1);
    let failures = waiter.failures.lock();
    let text = failures[0].to_string();
    assert!(text.contains("HTTP"), "{text}");
    assert_eq!(failures[0].delivery(), crate::error::Delivery::Unknown);
    connection.join();
}

/// Sends a request of the broker's.
fn ask(mut peer: &TcpStream, code: RequestCode, opaque: i32, flag: i32, body: &[u8]) {
    let mut out = Vec::new();
    let envelope = Envelope {
        code: code.value(),
        opaque,
        flag,
        language: Language::JAVA,
        version: 353,
        remark: None,
        serialization: Serialization::Json,
    };
    encode_frame(&mut out, &envelope, |_| {}, body).unwrap();
    peer.write_all(&out).unwrap();
}

#[test]
fn requests_of_the_broker_are_answered_taken_over_or_declined() {
    let (connection, peer, noted) = connect(PATIENCE);
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&peer, RequestCode::CHECK_TRANSACTION_STATE, 1, 0, b"half");
    ask(
        &peer,
        RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT,
        2,
        FLAG_ONEWAY,
        b"",
    );
    ask(&peer, RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT, 3, 0, b"");
    ask(&peer, RequestCode::GET_CONSUMER_RUNNING_INFO, 4, 0, b"");
    let mut buffer = FrameBuffer::new();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let count = (&peer).read(buffer.space()).unwrap();
        assert_ne!(count, 0, "the connection ended after {answers:?}");
        buffer.filled(count);
        while let Some(frame) = buffer.next_frame().unwrap() {
            let header = frame.header().unwrap();
            assert!(header.is_response());
            let topic = header.field("topic").map(std::borrow::Cow::into_owned);
            let remark = header.remark.clone().map(std::borrow::Cow::into_owned);
            answers.push((header.opaque, header.code, topic, remark));
        }
    }
    let declined = " request type 307 not supported".to_owned();
    assert_eq!(
        answers,
        [
            (3, 0, Some("replies".to_owned()), None),
            (4, 3, None, Some(declined))
        ]
    );
    assert_eq!(*noted.taken_over.lock(), [b"half".to_vec()]);
    connection.close();
    connection.join();
}

#[test]
fn a_panic_of_whoever_serves_a_request_ends_that_connection_alone() {
    let (broken, peer, noted) = connect(PATIENCE);
    let (other, other_peer, other_noted) = connect(PATIENCE);
    let waiter = Arc::<Counting>::default();
    let manner = Manner::Blocking {
        until: Instant::now() + PATIENCE,
    };
    send(&broken, &waiter, None, manner, b"x").unwrap();
    ask(&peer, RequestCode::CONSUME_MESSAGE_DIRECTLY, 1, 0, b"");
    wait_until(|| waiter.told() == 1 && noted.ended.load(Ordering::SeqCst) == 1);
    assert!(waiter.failures.lock()[0].to_string().contains("panicked"));
    ask(
        &other_peer,
        RequestCode::CHECK_TRANSACTION_STATE,
        1,
        FLAG_ONEWAY,
        b"half",
    );
    wait_until(|| other_noted.taken_over.lock().len() == 1);
    assert!(other.is_live() && !broken.is_live());
    other.close();
    other.join();
    broken.join();
}
