//! The SQL of the statements that most requests need. sea-query builds each once, when it is first needed:
//! that takes longer than everything else that a statement costs this process.
#![expect(
    unpredictable_function_pointer_comparisons,
    reason = "two addresses of a condition would be two texts; one address means the same text"
)]

use std::{
    any::TypeId,
    sync::{PoisonError, RwLock},
};

use sea_orm::{
    ColumnTrait, DbBackend, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn, QueryFilter,
    QueryTrait, Statement, StatementBuilder, Value,
    sea_query::{Expr, ExprTrait, InsertStatement, OnConflict, Query, Values},
};

/// A statement about one table, without its values.
#[derive(PartialEq)]
pub enum Shape {
    /// A row by its primary key.
    Find,
    Insert(Insert),
}

/// Inserts a row, and returns it.
#[derive(PartialEq)]
pub struct Insert {
    pub columns: Vec<&'static str>,
    /// What has to hold; its values follow those of the columns.
    pub condition: Option<Condition>,
    /// Columns with a partial unique index, over the rows where the last one is not null: on a conflict,
    /// nothing is inserted.
    pub unique: Option<Columns>,
}

pub type Condition = fn(&[Value]) -> Expr;
pub type Columns = &'static [&'static str];

/// By table and shape. There are so few that scanning them is cheaper than hashing.
#[derive(Default)]
pub struct Texts(RwLock<Vec<((TypeId, Shape), String)>>);

impl Texts {
    /// The statement of this shape on the table of `E`, with its values.
    pub fn statement<E: EntityTrait>(
        &self,
        db_backend: DbBackend,
        shape: Shape,
        values: Vec<Value>,
    ) -> Statement {
        let key = (TypeId::of::<E>(), shape);
        let texts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = texts.iter().find(|(known, _)| *known == key).map(|(_, text)| text.clone());
        drop(texts);
        let sql = known.unwrap_or_else(|| {
            let made = key.1.make::<E>(db_backend, &values);
            let in_order = made.values.is_some_and(|made| made.0 == values);
            assert!(in_order, "other values, or another order of them: {}", made.sql);
            let mut texts = self.0.write().unwrap_or_else(PoisonError::into_inner);
            texts.push((key, made.sql.clone()));
            made.sql
        });
        Statement { sql, values: Some(Values(values)), db_backend }
    }
}

impl Shape {
    fn make<E: EntityTrait>(&self, db_backend: DbBackend, values: &[Value]) -> Statement {
        match self {
            Self::Find => {
                let id = E::PrimaryKey::iter().next().expect("a primary key").into_column();
                E::find().filter(id.eq(values[0].clone())).build(db_backend)
            }
            Self::Insert(insert) => StatementBuilder::build(&insert.into::<E>(values), &db_backend),
        }
    }
}

impl Insert {
    fn into<E: EntityTrait>(&self, values: &[Value]) -> InsertStatement {
        let (values, of) = values.split_at(self.columns.len());
        let values = values.iter().cloned().map(Expr::val);
        let condition = self.condition.map(|condition| condition(of));
        let columns = self.columns.iter().copied();
        insert::<E>(columns.zip(values), condition, self.unique.map(unique_where_set))
    }
}

/// Inserts a row, if `condition` holds, and returns it.
pub fn insert<E: EntityTrait>(
    row: impl Iterator<Item = (&'static str, Expr)>,
    condition: Option<Expr>,
    unique: Option<OnConflict>,
) -> InsertStatement {
    let (columns, values): (Vec<_>, Vec<_>) = row.unzip();
    let mut insert = Query::insert();
    insert.into_table(E::default()).columns(columns);
    match condition {
        None => insert.values_panic(values),
        Some(condition) => insert
            .select_from(Query::select().exprs(values).and_where(condition).to_owned())
            .expect("as many values as columns"),
    };
    if let Some(unique) = unique {
        insert.on_conflict(unique);
    }
    insert.returning(Query::returning().columns(returned::<E>())).to_owned()
}

pub fn returned<E: EntityTrait>() -> impl Iterator<Item = &'static str> {
    E::Column::iter().map(|column| column.as_str())
}

/// `ON CONFLICT DO NOTHING`, for a partial unique index over the rows where the last column is not null.
pub fn unique_where_set(columns: Columns) -> OnConflict {
    let last = columns.last().map(|last| Expr::col(*last).is_not_null());
    OnConflict::columns(columns.iter().copied())
        .target_and_where_option(last)
        .do_nothing()
        .to_owned()
}
