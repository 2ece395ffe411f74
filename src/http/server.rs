//! The listener: HTTP/1.1 connections, with limits on their number and on how slow they may be. HTTP/2
//! is refused: concurrent requests on one connection would need limits of their own.
//!
//! poem's own server does not set TCP_NODELAY, has no cap on connections, spins when file descriptors
//! run out, and lets a client that sends a byte now and then stay forever.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use poem::{
    Endpoint, Response,
    http::{
        HeaderValue, StatusCode, Version, header,
        uri::{Authority, Scheme},
    },
    web::{LocalAddr, RemoteAddr},
};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    config::Config,
    http::impatient::{Impatient, Limits},
};

/// Pause before accepting again when the system has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel holds until they are accepted (capped by net.core.somaxconn).
const BACKLOG: u32 = 4096;
/// The most bytes of a request's line and headers; beyond that, hyper answers 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a connection without a request stays open when the service stops: a client that has just
/// sent one is answered, and told that it was the last (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// How to say it in HTTP/2 (RFC 9113, sections 6.5, 6.8 and 7): empty SETTINGS, and a GOAWAY.
const HTTP_1_1_REQUIRED: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x15\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0dHTTP/1.1 only";

/// Listens on `address`; `::` without IPv6 in the kernel falls back to `0.0.0.0`.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(v6) => match TcpSocket::new_v6() {
            Err(_) if v6.ip().is_unspecified() => {
                return bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
            }
            socket => socket?,
        },
    };
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only is set to.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` completes. Then each client's next answer closes its connection, and requests in
/// progress have the rest of the grace period to finish.
pub async fn serve<E>(
    listener: TcpListener,
    endpoint: E,
    config: &Config,
    stop: impl Future<Output = ()>,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let most = config.max_connections.get();
    let slots = Arc::new(Semaphore::new(most as usize));
    let limits = Arc::new(Limits {
        header: config.header_timeout_seconds.0,
        idle: config.idle_timeout_seconds.0,
        write: config.request_timeout_seconds.0,
        end: OnceLock::new(),
    });
    let (end, ending) = watch::channel(());
    let context = Arc::new(Context { endpoint, limits: limits.clone(), ending });
    let mut accepting = Box::pin(accept(listener, slots.clone(), context));
    tokio::select! {
        () = &mut accepting => return,
        () = stop => {}
    }
    let (stopped, grace) = (Instant::now(), config.shutdown_grace_seconds.0);
    let linger = LINGER.max(grace / 10 + LINGER / 4).min(grace / 2);
    limits.end.set(stopped + linger).expect("set once");
    // Still accepting: load balancers first have to notice that we are no longer ready.
    timeout(grace / 10, &mut accepting).await.ok();
    drop(accepting);
    let all_ended = || slots.acquire_many(most);
    if timeout_at(stopped + linger, all_ended()).await.is_ok() {
        return;
    }
    end.send(()).ok();
    if timeout_at(stopped + grace, all_ended()).await.is_err() {
        tracing::warn!("the grace period is over: connections that are still open are cut off");
    }
}

/// What all connections share.
struct Context<E> {
    endpoint: E,
    limits: Arc<Limits>,
    /// Changes when connections without a request in progress are to be closed.
    ending: watch::Receiver<()>,
}

/// Accepts connections, each in a slot, and serves them in tasks of their own.
async fn accept<E>(listener: TcpListener, slots: Arc<Semaphore>, context: Arc<Context<E>>)
where
    E: Endpoint<Output = Response> + 'static,
{
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = converse(socket, peer, context.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!("connection from {peer}: {error}");
            }
        });
    }
}

/// Serves the requests of one connection.
async fn converse<E>(
    socket: TcpStream,
    peer: SocketAddr,
    context: Arc<Context<E>>,
) -> hyper::Result<()>
where
    E: Endpoint<Output = Response> + 'static,
{
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    let local = LocalAddr(socket.local_addr().unwrap_or(peer).into());
    let remote = RemoteAddr(peer.into());
    let turns = Arc::new(AtomicU64::new(0));
    let stream = Impatient::new(socket, turns.clone(), context.limits.clone());
    let mut ending = context.ending.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        turns.fetch_add(1, Ordering::Relaxed);
        let (has_host, version) = (has_host(&request), request.version());
        let request = (request, local.clone(), remote.clone(), Scheme::HTTP).into();
        let (context, turns) = (context.clone(), turns.clone());
        async move {
            let mut response = match has_host {
                true => context.endpoint.get_response(request).await,
                false => malformed(),
            };
            if context.limits.end.get().is_some() {
                response.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            if version == Version::HTTP_10 && response.headers().contains_key(header::CONNECTION) {
                // Otherwise hyper adds `keep-alive`.
                response.set_version(version);
            }
            turns.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response.into())
        }
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        _ = ending.changed() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if ended.as_ref().is_err_and(hyper::Error::is_parse_version_h2) {
        let mut stream = connection.into_parts().io.into_inner();
        stream.write_all(HTTP_1_1_REQUIRED).await.ok();
        stream.shutdown().await.ok();
    }
    ended
}

/// Whether a request has exactly one Host, as RFC 9112 (section 3.2) requires; hyper does not check.
fn has_host(request: &hyper::Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.is_empty() || Authority::try_from(host.as_bytes()).is_ok(),
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

/// What hyper answers to a request that is not HTTP.
fn malformed() -> Response {
    Response::builder().status(StatusCode::BAD_REQUEST).header(header::CONNECTION, CLOSE).finish()
}
