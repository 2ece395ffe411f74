//! PostgreSQL's address, in the form that the driver takes.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sea_orm::sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{
    config::Config,
    database::{
        libpq::{SEVERAL_HOSTS, Setting, Settings, in_url, settings},
        passfile,
    },
};

/// Where a local server has its socket: on Debian, on macOS, and by PostgreSQL's default.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/private/tmp", "/tmp"];

/// The certificate authorities that the system trusts: on Debian and most others, Fedora, SUSE, and macOS.
const SYSTEM_STORES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// From the weakest to the strongest. `allow` becomes `prefer`: with the driver's `allow`, TLS is never tried.
const MODES: [(&str, PgSslMode); 6] = [
    ("disable", PgSslMode::Disable),
    ("allow", PgSslMode::Prefer),
    ("prefer", PgSslMode::Prefer),
    ("require", PgSslMode::Require),
    ("verify-ca", PgSslMode::VerifyCa),
    ("verify-full", PgSslMode::VerifyFull),
];
const PREFER: usize = 2;
const REQUIRE: usize = 3;
const VERIFY_CA: usize = 4;
const VERIFY_FULL: usize = 5;

/// Reads what follows `postgres:` in `DATABASE_URL`.
pub fn options(uri: &str, config: &Config) -> Result<PgConnectOptions, String> {
    let given = settings(uri, config)?;
    let text = |name| given.get(name).map(|setting: &Setting| setting.value.as_str());

    let port = given.get("port").map_or(Ok(5432), |port| match port.value.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(port.refusal("give a number from 1 to 65535")),
    })?;
    let user = text("user").ok_or_else(|| in_url("name a user: postgres://USER@HOST/NAME"))?;
    let database = text("dbname").unwrap_or(user);
    let host = host(&given, port)?;
    let socket = host.starts_with('/');

    // The driver takes `options` only from a URL, and the empty password keeps it from looking for one.
    let server_options = utf8_percent_encode(text("options").unwrap_or_default(), NON_ALPHANUMERIC);
    let url = match text("options") {
        Some(_) => format!("postgres://?password=&options={server_options}"),
        None => "postgres://?password=".to_owned(),
    };
    let mut options: PgConnectOptions = url.parse().expect("nothing in it that can fail");
    options = options.port(port).username(user).database(database);
    options = if socket { options.socket(&host) } else { options.host(&host) };
    options = options.application_name(
        text("application_name").or(text("fallback_application_name")).unwrap_or("wiki-service"),
    );
    if let Some(capacity) = given.get("statement-cache-capacity") {
        let number = capacity.value.parse().ok().filter(|number| *number > 0);
        options = options.statement_cache_capacity(number.ok_or_else(|| {
            capacity
                .refusal("give a number above 0: without a cache, statements pile up on the server")
        })?);
    }
    let found;
    let password = match text("password") {
        Some(password) => password,
        None if config.pgpassword.ends_with('\r') => {
            return Err("PGPASSWORD ends with a carriage return, as lines of a file from Windows \
                        do: remove it"
                .into());
        }
        None if !config.pgpassword.is_empty() => &config.pgpassword,
        None => {
            let home = || std::env::home_dir().map(|home| home.join(".pgpass"));
            let file = text("passfile").map(PathBuf::from).or_else(home);
            let hosts = [text("host").unwrap_or(&host), if socket { "localhost" } else { &host }];
            let rest = [&port.to_string(), database, user];
            found = file.and_then(|file| passfile::find(&file, &hosts, rest));
            found.as_deref().unwrap_or_default()
        }
    };
    options = options.password(password);
    Ok(tls(options, &given, socket, config)?.disable_statement_logging())
}

/// A name, an address, or the folder of a socket.
fn host(given: &Settings, port: u16) -> Result<String, String> {
    if let Some(address) = given.get("hostaddr") {
        return match address.value.parse::<IpAddr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err(address.refusal("give an IP address")),
        };
    }
    let Some(host) = given.get("host") else {
        let socket = format!(".s.PGSQL.{port}");
        let found =
            SOCKET_FOLDERS.into_iter().find(|folder| Path::new(folder).join(&socket).exists());
        return Ok(found.unwrap_or("localhost").to_owned());
    };
    let value = &host.value;
    let is_ipv6 = || value.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    let is_name = || value.chars().all(|c| c.is_alphanumeric() || "-._".contains(c));
    match value {
        _ if value.starts_with('/') || is_name() || is_ipv6() => Ok(value.clone()),
        _ if value.contains(',') => Err(host.refusal(SEVERAL_HOSTS)),
        _ => {
            Err(host
                .refusal("give a name, an IP address, or a socket's folder, as /run/postgresql"))
        }
    }
}

