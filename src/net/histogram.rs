//! How long things took, in a fixed number of buckets: one relaxed addition per value, and no memory beyond the buckets.
//!
//! Four buckets for each doubling from 8 µs on, so a value is known to within a quarter of itself; the last bucket takes
//! everything over two minutes.

use std::time::Duration;

use super::sync::{AtomicU64, Ordering};

/// Up to 134 s at four buckets per doubling.
pub(crate) const BUCKETS: usize = 104;

#[derive(Debug)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    /// Microseconds.
    longest: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            longest: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(bucket(microseconds)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // Nearly always only read.
        if microseconds > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(microseconds, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> Vec<u64> {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect()
    }

    pub(super) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

fn bucket(microseconds: u64) -> usize {
    let unit = microseconds / 2;
    let Some(exponent @ 2..) = unit.checked_ilog2() else {
        return usize::try_from(unit).unwrap_or_default();
    };
    let quarter = (unit >> (exponent - 2)) & 3;
    let index = u64::from(exponent - 1) * 4 + quarter;
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The end of a bucket: everything in it took less.
pub(crate) fn bucket_end(index: usize) -> Duration {
    let index = u64::try_from(index).unwrap_or(u64::MAX).min(200);
    let units = if index < 4 {
        index + 1
    } else {
        (4 + index % 4 + 1) << (index / 4 - 1)
    };
    Duration::from_micros(units * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_below_the_end_of_its_bucket_and_within_a_quarter() {
        let mut microseconds = 1;
        while microseconds < 100_000_000 {
            let end = u64::try_from(bucket_end(bucket(microseconds)).as_micros()).unwrap();
            assert!(microseconds < end, "{microseconds} {end}");
            assert!(end <= microseconds + microseconds / 4 + 2, "{microseconds} {end}");
            microseconds += microseconds / 7 + 1;
        }
    }

    #[test]
    fn buckets_ascend_and_the_last_takes_the_rest() {
        for index in 1..BUCKETS {
            assert!(bucket_end(index - 1) < bucket_end(index));
            let start = u64::try_from(bucket_end(index - 1).as_micros()).unwrap();
            assert_eq!(bucket(start), index);
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_is_recorded_is_counted() {
        let histogram = Histogram::default();
        for took in [5, 5, 3_000] {
            histogram.record(Duration::from_micros(took));
        }
        assert_eq!(histogram.counts().iter().sum::<u64>(), 3);
        assert_eq!(histogram.counts()[2], 2);
        assert_eq!(histogram.longest(), Duration::from_millis(3));
    }
}
