//! Who adds something to a post: with authentication the request's caller, else the user that it names.

use std::sync::Arc;

use poem_openapi::{ApiExtractor, Object, types::Example};
use sea_orm::{
    DbErr, EntityTrait, QuerySelect, QueryTrait, SqlErr,
    sea_query::{Expr, Query, SelectStatement},
};

use crate::{
    database::{error::is_null, insert::Made, pool::Database},
    http::{
        authorization::{By, unknown},
        json::{Fields, FromFields, Json},
        operation::Kind,
        parameter::Required,
        problem::Problem,
    },
    id::Id,
    identity::Caller,
    request::note_user,
    wiki::{
        editing::Writer,
        failure::{AddFailure, ChangeFailure},
        posts,
        subjects::{no_user_yet, user_of},
        users,
    },
};

#[derive(Clone)]
pub enum Actor {
    User(Id),
    Caller(Arc<Caller>),
}

impl Actor {
    /// The writer: the caller, or without one the user that is `named` by the request.
    pub fn of(writer: Writer, named: Option<Id>) -> Result<Self, Problem> {
        let actor = writer.caller.map(Self::Caller).or(named.map(Self::User));
        actor.ok_or_else(unknown)
    }

    fn select(&self) -> SelectStatement {
        match self {
            Self::User(id) => {
                users::Entity::find_by_id(*id).select_only().column(users::Column::Id).into_query()
            }
            Self::Caller(caller) => user_of(caller),
        }
    }

    /// The id of the user, as a subquery: null if there is none.
    pub fn user(&self) -> Expr {
        self.select().into()
    }

    /// The terms of an insert of a row that is this user's.
    pub fn terms(&self) -> Made {
        Made { beside: vec![("user_id", self.user())], ..Made::default() }
    }

    /// Notes the caller's user for the log, once that is known.
    pub fn note(&self, user: Id) {
        if let Self::Caller(_) = self {
            note_user(user.0);
        }
    }

    /// Checks that the post and the user of a write exist. Asked only when the write has failed, or has
    /// changed nothing: asking first would cost each write a round trip, and race.
    pub async fn check(&self, database: &Database, post: Id) -> Result<(), Problem> {
        let both = Query::select()
            .expr_as(Expr::exists(posts::select(post)), "has_post")
            .expr_as(Expr::exists(self.select()), "has_user")
            .to_owned();
        let found = database.find_confirmed(&both).await?.expect("a row");
        if !found.try_get("", "has_post")? {
            return Err(posts::unknown(post));
        }
        match (found.try_get("", "has_user")?, self) {
            (true, _) => Ok(()),
            (false, Self::User(id)) => Err(users::unknown(*id)),
            (false, Self::Caller(_)) => Err(no_user_yet()),
        }
    }

    /// The problem of a failed write to a post.
    pub async fn problem(&self, error: DbErr, database: &Database, post: Id) -> Problem {
        let is_foreign = matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_)));
        if !is_foreign && !is_null(&error) {
            return error.into();
        }
        match self.check(database, post).await {
            Err(problem) => problem,
            Ok(()) => Problem::retry_later("the post, or its user, was created a moment ago"),
        }
    }
}

/// How a request that sets or removes something says whose it is.
pub trait Naming: Clone + Send + Sync + 'static {
    type Set: for<'a> ApiExtractor<'a> + Into<Option<Id>> + Send;
    type Unset: for<'a> ApiExtractor<'a> + Into<Option<Id>> + Send;
    type SetFailure: Kind + Send + Sync;
}

/// By the user's id.
#[derive(Clone)]
pub struct ById;

impl Naming for ById {
    type Set = Json<Named>;
    type Unset = Required<Id>;
    type SetFailure = AddFailure;
}

/// Only by the caller's token.
#[derive(Clone)]
pub struct ByToken;

impl Naming for ByToken {
    type Set = By<Option<Arc<Caller>>>;
    type Unset = By<Option<Arc<Caller>>>;
    type SetFailure = ChangeFailure;
}

/// The user who does something. Unknown fields are ignored.
#[derive(Object)]
#[oai(example)]
pub struct Named {
    /// The id of the user.
    user_id: Id,
}

impl Example for Named {
    fn example() -> Self {
        Named { user_id: Id(1) }
    }
}

impl FromFields for Named {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { user_id: fields.id("user_id")? })
    }
}

impl From<Json<Named>> for Option<Id> {
    fn from(named: Json<Named>) -> Self {
        Some(named.0.user_id)
    }
}

impl From<Required<Id>> for Option<Id> {
    fn from(id: Required<Id>) -> Self {
        Some(id.0)
    }
}

impl From<By<Option<Arc<Caller>>>> for Option<Id> {
    fn from(_: By<Option<Arc<Caller>>>) -> Self {
        None
    }
}
