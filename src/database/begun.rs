//! A statement that was sent and has to be seen through.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use sea_orm::{Statement, sqlx};

use crate::database::{
    connection::Lease,
    error::is_disconnect,
    statement::{self, Answer},
};

pub type Work = Pin<Box<dyn Future<Output = Result<Answer, sqlx::Error>> + Send>>;

/// A statement in progress, and what to do with the unfinished work if it is dropped: until the statement
/// ends, its connection is in use.
pub struct Begun<F: FnOnce(Work)>(Option<(Work, F)>);

impl<F: FnOnce(Work)> Begun<F> {
    pub fn new(mut lease: Lease, statement: Statement, limit: Duration, rest: F) -> Self {
        let work = async move {
            let pooled = lease.pooled();
            pooled.unanswered = true;
            let answer = statement::run(&mut pooled.connection, statement, limit).await;
            pooled.unanswered = answer.as_ref().is_err_and(is_disconnect);
            answer
        };
        Self(Some((Box::pin(work), rest)))
    }
}

impl<F: FnOnce(Work) + Unpin> Future for Begun<F> {
    type Output = Result<Answer, sqlx::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut work, rest) = self.0.take().expect("not polled again when done, or panicked");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some((work, rest));
        }
        polled
    }
}

impl<F: FnOnce(Work)> Drop for Begun<F> {
    fn drop(&mut self) {
        if let Some((work, rest)) = self.0.take() {
            rest(work);
        }
    }
}
