//! Counts what a driver sends, and prints the closing line.
//!
//! Each thread counts in a place of its own, so that measuring costs no shared cache line; what all threads read changes
//! twice in a run.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    arguments::Arguments,
    histogram::{Histogram, quantiles},
    process,
};

/// The counts of one thread.
#[repr(align(128))]
pub(crate) struct Lane {
    ok: AtomicU64,
    latencies: Histogram,
}

/// What is measured of one process.
pub(crate) struct Meter {
    epoch: Instant,
    /// When the window began and ended; [`u64::MAX`] as long as it has not.
    began: AtomicU64,
    ended: AtomicU64,
    stop: AtomicBool,
    lanes: Mutex<Vec<Arc<Lane>>>,
    errors: AtomicU64,
    first_error: Mutex<String>,
}

/// What happened in the window.
pub(crate) struct Window {
    messages: u64,
    errors: u64,
    took: Duration,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            began: AtomicU64::new(u64::MAX),
            ended: AtomicU64::new(u64::MAX),
            stop: AtomicBool::new(false),
            lanes: Mutex::default(),
            errors: AtomicU64::new(0),
            first_error: Mutex::default(),
        }
    }

    /// A place to count in, for one thread.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane {
            ok: AtomicU64::new(0),
            latencies: Histogram::new(),
        });
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.push(Arc::clone(&lane));
        lane
    }

    /// Nanoseconds since the meter was made.
    pub(crate) fn now(&self) -> u64 {
        let time = self.epoch.elapsed();
        time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos())
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// `messages` that began together are done. Only the thread of the lane may call this. The latency counts if they
    /// began within the window, even if they end after it: else the slow ones would be left out.
    pub(crate) fn done(&self, lane: &Lane, messages: u64, began: u64, ended: u64) {
        lane.ok
            .store(lane.ok.load(Relaxed).wrapping_add(messages), Relaxed);
        if began >= self.began.load(Relaxed) && began < self.ended.load(Relaxed) {
            lane.latencies.record(ended.saturating_sub(began), messages);
        }
    }

    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        if self.errors.fetch_add(1, Relaxed) < 3 {
            let text = error.to_string();
            eprintln!("error: {text}");
            let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_empty() {
                *first = text;
            }
        }
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn total(&self) -> u64 {
        self.lanes().iter().map(|lane| lane.ok.load(Relaxed)).sum()
    }

    /// Sleeps through the warm-up and the window, then tells the senders to stop.
    pub(crate) fn run(&self, arguments: &Arguments) -> Window {
        thread::sleep(Duration::from_secs_f64(arguments.warm_up));
        let (began, cpu) = (Instant::now(), process::cpu());
        let (messages, errors) = (self.total(), self.errors.load(Relaxed));
        self.began.store(self.now(), Relaxed);
        thread::sleep(Duration::from_secs_f64(arguments.seconds));
        let window = Window {
            messages: self.total() - messages,
            errors: self.errors.load(Relaxed) - errors,
            took: began.elapsed(),
            cpu: process::cpu().saturating_sub(cpu),
        };
        self.ended.store(self.now(), Relaxed);
        self.stop.store(true, Relaxed);
        window
    }

    /// The closing line. Everything must have ended: the totals are final.
    pub(crate) fn closing_line(&self, client: &str, arguments: &Arguments, window: &Window) -> String {
        let lanes = self.lanes();
        let [p50, p99, p999] = quantiles(lanes.iter().map(|lane| &lane.latencies), [0.5, 0.99, 0.999]);
        #[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
        let messages = window.messages as f64;
        let cpu = match window.messages {
            0 => 0.0,
            _ => window.cpu.as_secs_f64() * 1e6 / messages,
        };
        let first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        let first: String = first.chars().filter(|c| !c.is_control()).take(300).collect();
        let seconds = window.took.as_secs_f64();
        [
            format!(r#"{{"client":"{client}","mode":"{}""#, arguments.mode),
            format!(r#""threads":{},"window":{}"#, arguments.threads, arguments.window),
            format!(r#""size":{},"msgs":{}"#, arguments.size, window.messages),
            format!(r#""errors":{},"secs":{seconds:.3}"#, window.errors),
            format!(r#""msgs_per_s":{:.0}"#, messages / seconds),
            format!(r#""p50_us":{p50:.1},"p99_us":{p99:.1},"p999_us":{p999:.1}"#),
            format!(
                r#""cpu_us_per_msg":{cpu:.3},"rss_kib":{}"#,
                process::peak_memory()
            ),
            format!(r#""total_ok":{}"#, self.total()),
            format!(r#""total_errors":{}"#, self.errors.load(Relaxed)),
            format!(
                r#""first_error":"{}"}}"#,
                first.replace('\\', r"\\").replace('"', "'")
            ),
        ]
        .join(",")
    }
}
