//! Configuration: environment variables, read once.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt::Write,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
};

use serde::Deserialize;

use crate::otel::{self, Otel};

mod values;

pub use crate::config::values::{
    AuthRead, AuthTokenType, Editing, Given, List, LogFormat, Network, Origin, Rate, Search,
    Seconds, SecondsOrZero,
};

/// Declares each variable once: its field, its default as one would type it, and its `--help` text.
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
    /// IP address to listen on; `::` is every address, IPv4 and IPv6. Whoever reaches it may write,
    /// unless AUTH_ISSUER is set
    listen_address: IpAddr = "127.0.0.1",
    /// TCP port to listen on
    port: u16 = "8000",
    /// sqlite://FILE or postgres://USER[:PASSWORD]@HOST[:PORT]/NAME; for TLS to PostgreSQL add
    /// ?sslmode=verify-full and, for your own CA, &sslrootcert=FILE. What it leaves out comes from
    /// libpq's variables PGHOST, PGPORT, PGUSER, PGDATABASE, PGSSLMODE and so on
    database_url: String = "sqlite://wiki.db",
    /// Password for PostgreSQL, if DATABASE_URL has none; without either, the one in ~/.pgpass
    pgpassword: String = "",
    /// Maximum number of connections to the database; on PostgreSQL, writes leave one of them to reads
    database_pool_size: NonZeroU16 = "8",
    /// Longest wait for a free connection; then the response is a 503
    database_acquire_timeout_seconds: Seconds = "0.8",
    /// Longest time for one statement: then it is cancelled, and at most 0.1 s later the response is a
    /// 503
    database_statement_timeout_seconds: Seconds = "0.9",
    /// Longest wait for the database at the start, after which the service exits with 1; a migration
    /// may take longer, as long as the database responds
    startup_timeout_seconds: Seconds = "60",
    /// Longest time for one request, its body included; then the response is a 503, or a 408 if the
    /// body has not arrived
    request_timeout_seconds: Seconds = "10",
    /// Longest time for a client to send a request's headers
    header_timeout_seconds: Seconds = "10",
    /// Longest time for a connection to stay open between two requests; a proxy in front should
    /// close it first
    idle_timeout_seconds: Seconds = "120",
    /// Maximum number of client connections; further ones wait to be accepted. Hostile clients can make
    /// each take 250 kB of memory
    max_connections: NonZeroU32 = "10000",
    /// Maximum size of a request body in bytes; a larger one is rejected with 413. All bodies,
    /// and all responses above 64 KiB, share 64 MiB of memory; what does not fit gets a 503
    max_body_bytes: NonZeroU32 = "1048576",
    /// How long the response to a read by id is kept in memory, to be sent again; 0 keeps none. What
    /// another replica or program writes is seen that much later
    cache_seconds: SecondsOrZero = "0",
    /// Maximum memory for these responses, in bytes; only together with CACHE_SECONDS
    cache_bytes: NonZeroU32 = "16777216",
    /// `true` enables GET /posts?q=, by an index that makes creating a post slower. `false` leaves an
    /// existing index as it is, and up to date, for other replicas may use it; `drop` removes it
    search: Search = "false",
    /// Who may edit and delete, and add comments, reactions, pictures and attachments. `off`: nobody.
    /// With AUTH_ISSUER, `author`: everyone who is signed in, but a post is edited by its author alone;
    /// `users`: everyone who is signed in. Without it, `anyone`: everyone, but nothing is deleted
    /// except reactions
    editing: Editing = "off",
    /// Longest time from SIGTERM or SIGINT to the exit
    shutdown_grace_seconds: Seconds = "10",
    /// Proxies whose X-Forwarded-For is believed: addresses or networks, separated by commas; the
    /// header Forwarded (RFC 7239) is not read
    trusted_proxies: List<Network> = "",
    /// Origins whose pages may call the API (CORS), separated by commas; `*` is any
    cors_allowed_origins: List<Origin> = "",
    /// URL of your OpenID Connect provider, exactly as its tokens name it in `iss`. With it, writing
    /// requires a bearer token, and AUTH_AUDIENCE has to be set; without it, anyone writes as anyone
    auth_issuer: String = "",
    /// What a token for this service has in `aud`
    auth_audience: String = "",
    /// File with the issuer's keys (a JWK Set), checked for changes every 10 s; the issuer is not called
    /// then
    auth_jwks_file: String = "",
    /// PEM file of CA certificates to trust when the issuer is called, instead of Mozilla's
    auth_ca_file: String = "",
    /// Who may read: `public` is everyone, `token` everyone with a token
    auth_read: AuthRead = "public",
    /// `at+jwt` accepts only access tokens with that `typ` (RFC 9068); `any` also `JWT`, or no
    /// `typ`, for issuers that cannot set it
    auth_token_type: AuthTokenType = "at+jwt",
    /// Requests per second that each client may send to each replica; more are answered with 429. A
    /// client is the subject of a token, an IPv4 address, or an IPv6 /64. `0.5` is one every two
    /// seconds; without it there is no limit
    rate_limit_per_second: Given<Rate> = "",
    /// Requests that a client may send at once after a pause; by default one second's worth, and at
    /// least one
    rate_limit_burst: Given<NonZeroU32> = "",
    /// `text`, `json`, or `auto`: text on a terminal, otherwise json
    log_format: LogFormat = "auto",
    /// Log level, or filters such as `info,wiki_service=debug`
    rust_log: String = "info,sqlx=warn",
}

