//! Whatever happened to its sends, a producer that has been dropped leaves neither a thread nor a descriptor behind.

#![cfg(all(target_os = "linux", feature = "mock"))]
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
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{
    LocalTransaction, Message, MessageQueue, Producer, ProducerBuilder, SendResult, StoredMessage, Target,
    TransactionListener, mock::MockCluster,
};
use support::{
    PATIENCE,
    fake_server::{FakeServer, Peer, RefusingAddress, Request, stored},
    message, milliseconds, producer_for, within,
};

/// The threads and descriptors of this process, with their names.
fn counted() -> (Vec<String>, Vec<String>) {
    let list = |folder: &str, name: &dyn Fn(fs::DirEntry) -> String| {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| name(entry.unwrap()))
            .collect();
        names.sort();
        names
    };
    let thread = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        name.trim().to_owned()
    };
    let descriptor = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        target.display().to_string()
    };
    (
        list("/proc/self/task", &thread),
        list("/proc/self/fd", &descriptor),
    )
}

/// Runs a case and fails unless there are as many threads and descriptors afterwards as before. A thread is gone for the
/// library when it has been joined; the system takes it off its list a moment later, so this looks again for a while.
fn assert_leaves_nothing(name: &str, case: fn()) {
    let before = counted();
    case();
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        let after = counted();
        if (after.0.len(), after.1.len()) == (before.0.len(), before.1.len()) {
            return;
        }
        assert!(
            Instant::now() < until,
            "{name}: before {before:#?}, after {after:#?}"
        );
        thread::yield_now();
    }
}

/// All verbs, whatever comes of them.
fn use_it(producer: &Producer) {
    let queue = MessageQueue::new("orders", "broker-a", 0);
    for _ in 0..3 {
        drop(producer.send(&message("orders")));
        drop(producer.send_oneway(&message("orders")));
        producer.send_async(message("orders"), drop);
        drop(producer.to(queue.clone()).send(&message("orders")));
        producer
            .to(Target::key("order-1"))
            .send_async(message("orders"), drop);
        drop(producer.publish_queues("orders"));
    }
}

fn brief(address: SocketAddr) -> ProducerBuilder {
    producer_for(address).send_timeout(milliseconds(60))
}

/// Uses a producer whose name server is this one.
fn with_name_server(server: &FakeServer) {
    use_it(&brief(server.address()).start().unwrap());
}

/// Uses a producer whose only broker is this one.
fn with_broker(broker: &FakeServer) {
    with_name_server(&FakeServer::name_server(&[("broker-a", broker.address())]));
}

fn with_broker_that(on_send: impl Fn(&Request, &Peer) + Send + Sync + 'static) {
    with_broker(&FakeServer::broker(on_send));
}

fn a_healthy_cluster() {
    with_broker(&FakeServer::healthy_broker());
}

fn never_used() {
    drop(brief("127.0.0.1:9876".parse().unwrap()).start().unwrap());
}

fn bad_name_servers() {
    let down = RefusingAddress::new();
    use_it(&brief(down.address()).start().unwrap());
    with_name_server(&FakeServer::silent());
    with_name_server(&FakeServer::raw(|_| {}));
    with_name_server(&FakeServer::writing("HTTP/1.1 400 Bad Request\r\n\r\n", true));
    with_name_server(&FakeServer::writing([21, 3, 1, 0, 2, 2, 10], false));
    with_name_server(&FakeServer::writing([0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0], false));
    with_name_server(&FakeServer::writing([0, 0, 1, 0, 0, 0, 0, 200, b'{'], true));
    with_name_server(&FakeServer::start(|request, peer| {
        peer.refuse(request, 17, "no route");
    }));
}

fn a_broker_that_is_down() {
    let down = RefusingAddress::new();
    with_name_server(&FakeServer::name_server(&[("broker-a", down.address())]));
}

fn silent_brokers() {
    with_broker(&FakeServer::silent());
    with_broker_that(|_, _| {});
}

fn brokers_that_hang_up() {
    with_broker(&FakeServer::raw(|_| {}));
    with_broker_that(|_, peer| peer.close());
    with_broker_that(|request, peer| {
        peer.write(&stored(request, 1)[..30]);
        peer.close();
    });
}

fn brokers_that_talk_nonsense() {
    with_broker_that(|_, peer| peer.write(&[0xFF; 100]));
    with_broker_that(|_, peer| peer.write(&i32::MAX.to_be_bytes()));
    with_broker_that(|request, peer| peer.write(&stored(request, 1)[..30]));
    with_broker_that(|request, peer| peer.write(&stored(request, 1).repeat(3)));
    with_broker_that(|request, peer| peer.refuse(request, 2, "busy"));
}

