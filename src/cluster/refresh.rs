//! Looks many topics up again, a portion at a time: thousands at once would fill the table of the name server's connection,
//! and leave no place for the look-ups that senders wait for.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::routes::Routes;
use crate::net::sync::{AtomicUsize, Mutex, Ordering};

/// No portion is begun while so many look-ups are under way.
const MOST_AT_ONCE: usize = 256;

/// How soon the next portion follows. Ten thousand topics take half a second if the name server keeps up.
const PORTION_PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(super) struct Refresh {
    /// Look-ups that wait for an answer, whoever asked for them.
    under_way: AtomicUsize,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    waiting: VecDeque<Arc<str>>,
    /// The timer will go on with it.
    is_going_on: bool,
}

impl Refresh {
    /// Counts a look-up, until [`Self::end`].
    pub(super) fn begin(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// The next portion, and whether there are more. None after `is_closed`.
    fn next_portion(&self, is_closed: bool) -> (Vec<Arc<str>>, bool) {
        let room = MOST_AT_ONCE.saturating_sub(self.under_way.load(Ordering::Relaxed));
        let mut turn = self.turn.lock();
        if is_closed {
            turn.waiting.clear();
        }
        let count = room.min(turn.waiting.len());
        let portion = turn.waiting.drain(..count).collect();
        turn.is_going_on = !turn.waiting.is_empty();
        (portion, turn.is_going_on)
    }
}

impl Routes {
    /// Looks these topics up. If others still wait for their turn, since the name servers are slow, it is theirs, unless
    /// `anew`.
    pub(super) fn refresh_in_turn(self: &Arc<Self>, topics: Vec<Arc<str>>, anew: bool) {
        let mut turn = self.refreshing().turn.lock();
        if anew || turn.waiting.is_empty() {
            turn.waiting = topics.into();
        }
        let is_going_on = turn.is_going_on;
        drop(turn);
        if !is_going_on {
            self.refresh_some();
        }
    }

    fn refresh_some(self: &Arc<Self>) {
        let (portion, has_more) = self.refreshing().next_portion(self.is_closed());
        for topic in &portion {
            self.look_up_again(topic);
        }
        if has_more {
            let routes = Arc::clone(self);
            self.timer()
                .at(Instant::now() + PORTION_PAUSE, move || routes.refresh_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_no_larger_than_the_room_that_is_left() {
        let refresh = Refresh::default();
        refresh.turn.lock().waiting = (0..1000).map(|number: u32| number.to_string().into()).collect();
        for _ in 0..MOST_AT_ONCE - 10 {
            refresh.begin();
        }
        let (portion, has_more) = refresh.next_portion(false);
        assert_eq!((portion.len(), has_more), (10, true));
        assert_eq!(*portion[9], *"9", "in their order");
        for _ in 0..10 {
            refresh.begin();
        }
        assert_eq!(refresh.next_portion(false).0.len(), 0, "no room");
        refresh.end();
        assert_eq!(refresh.next_portion(false).0.len(), 1);
        assert_eq!(
            refresh.next_portion(true),
            (Vec::new(), false),
            "nothing after the end"
        );
        assert!(refresh.turn.lock().waiting.is_empty());
    }
}
