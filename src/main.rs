//! wiki-service: users and their posts over HTTP, on SQLite or PostgreSQL.

mod api;
mod app;
mod clock;
mod config;
mod database;
mod digits;
mod http;
mod https;
mod id;
mod identity;
mod operations;
mod otel;
mod request;
mod telemetry;
mod wiki;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::{
    app::{App, Phase},
    config::Config,
    database::pool::Database,
    http::{authorization::Authorization, cache::Cache, middleware::Middleware, server},
    identity::Verifier,
    telemetry::{log, traces::Traces},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => start(serve),
        ["migrate"] => start(migrate),
        ["healthcheck"] => Config::from_env().and_then(|config| healthcheck(config.address())),
        ["--help" | "-h"] => print(config::help()),
        ["--version" | "-V"] => print(format!("wiki-service {}\n", env!("CARGO_PKG_VERSION"))),
        _ => Err(format!("unknown arguments: {}; see wiki-service --help", arguments.join(" "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wiki-service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `print!` panics when the reader closes the pipe early, as `head` does.
fn print(text: String) -> Result<(), String> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn start<F: Future<Output = Result<(), String>>>(run: fn(Config) -> F) -> Result<(), String> {
    let config = Config::from_env()?;
    log::init(&config)?;
    // Each connection takes a descriptor; the soft limit is often 1024.
    rlimit::increase_nofile_limit(u64::MAX).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let result = runtime.block_on(run(config));
    runtime.shutdown_background();
    log::flush();
    result
}

async fn migrate(config: Config) -> Result<(), String> {
    // Process 1 of a container is not ended by a signal that it does not handle.
    let mut signals = Signals::new();
    let database = Database::new(&config)?;
    let made = tokio::select! {
        made = make(&database, &config) => made,
        () = signals.next() => Err("stopped by a signal".into()),
    };
    // Otherwise SQLite's -wal and -shm would stay, and the service's user might not be able to write them.
    database.close().await;
    made?;
    tracing::info!("{}: the schema is up to date", database.name());
    Ok(())
}

/// Migrates the schema, and builds the indexes that a service would build while it serves.
async fn make(database: &Database, config: &Config) -> Result<(), String> {
    database.prepare(config.startup_timeout_seconds.0).await?;
    database
        .build_indexes(config.startup_timeout_seconds.0)
        .await
        .map_err(|error| database.explain(&error))
}

async fn serve(config: Config) -> Result<(), String> {
    // Before anybody can know that there is something to stop.
    let mut signals = Signals::new();
    let verifier = Verifier::new(&config)?;
    let app = Arc::new(App::new(Database::new(&config)?, Cache::new(&config)));
    let start_traces = |otel| Traces::start(otel, &app.metrics);
    let traces = config.otel.as_ref().map(start_traces).transpose()?;
    let address = config.address();
    let listener = server::bind(address)
        .map_err(|error| format!("cannot listen on {address} (LISTEN_ADDRESS, PORT): {error}"))?;
    let url = local_url(listener.local_addr().unwrap_or(address));
    tracing::info!("wiki-service {} at {url}", env!("CARGO_PKG_VERSION"));
    tracing::info!("documentation at {url}/docs, metrics at {url}/metrics");
    tracing::info!("{}", app.raw_database().name());

    let authorization = match verifier {
        Some(verifier) => {
            verifier.start(&config).await?;
            Some(Authorization::new(verifier, &config, &app.metrics))
        }
        None => None,
    };
    let routes = api::routes(&app, &config);
    let endpoint = Middleware::new(app.metrics.clone(), &config, routes, authorization);
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    let grace = config.shutdown_grace_seconds.0;
    let startup = config.startup_timeout_seconds.0;
    let server = server::serve(listener, endpoint, &config, stopped);

    let life = async {
        let prepared = tokio::select! {
            prepared = app.raw_database().prepare(startup) => prepared.map(|()| Phase::Serving),
            () = signals.next() => Ok(Phase::Stopping),
        };
        let Ok(Phase::Serving) = prepared else {
            app.raw_database().close().await;
            return prepared.map(drop);
        };
        app.enter(Phase::Serving);
        tracing::info!("ready");
        tokio::select! {
            () = signals.next() => (),
            () = app.raw_database().keep_up_to_date(startup) => (),
            () = app.raw_database().watch_size() => (),
            () = app.raw_database().keep_indexes(startup) => (),
        }
        app.enter(Phase::Stopping);
        tracing::info!("stopping: requests have {} s to finish", grace.as_secs_f64());
        stop.send(()).ok();
        traces.iter().for_each(|traces| traces.stop(grace));
        signals.next().await;
        Err("stopped at once by a second signal".into())
    };
    tokio::select! {
        ended = life => ended,
        () = server => {
            app.raw_database().close().await;
            if let Some(traces) = traces {
                traces.end().await;
            }
            tracing::info!("stopped");
            Ok(())
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Self {
        let listen = |kind| signal(kind).expect("a signal that can be caught");
        Self {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

/// The URL at which a browser on this machine finds `address`.
fn local_url(address: SocketAddr) -> String {
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_loopback() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    }
}

/// Asks the service at `address` whether it is ready.
fn healthcheck(address: SocketAddr) -> Result<(), String> {
    let limit = Duration::from_secs(3);
    let reachable = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let ask = || -> std::io::Result<String> {
        let address = (reachable, address.port()).into();
        let mut socket = TcpStream::connect_timeout(&address, limit)?;
        socket.set_read_timeout(Some(limit))?;
        socket
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(answer) => Err(format!("not ready: {}", answer.lines().last().unwrap_or_default())),
        Err(error) => Err(format!("no answer from {}: {error}", local_url(address))),
    }
}
