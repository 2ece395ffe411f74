//! Confirms what others have written: a commit whose wait for a synchronous standby was cut off is visible,
//! but may still be lost. An answer that reports it would acknowledge it.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, sea_query::SelectStatement,
};

use crate::database::pool::Database;

/// This expression gives a statement on PostgreSQL a commit of its own, which waits for the standby.
const COMMIT: &str = "pg_logical_emit_message(true, 'wiki-service', '')::text";

impl Database {
    /// Waits until a synchronous standby, if one is configured, has what is visible.
    pub async fn confirm(&self) -> Result<(), DbErr> {
        let backend = self.get_database_backend();
        if backend == DbBackend::Postgres {
            // `run` treats a statement that begins with SELECT as a read.
            let commit = format!("WITH message AS (SELECT {COMMIT}) SELECT * FROM message");
            self.query_one_raw(Statement::from_string(backend, commit)).await?;
        }
        Ok(())
    }

    /// The row that `select` finds, once a synchronous standby has it.
    pub async fn find_confirmed(
        &self,
        select: &SelectStatement,
    ) -> Result<Option<QueryResult>, DbErr> {
        let backend = self.get_database_backend();
        let commit = match backend {
            DbBackend::Postgres => format!(", {COMMIT}"),
            _ => String::new(),
        };
        let mut found = backend.build(select);
        found.sql = format!("WITH found AS ({}) SELECT *{commit} FROM found", found.sql);
        self.query_one_raw(found).await
    }
}
