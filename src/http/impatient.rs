//! A connection whose client may be slow, but not indefinitely.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// How long a half-closed connection is kept for its answer, which never takes longer.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// How long a connection may be slow.
pub struct Limits {
    pub header: Duration,
    pub idle: Duration,
    pub write: Duration,
    /// When connections without a request in progress are closed, once the service has been told to stop.
    pub end: OnceLock<Instant>,
}

/// A socket that ends with `TimedOut` when its client is too slow to send a request's headers, to
/// send another request, or to take an answer. hyper's own timer cannot tell the first two apart.
///
/// A client that has shut down its side of the connection may still be waiting for its answer, as
/// `nc -N` does, or it may be gone. hyper would give it up at once, or, with `half_close`, never.
pub struct Impatient {
    socket: TcpStream,
    /// Incremented when a request begins and when it ends, so odd while one is served; then the request's
    /// own time limit applies.
    turns: Arc<AtomicU64>,
    seen_turns: u64,
    limits: Arc<Limits>,
    /// When the headers that are being read began to arrive.
    header_began: Option<Instant>,
    idle_since: Option<Instant>,
    stalled_since: Option<Instant>,
    /// When the client was seen to have shut down its side while its request was being served.
    ended_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Impatient {
    pub fn new(socket: TcpStream, turns: Arc<AtomicU64>, limits: Arc<Limits>) -> Self {
        let now = Instant::now();
        Self {
            socket,
            turns,
            seen_turns: 0,
            timer: Box::pin(sleep_until(now + limits.header)),
            limits,
            header_began: Some(now),
            idle_since: None,
            stalled_since: None,
            ended_since: None,
        }
    }

    /// Forgets the state of an earlier request, and returns whether one is being served.
    fn note_turns(&mut self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        if turns != self.seen_turns {
            self.seen_turns = turns;
            (self.header_began, self.idle_since, self.ended_since) = (None, None, None);
        }
        turns % 2 == 1
    }

    /// Ready once the client has taken too long to send. While it still takes an answer, it need not
    /// send anything.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.note_turns() || self.stalled_since.is_some() {
            return Poll::Pending;
        }
        let deadline = match self.header_began {
            Some(began) => began + self.limits.header,
            None => *self.idle_since.get_or_insert_with(Instant::now) + self.limits.idle,
        };
        let deadline = self.limits.end.get().map_or(deadline, |end| deadline.min(*end));
        self.poll_deadline(cx, deadline)
    }

    /// Ready once the client of the request in progress is considered gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut byte = [MaybeUninit::uninit()];
        match ready!(self.socket.poll_peek(cx, &mut ReadBuf::uninit(&mut byte))) {
            Ok(0) => {
                let ended = *self.ended_since.get_or_insert_with(Instant::now);
                self.poll_deadline(cx, ended + HALF_CLOSED)
            }
            // The next request, or more of this one.
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// Ready once `deadline` has passed. The timer is reset only when necessary: resetting it costs
    /// more than letting it fire early now and then.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<io::Error> {
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if result.is_ready() {
            self.note_turns();
            self.header_began.get_or_insert_with(Instant::now);
            return result;
        }
        self.poll_patience(cx).map(Err)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        if result.is_ready() {
            self.stalled_since = None;
            return result;
        }
        let stalled = *self.stalled_since.get_or_insert_with(Instant::now);
        let deadline = stalled + self.limits.write;
        self.poll_deadline(cx, deadline).map(Err)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper does not look for the next request until it is woken: this registers the timer for it.
        let _ = self.poll_patience(cx);
        // Nor does it watch the client while it has a request to answer.
        if self.note_turns()
            && let Poll::Ready(error) = self.poll_gone(cx)
        {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
