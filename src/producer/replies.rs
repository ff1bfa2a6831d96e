//! Correlation id -> who waits for the reply. Brokers push replies on a reader thread; whoever takes a waiter out of the table
//! tells it, so it is told once, and later copies find nobody.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
};

use super::{ids::unix_milliseconds, inbound::Serve, reply::Reply, stats::RequestCounts};
use crate::{
    cluster::routes::Routes,
    code::ResponseCode,
    error::Error,
    message::StoredMessage,
    net::{
        inbound::{Answer, Handled, InboundRequest},
        sync::{AtomicU64, Mutex, Ordering},
    },
    wire::{compression::decompress, request::push_reply::PushReply},
};

/// What comes to whoever waits for a reply.
pub(super) enum Arrival {
    Reply(StoredMessage),
    /// A reply came, and this is why its body cannot be read.
    Unreadable(Arc<str>),
    /// None will come: the producer is shut down.
    ShutDown,
}

/// Whoever waits for a reply.
pub(super) trait Requester: Send + Sync {
    /// Called at most once, on a reader thread or by the shutdown; must not block.
    fn arrived(self: Arc<Self>, arrival: Arrival);
}

#[derive(Default)]
struct Table {
    waiting: HashMap<Arc<str>, Arc<dyn Requester>>,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Replies {
    table: Mutex<Table>,
    replied: AtomicU64,
    unanswered: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
}

/// A place in the table. Dropping it gives it up.
pub(super) struct Waiting {
    replies: Arc<Replies>,
    pub(super) correlation_id: Arc<str>,
}

impl Replies {
    /// Enters somebody under a new correlation id.
    pub(super) fn wait(self: &Arc<Self>, requester: Arc<dyn Requester>) -> Result<Waiting, Error> {
        let correlation_id = correlation_id();
        let mut table = self.table.lock();
        if table.closed {
            return Err(Error::ShutDown);
        }
        table.waiting.insert(Arc::clone(&correlation_id), requester);
        drop(table);
        Ok(Waiting {
            replies: Arc::clone(self),
            correlation_id,
        })
    }

    /// Tells all who wait that nothing will come, and lets nobody in any more.
    pub(super) fn close(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        let waiting = std::mem::take(&mut table.waiting);
        drop(table);
        for requester in waiting.into_values() {
            requester.arrived(Arrival::ShutDown);
        }
    }

    /// Serves the replies that brokers push.
    pub(super) fn serve(self: &Arc<Self>, routes: &Arc<Routes>) -> Serve {
        // Routes own the connections, whose readers call here.
        let (replies, routes) = (Arc::clone(self), Arc::downgrade(routes));
        Box::new(move |request| replies.take_in(request, &routes))
    }

    fn take_in(&self, request: &InboundRequest<'_>, routes: &Weak<Routes>) -> Handled {
        let address = request.connection.address();
        let push = match PushReply::decode(request.header) {
            Ok(push) => push,
            Err(error) => {
                log::warn!("{address}: a pushed reply cannot be read: {error}");
                // As `ClientRemotingProcessor.receiveReplyMessage`.
                return Handled::Answered(Answer {
                    code: ResponseCode::SYSTEM_ERROR,
                    remark: Some("process reply message fail".into()),
                    fields: Vec::new(),
                });
            }
        };
        let requester = push
            .correlation_id()
            .and_then(|correlation_id| self.table.lock().waiting.remove(correlation_id));
        if let Some(requester) = requester {
            let arrival = match readable(push.sys_flag, request.body) {
                Ok(body) => {
                    let broker_name = routes
                        .upgrade()
                        .and_then(|routes| routes.broker_name(address))
                        .unwrap_or_else(|| Arc::clone(address));
                    Arrival::Reply(push.message(body, broker_name, unix_milliseconds()))
                }
                Err(reason) => Arrival::Unreadable(reason),
            };
            requester.arrived(arrival);
        } else {
            self.late.fetch_add(1, Ordering::Relaxed);
            log::debug!(
                "{address}: dropped a reply that nobody waits for (correlation id {:.80?})",
                push.correlation_id()
            );
        }
        // Whether somebody waited or not: else the broker would tell the replier that it failed, which would send it again.
        Handled::Answered(Answer::success())
    }

