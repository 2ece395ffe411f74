//! Inserts rows. An insert is finished even if its request is given up meanwhile.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, IdenStatic,
    IntoActiveModel, Iterable, ModelTrait, RuntimeErr, SqlErr, Statement, Value,
    sea_query::{Expr, ExprTrait, OnConflict, Query},
};

use crate::{
    database::{
        pool::Database,
        texts::{self, Columns, Condition, Insert, Shape, returned, unique_where_set},
    },
    request,
};

/// The columns for idempotency keys. No entity has them, so no answer can show them.
const KEY: &str = "idempotency_key";
const FIELDS: &str = "idempotency_fields";

pub type Digest = [u8; 32];

/// The idempotency key that keeps a row from being written twice, however often its request is sent.
pub struct Once<E: EntityTrait> {
    /// Of the key and its owner.
    pub key: Digest,
    /// Of the fields that were sent with it.
    pub fields: Digest,
    /// The columns that store these fields.
    pub columns: &'static [E::Column],
}

/// Further conditions of an insert.
pub trait Terms: Send + 'static {
    /// Inserts `row` and returns it, unless its key has a row already, or these terms do not hold.
    fn insert<A: ActiveModelTrait>(
        self,
        row: &A,
        once: Option<&Once<A::Entity>>,
        database: &Database,
    ) -> Statement;
}

/// Terms that exist in few variants, so that the SQL of each is kept.
#[derive(Default)]
pub struct Fixed {
    /// Columns that the entity does not have, with their values.
    pub beside: Vec<(&'static str, Value)>,
    /// What has to hold, and its values.
    pub condition: Option<(Condition, Vec<Value>)>,
    /// Columns with a partial unique index, over the rows where the last one is not null: on a conflict,
    /// nothing is inserted.
    pub unique: Option<Columns>,
}

/// Terms of any kind, whose SQL is built each time.
#[derive(Default)]
pub struct Made {
    /// Columns that the row does not set, or the entity does not have, with their values.
    pub beside: Vec<(&'static str, Expr)>,
    /// What has to hold.
    pub condition: Option<Expr>,
    /// What to do on a conflict.
    pub unique: Option<OnConflict>,
}

/// The result of an insert.
pub enum Inserted<M> {
    /// The row. If its key had written it before, as it was then.
    Row(M),
    /// Its key was sent with other fields.
    KeyUsed,
    /// Its terms do not hold, and its key has written nothing.
    Nothing,
}

impl Database {
    /// Inserts `row`, and calls `inserted` with it. If the key of `once` was used before, returns the row
    /// as it was then, or `None` if the key was sent with other fields.
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
        match self.insert_on(Fixed::default(), row, once, inserted).await? {
            Inserted::Row(row) => Ok(Some(row)),
            Inserted::KeyUsed => Ok(None),
            Inserted::Nothing => {
                let gone = "the row that was written by this key was deleted a moment ago";
                Err(DbErr::Query(RuntimeErr::Internal(gone.into())))
            }
        }
    }

    /// The same on `terms`, in one statement: to look first would race.
    pub async fn insert_on<A>(
        &self,
        terms: impl Terms,
        row: A,
        once: Option<Once<A::Entity>>,
        inserted: impl FnOnce(&<A::Entity as EntityTrait>::Model) + Send + 'static,
    ) -> Result<Inserted<<A::Entity as EntityTrait>::Model>, DbErr>
    where
        A: ActiveModelTrait + Send + 'static,
        <A::Entity as EntityTrait>::Model: IntoActiveModel<A> + Send,
    {
        let database = self.clone();
        let work = async move {
            // Built here, so that large values are not held twice while the insert waits for its turn.
            let insert = terms.insert(&row, once.as_ref(), &database);
            let new = match database.run(insert).await {
                // A conflict on the key, while `ON CONFLICT` named another index.
                Err(error) if is_of_key(&error) => Vec::new(),
                new => new?.1,
            };
            match (new.first(), once) {
                (Some(new), _) => {
                    let row = FromQueryResult::from_query_result(new, "")?;
                    inserted(&row);
                    Ok(Inserted::Row(row))
                }
                (None, Some(once)) => database.find_first(row, once).await,
                (None, None) => Ok(Inserted::Nothing),
            }
        };
        request::to_the_end(work).await
    }

    /// The row that the key of `once` has written, with the fields as they were sent, since it may have been
    /// changed. To report it is to acknowledge it, so this waits for a synchronous standby.
    async fn find_first<A: ActiveModelTrait>(
        &self,
        mut row: A,
        once: Once<A::Entity>,
    ) -> Result<Inserted<<A::Entity as EntityTrait>::Model>, DbErr> {
        let find = Query::select()
            .columns(returned::<A::Entity>().chain([FIELDS]))
            .from(A::Entity::default())
            .and_where(Expr::col(KEY).eq(once.key.to_vec()))
            .to_owned();
        let Some(found) = self.find_confirmed(&find).await? else { return Ok(Inserted::Nothing) };
        let fields: Option<Vec<u8>> = found.try_get("", FIELDS)?;
        if fields.as_deref() != Some(&once.fields) {
            return Ok(Inserted::KeyUsed);
        }
        let mut first = <A::Entity as EntityTrait>::Model::from_query_result(&found, "")?;
        for column in once.columns {
            if let Some(value) = row.take(*column).into_value() {
                first.try_set(*column, value)?;
            }
        }
        Ok(Inserted::Row(first))
    }
}

/// The columns that a row sets, and those of its key.
fn set<'a, A: ActiveModelTrait>(
    row: &'a A,
    once: Option<&Once<A::Entity>>,
) -> impl Iterator<Item = (&'static str, Value)> + use<'a, A> {
    let columns = <A::Entity as EntityTrait>::Column::iter();
    let set = columns.filter_map(|c| Some((c.as_str(), row.get(c).into_value()?)));
    let digests = once.map(|once| [(KEY, once.key), (FIELDS, once.fields)]);
    let digests = digests.into_iter().flatten();
    set.chain(digests.map(|(c, digest)| (c, digest.to_vec().into())))
}

impl Terms for Fixed {
    fn insert<A: ActiveModelTrait>(
        self,
        row: &A,
        once: Option<&Once<A::Entity>>,
        database: &Database,
    ) -> Statement {
        let (columns, mut values): (_, Vec<_>) = set(row, once).chain(self.beside).unzip();
        let condition = self.condition.map(|(condition, of)| {
            values.extend(of);
            condition
        });
        let unique = self.unique.or(once.map(|_| [KEY].as_slice()));
        let insert = Insert { columns, condition, unique };
        database.statement::<A::Entity>(Shape::Insert(insert), values)
    }
}

impl Terms for Made {
    fn insert<A: ActiveModelTrait>(
        self,
        row: &A,
        once: Option<&Once<A::Entity>>,
        database: &Database,
    ) -> Statement {
        let set = set(row, once).map(|(column, value)| (column, Expr::val(value)));
        let unique = self.unique.or(once.map(|_| unique_where_set(&[KEY])));
        let insert = texts::insert::<A::Entity>(set.chain(self.beside), self.condition, unique);
        database.get_database_backend().build(&insert)
    }
}

/// Whether the index of keys has refused a row: the error names the column, or the index named after it.
fn is_of_key(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(why)) if why.contains(KEY))
}
