//! The schema of wiki-service.
//!
//! A released service must run on the schema of the release after it (that is what a rollback is), so
//! a migration only ever expands: what nobody reads any more is dropped one release later.

use std::time::{SystemTime, UNIX_EPOCH};

pub use sea_orm_migration::{MigratorTrait, seaql_migrations};
use sea_orm_migration::{
    prelude::*,
    sea_orm::{DatabaseTransaction, EntityTrait, Schema},
};

mod columns;
mod indexes;
mod m20261124_000001_users_and_posts;
mod m20261127_000002_idempotency;
mod m20261127_000003_identity;
mod m20261127_000004_editing;
mod m20261127_000005_comments_and_reactions;
mod m20261127_000006_media;
pub mod search;

pub use columns::check_columns;
pub use indexes::{INDEXES, Index, POSTS_OF_USER, USERS_KEY, USERS_SUBJECT};

pub struct Migrator;

impl Migrator {
    /// Applies the migrations that are not among `applied`, on PostgreSQL and in one transaction. Behind a
    /// pooler, a prepared statement would outlive it, so neither this nor a migration may use one.
    pub async fn apply(
        transaction: &DatabaseTransaction,
        applied: &[seaql_migrations::Model],
    ) -> Result<(), DbErr> {
        let mut table = Schema::new(transaction.get_database_backend())
            .create_table_from_entity(seaql_migrations::Entity);
        let table = table.if_not_exists().to_string(PostgresQueryBuilder);
        transaction.execute_unprepared(&table).await?;
        for migration in Self::migrations() {
            if applied.iter().any(|model| model.version == migration.name()) {
                continue;
            }
            migration.up(&SchemaManager::new(transaction)).await?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            let record = Query::insert()
                .into_table(seaql_migrations::Entity)
                .columns([seaql_migrations::Column::Version, seaql_migrations::Column::AppliedAt])
                .values_panic([migration.name().into(), (now.as_secs() as i64).into()])
                .to_string(PostgresQueryBuilder);
            transaction.execute_unprepared(&record).await?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261124_000001_users_and_posts::Migration),
            Box::new(m20261127_000002_idempotency::Migration),
            Box::new(m20261127_000003_identity::Migration),
            Box::new(m20261127_000004_editing::Migration),
            Box::new(m20261127_000005_comments_and_reactions::Migration),
            Box::new(m20261127_000006_media::Migration),
        ]
    }

    /// The applied migrations that this version knows. The library refuses a database that holds a
    /// newer one; we leave newer ones out, so that a rolled-back service starts.
    async fn get_migration_models<C: ConnectionTrait>(
        db: &C,
    ) -> Result<Vec<seaql_migrations::Model>, DbErr> {
        let known = Self::migrations();
        let mut applied = seaql_migrations::Entity::find().all(db).await?;
        applied.retain(|model| known.iter().any(|m| m.name() == model.version));
        Ok(applied)
    }
}