    /// Counts how a request ended.
    pub(super) fn ended(&self, outcome: &Result<Reply, Error>) {
        let counter = match outcome {
            Ok(_) => &self.replied,
            Err(Error::NoReply(_)) => &self.unanswered,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            waiting: self.table.lock().waiting.len(),
            replied: read(&self.replied),
            unanswered: read(&self.unanswered),
            failed: read(&self.failed),
            late_replies: read(&self.late),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let removed = self.replies.table.lock().waiting.remove(&self.correlation_id);
        drop(removed);
    }
}

/// The body of a reply as its sender gave it. `wire::compression` bounds what a compressed one may become.
fn readable(sys_flag: i32, body: &[u8]) -> Result<Vec<u8>, Arc<str>> {
    match decompress(sys_flag, body) {
        Ok(body) => Ok(body.into_owned()),
        Err(error) => Err(error.to_string().into()),
    }
}

/// A random UUID (version 4) as text, as `CorrelationIdUtil.createCorrelationId`.
fn correlation_id() -> Arc<str> {
    // The hasher's keys are random, and differ from call to call.
    let hasher = RandomState::new();
    let [high, low] = [1_u8, 2].map(|part| hasher.hash_one((part, unix_milliseconds())));
    let high = high & 0xFFFF_FFFF_FFFF_0FFF | 0x4000;
    let low = low & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[derive(Default)]
    struct Noted(Mutex<Vec<&'static str>>);

    impl Requester for Noted {
        fn arrived(self: Arc<Self>, arrival: Arrival) {
            self.0.lock().push(match arrival {
                Arrival::Reply(_) => "reply",
                Arrival::Unreadable(_) => "unreadable",
                Arrival::ShutDown => "shut down",
            });
        }
    }

    #[test]
    fn correlation_ids_are_random_uuids() {
        let ids: HashSet<_> = (0..10_000).map(|_| correlation_id()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let lengths: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(id.as_bytes()[14], b'4', "{id}");
            assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        }
    }

    #[cfg(feature = "zlib")]
    #[test]
    fn a_compressed_body_is_taken_apart_and_a_bomb_is_refused() {
        use crate::{
            message::CompressionType,
            wire::{
                compression::{compress, sys_flag},
                limits::MAX_DECOMPRESSED_BYTES,
            },
        };
        let zlib = |length| compress(CompressionType::Zlib, 5, &vec![b'x'; length]).unwrap();
        let flag = sys_flag(CompressionType::Zlib);
        assert_eq!(readable(flag, &zlib(20_000)), Ok(vec![b'x'; 20_000]));
        let bomb = zlib(MAX_DECOMPRESSED_BYTES + 1);
        assert!(bomb.len() < 20_000, "{}", bomb.len());
        assert!(
            readable(flag, &bomb)
                .unwrap_err()
                .contains("would take more than")
        );
        assert_eq!(readable(0, b"plain"), Ok(b"plain".to_vec()));
    }

    #[test]
    fn a_place_ends_with_its_guard_or_with_the_table() {
        let replies = Arc::new(Replies::default());
        let requester = Arc::new(Noted::default());
        let waiting = replies.wait(Arc::<Noted>::clone(&requester)).unwrap();
        assert_eq!(replies.read().waiting, 1);
        drop(waiting);
        assert_eq!(replies.read().waiting, 0);
        let _waiting = replies.wait(Arc::<Noted>::clone(&requester)).unwrap();
        replies.close();
        replies.close();
        assert_eq!(*requester.0.lock(), ["shut down"]);
        assert!(matches!(replies.wait(requester), Err(Error::ShutDown)));
    }
}
