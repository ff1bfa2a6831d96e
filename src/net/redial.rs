//! Addresses that could not be connected to, and when each is dialled again. Pure: time and chance are passed in.
//!
//! 1. After a failed dial the next is not begun before a pause is over, which doubles up to a limit. Whoever wants the
//!    connection meanwhile gets the remembered error at once.
//! 2. A connection that ends before its peer has said anything counts as a failed dial: something that only accepts and
//!    closes would be dialled without a pause otherwise. One whose peer has spoken clears the account.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::error::Error;

/// The pause after the first failed dial. 4.7.0 and 5.x dial again on every send.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: a dead address is dialled about 60 times a minute, and a broker that is back is found within about
/// a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How far chance may move a pause in either direction, in percent: many producers that lose a broker together must not
/// come back together.
const JITTER_PERCENT: u32 = 20;

struct FailedDial {
    error: Error,
    at: Instant,
    pause: Duration,
    not_before: Instant,
}

/// The failed dials of all addresses. Forgotten with the address, so it grows no further than the routes.
#[derive(Default)]
pub(super) struct Redials {
    failed: HashMap<Arc<str>, FailedDial>,
}

impl Redials {
    /// Notes a failed dial. `chance` is any number; equal ones move the pause equally far.
    pub(super) fn failed(&mut self, address: &Arc<str>, error: Error, now: Instant, chance: u64) {
        let pause = match self.failed.get(address) {
            Some(before) => (before.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        let failed = FailedDial {
            error,
            at: now,
            pause,
            not_before: now + jittered(pause, chance),
        };
        self.failed.insert(Arc::clone(address), failed);
    }

    /// When the address may be dialled again, if that is not now.
    pub(super) fn not_before(&self, address: &str, now: Instant) -> Option<Instant> {
        let not_before = self.failed.get(address)?.not_before;
        Some(not_before).filter(|at| *at > now)
    }

    /// The remembered error, if the address must not be dialled yet.
    pub(super) fn remembered(&self, address: &str, now: Instant) -> Option<Error> {
        let failed = self.failed.get(address)?;
        if failed.not_before > now {
            Some(failed.as_remembered(now))
        } else {
            None
        }
    }

    /// The addresses of which something is remembered.
    pub(super) fn addresses(&self) -> Vec<Arc<str>> {
        self.failed.keys().map(Arc::clone).collect()
    }

    /// Forgets an address: a connection to it was good, or nobody wants it any more.
    pub(super) fn forget(&mut self, address: &str) {
        self.failed.remove(address);
    }
}

impl FailedDial {
    fn as_remembered(&self, now: Instant) -> Error {
        let Error::Connect {
            address,
            waited,
            source,
        } = &self.error
        else {
            return self.error.clone();
        };
        let age = now.saturating_duration_since(self.at);
        let left = self.not_before.saturating_duration_since(now);
        let text = format!(
            "{source}; remembered from {age:.1?} ago, the next dial is in {left:.1?} at the earliest"
        );
        Error::Connect {
            address: Arc::clone(address),
            waited: *waited,
            source: Arc::new(io::Error::new(source.kind(), text)),
        }
    }
}

/// The pause, made up to [`JITTER_PERCENT`] shorter or longer.
fn jittered(pause: Duration, chance: u64) -> Duration {
    let spread = u64::from(2 * JITTER_PERCENT + 1);
    let moved = u32::try_from(chance % spread).unwrap_or_default();
    pause * (100 - JITTER_PERCENT + moved) / 100
}

/// A number that nobody can foretell, for [`Redials::failed`].
pub(super) fn chance() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Arc<str> {
        "10.0.0.1:10911".into()
    }

    fn refused() -> Error {
        Error::Connect {
            address: address(),
            waited: Duration::from_micros(300),
            source: Arc::new(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// The chance that moves no pause.
    const NONE: u64 = JITTER_PERCENT as u64;

    #[test]
    fn the_pause_doubles_up_to_its_limit_and_a_success_resets_it() {
        let (mut redials, mut now) = (Redials::default(), Instant::now());
        let mut pause = |redials: &mut Redials| {
            redials.failed(&address(), refused(), now, NONE);
            let until = redials.not_before(&address(), now).unwrap();
            let pause = until - now;
            assert!(redials.not_before(&address(), until).is_none());
            assert!(redials.remembered(&address(), until).is_none());
            now = until;
            pause.as_millis()
        };
        let pauses: Vec<_> = (0..7).map(|_| pause(&mut redials)).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        redials.forget(&address());
        assert_eq!(pause(&mut redials), 50);
    }

    #[test]
    fn chance_moves_a_pause_by_a_fifth_at_most_and_both_ways() {
        let moved: Vec<_> = (0..1000)
            .map(|chance| jittered(Duration::from_secs(1), chance).as_millis())
            .collect();
        assert_eq!(moved.iter().min(), Some(&800));
        assert_eq!(moved.iter().max(), Some(&1200));
        assert_ne!(chance(), chance());
    }

    #[test]
    fn a_dead_address_is_dialled_about_once_a_second_however_often_it_is_wanted() {
        let (mut redials, began) = (Redials::default(), Instant::now());
        let mut dials = 0_u64;
        for millisecond in 0..60_000 {
            let now = began + Duration::from_millis(millisecond);
            if redials.remembered(&address(), now).is_none() {
                dials += 1;
                redials.failed(&address(), refused(), now, dials);
            }
        }
        assert!((50..=66).contains(&dials), "{dials} dials in a minute");
    }

    #[test]
    fn the_remembered_error_says_that_it_is_and_how_old() {
        let (mut redials, began) = (Redials::default(), Instant::now());
        redials.failed(&address(), refused(), began, NONE);
        let error = redials
            .remembered(&address(), began + Duration::from_millis(12))
            .unwrap();
        assert_eq!(
            error.to_string(),
            "cannot connect to 10.0.0.1:10911 (after 300.0µs): connection refused; remembered from 12.0ms ago, the next \
             dial is in 38.0ms at the earliest"
        );
        let Error::Connect { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    }
}
