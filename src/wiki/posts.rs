//! Posts, each written by a user.

use std::sync::Arc;

use migration::POSTS_OF_USER;
use poem_openapi::{Object, OpenApi, types::Example};
use prometheus::IntCounter;
use sea_orm::{
    ActiveValue::NotSet,
    ColumnTrait, ConnectionTrait, DbErr, DerivePartialModel, EntityTrait, QueryFilter, QuerySelect,
    QueryTrait, Set, SqlErr,
    sea_query::{Expr, Func, SelectStatement},
};
use serde::Serialize;

use crate::{
    app::App,
    clock::Time,
    database::insert::Inserted,
    http::{
        authorization::{By, not_own},
        cache::Key,
        idempotency::IdempotencyKey,
        json::{Fields, FromFields, Json},
        list::{Limit, Listed, Page},
        operation::{Created, Failure},
        parameter::{Header, Path, Query},
        problem::Problem,
        text::Text,
    },
    id::Id,
    identity::Caller,
    request::note_user,
    wiki::{
        Tag,
        failure::{ListFailure, ReadFailure, WriteForUserFailure},
        search::{self, Search},
        subjects, users,
    },
};

pub mod entity {
    use poem_openapi::Object;
    use sea_orm::entity::prelude::*;
    use serde::Serialize;

    use crate::{clock::Time, id::Id};

    /// A post.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, Object, Serialize)]
    #[oai(rename = "Post", example, read_only_all)]
    #[sea_orm(table_name = "posts")]
    pub struct Model {
        /// The post's id.
        #[sea_orm(primary_key)]
        pub post_id: Id,
        /// The text, as it was sent.
        pub content: String,
        /// The id of the user who wrote it.
        pub user_id: Id,
        /// When the post was created: UTC, without a zone, to the microsecond.
        pub created_time: Time,
        /// How many texts it has had, this one included.
        #[oai(skip)]
        #[serde(skip)]
        pub revision: i64,
        /// When it got this text, if it was edited.
        #[oai(skip)]
        #[serde(skip)]
        pub edited_time: Option<Time>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub use entity::{ActiveModel, Column, Entity, Model as Post};

impl Example for Post {
    fn example() -> Self {
        Post {
            post_id: Id(1),
            content: "This is my first post!".into(),
            user_id: Id(1),
            created_time: Time::example(),
            revision: 1,
            edited_time: None,
        }
    }
}

/// A post in a list.
#[derive(DerivePartialModel, Object, Serialize)]
#[oai(rename = "ListedPost", read_only_all)]
#[sea_orm(entity = "Entity")]
struct Entry {
    /// The post's id.
    post_id: Id,
    /// The first 200 characters of the text.
    #[sea_orm(from_expr = "excerpt()")]
    excerpt: String,
    /// The id of the user who wrote it.
    user_id: Id,
    /// When the post was created: UTC, without a zone, to the microsecond.
    created_time: Time,
}

/// Cut by the database: a hundred whole texts could be 40 MB.
fn excerpt() -> Expr {
    Func::cust("substr").arg(Column::Content.into_expr()).arg(1).arg(200).into()
}

/// A post to be created. Unknown fields are ignored.
#[derive(Object, Serialize)]
#[oai(example)]
struct NewPost {
    /// The id of the user who writes it.
    user_id: Id,
    /// 1 to 100,000 characters, not all of them white space, none of them NUL. Kept as it is sent.
    content: Text<100_000>,
}

impl Example for NewPost {
    fn example() -> Self {
        NewPost { user_id: Id(1), content: Text("This is my first post!".into()) }
    }
}

impl FromFields for NewPost {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let (user_id, content) = (fields.id("user_id"), fields.text("content"));
        Some(Self { user_id: user_id?, content: content? })
    }
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

    async fn search(&self, page: &Page, words: &Search) -> Result<Vec<Entry>, Problem> {
        let database = search::database(&self.app)?;
        let posts = words.of(page, Entity::find(), Column::PostId, database.get_database_backend());
        posts.into_partial_model().all(database).await.map_err(search::problem)
    }

