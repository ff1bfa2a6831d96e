//! What a test can do to the servers of a cluster: the subject of every sentence of a fault script.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::code::RequestCode;

use super::MockCluster;
use super::action::End;
use super::line::{Outgoing, Work};
use super::push::MockPushBuilder;
use super::requests::MockRequest;
use super::rule_builder::MockRuleBuilder;
use super::rules::{ServerId, Servers};
use super::scripted;
use super::server::RunningServer;

/// A server of the cluster, or several, for a test to do something to.
///
/// ```
/// use std::net::TcpStream;
/// use rocketmq_producer::mock::MockCluster;
///
/// let cluster = MockCluster::start(2)?;
/// let address = cluster.broker_address("broker-a").expect("there are two brokers");
/// cluster.broker("broker-a").set_down();
/// assert!(TcpStream::connect(address).is_err());
/// cluster.broker("broker-a").set_up()?;
/// assert!(TcpStream::connect(address).is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MockServer<'a> {
    pub(super) cluster: &'a MockCluster,
    pub(super) servers: Servers,
}

impl MockCluster {
    /// A broker, for a test to do something to.
    ///
    /// # Panics
    ///
    /// If there is no broker of this name.
    pub fn broker(&self, broker_name: &str) -> MockServer<'_> {
        let named = |running: &RunningServer| running.server.name() == broker_name;
        let index = self.brokers.iter().position(named);
        assert!(
            index.is_some(),
            "there is no broker {broker_name} in {:?}",
            self.broker_names()
        );
        self.choose(Servers::One(ServerId::Broker(index.unwrap_or(usize::MAX))))
    }

    /// A name server, by its position in [`Self::name_servers`].
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn name_server(&self, index: usize) -> MockServer<'_> {
        let count = self.name_servers.len();
        assert!(
            index < count,
            "there is no name server {index}, there are {count}"
        );
        self.choose(Servers::One(ServerId::NameServer(index)))
    }

    /// All brokers: a rule for them takes a request of any.
    pub fn any_broker(&self) -> MockServer<'_> {
        self.choose(Servers::EveryBroker)
    }

    /// All name servers.
    pub fn any_name_server(&self) -> MockServer<'_> {
        self.choose(Servers::EveryNameServer)
    }

    /// All brokers and name servers.
    pub fn any_server(&self) -> MockServer<'_> {
        self.choose(Servers::Every)
    }

    fn choose(&self, servers: Servers) -> MockServer<'_> {
        MockServer {
            cluster: self,
            servers,
        }
    }

    /// Removes all rules. Requests that they have taken go their way; servers that are down or paused stay so.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
        self.shared.events.happened();
    }

    /// Checks that the script was played to its end.
    ///
    /// # Panics
    ///
    /// If a limited rule is not used up, or another has taken nothing, unless it was cleared.
    pub fn assert_no_rule_left(&self) {
        let left = self.shared.faults.left();
        assert!(left.is_empty(), "rules are left:\n{}", left.join("\n"));
    }

    /// From now on every request is kept for [`Self::request_log`], with its body: for tests, not for measurements.
    pub fn record_requests(&self) {
        self.shared.faults.start_recording();
    }

    /// The requests since [`Self::record_requests`], in the order in which they were read.
    ///
    /// # Panics
    ///
    /// If requests were never recorded.
    pub fn request_log(&self) -> Vec<MockRequest> {
        let faults = &self.shared.faults;
        assert!(
            faults.is_recording(),
            "call record_requests() before the requests come"
        );
        faults.log()
    }
}

