//! Rows by their primary key.

use sea_orm::{ConnectionTrait, DbErr, EntityTrait, FromQueryResult, Statement, Value};

use crate::database::{pool::Database, texts::Shape};

impl Database {
    /// The row with this primary key.
    pub async fn find<E: EntityTrait>(
        &self,
        id: impl Into<Value>,
    ) -> Result<Option<E::Model>, DbErr> {
        let find = self.statement::<E>(Shape::Find, vec![id.into()]);
        let row = self.query_one_raw(find).await?;
        row.map(|row| E::Model::from_query_result(&row, "")).transpose()
    }

    pub fn statement<E: EntityTrait>(&self, shape: Shape, values: Vec<Value>) -> Statement {
        self.texts.statement::<E>(self.get_database_backend(), shape, values)
    }
}