    /// What to do once a post is inserted.
    fn inserted(&self) -> impl FnOnce(&Post) + use<> {
        let Self { app, created } = self.clone();
        move |post| {
            created.inc();
            app.cache.forget(&key(post.post_id));
        }
    }
}

pub fn key(post: Id) -> Key {
    ("posts", post)
}

pub async fn find(app: &App, id: Id) -> Result<Post, Problem> {
    app.database()?.find::<Entity>(id).await?.ok_or_else(|| unknown(id))
}

pub fn unknown(id: Id) -> Problem {
    Problem::not_found(format!("there is no post {id}"))
}

/// Selects the id of a post, if it exists.
pub fn select(id: Id) -> SelectStatement {
    Entity::find_by_id(id).select_only().column(Column::PostId).into_query()
}

/// A 404 if there is no such post.
pub async fn check(app: &App, id: Id) -> Result<(), Problem> {
    let found = app.database()?.query_one(&select(id)).await?;
    found.map(drop).ok_or_else(|| unknown(id))
}

#[OpenApi(tag = "Tag::Posts")]
impl Posts {
    /// List posts
    ///
    /// The newest first.
    #[oai(path = "/posts", method = "get", operation_id = "list_posts")]
    async fn list(
        &self,
        /// How many posts at most.
        limit: Query<Limit>,
        /// Only posts with a lower id.
        before: Query<Id>,
        /// Only posts that have all of these words, in any order and case: 1 to 1,000 characters with at
        /// least one word, which is a run of letters and digits. Where `SEARCH=true` is set.
        q: Query<Search>,
    ) -> Result<Listed<Entry>, Failure<ListFailure>> {
        let page = Page::new(limit, before);
        let (page, posts) = match q.0 {
            Some(words) => {
                let posts = self.search(&page, &words).await?;
                (page.keeping("q", words), posts)
            }
            None => {
                let posts = page.of(Entity::find(), Column::PostId);
                let posts = posts.into_partial_model().all(self.app.database()?).await?;
                (page, posts)
            }
        };
        Ok(page.answer(posts, |post| post.post_id))
    }

    /// List a user's posts
    ///
    /// The newest first.
    #[oai(path = "/users/:id/posts", method = "get", operation_id = "list_posts_of_user")]
    async fn list_of_user(
        &self,
        /// The user's id.
        id: Path<Id>,
        /// How many posts at most.
        limit: Query<Limit>,
        /// Only posts with a lower id.
        before: Query<Id>,
    ) -> Result<Listed<Entry>, Failure<ReadFailure>> {
        let page = Page::new(limit, before);
        let posts = Entity::find().filter(Column::UserId.eq(id.0));
        let posts = page.of(posts, Column::PostId).into_partial_model();
        let database = self.app.database_with(&POSTS_OF_USER)?;
        let posts: Vec<Entry> = posts.all(database).await?;
        if posts.is_empty() {
            users::find(&self.app, id.0).await?;
        }
        Ok(page.answer(posts, |post| post.post_id))
    }

    /// Create a post
    ///
    /// The user must exist.
    #[oai(path = "/posts", method = "post", operation_id = "create_post")]
    async fn create(
        &self,
        caller: By<Option<Arc<Caller>>>,
        /// With this key, the request may be repeated until it is answered: the first attempt writes, and
        /// the others get the same answer. The same key with other fields is a 422. A key is 1 to 255
        /// visible ASCII characters, in quotes or without, and lives as long as what it has written.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        new: Json<NewPost>,
    ) -> Result<Created<Post>, Failure<WriteForUserFailure>> {
        let once = key.0.once(caller.0.as_deref(), &new.0, &[Column::UserId, Column::Content]);
        let NewPost { user_id, content } = new.0;
        let post = ActiveModel {
            post_id: NotSet,
            content: Set(content.0),
            user_id: Set(user_id),
            created_time: Set(Time::now()),
            ..Default::default()
        };
        let database = self.app.database()?;
        // An admin may write as anybody.
        if let Some(caller) = caller.0.filter(|caller| !caller.is_admin) {
            let terms = subjects::writes_as(&caller, user_id);
            let post = match database.insert_on(terms, post, once, self.inserted()).await? {
                Inserted::Row(post) => post,
                Inserted::KeyUsed => return Err(IdempotencyKey::used().into()),
                Inserted::Nothing => {
                    return Err(not_own(format!("user {user_id} is not yours to write as")).into());
                }
            };
            note_user(user_id.0);
            return Ok(Created::at(format!("posts/{}", post.post_id), &post));
        }
        let inserted = database.insert(post, once, self.inserted()).await;
        let post = inserted.map_err(|error: DbErr| match error.sql_err() {
            // The foreign key is the check: looking first would cost a round trip, and still race.
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => {
                Problem::not_found(format!("there is no user {user_id} to write the post"))
            }
            _ => error.into(),
        })?;
        let post = post.ok_or_else(IdempotencyKey::used)?;
        Ok(Created::at(format!("posts/{}", post.post_id), &post))
    }
}
