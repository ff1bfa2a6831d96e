//! The rules of a fault script: which requests each one is for, how often, and what it says to do. What is done is in
//! `action`, how in `scripted`.
//!
//! Rules:
//! 1. The first rule that matches wins; one that is not due yet lets the next ones look.
//! 2. The lock is held for the search only: no closure of a test is called under it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::code::RequestCode;
use crate::wire::header::Header;

use super::action::MockAction;
use super::events::Events;
use super::line::{Line, Outgoing, Work};
use super::requests::{self, MockRequest};

/// One server of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerId {
    Broker(usize),
    NameServer(usize),
}

/// One server or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    One(ServerId),
    EveryBroker,
    EveryNameServer,
    Every,
}

impl Servers {
    pub(super) fn include(self, server: ServerId) -> bool {
        match self {
            Servers::One(one) => one == server,
            Servers::EveryBroker => matches!(server, ServerId::Broker(_)),
            Servers::EveryNameServer => matches!(server, ServerId::NameServer(_)),
            Servers::Every => true,
        }
    }
}

/// A closure that looks at a request and says what to do with it.
pub(super) type Hook = Arc<dyn Fn(&MockRequest) -> MockAction + Send + Sync>;

/// What a rule says.
#[derive(Clone)]
pub(super) enum What {
    Act(MockAction),
    Ask(Hook),
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Act(action) => action.fmt(f),
            What::Ask(_) => f.write_str("a closure"),
        }
    }
}

/// Which requests a rule is for, and which of those it takes.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) servers: Servers,
    pub(super) code: Option<RequestCode>,
    pub(super) topic: Option<String>,
    pub(super) skip: u64,
    /// At least 1.
    pub(super) every: u64,
    pub(super) times: Option<u64>,
}

impl Pattern {
    fn matches(&self, server: ServerId, header: &Header<'_>) -> bool {
        self.servers.include(server)
            && self.code.is_none_or(|code| code.value() == header.code)
            && self
                .topic
                .as_deref()
                .is_none_or(|topic| requests::topic(header).as_deref() == Some(topic))
    }

    /// Whether the rule takes the request that is number `seen`, from 0, of those that match.
    fn takes(&self, seen: u64) -> bool {
        seen.checked_sub(self.skip)
            .is_some_and(|behind| behind % self.every == self.every - 1)
    }
}

#[derive(Debug)]
struct Rule {
    id: u64,
    pattern: Pattern,
    what: What,
    holding: Option<Arc<Holding>>,
    seen: u64,
    taken: Arc<AtomicU64>,
}

impl Rule {
    fn is_used_up(&self) -> bool {
        let taken = self.taken.load(Ordering::SeqCst);
        self.pattern.times.is_some_and(|times| taken >= times)
    }
}

/// What a rule says about one request.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) action: Option<MockAction>,
    pub(super) holding: Option<Arc<Holding>>,
}

/// The rules of a cluster, and the log of its requests.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Set by the first rule, state or log, and never taken back: until then requests take the short way.
    is_active: AtomicBool,
    is_recording: AtomicBool,
    next_id: AtomicU64,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Arc<MockRequest>>>,
}

impl Faults {
    /// Whether a request has to take the long way. All that the short way costs.
    pub(super) fn is_active(&self) -> bool {
        // What the script says was said before the request was sent, which orders the two.
        self.is_active.load(Ordering::Relaxed)
    }

    pub(super) fn activate(&self) {
        self.is_active.store(true, Ordering::SeqCst);
    }

    pub(super) fn add(&self, pattern: Pattern, what: What, group: Option<usize>) -> (u64, Arc<AtomicU64>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let taken = Arc::new(AtomicU64::new(0));
        self.rules.lock().push(Rule {
            id,
            pattern,
            what,
            holding: group.map(|group| Arc::new(Holding::new(group))),
            seen: 0,
            taken: Arc::clone(&taken),
        });
        self.activate();
        (id, taken)
    }

