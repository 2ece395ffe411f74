//! Whose users are: the subject of an issuer of tokens. Users from before have none.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

#[derive(DeriveMigrationName)]
pub struct Migration;

const INDEX: &str = "
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE subject IS NOT NULL;";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = match manager.get_database_backend() {
            DbBackend::Postgres => {
                "ALTER TABLE users ADD COLUMN issuer text, ADD COLUMN subject text;"
            }
            _ => {
                "ALTER TABLE users ADD COLUMN issuer TEXT; ALTER TABLE users ADD COLUMN subject TEXT;"
            }
        };
        let statements = format!("{columns}{INDEX}");
        manager.get_connection().execute_unprepared(&statements).await.map(drop)
    }
}
