//! The account of a test with faults: what each sender was told, against what the brokers hold in the end.
//!
//! Every message has a key of its own and a body that follows from the key, so that nothing can be stored that was not
//! sent. Knows nothing of faults but when there was one.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::Write,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rocketmq_producer::{Delivery, Error, Message, Redelivery, SendResult};
use serde_json::Value;

use crate::support::{RealCluster, wait_until};

/// How long the ends of the queues must stay where they are before they are read.
const STABLE: Duration = Duration::from_millis(1500);

/// A send may come back so much later than its time: this machine is busy with servers.
const GRACE: Duration = Duration::from_secs(1);

/// Sends may still fail for so long after the fault is over.
const RECOVERY: Duration = Duration::from_secs(3);

/// How large the bodies are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bodies {
    /// 1 byte to 64 KiB, most of them small.
    Mixed,
    /// 16 KiB to 64 KiB, to fill the buffers of a connection.
    Large,
}

/// Where a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    broker_name: String,
    queue_id: u64,
    queue_offset: u64,
    message_id: String,
    offset_message_id: String,
}

/// What a sender was told.
#[derive(Debug)]
enum Told {
    Stored { place: Place },
    Failed { delivery: Delivery, text: String },
}

#[derive(Debug)]
struct Entry {
    key: String,
    length: usize,
    crc32: u32,
    redelivery: Redelivery,
    began: Instant,
    /// When the send was over, with what, and how many copies that allows.
    ended: Option<(Instant, Told, u32)>,
}

/// One message in the brokers' account.
struct Copy {
    place: Place,
    length: Option<u64>,
    crc32: Option<u64>,
}

#[derive(Default)]
struct Book {
    entries: Vec<Entry>,
    answered_twice: usize,
    /// From when to when sends may have failed; the last may still go on.
    troubles: Vec<(Instant, Option<Instant>)>,
    /// What was stored by sends that began before may have been taken away again.
    swept: Option<Instant>,
}

/// The sends of one test to one topic.
pub(crate) struct Ledger {
    pub(crate) topic: String,
    /// The time that each send has.
    pub(crate) timeout: Duration,
    book: Mutex<Book>,
}

impl Ledger {
    /// For sends that have so much time each.
    pub(crate) fn new(topic: &str, timeout: Duration) -> Self {
        Self {
            topic: topic.to_owned(),
            timeout,
            book: Mutex::default(),
        }
    }

    /// Opens the entry of a new message, and returns both.
    pub(crate) fn begin(
        &self,
        lane: &str,
        number: usize,
        bodies: Bodies,
        redelivery: Redelivery,
    ) -> (usize, Message) {
        let key = format!("{lane}-{number}");
        let body = body(&key, bodies);
        let (length, crc32) = (body.len(), crc32(&body));
        let message = Message::builder(&*self.topic).keys([&key]).body(body);
        let message = message.build().unwrap();
        let mut book = self.book.lock();
        book.entries.push(Entry {
            key,
            length,
            crc32,
            redelivery,
            began: Instant::now(),
            ended: None,
        });
        (book.entries.len() - 1, message)
    }

    /// Closes an entry with what the sender was told.
    pub(crate) fn end(&self, entry: usize, outcome: Result<&SendResult, &Error>) {
        let now = Instant::now();
        let told = match outcome {
            Ok(result) => Told::Stored {
                place: Place::told(result),
            },
            Err(error) => Told::Failed {
                delivery: error.delivery(),
                text: error.to_string(),
            },
        };
        let mut book = self.book.lock();
        let ended = book.entries[entry]
            .ended
            .replace((now, told, most_copies(outcome)));
        book.answered_twice += usize::from(ended.is_some());
    }

    /// A fault begins: from now on sends may fail.
    pub(crate) fn trouble_begins(&self) {
        self.book.lock().troubles.push((Instant::now(), None));
    }

    /// The cluster is as it was: soon no send may fail any more.
    pub(crate) fn trouble_ends(&self) {
        let now = Instant::now();
        let mut book = self.book.lock();
        let last = book.troubles.last_mut().expect("it began");
        last.1 = Some(now + RECOVERY);
    }

    /// Everything that was stored so far has been taken away, but for what came through at the last moment.
    pub(crate) fn swept_away(&self) {
        self.book.lock().swept = Some(Instant::now());
    }

    /// Waits until so many more messages are acknowledged whose sends begin from now on.
    #[track_caller]
    pub(crate) fn wait_for_acknowledged(&self, more: usize) {
        let now = Instant::now();
        wait_until(&format!("{more} more messages are acknowledged"), || {
            self.share_acknowledged(now, Instant::now()).0 >= more
        });
    }

