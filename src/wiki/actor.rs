//! Who adds something of his own to a post: with identity its caller, and else whom the request names.

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
    /// Whoever writes, `named` by the request where it has no caller.
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

    /// The id of the user; null, if there is none.
    pub fn user(&self) -> Expr {
        self.select().into()
    }

    /// The terms on which a row is this user's.
    pub fn terms(&self) -> Made {
        Made { beside: vec![("user_id", self.user())], ..Made::default() }
    }

    /// Has the log say who the caller is, once that is known.
    pub fn note(&self, user: Id) {
        if let Self::Caller(_) = self {
            note_user(user.0);
        }
    }

    /// Whether a write at a post can find what it refers to. This is asked when it has failed, or had
    /// nothing to do: to ask before would cost each write a round trip, and race.
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

    /// Of a write at a post that has failed.
    pub async fn problem(&self, error: DbErr, database: &Database, post: Id) -> Problem {
        let is_foreign = matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_)));
        if !is_foreign && !is_null(&error) {
            return error.into();
        }
        match self.check(database, post).await {
            Err(problem) => problem,
            Ok(()) => Problem::retry_later("the post, or its user, was made a moment ago"),
        }
    }
}

/// How a request that sets or removes something without a body of its own says whose it is.
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

/// By the caller's token, and by nothing else.
#[derive(Clone)]
pub struct ByToken;

impl Naming for ByToken {
    type Set = By<Option<Arc<Caller>>>;
    type Unset = By<Option<Arc<Caller>>>;
    type SetFailure = ChangeFailure;
}

/// Whose it is. Unknown fields are ignored.
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
