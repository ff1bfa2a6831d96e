//! Latencies in buckets that are 1.6 % wide.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets to an octave, as a power of two.
const PRECISION: u32 = 6;
const TO_AN_OCTAVE: usize = 1 << PRECISION;
/// Up to 2^37 ns, more than two minutes.
const BUCKETS: usize = (37 - PRECISION as usize) * TO_AN_OCTAVE;

/// Counts that one thread writes and others may read.
pub(crate) struct Histogram(Box<[AtomicU64]>);

impl Histogram {
    pub(crate) fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    /// For the one thread that writes; a locked instruction is not needed then.
    pub(crate) fn record(&self, nanoseconds: u64, times: u64) {
        if let Some(count) = self.0.get(bucket(nanoseconds)) {
            count.store(count.load(Relaxed).wrapping_add(times), Relaxed);
        }
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let octave = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(PRECISION + 1);
    // Within the first octaves, a bucket is a nanosecond.
    let within = usize::try_from(nanoseconds >> octave).unwrap_or(usize::MAX);
    let octave = usize::try_from(octave).unwrap_or(usize::MAX);
    octave
        .saturating_mul(TO_AN_OCTAVE)
        .saturating_add(within)
        .min(BUCKETS - 1)
}

fn middle(bucket: usize) -> f64 {
    let octave = (bucket / TO_AN_OCTAVE).saturating_sub(1);
    let within = bucket - octave * TO_AN_OCTAVE;
    (float(within) + if octave == 0 { 0.0 } else { 0.5 }) * float(1 << octave)
}

/// Every number here is far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
fn float(number: usize) -> f64 {
    number as f64
}

/// Quantiles of several histograms together, in microseconds; 0 when they are empty.
pub(crate) fn quantiles<'a, const N: usize>(
    parts: impl IntoIterator<Item = &'a Histogram>,
    wanted: [f64; N],
) -> [f64; N] {
    let mut counts = vec![0_u64; BUCKETS];
    for part in parts {
        for (sum, count) in counts.iter_mut().zip(&part.0) {
            *sum += count.load(Relaxed);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
    let total = counts.iter().sum::<u64>() as f64;
    wanted.map(|quantile| {
        let rank = (total * quantile).ceil().max(1.0);
        let mut seen = 0.0;
        for (bucket, count) in counts.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
            let count = *count as f64;
            seen += count;
            if seen >= rank {
                return middle(bucket) / 1000.0;
            }
        }
        0.0
    })
}