    /// Of the at-least-once sends that began within that time and are over: how many were acknowledged, and how many there
    /// were.
    pub(crate) fn share_acknowledged(&self, from: Instant, to: Instant) -> (usize, usize) {
        let book = self.book.lock();
        let within = |entry: &&Entry| {
            entry.redelivery == Redelivery::AtLeastOnce && from <= entry.began && entry.began < to
        };
        let over = book.entries.iter().filter(within);
        let over: Vec<_> = over.filter_map(|entry| entry.ended.as_ref()).collect();
        let stored = over.iter().filter(|(_, told, _)| told.is_stored()).count();
        (stored, over.len())
    }

    /// The errors of the sends that failed, of those with this redelivery.
    pub(crate) fn failures(&self, redelivery: Redelivery) -> Vec<(Delivery, String)> {
        let book = self.book.lock();
        let entries = book.entries.iter().filter(|entry| entry.redelivery == redelivery);
        let failed = entries.filter_map(|entry| match &entry.ended {
            Some((_, Told::Failed { delivery, text }, _)) => Some((*delivery, text.clone())),
            _ => None,
        });
        failed.collect()
    }

    /// The offsets that the messages of a lane were acknowledged at, in the order in which they were sent, by queue.
    pub(crate) fn offsets(&self, lane: &str) -> HashMap<(String, u64), Vec<u64>> {
        let prefix = format!("{lane}-");
        let mut offsets: HashMap<_, Vec<u64>> = HashMap::new();
        for entry in &self.book.lock().entries {
            if let Some((_, Told::Stored { place }, _)) = &entry.ended {
                if entry.key.starts_with(&prefix) {
                    let queue = (place.broker_name.clone(), place.queue_id);
                    offsets.entry(queue).or_default().push(place.queue_offset);
                }
            }
        }
        offsets
    }

    /// Reads what the brokers hold and compares. Says the counts aloud, and panics if an equation is violated.
    #[track_caller]
    pub(crate) fn reconcile(&self, cluster: &RealCluster, test: &str) -> Account {
        let book = self.book.lock();
        let expected = {
            let mut ended = book
                .entries
                .iter()
                .filter_map(|entry| Some((entry, entry.ended.as_ref()?)));
            let must_lie = |entry: &Entry| book.swept.is_none_or(|swept| swept < entry.began);
            ended
                .by_ref()
                .filter(|(entry, (_, told, _))| told.is_stored() && must_lie(entry))
                .count()
        };
        let stable = STABLE.as_millis();
        let lines = cluster.java(&format!("survey {} {expected} {stable} 20000", self.topic));
        let account = self.compare(&book, &lines);
        let line = format!("RECONCILED: {test} {}: {account}\n", cluster.version);
        // One write to the real standard error: libtest hides what the macros print.
        drop(std::io::stderr().write_all(line.as_bytes()));
        assert!(
            account.faults.is_empty(),
            "{test} {}: {account}\n{}",
            cluster.version,
            account.faults[..account.faults.len().min(20)].join("\n")
        );
        account
    }

    fn compare(&self, book: &Book, lines: &[Value]) -> Account {
        let mut account = Account::default();
        let mut copies: HashMap<String, Vec<Copy>> = HashMap::new();
        for line in lines {
            let key = line["keys"].as_str().unwrap_or_default().to_owned();
            copies.entry(key).or_default().push(Copy::read(line));
        }
        account.stored = lines.len();
        let ids: HashSet<_> = copies
            .values()
            .flatten()
            .map(|copy| &copy.place.message_id)
            .collect();
        account.check("phantom", ids.len() != copies.len(), || {
            format!("{} message ids of {} messages", ids.len(), copies.len())
        });
        account.check("unanswered", book.answered_twice > 0, || {
            format!("{} outcomes came twice", book.answered_twice)
        });
        for entry in &book.entries {
            let copies = copies.remove(&entry.key).unwrap_or_default();
            self.compare_one(&mut account, book, entry, &copies);
        }
        for key in copies.keys() {
            account.check("phantom", true, || format!("{key:?} was never sent"));
        }
        account
    }

