//! What the self-check found, as plain data and as text. Nothing is checked here.

use std::{fmt, time::Duration};

/// What is checked, in the order in which a message needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Check {
    /// The producer runs and the topic's name is legal.
    Precondition,
    /// The name of a name server resolves.
    ResolveNameServer,
    /// A name server can be connected to.
    ConnectNameServer,
    /// It answers, and like a name server.
    AskNameServer,
    /// The topic has queues that take messages: it exists, or would be created; with write permission, on brokers with a
    /// master.
    Route,
    /// The address that a broker advertises can be connected to from here.
    ConnectBroker,
    /// The broker answers a heartbeat.
    Heartbeat,
    /// Access control lets this client in.
    AccessControl,
}

/// What a check ended with. The text is made for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckOutcome {
    /// In order; what was found.
    Passed(String),
    /// Messages can be sent, but someone should look at this.
    Warning(String),
    /// Broken; why, and what to look at.
    Failed(String),
}

/// One check of one thing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiagnosisStep {
    /// What was checked.
    pub step: Check,
    /// The address or the topic that it was checked of.
    pub target: String,
    /// What it ended with.
    pub outcome: CheckOutcome,
    /// How long it took.
    pub took: Duration,
}

/// What [`Producer::diagnose`](super::Producer::diagnose) found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The topic.
    pub topic: String,
    /// All checks that could be made, in the order of [`Check`]. What needs something that is broken is left out.
    pub steps: Vec<DiagnosisStep>,
    /// How long it took in all.
    pub took: Duration,
}

impl Diagnosis {
    /// The first thing on the way of a message that is broken.
    pub fn first_failure(&self) -> Option<&DiagnosisStep> {
        self.steps.iter().find(|step| step.outcome.is_failed())
    }

    /// Whether nothing is broken. Warnings do not count.
    pub fn is_healthy(&self) -> bool {
        self.first_failure().is_none()
    }
}

impl CheckOutcome {
    /// Whether this is broken.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// What was found.
    pub fn text(&self) -> &str {
        match self {
            Self::Passed(text) | Self::Warning(text) | Self::Failed(text) => text,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Precondition => "precondition of",
            Self::ResolveNameServer => "resolve name server",
            Self::ConnectNameServer => "connect to name server",
            Self::AskNameServer => "ask name server",
            Self::Route => "route of topic",
            Self::ConnectBroker => "connect to broker",
            Self::Heartbeat => "heartbeat to broker",
            Self::AccessControl => "access control of",
        })
    }
}

impl fmt::Display for DiagnosisStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            target,
            outcome,
            took,
        } = self;
        write!(f, "{step} {target}: {}", outcome.text())?;
        // What follows from an earlier check takes no time of its own.
        if took.is_zero() {
            return Ok(());
        }
        write!(f, " ({took:.1?})")
    }
}

impl fmt::Display for Diagnosis {
    /// Several lines, without a line break at the end: the verdict, then a line per check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}, checked in {:.1?}: ", self.topic, self.took)?;
        match self.first_failure() {
            None => f.write_str("nothing is broken")?,
            Some(broken) => write!(f, "broken at: {} {}", broken.step, broken.target)?,
        }
        self.steps.iter().try_for_each(|step| {
            let verdict = match step.outcome {
                CheckOutcome::Passed(_) => "ok",
                CheckOutcome::Warning(_) => "look",
                CheckOutcome::Failed(_) => "FAILED",
            };
            write!(f, "\n  {verdict:<6} {step}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: Check, outcome: CheckOutcome) -> DiagnosisStep {
        DiagnosisStep {
            step,
            target: "10.0.0.1:9876".to_owned(),
            outcome,
            took: Duration::from_millis(2),
        }
    }

    #[test]
    fn the_first_failure_is_named_and_a_warning_is_none() {
        let mut diagnosis = Diagnosis {
            topic: "orders".to_owned(),
            steps: vec![
                step(
                    Check::ConnectNameServer,
                    CheckOutcome::Passed("connected".to_owned()),
                ),
                step(
                    Check::Route,
                    CheckOutcome::Warning("one broker has no master".to_owned()),
                ),
            ],
            took: Duration::from_millis(4),
        };
        assert!(diagnosis.is_healthy());
        diagnosis.steps.push(step(
            Check::ConnectBroker,
            CheckOutcome::Failed("refused".to_owned()),
        ));
        assert_eq!(
            diagnosis.first_failure().map(|step| step.step),
            Some(Check::ConnectBroker)
        );
        assert_eq!(
            diagnosis.to_string(),
            "topic orders, checked in 4.0ms: broken at: connect to broker 10.0.0.1:9876\n  \
             ok     connect to name server 10.0.0.1:9876: connected (2.0ms)\n  \
             look   route of topic 10.0.0.1:9876: one broker has no master (2.0ms)\n  \
             FAILED connect to broker 10.0.0.1:9876: refused (2.0ms)"
        );
    }
}
