//! Whose users are: with an issuer of tokens, each of its subjects has one user, and writes as that one
//! only. Subjects are in no answer.

use std::{borrow::Cow, sync::Arc};

use poem::http::StatusCode;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Path,
    registry::{MetaSchema, MetaSchemaRef},
    types::{Example, ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use prometheus::IntCounter;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, IdenStatic,
    QueryFilter, QuerySelect, SqlErr,
    sea_query::{Expr, InsertStatement, OnConflict, Query, UpdateStatement},
};
use serde_json::Value;

use crate::{
    app::App,
    clock::Time,
    http::{
        authorization::{Admin, Caller, insufficient_scope, unknown},
        json::{Fields, FromFields, Json},
        operation::{Created, Failure},
        problem::Problem,
    },
    id::Id,
    request::{note_user, to_the_end},
    wiki::{
        failure::{BindFailure, ReadOwnFailure, WriteOwnFailure},
        users::{Tag, User, created, entity},
    },
};

/// Columns of the table of users that its entity has not: nobody is shown them.
const ISSUER: &str = "issuer";
const SUBJECT: &str = "subject";

/// A user to be created. Unknown fields are ignored.
#[derive(Object)]
#[oai(example, rename = "NewUser")]
struct NewOwnUser {
    /// 1 to 200 characters, not all of them white space, none of them NUL. Kept as it is sent.
    #[oai(validator(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\x00]*[^\\x00\\x09-\\x0d\\x20\\x85\\xa0\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
                   \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}][^\\x00]*$"
    ))]
    name: String,
    /// With the scope `wiki:admin`: the subject whose user this is, as the issuer names it. Else it is the
    /// caller's.
    #[oai(validator(min_length = 1, max_length = 255, pattern = "^[^\\x00]*$"))]
    subject: Option<String>,
}

impl Example for NewOwnUser {
    fn example() -> Self {
        NewOwnUser { name: "John Doe".into(), subject: None }
    }
}

impl FromFields for NewOwnUser {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.text("name", 200);
        let subject = fields.optional_text("subject", 255);
        Some(Self { name: name?, subject: subject? })
    }
}

/// Whose a user is.
#[derive(Object)]
#[oai(example)]
struct NewSubject {
    /// The subject, as the issuer names it; `null` leaves the user to nobody.
    subject: Subject,
}

/// `null`, or a text of 1 to 255 characters without NUL. To leave it out would be a mistake.
struct Subject(Option<String>);

impl Type for Subject {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "nullable_string".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            nullable: true,
            min_length: Some(1),
            max_length: Some(255),
            pattern: Some("^[^\\x00]*$".into()),
            ..MetaSchema::new("string")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for Subject {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        Option::parse_from_json(value).map(Self).map_err(ParseError::propagate)
    }
}

impl ToJSON for Subject {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.clone().into())
    }
}

impl Example for NewSubject {
    fn example() -> Self {
        NewSubject { subject: Subject(Some("248289761001".into())) }
    }
}

impl FromFields for NewSubject {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        fields.nullable_text("subject", 255).map(|subject| Self { subject: Subject(subject) })
    }
}

#[derive(ApiResponse)]
enum Bound {
    /// It is done.
    #[oai(status = 204)]
    Done,
}

/// Users while each is its caller's own.
#[derive(Clone)]
pub struct OwnUsers {
    app: Arc<App>,
    created: IntCounter,
}

impl OwnUsers {
    pub fn new(app: &Arc<App>) -> Self {
        Self { app: app.clone(), created: created(app) }
    }
}

#[OpenApi(tag = "Tag::Users")]
impl OwnUsers {
    /// Create one's own user
    ///
    /// Each subject has one. Two users may have the same name.
    #[oai(path = "/users", method = "post", operation_id = "create_user")]
    async fn create(
        &self,
        caller: Caller,
        new: Json<NewOwnUser>,
    ) -> Result<Created<User>, Failure<WriteOwnFailure>> {
        let caller = caller.0.ok_or_else(unknown)?;
        let NewOwnUser { name, subject } = new.0;
        if subject.is_some() && !caller.is_admin {
            return Err(insufficient_scope().into());
        }
        let own = subject.is_none();
        let subject = subject.unwrap_or_else(|| caller.subject.clone());
        let Self { app, created } = self.clone();
        let user = to_the_end(async move {
            let insert = insert_user(name, &caller.issuer, &subject);
            let Some(row) = app.database()?.query_one(&insert).await? else {
                return Err(taken(&app, &caller.issuer, &subject, "users/").await?);
            };
            created.inc();
            Ok::<_, Problem>(entity::Model::from_query_result(&row, "")?)
        })
        .await?;
        if own {
            note_user(user.id);
        }
        Ok(Created::at(format!("users/{}", user.id), user.into()))
    }

