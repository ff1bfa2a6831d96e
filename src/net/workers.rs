//! The bounded pool that runs the user's closures, and nothing else.
//!
//! 1. Threads start at first need, up to the limit, and end with the pool.
//! 2. What waits in the queue holds a permit each, so the queue is bounded by the permits.
//! 3. A panic is caught and logged; the thread and all other closures live on.
//! 4. A worker never waits for what only another worker can give: see `producer::permits`.

use std::{
    cell::Cell,
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use super::sync::{AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, channel};

/// Something that ends in the user's code.
pub(crate) trait Task: Send + Sync {
    /// Called once, on a worker.
    fn run(self: Arc<Self>);

    /// Where it is to run.
    fn pool(&self) -> &Workers;
}

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is a worker, of whatever producer.
pub(crate) fn is_worker() -> bool {
    IS_WORKER.with(Cell::get)
}

/// What workers do before they wait for something to do.
pub(crate) type OnIdle = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Arc<dyn Task>>,
    /// Workers that wait for a task.
    idle: usize,
    /// Of these, so many have been woken and are on their way.
    woken: usize,
    started: usize,
    stopped: bool,
}

/// What the pool and its threads share.
struct Common {
    queue: Mutex<Queue>,
    work: Condvar,
    panics: AtomicU64,
    on_idle: OnIdle,
}

pub(crate) struct Workers {
    /// What its threads are called, before their number.
    name: &'static str,
    limit: usize,
    common: Arc<Common>,
    /// So many threads have been started.
    started: AtomicUsize,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    ended: (channel::Sender<()>, channel::Receiver<()>),
}

impl Workers {
    /// A pool of at most `limit` threads, none of which exists yet.
    pub(crate) fn new(limit: usize, on_idle: OnIdle) -> Self {
        Self::named(limit, "rmq-worker", on_idle)
    }

    /// The same, with a name of its own for its threads.
    pub(crate) fn named(limit: usize, name: &'static str, on_idle: OnIdle) -> Self {
        Self {
            name,
            limit: limit.max(1),
            common: Arc::new(Common {
                queue: Mutex::default(),
                work: Condvar::new(),
                panics: AtomicU64::new(0),
                on_idle,
            }),
            started: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
            ended: channel::unbounded(),
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
        self.submit_all(&mut vec![task]);
    }

    /// Hands several tasks over at once, in their order.
    pub(crate) fn submit_all(&self, tasks: &mut Vec<Arc<dyn Task>>) {
        let mut queue = self.common.queue.lock();
        if queue.stopped {
            // The workers may have ended: better on the wrong thread than never.
            drop(queue);
            for task in tasks.drain(..) {
                self.common.run_caught(task);
            }
            return;
        }
        queue.tasks.extend(tasks.drain(..));
        self.common.wake_one(&mut queue);
        // A thread for each task that waits, up to the limit: a closure that blocks holds up no other.
        let wanted = queue.tasks.len().saturating_sub(queue.idle);
        let missing = wanted.min(self.limit - queue.started);
        drop(queue);
        if missing > 0 {
            self.start_more(missing);
        }
    }

    #[cold]
    fn start_more(&self, count: usize) {
        for _ in 0..count {
            if let Err(error) = self.start_one() {
                let started = self.started.load(Ordering::Relaxed);
                log::warn!("cannot start another thread for callbacks ({started} run): {error}");
                return;
            }
        }
    }

    /// Runs a task on the caller's thread, where nothing else is left. A panic is caught as on a worker.
    pub(crate) fn run_here(&self, task: Arc<dyn Task>) {
        self.common.run_caught(task);
    }

    /// Closures that panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.common.panics.load(Ordering::Relaxed)
    }

    /// Lets the workers finish what is queued and end, and waits for them until then. A worker that is the caller, or
    /// whose closure does not return, is left to end by itself.
    pub(crate) fn stop(&self, until: Instant) {
        let mut queue = self.common.queue.lock();
        queue.stopped = true;
        let left = if queue.started == 0 {
            std::mem::take(&mut queue.tasks)
        } else {
            VecDeque::new()
        };
        drop(queue);
        self.common.work.notify_all();
        // No thread could ever be started.
        for task in left {
            self.common.run_caught(task);
        }
        let threads = std::mem::take(&mut *self.threads.lock());
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
        let mut queue = self.common.queue.lock();
        if queue.started >= self.limit || queue.stopped {
            return Ok(());
        }
        let number = queue.started;
        // Counted before it runs, so that the next task does not start another in its place.
        queue.started += 1;
        drop(queue);
        let common = Arc::clone(&self.common);
        let ended = self.ended.0.clone();
        let run = move || {
            IS_WORKER.with(|is_worker| is_worker.set(true));
            common.work();
            // Nobody counts any more if the pool was left behind.
            ended.send(()).ok();
        };
        let spawned = thread::Builder::new()
            .name(format!("{}-{number}", self.name))
            .spawn(run);
        match spawned {
            Ok(handle) => {
                threads.push(handle);
                self.started.store(threads.len(), Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.common.queue.lock().started -= 1;
                Err(error)
            }
        }
    }
}

impl Common {
    /// Wakes a worker if there is a task for it.
    fn wake_one(&self, queue: &mut Queue) {
        if !queue.tasks.is_empty() && queue.idle > queue.woken {
            queue.woken += 1;
            self.work.notify_one();
        }
    }

    /// The life of a worker.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                // One wakes the next, so that whatever this task does, the others do not wait for it.
                self.wake_one(&mut queue);
                drop(queue);
                self.run_caught(task);
                queue = self.queue.lock();
                continue;
            }
            if queue.stopped {
                return;
            }
            drop(queue);
            (self.on_idle)();
            queue = self.queue.lock();
            if !queue.tasks.is_empty() || queue.stopped {
                continue;
            }
            queue.idle += 1;
            self.work.wait(&mut queue);
            queue.idle -= 1;
            queue.woken = queue.woken.saturating_sub(1);
        }
    }

    fn run_caught(&self, task: Arc<dyn Task>) {
        if catch_unwind(AssertUnwindSafe(|| task.run())).is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
            log::error!("a send callback panicked; the other callbacks are not affected");
        }
    }
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

        fn pool(&self) -> &Workers {
            unreachable!("handed to its pool by the test")
        }
    }

    fn pool(limit: usize) -> Workers {
        Workers::new(limit, Box::new(|| {}))
    }

    #[test]
    fn a_panicking_task_hurts_no_other() {
        let workers = pool(2);
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
        let workers = pool(1);
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
        let workers = pool(2);
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
    fn tasks_that_come_together_get_a_thread_each() {
        let workers = pool(4);
        let barrier = Arc::new(std::sync::Barrier::new(5));
        let mut tasks: Vec<Arc<dyn Task>> = Vec::new();
        for _ in 0..4 {
            let barrier = Arc::clone(&barrier);
            tasks.push(Arc::new(Call(move || {
                barrier.wait();
            })));
        }
        workers.submit_all(&mut tasks);
        barrier.wait();
        workers.stop(Instant::now() + Duration::from_secs(20));
    }

    #[test]
    fn a_task_that_is_submitted_while_the_pool_stops_is_run() {
        for _ in 0..300 {
            let workers = pool(1);
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
