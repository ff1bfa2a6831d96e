//! Frames on their way into a socket: one bounded buffer per connection, and the rule who writes it.
//!
//! 1. The lock is never held across a system call. Frames are encoded under it, straight into the buffer.
//! 2. Whoever holds the *writer role* is the only one who writes, and takes everything that has gathered in one piece,
//!    so concurrent senders share a system call and frames never interleave.
//! 3. A sender that finds the role free writes from its own thread and gives the role back when its frame is out. What
//!    has gathered meanwhile, and what a peer that reads slowly left of its piece, goes to the connection's writer
//!    thread: no sender writes for another.
//! 4. Positions count bytes since the connection began. `written <= taken`: up to `written` the kernel has the bytes, up
//!    to `taken` a writer has them, behind it they are pending.
//! 5. A pending frame can be withdrawn. A frame in a writer's hands can not, and counts as possibly written until the
//!    writer is back; a writer that stalls puts back what it has not begun.
//! 6. What is withdrawn only leaves a hole, which is closed together with many others: a buffer full of frames whose time
//!    is over would else be moved once for each of them. There is never a hole without a frame to be written.

use std::{
    collections::VecDeque,
    io::{self, Write},
    time::{Duration, Instant},
};

use super::sync::{Condvar, Mutex, MutexGuard};
use crate::error::Written;

/// Bytes that may wait in one connection's buffer before senders that can wait have to. Two of the largest messages.
pub(crate) const OUTGOING_LIMIT: usize = 8 * 1024 * 1024;

/// The same for small frames: far more than one system call takes, so that more would only be memory.
pub(crate) const OUTGOING_LIMIT_OF_SMALL: usize = 1024 * 1024;

/// Up to this size a frame is small.
const SMALL_FRAME: usize = 64 * 1024;

/// How long one system call may wait for a peer that does not read. Short, since a sender may be in it.
pub(super) const WRITE_TICK: Duration = Duration::from_millis(20);

/// How long the end of a connection waits for a writer to come back from its last system call, which it does at once when
/// the socket is shut down.
const LONGEST_WAY_BACK: Duration = Duration::from_millis(50);

/// A connection whose peer has taken nothing for so long, although there was something to take, is given up.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(10);

/// A written-out buffer that is larger than this is not kept for the next frames.
const KEPT_BUFFER: usize = 256 * 1024;

/// A frame that is not fully written.
struct Frame {
    /// `None` for a frame that nobody waits for.
    opaque: Option<i32>,
    start: u64,
    end: u64,
    /// A hole in `pending`: nobody waits for it, and it will not be written.
    withdrawn: bool,
}

impl Frame {
    /// How much of it lies before a position.
    fn written(&self, position: u64) -> Written {
        if self.end <= position {
            Written::All
        } else if self.start < position {
            Written::Part
        } else {
            Written::Nothing
        }
    }
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; the combinations are used"
)]
struct State {
    /// Whole frames that no writer has taken.
    pending: Vec<u8>,
    /// Bytes of `pending` that are withdrawn.
    withdrawn: usize,
    /// A buffer to put in the place of `pending` when that is taken.
    spare: Vec<u8>,
    /// All frames that are not fully written, oldest first.
    frames: VecDeque<Frame>,
    written: u64,
    taken: u64,
    /// Whether someone has the writer role.
    writing: bool,
    /// What a sender could not write at once. The role goes to the writer thread with it.
    left_over: Option<Piece>,
    writer_is_parked: bool,
    /// The writer's last system call failed: it has the role for ever, and `written` is exact.
    writer_failed: bool,
    /// No progress since a whole tick.
    stalled: bool,
    /// When a byte was taken last, or when the oldest of these bytes came into an empty buffer.
    moved: Instant,
    /// Set when the connection has ended: up to there the frames may have been written.
    ended: Option<u64>,
}

/// Bytes in a writer's hands.
pub(super) struct Piece {
    bytes: Vec<u8>,
    at: usize,
}

impl Piece {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn is_written(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

/// How a frame wants to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// The caller waits for room until then, and writes itself if nobody else does.
    Blocking { until: Instant },
    /// The caller waits for room until then, and leaves the writing to the writer thread.
    Queued { until: Instant },
    /// The caller cannot wait for room: it may be one of the library's own threads. The bound is elsewhere, in permits.
    /// It writes itself only if it is `alone`, with nothing else on its way: then there is no company to wait for, and the
    /// kernel has room.
    Immediate { alone: bool },
}

/// What `append` asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The caller has the writer role and must call [`Outgoing::begin_write`] at once.
    Write,
    /// The writer thread has work: it must run.
    WriterThread,
    /// Someone else will write it.
    Nothing,
}

