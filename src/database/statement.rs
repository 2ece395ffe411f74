//! Runs one statement on one connection, up to the end of its answer.

use std::{io, time::Duration};

use futures_util::{Stream, TryStreamExt};
use sea_orm::{
    ExecResult, QueryResult, Statement, Values,
    sqlx::{self, AssertSqlSafe, Either, Executor, PgConnection, Postgres},
};
use sea_query_sqlx::SqlxValues;

use crate::{
    database::connection::{Connection, settings},
    request,
};

/// What was changed, and the rows.
pub type Answer = (ExecResult, Vec<QueryResult>);

pub async fn run(
    connection: &mut Connection,
    statement: Statement,
    limit: Duration,
) -> Result<Answer, sqlx::Error> {
    let sql = AssertSqlSafe(statement.sql);
    let values = SqlxValues(statement.values.unwrap_or(Values(Vec::new())));
    match connection {
        Connection::Session(connection) => {
            collect::<Postgres>(connection.fetch_many(sqlx::query_with(sql, values))).await
        }
        Connection::Pooler(connection) => {
            let query = sqlx::query_with(sql, values).persistent(false);
            in_transaction(connection, limit, query).await
        }
        Connection::Sqlite(connection, deadline) => {
            deadline.begin(limit);
            collect::<sqlx::Sqlite>(connection.fetch_many(sqlx::query_with(sql, values))).await
        }
    }
}

/// Leaves nothing behind: neither a setting nor, since it is unnamed, the prepared statement. Without the
/// transaction, it might be prepared in one session and executed in another.
async fn in_transaction<'q>(
    connection: &mut PgConnection,
    limit: Duration,
    query: impl sqlx::Execute<'q, Postgres> + 'q,
) -> Result<Answer, sqlx::Error> {
    let mut begin = "BEGIN".to_owned();
    for (name, value) in settings(limit) {
        begin += &format!("; SET LOCAL {name} = {value}");
    }
    connection.execute(AssertSqlSafe(begin)).await?;
    let answer = collect::<Postgres>(connection.fetch_many(query)).await;
    request::forget_warning();
    match answer {
        Ok(answer) => connection.execute("COMMIT").await.and_then(|_| confirmed(answer)),
        Err(sqlx::Error::Database(error)) => {
            connection.execute("ROLLBACK").await?;
            Err(sqlx::Error::Database(error))
        }
        Err(error) => Err(error),
    }
}

/// Reads the answer to its end, even if there is only one row: sqlx finishes an INSERT on SQLite, and
/// with it the commit, only when asked for more, and PostgreSQL reports the commit last.
async fn collect<DB: sqlx::Database>(
    mut answer: impl Stream<Item = Result<Either<DB::QueryResult, DB::Row>, sqlx::Error>> + Unpin,
) -> Result<Answer, sqlx::Error>
where
    ExecResult: From<DB::QueryResult>,
    QueryResult: From<DB::Row>,
{
    let (mut done, mut rows) = (DB::QueryResult::default(), Vec::new());
    while let Some(part) = answer.try_next().await? {
        match part {
            Either::Left(result) => {
                done.extend([result]);
                // A warning up to here is not about the commit; a trigger may have sent it.
                request::forget_warning();
            }
            Either::Right(row) => rows.push(row.into()),
        }
    }
    confirmed((done.into(), rows))
}

/// PostgreSQL reports a commit whose wait for a standby was cancelled as a success with a warning: it may
/// be lost with this server. (Any warning counts: its words depend on the server's language.)
fn confirmed(answer: Answer) -> Result<Answer, sqlx::Error> {
    if request::warned() {
        let error = "PostgreSQL warned at the commit: it may not be on a standby";
        return Err(sqlx::Error::Io(io::Error::other(error)));
    }
    Ok(answer)
}