fn a_broker_that_does_not_read() {
    let (let_go, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let broker = FakeServer::raw(move |mut stream: &TcpStream| {
        let mut first = [0; 8];
        drop(stream.read(&mut first));
        told.lock().unwrap().recv().expect_err("nothing is sent");
    });
    let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
    let producer = brief(name_server.address()).start().unwrap();
    let large = Message::new("orders", vec![b'x'; 3_900_000]).unwrap();
    for _ in 0..3 {
        drop(producer.send_oneway(&large));
        producer.send_async(large.clone(), drop);
        drop(producer.send(&large));
    }
    drop(producer.shutdown(milliseconds(50)));
    drop((producer, let_go));
}

fn callbacks_that_panic() {
    let broker = FakeServer::healthy_broker();
    let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
    let producer = brief(name_server.address()).start().unwrap();
    for _ in 0..5 {
        producer.send_async(message("orders"), |_| panic!("on purpose"));
    }
}

fn the_last_handle_is_dropped_in_a_callback() {
    let broker = FakeServer::broker(|_, _| {});
    let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
    let producer = brief(name_server.address()).start().unwrap();
    let (done, outcomes) = mpsc::channel();
    let only = producer.clone();
    producer.send_async(message("orders"), move |outcome| {
        drop(only);
        done.send(outcome).unwrap();
    });
    drop(producer);
    outcomes
        .recv_timeout(PATIENCE)
        .expect("the callback comes")
        .expect_err("nobody answers");
}

fn a_setting_is_refused() {
    producer_for("nowhere").start().expect_err("it has no port");
    producer_for("127.0.0.1:9876")
        .callback_threads(0)
        .start()
        .expect_err("somebody has to run the callbacks");
}

fn a_hundred_lives() {
    let broker = FakeServer::healthy_broker();
    let name_server = FakeServer::name_server(&[("broker-a", broker.address())]);
    for _ in 0..100 {
        let producer = producer_for(name_server.address()).start().unwrap();
        producer.send(&message("orders")).unwrap();
        producer.send_async(message("orders"), |outcome| drop(outcome.unwrap()));
    }
    assert_eq!(broker.sends(), 200);
}

/// Questions come all the time, from the first transaction until everything has gone.
fn transactions_that_are_asked_about() {
    struct Undecided(mpsc::Sender<()>);
    impl TransactionListener for Undecided {
        fn execute(&self, _: &Message, _: &SendResult) -> LocalTransaction {
            LocalTransaction::Unknown
        }

        fn check(&self, _: &StoredMessage) -> LocalTransaction {
            // Nobody listens any more at the end.
            self.0.send(()).ok();
            LocalTransaction::Unknown
        }
    }
    let cluster = MockCluster::builder()
        .brokers(2)
        .transaction_checks(milliseconds(1), milliseconds(5), 10_000)
        .start()
        .unwrap();
    for _ in 0..5 {
        let (asked, questions) = mpsc::channel();
        let producer = producer_for(cluster.name_servers())
            .start_transactional(Undecided(asked))
            .unwrap();
        for _ in 0..4 {
            drop(producer.send(&message("orders")).unwrap());
        }
        for _ in 0..8 {
            questions.recv_timeout(PATIENCE).expect("a question");
        }
    }
}

/// One test for all cases, one after the other, for they count what the whole process has.
#[test]
fn neither_threads_nor_descriptors() {
    within(3 * PATIENCE, || {
        let cases: [(&str, fn()); 14] = [
            ("a healthy cluster", a_healthy_cluster),
            ("never used", never_used),
            ("bad name servers", bad_name_servers),
            ("a broker that is down", a_broker_that_is_down),
            ("silent brokers", silent_brokers),
            ("brokers that hang up", brokers_that_hang_up),
            ("brokers that talk nonsense", brokers_that_talk_nonsense),
            ("a broker that does not read", a_broker_that_does_not_read),
            ("callbacks that panic", callbacks_that_panic),
            (
                "the last handle is dropped in a callback",
                the_last_handle_is_dropped_in_a_callback,
            ),
            ("a setting is refused", a_setting_is_refused),
            ("a hundred lives", a_hundred_lives),
            (
                "transactions that are asked about",
                transactions_that_are_asked_about,
            ),
            ("a healthy cluster again", a_healthy_cluster),
        ];
        for (name, case) in cases {
            let began = Instant::now();
            assert_leaves_nothing(name, case);
            println!("{name}: {:.1?}", began.elapsed());
        }
    });
}
