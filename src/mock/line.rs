//! One connection as its threads share it: who may write, what is to be written or carried out later, and how it ends.
//! What is written is decided elsewhere.
//!
//! Rules:
//! 1. One thread writes at a time: the serving thread, or, for good once anything was queued, the late thread.
//! 2. Nothing here waits but on `changed` or on the socket. [`Line::cut`] ends both kinds of waiting at once.
//! 3. The lock is never held during a system call.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::wire::frame::Serialization;

use super::action::{End, MockAction};
use super::rules::Holding;

/// A connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: u64,
    /// The client's end.
    pub(super) client: SocketAddr,
    stream: TcpStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; the combinations are used"
)]
struct State {
    fate: Fate,
    is_paused: bool,
    is_going_away: bool,
    /// The serving thread has ended: nobody reads answers.
    has_left: bool,
    writer: Writer,
    has_late_thread: bool,
    next: u64,
    jobs: BTreeMap<(Instant, u64), Work>,
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// Nothing is read or answered any more, but it stays open.
    Mute,
    /// Our end is closed; what the client still sends is read and thrown away.
    Closed,
    /// All is over, at once.
    Cut,
    /// The same, and the client is to see a reset.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Nobody,
    Serving,
    Late,
}

/// Something to be done on a connection later.
#[derive(Debug)]
pub(super) enum Work {
    Write(Outgoing),
    CarryOut(Box<Postponed>),
}

/// Bytes, how they go out, and what comes after them.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    /// So many bytes at a time, with such a pause behind them.
    pub(super) drip: Option<(usize, Duration)>,
    pub(super) end: End,
}

/// A request that has not been acted on yet.
#[derive(Debug)]
pub(super) struct Postponed {
    pub(super) serialization: Serialization,
    pub(super) header: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) action: MockAction,
    pub(super) holding: Option<Arc<Holding>>,
}

