//! Configuration: environment variables, read once.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt::Write,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use ipnet::IpNet;
use poem::http::Uri;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::otel::{self, Otel};

/// Declares each variable once: its field, its default as one would type it, and what `--help` says.
macro_rules! config {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ty = $default:literal,)+) => {
        #[derive(Deserialize)]
        pub struct Config {
            $($(#[doc = $help])+ pub $field: $type,)+
            /// The variables of PostgreSQL's clients, and OpenSSL's `SSL_CERT_FILE`.
            #[serde(skip)]
            libpq: HashMap<String, OsString>,
            /// Where traces go, if they go anywhere.
            #[serde(skip)]
            pub otel: Option<Otel>,
        }

        /// Name, default and description of each variable.
        const VARIABLES: &[(&str, &str, &[&str])] =
            &[$((stringify!($field), $default, &[$($help),+])),+];
    };
}

config! {
    /// IP address to listen on; `::` is every address, IPv4 and IPv6
    listen_address: IpAddr = "127.0.0.1",
    /// TCP port to listen on
    port: u16 = "8000",
    /// sqlite://FILE or postgres://USER[:PASSWORD]@HOST[:PORT]/NAME; for TLS to PostgreSQL add
    /// ?sslmode=verify-full and, for a CA of your own, &sslrootcert=FILE. What it leaves out comes
    /// from libpq's variables PGHOST, PGPORT, PGUSER, PGDATABASE, PGSSLMODE and so on
    database_url: String = "sqlite://wiki.db",
    /// Password for PostgreSQL, where DATABASE_URL has none; without either, that of ~/.pgpass
    pgpassword: String = "",
    /// Most connections to the database at a time; on PostgreSQL, writes leave one of them to reads
    database_pool_size: NonZeroU16 = "8",
    /// Longest wait for a free connection; after it the answer is 503
    database_acquire_timeout_seconds: Seconds = "0.8",
    /// Longest time for one statement, after which PostgreSQL ends it; 0.1 s later the answer is 503
    database_statement_timeout_seconds: Seconds = "0.9",
    /// Longest wait for the database at the start; a migration may take longer, if the database
    /// shows that it lives
    startup_timeout_seconds: Seconds = "60",
    /// Longest time for one request, its body included; after it the answer is 503, or 408 if the
    /// body has not arrived
    request_timeout_seconds: Seconds = "10",
    /// Longest time for a client to send a request's headers
    header_timeout_seconds: Seconds = "10",
    /// Longest time for a connection to stay open between two requests; a proxy in front should
    /// give up first
    idle_timeout_seconds: Seconds = "120",
    /// Most client connections at a time; further ones wait to be accepted
    max_connections: NonZeroU32 = "10000",
    /// Largest request body in bytes; a larger one is answered with 413
    max_body_bytes: NonZeroU32 = "1048576",
    /// How long an answer to a read by id is kept in memory, to be given again; 0 keeps none. What
    /// another replica or program writes is seen that much later
    cache_seconds: SecondsOrZero = "0",
    /// Most memory for these answers, in bytes; only together with CACHE_SECONDS
    cache_bytes: NonZeroU32 = "16777216",
    /// `true`: posts can be searched (`GET /posts?q=`), by an index that is paid at each new post.
    /// `drop` removes that index; `false` leaves it as it is, for other replicas may use it
    search: Search = "false",
    /// Longest time from SIGTERM or SIGINT to the exit
    shutdown_grace_seconds: Seconds = "10",
    /// Proxies whose X-Forwarded-For is believed: addresses or networks, separated by commas; the
    /// header Forwarded (RFC 7239) is not read
    trusted_proxies: List<Network> = "",
    /// Origins whose pages may call the API (CORS), separated by commas; `*` is any
    cors_allowed_origins: List<Origin> = "",
    /// `text`, `json`, or `auto`: text on a terminal, else json
    log_format: LogFormat = "auto",
    /// Log level, or filters such as `info,wiki_service=debug`
    rust_log: String = "info,sqlx=warn",
}

impl Config {
    /// Reads the environment, and takes libpq's variables out of it, as the driver would read them
    /// without a check. No other thread may run yet.
    pub fn from_env() -> Result<Self, String> {
        let mut set = HashMap::new();
        for (field, ..) in VARIABLES {
            let name = field.to_uppercase();
            if let Some(value) = std::env::var_os(&name) {
                let value = text(&name, value)?;
                if !value.is_empty() {
                    set.insert(name, value);
                }
            }
        }
        if set.contains_key("CACHE_BYTES") && !set.contains_key("CACHE_SECONDS") {
            return Err("CACHE_BYTES is set without CACHE_SECONDS: set both, or neither".into());
        }
        let mut config = Self::from_set(set)?;
        config.otel = Otel::read(|name| {
            let value = std::env::var_os(name).map(|value| text(name, value)).transpose()?;
            Ok(value.filter(|value| !value.is_empty()))
        })?;
        for (name, value) in std::env::vars_os() {
            match name.into_string() {
                Ok(name) if name.starts_with("PG") => {
                    // SAFETY: main calls this before it starts a thread.
                    unsafe { std::env::remove_var(&name) };
                    config.libpq.insert(name, value);
                }
                Ok(name) if name == "SSL_CERT_FILE" => drop(config.libpq.insert(name, value)),
                _ => {}
            }
        }
        Ok(config)
    }

    /// A variable of `libpq`; one that is set to nothing counts as not set.
    pub fn libpq(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.libpq.get(name).map(|value| text(name, value.clone())).transpose()?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    fn from_set(set: HashMap<String, String>) -> Result<Self, String> {
        read(set.clone()).map_err(|error| {
            // envy does not name the variable in every error: the culprit fails on its own, too.
            set.into_iter()
                .find(|(name, value)| read([(name.clone(), value.clone())].into()).is_err())
                .map_or(error.to_string(), |(name, value)| {
                    let advice = advice(&name).map_or(error.to_string(), str::to_owned);
                    format!("{name}={value:?} is not valid: {advice}; see wiki-service --help")
                })
        })
    }

    pub fn address(&self) -> SocketAddr {
        (self.listen_address, self.port).into()
    }
}

/// What a variable says, without the blanks and the CR that a file of variables leaves at its end. A
/// password may begin and end with blanks.
fn text(name: &str, value: OsString) -> Result<String, String> {
    let value = value.into_string().map_err(|_| format!("{name} is not UTF-8"))?;
    match name {
        "PGPASSWORD" if value.ends_with('\r') => {
            Err("PGPASSWORD ends with a carriage return, as lines of a file from Windows do: \
                 remove it"
                .into())
        }
        "PGPASSWORD" => Ok(value),
        _ => Ok(value.trim().to_owned()),
    }
}

/// What to give instead, where the error of the type does not say it.
fn advice(name: &str) -> Option<&'static str> {
    match name {
        "LISTEN_ADDRESS" => Some("give an IP address such as 127.0.0.1 or ::"),
        "PORT" => Some("give a number from 0 to 65535"),
        "LOG_FORMAT" => Some("give text, json or auto"),
        "SEARCH" => Some("give true, false or drop"),
        "DATABASE_POOL_SIZE" => Some("give a whole number from 1 to 65535"),
        "CACHE_BYTES" | "MAX_CONNECTIONS" | "MAX_BODY_BYTES" => {
            Some("give a whole number from 1 to 4294967295")
        }
        "CACHE_SECONDS" => Some("give seconds from 0 to 86400"),
        _ if name.ends_with("_SECONDS") => Some("give seconds above 0 and at most 86400"),
        _ => None,
    }
}

fn read(set: HashMap<String, String>) -> Result<Config, envy::Error> {
    let mut values: HashMap<String, String> = VARIABLES
        .iter()
        .map(|(field, default, _)| (field.to_uppercase(), default.to_string()))
        .collect();
    values.extend(set);
    envy::from_iter(values)
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = format!(
        "wiki-service {}: an API for users and their posts\n
Usage: wiki-service               serve the API
       wiki-service migrate       bring the database to this version's schema, then exit
       wiki-service healthcheck   exit with 0 if the service at LISTEN_ADDRESS and PORT is ready, else 1
       wiki-service --help | --version\n
Environment variables (times in seconds, fractions allowed):\n",
        env!("CARGO_PKG_VERSION")
    );
    describe(&mut text, VARIABLES);
    text += "\nOpenTelemetry's, which count only where there is an endpoint to send traces to:\n";
    describe(&mut text, otel::VARIABLES);
    text
}

fn describe(text: &mut String, variables: &[(&str, &str, &[&str])]) {
    for (field, default, help) in variables {
        let default = if default.is_empty() { "(none)" } else { default };
        write!(text, "\n  {}={default}\n", field.to_uppercase()).unwrap();
        for line in *help {
            writeln!(text, "     {line}").unwrap();
        }
    }
}

/// A time limit: seconds, with a fraction if need be, and never zero.
#[derive(Clone, Copy)]
pub struct Seconds(pub Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Duration::try_from_secs_f64(f64::deserialize(deserializer)?) {
            Ok(limit) if !limit.is_zero() && limit.as_secs() <= 86_400 => Ok(Self(limit)),
            _ => Err(D::Error::custom("give seconds above 0 and at most 86400")),
        }
    }
}

