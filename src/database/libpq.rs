//! What PostgreSQL's own clients accept as an address: a URI, its parameters, and environment
//! variables for what it leaves out (PostgreSQL 18's manual, 32.1.1.2, 32.1.2 and 32.15).

use std::{collections::HashMap, fmt::Display};

use percent_encoding::percent_decode_str;

use crate::config::Config;

/// How a parameter is treated.
enum Use {
    /// It says where or how to connect.
    Taken,
    /// It has no effect here, and is ignored with a warning.
    Nothing,
    /// With one of these values it is ignored with a warning; any other is refused.
    NothingIf(&'static [&'static str], &'static str),
    /// These values are what happens anyway; any other is refused.
    HappensIf(&'static [&'static str], &'static str),
}
use Use::{HappensIf, Nothing, NothingIf, Taken};

const NO: &[&str] = &["0", "false", "no", "off"];
const UNLESS_REQUIRED: &[&str] = &["disable", "prefer"];
const UP_TO_TLS_1_2: &[&str] = &["TLSv1", "TLSv1.1", "TLSv1.2"];

const AUTHENTICATION: &str = "the driver answers whatever method the server asks for";
const BINDING: &str = "the driver does not bind channels: ask for sslmode=verify-full";
const GSS: &str = "the driver does not speak GSSAPI: ask for sslmode=verify-full";
const PEER: &str = "the driver does not ask who runs the server";
const NEGOTIATION: &str = "the driver asks for TLS in PostgreSQL's own way: leave it out";
const CERTIFICATE: &str = "the driver sends sslcert where the server asks for one: leave it out";
const KEY: &str = "the driver reads no encrypted key: give an sslkey without a password";
const REVOCATION: &str = "the driver does not look at lists of revoked certificates";
const SNI: &str = "the driver always names the host that it wants";
const TLS: &str = "the driver takes TLS 1.2 and 1.3: have the server insist";
const SCRAM: &str = "the driver needs the password";
const SERVICE: &str = "service files are not read: write what it stands for into DATABASE_URL";
const SESSION: &str = "the service does not choose among servers: name the one that takes writes";
const REPLICATION: &str = "a connection for replication serves no requests";
const PROTOCOL: &str = "the driver speaks version 3.0";