/// Why a frame was not taken in.
pub(super) enum Rejected<E> {
    /// The connection has ended.
    Ended,
    /// There was no room in time.
    NoRoom,
    /// The frame could not be encoded or registered.
    Frame(E),
}

/// What became of the frames that were not fully written when the connection ended.
pub(super) struct Remains {
    /// Frames that somebody waits for, with how much of each was written.
    pub(super) unfinished: Vec<(i32, Written)>,
    /// Frames that nobody waits for.
    pub(super) oneway: usize,
}

pub(super) struct Outgoing {
    state: Mutex<State>,
    /// Bytes were written, or the connection ended.
    progress: Condvar,
    /// The writer thread has work, or the connection ended.
    work: Condvar,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        let state = State {
            pending: Vec::new(),
            withdrawn: 0,
            spare: Vec::new(),
            frames: VecDeque::new(),
            written: 0,
            taken: 0,
            writing: false,
            left_over: None,
            writer_is_parked: false,
            writer_failed: false,
            stalled: false,
            moved: Instant::now(),
            ended: None,
        };
        Self {
            state: Mutex::new(state),
            progress: Condvar::new(),
            work: Condvar::new(),
        }
    }

    /// Takes in one frame, which `encode` appends to the buffer. It returns the opaque that the frame is known by, or
    /// `None` for a frame that nobody waits for. `size` is an estimate of the frame's bytes, `now` a moment ago.
    ///
    /// Registering the request inside `encode` makes one act of it: when the connection ends, whatever is registered
    /// has been taken in.
    pub(super) fn append<E>(
        &self,
        manner: Manner,
        size: usize,
        now: Instant,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<Option<i32>, E>,
    ) -> Result<Next, Rejected<E>> {
        let mut state = self.state.lock();
        if let Manner::Blocking { until } | Manner::Queued { until } = manner {
            self.wait_for_room(&mut state, size, until)?;
        }
        if state.ended.is_some() {
            return Err(Rejected::Ended);
        }
        let was_idle = state.frames.is_empty();
        let start = state.taken + length(state.pending.len());
        let opaque = encode(&mut state.pending).map_err(Rejected::Frame)?;
        let end = state.taken + length(state.pending.len());
        state.frames.push_back(Frame {
            opaque,
            start,
            end,
            withdrawn: false,
        });
        if was_idle {
            state.moved = now;
        }
        if state.writing {
            return Ok(Next::Nothing);
        }
        let writes_itself = match manner {
            Manner::Blocking { .. } => true,
            Manner::Immediate { alone } => alone && was_idle,
            Manner::Queued { .. } => false,
        };
        if writes_itself {
            state.writing = true;
            return Ok(Next::Write);
        }
        if state.writer_is_parked {
            self.work.notify_one();
            return Ok(Next::Nothing);
        }
        Ok(Next::WriterThread)
    }

    fn wait_for_room<E>(
        &self,
        state: &mut MutexGuard<'_, State>,
        size: usize,
        until: Instant,
    ) -> Result<(), Rejected<E>> {
        let limit = if size <= SMALL_FRAME {
            OUTGOING_LIMIT_OF_SMALL
        } else {
            OUTGOING_LIMIT
        };
        // A frame that is larger than the whole buffer is let in when the buffer is empty.
        while state.ended.is_none() && !state.frames.is_empty() && state.held() + size > limit {
            if self.progress.wait_until(state, until).timed_out() {
                return Err(Rejected::NoRoom);
            }
        }
        Ok(())
    }

    /// Takes everything that has gathered, for whoever was given the writer role. `None` if there is nothing to write any
    /// more.
    pub(super) fn begin_write(&self) -> Option<Piece> {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            state.writing = false;
            self.tell_the_end(&state);
            return None;
        }
        state.close_holes();
        if state.pending.is_empty() {
            // All of it has been withdrawn meanwhile.
            state.writing = false;
            return None;
        }
        Some(state.take())
    }

    /// Writes a piece from the caller's thread, for one tick at most if the peer does not read. `Ok(true)` if the
    /// writer thread is needed for what is left.
    pub(super) fn write(&self, mut stream: impl Write, mut piece: Piece) -> io::Result<bool> {
        loop {
            match stream.write(piece.rest()) {
                Ok(0) => return Err(self.fail(io::ErrorKind::WriteZero.into())),
                Ok(count) => piece.at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(self.fail(error)),
            }
            let mut state = self.state.lock();
            let done = piece.is_written();
            self.advance(&mut state, &piece);
            if done {
                state.release(piece);
            } else {
                // The peer reads slowly: the caller has its own time to keep.
                state.left_over = Some(piece);
            }
            self.tell_the_end(&state);
            let more = !done || !state.pending.is_empty();
            return Ok(more && self.call_writer(&state));
        }
    }

    /// The life of the writer thread: ends with the connection, or with the error that must end it.
    /// `gather` is called before it takes what is pending, and may let more come.
    pub(super) fn run_writer(&self, mut stream: impl Write, gather: impl Fn()) -> io::Result<()> {
        while let Some(mut piece) = self.next_piece(&gather) {
            while !piece.is_written() {
                match stream.write(piece.rest()) {
                    Ok(0) => return Err(self.fail(io::ErrorKind::WriteZero.into())),
                    Ok(count) => {
                        piece.at += count;
                        let mut state = self.state.lock();
                        state.stalled = false;
                        self.advance(&mut state, &piece);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if is_tick(&error) => {
                        self.stall(&mut piece).map_err(|error| self.fail(error))?;
                    }
                    Err(error) => return Err(self.fail(error)),
                }
            }
            let mut state = self.state.lock();
            state.release(piece);
            self.tell_the_end(&state);
        }
        Ok(())
    }

    /// The writer is back from its last system call.
    fn fail(&self, error: io::Error) -> io::Error {
        let mut state = self.state.lock();
        state.writer_failed = true;
        self.tell_the_end(&state);
        error
    }

    /// Whoever ends the connection may be waiting for the writer to come back.
    fn tell_the_end(&self, state: &State) {
        if state.ended.is_some() {
            self.progress.notify_all();
        }
    }

    fn next_piece(&self, gather: &impl Fn()) -> Option<Piece> {
        gather();
        let mut state = self.state.lock();
        loop {
            if state.ended.is_some() {
                return None;
            }
            if let Some(piece) = state.left_over.take() {
                return Some(piece);
            }
            if !state.writing && !state.pending.is_empty() {
                return Some(state.take());
            }
            state.writer_is_parked = true;
            self.work.wait(&mut state);
            state.writer_is_parked = false;
            MutexGuard::unlocked(&mut state, gather);
        }
    }

    /// The peer took nothing for a tick: what is not begun goes back, where its owner can withdraw it.
    fn stall(&self, piece: &mut Piece) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.ended.is_some() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let waited = state.moved.elapsed();
        if waited >= STALL_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the peer has read nothing for {waited:.1?} although there was something to read"),
            ));
        }
        state.stalled = true;
        state.put_back(piece);
        Ok(())
    }

    /// Takes a frame back whose owner's time is over. Says whether it may have been written, or be written yet.
    pub(super) fn withdraw(&self, opaque: i32) -> Written {
        let mut state = self.state.lock();
        let Some(index) = state.frames.iter().position(|frame| frame.opaque == Some(opaque)) else {
            return Written::All;
        };
        if let (Some(known), Some(frame)) = (state.ended, state.frames.get(index)) {
            return frame.written(known);
        }
        let withdrawn = state.withdraw(index);
        drop(state);
        if withdrawn {
            self.progress.notify_all();
            return Written::Nothing;
        }
        Written::All
    }

    /// Ends everything, once, after the socket has been shut down. `by_writer` says that the caller has the writer role.
    /// Else a system call may be under way: it comes back at once and says how much it has written. Should it not come back
    /// in time, all that it holds counts as written.
    pub(super) fn end(&self, by_writer: bool) -> Remains {
        let mut state = self.state.lock();
        // Refuses what comes from here on, and counts against whoever asks meanwhile.
        state.ended = Some(state.taken);
        let until = Instant::now() + LONGEST_WAY_BACK;
        while !by_writer && state.is_in_system_call() {
            if self.progress.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let known = if by_writer || !state.is_in_system_call() {
            state.written
        } else {
            state.taken
        };
        state.ended = Some(known);
        let mut remains = Remains {
            unfinished: Vec::new(),
            oneway: 0,
        };
        // They stay in the list, for those who give up at the same time and ask for theirs.
        for frame in state.frames.iter().filter(|frame| !frame.withdrawn) {
            let written = frame.written(known);
            match frame.opaque {
                Some(opaque) => remains.unfinished.push((opaque, written)),
                // Better one too many reported as lost than one too few.
                None => remains.oneway += usize::from(frame.end > state.written),
            }
        }
        state.pending = Vec::new();
        state.left_over = None;
        drop(state);
        self.progress.notify_all();
        self.work.notify_all();
        remains
    }

    /// Whether everything is written.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().frames.is_empty()
    }

    /// Whether the peer has taken nothing for a whole tick although there is something to take.
    pub(super) fn is_stalled(&self) -> bool {
        let state = self.state.lock();
        !state.frames.is_empty() && (state.stalled || state.left_over.is_some())
    }

    /// Bytes that are not written.
    pub(super) fn unwritten_bytes(&self) -> usize {
        self.state.lock().held()
    }

    /// Waits until everything that is here now is written, the connection has ended, or `until` is over. Gives back how many
    /// frames that nobody waits for are not written then.
    pub(super) fn wait_until_written(&self, until: Instant) -> usize {
        let mut state = self.state.lock();
        state.close_holes();
        let end = state.frames.back().map_or(0, |frame| frame.end);
        // What is withdrawn meanwhile moves the end of the rest, but never past this one.
        while state.ended.is_none() && state.written < end && !state.frames.is_empty() {
            if self.progress.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let ours = state.frames.iter().take_while(|frame| frame.start < end);
        ours.filter(|frame| frame.opaque.is_none() && !frame.withdrawn)
            .count()
    }

    /// Drops what is fully written and tells whoever waits for room.
    fn advance(&self, state: &mut State, piece: &Piece) {
        let written = state.taken - length(piece.rest().len());
        if written == state.written {
            return;
        }
        state.written = written;
        state.moved = Instant::now();
        let done = state.frames.partition_point(|frame| frame.end <= written);
        drop(state.frames.drain(..done));
        self.progress.notify_all();
    }

    /// Wakes the writer thread. True if it is not waiting, which may mean that it does not run yet.
    fn call_writer(&self, state: &State) -> bool {
        if state.writer_is_parked {
            self.work.notify_one();
        }
        !state.writer_is_parked
    }
}

