//! Rows that are inserted, whether or not their requests are given up meanwhile.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DbBackend, DbErr, EntityName, EntityTrait, FromQueryResult,
    IdenStatic, IntoActiveModel, Iterable, ModelTrait, RuntimeErr, Statement,
    sea_query::{Expr, ExprTrait, InsertStatement, OnConflict, Query},
};

use crate::{database::pool::Database, request};

/// The columns by which a row is written once. No entity has them: nobody is shown them.
const KEY: &str = "idempotency_key";
const FIELDS: &str = "idempotency_fields";

pub type Digest = [u8; 32];

/// By what a row is written once, however often its request is sent.
pub struct Once<E: EntityTrait> {
    /// Of a key, and of whose it is.
    pub key: Digest,
    /// Of the fields that were sent with it.
    pub fields: Digest,
    /// The columns that have these fields.
    pub columns: &'static [E::Column],
}

impl Database {
    /// Inserts `row`, and says so to `inserted`. Where it was there before, by the key of `once`, gives it
    /// as it was then; nothing, if other fields were sent with that key.
    pub async fn insert<A>(
        &self,
        row: A,
        once: Option<Once<A::Entity>>,
        inserted: impl FnOnce(&<A::Entity as EntityTrait>::Model) + Send + 'static,
    ) -> Result<Option<<A::Entity as EntityTrait>::Model>, DbErr>
    where
        A: ActiveModelTrait + Send + 'static,
        <A::Entity as EntityTrait>::Model: IntoActiveModel<A> + Send,
    {
        let database = self.clone();
        match once {
            None => {
                let work = async move {
                    let row = A::Entity::insert(row).exec_with_returning(&database).await?;
                    inserted(&row);
                    Ok(Some(row))
                };
                request::to_the_end(work).await
            }
            Some(once) => {
                let work = async move {
                    let Some(new) = database.query_one(&once.insert(&row)).await? else {
                        return database.find_first(row, once).await;
                    };
                    let row = FromQueryResult::from_query_result(&new, "")?;
                    inserted(&row);
                    Ok(Some(row))
                };
                request::to_the_end(work).await
            }
        }
    }

    /// The row that was written by the key of `once`, with the fields that were sent: it may have been
    /// changed since. To be told of it acknowledges it, so on PostgreSQL this has a commit that waits
    /// for a synchronous standby, for which its own insert may not have waited to the end.
    async fn find_first<A: ActiveModelTrait>(
        &self,
        mut row: A,
        once: Once<A::Entity>,
    ) -> Result<Option<<A::Entity as EntityTrait>::Model>, DbErr> {
        let backend = self.get_database_backend();
        let commit = match backend {
            DbBackend::Postgres => ", pg_logical_emit_message(true, 'wiki-service', '')::text",
            _ => "",
        };
        let table = A::Entity::default().table_name();
        let columns: Vec<_> = columns::<A::Entity>().chain([FIELDS]).collect();
        let columns = columns.join(", ");
        // Statements that begin with SELECT are taken for reads.
        let find = format!(
            "WITH first AS (SELECT {columns} FROM {table} WHERE {KEY} = $1) \
             SELECT {columns}{commit} FROM first"
        );
        let find = Statement::from_sql_and_values(backend, find, [once.key.to_vec().into()]);
        let Some(found) = self.query_one_raw(find).await? else {
            let gone = "the row that was written by this key was deleted a moment ago";
            return Err(DbErr::Query(RuntimeErr::Internal(gone.into())));
        };
        let fields: Option<Vec<u8>> = found.try_get("", FIELDS)?;
        if fields.as_deref() != Some(&once.fields) {
            return Ok(None);
        }
        let mut first = <A::Entity as EntityTrait>::Model::from_query_result(&found, "")?;
        for column in once.columns {
            if let Some(value) = row.take(*column).into_value() {
                first.try_set(*column, value)?;
            }
        }
        Ok(Some(first))
    }
}

impl<E: EntityTrait> Once<E> {
    /// Inserts `row`, and returns it, unless there is one by this key.
    fn insert<A: ActiveModelTrait<Entity = E>>(&self, row: &A) -> InsertStatement {
        let set = E::Column::iter().filter_map(|c| Some((c.as_str(), row.get(c).into_value()?)));
        let (mut names, mut values): (Vec<_>, Vec<_>) = set.unzip();
        names.extend([KEY, FIELDS]);
        values.extend([self.key, self.fields].map(|digest| digest.to_vec().into()));
        let by_key = OnConflict::column(KEY)
            .target_and_where(Expr::col(KEY).is_not_null())
            .do_nothing()
            .to_owned();
        Query::insert()
            .into_table(E::default())
            .columns(names)
            .values_panic(values.into_iter().map(Expr::val))
            .on_conflict(by_key)
            .returning(Query::returning().columns(columns::<E>()))
            .to_owned()
    }
}

fn columns<E: EntityTrait>() -> impl Iterator<Item = &'static str> {
    E::Column::iter().map(|column| column.as_str())
}