/// Each parameter of a URI, libpq's variable for it, and how both are treated.
#[rustfmt::skip]
const PARAMETERS: &[(&str, &str, Use)] = &[
    ("host", "PGHOST", Taken),
    ("hostaddr", "PGHOSTADDR", Taken),
    ("port", "PGPORT", Taken),
    ("dbname", "PGDATABASE", Taken),
    ("user", "PGUSER", Taken),
    ("password", "", Taken), // PGPASSWORD is a variable of ours
    ("passfile", "PGPASSFILE", Taken),
    ("sslmode", "PGSSLMODE", Taken),
    ("requiressl", "PGREQUIRESSL", Taken),
    ("sslrootcert", "PGSSLROOTCERT", Taken),
    ("sslcert", "PGSSLCERT", Taken),
    ("sslkey", "PGSSLKEY", Taken),
    ("application_name", "PGAPPNAME", Taken),
    ("fallback_application_name", "", Taken),
    ("options", "PGOPTIONS", Taken),
    ("statement-cache-capacity", "", Taken), // sqlx's own
    ("require_auth", "PGREQUIREAUTH", HappensIf(&[], AUTHENTICATION)),
    ("channel_binding", "PGCHANNELBINDING", NothingIf(UNLESS_REQUIRED, BINDING)),
    ("gssencmode", "PGGSSENCMODE", NothingIf(UNLESS_REQUIRED, GSS)),
    ("requirepeer", "PGREQUIREPEER", HappensIf(&[], PEER)),
    ("sslnegotiation", "PGSSLNEGOTIATION", HappensIf(&["postgres"], NEGOTIATION)),
    ("direct_tls", "", NothingIf(NO, NEGOTIATION)), // asyncpg's
    ("sslcertmode", "PGSSLCERTMODE", HappensIf(&["allow"], CERTIFICATE)),
    ("sslpassword", "", HappensIf(&[], KEY)),
    ("sslcrl", "PGSSLCRL", HappensIf(&[], REVOCATION)),
    ("sslcrldir", "PGSSLCRLDIR", HappensIf(&[], REVOCATION)),
    ("sslsni", "PGSSLSNI", HappensIf(&["1"], SNI)),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", HappensIf(UP_TO_TLS_1_2, TLS)),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", HappensIf(&["TLSv1.3"], TLS)),
    ("scram_client_key", "", HappensIf(&[], SCRAM)),
    ("scram_server_key", "", HappensIf(&[], SCRAM)),
    ("service", "PGSERVICE", HappensIf(&[], SERVICE)),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", HappensIf(&["any"], SESSION)),
    ("replication", "", NothingIf(NO, REPLICATION)),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", HappensIf(&["3.0"], PROTOCOL)),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", HappensIf(&["3.0", "3.2", "latest"], PROTOCOL)),
    ("client_encoding", "PGCLIENTENCODING", Nothing),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Nothing),
    ("gssdelegation", "PGGSSDELEGATION", Nothing),
    ("gsslib", "PGGSSLIB", Nothing),
    ("keepalives", "", Nothing),
    ("keepalives_count", "", Nothing),
    ("keepalives_idle", "", Nothing),
    ("keepalives_interval", "", Nothing),
    ("krbsrvname", "PGKRBSRVNAME", Nothing),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Nothing),
    ("oauth_client_id", "", Nothing),
    ("oauth_client_secret", "", Nothing),
    ("oauth_issuer", "", Nothing),
    ("oauth_scope", "", Nothing),
    ("servicefile", "PGSERVICEFILE", Nothing),
    ("sslcompression", "PGSSLCOMPRESSION", Nothing),
    ("sslkeylogfile", "", Nothing),
    ("tcp_user_timeout", "", Nothing),
    ("", "PGDATESTYLE", Nothing),
    ("", "PGGEQO", Nothing),
    ("", "PGTZ", Nothing),
    // asyncpg's, psycopg's and SQLAlchemy's.
    ("async_fallback", "", Nothing),
    ("command_timeout", "", Nothing),
    ("max_cacheable_statement_size", "", Nothing),
    ("max_cached_statement_lifetime", "", Nothing),
    ("prepare_threshold", "", Nothing),
    ("prepared_statement_cache_size", "", Nothing),
    ("prepared_statement_name_func", "", Nothing),
    ("statement_cache_size", "", Nothing),
    ("timeout", "", Nothing),
];

/// A stray `@` comes from a password with a `/` or `?` in it: what looks like the host or the database's
/// name may be part of the password, and must not be shown.
const STRAY_AT: &str = "there is an @ behind the host: write a password's / ? @ and % as %2F %3F \
                        %40 and %25, or give it by PGPASSWORD; and an @ elsewhere as %40";

/// A value, and where it comes from.
pub struct Setting {
    pub name: &'static str,
    pub value: String,
    /// The variable, unless it is from `DATABASE_URL`.
    variable: Option<&'static str>,
}

impl Setting {
    pub fn is_variable(&self) -> bool {
        self.variable.is_some()
    }

    /// The name under which a person finds it.
    pub fn given_as(&self) -> &'static str {
        self.variable.unwrap_or(self.name)
    }

    /// One line that says what is wrong with it. Values from the URL are not shown.
    pub fn refusal(&self, why: impl Display) -> String {
        match self.variable {
            // A key may be in the variable itself.
            Some(name) if self.value.contains('\n') => format!("{name} is not valid: {why}"),
            Some(name) => {
                format!("{name}={:?} is not valid: {why}; see wiki-service --help", self.value)
            }
            None => in_url(format!("{}: {why}", self.name)),
        }
    }
}

pub fn in_url(why: impl Display) -> String {
    format!("DATABASE_URL is not valid: {why}; see wiki-service --help")
}

/// The parameters that say where and how to connect, by name.
pub type Settings = HashMap<&'static str, Setting>;

