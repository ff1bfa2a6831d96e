//! The bounded pool that runs the user's closures, and nothing else.
//!
//! 1. Threads start at first need, up to the limit, and end with the pool.
//! 2. What waits in the queue holds a permit each, so the queue is bounded by the permits.
//! 3. A panic is caught and logged; the thread and all other closures live on.
//! 4. A worker never waits for what only another worker can give: see `producer::permits`.

use std::{
    cell::Cell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, channel};

/// Something that ends in the user's code.
pub(crate) trait Task: Send + Sync {
    /// Called once, on a worker.
    fn run(self: Arc<Self>);
}

enum Order {
    Run(Arc<dyn Task>),
    /// For exactly one worker.
    Stop,
}

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is a worker, of whatever producer.
pub(crate) fn is_worker() -> bool {
    IS_WORKER.with(Cell::get)
}

pub(crate) struct Workers {
    /// What its threads are called, before their number.
    name: &'static str,
    limit: usize,
    orders: channel::Sender<Order>,
    queue: channel::Receiver<Order>,
    started: AtomicUsize,
    /// Tasks that were submitted and have not returned.
    unfinished: Arc<AtomicUsize>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    ended: (channel::Sender<()>, channel::Receiver<()>),
    stopped: AtomicBool,
    panics: Arc<AtomicU64>,
}

impl Workers {
    /// A pool of at most `limit` threads, none of which exists yet.
    pub(crate) fn new(limit: usize) -> Self {
        Self::named(limit, "rmq-worker")
    }

    /// The same, with a name of its own for its threads.
    pub(crate) fn named(limit: usize, name: &'static str) -> Self {
        let (orders, queue) = channel::unbounded();
        Self {
            name,
            limit: limit.max(1),
            orders,
            queue,
            started: AtomicUsize::new(0),
            unfinished: Arc::default(),
            threads: Mutex::new(Vec::new()),
            ended: channel::unbounded(),
            stopped: AtomicBool::new(false),
            panics: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Makes sure that a worker exists, so that what is submitted later will be run.
    pub(crate) fn ensure_one(&self) -> io::Result<()> {
        if self.started.load(Ordering::Acquire) > 0 {
            Ok(())
        } else {
            self.start_one()
        }
    }

    /// Hands a task to the pool. Never blocks and never runs it here, unless the pool has been stopped.
    pub(crate) fn submit(&self, task: Arc<dyn Task>) {
        // A thread for each unfinished task up to the limit: a closure that blocks holds up no other.
        let unfinished = self.unfinished.fetch_add(1, Ordering::Relaxed) + 1;
        self.orders.send(Order::Run(task)).ok();
        // Looked at after sending: what `stop` has not seen in the queue sees `stop` here.
        if self.stopped.load(Ordering::SeqCst) {
            return self.run_what_is_left();
        }
        let started = self.started.load(Ordering::Acquire);
        if started < self.limit && started < unfinished {
            if let Err(error) = self.start_one() {
                log::warn!("cannot start another thread for callbacks ({started} run): {error}");
            }
        }
    }

    /// The workers may have ended: better on the wrong thread than never.
    fn run_what_is_left(&self) {
        let mut stops = 0;
        while let Ok(order) = self.queue.try_recv() {
            match order {
                Order::Run(task) => run_caught(task, &self.panics, &self.unfinished),
                Order::Stop => stops += 1,
            }
        }
        for _ in 0..stops {
            self.orders.send(Order::Stop).ok();
        }
    }

    /// Runs a task on the caller's thread, where nothing else is left. A panic is caught as on a worker.
    pub(crate) fn run_here(&self, task: Arc<dyn Task>) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        run_caught(task, &self.panics, &self.unfinished);
    }

    /// Closures that panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Lets the workers finish what is queued and end, and waits for them until then. A worker that is the caller, or
    /// whose closure does not return, is left to end by itself.
    pub(crate) fn stop(&self, until: Instant) {
        self.stopped.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut *self.threads.lock());
        for _ in &threads {
            drop(self.orders.send(Order::Stop));
        }
        let myself = thread::current().id();
        let others = threads
            .iter()
            .filter(|handle| handle.thread().id() != myself)
            .count();
        for _ in 0..others {
            if self.ended.1.recv_deadline(until).is_err() {
                log::warn!("a callback has not returned; its thread is left behind");
                return;
            }
        }
        for handle in threads {
            if handle.thread().id() != myself {
                drop(handle.join());
            }
        }
    }

