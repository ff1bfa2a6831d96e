//! Which brokers have been slow or failing lately, and for how long they are passed over: latency fault tolerance as 4.7.0
//! and 5.x have it (`MQFaultStrategy`, `LatencyFaultToleranceImpl`). Pure: time is passed in, and nothing is sent.
//!
//! 1. It is advice: `producer::choose` follows it while another broker is left, and never waits for a broker to get well.
//! 2. Routes are not changed. Unlike 4.7.0, which re-labels a queue that all senders share.
//! 3. While all brokers are well, an attempt and a choice cost one atomic load each.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::net::sync::{AtomicU64, Mutex, Ordering};

/// A broker is asked at most so often whether it can be reached (5.x `detectInterval`).
const LEAST_TIME_BETWEEN_CHECKS: Duration = Duration::from_secs(2);

/// For how long a broker is passed over, by how slow it was or that it failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultRules {
    /// From so long a latency on, a broker is passed over for so long. Rising.
    steps: &'static [(Duration, Duration)],
    /// What a failed attempt is booked as.
    failure_as: Duration,
    /// A shorter time does not shorten one that runs.
    keeps_the_longer: bool,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// `MQFaultStrategy.latencyMax` and `notAvailableDuration` of 4.7.0. Its first two steps, 50 and 100 ms, are for no time at
/// all. What is booked last counts, so a success brings a broker back at once.
pub(crate) const FAULT_RULES_V4_7_0: FaultRules = FaultRules {
    steps: &[
        (ms(550), ms(30_000)),
        (ms(1000), ms(60_000)),
        (ms(2000), ms(120_000)),
        (ms(3000), ms(180_000)),
        (ms(15_000), ms(600_000)),
    ],
    failure_as: ms(30_000),
    keeps_the_longer: false,
};

/// The same of 5.x, where a time that runs is never shortened (`FaultItem.updateNotAvailableDuration`).
pub(crate) const FAULT_RULES_V5: FaultRules = FaultRules {
    steps: &[
        (ms(550), ms(2000)),
        (ms(1800), ms(5000)),
        (ms(3000), ms(6000)),
        (ms(5000), ms(10_000)),
        (ms(15_000), ms(30_000)),
    ],
    failure_as: ms(10_000),
    keeps_the_longer: true,
};

impl FaultRules {
    fn passed_over_for(&self, latency: Duration) -> Duration {
        let reached = self.steps.iter().rev().find(|(least, _)| latency >= *least);
        reached.map_or(Duration::ZERO, |(_, pause)| *pause)
    }
}

/// How much there is to be said for a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It did not answer when it was last tried.
    Unreachable,
    /// It answers, but was slow or failing lately.
    Reachable,
    /// Nothing speaks against it.
    Available,
}

/// How an attempt failed, as far as the broker is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It could not be reached, or did not answer.
    NoAnswer,
    /// It answered that it cannot take the message now.
    Refusal,
}

struct Item {
    available_from: Instant,
    reachable: bool,
    checked: Option<Instant>,
}

/// The brokers that something was booked of, by name.
pub(crate) struct BrokerHealth {
    rules: FaultRules,
    /// Somebody asks brokers whether they can be reached, and so finds those that can be again.
    is_detecting: bool,
    epoch: Instant,
    items: Mutex<HashMap<Arc<str>, Item>>,
    /// Microseconds since `epoch` until which some broker is less than available, at the longest.
    troubled_until: AtomicU64,
}

impl BrokerHealth {
    pub(crate) fn new(rules: FaultRules, is_detecting: bool, now: Instant) -> Self {
        Self {
            rules,
            is_detecting,
            epoch: now,
            items: Mutex::new(HashMap::new()),
            troubled_until: AtomicU64::new(0),
        }
    }

    /// A broker answered an attempt: stored.
    pub(crate) fn succeeded(&self, broker_name: &Arc<str>, took: Duration, now: Instant) {
        self.book(broker_name, took, true, now);
    }

