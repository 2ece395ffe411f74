//! Comments, each by a user on a post.

use std::{marker::PhantomData, sync::Arc};

use poem_openapi::{Object, OpenApi, types::Example};
use prometheus::IntCounter;
use sea_orm::{
    ActiveValue::NotSet,
    ColumnTrait, EntityTrait, QueryFilter, QueryTrait, Set,
    sea_query::{Expr, ExprTrait, Query as Select},
};
use serde::Serialize;

use crate::{
    app::App,
    clock::Time,
    database::insert::Inserted,
    http::{
        authorization::{By, not_own},
        conditional::Found,
        idempotency::IdempotencyKey,
        json::{Fields, FromFields, Json},
        list::{Limit, Listed, Page},
        operation::{Created, Done, Failure},
        parameter::{Header, Path, Query},
        problem::Problem,
        text::Text,
    },
    id::Id,
    request::to_the_end,
    wiki::{
        Tag,
        actor::Actor,
        editing::{Owner, Writer},
        failure::{AddFailure, ChangeFailure, ReadFailure},
        posts,
    },
};

pub mod entity {
    use poem_openapi::Object;
    use sea_orm::entity::prelude::*;
    use serde::Serialize;

    use crate::{clock::Time, id::Id};

    /// A comment.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel, Object, Serialize)]
    #[oai(rename = "Comment", example, read_only_all)]
    #[sea_orm(table_name = "comments")]
    pub struct Model {
        /// The comment's id.
        #[sea_orm(primary_key)]
        pub comment_id: Id,
        /// The id of the post that it is on.
        pub post_id: Id,
        /// The text, as it was sent.
        pub content: String,
        /// The id of the user who wrote it.
        pub user_id: Id,
        /// When the comment was created: UTC, without a zone, to the microsecond.
        pub created_time: Time,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

use entity::{ActiveModel, Column, Entity, Model as Comment};

impl Example for Comment {
    fn example() -> Self {
        Comment {
            comment_id: Id(1),
            post_id: Id(1),
            content: "I see it the same way.".into(),
            user_id: Id(2),
            created_time: Time::example(),
        }
    }
}

type Content = Text<10_000>;

/// The body that creates a comment.
pub trait New: Clone + FromFields + Serialize + Send + Sync + 'static {
    /// The text, and the user if the body names one.
    fn parts(self) -> (Content, Option<Id>);
}

/// A comment to be created. Unknown fields are ignored.
#[derive(Clone, Object, Serialize)]
#[oai(example)]
pub struct NewComment {
    /// The id of the user who writes it.
    user_id: Id,
    /// 1 to 10,000 characters, not all of them white space, none of them NUL. Kept as it is sent.
    content: Content,
}

/// A comment of one's own to be created. Unknown fields are ignored.
#[derive(Clone, Object, Serialize)]
#[oai(example, rename = "NewComment")]
pub struct NewOwnComment {
    /// 1 to 10,000 characters, not all of them white space, none of them NUL. Kept as it is sent.
    content: Content,
}

impl Example for NewComment {
    fn example() -> Self {
        NewComment { user_id: Id(2), content: Text("I see it the same way.".into()) }
    }
}

impl Example for NewOwnComment {
    fn example() -> Self {
        NewOwnComment { content: Text("I see it the same way.".into()) }
    }
}

impl FromFields for NewComment {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let (user_id, content) = (fields.id("user_id"), fields.text("content"));
        Some(Self { user_id: user_id?, content: content? })
    }
}

impl FromFields for NewOwnComment {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { content: fields.text("content")? })
    }
}

impl New for NewComment {
    fn parts(self) -> (Content, Option<Id>) {
        (self.content, Some(self.user_id))
    }
}

impl New for NewOwnComment {
    fn parts(self) -> (Content, Option<Id>) {
        (self.content, None)
    }
}

/// The operations on comments, which are created from an `N`.
#[derive(Clone)]
pub struct Comments<N> {
    app: Arc<App>,
    created: IntCounter,
    deleted: IntCounter,
    new: PhantomData<N>,
}

impl<N> Comments<N> {
    pub fn new(app: &Arc<App>) -> Self {
        let counter = |name, help| app.metrics.counter(name, help);
        Self {
            app: app.clone(),
            created: counter("comments_created_total", "Comments created since the start"),
            deleted: counter(
                "comments_deleted_total",
                "Comments deleted since the start, other than with their post or user",
            ),
            new: PhantomData,
        }
    }
}

