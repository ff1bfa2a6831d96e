//! The one clock type that everything above passes down: when something began, and when it must be over.

use std::time::{Duration, Instant};

/// Beyond this a timeout is as good as none. It keeps `Instant` arithmetic from overflowing.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A point in time by which something must be over, and the time when it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    began: Instant,
    at: Instant,
}

impl Deadline {
    /// A deadline that starts now.
    pub(crate) fn after(timeout: Duration) -> Self {
        Self::starting(Instant::now(), timeout)
    }

    pub(crate) fn starting(began: Instant, timeout: Duration) -> Self {
        Self {
            began,
            at: began + timeout.min(LONGEST_TIMEOUT),
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// How long it has been going on.
    pub(crate) fn waited(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_timeout_does_not_overflow() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(deadline.remaining(Instant::now()) > Duration::from_secs(3600));
        assert!(!deadline.is_over(Instant::now()));
    }
}