impl State {
    /// Bytes that are not written.
    fn held(&self) -> usize {
        let end = self.frames.back().map_or(self.written, |frame| frame.end);
        let all = usize::try_from(end - self.written).unwrap_or(usize::MAX);
        all.saturating_sub(self.withdrawn)
    }

    /// Takes the writer role and what is pending: everything, or while the peer does not read only the first frame, so
    /// that the others stay withdrawable.
    fn take(&mut self) -> Piece {
        self.writing = true;
        self.close_holes();
        let mut bytes = std::mem::replace(&mut self.pending, std::mem::take(&mut self.spare));
        if self.stalled {
            let first_end = self.frames.front().map_or(self.taken, |frame| frame.end);
            let first = usize::try_from(first_end.saturating_sub(self.taken)).unwrap_or(usize::MAX);
            if first > 0 && first < bytes.len() {
                self.pending = bytes.split_off(first);
            }
        }
        self.taken += length(bytes.len());
        Piece { bytes, at: 0 }
    }

    /// Whether a writer holds bytes of which it is not known yet how many are written.
    fn is_in_system_call(&self) -> bool {
        self.writing && self.left_over.is_none() && !self.writer_failed
    }

    /// Gives the writer role back.
    fn release(&mut self, piece: Piece) {
        self.writing = false;
        let mut bytes = piece.bytes;
        if bytes.capacity() <= KEPT_BUFFER {
            bytes.clear();
            self.spare = bytes;
        }
    }

