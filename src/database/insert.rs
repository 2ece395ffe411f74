//! Rows that are inserted, whether or not their requests are given up meanwhile.

use sea_orm::{
    ActiveModelTrait, ConnectionTrait, DbBackend, DbErr, EntityName, EntityTrait, FromQueryResult,
    IdenStatic, IntoActiveModel, Iterable, ModelTrait, RuntimeErr, SqlErr, Statement, Value,
};

use crate::{
    database::{
        pool::Database,
        texts::{Columns, Condition, Insert, Shape, returned},
    },
    request,
};

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

/// On what else it depends that a row is inserted.
#[derive(Default)]
pub struct Terms {
    /// Columns that its entity has not, with their values.
    pub beside: Vec<(&'static str, Value)>,
    /// What has to hold, of which values.
    pub condition: Option<(Condition, Vec<Value>)>,
    /// There is to be no second row with the same of these columns, of which the last has an index where it
    /// is not null.
    pub unique: Option<Columns>,
}

/// What came of an insert.
pub enum Inserted<M> {
    /// The row; where it was there before, by its key, as it was then.
    Row(M),
    /// Its key was sent with other fields.
    KeyUsed,
    /// Its terms do not hold, and nothing was written by its key.
    Nothing,
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
        match self.insert_on(Terms::default(), row, once, inserted).await? {
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
        terms: Terms,
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
            let (insert, values) = terms.insert(&row, once.as_ref());
            let insert = database.statement::<A::Entity>(Shape::Insert(insert), values);
            let new = match database.run(insert).await {
                // By its key, while another conflict was looked for.
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

    /// The row that was written by the key of `once`, with the fields that were sent: it may have been
    /// changed since. To be told of it acknowledges it, so on PostgreSQL this has a commit that waits
    /// for a synchronous standby, for which its own insert may not have waited to the end.
    async fn find_first<A: ActiveModelTrait>(
        &self,
        mut row: A,
        once: Once<A::Entity>,
    ) -> Result<Inserted<<A::Entity as EntityTrait>::Model>, DbErr> {
        let backend = self.get_database_backend();
        let commit = match backend {
            DbBackend::Postgres => ", pg_logical_emit_message(true, 'wiki-service', '')::text",
            _ => "",
        };
        let table = A::Entity::default().table_name();
        let columns: Vec<_> = returned::<A::Entity>().chain([FIELDS]).collect();
        let columns = columns.join(", ");
        // Statements that begin with SELECT are taken for reads.
        let find = format!(
            "WITH first AS (SELECT {columns} FROM {table} WHERE {KEY} = $1) \
             SELECT {columns}{commit} FROM first"
        );
        let find = Statement::from_sql_and_values(backend, find, [once.key.to_vec().into()]);
        let Some(found) = self.query_one_raw(find).await? else { return Ok(Inserted::Nothing) };
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

impl Terms {
    /// Inserts `row` on these terms, unless there is one by its key.
    fn insert<A: ActiveModelTrait>(
        self,
        row: &A,
        once: Option<&Once<A::Entity>>,
    ) -> (Insert, Vec<Value>) {
        let columns_of = <A::Entity as EntityTrait>::Column::iter();
        let set = columns_of.filter_map(|c| Some((c.as_str(), row.get(c).into_value()?)));
        let digests = once.map(|once| [(KEY, once.key), (FIELDS, once.fields)]);
        let digests = digests.into_iter().flatten().map(|(c, digest)| (c, digest.to_vec().into()));
        let (columns, mut values): (_, Vec<_>) = set.chain(self.beside).chain(digests).unzip();
        let condition = self.condition.map(|(condition, of)| {
            values.extend(of);
            condition
        });
        let unique = self.unique.or(once.map(|_| [KEY].as_slice()));
        (Insert { columns, condition, unique }, values)
    }
}

/// Whether the index of keys has refused a row: both databases name the column, or the index by it.
fn is_of_key(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(why)) if why.contains(KEY))
}
