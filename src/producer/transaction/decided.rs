//! What this process knows of transactions: which are under way, and how those ended that were here lately.
//!
//! Brokers publish a half message as often as it is committed, they write it anew for each check, and they may deliver a
//! check twice or ask while the end of the transaction is on its way. So a check is answered by what is known here, and
//! the listener is only asked about what is not:
//!
//! 1. A transaction that is under way is not answered for: its own end is to come.
//! 2. One that was rolled back is rolled back again, which does no harm.
//! 3. Of one whose commit a broker has confirmed, another copy is rolled back: it is left over.
//! 4. A commit that no broker can have received is sent.
//! 5. A commit that may have been received is sent again only for another copy, and only when the broker has had time to
//!    note the first: until then the question may have crossed the answer. And only if the message is not there.
//!
//! Bounded: see [`REMEMBERED`]. The lock is held for a look-up.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{message::MessageId, net::sync::Mutex, wire::request::end_transaction::Verdict};

/// So many decided transactions are remembered, the latest: about 16 MiB, and what 500 transactions a second leave behind in
/// twice the time between two checks of 4.7.0, which is 60 s.
pub(super) const REMEMBERED: usize = 65_536;

/// A half message as one broker keeps it: written anew for each check, it is another copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HalfCopy {
    /// The address of the broker.
    pub(super) broker: Arc<str>,
    pub(super) commit_log_offset: u64,
}

/// How far the end of a transaction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The broker has confirmed it.
    Confirmed,
    /// It was sent then, and may have been received.
    Maybe(Instant),
    /// No broker can have received it.
    Nobody,
}

#[derive(Clone, Debug)]
enum Decision {
    /// Of this copy, if it is known which one.
    Commit {
        copy: Option<HalfCopy>,
        reached: Reached,
    },
    Rollback,
}

/// What to do about a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing is known here. The caller has begun to answer it, and must call [`Decided::settle`].
    AskListener,
    /// As before, and the same must be called.
    Answer(Verdict),
    /// The same: commit it again, unless the message is there already.
    Repeat,
    SayNothing(&'static str),
}

#[derive(Debug, Default)]
struct Table {
    /// The local part, or a check, is under way. Bounded by the threads that are at it.
    under_way: HashSet<MessageId>,
    decided: HashMap<MessageId, Decision>,
    /// The keys of `decided`, oldest first.
    order: VecDeque<MessageId>,
}

#[derive(Debug)]
pub(super) struct Decided {
    table: Mutex<Table>,
    /// For so long a commit that may have been received is not sent again.
    pause: Duration,
    /// Whether it is sent again at all.
    may_repeat: bool,
}

impl Decided {
    pub(super) fn new(pause: Duration, may_repeat: bool) -> Self {
        Self {
            table: Mutex::default(),
            pause,
            may_repeat,
        }
    }

    /// A transaction begins.
    pub(super) fn begin(&self, id: MessageId) {
        self.table.lock().under_way.insert(id);
    }

    /// It is over, and there is nothing to remember.
    pub(super) fn forget(&self, id: MessageId) {
        self.table.lock().under_way.remove(&id);
    }

    /// A broker asks about a copy.
    pub(super) fn asked(&self, id: MessageId, asked: &HalfCopy, now: Instant) -> Advice {
        let mut table = self.table.lock();
        if table.under_way.contains(&id) {
            return Advice::SayNothing("it is under way");
        }
        let advice = match table.decided.get(&id) {
            None => Advice::AskListener,
            Some(Decision::Rollback) => Advice::Answer(Verdict::Rollback),
            Some(Decision::Commit { copy, reached }) => match reached {
                Reached::Confirmed | Reached::Maybe(_) if copy.as_ref() == Some(asked) => {
                    Advice::SayNothing("it was answered before")
                }
                Reached::Confirmed => Advice::Answer(Verdict::Rollback),
                Reached::Maybe(_) if !self.may_repeat => {
                    Advice::SayNothing("it may be committed already, and a second copy is not wanted")
                }
                Reached::Maybe(sent) if now.saturating_duration_since(*sent) < self.pause => {
                    Advice::SayNothing(
                        "it was committed a moment ago, and the question may have crossed that",
                    )
                }
                Reached::Maybe(_) => Advice::Repeat,
                Reached::Nobody => Advice::Answer(Verdict::Commit),
            },
        };
        if !matches!(advice, Advice::SayNothing(_)) {
            table.under_way.insert(id);
        }
        advice
    }