    /// Moves the frames that are not begun from the end of `piece` to the front of `pending`.
    fn put_back(&mut self, piece: &mut Piece) {
        let Some(first) = self.frames.front() else { return };
        let kept_end = if first.start < self.written {
            first.end
        } else {
            first.start
        };
        let surplus = usize::try_from(self.taken.saturating_sub(kept_end)).unwrap_or(usize::MAX);
        let keep = piece.bytes.len().saturating_sub(surplus);
        let mut back = piece.bytes.split_off(keep.max(piece.at));
        self.taken -= length(back.len());
        back.append(&mut self.pending);
        self.pending = back;
    }

    /// Takes a frame out of `pending`. False if a writer has it.
    fn withdraw(&mut self, index: usize) -> bool {
        let taken = self.taken;
        let Some(frame) = self.frames.get_mut(index).filter(|frame| frame.start >= taken) else {
            return false;
        };
        frame.opaque = None;
        frame.withdrawn = true;
        self.withdrawn += usize::try_from(frame.end - frame.start).unwrap_or(usize::MAX);
        // What is moved then is no more than what was withdrawn before, however many frames that were.
        if self.withdrawn >= self.pending.len() / 2 {
            self.close_holes();
        }
        true
    }

    /// Moves what is pending together.
    fn close_holes(&mut self) {
        if self.withdrawn == 0 {
            return;
        }
        let (taken, pending) = (self.taken, &mut self.pending);
        let mut kept = 0;
        self.frames.retain_mut(|frame| {
            if frame.start < taken {
                return true;
            }
            let position =
                |at: u64| usize::try_from(at - taken).map_or(pending.len(), |at| at.min(pending.len()));
            let bytes = position(frame.start)..position(frame.end);
            if frame.withdrawn {
                return false;
            }
            frame.start = taken + length(kept);
            let end = kept + bytes.len();
            if bytes.start != kept {
                pending.copy_within(bytes, kept);
            }
            kept = end;
            frame.end = taken + length(kept);
            true
        });
        self.pending.truncate(kept);
        self.withdrawn = 0;
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The write timeout of the socket, which is set to [`WRITE_TICK`], has passed.
fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
