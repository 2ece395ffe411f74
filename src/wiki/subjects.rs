//! The owners of users: with an issuer of tokens, each of its subjects has one user, and writes only as that
//! one. Subjects appear in no answer.

use std::sync::Arc;

use migration::{USERS_KEY, USERS_SUBJECT};
use poem::http::StatusCode;
use poem_openapi::{Object, OpenApi, types::Example};
use sea_orm::{
    ActiveValue::NotSet,
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter,
    QuerySelect, Set, SqlErr, Value,
    sea_query::{Expr, Query, SelectStatement, UpdateStatement},
};
use serde::Serialize;

use crate::{
    app::App,
    clock::Time,
    database::{
        insert::{Fixed, Inserted},
        pool::Database,
    },
    http::{
        authorization::{Admin, By, insufficient_scope, not_own, unknown},
        conditional::Found,
        idempotency::IdempotencyKey,
        json::{Fields, FromFields, Json},
        list::{Limit, Listed, Page},
        operation::{Created, Done, Failure},
        parameter::{self, Header, Path},
        problem::Problem,
        text::{OrNull, Text},
    },
    id::Id,
    identity::Caller,
    request::{note_user, to_the_end},
    wiki::{
        Tag,
        failure::{BindFailure, ListFailure, ReadOwnFailure, WriteOwnFailure},
        users::{self, ActiveModel, Column, Creation, Entity, User, list},
    },
};

/// Columns of the users that their entity does not have, so that no answer can show them.
const ISSUER: &str = "issuer";
const SUBJECT: &str = "subject";

const NO_USER_YET: &str = "you have no user yet: POST /users with a name creates it";

/// A subject, as its issuer names it (OpenID Connect Core 1.0, section 2).
type Subject = Text<255, true>;

/// A user to be created. Unknown fields are ignored.
#[derive(Object, Serialize)]
#[oai(example, rename = "NewUser")]
struct NewOwnUser {
    /// 1 to 200 characters, not all of them white space, none of them NUL. Kept as it is sent.
    name: Text<200>,
    /// With the scope `wiki:admin`: the subject whose user this is, as the issuer names it. By default, the
    /// caller.
    subject: Option<Subject>,
}

impl Example for NewOwnUser {
    fn example() -> Self {
        NewOwnUser { name: Text("John Doe".into()), subject: None }
    }
}

impl FromFields for NewOwnUser {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let (name, subject) = (fields.text("name"), fields.optional_text("subject"));
        Some(Self { name: name?, subject: subject? })
    }
}

/// The subject that a user belongs to.
#[derive(Object)]
#[oai(example)]
struct NewSubject {
    /// The subject, as the issuer names it; `null` makes the user nobody's.
    subject: OrNull<Subject>,
}

impl Example for NewSubject {
    fn example() -> Self {
        NewSubject { subject: OrNull(Some(Text("248289761001".into()))) }
    }
}

impl FromFields for NewSubject {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        fields.nullable_text("subject").map(|subject| Self { subject })
    }
}

/// The users if each belongs to a caller.
#[derive(Clone)]
pub struct OwnUsers(pub Creation);

#[OpenApi(tag = "Tag::Users")]
impl OwnUsers {
    /// List users
    ///
    /// The newest first.
    #[oai(path = "/users", method = "get", operation_id = "list_users")]
    async fn list(
        &self,
        /// How many users at most.
        limit: parameter::Query<Limit>,
        /// Only users with a lower id.
        before: parameter::Query<Id>,
    ) -> Result<Listed<User>, Failure<ListFailure>> {
        Ok(list(&self.0.app, Page::new(limit, before)).await?)
    }

    /// Create one's own user
    ///
    /// Each subject has one. Two users may have the same name.
    #[oai(path = "/users", method = "post", operation_id = "create_user")]
    async fn create(
        &self,
        caller: By<Option<Arc<Caller>>>,
        /// With this key, the request may be repeated until it is answered: the first attempt writes, and
        /// the others get the same answer. The same key with other fields is a 422. A key is 1 to 255
        /// visible ASCII characters, in quotes or without, is its caller's own, and lives as long as what
        /// it has written.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        new: Json<NewOwnUser>,
    ) -> Result<Created<User>, Failure<WriteOwnFailure>> {
        let caller = caller.0.ok_or_else(unknown)?;
        if new.0.subject.is_some() && !caller.is_admin {
            return Err(insufficient_scope().into());
        }
        let once = key.0.once(Some(&caller), &new.0, &[Column::Name]);
        let NewOwnUser { name, subject } = new.0;
        let is_own = subject.is_none();
        let subject = subject.map_or_else(|| caller.subject.clone(), |subject| subject.0);
        let Creation { app, .. } = &self.0;
        let database = app.database_with(&USERS_SUBJECT)?;
        if once.is_some() {
            app.database_with(&USERS_KEY)?;
        }
        let terms = only_of(&caller.issuer, &subject);
        let user = ActiveModel { id: NotSet, name: Set(name.0), created_time: Set(Time::now()) };
        let user = match database.insert_on(terms, user, once, self.0.inserted()).await? {
            Inserted::Row(user) => user,
            Inserted::KeyUsed => return Err(IdempotencyKey::used().into()),
            Inserted::Nothing => {
                return Err(taken(app, &caller.issuer, &subject, "users/").await?.into());
            }
        };
        if is_own {
            note_user(user.id.0);
        }
        Ok(Created::at(format!("users/{}", user.id), &user))
    }

