//! Where the database is: `DATABASE_URL`, and what is read beside it.

use sea_orm::sqlx::{
    ConnectOptions,
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use url::Url;

use crate::{
    config::Config,
    database::error::{connection_error, reason},
};

/// How to connect.
#[derive(Clone)]
pub enum Options {
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

impl Options {
    /// Reads `DATABASE_URL`; nothing is connected yet.
    pub fn parse(config: &Config) -> Result<Self, String> {
        let url = &config.database_url;
        let (scheme, rest) = url.split_once(':').ok_or("it has no scheme")?;
        match scheme {
            "postgres" | "postgresql" | "postgresql+asyncpg" => {
                let url = Url::parse(&format!("postgres:{rest}")).map_err(|error| {
                    format!(
                        "{error} (write special characters of a password as %23 and the like, or \
                         give it by PGPASSWORD)"
                    )
                })?;
                Ok(Self::Postgres(Box::new(postgres_options(url, &config.pgpassword)?)))
            }
            "sqlite" if rest.contains(":memory:") || rest.contains("mode=memory") => {
                Err("a SQLite database in memory ends with its connection: name a file".into())
            }
            "sqlite" if rest.trim_start_matches('/').is_empty() => Err("name a file".into()),
            "sqlite" => {
                let options: SqliteConnectOptions =
                    url.parse().map_err(|e| reason(&connection_error(e)))?;
                Ok(Self::Sqlite(Box::new(
                    options
                        .create_if_missing(true)
                        .journal_mode(SqliteJournalMode::Wal)
                        .synchronous(SqliteSynchronous::Full)
                        .foreign_keys(true)
                        .busy_timeout(config.database_statement_timeout_seconds.0)
                        .disable_statement_logging(),
                )))
            }
            _ => Err(format!("it begins with {scheme}:, neither sqlite: nor postgres:")),
        }
    }

    /// What a person calls this database; never a password.
    pub fn name(&self) -> String {
        match self {
            Options::Postgres(options) => {
                let database = options.get_database().unwrap_or(options.get_username());
                match options.get_socket() {
                    Some(socket) => {
                        format!("PostgreSQL database {database} in {}", socket.display())
                    }
                    None => {
                        let (host, port) = (options.get_host(), options.get_port());
                        format!("PostgreSQL database {database} at {host}:{port}")
                    }
                }
            }
            Options::Sqlite(options) => format!("SQLite file {}", options.get_filename().display()),
        }
    }
}

/// Parameters that sqlx does not know would be logged with their values, and ignored: `ssl`, which
/// is asyncpg's name for `sslmode`, among them.
fn postgres_options(mut url: Url, password: &str) -> Result<PgConnectOptions, String> {
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut has_password = url.password().is_some();
    let mut has_user = !url.username().is_empty() || std::env::var_os("PGUSER").is_some();
    url.set_query(None);
    for (name, value) in parameters {
        let name = if name == "ssl" { "sslmode" } else { &name };
        match name {
            "password" => has_password = true,
            "sslrootcert" | "sslcert" | "sslkey" => {
                // sqlx would look for it only when it connects, and not say what it looked for.
                std::fs::metadata(&value).map_err(|error| format!("{name}={value}: {error}"))?;
            }
            "user" => has_user = true,
            "statement-cache-capacity" if value == "0" => {
                let advice = "would leave a prepared statement on the server with each request: \
                              give 1 or more, or leave it out (a pooler is found out)";
                return Err(format!("statement-cache-capacity=0 {advice}"));
            }
            "sslmode"
            | "host"
            | "port"
            | "dbname"
            | "options"
            | "application_name"
            | "statement-cache-capacity" => {}
            _ => return Err(format!("it has the parameter {name}, which is not known")),
        }
        url.query_pairs_mut().append_pair(name, &value);
    }
    if !has_user {
        return Err("name a user: postgres://USER@HOST/NAME".into());
    }
    let mut options: PgConnectOptions =
        url.as_str().parse().map_err(|error| reason(&connection_error(error)))?;
    if !has_password && !password.is_empty() {
        options = options.password(password);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("wiki-service");
    }
    Ok(options.disable_statement_logging())
}