/// Reads what follows `postgres:` in `DATABASE_URL`, and libpq's variables for what it leaves out.
pub fn settings(uri: &str, config: &Config) -> Result<Settings, String> {
    let mut given = parse(uri).map_err(in_url)?;
    let mut settings = Settings::new();
    let mut ignored = Vec::new();
    for (name, variable, becomes) in PARAMETERS {
        let in_url = given.remove(name).filter(|value| !value.is_empty());
        let setting = match in_url {
            Some(value) => Setting { value, name, variable: None },
            // A host in the URL overrides PGHOSTADDR as well.
            None if *name == "hostaddr"
                && settings.get("host").is_some_and(|h| !h.is_variable()) =>
            {
                continue;
            }
            None => match config.libpq(variable)? {
                Some(value) => Setting { value, name, variable: Some(variable) },
                None => continue,
            },
        };
        let is_one_of =
            |values: &[&str]| values.iter().any(|v| v.eq_ignore_ascii_case(&setting.value));
        match becomes {
            Taken => drop(settings.insert(*name, setting)),
            NothingIf(values, why) if !is_one_of(values) => return Err(setting.refusal(why)),
            HappensIf(values, why) if !is_one_of(values) => return Err(setting.refusal(why)),
            HappensIf(..) => {}
            Nothing | NothingIf(..) => ignored.push(setting.given_as()),
        }
    }
    if !ignored.is_empty() {
        tracing::warn!("ignored, as it has no effect here: {}", ignored.join(", "));
    }
    Ok(settings)
}

/// `//USER:PASSWORD@HOST:PORT/NAME?PARAMETERS`, of which every part may be left out.
fn parse(uri: &str) -> Result<HashMap<&'static str, String>, String> {
    let uri = uri.strip_prefix("//").ok_or("write postgres://USER@HOST/NAME")?;
    let (address, query) = uri.split_once('?').unwrap_or((uri, ""));
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    let may_have_at = |pair: &&str| pair.starts_with("user=") || pair.starts_with("password=");
    if path.contains('@') || pairs.iter().any(|pair| pair.contains('@') && !may_have_at(pair)) {
        return Err(STRAY_AT.into());
    }

    let mut given = HashMap::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or("a parameter has no value")?;
        let (name, value) = (decoded(name)?, decoded(value)?);
        let (name, value) = match (&*name, &*value) {
            // JDBC's `ssl=true`, as libpq reads it; other values are asyncpg's.
            ("ssl", "true") => ("sslmode", "require".to_owned()),
            ("ssl", _) => ("sslmode", value),
            ("database", _) => ("dbname", value),
            _ => (&*name, value),
        };
        let known =
            PARAMETERS.iter().map(|(known, ..)| *known).find(|k| *k == name && !k.is_empty());
        let known = known.ok_or_else(|| {
            let name = if name.bytes().all(|b| b.is_ascii_graphic()) { name } else { "…" };
            format!("it has the parameter {name}, which is not known")
        })?;
        if given.insert(known, value.clone()).is_some_and(|before| before != value) {
            return Err(format!(
                "it has the parameter {known} twice: the service connects to one server"
            ));
        }
    }

    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if address.contains(',') {
        return Err(SEVERAL_HOSTS.into());
    }
    let (host, port) = match address.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, ""))) => (host, ""),
        Some(Some((host, port))) if port.starts_with(':') => (host, &port[1..]),
        Some(_) => {
            return Err("write an IPv6 address as [::1], and a port behind it as :5432".into());
        }
        None => address.split_once(':').unwrap_or((address, "")),
    };
    if port.contains(':') {
        return Err("write an IPv6 address as [::1]".into());
    }
    let name = path.trim_start_matches('/');
    for (part, value) in
        [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", name)]
    {
        // As in libpq, a parameter overrides what precedes it in the URI.
        if !value.is_empty() && !given.contains_key(part) {
            given.insert(part, decoded(value)?);
        }
    }
    Ok(given)
}

pub const SEVERAL_HOSTS: &str =
    "it names several hosts, and the service connects to one: name the one that takes writes";

/// As in libpq, a plus is a plus, not a space.
fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "a % in it is not UTF-8")?;
    if text.contains('\0') {
        return Err("it has the character NUL".into());
    }
    Ok(text.into_owned())
}
