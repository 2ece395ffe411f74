//! What others have written, and may not have been told of: a commit whose wait for a synchronous standby
//! was cut off is visible, and may still be lost. To tell of it would acknowledge it.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::database::pool::Database;

/// By this expression a statement on PostgreSQL has a commit of its own, which waits.
pub const COMMIT: &str = "pg_logical_emit_message(true, 'wiki-service', '')::text";

impl Database {
    /// Waits until a synchronous standby, if there is to be one, has what is visible.
    pub async fn confirm(&self) -> Result<(), DbErr> {
        let backend = self.get_database_backend();
        if backend == DbBackend::Postgres {
            // Statements that begin with SELECT are taken for reads.
            let commit = format!("WITH message AS (SELECT {COMMIT}) SELECT * FROM message");
            self.query_one_raw(Statement::from_string(backend, commit)).await?;
        }
        Ok(())
    }
}
