//! The idempotency key that a row was written with, and what was sent with it; both null without a key.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

#[derive(DeriveMigrationName)]
pub struct Migration;

/// In the order in which an insert of a post locks them, to avoid a deadlock.
const TABLES: [&str; 2] = ["posts", "users"];
/// SHA-256 of the key with its owner, and of the fields.
const COLUMNS: [&str; 2] = ["idempotency_key", "idempotency_fields"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        for table in TABLES {
            if manager.get_database_backend() == DbBackend::Postgres {
                let [key, fields] = COLUMNS.map(|c| format!("ADD COLUMN IF NOT EXISTS {c} bytea"));
                let alter = format!("ALTER TABLE {table} {key}, {fields}");
                connection.execute_unprepared(&alter).await?;
                continue;
            }
            // On SQLite a migration is not a transaction: an earlier attempt may have been cut off.
            for column in COLUMNS {
                if !manager.has_column(table, column).await? {
                    let alter = format!("ALTER TABLE {table} ADD COLUMN {column} BLOB");
                    connection.execute_unprepared(&alter).await?;
                }
            }
        }
        Ok(())
    }
}