fn tls(
    mut options: PgConnectOptions,
    given: &Settings,
    socket: bool,
    config: &Config,
) -> Result<PgConnectOptions, String> {
    let mode = given.get("sslmode");
    let root = given.get("sslrootcert");
    let system = root.filter(|root| root.value == "system");
    let required = given.get("requiressl").filter(|required| required.value == "1");

    // The setting that demands TLS besides sslmode, and the mode that it demands.
    let floor = system.map(|by| (by, VERIFY_FULL)).or(required.map(|by| (by, REQUIRE)));
    let strength = match mode {
        Some(mode) => MODES
            .iter()
            .position(|(name, _)| name.eq_ignore_ascii_case(&mode.value))
            .ok_or_else(|| {
                let names = MODES.map(|(name, _)| name).join(", ");
                mode.refusal(format!("give one of {names}"))
            })?,
        None => floor.map_or(PREFER, |(_, floor)| floor),
    };
    if let (Some(mode), Some((by, floor))) = (mode, floor)
        && strength < floor
    {
        let (asks, needs) = (by.given_as(), MODES[floor].0);
        return Err(mode.refusal(format!("{asks}={} asks for {needs}", by.value)));
    }
    if let (Some(mode), Some(root)) = (mode, root)
        && mode.is_variable()
        && !root.is_variable()
        && strength < PREFER
    {
        return Err(mode.refusal("the sslrootcert in DATABASE_URL asks for TLS"));
    }
    if socket {
        let asks = mode.or(floor.map(|(by, _)| by)).filter(|_| strength >= REQUIRE);
        return match asks {
            Some(asks) => {
                Err(asks.refusal("there is no TLS on a socket: name a host, or leave it out"))
            }
            None => Ok(options.ssl_mode(PgSslMode::Disable)),
        };
    }
    if strength == VERIFY_FULL
        && let (Some(address), Some(_)) = (given.get("hostaddr"), given.get("host"))
    {
        return Err(address.refusal(
            "with sslmode=verify-full the driver connects to the name that it checks: leave it out",
        ));
    }
    // As in libpq, `require` with a root certificate verifies the server's.
    let strength = match root {
        Some(_) if strength == REQUIRE => VERIFY_CA,
        _ => strength,
    };
    options = options.ssl_mode(MODES[strength].1);
    let used = |name, from: usize| {
        given.get(name).filter(|setting: &&Setting| !setting.is_variable() || strength >= from)
    };
    if let Some(root) = used("sslrootcert", REQUIRE) {
        options = match root.value.as_str() {
            "system" => {
                options.ssl_root_cert(system_store(config).map_err(|why| root.refusal(why))?)
            }
            _ => match pem(root)? {
                Pem::File(path) => options.ssl_root_cert(path),
                Pem::Inline(text) => options.ssl_root_cert_from_pem(text.into()),
            },
        };
    }
    match (used("sslcert", PREFER), used("sslkey", PREFER)) {
        (Some(certificate), Some(key)) => {
            options = match pem(certificate)? {
                Pem::File(path) => options.ssl_client_cert(path),
                Pem::Inline(text) => options.ssl_client_cert_from_pem(text),
            };
            Ok(match pem(key)? {
                Pem::File(path) => options.ssl_client_key(path),
                Pem::Inline(text) => options.ssl_client_key_from_pem(text),
            })
        }
        (None, None) => Ok(options),
        (Some(alone), None) | (None, Some(alone)) => {
            Err(alone.refusal("sslcert and sslkey need each other"))
        }
    }
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

enum Pem {
    File(PathBuf),
    /// The PEM text itself, which the driver accepts in variables.
    Inline(String),
}

/// Checks the file now: the driver reads it at each connection, and its error does not name it.
fn pem(setting: &Setting) -> Result<Pem, String> {
    let value = &setting.value;
    if value.starts_with("-----BEGIN") {
        return Ok(Pem::Inline(value.clone()));
    }
    let text = fs::read(value).map_err(|error| match setting.is_variable() {
        true => setting.refusal(error),
        false => setting.refusal(format!("{value}: {error}")),
    })?;
    // With no certificate in it, the driver would fall back to its default authorities.
    let mut lines = text.split(|byte| *byte == b'\n');
    if setting.name == "sslrootcert" && !lines.any(|line| line.starts_with(CERTIFICATE)) {
        return Err(setting.refusal(format!("{value} has no certificate in it (PEM)")));
    }
    Ok(Pem::File(value.into()))
}

/// The file that `sslrootcert=system` stands for.
fn system_store(config: &Config) -> Result<PathBuf, String> {
    if let Some(file) = config.libpq("SSL_CERT_FILE")? {
        return match File::open(&file) {
            Ok(_) => Ok(file.into()),
            Err(error) => Err(format!("SSL_CERT_FILE={file:?}: {error}")),
        };
    }
    let found = SYSTEM_STORES.iter().map(PathBuf::from).find(|file| File::open(file).is_ok());
    found.ok_or_else(|| "this system has no store of authorities: name one by SSL_CERT_FILE".into())
}
