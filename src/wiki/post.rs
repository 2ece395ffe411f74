//! One post: reads it as it is or was, edits and deletes it.

use std::sync::Arc;

use poem_openapi::{Object, OpenApi, types::Example};
use prometheus::IntCounter;
use sea_orm::FromQueryResult;
use serde::Serialize;

use crate::{
    app::App,
    http::{
        authorization::By,
        cache::Fresh,
        conditional::{Found, IfMatch, MustMatch},
        json::{Fields, FromFields, Json, Rendered},
        operation::{Done, Failure},
        parameter::{Header, Path, Query},
        problem::Problem,
        text::Text,
    },
    id::Id,
    request::{note_user, to_the_end},
    wiki::{
        Tag,
        change::{Change, Made, State},
        editing::{Owner, Writer},
        failure::{DeleteFailure, EditFailure, ReadFailure},
        posts::{Post, find, key},
        revisions,
    },
};

/// A post's new text. Unknown fields are ignored.
#[derive(Object, Serialize)]
#[oai(example)]
struct NewContent {
    /// 1 to 100,000 characters, not all of them white space, none of them NUL. Kept as it is sent.
    content: Text<100_000>,
}

impl Example for NewContent {
    fn example() -> Self {
        NewContent { content: Text("This is my first post, without its mistake.".into()) }
    }
}

impl FromFields for NewContent {
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self> {
        fields.text("content").map(|content| Self { content })
    }
}

/// The operations on a post.
#[derive(Clone)]
pub struct OnePost {
    app: Arc<App>,
    edited: IntCounter,
    deleted: IntCounter,
    conflicts: IntCounter,
}

impl OnePost {
    pub fn new(app: &Arc<App>) -> Self {
        let counter = |name, help| app.metrics.counter(name, help);
        Self {
            app: app.clone(),
            edited: counter("posts_edited_total", "Posts given another text since the start"),
            deleted: counter("posts_deleted_total", "Posts deleted since the start"),
            conflicts: counter(
                "edit_conflicts_total",
                "Changes refused with 412, as somebody else's came before, since the start",
            ),
        }
    }

    async fn change(&self, change: Change) -> Result<Made, Problem> {
        let done = change.make(self.app.database()?).await;
        if done.as_ref().is_err_and(|problem| problem.is_conflict()) {
            self.conflicts.inc();
        }
        done
    }
}

/// A post, with the entity tag to send when it is changed.
fn found(post: &Post) -> Found<Post> {
    Found::tagged(Rendered::new(post), State::of(post).tag())
}

#[OpenApi(tag = "Tag::Posts")]
impl OnePost {
    /// Read a post
    ///
    /// As it is, or was at a revision.
    #[oai(path = "/posts/:id", method = "get", operation_id = "read_post")]
    async fn read(
        &self,
        /// The post's id.
        id: Path<Id>,
        /// The number of one of its revisions: the post with the text that it had then.
        revision: Query<Id>,
        /// `no-cache` or `max-age`, where `CACHE_SECONDS` is set: how old the answer may be at most.
        #[oai(name = "Cache-Control")]
        fresh: Header<Fresh>,
    ) -> Result<Found<Post>, Failure<ReadFailure>> {
        let id = id.0;
        if let Some(revision) = revision.0 {
            return Ok(Found::new(&revisions::find(&self.app, id, revision).await?));
        }
        let read = async { Ok(found(&find(&self.app, id).await?)) };
        Ok(self.app.cache.find(key(id), fresh.0, read).await?)
    }

    /// Edit a post
    ///
    /// The previous text is kept as a revision. The same text changes nothing.
    #[oai(path = "/posts/:id", method = "put", operation_id = "edit_post")]
    async fn edit(
        &self,
        By(writer): By<Writer>,
        /// The post's id.
        id: Path<Id>,
        /// The `ETag` of the post as it was read, which it must still have; several; or `*` for any.
        #[oai(name = "If-Match")]
        if_match: Header<MustMatch>,
        new: Json<NewContent>,
    ) -> Result<Found<Post>, Failure<EditFailure>> {
        let (this, id) = (self.clone(), id.0);
        let edit = Change::edit(id, new.0.content.0, writer, if_match.0.0);
        let post = to_the_end(async move {
            let post = match this.change(edit).await? {
                Made::Written(row) => {
                    this.edited.inc();
                    this.app.cache.forget(&key(id));
                    if let Some(editor) = row.try_get::<Option<Id>>("", "editor_id")? {
                        note_user(editor.0);
                    }
                    Post::from_query_result(&row, "")?
                }
                Made::Before(post) => post,
            };
            Ok::<_, Problem>(post)
        });
        Ok(found(&post.await?))
    }

    /// Delete a post
    ///
    /// With everything that belongs to it, for good. Only by its author, or with the scope `wiki:admin`.
    #[oai(path = "/posts/:id", method = "delete", operation_id = "delete_post")]
    async fn delete(
        &self,
        By(owner): By<Owner>,
        /// The post's id.
        id: Path<Id>,
        /// An `ETag` that the post must still have; several; or `*` for any.
        #[oai(name = "If-Match")]
        if_match: Header<IfMatch>,
    ) -> Result<Done, Failure<DeleteFailure>> {
        let (this, id) = (self.clone(), id.0);
        let deletion = Change::deletion(id, owner, if_match.0);
        let deleted = to_the_end(async move {
            this.change(deletion).await?;
            this.deleted.inc();
            this.app.cache.forget(&key(id));
            Ok::<_, Problem>(())
        });
        deleted.await?;
        Ok(Done::Done)
    }
}
