//! Asks brokers and waits for their answers: the one place where a query meets connections.
//!
//! Everything is started at once and goes on by completions: a connection that is ready gets its request, an answer goes
//! into the channel that the caller waits on.

use std::{sync::Arc, time::Instant};

use super::Query;
use crate::{
    cluster::call::{Answer, call},
    code::RequestCode,
    error::{Error, Phase, Written},
    net::{connection::Request, sync::channel},
    wire::header::FieldWriter,
};

/// What is asked: a code and what writes the fields. Shared by all brokers that are asked.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) code: RequestCode,
    pub(super) write: Arc<dyn Fn(&mut FieldWriter<'_>) + Send + Sync>,
}

impl Question {
    pub(super) fn new(
        code: RequestCode,
        write: impl Fn(&mut FieldWriter<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            code,
            write: Arc::new(write),
        }
    }
}

impl Query<'_> {
    /// Asks one broker; the answer is a success.
    pub(super) fn ask(
        &self,
        topic: &Arc<str>,
        address: &Arc<str>,
        question: &Question,
    ) -> Result<Answer, Error> {
        let asked = self.ask_any(topic, address, question)?;
        asked.check(address)?;
        Ok(asked)
    }

    /// Asks one broker; the answer may have any code.
    pub(super) fn ask_any(
        &self,
        topic: &Arc<str>,
        address: &Arc<str>,
        question: &Question,
    ) -> Result<Answer, Error> {
        let mut answers = self.ask_all(topic, std::slice::from_ref(address), question);
        answers.pop().unwrap_or_else(|| Err(self.late(address)))
    }

    /// Asks several brokers at the same time. The answers, of any code, come in the order of the addresses.
    pub(super) fn ask_all(
        &self,
        topic: &Arc<str>,
        addresses: &[Arc<str>],
        question: &Question,
    ) -> Vec<Result<Answer, Error>> {
        let (sender, events) = channel::unbounded();
        for (index, address) in addresses.iter().enumerate() {
            let sender = sender.clone();
            // The receiver has gone when the time was over.
            let then = move |answer| drop(sender.send((index, answer)));
            self.begin(address, question.clone(), then);
        }
        drop(sender);
        let mut answers: Vec<_> = addresses.iter().map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            let Ok((index, answer)) = events.recv_deadline(self.deadline.at()) else {
                break;
            };
            if let Some(slot) = answers.get_mut(index) {
                *slot = Some(answer);
            }
        }
        let answers = answers.into_iter().zip(addresses).map(|(answer, address)| {
            let answer = answer.unwrap_or_else(|| Err(self.late(address)));
            self.learn(topic, address, &answer);
            answer
        });
        answers.collect()
    }

    fn begin(
        &self,
        address: &Arc<str>,
        question: Question,
        then: impl FnOnce(Result<Answer, Error>) + Send + 'static,
    ) {
        let deadline = self.deadline;
        let ready = move |ready| match ready {
            // Who asked has been told that nothing was written.
            Ok(_) if deadline.is_over(Instant::now()) => {}
            Ok(connection) => {
                let request = Request {
                    code: question.code,
                    write_fields: |writer: &mut FieldWriter<'_>| (question.write)(writer),
                    body: &[],
                };
                call(&connection, request, deadline.remaining(Instant::now()), then);
            }
            Err(error) => then(Err(error)),
        };
        self.shared.connections.when_ready(address, Box::new(ready));
    }

    /// A broker has not answered in time.
    fn late(&self, address: &Arc<str>) -> Error {
        let (phase, written) = match self.shared.connections.live(address) {
            Some(_) => (Phase::Reply, Written::All),
            None => (Phase::Connect, Written::Nothing),
        };
        Error::Timeout {
            phase,
            target: Arc::clone(address),
            waited: self.deadline.waited(),
            written,
        }
    }

    fn learn(&self, topic: &Arc<str>, address: &Arc<str>, answer: &Result<Answer, Error>) {
        let outcome = match answer {
            Ok(answer) => answer.check(address),
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = outcome {
            log::debug!("topic {topic}: a query was not answered with success: {error}");
            self.shared.doubt_route(topic, &error);
        }
    }
}

/// An answer that lacks what it must contain, or contains what cannot be.
pub(super) fn broken(address: &Arc<str>, reason: impl std::fmt::Display) -> Error {
    Error::Protocol {
        address: Arc::clone(address),
        written: Written::All,
        reason: format!("the answer cannot be read: {reason}").into(),
    }
}
