//! Addresses may be host names and IPv6 literals; of a name that resolves to several, all are tried.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use support::{PATIENCE, fake_server::FakeServer, message, producer_for, send_async_and_wait, within};

/// Passes everything on to an IPv4 address, from a port of its own on the IPv6 loopback address. Its threads end with the
/// connections, and the listening one with the process.
fn on_ipv6(target: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("[::1]:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (here, there) = (stream.unwrap(), TcpStream::connect(target).unwrap());
            for (mut from, mut to) in [
                (here.try_clone().unwrap(), there.try_clone().unwrap()),
                (there, here),
            ] {
                thread::spawn(move || {
                    io::copy(&mut from, &mut to).ok();
                    to.shutdown(std::net::Shutdown::Write).ok();
                });
            }
        }
    });
    Ok(address)
}

#[test]
fn name_servers_and_brokers_may_have_ipv6_addresses() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let broker_address = match on_ipv6(broker.address()) {
            Ok(address) => address,
            Err(error) => {
                assert_ne!(
                    std::env::var("CI").as_deref(),
                    Ok("true"),
                    "no IPv6 here: {error}"
                );
                let line = format!(
                    "LEFT OUT: name_servers_and_brokers_may_have_ipv6_addresses: no IPv6 here ({error})\n"
                );
                io::stderr().write_all(line.as_bytes()).unwrap();
                return;
            }
        };
        let name_server = FakeServer::name_server(&[("broker-a", broker_address)]);
        let name_server_address = on_ipv6(name_server.address()).unwrap();
        assert!(name_server_address.to_string().starts_with("[::1]:"));
        let producer = producer_for(name_server_address).start().unwrap();
        assert!(producer.send(&message("orders")).is_ok());
        assert!(send_async_and_wait(&producer, message("orders")).is_ok());
        assert_eq!(broker.sends(), 2);
    });
}

#[test]
fn a_host_name_is_resolved() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
        let port = name_server.address().port();
        let producer = producer_for(format!("localhost:{port}")).start().unwrap();
        assert!(producer.send(&message("orders")).is_ok());
    });
}