/// A span of time: seconds, with a fraction if need be, or zero.
#[derive(Clone, Copy)]
pub struct SecondsOrZero(pub Duration);

impl<'de> Deserialize<'de> for SecondsOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Duration::try_from_secs_f64(f64::deserialize(deserializer)?) {
            Ok(span) if span.as_secs() <= 86_400 => Ok(Self(span)),
            _ => Err(D::Error::custom("give seconds from 0 to 86400")),
        }
    }
}

/// Values separated by commas.
#[derive(Clone)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: std::str::FromStr<Err: std::fmt::Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(|error| D::Error::custom(format!("{item}: {error}"))))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A network such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy)]
pub struct Network(pub IpNet);

impl std::str::FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(Self)
            .map_err(|_| "give an address or a network such as 10.0.0.0/8")
    }
}

/// An origin as browsers send it, such as `https://example.org`, or `*`.
#[derive(Clone)]
pub struct Origin(pub String);

impl std::str::FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some());
        match uri.and_then(|uri| uri.authority().map(|host| text.ends_with(host.as_str()))) {
            Some(true) => Ok(Self(text.to_owned())),
            _ if text == "*" => Ok(Self(text.to_owned())),
            _ => Err("give an origin such as https://example.org, or *"),
        }
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    False,
    True,
    Drop,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}
