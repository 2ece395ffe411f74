//! The listener: HTTP/1.1 connections, with limits on their number and on how slow they may be.
//!
//! poem's own server sets no TCP_NODELAY, has no cap on connections, spins when file descriptors run
//! out, and lets a client that sends a byte now and then stay for ever.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use poem::{
    Endpoint, Response,
    http::{
        StatusCode, Version, header,
        uri::{Authority, Scheme},
    },
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    config::Config,
    http::impatient::{Impatient, Limits},
};

/// Pause before accepting again when the system has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that the kernel holds until they are accepted (capped by net.core.somaxconn).
const BACKLOG: u32 = 4096;
/// Most bytes of a request's line and headers; beyond, hyper answers 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;

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
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is done, then lets requests finish until the deadline that it gives.
pub async fn serve<E>(
    listener: TcpListener,
    endpoint: E,
    config: &Config,
    stop: impl Future<Output = Instant>,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let endpoint = Arc::new(endpoint);
    let limits = Arc::new(Limits {
        header: config.header_timeout_seconds.0,
        idle: config.idle_timeout_seconds.0,
        write: config.request_timeout_seconds.0,
        stopping: AtomicBool::new(false),
    });
    let slots = Arc::new(Semaphore::new(config.max_connections.get() as usize));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    let deadline = loop {
        let accept = async {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            (listener.accept().await, slot)
        };
        let ((socket, peer), slot) = tokio::select! {
            deadline = &mut stop => break deadline,
            (accepted, slot) = accept => match accepted {
                Ok(accepted) => (accepted, slot),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = graceful.watch(connection(socket, peer, endpoint.clone(), limits.clone()));
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                tracing::debug!("connection from {peer}: {error}");
            }
        });
    };
    drop(listener);
    limits.stopping.store(true, Ordering::Relaxed);
    if timeout_at(deadline, graceful.shutdown()).await.is_err() {
        tracing::warn!("the grace is over: connections that are still open are cut off");
    }
}

fn connection<E>(
    socket: TcpStream,
    peer: SocketAddr,
    endpoint: Arc<E>,
    limits: Arc<Limits>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send
where
    E: Endpoint<Output = Response> + 'static,
{
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    let local = LocalAddr(socket.local_addr().unwrap_or(peer).into());
    let remote = RemoteAddr(peer.into());
    let turns = Arc::new(AtomicU64::new(0));
    let stream = Impatient::new(socket, turns.clone(), limits);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        turns.fetch_add(1, Ordering::Relaxed);
        let has_host = has_host(&request);
        let request = (request, local.clone(), remote.clone(), Scheme::HTTP).into();
        let (endpoint, turns) = (endpoint.clone(), turns.clone());
        async move {
            let response = match has_host {
                true => endpoint.get_response(request).await,
                false => malformed(),
            };
            turns.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response.into())
        }
    });
    http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
}

/// Whether a request names one host, as RFC 9112 (section 3.2) demands; hyper does not look.
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
    Response::builder().status(StatusCode::BAD_REQUEST).header(header::CONNECTION, "close").finish()
}
