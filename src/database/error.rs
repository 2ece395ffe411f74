//! Database errors: what people are told, and whether waiting or another connection helps.

use std::{io, sync::Arc};

use sea_orm::{
    DbErr, RuntimeErr,
    sqlx::{self, error::DatabaseError, postgres::PgDatabaseError},
};

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
        Some(sqlx::Error::Database(error)) => answer(error.as_ref()),
        Some(error) => error.to_string(),
        None => match error {
            DbErr::Custom(reason) | DbErr::Query(RuntimeErr::Internal(reason)) => reason.clone(),
            DbErr::ConnectionAcquire(_) => {
                "no connection in time: the server does not answer, or all are in use".into()
            }
            _ => error.to_string(),
        },
    }
}

/// The database's message, with PostgreSQL's detail and hint.
fn answer(error: &dyn DatabaseError) -> String {
    let more = error.try_downcast_ref::<PgDatabaseError>().map(|e| (e.detail(), e.hint()));
    let (detail, hint) = more.unwrap_or_default();
    let labels = [("", Some(error.message())), (" DETAIL: ", detail), (" HINT: ", hint)];
    let parts = labels.into_iter().filter_map(|(label, text)| Some(label.to_owned() + text?));
    parts.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the connection is unusable: true of anything but an answer of a database that works.
pub fn is_disconnect(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // 25006: the server is read-only, such as one that is no longer the primary.
            // 0A000: "cached plan must not change result type", since the tables for which its
            // statements were prepared have been replaced.
            let codes = ["08", "0A000", "25006", "57P"];
            error.code().is_some_and(|code| codes.iter().any(|c| code.starts_with(c)))
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            false
        }
        _ => true,
    }
}

pub fn is_missing_table(error: &DbErr) -> bool {
    is_missing(error, "42P01", "no such table")
}

/// Whether the schema is another version's: a table or a column is missing.
pub fn is_other_schema(error: &DbErr) -> bool {
    is_missing_table(error)
        || is_missing(error, "42703", "no such column")
        || is_missing(error, "42703", "has no column")
}

fn is_missing(error: &DbErr, postgres: &str, sqlite: &str) -> bool {
    match cause(error) {
        Some(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| code == postgres) || error.message().contains(sqlite)
        }
        _ => false,
    }
}

/// Whether a column that may not be null would have been null, such as when a subquery found no row.
pub fn is_null(error: &DbErr) -> bool {
    is_missing(error, "23502", "NOT NULL constraint failed")
}

/// Whether the database user lacks the privilege.
pub fn is_forbidden(error: &DbErr) -> bool {
    matches!(cause(error), Some(sqlx::Error::Database(e)) if e.code().is_some_and(|c| c == "42501"))
}

/// Whether a statement ran out of time, by the server's limit or by ours.
pub fn is_overtime(error: &DbErr) -> bool {
    match (error, cause(error)) {
        // INTERRUPT, query_canceled.
        (_, Some(sqlx::Error::Database(error))) => {
            error.code().is_some_and(|code| ["9", "57014"].contains(&code.as_ref()))
        }
        (DbErr::Query(RuntimeErr::Internal(_)), _) => true,
        _ => false,
    }
}

/// Whether the unique index for an `ON CONFLICT` is missing: on PostgreSQL it may not be built yet.
pub fn is_missing_index(error: &DbErr) -> bool {
    is_missing(error, "42P10", "ON CONFLICT clause does not match")
}

/// Whether a time limit of ours has passed.
pub fn is_timeout(error: &DbErr) -> bool {
    match cause(error) {
        Some(sqlx::Error::Io(error)) => error.kind() == io::ErrorKind::TimedOut,
        _ => matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Query(RuntimeErr::Internal(_))),
    }
}

/// The primary part of an SQLite error's code, such as 8 (READONLY) of 1544 (READONLY_DIRECTORY).
/// PostgreSQL's codes have five characters.
fn sqlite_code(error: &dyn DatabaseError) -> Option<u32> {
    let code = error.code().filter(|code| code.len() < 5)?;
    Some(code.parse::<u32>().ok()? & 0xff)
}

/// Whether waiting helps: the database is unreachable, starting, stopping, full or locked.
pub fn is_unavailable(error: &DbErr) -> bool {
    match (error, cause(error)) {
        (_, Some(sqlx::Error::Database(error))) => {
            match sqlite_code(error.as_ref()) {
                // BUSY, LOCKED, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN.
                Some(code) => [5, 6, 8, 9, 10, 13, 14].contains(&code),
                // PostgreSQL: connection, stale plan, read-only, rollback, resources, locks, intervention.
                None => {
                    let code = error.code().unwrap_or_default();
                    let codes = ["08", "0A000", "25006", "40", "53", "55P03", "57"];
                    codes.iter().any(|c| code.starts_with(c))
                }
            }
        }
        (_, Some(error)) => is_disconnect(error),
        (DbErr::ConnectionAcquire(_) | DbErr::Migration(_), _) => true,
        (DbErr::Query(RuntimeErr::Internal(_)), _) => true,
        _ => false,
    }
}

/// Whether a restart would meet the same error: a wrong password, name, file or certificate.
pub fn is_permanent(error: &DbErr) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, NotADirectory, PermissionDenied};
    match cause(error) {
        Some(sqlx::Error::Io(error)) => {
            [InvalidData, InvalidInput, IsADirectory, NotADirectory, PermissionDenied]
                .contains(&error.kind())
        }
        Some(sqlx::Error::Database(db)) => {
            // READONLY, CANTOPEN.
            let cannot_open = sqlite_code(db.as_ref()).is_some_and(|code| [8, 14].contains(&code));
            cannot_open || !is_unavailable(error)
        }
        Some(sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => true,
        Some(_) => false,
        None => !is_unavailable(error),
    }
}