async fn find(app: &App, id: Id) -> Result<Comment, Problem> {
    app.database()?.find::<Entity>(id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: Id) -> Problem {
    Problem::not_found(format!("there is no comment {id}"))
}

#[OpenApi(tag = "Tag::Comments")]
impl<N: New> Comments<N> {
    /// List a post's comments
    ///
    /// The newest first.
    #[oai(path = "/posts/:id/comments", method = "get", operation_id = "list_comments")]
    async fn list(
        &self,
        /// The post's id.
        id: Path<Id>,
        /// How many comments at most.
        limit: Query<Limit>,
        /// Only comments with a lower id.
        before: Query<Id>,
    ) -> Result<Listed<Comment>, Failure<ReadFailure>> {
        let page = Page::new(limit, before);
        let comments = Entity::find().filter(Column::PostId.eq(id.0));
        let comments = page.of(comments, Column::CommentId).all(self.app.database()?).await?;
        if comments.is_empty() {
            posts::check(&self.app, id.0).await?;
        }
        Ok(page.answer(comments, |comment| comment.comment_id))
    }

    /// Comment on a post
    ///
    /// By a user who exists, on a post that does.
    #[oai(path = "/posts/:id/comments", method = "post", operation_id = "create_comment")]
    async fn create(
        &self,
        writer: By<Writer>,
        /// The post's id.
        id: Path<Id>,
        /// With this key, the request may be repeated until it is answered: the first attempt writes, and
        /// the others get the same answer. The same key with other fields, or for another post, is a 422.
        /// A key is 1 to 255 visible ASCII characters, in quotes or without, and lives as long as what it
        /// has written.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        new: Json<N>,
    ) -> Result<Created<Comment>, Failure<AddFailure>> {
        let post = id.0;
        let caller = writer.0.caller.as_deref();
        let once = key.0.once(caller, &(post, &new.0), &[Column::Content]);
        let (content, named) = new.0.parts();
        let actor = Actor::of(writer.0, named)?;
        let comment = ActiveModel {
            comment_id: NotSet,
            post_id: Set(post),
            content: Set(content.0),
            user_id: NotSet,
            created_time: Set(Time::now()),
        };
        let database = self.app.database()?;
        let created = self.created.clone();
        let inserted = database.insert_on(actor.terms(), comment, once, move |_| created.inc());
        let comment = match inserted.await {
            Ok(Inserted::Row(comment)) => comment,
            Ok(Inserted::KeyUsed) => return Err(IdempotencyKey::used().into()),
            Ok(Inserted::Nothing) => {
                let gone = "the comment that was written by this key was deleted a moment ago";
                return Err(Problem::retry_later(gone).into());
            }
            Err(error) => return Err(actor.problem(error, database, post).await.into()),
        };
        actor.note(comment.user_id);
        // From /posts/{id}/comments.
        Ok(Created::at(format!("../../comments/{}", comment.comment_id), &comment))
    }

    /// Read a comment
    ///
    /// A comment is never changed, so neither is the answer.
    #[oai(path = "/comments/:id", method = "get", operation_id = "read_comment")]
    async fn read(
        &self,
        /// The comment's id.
        id: Path<Id>,
    ) -> Result<Found<Comment>, Failure<ReadFailure>> {
        Ok(Found::new(&find(&self.app, id.0).await?))
    }

    /// Delete a comment
    ///
    /// By whoever wrote it, or with the scope `wiki:admin`.
    #[oai(path = "/comments/:id", method = "delete", operation_id = "delete_comment")]
    async fn delete(
        &self,
        By(owner): By<Owner>,
        /// The comment's id.
        id: Path<Id>,
    ) -> Result<Done, Failure<ChangeFailure>> {
        let id = id.0;
        let mut delete = Entity::delete_by_id(id);
        if !owner.0.is_admin {
            let own = Actor::Caller(owner.0).user();
            delete = delete.filter(Column::UserId.into_expr().eq(own));
        }
        let (app, deleted) = (self.app.clone(), self.deleted.clone());
        let done = to_the_end(async move {
            let done = delete.exec(app.database()?).await?;
            deleted.inc_by(done.rows_affected);
            Ok::<_, Problem>(done.rows_affected > 0)
        });
        if done.await? {
            return Ok(Done::Done);
        }
        // To the client, a 404 confirms a deletion, so this waits for a synchronous standby.
        let comment = Entity::find_by_id(id).into_query();
        let is_there = Select::select().expr_as(Expr::exists(comment), "is_there").to_owned();
        let found = self.app.database()?.find_confirmed(&is_there).await?.expect("a row");
        Err(match found.try_get("", "is_there")? {
            true => not_own(format!("comment {id} is not yours to delete")).into(),
            false => unknown(id).into(),
        })
    }
}
