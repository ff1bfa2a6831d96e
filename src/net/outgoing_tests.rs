//! Tests of the outgoing buffer against peers that read as they are told: partly, not at all for a while, or never again.

use std::{
    sync::{Arc, Barrier},
    thread,
};

use super::*;
use crate::net::sync::{AtomicBool, AtomicUsize, Ordering, channel};

const SOON: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// What a peer does with one system call.
#[derive(Clone, Copy)]
enum Call {
    Take(usize),
    Tick,
    Fail,
}

fn answer(call: Call, offered: &[u8], taken: &Mutex<Vec<u8>>) -> io::Result<usize> {
    match call {
        Call::Take(most) => {
            let count = most.min(offered.len());
            taken.lock().extend_from_slice(&offered[..count]);
            Ok(count)
        }
        Call::Tick => Err(io::ErrorKind::WouldBlock.into()),
        Call::Fail => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// A peer that does what a list says, and then takes everything.
#[derive(Default)]
struct Listed {
    calls: Mutex<VecDeque<Call>>,
    taken: Mutex<Vec<u8>>,
}

impl Listed {
    fn new(calls: &[Call]) -> Self {
        Self {
            calls: Mutex::new(calls.iter().copied().collect()),
            taken: Mutex::default(),
        }
    }

    fn taken(&self) -> Vec<u8> {
        self.taken.lock().clone()
    }
}

impl Write for &Listed {
    fn write(&mut self, offered: &[u8]) -> io::Result<usize> {
        let call = self.calls.lock().pop_front();
        answer(call.unwrap_or(Call::Take(usize::MAX)), offered, &self.taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A peer whose system calls begin and end when the test says so.
struct Stepped {
    offered: channel::Sender<usize>,
    calls: channel::Receiver<Call>,
    taken: Arc<Mutex<Vec<u8>>>,
}

/// The test's side of it.
struct Stepper {
    offered: channel::Receiver<usize>,
    calls: channel::Sender<Call>,
    taken: Arc<Mutex<Vec<u8>>>,
}

fn stepped() -> (Stepped, Stepper) {
    let ((offered_in, offered), (calls, calls_out)) = (channel::unbounded(), channel::unbounded());
    let taken = Arc::<Mutex<Vec<u8>>>::default();
    let peer = Stepped {
        offered: offered_in,
        calls: calls_out,
        taken: Arc::clone(&taken),
    };
    (
        peer,
        Stepper {
            offered,
            calls,
            taken,
        },
    )
}

impl Write for &Stepped {
    fn write(&mut self, offered: &[u8]) -> io::Result<usize> {
        self.offered.send(offered.len()).ok();
        // When the test is over, so is the connection.
        let call = self.calls.recv().unwrap_or(Call::Fail);
        answer(call, offered, &self.taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stepper {
    /// Waits until a system call is under way, and says how many bytes it has.
    fn begun(&self) -> usize {
        self.offered.recv_timeout(PATIENCE).expect("nobody writes")
    }

    fn end_with(&self, call: Call) {
        self.calls.send(call).unwrap();
    }
}

/// Ten bytes with the number of the frame.
fn frame(number: u8) -> [u8; 10] {
    [number; 10]
}

fn frames(numbers: &[u8]) -> Vec<u8> {
    numbers.iter().flat_map(|number| frame(*number)).collect()
}

fn append(outgoing: &Outgoing, manner: Manner, opaque: Option<i32>, bytes: &[u8]) -> Next {
    let appended = outgoing.append::<()>(manner, bytes.len(), Instant::now(), |out| {
        out.extend_from_slice(bytes);
        Ok(opaque)
    });
    appended.unwrap_or_else(|_| panic!("not taken in"))
}

const LATER: Manner = Manner::Immediate { alone: false };

/// Puts frames into the buffer that nobody writes yet. Their opaques are their numbers.
fn pending(numbers: &[u8]) -> Outgoing {
    let outgoing = Outgoing::new();
    for number in numbers {
        append(&outgoing, LATER, Some(i32::from(*number)), &frame(*number));
    }
    outgoing
}

/// The piece of a blocked sender that finds the role free, after what is pending.
fn taken_by_sender(outgoing: &Outgoing, number: u8) -> Piece {
    let until = Instant::now() + PATIENCE;
    match append(
        outgoing,
        Manner::Blocking { until },
        Some(i32::from(number)),
        &frame(number),
    ) {
        Next::Write => outgoing.begin_write().unwrap(),
        Next::WriterThread | Next::Nothing => panic!("the role is taken"),
    }
}

fn unfinished(remains: &Remains) -> Vec<(i32, Written)> {
    remains.unfinished.clone()
}

fn wait_until(condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it never happens");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_lone_sender_writes_from_its_own_thread() {
    let outgoing = Outgoing::new();
    let piece = taken_by_sender(&outgoing, 1);
    let peer = Listed::default();
    assert!(!outgoing.write(&peer, piece).unwrap(), "nothing is left");
    assert_eq!(peer.taken(), frame(1));
    assert!(outgoing.is_empty());
    assert_eq!(outgoing.withdraw(1), Written::All);
}

#[test]
fn who_writes_is_told_by_the_manner() {
    let until = Instant::now() + PATIENCE;
    for (manner, first, second) in [
        (Manner::Blocking { until }, true, true),
        (Manner::Immediate { alone: true }, true, false),
        (Manner::Immediate { alone: false }, false, false),
        (Manner::Queued { until }, false, false),
    ] {
        let outgoing = Outgoing::new();
        let next = append(&outgoing, manner, Some(1), &frame(1));
        assert_eq!(matches!(next, Next::Write), first, "{manner:?}");
        assert_eq!(matches!(next, Next::WriterThread), !first, "{manner:?}");
        // With something before it.
        let outgoing = pending(&[9]);
        let next = append(&outgoing, manner, Some(1), &frame(1));
        assert_eq!(matches!(next, Next::Write), second, "{manner:?}");
    }
}

#[test]
fn a_writer_takes_all_that_has_gathered() {
    let outgoing = pending(&[1, 2]);
    let piece = taken_by_sender(&outgoing, 3);
    // While it is in the system call others leave theirs.
    assert!(matches!(
        append(&outgoing, LATER, Some(4), &frame(4)),
        Next::Nothing
    ));
    let peer = Listed::default();
    assert!(
        outgoing.write(&peer, piece).unwrap(),
        "what came meanwhile is the writer thread's"
    );
    assert_eq!(peer.taken(), frames(&[1, 2, 3]));
}

#[test]
fn a_pending_frame_is_withdrawn_from_the_middle() {
    for withdrawn in 1..=4 {
        let outgoing = pending(&[1, 2, 3, 4]);
        assert_eq!(outgoing.withdraw(i32::from(withdrawn)), Written::Nothing);
        assert_eq!(outgoing.withdraw(i32::from(withdrawn)), Written::All, "only once");
        let piece = taken_by_sender(&outgoing, 5);
        let peer = Listed::default();
        outgoing.write(&peer, piece).unwrap();
        let kept: Vec<u8> = (1..=5).filter(|number| *number != withdrawn).collect();
        assert_eq!(peer.taken(), frames(&kept));
        assert!(outgoing.is_empty());
    }
}

#[test]
fn a_frame_in_a_writers_hands_is_not_withdrawn() {
    let outgoing = pending(&[1]);
    let piece = taken_by_sender(&outgoing, 2);
    append(&outgoing, LATER, Some(3), &frame(3));
    assert_eq!(outgoing.withdraw(1), Written::All);
    assert_eq!(outgoing.withdraw(2), Written::All);
    assert_eq!(outgoing.withdraw(3), Written::Nothing);
    let peer = Listed::default();
    assert!(!outgoing.write(&peer, piece).unwrap());
    assert_eq!(peer.taken(), frames(&[1, 2]));
}

#[test]
fn a_sender_leaves_what_the_peer_does_not_take_to_the_writer_thread() {
    for calls in [&[Call::Take(13)][..], &[Call::Tick], &[Call::Take(10)]] {
        let outgoing = pending(&[1]);
        let piece = taken_by_sender(&outgoing, 2);
        let peer = Listed::new(calls);
        assert!(
            outgoing.write(&peer, piece).unwrap(),
            "the writer thread is needed"
        );
        thread::scope(|scope| {
            let writer = scope.spawn(|| outgoing.run_writer(&peer, || {}));
            outgoing.wait_until_written(Instant::now() + PATIENCE);
            assert_eq!(peer.taken(), frames(&[1, 2]));
            // A parked writer thread is woken, not asked for.
            wait_until(|| outgoing.state.lock().writer_is_parked);
            peer.calls.lock().push_back(Call::Take(3));
            let piece = taken_by_sender(&outgoing, 3);
            assert!(!outgoing.write(&peer, piece).unwrap());
            outgoing.wait_until_written(Instant::now() + PATIENCE);
            assert_eq!(peer.taken(), frames(&[1, 2, 3]));
            outgoing.end(false);
            writer.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_writer_that_stalls_puts_back_what_it_has_not_begun() {
    let outgoing = pending(&[1, 2, 3, 4]);
    let (peer, stepper) = stepped();
    thread::scope(|scope| {
        // A failure drops it, which ends the writer.
        let stepper = stepper;
        scope.spawn(|| outgoing.run_writer(&peer, || {}));
        assert_eq!(stepper.begun(), 40);
        assert_eq!(outgoing.withdraw(4), Written::All, "in the writer's hands");
        stepper.end_with(Call::Take(13));
        assert_eq!(stepper.begun(), 27);
        stepper.end_with(Call::Tick);
        // Only what was begun is offered again.
        assert_eq!(stepper.begun(), 7);
        assert!(outgoing.is_stalled());
        assert_eq!(outgoing.withdraw(2), Written::All, "begun");
        assert_eq!(outgoing.withdraw(3), Written::Nothing);
        append(&outgoing, LATER, Some(5), &frame(5));
        stepper.end_with(Call::Take(7));
        // The peer reads again, so all is offered again; then it stops once more.
        assert_eq!(stepper.begun(), 20);
        assert_eq!(outgoing.withdraw(5), Written::All, "in the writer's hands");
        stepper.end_with(Call::Tick);
        assert_eq!(stepper.begun(), 10);
        assert_eq!(outgoing.withdraw(4), Written::All);
        assert_eq!(outgoing.withdraw(5), Written::Nothing);
        stepper.end_with(Call::Tick);
        assert_eq!(stepper.begun(), 10);
        stepper.end_with(Call::Take(10));
        outgoing.wait_until_written(Instant::now() + PATIENCE);
        assert!(!outgoing.is_stalled());
        assert_eq!(*stepper.taken.lock(), frames(&[1, 2, 4]));
        outgoing.end(false);
    });
}

#[test]
fn an_unbegun_frame_can_be_withdrawn_between_two_ticks() {
    let outgoing = pending(&[1, 2]);
    let (peer, stepper) = stepped();
    thread::scope(|scope| {
        // A failure drops it, which ends the writer.
        let stepper = stepper;
        scope.spawn(|| outgoing.run_writer(&peer, || {}));
        assert_eq!(stepper.begun(), 20);
        stepper.end_with(Call::Tick);
        assert_eq!(stepper.begun(), 10, "the first frame alone");
        assert_eq!(outgoing.withdraw(2), Written::Nothing);
        // A sender that comes during the stall waits for its turn like the others.
        assert!(matches!(
            append(
                &outgoing,
                Manner::Blocking {
                    until: Instant::now() + PATIENCE
                },
                Some(3),
                &frame(3)
            ),
            Next::Nothing
        ));
        stepper.end_with(Call::Tick);
        assert_eq!(stepper.begun(), 10);
        stepper.end_with(Call::Take(10));
        assert_eq!(stepper.begun(), 10);
        stepper.end_with(Call::Take(10));
        outgoing.wait_until_written(Instant::now() + PATIENCE);
        assert_eq!(*stepper.taken.lock(), frames(&[1, 3]));
        outgoing.end(false);
    });
}

#[test]
fn a_peer_that_takes_nothing_for_too_long_is_given_up() {
    let outgoing = pending(&[1, 2]);
    let long_ago = Instant::now().checked_sub(STALL_LIMIT).unwrap();
    outgoing.state.lock().moved = long_ago;
    let error = outgoing
        .run_writer(&Listed::new(&[Call::Tick]), || {})
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(
        unfinished(&outgoing.end(true)),
        [(1, Written::Nothing), (2, Written::Nothing)]
    );
    // The clock starts anew with every byte, and when something comes into an empty buffer.
    let outgoing = pending(&[1, 2]);
    outgoing.state.lock().moved = long_ago;
    let error = outgoing
        .run_writer(&Listed::new(&[Call::Take(1), Call::Tick, Call::Fail]), || {})
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let outgoing = Outgoing::new();
    outgoing.state.lock().moved = long_ago;
    append(&outgoing, LATER, Some(1), &frame(1));
    let error = outgoing
        .run_writer(&Listed::new(&[Call::Tick, Call::Fail]), || {})
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn at_the_end_each_frame_is_judged_by_its_position() {
    use Written::{All, Nothing, Part};

    // Nobody was writing.
    let remains = pending(&[1, 2]).end(false);
    assert_eq!(unfinished(&remains), [(1, Nothing), (2, Nothing)]);

    // A sender is in the system call: what it has may be written, what is behind it is not.
    let in_a_call = || {
        let outgoing = pending(&[1]);
        let piece = taken_by_sender(&outgoing, 2);
        append(&outgoing, LATER, Some(3), &frame(3));
        (outgoing, piece)
    };
    let (outgoing, _piece) = in_a_call();
    assert_eq!(
        unfinished(&outgoing.end(false)),
        [(1, All), (2, All), (3, Nothing)]
    );

    // Its call failed: nothing of it was taken.
    let (outgoing, piece) = in_a_call();
    outgoing.write(&Listed::new(&[Call::Fail]), piece).unwrap_err();
    assert_eq!(
        unfinished(&outgoing.end(true)),
        [(1, Nothing), (2, Nothing), (3, Nothing)]
    );

    // It has left a rest, which nobody has taken up.
    let (outgoing, piece) = in_a_call();
    outgoing.write(&Listed::new(&[Call::Take(13)]), piece).unwrap();
    assert_eq!(unfinished(&outgoing.end(false)), [(2, Part), (3, Nothing)]);

    // The writer thread failed in the middle.
    for (taken, expected) in [
        (5, &[(1, Part), (2, Nothing), (3, Nothing)][..]),
        (10, &[(2, Nothing), (3, Nothing)]),
        (29, &[(3, Part)]),
        (30, &[]),
    ] {
        let outgoing = pending(&[1, 2, 3]);
        let peer = Listed::new(&[Call::Take(taken), Call::Fail]);
        append(&outgoing, LATER, None, &[7]);
        outgoing.run_writer(&peer, || {}).unwrap_err();
        let remains = outgoing.end(true);
        assert_eq!(unfinished(&remains), expected, "{taken} bytes");
        assert_eq!(remains.oneway, 1);
    }
}

#[test]
fn the_end_while_the_writer_thread_is_in_a_call_leaves_no_wrong_certainty() {
    let outgoing = pending(&[1, 2, 3]);
    let (peer, stepper) = stepped();
    thread::scope(|scope| {
        // A failure drops it, which ends the writer.
        let stepper = stepper;
        let writer = scope.spawn(|| outgoing.run_writer(&peer, || {}));
        assert_eq!(stepper.begun(), 30);
        stepper.end_with(Call::Take(13));
        assert_eq!(stepper.begun(), 17);
        append(&outgoing, LATER, Some(4), &frame(4));
        assert_eq!(
            unfinished(&outgoing.end(false)),
            [(2, Written::All), (3, Written::All), (4, Written::Nothing)]
        );
        // Who gives up at the same time hears the same.
        assert_eq!(outgoing.withdraw(1), Written::All);
        assert_eq!(outgoing.withdraw(3), Written::All);
        assert_eq!(outgoing.withdraw(4), Written::Nothing);
        // What the call still takes does no harm.
        stepper.end_with(Call::Take(17));
        writer.join().unwrap().unwrap();
    });
    assert!(matches!(
        outgoing.append::<()>(LATER, 0, Instant::now(), |_| Ok(None)),
        Err(Rejected::Ended)
    ));
}

#[test]
fn one_way_frames_are_counted_unless_they_are_written() {
    let outgoing = Outgoing::new();
    for _ in 0..3 {
        append(&outgoing, LATER, None, &frame(0));
    }
    append(&outgoing, LATER, Some(1), &frame(1));
    outgoing
        .run_writer(&Listed::new(&[Call::Take(13), Call::Fail]), || {})
        .unwrap_err();
    let remains = outgoing.end(true);
    assert_eq!(remains.oneway, 2, "one is written, one partly, one not");
    assert_eq!(unfinished(&remains), [(1, Written::Nothing)]);
}

#[test]
fn a_frame_that_cannot_be_made_leaves_no_trace() {
    let outgoing = pending(&[1]);
    let refused = outgoing.append(LATER, 10, Instant::now(), |_| Err("too large"));
    assert!(matches!(refused, Err(Rejected::Frame("too large"))));
    let piece = taken_by_sender(&outgoing, 2);
    let peer = Listed::default();
    outgoing.write(&peer, piece).unwrap();
    assert_eq!(peer.taken(), frames(&[1, 2]));
}

#[test]
fn room_is_waited_for_until_the_deadline() {
    let outgoing = Outgoing::new();
    // The first is larger than the whole buffer and still let in, since that is empty.
    let until = Instant::now() + SOON;
    append(
        &outgoing,
        Manner::Queued { until },
        Some(1),
        &vec![1; OUTGOING_LIMIT + 1],
    );
    for manner in [
        Manner::Blocking {
            until: Instant::now() + SOON,
        },
        Manner::Queued {
            until: Instant::now(),
        },
    ] {
        let refused = outgoing.append::<()>(manner, 10, Instant::now(), |_| panic!("encoded without room"));
        assert!(matches!(refused, Err(Rejected::NoRoom)));
    }
    assert!(until <= Instant::now());
    // The library's own threads never wait.
    append(&outgoing, LATER, Some(2), &frame(2));
    let peer = Listed::default();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let until = Instant::now() + PATIENCE;
            append(&outgoing, Manner::Queued { until }, Some(3), &frame(3));
        });
        scope.spawn(|| outgoing.run_writer(&peer, || {}));
        waiting.join().unwrap();
        outgoing.wait_until_written(Instant::now() + PATIENCE);
        outgoing.end(false);
    });
    assert_eq!(peer.taken().len(), OUTGOING_LIMIT + 1 + 20);
}

#[test]
fn withdrawing_makes_room() {
    let outgoing = Outgoing::new();
    append(&outgoing, LATER, Some(1), &vec![1; OUTGOING_LIMIT]);
    append(&outgoing, LATER, Some(2), &frame(2));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let until = Instant::now() + PATIENCE;
            append(&outgoing, Manner::Queued { until }, Some(3), &frame(3));
        });
        thread::sleep(SOON);
        assert_eq!(outgoing.withdraw(1), Written::Nothing);
        waiting.join().unwrap();
    });
}

#[test]
fn the_end_wakes_whoever_waits() {
    let outgoing = Outgoing::new();
    append(&outgoing, LATER, Some(1), &vec![1; OUTGOING_LIMIT]);
    thread::scope(|scope| {
        let for_room = scope.spawn(|| {
            let until = Instant::now() + PATIENCE;
            matches!(
                outgoing.append::<()>(Manner::Blocking { until }, 10, Instant::now(), |_| Ok(None)),
                Err(Rejected::Ended)
            )
        });
        let for_all = scope.spawn(|| {
            let began = Instant::now();
            outgoing.wait_until_written(began + PATIENCE);
            began.elapsed() < PATIENCE
        });
        thread::sleep(SOON);
        outgoing.end(false);
        assert!(for_room.join().unwrap());
        assert!(for_all.join().unwrap());
    });
    let idle = Outgoing::new();
    thread::scope(|scope| {
        let writer = scope.spawn(|| idle.run_writer(&Listed::default(), || {}));
        wait_until(|| idle.state.lock().writer_is_parked);
        idle.end(false);
        writer.join().unwrap().unwrap();
    });
}

/// A peer that takes bytes in pieces of all sizes, sometimes nothing, and sees that nobody else is writing to it.
#[derive(Default)]
struct Moody {
    random: Mutex<u64>,
    busy: AtomicBool,
    taken: Mutex<Vec<u8>>,
}

impl Write for &Moody {
    fn write(&mut self, offered: &[u8]) -> io::Result<usize> {
        assert!(
            !self.busy.swap(true, Ordering::SeqCst),
            "two write at the same time"
        );
        let mood = next_random(&mut self.random.lock());
        let call = match mood % 5 {
            0 => Call::Tick,
            1 => Call::Take(1 + usize::try_from(mood % 7).unwrap()),
            2 => Call::Take(1 + usize::try_from(mood % 300).unwrap()),
            _ => Call::Take(usize::MAX),
        };
        if mood % 3 == 0 {
            thread::yield_now();
        }
        let result = answer(call, offered, &self.taken);
        self.busy.store(false, Ordering::SeqCst);
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 27)
}

/// Senders of every manner, some of which withdraw, against a moody peer. What arrives is whole frames, each once, those
/// of one sender in order, and none that was withdrawn.
#[test]
fn frames_never_interleave() {
    const SENDERS: u8 = 6;
    const FRAMES: u16 = 300;
    for round in 0..10 {
        let outgoing = Outgoing::new();
        let peer = Moody::default();
        *peer.random.lock() = round;
        let writer_runs = AtomicBool::new(false);
        let withdrawn = Mutex::new(Vec::new());
        let left = AtomicUsize::new(usize::from(SENDERS));
        let start = Barrier::new(usize::from(SENDERS));
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                let (outgoing, peer, writer_runs) = (&outgoing, &peer, &writer_runs);
                let (withdrawn, left, start) = (&withdrawn, &left, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut random = round * 1000 + u64::from(sender);
                    for number in 0..FRAMES {
                        let mood = next_random(&mut random);
                        let until = Instant::now() + PATIENCE;
                        let manner = match sender % 3 {
                            0 => Manner::Blocking { until },
                            1 => Manner::Queued { until },
                            _ => Manner::Immediate { alone: mood % 2 == 0 },
                        };
                        let opaque = i32::from(sender) * 1000 + i32::from(number) + 1;
                        let bytes = numbered(sender, number, usize::try_from(mood % 90).unwrap());
                        let needed = match append(outgoing, manner, Some(opaque), &bytes) {
                            Next::Nothing => false,
                            Next::WriterThread => true,
                            Next::Write => {
                                let piece = outgoing.begin_write().unwrap();
                                outgoing.write(peer, piece).unwrap()
                            }
                        };
                        if needed && !writer_runs.swap(true, Ordering::SeqCst) {
                            scope.spawn(move || outgoing.run_writer(peer, || {}).unwrap());
                        }
                        if mood % 4 == 0 && outgoing.withdraw(opaque) == Written::Nothing {
                            withdrawn.lock().push((sender, number));
                        }
                    }
                    if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                        outgoing.wait_until_written(until_later());
                        assert!(outgoing.is_empty(), "somebody forgot to write");
                        outgoing.end(false);
                    }
                });
            }
        });
        let arrived = parse(&peer.taken.lock());
        for sender in 0..SENDERS {
            let withdrawn = withdrawn.lock();
            let of_sender = arrived.iter().filter(|(from, _)| *from == sender);
            let expected = (0..FRAMES).map(|number| (sender, number));
            let expected = expected.filter(|frame| !withdrawn.contains(frame));
            assert!(of_sender.copied().eq(expected), "round {round}, sender {sender}");
        }
    }
}

fn until_later() -> Instant {
    Instant::now() + PATIENCE
}

/// A frame that says how long it is and whose.
fn numbered(sender: u8, number: u16, padding: usize) -> Vec<u8> {
    let length = u8::try_from(padding + 4).unwrap();
    let [high, low] = number.to_be_bytes();
    let mut bytes = vec![length, sender, high, low];
    bytes.resize(padding + 4, sender);
    bytes
}

fn parse(mut bytes: &[u8]) -> Vec<(u8, u16)> {
    let mut frames = Vec::new();
    while let [length, sender, high, low, ..] = *bytes {
        let (frame, rest) = bytes.split_at(usize::from(length));
        assert!(frame[4..].iter().all(|byte| *byte == sender), "frames are mixed");
        frames.push((sender, u16::from_be_bytes([high, low])));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a frame is cut short");
    frames
}
