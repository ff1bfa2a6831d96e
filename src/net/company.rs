//! Whether a sender that is about to write lets others go first, so that one system call takes the frames of all.
//!
//! Letting the processor go costs next to nothing when other senders are about to run, and much when something else uses
//! that processor: a whole slice of the scheduler. So it is timed, and given up for a while when it took long.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::sync::{AtomicU64, Ordering};

/// Even many senders are through in less. The slices of schedulers are longer.
const LONG: Duration = Duration::from_millis(1);

/// For so long it is not tried again then: at most a few slices of the scheduler are lost in each second.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Company {
    epoch: Instant,
    /// Microseconds since `epoch`.
    not_before: AtomicU64,
}

impl Company {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            not_before: AtomicU64::new(0),
        }
    }

    /// Lets other threads run that are ready to, unless that is known to take long.
    pub(super) fn let_through(&self) {
        let began = self.epoch.elapsed();
        if micros(began) < self.not_before.load(Ordering::Relaxed) {
            return;
        }
        thread::yield_now();
        self.took(began, self.epoch.elapsed());
    }

    fn took(&self, began: Duration, ended: Duration) {
        if ended.saturating_sub(began) >= LONG {
            self.not_before.store(micros(ended + PAUSE), Ordering::Relaxed);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_not_tried_again_for_a_while() {
        let company = Company::new(Instant::now());
        let at = Duration::from_millis;
        company.took(at(10), at(10) + LONG / 2);
        assert_eq!(company.not_before.load(Ordering::Relaxed), 0);
        company.took(at(10), at(13));
        assert_eq!(company.not_before.load(Ordering::Relaxed), micros(at(13) + PAUSE));
    }
}
