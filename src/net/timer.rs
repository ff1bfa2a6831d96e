//! One thread that does everything that happens by the clock: alarms of requests, back-off, refresh, heartbeats.
//!
//! 1. It starts things and never waits for one: jobs must not block and run no user code.
//! 2. It sleeps until the next thing is due. [`Timer::wake_by`] costs one atomic load unless that is earlier.
//! 3. It outlives a panic of what it runs: nobody would be told of a missed alarm.
//! 4. Jobs that are still there when the timer stops are run at once, so that whatever waits for one can end.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::sync::{AtomicU64, Condvar, Mutex, Ordering};

/// The timer looks around at least so often, whatever it is told.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// After a panic it looks again so soon: what was not looked at may be due.
const AFTER_PANIC: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce() + Send>;

/// Names a job, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    at: Instant,
    number: u64,
}

struct State {
    jobs: BTreeMap<TimerKey, Job>,
    next_number: u64,
    /// The earliest moment that somebody asked for since the thread went to look.
    asked: Option<Instant>,
    stopped: bool,
    thread: Option<thread::JoinHandle<()>>,
}

pub(crate) struct Timer {
    epoch: Instant,
    state: Mutex<State>,
    changed: Condvar,
    /// Microseconds since `epoch` when the thread will look again; `u64::MAX` while it is looking.
    wakes_at: AtomicU64,
}

impl Timer {
    pub(crate) fn new() -> Self {
        let state = State {
            jobs: BTreeMap::new(),
            next_number: 0,
            asked: None,
            stopped: false,
            thread: None,
        };
        Self {
            epoch: Instant::now(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            wakes_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Starts the thread. Each time it wakes it calls `look`, which says when it must be called again.
    pub(crate) fn start(
        self: &Arc<Self>,
        look: impl Fn(Instant) -> Option<Instant> + Send + 'static,
    ) -> io::Result<()> {
        let timer = Arc::clone(self);
        let run = move || timer.run(&look);
        let handle = thread::Builder::new().name("rmq-timer".to_owned()).spawn(run)?;
        self.state.lock().thread = Some(handle);
        Ok(())
    }

    /// Runs `job` on the timer thread at or soon after `at`.
    pub(crate) fn at(&self, at: Instant, job: impl FnOnce() + Send + 'static) -> TimerKey {
        let mut state = self.state.lock();
        let key = TimerKey {
            at,
            number: state.next_number,
        };
        state.next_number += 1;
        if state.stopped {
            drop(state);
            job();
            return key;
        }
        state.jobs.insert(key, Box::new(job));
        drop(state);
        self.wake_by(at);
        key
    }

    /// Takes a job back. What it holds is dropped here.
    pub(crate) fn cancel(&self, key: TimerKey) {
        let job = self.state.lock().jobs.remove(&key);
        drop(job);
    }

    /// Makes sure that the thread looks at `at` or soon after.
    pub(crate) fn wake_by(&self, at: Instant) {
        if self.since_epoch(at) >= self.wakes_at.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state.lock();
        if state.asked.is_none_or(|asked| at < asked) {
            state.asked = Some(at);
            self.changed.notify_one();
        }
    }

    /// Runs the jobs that are left, ends the thread and waits for it, unless it is the caller.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let jobs = std::mem::take(&mut state.jobs);
        let handle = state.thread.take();
        drop(state);
        self.changed.notify_all();
        for job in jobs.into_values() {
            job();
        }
        if let Some(handle) = handle {
            if handle.thread().id() != thread::current().id() {
                drop(handle.join());
            }
        }
    }

    fn run(&self, look: &impl Fn(Instant) -> Option<Instant>) {
        loop {
            // From here on whoever wants to be looked at says so.
            self.wakes_at.store(u64::MAX, Ordering::SeqCst);
            for job in self.due() {
                caught(job);
            }
            let next_look = match caught(|| look(Instant::now())) {
                Some(next_look) => next_look,
                None => Some(Instant::now() + AFTER_PANIC),
            };
            if !self.sleep_until(next_look) {
                return;
            }
        }
    }

    fn due(&self) -> Vec<Job> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut due = Vec::new();
        while let Some(entry) = state.jobs.first_entry() {
            if entry.key().at > now {
                break;
            }
            due.push(entry.remove());
        }
        due
    }

    /// False when the timer has been stopped.
    fn sleep_until(&self, next_look: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return false;
            }
            let first_job = state.jobs.keys().next().map(|key| key.at);
            let longest = Instant::now() + LONGEST_SLEEP;
            let wake = [next_look, first_job, state.asked]
                .into_iter()
                .flatten()
                .fold(longest, Instant::min);
            self.wakes_at.store(self.since_epoch(wake), Ordering::SeqCst);
            if self.changed.wait_until(&mut state, wake).timed_out() || Instant::now() >= wake {
                state.asked = None;
                return !state.stopped;
            }
        }
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }
}

fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(run));
    if result.is_err() {
        log::error!("a job of the timer panicked; the timer goes on");
    }
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sync::channel;

    #[test]
    fn jobs_run_in_order_and_cancelled_ones_do_not() {
        let timer = Arc::new(Timer::new());
        timer.start(|_| None).unwrap();
        let (sender, receiver) = channel::unbounded();
        let now = Instant::now();
        let job = |name: &'static str| {
            let sender = sender.clone();
            move || sender.send(name).unwrap()
        };
        timer.at(now + Duration::from_millis(30), job("second"));
        let cancelled = timer.at(now + Duration::from_millis(20), job("cancelled"));
        timer.at(now + Duration::from_millis(10), job("first"));
        timer.cancel(cancelled);
        let wait = Duration::from_secs(10);
        assert_eq!(receiver.recv_timeout(wait), Ok("first"));
        assert_eq!(receiver.recv_timeout(wait), Ok("second"));
        assert!(now.elapsed() >= Duration::from_millis(30));
        timer.stop();
    }

    #[test]
    fn an_earlier_moment_wakes_it_before_the_later_one() {
        let timer = Arc::new(Timer::new());
        let (sender, receiver) = channel::unbounded();
        timer
            .start(move |now| {
                sender.send(now).ok();
                None
            })
            .unwrap();
        receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        let at = Instant::now() + Duration::from_millis(20);
        timer.wake_by(Instant::now() + Duration::from_secs(30));
        timer.wake_by(at);
        let looked = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(looked >= at);
        timer.stop();
    }

    /// Alarms that are set while the thread is looking, falling asleep or waking up are all looked at in time. Nobody else
    /// wakes the timer, so one that is missed stays so.
    #[test]
    fn no_wish_to_be_woken_is_missed() {
        const ROUNDS: u32 = 3000;
        let timer = Arc::new(Timer::new());
        let alarm = Arc::<Mutex<Option<Instant>>>::default();
        let looked_at = Arc::clone(&alarm);
        let (sender, receiver) = channel::unbounded();
        let rung = sender.clone();
        timer
            .start(move |now| {
                let due = looked_at.lock().take_if(|at| *at <= now);
                if due.is_some() {
                    rung.send(now).unwrap();
                }
                *looked_at.lock()
            })
            .unwrap();
        for round in 0..ROUNDS {
            // Some are due at once, some when the thread has just fallen asleep, some later.
            let at = Instant::now() + Duration::from_micros(u64::from(round * 7 % 150));
            if round % 5 == 0 {
                let sender = sender.clone();
                timer.at(at, move || sender.send(Instant::now()).unwrap());
            } else {
                *alarm.lock() = Some(at);
                timer.wake_by(at);
            }
            let looked = receiver.recv_timeout(Duration::from_secs(15));
            let looked = looked.unwrap_or_else(|_| panic!("round {round} was missed"));
            assert!(looked >= at, "round {round} came too early");
        }
        timer.stop();
    }

    #[test]
    fn a_job_that_panics_stops_neither_jobs_nor_looks() {
        let timer = Arc::new(Timer::new());
        let (sender, receiver) = channel::unbounded();
        let looks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&looks);
        timer
            .start(move |_| {
                assert!(counted.fetch_add(1, Ordering::SeqCst) != 1, "on purpose");
                None
            })
            .unwrap();
        timer.at(Instant::now(), || panic!("on purpose"));
        timer.at(Instant::now() + Duration::from_millis(5), move || {
            sender.send(()).ok();
        });
        assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(()));
        let until = Instant::now() + Duration::from_secs(10);
        while looks.load(Ordering::SeqCst) < 3 {
            assert!(Instant::now() < until, "it does not look any more");
            thread::sleep(Duration::from_millis(1));
        }
        timer.stop();
    }
}