    fn compare_one(&self, account: &mut Account, book: &Book, entry: &Entry, copies: &[Copy]) {
        account.sent += 1;
        let key = &entry.key;
        let Some((ended, told, most_copies)) = &entry.ended else {
            return account.check("unanswered", true, || format!("{key} has no outcome"));
        };
        let took = ended.duration_since(entry.began);
        account.check("late", took > self.timeout + GRACE, || {
            format!("{key} took {took:?}")
        });
        account.duplicates += copies.len().saturating_sub(1);
        account.check(
            "unexplained",
            copies.len() > 1 && copies.len() > *most_copies as usize,
            || {
                format!(
                    "{key} is stored {} times, at most {most_copies} are explained by {told:?}",
                    copies.len()
                )
            },
        );
        let is_second = |copy: &Copy| copies[0].place.message_id != copy.place.message_id;
        let is_once = entry.redelivery == Redelivery::NoDuplicates;
        account.check("unexplained", is_once && copies.len() > 1, || {
            format!("{key} is stored {} times in spite of NoDuplicates", copies.len())
        });
        account.check(
            "phantom",
            copies.iter().any(|copy| !copy.is_of(entry) || is_second(copy)),
            || format!("{key} is stored otherwise than it was sent"),
        );
        match told {
            Told::Stored { place } => {
                account.acknowledged += 1;
                let may_be_gone = book.swept.is_some_and(|swept| entry.began <= swept);
                account.swept += usize::from(may_be_gone && copies.is_empty());
                account.check("lost", copies.is_empty() && !may_be_gone, || {
                    format!("{key}, said to be at {place:?}")
                });
                let is_there = copies.iter().any(|copy| copy.place == *place);
                account.check(
                    "misplaced",
                    !copies.is_empty() && !is_there && !may_be_gone,
                    || {
                        let places: Vec<_> = copies.iter().map(|copy| &copy.place).collect();
                        format!("{key} is not at {place:?} but at {places:?}")
                    },
                );
            }
            Told::Failed { delivery, text } => {
                match delivery {
                    Delivery::NotStored => account.not_stored += 1,
                    Delivery::Refused => account.refused += 1,
                    _ => account.unknown += 1,
                }
                account.recovered += usize::from(*delivery == Delivery::Unknown && !copies.is_empty());
                account.check("false", delivery.is_not_stored() && !copies.is_empty(), || {
                    format!("{key} is stored although: {text}")
                });
                let is_explained = book
                    .troubles
                    .iter()
                    .any(|(from, to)| *from <= *ended && to.is_none_or(|to| entry.began <= to));
                account.check("causeless", !is_explained, || {
                    format!("{key} failed without a fault: {text}")
                });
            }
        }
    }
}

/// The counts of one test.
#[derive(Default)]
pub(crate) struct Account {
    pub(crate) sent: usize,
    pub(crate) acknowledged: usize,
    pub(crate) not_stored: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    /// Of the unknown ones, those that are stored.
    pub(crate) recovered: usize,
    /// All copies of all messages.
    pub(crate) stored: usize,
    pub(crate) duplicates: usize,
    /// Acknowledged, and taken away by an administrator.
    swept: usize,
    violations: HashMap<&'static str, usize>,
    faults: Vec<String>,
}

impl Account {
    fn check(&mut self, equation: &'static str, is_violated: bool, say: impl FnOnce() -> String) {
        if is_violated {
            *self.violations.entry(equation).or_default() += 1;
            self.faults.push(format!("{equation}: {}", say()));
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            acknowledged,
            not_stored,
            refused,
            unknown,
            recovered,
            stored,
            duplicates,
            swept,
            ..
        } = self;
        write!(
            f,
            "sent {sent}, acknowledged {acknowledged}, not stored {not_stored}, refused {refused}, unknown {unknown} \
             ({recovered} of them stored), stored {stored} ({duplicates} of them duplicates), deleted {swept}"
        )?;
        for equation in [
            "lost",
            "false",
            "misplaced",
            "phantom",
            "unexplained",
            "causeless",
            "unanswered",
            "late",
        ] {
            write!(f, ", {equation} {}", self.violations.get(equation).unwrap_or(&0))?;
        }
        Ok(())
    }
}

impl Told {
    fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }
}

impl Place {
    fn told(result: &SendResult) -> Self {
        Self {
            broker_name: result.queue.broker_name().to_owned(),
            queue_id: result.queue.queue_id().into(),
            queue_offset: result.queue_offset,
            message_id: result.message_id.to_string(),
            offset_message_id: result.offset_message_id.to_string(),
        }
    }
}

impl Copy {
    fn read(line: &Value) -> Self {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Self {
            place: Place {
                broker_name: text("broker_name"),
                queue_id: line["queue_id"].as_u64().expect("a queue id"),
                queue_offset: line["queue_offset"].as_u64().expect("an offset"),
                message_id: text("message_id"),
                offset_message_id: text("offset_message_id"),
            },
            length: line["length"].as_u64(),
            crc32: line["crc32"].as_u64(),
        }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        self.length == u64::try_from(entry.length).ok() && self.crc32 == Some(entry.crc32.into())
    }
}

/// How many copies there may be: one by the attempt that was acknowledged, and one by each that ended without a verdict.
fn most_copies(outcome: Result<&SendResult, &Error>) -> u32 {
    match outcome {
        Ok(result) if result.may_be_duplicated => result.attempts,
        Ok(_) => 1,
        Err(Error::Failed(failed)) => {
            let attempts = failed.attempts();
            let unknown = attempts
                .iter()
                .filter(|attempt| attempt.error.delivery() == Delivery::Unknown);
            let unlisted = failed.attempts_begun() as usize - attempts.len();
            u32::try_from(unknown.count() + unlisted).unwrap()
        }
        Err(error) => u32::from(error.delivery() == Delivery::Unknown),
    }
}

