//! Rows that are inserted, whether or not their requests are given up meanwhile.

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
pub trait Terms: Send + 'static {
    /// Inserts `row`, and returns it, unless there is one by its key, or these terms do not hold.
    fn insert<A: ActiveModelTrait>(
        self,
        row: &A,
        once: Option<&Once<A::Entity>>,
        database: &Database,
    ) -> Statement;
}

/// Terms of which there are few, so that each has its text once.
#[derive(Default)]
pub struct Fixed {
    /// Columns that its entity has not, with their values.
    pub beside: Vec<(&'static str, Value)>,
    /// What has to hold, of which values.
    pub condition: Option<(Condition, Vec<Value>)>,
    /// There is to be no second row with the same of these columns, of which the last has an index where it
    /// is not null.
    pub unique: Option<Columns>,
}

/// Terms of any kind, whose text is made each time.
#[derive(Default)]
pub struct Made {
    /// Columns that the row does not set, or its entity has not, with what they get.
    pub beside: Vec<(&'static str, Expr)>,
    /// What has to hold.
    pub condition: Option<Expr>,
    /// By what it is not to be inserted a second time.
    pub unique: Option<OnConflict>,
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
            // Of values that may be large there is no second copy while it waits for its turn.
            let insert = terms.insert(&row, once.as_ref(), &database);
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
    /// changed since. To be told of it acknowledges it, so this waits for a synchronous standby.
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

/// What a row sets, and by which key.
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

/// Whether the index of keys has refused a row: both databases name the column, or the index by it.
fn is_of_key(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(why)) if why.contains(KEY))
}