impl Line {
    pub(super) fn new(id: u64, client: SocketAddr, stream: TcpStream, is_paused: bool) -> Line {
        Line {
            id,
            client,
            stream,
            state: Mutex::new(State {
                fate: Fate::Open,
                is_paused,
                is_going_away: false,
                has_left: false,
                writer: Writer::Nobody,
                has_late_thread: false,
                next: 0,
                jobs: BTreeMap::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Reads what has come, waiting for it.
    pub(super) fn read(&self, space: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(space)
    }

    /// Answers go out whole, so there is nothing to wait for. A socket that refuses this works all the same.
    pub(super) fn set_no_delay(&self) {
        drop(self.stream.set_nodelay(true));
    }

    /// Writes on the serving thread, or leaves it to the late thread if there is one. False: the client has gone.
    pub(super) fn write(&self, bytes: &[u8]) -> bool {
        let mut state = self.wait_to_go_on();
        if state.fate != Fate::Open {
            return true;
        }
        if state.writer == Writer::Late {
            let outgoing = Outgoing {
                bytes: bytes.to_vec(),
                ..Outgoing::default()
            };
            state.push(Instant::now(), Work::Write(outgoing));
            drop(state);
            self.changed.notify_all();
            return true;
        }
        state.writer = Writer::Serving;
        drop(state);
        let is_written = (&self.stream).write_all(bytes).is_ok();
        let mut state = self.state.lock();
        let has_late_thread = state.has_late_thread;
        state.writer = if has_late_thread {
            Writer::Late
        } else {
            Writer::Nobody
        };
        drop(state);
        if has_late_thread {
            self.changed.notify_all();
        }
        is_written
    }

    /// Queues work for the late thread. True: it must be started now.
    #[must_use = "somebody has to do the work"]
    pub(super) fn push(&self, due: Instant, work: Work) -> bool {
        let mut state = self.state.lock();
        if matches!(state.fate, Fate::Cut | Fate::Reset) {
            return false;
        }
        state.push(due, work);
        if state.writer == Writer::Nobody {
            state.writer = Writer::Late;
        }
        let must_start = !state.has_late_thread;
        state.has_late_thread = true;
        drop(state);
        self.changed.notify_all();
        must_start
    }

    /// The next work that is due, waiting for it. `None`: there will be none.
    pub(super) fn next_work(&self) -> Option<Work> {
        let mut state = self.state.lock();
        loop {
            if matches!(state.fate, Fate::Cut | Fate::Reset) {
                return None;
            }
            let first = state.jobs.first_key_value().map(|(key, _)| key.0);
            if state.is_paused || state.writer == Writer::Serving {
                self.changed.wait(&mut state);
                continue;
            }
            match first {
                Some(due) if due <= Instant::now() => return state.jobs.pop_first().map(|(_, work)| work),
                Some(due) => {
                    // The loop looks at the clock again.
                    let _timed_out = self.changed.wait_until(&mut state, due);
                }
                None if state.has_left => return None,
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Writes on the late thread, in drops if so wished, and ends the connection if that is to come behind.
    pub(super) fn write_late(&self, outgoing: &Outgoing) {
        if self.state.lock().fate == Fate::Open {
            let (size, pause) = outgoing.drip.unwrap_or((usize::MAX, Duration::ZERO));
            for chunk in outgoing.bytes.chunks(size.max(1)) {
                if (&self.stream).write_all(chunk).is_err() {
                    break;
                }
                if !pause.is_zero() && !self.wait(pause) {
                    break;
                }
            }
        }
        self.end(outgoing.end);
    }

    fn end(&self, end: End) {
        let mut state = self.state.lock();
        if !matches!(state.fate, Fate::Open | Fate::Mute) {
            return;
        }
        state.fate = match end {
            End::Stay => return,
            End::Mute => Fate::Mute,
            End::Close => Fate::Closed,
            End::Reset => Fate::Reset,
        };
        drop(state);
        // Whoever fails here finds that the client was quicker.
        match end {
            End::Stay | End::Mute => {}
            End::Close => drop(self.stream.shutdown(Shutdown::Write)),
            End::Reset => {
                drop(socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
                // Ends the read on the serving thread without a word to the client. The last owner closes.
                drop(self.stream.shutdown(Shutdown::Read));
            }
        }
        self.changed.notify_all();
    }

    /// Ends everything at once, as when the process dies.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock();
        let was_reset = state.fate == Fate::Reset;
        if !was_reset {
            state.fate = Fate::Cut;
        }
        let forgotten = std::mem::take(&mut state.jobs);
        drop(state);
        drop(forgotten);
        if !was_reset {
            // The client may have closed it first.
            drop(self.stream.shutdown(Shutdown::Both));
        }
        self.changed.notify_all();
    }

    /// The serving thread has ended. Answers are forgotten; requests that wait are still carried out.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.has_left = true;
        state.jobs.retain(|_, work| matches!(work, Work::CarryOut(_)));
        let must_shut = state.fate != Fate::Reset;
        if state.fate == Fate::Open {
            state.fate = Fate::Closed;
        }
        drop(state);
        if must_shut {
            drop(self.stream.shutdown(Shutdown::Both));
        }
        self.changed.notify_all();
    }

    /// Stops or continues everything on this connection.
    pub(super) fn pause(&self, is_paused: bool) {
        self.state.lock().is_paused = is_paused;
        self.changed.notify_all();
    }

    /// From now on everything but heartbeats is sent away.
    pub(super) fn go_away(&self) {
        self.state.lock().is_going_away = true;
    }

    pub(super) fn is_going_away(&self) -> bool {
        self.state.lock().is_going_away
    }

    /// Whether a client could still get an answer, or at least believes so.
    pub(super) fn is_listed(&self) -> bool {
        matches!(self.state.lock().fate, Fate::Open | Fate::Mute)
    }

    /// Waits while the server is paused; then says whether requests are still to be acted on.
    pub(super) fn may_act(&self) -> bool {
        self.wait_to_go_on().fate == Fate::Open
    }

    /// Waits on behalf of a script. False: everything is over before.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let mut state = self.state.lock();
        loop {
            if matches!(state.fate, Fate::Cut | Fate::Reset) || state.has_left {
                return false;
            }
            match until {
                Some(until) if Instant::now() >= until && !state.is_paused => return true,
                Some(until) if !state.is_paused => {
                    // The loop looks at the clock again.
                    let _timed_out = self.changed.wait_until(&mut state, until);
                }
                _ => self.changed.wait(&mut state),
            }
        }
    }

    fn wait_to_go_on(&self) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while state.is_paused && !matches!(state.fate, Fate::Cut | Fate::Reset) {
            self.changed.wait(&mut state);
        }
        state
    }
}

impl State {
    fn push(&mut self, due: Instant, work: Work) {
        let key = (due, self.next);
        self.next += 1;
        self.jobs.insert(key, work);
    }
}
