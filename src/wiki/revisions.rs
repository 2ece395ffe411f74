//! The history of posts: each text that a post has had, by its number.

use std::sync::Arc;

use poem_openapi::{Object, OpenApi};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, QueryResult, Statement, Value};
use serde::Serialize;

use crate::{
    app::App,
    clock::Time,
    database::pool::Database,
    http::{
        list::{Limit, Listed, Page},
        operation::Failure,
        parameter::{Path, Query},
        problem::Problem,
        text::OrNull,
    },
    id::Id,
    wiki::{
        Tag,
        failure::ReadFailure,
        posts::{self, Post},
    },
};

/// The text of post `$1` at a revision; NULL if it had none by that number.
macro_rules! text_at {
    ($revision:literal) => {
        concat!(
            "CASE revision WHEN ",
            $revision,
            " THEN content ELSE (SELECT content FROM post_revisions AS old WHERE old.post_id = $1 AND \
             old.revision = ",
            $revision,
            ") END"
        )
    };
}

/// A text that a post has, or has had.
#[derive(Object, Serialize)]
#[oai(read_only_all)]
struct Revision {
    /// Its number: 1 is the post as it was created, and the highest one as it is.
    revision: Id,
    /// The id of the user who has edited it; `null` for the first, or if that is not known.
    editor_id: OrNull<Id>,
    /// When the post got this text: UTC, without a zone, to the microsecond.
    created_time: Time,
    /// The first 200 characters of the text.
    excerpt: String,
}

impl FromQueryResult for Revision {
    fn from_query_result(row: &QueryResult, _: &str) -> Result<Self, DbErr> {
        Ok(Self {
            revision: row.try_get("", "revision")?,
            editor_id: OrNull(row.try_get("", "editor_id")?),
            created_time: row.try_get("", "created_time")?,
            excerpt: row.try_get("", "excerpt")?,
        })
    }
}

#[derive(Clone)]
pub struct Revisions(pub Arc<App>);

#[OpenApi(tag = "Tag::Posts")]
impl Revisions {
    /// List a post's revisions
    ///
    /// The newest first, which is the post as it is. `revision=` reads one of them whole.
    #[oai(path = "/posts/:id/revisions", method = "get", operation_id = "list_revisions")]
    async fn list(
        &self,
        /// The post's id.
        id: Path<Id>,
        /// How many revisions at most.
        limit: Query<Limit>,
        /// Only revisions with a lower number.
        before: Query<Id>,
    ) -> Result<Listed<Revision>, Failure<ReadFailure>> {
        let (id, page) = (id.0, Page::new(limit, before));
        let database = self.0.database()?;
        // Each of the two selects reads at most a page, however many revisions there are.
        let sql = "SELECT * FROM (
                SELECT revision, editor_id, coalesce(edited_time, created_time) AS created_time,
                    substr(content, 1, 200) AS excerpt
                FROM posts WHERE post_id = $1 AND revision <= $2
                UNION ALL SELECT * FROM (
                    SELECT revision, editor_id, created_time, substr(content, 1, 200)
                    FROM post_revisions WHERE post_id = $1 AND revision <= $2
                    ORDER BY revision DESC LIMIT $3) AS former) AS texts
            ORDER BY revision DESC LIMIT $3";
        let values = [id.into(), page.upto().into(), (page.rows() as i64).into()];
        let rows = Revision::find_by_statement(statement(database, sql, values));
        let rows = rows.all(database).await?;
        if rows.is_empty() {
            posts::find(&self.0, id).await?;
        }
        Ok(page.answer(rows, |row| row.revision))
    }
}

/// A post with the text that it had at a revision.
pub async fn find(app: &App, id: Id, revision: Id) -> Result<Post, Problem> {
    let sql = concat!(
        "SELECT post_id, ",
        text_at!("$2"),
        " AS content, user_id, created_time, revision, edited_time FROM posts WHERE post_id = $1"
    );
    let database = app.database()?;
    let values = [id.into(), revision.into()];
    let row = database.query_one_raw(statement(database, sql, values)).await?;
    let row = row.ok_or_else(|| posts::unknown(id))?;
    text(&row, "content", id, revision)?;
    Ok(Post::from_query_result(&row, "")?)
}

/// The texts that a post had at two revisions.
pub async fn find_two(app: &App, id: Id, from: Id, to: Id) -> Result<(String, String), Problem> {
    let sql = concat!(
        "SELECT ",
        text_at!("$2"),
        " AS one, ",
        text_at!("$3"),
        " AS other FROM posts WHERE post_id = $1"
    );
    let database = app.database()?;
    let values = [id.into(), from.into(), to.into()];
    let row = database.query_one_raw(statement(database, sql, values)).await?;
    let row = row.ok_or_else(|| posts::unknown(id))?;
    Ok((text(&row, "one", id, from)?, text(&row, "other", id, to)?))
}

fn text(row: &QueryResult, column: &str, id: Id, revision: Id) -> Result<String, Problem> {
    let text: Option<String> = row.try_get("", column)?;
    text.ok_or_else(|| Problem::not_found(format!("post {id} has no revision {revision}")))
}

fn statement(database: &Database, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
    Statement::from_sql_and_values(database.get_database_backend(), sql, values)
}
