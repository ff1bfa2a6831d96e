//! One request with one continuation: how servers are talked to without waiting for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    code::ResponseCode,
    error::{Error, Written},
    net::{
        connection::{Alarm, Connection, Request, Waiting},
        deadline::Deadline,
        sync::{Mutex, channel},
        waiter::{Outcome, Waiter, WakeUps},
    },
    wire::header::FieldWriter,
};

/// An answer, whatever its code.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) remark: Option<String>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header field; of fields with the same name the last counts.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let named = self.fields.iter().rev().find(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Whether the answer of the server at this address is a success, or the refusal that it is.
    pub(crate) fn check(&self, address: &Arc<str>) -> Result<(), Error> {
        match self.code {
            ResponseCode::SUCCESS => Ok(()),
            code => Err(Error::refused(address, code, self.remark.as_deref())),
        }
    }
}

struct OnAnswer<F>(Mutex<Option<F>>);

impl<F: FnOnce(Result<Answer, Error>) + Send> Waiter for OnAnswer<F> {
    fn complete(self: Arc<Self>, _ticket: u32, outcome: Outcome<'_>, _: &mut WakeUps) {
        let answer = match outcome {
            Outcome::Reply { header, body, .. } => Ok(Answer {
                code: ResponseCode::new(header.code),
                remark: header.remark.as_deref().map(str::to_owned),
                fields: header
                    .fields
                    .iter()
                    .map(|(name, value)| (name.into_owned(), value.into_owned()))
                    .collect(),
                body: body.to_vec(),
            }),
            // Its share is all of its time.
            Outcome::Overdue => return,
            Outcome::Failed(error) => Err(error),
        };
        let then = self.0.lock().take();
        if let Some(then) = then {
            then(answer);
        }
    }
}

/// Sends a request and calls `then` once, with the answer or with why there is none within `timeout`. `then` runs on
/// the thread that sees it and must not block.
pub(crate) fn call<W: FnOnce(&mut FieldWriter<'_>)>(
    connection: &Arc<Connection>,
    request: Request<'_, W>,
    timeout: Duration,
    then: impl FnOnce(Result<Answer, Error>) + Send + 'static,
) {
    let deadline = Deadline::after(timeout);
    let until = deadline.at();
    let on_answer = Arc::new(OnAnswer(Mutex::new(Some(then))));
    let waiter: Arc<dyn Waiter> = Arc::<OnAnswer<_>>::clone(&on_answer);
    let waiting = Waiting {
        waiter: &waiter,
        ticket: 0,
        alarm: Some(Alarm { share: until, until }),
    };
    if let Err(error) = connection.request(request, &waiting, connection.immediately(), deadline.began()) {
        let then = on_answer.0.lock().take();
        if let Some(then) = then {
            then(Err(error));
        }
    }
}

/// The same, and blocks for the answer until `until` at the latest.
pub(crate) fn call_and_wait<W: FnOnce(&mut FieldWriter<'_>)>(
    connection: &Arc<Connection>,
    request: Request<'_, W>,
    timeout: Duration,
    until: Instant,
) -> Result<Answer, Error> {
    let began = Instant::now();
    let (sender, answered) = channel::bounded(1);
    // Whoever waits may have stopped.
    call(connection, request, timeout, move |answer| {
        drop(sender.try_send(answer));
    });
    answered
        .recv_deadline(until)
        .unwrap_or_else(|_| Err(connection.timeout(Written::All, began.elapsed())))
}
