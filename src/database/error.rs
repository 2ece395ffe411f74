//! Errors of the database: what a person is told, and whether waiting or another connection helps.

use std::{io, sync::Arc};

use sea_orm::{DbErr, RuntimeErr, sqlx};

pub fn connection_error(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))
}

pub fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

/// The driver's error inside sea-orm's.
fn cause(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// The cause in one line, without sea-orm's and sqlx's prefixes.
pub fn reason(error: &DbErr) -> String {
    match cause(error) {
        Some(sqlx::Error::Io(error)) => error.to_string(),
        Some(sqlx::Error::Tls(error) | sqlx::Error::Configuration(error)) => error.to_string(),
        Some(sqlx::Error::Database(error)) => error.message().to_owned(),
        Some(error) => error.to_string(),
        None => match error {
            DbErr::Custom(reason) => reason.clone(),
            _ => error.to_string(),
        },
    }
}

/// Whether the connection is of no more use: anything but an answer of the database that it lives.
pub fn is_disconnect(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // 25006: connected while the server took no writes, as one that is no longer the primary.
            let codes = ["08", "25006", "57P"];
            error.code().is_some_and(|code| codes.iter().any(|c| code.starts_with(c)))
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            false
        }
        _ => true,
    }
}

pub fn is_missing_table(error: &DbErr) -> bool {
    match cause(error) {
        Some(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| code == "42P01")
                || error.message().starts_with("no such table")
        }
        _ => false,
    }
}

/// Whether waiting helps: the database is not there, starting, stopping, full or locked.
pub fn is_unavailable(error: &DbErr) -> bool {
    match (error, cause(error)) {
        (_, Some(sqlx::Error::Database(error))) => {
            let code = error.code().unwrap_or_default();
            match code.parse::<i32>() {
                // SQLite: the low byte of BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN.
                Ok(number) if code.len() < 5 => matches!(number & 0xff, 5 | 6 | 8 | 10 | 13 | 14),
                // PostgreSQL: connection, read-only, rollback, resources, locks, intervention.
                _ => ["08", "25006", "40", "53", "55P03", "57"].iter().any(|c| code.starts_with(c)),
            }
        }
        (_, Some(error)) => is_disconnect(error),
        (DbErr::ConnectionAcquire(_) | DbErr::Migration(_), _) => true,
        (DbErr::Query(RuntimeErr::Internal(_)), _) => true,
        _ => false,
    }
}

/// Whether starting again would meet the same error: a wrong password, name, file or certificate.
pub fn is_permanent(error: &DbErr) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, PermissionDenied};
    match cause(error) {
        Some(sqlx::Error::Io(error)) => {
            matches!(error.kind(), InvalidData | InvalidInput | IsADirectory | PermissionDenied)
        }
        Some(sqlx::Error::Database(db)) => {
            let cannot_open = db.code().is_some_and(|c| ["8", "14"].contains(&c.as_ref()));
            cannot_open || !is_unavailable(error)
        }
        Some(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => true,
        Some(_) => false,
        None => !matches!(error, DbErr::ConnectionAcquire(_)),
    }
}