    /// A transaction, or a check, is over, with that verdict about that copy.
    pub(super) fn settle(&self, id: MessageId, verdict: Verdict, copy: Option<HalfCopy>, reached: Reached) {
        let mut table = self.table.lock();
        table.under_way.remove(&id);
        let decision = match verdict {
            Verdict::Unknown => return,
            Verdict::Rollback => {
                // The rollback of a copy that was left over does not change what became of the message.
                let is_committed = matches!(
                    table.decided.get(&id),
                    Some(Decision::Commit {
                        reached: Reached::Confirmed,
                        ..
                    })
                );
                if is_committed {
                    return;
                }
                Decision::Rollback
            }
            Verdict::Commit => Decision::Commit { copy, reached },
        };
        if table.decided.insert(id, decision).is_some() {
            return;
        }
        table.order.push_back(id);
        if table.order.len() > REMEMBERED {
            if let Some(oldest) = table.order.pop_front() {
                table.decided.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn id(text: &str) -> MessageId {
        MessageId::from_text(text).unwrap()
    }

    fn copy(commit_log_offset: u64) -> HalfCopy {
        HalfCopy {
            broker: "127.0.0.1:10911".into(),
            commit_log_offset,
        }
    }

    fn decided() -> Decided {
        Decided::new(PAUSE, true)
    }

    #[test]
    fn what_is_not_known_goes_to_the_listener_once_at_a_time() {
        let decided = decided();
        let now = Instant::now();
        assert_eq!(decided.asked(id("a"), &copy(1), now), Advice::AskListener);
        let second = decided.asked(id("a"), &copy(1), now);
        assert!(
            matches!(second, Advice::SayNothing(_)),
            "delivered twice: {second:?}"
        );
        decided.settle(id("a"), Verdict::Unknown, Some(copy(1)), Reached::Maybe(now));
        assert_eq!(decided.asked(id("a"), &copy(2), now), Advice::AskListener);
    }

    #[test]
    fn a_transaction_that_is_under_way_is_not_answered_for() {
        let decided = decided();
        decided.begin(id("a"));
        let advice = decided.asked(id("a"), &copy(1), Instant::now());
        assert_eq!(advice, Advice::SayNothing("it is under way"));
    }

    #[test]
    fn a_confirmed_commit_is_never_sent_again_and_its_other_copies_are_taken_back() {
        let decided = decided();
        let now = Instant::now();
        decided.begin(id("a"));
        decided.settle(id("a"), Verdict::Commit, Some(copy(1)), Reached::Confirmed);
        assert!(matches!(
            decided.asked(id("a"), &copy(1), now),
            Advice::SayNothing(_)
        ));
        for left_over in [2, 3] {
            let advice = decided.asked(id("a"), &copy(left_over), now + 100 * PAUSE);
            assert_eq!(advice, Advice::Answer(Verdict::Rollback));
            decided.settle(
                id("a"),
                Verdict::Rollback,
                Some(copy(left_over)),
                Reached::Confirmed,
            );
        }
        let other_broker = HalfCopy {
            broker: "127.0.0.2:10911".into(),
            commit_log_offset: 1,
        };
        assert_eq!(
            decided.asked(id("a"), &other_broker, now),
            Advice::Answer(Verdict::Rollback)
        );
    }

    #[test]
    fn a_commit_that_may_have_arrived_is_sent_again_for_another_copy_after_a_pause() {
        let decided = decided();
        let sent = Instant::now();
        decided.settle(id("a"), Verdict::Commit, Some(copy(1)), Reached::Maybe(sent));
        let after = |time| sent + time;
        assert!(matches!(
            decided.asked(id("a"), &copy(1), after(2 * PAUSE)),
            Advice::SayNothing(_)
        ));
        assert!(matches!(
            decided.asked(id("a"), &copy(2), after(PAUSE / 2)),
            Advice::SayNothing(_)
        ));
        assert_eq!(decided.asked(id("a"), &copy(2), after(PAUSE)), Advice::Repeat);
        // It was there: what the broker asks about is left over.
        decided.settle(id("a"), Verdict::Commit, None, Reached::Confirmed);
        assert_eq!(
            decided.asked(id("a"), &copy(2), sent),
            Advice::Answer(Verdict::Rollback)
        );
    }

    #[test]
    fn whoever_wants_no_duplicates_gets_no_second_commit() {
        let decided = Decided::new(PAUSE, false);
        let sent = Instant::now();
        decided.settle(id("a"), Verdict::Commit, Some(copy(1)), Reached::Maybe(sent));
        let advice = decided.asked(id("a"), &copy(2), sent + 100 * PAUSE);
        assert!(matches!(advice, Advice::SayNothing(_)), "{advice:?}");
        decided.settle(id("b"), Verdict::Commit, Some(copy(5)), Reached::Nobody);
        assert_eq!(
            decided.asked(id("b"), &copy(5), sent),
            Advice::Answer(Verdict::Commit)
        );
    }

    #[test]
    fn a_rollback_is_repeated() {
        let decided = decided();
        let now = Instant::now();
        decided.settle(id("a"), Verdict::Rollback, None, Reached::Nobody);
        for offset in 1..4 {
            assert_eq!(
                decided.asked(id("a"), &copy(offset), now),
                Advice::Answer(Verdict::Rollback)
            );
            decided.settle(id("a"), Verdict::Rollback, Some(copy(offset)), Reached::Confirmed);
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let decided = decided();
        let now = Instant::now();
        for number in 0..=REMEMBERED {
            decided.settle(id(&number.to_string()), Verdict::Rollback, None, Reached::Nobody);
        }
        assert_eq!(decided.asked(id("0"), &copy(1), now), Advice::AskListener);
        assert_eq!(
            decided.asked(id("1"), &copy(1), now),
            Advice::Answer(Verdict::Rollback)
        );
        assert_eq!(decided.table.lock().decided.len(), REMEMBERED);
        assert_eq!(decided.table.lock().order.len(), REMEMBERED);
    }
}
