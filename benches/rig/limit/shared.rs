//! Many threads on one connection: the limit of a client with one reader.
//!
//! A thread that finds nobody writing writes what all have left so far, so that frames share system calls. The reader
//! tells from the opaque whose answer it has, and wakes that thread in one of three ways.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    sync::{
        OnceLock,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    thread::{self, Thread},
};

use crossbeam_channel::{Receiver, Sender};
use memchr::memmem::Finder;
use parking_lot::{Condvar, Mutex};

use super::{Arguments, Failure, Frames, Meter, Window, connect, frame};

/// The opaque of the first thread; six digits for all.
const FIRST: usize = 100_000;

/// Where a thread waits for its answer.
trait Seat: Sync {
    /// Said by the thread, once, before the first answer.
    fn sit(&self);
    fn wait(&self);
    /// Said by the reader.
    fn wake(&self);
}

struct ByChannel(Sender<()>, Receiver<()>);

impl Seat for ByChannel {
    fn sit(&self) {}

    fn wait(&self) {
        // The sender is in this very seat, so it cannot be gone.
        self.1.recv().ok();
    }

    fn wake(&self) {
        self.0.send(()).ok();
    }
}

#[derive(Default)]
struct ByPark {
    thread: OnceLock<Thread>,
    is_there: AtomicBool,
}

impl Seat for ByPark {
    fn sit(&self) {
        self.thread.get_or_init(thread::current);
    }

    fn wait(&self) {
        while !self.is_there.swap(false, Acquire) {
            thread::park();
        }
    }

    fn wake(&self) {
        self.is_there.store(true, Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

#[derive(Default)]
struct ByCondvar {
    is_there: Mutex<bool>,
    changed: Condvar,
}

impl Seat for ByCondvar {
    fn sit(&self) {}

    fn wait(&self) {
        let mut is_there = self.is_there.lock();
        while !*is_there {
            self.changed.wait(&mut is_there);
        }
        *is_there = false;
    }

    fn wake(&self) {
        *self.is_there.lock() = true;
        self.changed.notify_one();
    }
}

/// Frames that wait for whoever writes.
struct Outgoing<'a> {
    stream: &'a TcpStream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    somebody_writes: bool,
}

impl Outgoing<'_> {
    fn write(&self, frame: &[u8]) -> std::io::Result<()> {
        let mut state = self.state.lock();
        state.waiting.extend_from_slice(frame);
        if state.somebody_writes {
            return Ok(());
        }
        state.somebody_writes = true;
        let mut mine = Vec::new();
        while !state.waiting.is_empty() {
            mine.clear();
            std::mem::swap(&mut mine, &mut state.waiting);
            drop(state);
            let mut stream = self.stream;
            stream.write_all(&mine)?;
            state = self.state.lock();
        }
        state.somebody_writes = false;
        // The allocation is worth keeping.
        state.waiting = mine;
        state.waiting.clear();
        Ok(())
    }
}

pub(super) fn run(arguments: &Arguments, broker: &str, meter: &Meter, wake: &str) -> Result<Window, Failure> {
    let stream = connect(broker)?;
    let threads = 0..arguments.threads;
    Ok(match wake {
        "channel" => {
            let seat = || {
                let (sender, receiver) = crossbeam_channel::bounded(1);
                ByChannel(sender, receiver)
            };
            measure(
                arguments,
                &stream,
                meter,
                &threads.map(|_| seat()).collect::<Vec<_>>(),
            )
        }
        "park" => measure(
            arguments,
            &stream,
            meter,
            &threads.map(|_| ByPark::default()).collect::<Vec<_>>(),
        ),
        "condvar" => measure(
            arguments,
            &stream,
            meter,
            &threads.map(|_| ByCondvar::default()).collect::<Vec<_>>(),
        ),
        other => return Err(format!("--wake does not take {other:?}").into()),
    })
}

fn measure(arguments: &Arguments, stream: &TcpStream, meter: &Meter, seats: &[impl Seat]) -> Window {
    let outgoing = Outgoing {
        stream,
        state: Mutex::default(),
    };
    thread::scope(|scope| {
        scope.spawn(|| read(stream, meter, seats));
        let senders: Vec<_> = seats
            .iter()
            .enumerate()
            .map(|(number, seat)| {
                let (request, outgoing) = (frame(arguments, FIRST + number), &outgoing);
                scope.spawn(move || send(&request, outgoing, meter, seat))
            })
            .collect();
        let window = meter.run(arguments);
        for sender in senders {
            if sender.join().is_err() {
                meter.failed(&"a sender panicked");
            }
        }
        // The sink closes then, and the reader ends.
        stream.shutdown(Shutdown::Write).ok();
        window
    })
}

fn send(request: &[u8], outgoing: &Outgoing<'_>, meter: &Meter, seat: &impl Seat) {
    let lane = meter.lane();
    seat.sit();
    let mut began = meter.now();
    while !meter.is_stopped() {
        if let Err(error) = outgoing.write(request) {
            return meter.failed(&error);
        }
        seat.wait();
        let ended = meter.now();
        meter.done(&lane, 1, began, ended);
        began = ended;
    }
}

fn read(stream: &TcpStream, meter: &Meter, seats: &[impl Seat]) {
    let (mut frames, opaque) = (Frames::new(), Finder::new("\"opaque\":"));
    loop {
        match frames.read(stream) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return meter.failed(&error),
        }
        while let Some(answer) = frames.next() {
            let seat = opaque.find(answer).and_then(|at| {
                let digits = answer.get(at + opaque.needle().len()..)?.first_chunk::<6>()?;
                let number: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
                seats.get(number.checked_sub(FIRST)?)
            });
            match seat {
                Some(seat) => seat.wake(),
                None => meter.failed(&"an answer to nobody"),
            }
        }
    }
}