    fn start_one(&self) -> io::Result<()> {
        let mut threads = self.threads.lock();
        let number = threads.len();
        if number >= self.limit || self.stopped.load(Ordering::SeqCst) {
            return Ok(());
        }
        let queue = self.queue.clone();
        let ended = self.ended.0.clone();
        let panics = Arc::clone(&self.panics);
        let unfinished = Arc::clone(&self.unfinished);
        let run = move || {
            IS_WORKER.with(|is_worker| is_worker.set(true));
            while let Ok(Order::Run(task)) = queue.recv() {
                run_caught(task, &panics, &unfinished);
            }
            // Nobody counts any more if the pool was left behind.
            ended.send(()).ok();
        };
        let handle = thread::Builder::new()
            .name(format!("{}-{number}", self.name))
            .spawn(run)?;
        threads.push(handle);
        self.started.store(threads.len(), Ordering::Release);
        Ok(())
    }
}

fn run_caught(task: Arc<dyn Task>, panics: &AtomicU64, unfinished: &AtomicUsize) {
    if catch_unwind(AssertUnwindSafe(|| task.run())).is_err() {
        panics.fetch_add(1, Ordering::Relaxed);
        log::error!("a send callback panicked; the other callbacks are not affected");
    }
    unfinished.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Call<F>(F);

    impl<F: Fn() + Send + Sync> Task for Call<F> {
        fn run(self: Arc<Self>) {
            (self.0)();
        }
    }

    #[test]
    fn a_panicking_task_hurts_no_other() {
        let workers = Workers::new(2);
        let (sender, receiver) = channel::unbounded();
        for number in 0..1000 {
            let sender = sender.clone();
            workers.submit(Arc::new(Call(move || {
                assert!(number % 2 == 0, "on purpose");
                sender.send(number).unwrap();
            })));
        }
        workers.stop(Instant::now() + Duration::from_secs(20));
        assert_eq!(receiver.try_iter().count(), 500);
        assert_eq!(workers.panics(), 500);
    }

    #[test]
    fn stopping_does_not_wait_for_a_closure_that_never_returns() {
        let workers = Workers::new(1);
        let (release, blocked) = channel::bounded::<()>(0);
        workers.submit(Arc::new(Call(move || {
            blocked.recv().ok();
        })));
        let began = Instant::now();
        workers.stop(began + Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(release);
    }

    #[test]
    fn a_task_that_blocks_holds_up_no_other_while_threads_are_left() {
        let workers = Workers::new(2);
        let (release, blocked) = channel::bounded::<()>(0);
        let (sender, receiver) = channel::unbounded();
        workers.submit(Arc::new(Call(move || {
            blocked.recv().ok();
        })));
        workers.submit(Arc::new(Call(move || sender.send(()).unwrap())));
        receiver
            .recv_timeout(Duration::from_secs(10))
            .expect("the second thread runs it");
        drop(release);
        workers.stop(Instant::now() + Duration::from_secs(10));
    }

    #[test]
    fn a_task_that_is_submitted_while_the_pool_stops_is_run() {
        for _ in 0..300 {
            let workers = Workers::new(1);
            workers.ensure_one().unwrap();
            let (sender, receiver) = channel::unbounded();
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let sender = sender.clone();
                        workers.submit(Arc::new(Call(move || sender.send(()).unwrap())));
                    }
                });
                scope.spawn(|| workers.stop(Instant::now() + Duration::from_secs(10)));
            });
            for _ in 0..20 {
                receiver
                    .recv_timeout(Duration::from_secs(10))
                    .expect("no task is lost");
            }
        }
    }
}
