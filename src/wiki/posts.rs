//! Posts, each of them written by a user.

use std::sync::Arc;

use poem_openapi::{Object, OpenApi, Tags, param::Path, types::Example};
use prometheus::IntCounter;
use sea_orm::{
    ActiveValue::NotSet,
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, Set, SqlErr,
    sea_query::{Expr, InsertStatement, Query},
};
use serde::Serialize;

use crate::{
    app::App,
    clock::{self, Time},
    http::{
        authorization::{Caller, not_own},
        json::{Fields, FromFields, Json},
        operation::{Created, Failure},
        problem::Problem,
    },
    id::Id,
    identity,
    request::{note_user, to_the_end},
    wiki::{
        failure::{ReadFailure, WriteForUserFailure},
        subjects, users,
    },
};

pub mod entity {
    use sea_orm::entity::prelude::*;

    use crate::clock::Time;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "posts")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub post_id: i64,
        pub content: String,
        pub user_id: i64,
        pub created_time: Time,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A post.
#[derive(Object, Serialize)]
#[oai(example, read_only_all)]
struct Post {
    /// The number that the post goes by.
    post_id: Id,
    /// The text, as it was sent.
    content: String,
    /// The id of the user who wrote it.
    user_id: Id,
    /// When the post was created: UTC, without a zone, to the microsecond.
    #[oai(validator(pattern = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$"))]
    created_time: String,
}

impl Example for Post {
    fn example() -> Self {
        Post {
            post_id: Id(1),
            content: "This is my first post!".into(),
            user_id: Id(1),
            created_time: clock::EXAMPLE.into(),
        }
    }
}

impl From<entity::Model> for Post {
    fn from(post: entity::Model) -> Self {
        Self {
            post_id: Id(post.post_id),
            content: post.content,
            user_id: Id(post.user_id),
            created_time: post.created_time.format(),
        }
    }
}

/// A post to be created. Unknown fields are ignored.
#[derive(Object)]
#[oai(example)]
struct NewPost {
    /// The id of the user who writes it.
    user_id: Id,
    /// 1 to 100,000 characters, not all of them white space, none of them NUL. Kept as it is sent.
    #[oai(validator(
        min_length = 1,
        max_length = 100000,
        pattern = "^[^\\x00]*[^\\x00\\x09-\\x0d\\x20\\x85\\xa0\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
                   \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}][^\\x00]*$"
    ))]
    content: String,
}

impl Example for NewPost {
    fn example() -> Self {
        NewPost { user_id: Id(1), content: "This is my first post!".into() }
    }
}

impl FromFields for NewPost {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let (user_id, content) = (fields.id("user_id"), fields.text("content", 100_000));
        Some(Self { user_id: user_id?, content: content? })
    }
}

#[derive(Tags)]
enum Tag {
    /// Texts by users.
    Posts,
}

#[derive(Clone)]
pub struct Posts {
    app: Arc<App>,
    created: IntCounter,
}

impl Posts {
    pub fn new(app: &Arc<App>) -> Self {
        let help = "Posts created since the start";
        Self { app: app.clone(), created: app.metrics.counter("posts_created_total", help) }
    }
}

#[OpenApi(tag = "Tag::Posts")]
impl Posts {
    /// Create a post
    ///
    /// The user must exist.
    #[oai(path = "/posts", method = "post", operation_id = "create_post")]
    async fn create(
        &self,
        caller: Caller,
        new: Json<NewPost>,
    ) -> Result<Created<Post>, Failure<WriteForUserFailure>> {
        let NewPost { user_id, content } = new.0;
        // An admin may write for all.
        if let Some(caller) = caller.0.filter(|caller| !caller.is_admin) {
            let Self { app, created } = self.clone();
            let post = to_the_end(async move {
                let insert = insert_own(&caller, user_id, content);
                let post = app.database()?.query_one(&insert).await?.ok_or_else(|| {
                    not_own(format!("user {} is not yours to write as", user_id.0))
                })?;
                created.inc();
                note_user(user_id.0);
                Ok::<_, Problem>(entity::Model::from_query_result(&post, "")?)
            })
            .await?;
            return Ok(Created::at(format!("posts/{}", post.post_id), post.into()));
        }
        let post = entity::ActiveModel {
            post_id: NotSet,
            content: Set(content),
            user_id: Set(user_id.0),
            created_time: Set(Time::now()),
        };
        let Self { app, created } = self.clone();
        let post = to_the_end(async move {
            let inserted = entity::Entity::insert(post).exec_with_returning(app.database()?).await;
            let post = inserted.map_err(|error| match error.sql_err() {
                // The key is the check: looking first would cost a round trip, and still race.
                Some(SqlErr::ForeignKeyConstraintViolation(_)) => {
                    Problem::not_found(format!("there is no user {} to write the post", user_id.0))
                }
                _ => error.into(),
            })?;
            created.inc();
            Ok::<_, Problem>(post)
        })
        .await?;
        Ok(Created::at(format!("posts/{}", post.post_id), post.into()))
    }

    /// Read a post
    ///
    /// A post is never changed, so neither is the answer.
    #[oai(path = "/posts/:id", method = "get", operation_id = "read_post")]
    async fn read(
        &self,
        /// The post's id.
        id: Path<Id>,
    ) -> Result<Json<Post>, Failure<ReadFailure>> {
        let post = entity::Entity::find_by_id(id.0.0).one(self.app.database()?).await?;
        let post =
            post.ok_or_else(|| Problem::not_found(format!("there is no post {}", id.0.0)))?;
        Ok(Json(post.into()))
    }
}

/// Inserts nothing if the user is not the caller's: looking first would cost a round trip, and race.
fn insert_own(caller: &identity::Caller, user: Id, content: String) -> InsertStatement {
    use entity::Column::{Content, CreatedTime, PostId, UserId};
    let own = Query::select()
        .expr(Expr::val(content))
        .column(users::entity::Column::Id)
        .expr(Expr::val(Time::now()))
        .from(users::entity::Entity)
        .and_where(users::entity::Column::Id.eq(user.0))
        .cond_where(subjects::is_of(&caller.issuer, &caller.subject))
        .to_owned();
    Query::insert()
        .into_table(entity::Entity)
        .columns([Content, UserId, CreatedTime])
        .select_from(own)
        .expect("as many values as columns")
        .returning(Query::returning().columns([PostId, Content, UserId, CreatedTime]))
        .to_owned()
}