impl Config {
    /// Reads the environment, and removes libpq's variables from it, since the driver would read them
    /// unchecked. No other thread may be running yet.
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
        let mut auth = set.keys().filter(|name| name.starts_with("AUTH_"));
        if !set.contains_key("AUTH_ISSUER")
            && let Some(name) = auth.next()
        {
            return Err(format!("{name} is set without AUTH_ISSUER: set both, or neither"));
        }
        if set.contains_key("AUTH_ISSUER") && !set.contains_key("AUTH_AUDIENCE") {
            return Err("AUTH_ISSUER is set without AUTH_AUDIENCE: give what a token for this \
                        service names in aud"
                .into());
        }
        match (set.get("EDITING").map(String::as_str), set.contains_key("AUTH_ISSUER")) {
            (Some(word @ ("author" | "users")), false) => {
                return Err(format!(
                    "EDITING={word} is set without AUTH_ISSUER: nobody is known who may edit; set \
                     both, or EDITING=anyone"
                ));
            }
            (Some("anyone"), true) => {
                return Err(
                    "EDITING=anyone is set with AUTH_ISSUER, by which everybody is known: \
                            give author, users or off"
                        .into(),
                );
            }
            _ => {}
        }
        if set.contains_key("RATE_LIMIT_BURST") && !set.contains_key("RATE_LIMIT_PER_SECOND") {
            return Err("RATE_LIMIT_BURST is set without RATE_LIMIT_PER_SECOND: set both, or \
                        neither"
                .into());
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

    /// A variable of libpq; an empty one counts as not set.
    pub fn libpq(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.libpq.get(name).map(|value| text(name, value.clone())).transpose()?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    fn from_set(set: HashMap<String, String>) -> Result<Self, String> {
        read(set.clone()).map_err(|error| {
            // envy does not name the variable in every error, but the culprit also fails on its own.
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

/// A variable's value, without the blanks and the CR that an env file may leave at its end. A password may
/// begin and end with blanks.
fn text(name: &str, value: OsString) -> Result<String, String> {
    let value = value.into_string().map_err(|_| format!("{name} is not UTF-8"))?;
    match name {
        "PGPASSWORD" => Ok(value),
        _ => Ok(value.trim().to_owned()),
    }
}

/// What to give instead, if the type's own error does not say it.
fn advice(name: &str) -> Option<&'static str> {
    match name {
        "LISTEN_ADDRESS" => Some("give an IP address such as 127.0.0.1 or ::"),
        "PORT" => Some("give a number from 0 to 65535"),
        "LOG_FORMAT" => Some("give text, json or auto"),
        "SEARCH" => Some("give true, false or drop"),
        "EDITING" => Some("give off, author, users or anyone"),
        "AUTH_READ" => Some("give public or token"),
        "AUTH_TOKEN_TYPE" => Some("give at+jwt or any"),
        "DATABASE_POOL_SIZE" => Some("give a whole number from 1 to 65535"),
        "CACHE_BYTES" | "MAX_CONNECTIONS" | "MAX_BODY_BYTES" | "RATE_LIMIT_BURST" => {
            Some("give a whole number from 1 to 4294967295")
        }
        "CACHE_SECONDS" => Some("give seconds from 0 to 86400"),
        "RATE_LIMIT_PER_SECOND" => Some("give requests per second, from 0.001 to 1000000"),
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
    text += "\nOpenTelemetry's, which count only if there is an endpoint to send traces to:\n";
    describe(&mut text, otel::VARIABLES);
    text
}

fn describe(text: &mut String, variables: &[(&str, &str, &[&str])]) {
    for (field, default, help) in variables {
        let default = if default.is_empty() { "(none)" } else { default };
        write!(text, "\n  {}={default}\n", field.to_uppercase()).unwrap();
        for line in *help {
            writeln!(text, "      {}", line.trim_start()).unwrap();
        }
    }
}
