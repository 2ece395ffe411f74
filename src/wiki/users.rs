//! Users.

use std::sync::Arc;

use poem_openapi::{Object, OpenApi, Tags, param::Path, types::Example};
use prometheus::IntCounter;
use sea_orm::{ActiveValue::NotSet, EntityTrait, Set};
use serde::Serialize;

use crate::{
    app::App,
    clock::{self, Time},
    http::{
        json::{Fields, FromFields, Json},
        operation::{Created, Failure},
        problem::Problem,
    },
    id::Id,
    request::to_the_end,
    wiki::failure::{ReadFailure, WriteFailure},
};

pub mod entity {
    use sea_orm::entity::prelude::*;

    use crate::clock::Time;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub name: String,
        pub created_time: Time,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A user.
#[derive(Object, Serialize)]
#[oai(example, read_only_all)]
pub struct User {
    /// The number that the user goes by.
    id: Id,
    /// The name, as it was sent.
    name: String,
    /// When the user was created: UTC, without a zone, to the microsecond.
    #[oai(validator(pattern = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$"))]
    created_time: String,
}

impl Example for User {
    fn example() -> Self {
        let created_time = clock::EXAMPLE.into();
        User { id: Id(1), name: "John Doe".into(), created_time }
    }
}

impl From<entity::Model> for User {
    fn from(user: entity::Model) -> Self {
        Self { id: Id(user.id), name: user.name, created_time: user.created_time.format() }
    }
}

/// A user to be created. Unknown fields are ignored.
#[derive(Object)]
#[oai(example)]
struct NewUser {
    /// 1 to 200 characters, not all of them white space, none of them NUL. Kept as it is sent.
    #[oai(validator(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\x00]*[^\\x00\\x09-\\x0d\\x20\\x85\\xa0\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
                   \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}][^\\x00]*$"
    ))]
    name: String,
}

impl Example for NewUser {
    fn example() -> Self {
        NewUser { name: "John Doe".into() }
    }
}

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { name: fields.text("name", 200)? })
    }
}

#[derive(Tags)]
pub enum Tag {
    /// Those who write posts.
    Users,
}

/// Creating users while anybody may write as anybody.
#[derive(Clone)]
pub struct AnyUsers {
    app: Arc<App>,
    created: IntCounter,
}

impl AnyUsers {
    pub fn new(app: &Arc<App>) -> Self {
        Self { app: app.clone(), created: created(app) }
    }
}

/// Counts the users that are created.
pub fn created(app: &App) -> IntCounter {
    app.metrics.counter("users_created_total", "Users created since the start")
}

#[derive(Clone)]
pub struct Users(pub Arc<App>);

#[OpenApi(tag = "Tag::Users")]
impl AnyUsers {
    /// Create a user
    ///
    /// Two users may have the same name.
    #[oai(path = "/users", method = "post", operation_id = "create_user")]
    async fn create(&self, new: Json<NewUser>) -> Result<Created<User>, Failure<WriteFailure>> {
        let user = entity::ActiveModel {
            id: NotSet,
            name: Set(new.0.name),
            created_time: Set(Time::now()),
        };
        let Self { app, created } = self.clone();
        let user = to_the_end(async move {
            let user = entity::Entity::insert(user).exec_with_returning(app.database()?).await?;
            created.inc();
            Ok::<_, Problem>(user)
        })
        .await?;
        Ok(Created::at(format!("users/{}", user.id), user.into()))
    }
}

#[OpenApi(tag = "Tag::Users")]
impl Users {
    /// Read a user
    ///
    /// The same as `/user/{id}`.
    #[oai(path = "/users/:id", method = "get", operation_id = "read_user")]
    async fn read(
        &self,
        /// The user's id.
        id: Path<Id>,
    ) -> Result<Json<User>, Failure<ReadFailure>> {
        let user = entity::Entity::find_by_id(id.0.0).one(self.0.database()?).await?;
        let user =
            user.ok_or_else(|| Problem::not_found(format!("there is no user {}", id.0.0)))?;
        Ok(Json(user.into()))
    }

    /// Read a user, by the predecessor's path
    ///
    /// The same as `/users/{id}`.
    #[oai(path = "/user/:id", method = "get", operation_id = "read_user_alias")]
    async fn read_alias(
        &self,
        /// The user's id.
        id: Path<Id>,
    ) -> Result<Json<User>, Failure<ReadFailure>> {
        self.read(id).await
    }
}