    /// An attempt failed, or its share of the time was over without an answer.
    pub(crate) fn failed(&self, broker_name: &Arc<str>, failure: Failure, now: Instant) {
        // As 5.x: without a detector nobody would find out that a silent broker is back.
        let reachable = failure == Failure::NoAnswer && !self.is_detecting;
        self.book(broker_name, self.rules.failure_as, reachable, now);
    }

    fn book(&self, broker_name: &Arc<str>, latency: Duration, reachable: bool, now: Instant) {
        let pause = self.rules.passed_over_for(latency);
        if pause.is_zero() && self.all_are_available(now) {
            return;
        }
        let available_from = now + pause;
        let mut items = self.items.lock();
        match items.get_mut(broker_name) {
            Some(item) => {
                item.reachable = reachable;
                if !self.rules.keeps_the_longer || available_from > item.available_from {
                    item.available_from = available_from;
                }
            }
            // There is nothing to be said of a broker that is not listed.
            None if pause.is_zero() => return,
            None => {
                let item = Item {
                    available_from,
                    reachable,
                    checked: None,
                };
                items.insert(Arc::clone(broker_name), item);
            }
        }
        drop(items);
        if !pause.is_zero() {
            let until = self.since_epoch(available_from);
            self.troubled_until.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// Whether nothing at all speaks against any broker.
    pub(crate) fn all_are_available(&self, now: Instant) -> bool {
        self.since_epoch(now) >= self.troubled_until.load(Ordering::Relaxed)
    }

    pub(crate) fn standing(&self, broker_name: &str, now: Instant) -> Standing {
        match self.items.lock().get(broker_name) {
            Some(item) if now < item.available_from && item.reachable => Standing::Reachable,
            Some(item) if now < item.available_from => Standing::Unreachable,
            _ => Standing::Available,
        }
    }

    /// The brokers that are to be asked now whether they can be reached, noted as asked.
    pub(crate) fn due_for_a_check(&self, now: Instant) -> Vec<Arc<str>> {
        let mut due = Vec::new();
        for (broker_name, item) in self.items.lock().iter_mut() {
            let is_fresh = |checked: Instant| now < checked + LEAST_TIME_BETWEEN_CHECKS;
            if !item.checked.is_some_and(is_fresh) {
                item.checked = Some(now);
                due.push(Arc::clone(broker_name));
            }
        }
        due
    }

    /// A broker was asked whether it can be reached. Unlike 5.x, which only ever notes that it can.
    pub(crate) fn checked(&self, broker_name: &str, reachable: bool) {
        if let Some(item) = self.items.lock().get_mut(broker_name) {
            item.reachable = reachable;
        }
    }

    /// Forgets the brokers that no route names any more.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.items.lock().retain(|broker_name, _| keep(broker_name));
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Debug for BrokerHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerHealth").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table {
        health: BrokerHealth,
        name: Arc<str>,
        now: Instant,
    }

    impl Table {
        fn new(rules: FaultRules, is_detecting: bool) -> Self {
            let now = Instant::now();
            Self {
                health: BrokerHealth::new(rules, is_detecting, now),
                name: "a".into(),
                now,
            }
        }

        fn took(&self, milliseconds: u64) {
            self.health.succeeded(&self.name, ms(milliseconds), self.now);
        }

        fn after(&self, milliseconds: u64) -> Standing {
            self.health.standing("a", self.now + ms(milliseconds))
        }

        /// Milliseconds from now until the broker is available.
        fn away_for(&self) -> u128 {
            let items = self.health.items.lock();
            let from = items.get("a").map_or(self.now, |item| item.available_from);
            from.saturating_duration_since(self.now).as_millis()
        }
    }

    /// The table of peers: latency, then for how long 4.7.0 and 5.x pass a broker over.
    #[test]
    fn the_numbers_are_those_of_4_7_0_and_5_x() {
        for (latency, v4, v5) in [
            (0, 0, 0),
            (50, 0, 0),
            (100, 0, 0),
            (549, 0, 0),
            (550, 30_000, 2000),
            (999, 30_000, 2000),
            (1000, 60_000, 2000),
            (1800, 60_000, 5000),
            (2000, 120_000, 5000),
            (3000, 180_000, 6000),
            (5000, 180_000, 10_000),
            (15_000, 600_000, 30_000),
            (100_000, 600_000, 30_000),
        ] {
            for (rules, expected) in [(FAULT_RULES_V4_7_0, v4), (FAULT_RULES_V5, v5)] {
                let table = Table::new(rules, false);
                table.took(latency);
                assert_eq!(table.away_for(), expected, "{latency} ms under {rules:?}");
            }
        }
    }

    #[test]
    fn a_failure_isolates_for_600_s_in_4_7_0_and_10_s_in_5_x() {
        for (rules, expected) in [(FAULT_RULES_V4_7_0, 600_000), (FAULT_RULES_V5, 10_000)] {
            for failure in [Failure::NoAnswer, Failure::Refusal] {
                let table = Table::new(rules, false);
                table.health.failed(&table.name, failure, table.now);
                assert_eq!(table.away_for(), expected, "{rules:?}");
                assert!(!table.health.all_are_available(table.now));
                assert_ne!(
                    table.after(u64::try_from(expected).unwrap() - 1),
                    Standing::Available
                );
                assert_eq!(table.after(u64::try_from(expected).unwrap()), Standing::Available);
                assert!(table.health.all_are_available(table.now + ms(600_000)));
            }
        }
    }

    #[test]
    fn a_success_brings_a_broker_back_in_4_7_0_and_does_not_shorten_its_time_in_5_x() {
        let old = Table::new(FAULT_RULES_V4_7_0, false);
        old.took(15_000);
        old.took(600);
        assert_eq!(old.away_for(), 30_000);
        old.took(3);
        assert_eq!(old.after(0), Standing::Available);
        let new = Table::new(FAULT_RULES_V5, false);
        new.took(15_000);
        new.took(600);
        new.took(3);
        assert_eq!(new.away_for(), 30_000);
    }

    #[test]
    fn who_can_be_reached_is_told_from_who_cannot() {
        for (is_detecting, failure, expected) in [
            (false, Failure::NoAnswer, Standing::Reachable),
            (true, Failure::NoAnswer, Standing::Unreachable),
            (false, Failure::Refusal, Standing::Unreachable),
            (true, Failure::Refusal, Standing::Unreachable),
        ] {
            let table = Table::new(FAULT_RULES_V5, is_detecting);
            table.health.failed(&table.name, failure, table.now);
            assert_eq!(table.after(0), expected);
            table.health.checked("a", true);
            assert_eq!(table.after(0), Standing::Reachable);
            table.health.checked("a", false);
            assert_eq!(table.after(0), Standing::Unreachable);
            // Its time is over whether it can be reached or not: else nobody would try.
            assert_eq!(table.after(10_000), Standing::Available);
            table.took(3);
            assert_eq!(table.after(0), Standing::Reachable);
        }
    }

    #[test]
    fn a_broker_is_checked_at_most_every_two_seconds() {
        let table = Table::new(FAULT_RULES_V5, true);
        assert!(table.health.due_for_a_check(table.now).is_empty());
        table.took(600);
        assert_eq!(table.health.due_for_a_check(table.now), [Arc::clone(&table.name)]);
        assert!(table.health.due_for_a_check(table.now + ms(1999)).is_empty());
        assert_eq!(table.health.due_for_a_check(table.now + ms(2000)).len(), 1);
    }

    #[test]
    fn only_brokers_that_routes_name_and_that_were_slow_are_kept() {
        let table = Table::new(FAULT_RULES_V5, false);
        table.took(3);
        assert!(table.health.items.lock().is_empty());
        assert!(table.health.all_are_available(table.now));
        table.took(600);
        table.health.retain(|name| name == "a");
        assert_eq!(table.after(0), Standing::Reachable);
        table.health.retain(|name| name != "a");
        assert_eq!(table.after(0), Standing::Available);
    }
}
