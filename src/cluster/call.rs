//! One request with one continuation: how this room talks to servers without waiting for them.

use std::{sync::Arc, time::Duration};

use crate::{
    code::ResponseCode,
    error::Error,
    net::{
        connection::{Alarm, Connection, Request, Waiting},
        deadline::Deadline,
        sync::Mutex,
        waiter::{Outcome, Waiter, WakeUps},
    },
    wire::header::FieldWriter,
};

/// An answer, whatever its code.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) remark: Option<String>,
    pub(super) body: Vec<u8>,
}

struct OnAnswer<F>(Mutex<Option<F>>);

impl<F: FnOnce(Result<Answer, Error>) + Send> Waiter for OnAnswer<F> {
    fn complete(self: Arc<Self>, _ticket: u32, outcome: Outcome<'_>, _: &mut WakeUps) {
        let answer = match outcome {
            Outcome::Reply { header, body, .. } => Ok(Answer {
                code: ResponseCode::new(header.code),
                remark: header.remark.as_deref().map(str::to_owned),
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
pub(super) fn call<W: FnOnce(&mut FieldWriter<'_>)>(
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
