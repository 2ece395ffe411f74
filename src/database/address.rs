//! Where the database is: `DATABASE_URL`, and what complements it.

use sea_orm::sqlx::{postgres::PgConnectOptions, sqlite::SqliteConnectOptions};

use crate::{
    config::Config,
    database::{libpq::in_url, postgres, sqlite},
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
        // Without a scheme, what precedes the first colon may be anything, even a password.
        let of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let (scheme, rest) = url
            .split_once(':')
            .filter(|(scheme, _)| scheme.chars().all(of_scheme))
            .ok_or_else(|| in_url("it begins with neither sqlite: nor postgres:"))?;
        // SQLAlchemy's names for its drivers: postgresql+asyncpg.
        match scheme.split('+').next().unwrap_or_default() {
            "postgres" | "postgresql" => {
                Ok(Self::Postgres(Box::new(postgres::options(rest, config)?)))
            }
            _ if scheme == "sqlite" => {
                Ok(Self::Sqlite(Box::new(sqlite::options(url, rest, config)?)))
            }
            _ => Err(in_url(format!("it begins with {scheme}:, neither sqlite: nor postgres:"))),
        }
    }

    /// The database's name for people; never contains a password.
    pub fn name(&self) -> String {
        match self {
            Options::Postgres(options) => {
                let database = options.get_database().unwrap_or(options.get_username());
                let port = options.get_port();
                match options.get_socket().map(|folder| folder.display()) {
                    Some(folder) => {
                        format!("PostgreSQL database {database} at {folder}/.s.PGSQL.{port}")
                    }
                    None => match options.get_host() {
                        host if host.contains(':') => {
                            format!("PostgreSQL database {database} at [{host}]:{port}")
                        }
                        host => format!("PostgreSQL database {database} at {host}:{port}"),
                    },
                }
            }
            Options::Sqlite(options) => format!("SQLite file {}", options.get_filename().display()),
        }
    }
}