/// The body that follows from a key.
fn body(key: &str, bodies: Bodies) -> Vec<u8> {
    // FNV-1a, then xorshift.
    let mut state = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (kind, size) = (next() % 16, next());
    let length = match (bodies, kind) {
        (Bodies::Large, _) => 16_384 + size % 49_153,
        (Bodies::Mixed, 0) => 1 + size % 65_536,
        (Bodies::Mixed, 1..=5) => 1 + size % 4096,
        (Bodies::Mixed, _) => 1 + size % 256,
    };
    let length = usize::try_from(length).unwrap();
    let mut body = Vec::with_capacity(length + 8);
    while body.len() < length {
        body.extend(next().to_le_bytes());
    }
    body.truncate(length);
    body
}

/// As `java.util.zip.CRC32`.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0_u32;
        while index < 256 {
            let mut value = index;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    0xedb8_8320 ^ (value >> 1)
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index as usize] = value;
            index += 1;
        }
        table
    };
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8)
    });
    !crc
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NO_COPY: [u64; 0] = [];

    /// One message of which the sender was told this, and which lies at these offsets.
    fn account(
        told: impl FnOnce(Place) -> Told,
        most_copies: u32,
        redelivery: Redelivery,
        offsets: &[u64],
        change: impl Fn(&mut Value),
    ) -> String {
        let ledger = Ledger::new("topic", Duration::from_secs(1));
        let (number, _) = ledger.begin("lane", 0, Bodies::Mixed, redelivery);
        ledger.trouble_begins();
        let place = Place {
            broker_name: "broker-a".into(),
            queue_id: 1,
            queue_offset: 7,
            message_id: "unique".into(),
            offset_message_id: "offset 7".into(),
        };
        let mut book = ledger.book.lock();
        let entry = &mut book.entries[number];
        entry.ended = Some((Instant::now(), told(place), most_copies));
        let line = |offset: &u64| {
            let mut line = json!({
                "broker_name": "broker-a", "queue_id": 1, "queue_offset": offset, "message_id": "unique",
                "offset_message_id": format!("offset {offset}"), "keys": entry.key, "length": entry.length,
                "crc32": entry.crc32,
            });
            change(&mut line);
            line
        };
        let lines: Vec<_> = offsets.iter().map(line).collect();
        ledger.compare(&book, &lines).faults.join("; ")
    }

    fn stored(place: Place) -> Told {
        Told::Stored { place }
    }

    fn failed(delivery: Delivery) -> impl FnOnce(Place) -> Told {
        move |_| Told::Failed {
            delivery,
            text: "why".into(),
        }
    }

    #[test]
    fn an_account_that_is_right_is_left_alone() {
        let fault = |told: fn(Place) -> Told, offsets: &[u64]| {
            account(told, 1, Redelivery::AtLeastOnce, offsets, |_| ())
        };
        assert_eq!(fault(stored, &[7]), "");
        assert_eq!(fault(|place| failed(Delivery::Unknown)(place), &[9]), "");
        assert_eq!(fault(|place| failed(Delivery::Unknown)(place), &NO_COPY), "");
        assert_eq!(fault(|place| failed(Delivery::NotStored)(place), &NO_COPY), "");
        let twice = account(stored, 2, Redelivery::AtLeastOnce, &[3, 7], |_| ());
        assert_eq!(twice, "");
    }

    #[test]
    fn every_violation_is_noticed() {
        #[track_caller]
        fn assert_begins(fault: &str, equation: &str) {
            assert!(fault.starts_with(equation), "{equation}: {fault}");
        }
        let plain = Redelivery::AtLeastOnce;
        assert_begins(&account(stored, 1, plain, &NO_COPY, |_| ()), "lost");
        assert_begins(&account(stored, 1, plain, &[8], |_| ()), "misplaced");
        assert_begins(&account(stored, 1, plain, &[3, 7], |_| ()), "unexplained");
        let once = Redelivery::NoDuplicates;
        assert_begins(&account(stored, 2, once, &[3, 7], |_| ()), "unexplained");
        for delivery in [Delivery::NotStored, Delivery::Refused] {
            assert_begins(&account(failed(delivery), 0, plain, &[7], |_| ()), "false");
        }
        for (name, value) in [
            ("crc32", json!(1)),
            ("length", json!(0)),
            ("keys", json!("lane-1")),
        ] {
            let change = |line: &mut Value| line[name] = value.clone();
            let fault = account(failed(Delivery::Unknown), 1, plain, &[7], change);
            assert_begins(&fault, "phantom");
        }
    }

    #[test]
    fn the_checksum_is_java_s() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