    /// What the first matching rule says about this request.
    pub(super) fn take(
        &self,
        server: ServerId,
        header: &Header<'_>,
        describe: impl FnOnce() -> Arc<MockRequest>,
    ) -> Option<Taken> {
        let mut rules = self.rules.lock();
        let is_next = |rule: &mut Rule| {
            if rule.is_used_up() || !rule.pattern.matches(server, header) {
                return false;
            }
            let takes = rule.pattern.takes(rule.seen);
            rule.seen += 1;
            takes
        };
        let position = rules.iter_mut().position(is_next)?;
        let rule = rules.get(position)?;
        rule.taken.fetch_add(1, Ordering::SeqCst);
        let (what, holding) = (rule.what.clone(), rule.holding.clone());
        if rule.is_used_up() {
            // The last answer of a rule completes its group, however small.
            if let Some(holding) = &holding {
                holding.complete_next();
            }
            rules.remove(position);
        }
        drop(rules);
        let action = match what {
            What::Act(action) => action,
            What::Ask(hook) => hook(&describe()),
        };
        Some(Taken {
            action: Some(action),
            holding,
        })
    }

    /// Removes one rule, or all.
    fn remove(&self, is_wanted: impl Fn(u64) -> bool) {
        let mut rules = self.rules.lock();
        let (removed, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut *rules)
            .into_iter()
            .partition(|rule| is_wanted(rule.id));
        *rules = kept;
        drop(rules);
        for holding in removed.into_iter().filter_map(|rule| rule.holding) {
            holding.release();
        }
    }

    pub(super) fn clear(&self) {
        self.remove(|_| true);
    }

    /// What is left of the script, one line for each rule: limited ones that are not used up, others never used.
    pub(super) fn left(&self) -> Vec<String> {
        let describe = |rule: &Rule| {
            let taken = rule.taken.load(Ordering::SeqCst);
            let is_left = rule.pattern.times.is_some() || taken == 0;
            is_left.then(|| format!("taken {taken} times: {:?} -> {:?}", rule.pattern, rule.what))
        };
        self.rules.lock().iter().filter_map(describe).collect()
    }

    pub(super) fn start_recording(&self) {
        self.is_recording.store(true, Ordering::SeqCst);
        self.activate();
    }

    pub(super) fn is_recording(&self) -> bool {
        self.is_recording.load(Ordering::Relaxed)
    }

    pub(super) fn record(&self, request: &Arc<MockRequest>) {
        self.log.lock().push(Arc::clone(request));
    }

    pub(super) fn log(&self) -> Vec<MockRequest> {
        let log = self.log.lock().clone();
        log.iter().map(|request| MockRequest::clone(request)).collect()
    }
}

/// Answers that wait for others, to be sent in the opposite order.
#[derive(Debug)]
pub(super) struct Holding {
    group: usize,
    state: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    is_last: bool,
    answers: Vec<(Weak<Line>, Vec<u8>)>,
}

impl Holding {
    fn new(group: usize) -> Holding {
        Holding {
            group,
            state: Mutex::default(),
        }
    }

    fn complete_next(&self) {
        self.state.lock().is_last = true;
    }

    /// Keeps an answer back; sends all when the group is complete. The connection's late thread must run.
    pub(super) fn hold(&self, line: &Arc<Line>, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        state.answers.push((Arc::downgrade(line), bytes));
        let is_complete = state.is_last || state.answers.len() >= self.group;
        drop(state);
        if is_complete {
            self.release();
        }
    }

    fn release(&self) {
        let answers = std::mem::take(&mut self.state.lock().answers);
        for (line, bytes) in answers.into_iter().rev() {
            if let Some(line) = line.upgrade() {
                let outgoing = Outgoing {
                    bytes,
                    ..Outgoing::default()
                };
                let has_no_thread = line.push(Instant::now(), Work::Write(outgoing));
                debug_assert!(!has_no_thread, "it was started when the answer was held");
            }
        }
    }
}

/// A rule of a fault script, as long as its cluster lives. Dropping this leaves the rule as it is.
///
/// ```
/// use rocketmq_producer::{RequestCode, mock::MockCluster};
///
/// let cluster = MockCluster::start(1)?;
/// let rule = cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2).always().silence();
/// assert_eq!(rule.taken(), 0, "nobody has sent anything yet");
/// rule.clear(); // from now on the broker answers again
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MockRule {
    pub(super) id: u64,
    pub(super) taken: Arc<AtomicU64>,
    pub(super) shared: Arc<super::shared::Shared>,
}

impl MockRule {
    /// How many requests the rule has taken so far. [`MockCluster::wait_until`](super::MockCluster::wait_until) looks
    /// again whenever this changes.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Removes the rule; requests that it has taken go their way. Answers that it holds back are sent.
    pub fn clear(&self) {
        self.shared.faults.remove(|id| id == self.id);
        let events: &Events = &self.shared.events;
        events.happened();
    }
}
