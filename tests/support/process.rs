//! Child processes that cannot hang a test: each has a deadline, after which its whole process group is killed.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How a child ended and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Panics with everything the child said unless it ended well.
    #[track_caller]
    pub(crate) fn or_panic(self, what: &str) -> Self {
        assert!(
            self.status.success(),
            "{what} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Runs `command` to its end. Panics when it cannot start or is not over `within` the given time.
#[track_caller]
pub(crate) fn run(command: &mut Command, within: Duration) -> Finished {
    let deadline = Instant::now() + within;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let status = wait(&mut child, deadline).unwrap_or_else(|| {
        kill_group(&mut child);
        let said = stderr.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
        panic!("{command:?} was not over within {within:?}; it said: {said}")
    });
    // A process that it left behind may keep a pipe open: what the child itself said has arrived by then.
    let patience = Duration::from_secs(5);
    Finished {
        status,
        stdout: stdout.recv_timeout(patience).unwrap_or_default(),
        stderr: stderr.recv_timeout(patience).unwrap_or_default(),
    }
}

/// Waits for `child` until `deadline`; `None` when it still runs then.
pub(crate) fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Kills a child that was started as the leader of its own process group, and all of that group.
pub(crate) fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    drop(
        Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status(),
    );
    drop(child.kill());
    drop(child.wait());
}

fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(pipe.read_to_end(&mut bytes));
        drop(sender.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    receiver
}
