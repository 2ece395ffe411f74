//! The schema of wiki-service.
//!
//! A released service must run on the schema of the release after it (that is what a rollback is), so
//! a migration only ever expands: what nobody reads any more is dropped one release later.

pub use sea_orm_migration::{MigratorTrait, seaql_migrations};
use sea_orm_migration::{prelude::*, sea_orm::EntityTrait};

mod m20261124_000001_users_and_posts;

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261124_000001_users_and_posts::Migration)]
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
