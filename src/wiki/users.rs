//! Users.

use std::sync::Arc;

use poem_openapi::{Object, OpenApi, types::Example};
use prometheus::IntCounter;
use sea_orm::{ActiveValue::NotSet, EntityTrait, Set};
use serde::Serialize;

use crate::{
    app::App,
    clock::Time,
    http::{
        cache::Key,
        idempotency::IdempotencyKey,
        json::{Fields, FromFields, Json},
        list::{Limit, Listed, Page},
        operation::{Created, Failure},
        parameter::{Header, Query},
        problem::Problem,
        text::Text,
    },
    id::Id,
    wiki::{
        Tag,
        failure::{ListFailure, WriteFailure},
    },
};

pub mod entity {
    use poem_openapi::Object;
    use sea_orm::entity::prelude::*;
    use serde::Serialize;

    use crate::{clock::Time, id::Id};

    /// A user.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, Object, Serialize)]
    #[oai(rename = "User", example, read_only_all)]
    #[sea_orm(table_name = "users")]
    pub struct Model {
        /// The user's id.
        #[sea_orm(primary_key)]
        pub id: Id,
        /// The name, as it was sent.
        pub name: String,
        /// When the user was created: UTC, without a zone, to the microsecond.
        pub created_time: Time,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub use entity::{ActiveModel, Column, Entity, Model as User};

impl Example for User {
    fn example() -> Self {
        User { id: Id(1), name: "John Doe".into(), created_time: Time::example() }
    }
}

/// A user to be created. Unknown fields are ignored.
#[derive(Object, Serialize)]
#[oai(example)]
struct NewUser {
    /// 1 to 200 characters, not all of them white space, none of them NUL. Kept as it is sent.
    name: Text<200>,
}

impl Example for NewUser {
    fn example() -> Self {
        NewUser { name: Text("John Doe".into()) }
    }
}

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { name: fields.text("name")? })
    }
}

/// The users if anybody may write as anybody. Lists them as well, since poem-openapi wants a path's operations
/// in one place.
#[derive(Clone)]
pub struct AnyUsers(pub Creation);

/// What creating a user needs, with or without an issuer of tokens.
#[derive(Clone)]
pub struct Creation {
    pub app: Arc<App>,
    created: IntCounter,
}

impl Creation {
    pub fn new(app: &Arc<App>) -> Self {
        let help = "Users created since the start";
        Self { app: app.clone(), created: app.metrics.counter("users_created_total", help) }
    }

    /// What to do once a user is inserted.
    pub fn inserted(&self) -> impl FnOnce(&User) + use<> {
        let Self { app, created } = self.clone();
        move |user| {
            created.inc();
            app.cache.forget(&key(user.id));
        }
    }
}

pub fn key(user: Id) -> Key {
    ("users", user)
}

pub async fn find(app: &App, id: Id) -> Result<User, Problem> {
    app.database()?.find::<Entity>(id).await?.ok_or_else(|| unknown(id))
}

pub fn unknown(id: Id) -> Problem {
    Problem::not_found(format!("there is no user {id}"))
}

pub async fn list(app: &App, page: Page) -> Result<Listed<User>, Problem> {
    let users = page.of(Entity::find(), Column::Id).all(app.database()?).await?;
    Ok(page.answer(users, |user| user.id))
}

#[OpenApi(tag = "Tag::Users")]
impl AnyUsers {
    /// List users
    ///
    /// The newest first.
    #[oai(path = "/users", method = "get", operation_id = "list_users")]
    async fn list(
        &self,
        /// How many users at most.
        limit: Query<Limit>,
        /// Only users with a lower id.
        before: Query<Id>,
    ) -> Result<Listed<User>, Failure<ListFailure>> {
        Ok(list(&self.0.app, Page::new(limit, before)).await?)
    }

    /// Create a user
    ///
    /// Two users may have the same name.
    #[oai(path = "/users", method = "post", operation_id = "create_user")]
    async fn create(
        &self,
        /// With this key, the request may be repeated until it is answered: the first attempt writes, and
        /// the others get the same answer. The same key with other fields is a 422. A key is 1 to 255
        /// visible ASCII characters, in quotes or without, and lives as long as what it has written.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        new: Json<NewUser>,
    ) -> Result<Created<User>, Failure<WriteFailure>> {
        let once = key.0.once(None, &new.0, &[Column::Name]);
        let user =
            ActiveModel { id: NotSet, name: Set(new.0.name.0), created_time: Set(Time::now()) };
        let user = self.0.app.database()?.insert(user, once, self.0.inserted()).await?;
        let user = user.ok_or_else(IdempotencyKey::used)?;
        Ok(Created::at(format!("users/{}", user.id), &user))
    }
}