    /// Read one's own user
    #[oai(path = "/users/me", method = "get", operation_id = "read_own_user")]
    async fn me(&self, caller: Caller) -> Result<Json<User>, Failure<ReadOwnFailure>> {
        let caller = caller.0.ok_or_else(unknown)?;
        let of_subject = entity::Entity::find().filter(is_of(&caller.issuer, &caller.subject));
        let user = of_subject.one(self.app.database()?).await?.ok_or_else(|| {
            Problem::not_found("you have no user yet: POST /users with a name makes it")
        })?;
        note_user(user.id);
        Ok(Json(user.into()))
    }

    /// Say whose a user is
    ///
    /// For users from before there were tokens. It takes the scope `wiki:admin`.
    #[oai(path = "/users/:id/subject", method = "put", operation_id = "set_subject")]
    async fn bind(
        &self,
        admin: Admin,
        /// The user's id.
        id: Path<Id>,
        new: Json<NewSubject>,
    ) -> Result<Bound, Failure<BindFailure>> {
        let id = id.0.0;
        let app = self.app.clone();
        let bound = to_the_end(async move {
            let subject = new.0.subject.0;
            let update = update_user(id, &admin.0.issuer, subject.as_deref());
            match (app.database()?.execute(&update).await, subject) {
                (Ok(done), _) => Ok(done.rows_affected() > 0),
                (Err(error), Some(subject)) if is_taken(&error) => {
                    Err(taken(&app, &admin.0.issuer, &subject, "../").await?)
                }
                (Err(error), _) => Err(Problem::from(error)),
            }
        });
        match bound.await? {
            true => Ok(Bound::Done),
            false => Err(Problem::not_found(format!("there is no user {id}")).into()),
        }
    }
}

fn insert_user(name: String, issuer: &str, subject: &str) -> InsertStatement {
    use entity::Column::{CreatedTime, Id, Name};
    Query::insert()
        .into_table(entity::Entity)
        .columns([Name.as_str(), CreatedTime.as_str(), ISSUER, SUBJECT])
        .values_panic([name.into(), Time::now().into(), issuer.into(), subject.into()])
        .on_conflict(
            OnConflict::columns([ISSUER, SUBJECT])
                .target_and_where(Expr::col(SUBJECT).is_not_null())
                .do_nothing()
                .to_owned(),
        )
        .returning(Query::returning().columns([Id, Name, CreatedTime]))
        .to_owned()
}

fn update_user(id: i64, issuer: &str, subject: Option<&str>) -> UpdateStatement {
    Query::update()
        .table(entity::Entity)
        .value(ISSUER, subject.map(|_| issuer))
        .value(SUBJECT, subject)
        .and_where(entity::Column::Id.eq(id))
        .to_owned()
}

/// Whether a row of the table of users is this subject's.
pub fn is_of(issuer: &str, subject: &str) -> Condition {
    Condition::all().add(Expr::col(ISSUER).eq(issuer)).add(Expr::col(SUBJECT).eq(subject))
}

fn is_taken(error: &sea_orm::DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// The 409 that says where the subject's user is.
async fn taken(app: &App, issuer: &str, subject: &str, path: &str) -> Result<Problem, Problem> {
    let ids = entity::Entity::find().select_only().column(entity::Column::Id);
    let id: Option<i64> =
        ids.filter(is_of(issuer, subject)).into_tuple().one(app.database()?).await?;
    let problem = Problem::new(StatusCode::CONFLICT, "the subject has a user already");
    Ok(match id {
        Some(id) => problem.with_header("location", format!("{path}{id}")),
        None => problem,
    })
}
