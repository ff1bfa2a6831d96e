//! Parts of a measurement that run in processes of their own, so that their time and memory are not counted in. They are
//! this same program with another first word.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::Failure;

/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(20);

fn command(role: &str) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

/// A sink as a process; ends with this value.
pub(crate) struct SinkProcess {
    child: Child,
    /// Its end is the end of the sink.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(crate) name_server: String,
}

impl SinkProcess {
    pub(crate) fn start(brokers: usize, queues: u32) -> Result<Self, Failure> {
        let mut child = command("sink")?
            .args(["--namesrv", "0", "--until-end-of-input"])
            .args(["--brokers", &brokers.to_string(), "--queues", &queues.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().ok_or("a sink without output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let name_server = line
            .trim()
            .strip_prefix("ready ")
            .ok_or("the sink did not start")?;
        Ok(Self {
            child,
            input,
            output,
            name_server: name_server.to_owned(),
        })
    }

    /// A sink with one broker, unless there is a name server already.
    pub(crate) fn unless(name_server: Option<&str>) -> Result<Option<Self>, Failure> {
        match name_server {
            Some(_) => Ok(None),
            None => Self::start(1, 8).map(Some),
        }
    }

    /// What has arrived so far.
    pub(crate) fn stats(&mut self) -> Result<Value, Failure> {
        self.input
            .as_mut()
            .ok_or("the sink has ended")?
            .write_all(b"stats\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for SinkProcess {
    fn drop(&mut self) {
        self.input = None;
        self.child.wait().ok();
    }
}

/// Runs a driver or a limit and gives its closing line.
pub(crate) fn closing_line(role: &str, words: &[String], within: Duration) -> Result<Value, Failure> {
    let mut child = command(role)?
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let until = Instant::now() + within;
    while child.try_wait()?.is_none() {
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Err(format!("{role} {} did not end within {within:?}", words.join(" ")).into());
        }
        thread::sleep(LOOK);
    }
    let mut output = String::new();
    child
        .stdout
        .take()
        .ok_or("no output")?
        .read_to_string(&mut output)?;
    let line = output.lines().rfind(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| format!("{role} {} said nothing", words.join(" ")))?;
    Ok(serde_json::from_str(line)?)
}

/// A process that has had its first message acknowledged, and idles.
pub(crate) struct Idle {
    child: Child,
    /// From the start of the process to the acknowledgement.
    pub(crate) took: Duration,
    /// The send alone.
    pub(crate) send_took: Duration,
}

impl Idle {
    pub(crate) fn start(role: &str, words: &[String]) -> Result<Self, Failure> {
        let began = Instant::now();
        let mut child = command(role)?
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let first = lines.next();
        let mut idle = Self {
            child,
            took: began.elapsed(),
            send_took: Duration::ZERO,
        };
        let second = lines
            .next()
            .and_then(Result::ok)
            .and_then(|line| line.parse().ok());
        match (first, second) {
            (Some(Ok(line)), Some(nanoseconds)) if line == "ACK" => {
                idle.send_took = Duration::from_nanos(nanoseconds);
                Ok(idle)
            }
            _ => Err(format!("{role} {}: no acknowledgement", words.join(" ")).into()),
        }
    }

    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
