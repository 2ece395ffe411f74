//! The owners of users: subjects of an issuer of tokens. Existing users have none.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

#[derive(DeriveMigrationName)]
pub struct Migration;

const COLUMNS: [&str; 2] = ["issuer", "subject"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Postgres {
            let [issuer, subject] = COLUMNS.map(|c| format!("ADD COLUMN IF NOT EXISTS {c} text"));
            let alter = format!("ALTER TABLE users {issuer}, {subject}");
            return connection.execute_unprepared(&alter).await.map(drop);
        }
        // On SQLite a migration is not a transaction: an earlier attempt may have been cut off.
        for column in COLUMNS {
            if !manager.has_column("users", column).await? {
                let alter = format!("ALTER TABLE users ADD COLUMN {column} TEXT");
                connection.execute_unprepared(&alter).await?;
            }
        }
        Ok(())
    }
}