    /// Read one's own user
    #[oai(path = "/users/me", method = "get", operation_id = "read_own_user")]
    async fn me(
        &self,
        caller: By<Option<Arc<Caller>>>,
    ) -> Result<Found<User>, Failure<ReadOwnFailure>> {
        let caller = caller.0.ok_or_else(unknown)?;
        let database = self.0.app.database_with(&USERS_SUBJECT)?;
        let of_subject = Entity::find().filter(is_of(&*caller.issuer, caller.subject.as_str()));
        let user =
            of_subject.one(database).await?.ok_or_else(|| Problem::not_found(NO_USER_YET))?;
        note_user(user.id.0);
        Ok(Found::new(&user))
    }

    /// Set a user's subject
    ///
    /// For users from before there were tokens. Only with the scope `wiki:admin`.
    #[oai(path = "/users/:id/subject", method = "put", operation_id = "set_subject")]
    async fn bind(
        &self,
        By(admin): By<Admin>,
        /// The user's id.
        id: Path<Id>,
        new: Json<NewSubject>,
    ) -> Result<Done, Failure<BindFailure>> {
        let id = id.0;
        let app = self.0.app.clone();
        let bound = to_the_end(async move {
            let subject = new.0.subject.0.map(|subject| subject.0);
            let update = update_user(id, &admin.0.issuer, subject.as_deref());
            match (app.database_with(&USERS_SUBJECT)?.execute(&update).await, subject) {
                (Ok(done), _) => Ok(done.rows_affected() > 0),
                (Err(error), Some(subject)) if is_taken(&error) => {
                    Err(taken(&app, &admin.0.issuer, &subject, "../").await?)
                }
                (Err(error), _) => Err(Problem::from(error)),
            }
        });
        match bound.await? {
            true => Ok(Done::Done),
            false => Err(users::unknown(id).into()),
        }
    }
}

/// The terms of creating a user for a subject: as its only one.
fn only_of(issuer: &str, subject: &str) -> Fixed {
    Fixed {
        beside: vec![(ISSUER, issuer.into()), (SUBJECT, subject.into())],
        condition: None,
        unique: Some(&[ISSUER, SUBJECT]),
    }
}

/// The terms of writing as this user: it is the `caller`'s own.
pub fn writes_as(caller: &Caller, user: Id) -> Fixed {
    Fixed { condition: Some((is_own, own(caller, user))), ..Fixed::default() }
}

/// Whether this user is the `caller`'s own.
pub fn is_own_of(caller: &Caller, user: Id) -> Expr {
    is_own(&own(caller, user))
}

fn own(caller: &Caller, user: Id) -> Vec<Value> {
    vec![(*caller.issuer).into(), caller.subject.as_str().into(), user.into()]
}

fn is_own(values: &[Value]) -> Expr {
    let [issuer, subject, user] = values else { unreachable!("those of a caller and a user") };
    let own = select_of(issuer.clone(), subject.clone());
    Expr::exists(own.clone().and_where(Column::Id.eq(user.clone())).to_owned())
}

/// The 403 for a caller that has no user.
pub fn no_user_yet() -> Problem {
    not_own(NO_USER_YET)
}

/// The id of the caller's own user.
pub async fn own_user(database: &Database, caller: &Caller) -> Result<Option<Id>, DbErr> {
    let user = database.query_one(&user_of(caller)).await?;
    user.map(|row| row.try_get("", "id")).transpose()
}

/// The same as a subquery.
pub fn user_of(caller: &Caller) -> SelectStatement {
    select_of(&*caller.issuer, caller.subject.as_str())
}

fn select_of(issuer: impl Into<Value>, subject: impl Into<Value>) -> SelectStatement {
    Query::select().column(Column::Id).from(Entity).cond_where(is_of(issuer, subject)).to_owned()
}

fn update_user(id: Id, issuer: &str, subject: Option<&str>) -> UpdateStatement {
    Query::update()
        .table(Entity)
        .value(ISSUER, subject.map(|_| issuer))
        .value(SUBJECT, subject)
        .and_where(Column::Id.eq(id))
        .to_owned()
}

/// Whether a user is this subject's.
fn is_of(issuer: impl Into<Value>, subject: impl Into<Value>) -> Condition {
    Condition::all()
        .add(Expr::col(ISSUER).eq(issuer.into()))
        .add(Expr::col(SUBJECT).eq(subject.into()))
}

fn is_taken(error: &sea_orm::DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// The 409 that says where the subject's user is.
async fn taken(app: &App, issuer: &str, subject: &str, path: &str) -> Result<Problem, Problem> {
    let ids = Entity::find().select_only().column(Column::Id);
    let id: Option<Id> =
        ids.filter(is_of(issuer, subject)).into_tuple().one(app.database()?).await?;
    let problem = Problem::new(StatusCode::CONFLICT, "the subject has a user already");
    Ok(match id {
        Some(id) => problem.with_header("location", format!("{path}{id}")),
        None => problem,
    })
}
