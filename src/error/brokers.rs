//! The account of something that was asked of several brokers and that not all of them did.

use std::{fmt, sync::Arc};

use super::Error;

/// A broker that was asked and did not do it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BrokerFailure {
    /// The name of the broker.
    pub broker_name: Arc<str>,
    /// What happened.
    pub error: Error,
}

impl fmt::Display for BrokerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.broker_name, self.error)
    }
}

/// Something that was asked of several brokers, and that failed on one or more of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailedOnBrokers {
    what: String,
    succeeded: Vec<Arc<str>>,
    failed: Vec<BrokerFailure>,
}

impl FailedOnBrokers {
    /// `what` says what was asked, as "creating topic orders".
    pub(crate) fn new(what: String, succeeded: Vec<Arc<str>>, failed: Vec<BrokerFailure>) -> Self {
        Self {
            what,
            succeeded,
            failed,
        }
    }

    /// The names of the brokers that did it.
    pub fn succeeded(&self) -> &[Arc<str>] {
        &self.succeeded
    }

    /// The brokers that did not, each with what happened.
    pub fn failed(&self) -> &[BrokerFailure] {
        &self.failed
    }
}

impl fmt::Display for FailedOnBrokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            succeeded,
            failed,
        } = self;
        let all = succeeded.len() + failed.len();
        write!(f, "{what} failed on {} of {all} brokers:", failed.len())?;
        failed.iter().enumerate().try_for_each(|(number, failure)| {
            write!(f, "{} {failure}", if number == 0 { "" } else { ";" })
        })?;
        if succeeded.is_empty() {
            return Ok(());
        }
        write!(f, "; done by {}", succeeded.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::ResponseCode;

    #[test]
    fn every_broker_is_named() {
        let refused = || Error::refused(&"10.0.0.1:10911".into(), ResponseCode::NO_PERMISSION, Some("no"));
        let failure = |name: &str| BrokerFailure {
            broker_name: name.into(),
            error: refused(),
        };
        let all = FailedOnBrokers::new("creating topic t".to_owned(), Vec::new(), vec![failure("a")]);
        assert_eq!(
            all.to_string(),
            "creating topic t failed on 1 of 1 brokers: a: 10.0.0.1:10911 answered 16 NO_PERMISSION: no"
        );
        let some = FailedOnBrokers {
            succeeded: vec!["b".into(), "c".into()],
            failed: vec![failure("a"), failure("d")],
            ..all
        };
        let text = some.to_string();
        assert!(
            text.contains("failed on 2 of 4 brokers: a: ") && text.ends_with("; done by b, c"),
            "{text}"
        );
    }
}