impl<'a> MockServer<'a> {
    /// Begins a rule for requests with this code.
    pub fn on(self, code: RequestCode) -> MockRuleBuilder<'a> {
        MockRuleBuilder::new(self, Some(code))
    }

    /// Begins a rule for requests of any kind, heartbeats included.
    pub fn on_any(self) -> MockRuleBuilder<'a> {
        MockRuleBuilder::new(self, None)
    }

    /// Takes the server down as if its process were killed: connections end, requests that wait are lost, and new
    /// connections are refused. What was stored stays. Returns when all of that has happened. Routes still name a broker
    /// that is down, as those of real name servers do for a while: see [`Self::hide_from_routes`].
    pub fn set_down(self) {
        for running in self.running() {
            running.stop(true);
        }
    }

    /// Takes the server down as if its network were gone: connections end, and whoever wants to connect waits for an
    /// answer that never comes. Until [`Self::set_up`]; then those who still wait get through. Linux only: other systems
    /// may refuse.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says when it gives no socket.
    pub fn set_unreachable(self) -> io::Result<()> {
        self.set_down();
        self.running().try_for_each(RunningServer::turn_deaf)
    }

    /// Brings the server up again, on the same port and with what it had stored. Nothing happens if it is up.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says when it gives no socket or no thread.
    pub fn set_up(self) -> io::Result<()> {
        self.running().try_for_each(|running| running.start_again(true))
    }

    /// Halts the server as SIGSTOP does: connections can still be made, as the system accepts them, but nothing is read,
    /// acted on or answered until [`Self::resume`]. What is under way on a thread at this very moment may still be
    /// carried out; its answer waits.
    pub fn pause(self) {
        self.cluster.shared.faults.activate();
        for running in self.running() {
            running.server.pause(true);
        }
    }

    /// Lets a paused server go on: it acts on everything that has come meanwhile, also from clients that have left.
    pub fn resume(self) {
        for running in self.running() {
            running.server.pause(false);
        }
    }

    /// Takes the server down and brings it up on another port. For a broker, routes name the new address from then on;
    /// of a name server nobody hears, until somebody asks [`MockCluster::name_servers`].
    ///
    /// # Errors
    ///
    /// See [`Self::set_up`].
    pub fn move_to_another_port(self) -> io::Result<()> {
        for running in self.running() {
            running.stop(true);
            running.start_again(false)?;
            if let ServerId::Broker(index) = running.server.id() {
                if let Some(place) = self.cluster.shared.brokers.get(index) {
                    place.moved_to(running.address().port());
                }
            }
        }
        self.cluster.shared.events.happened();
        Ok(())
    }

    /// Leaves the broker out of all routes, or names it again. It serves on.
    pub fn hide_from_routes(self, is_hidden: bool) {
        for running in self.running() {
            if let ServerId::Broker(index) = running.server.id() {
                if let Some(place) = self.cluster.shared.brokers.get(index) {
                    place.hide(is_hidden);
                }
            }
        }
        self.cluster.shared.events.happened();
    }

    /// Sets how many queues the broker has for a topic, which it gets if it has not got it.
    pub fn set_queues(self, topic: &str, queues: u32) {
        self.change_topic(topic, Some(queues), None);
    }

    /// Sets what clients may do with a topic on the broker: 6 read and write, 4 read only, 2 write only, 0 nothing. It
    /// is told in routes; brokers themselves do not look at it when something is sent.
    pub fn set_permission(self, topic: &str, permission: u32) {
        self.change_topic(topic, None, Some(permission));
    }

    fn change_topic(self, topic: &str, queues: Option<u32>, permission: Option<u32>) {
        for running in self.running() {
            if let ServerId::Broker(index) = running.server.id() {
                self.cluster
                    .shared
                    .topics
                    .change(index, topic, queues, permission);
            }
        }
        self.cluster.shared.events.happened();
    }

    /// Sends everything but heartbeats away with code 1500 (`GO_AWAY`) on the connections that are open now, for as long
    /// as they live. New connections are served.
    pub fn go_away(self) {
        self.cluster.shared.faults.activate();
        for running in self.running() {
            running.server.lines().iter().for_each(|line| line.go_away());
        }
    }

    /// Closes the connections that are open now; the server stays up.
    pub fn close_connections(self) {
        self.end_connections(End::Close);
    }

    /// Ends the connections that are open now by a reset; the server stays up.
    pub fn reset_connections(self) {
        self.end_connections(End::Reset);
    }

    fn end_connections(self, end: End) {
        self.cluster.shared.faults.activate();
        for running in self.running() {
            for line in running.server.lines() {
                let outgoing = Outgoing {
                    end,
                    ..Outgoing::default()
                };
                scripted::queue(&running.server, &line, Instant::now(), Work::Write(outgoing));
            }
        }
    }

    /// Begins a request of the server to its clients, such as `CHECK_TRANSACTION_STATE`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rocketmq_producer::{Message, Producer, RequestCode, mock::MockCluster};
    ///
    /// let cluster = MockCluster::start(1)?;
    /// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
    /// producer.send(&Message::new("orders", "first")?)?;
    /// let push = cluster.broker("broker-a").push(RequestCode::new(9999)).body("hello?").send();
    /// assert_eq!(push.sent_to().len(), 1);
    /// assert!(cluster.wait_until(Duration::from_secs(10), |_| push.answers().len() == 1));
    /// assert_eq!(push.answers()[0].code.value(), 3, "the client does not know it");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push(self, code: RequestCode) -> MockPushBuilder<'a> {
        MockPushBuilder::new(self, code)
    }

    /// The address, at this moment; of several servers that of the first. `None`: there is no such server at all.
    pub fn address(self) -> Option<SocketAddr> {
        self.running().next().map(RunningServer::address)
    }

    pub(super) fn running(self) -> impl Iterator<Item = &'a RunningServer> {
        let servers = self.servers;
        self.cluster
            .servers()
            .filter(move |running| servers.include(running.server.id()))
    }
}
