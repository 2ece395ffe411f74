//! Changes to a post, made only if it is in the state that they are meant for: in one statement, since
//! checking first would race.

use std::sync::Arc;

use poem::http::StatusCode;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, DbErr, ExprTrait, FromQueryResult,
    Iterable, QueryResult, SqlErr,
    sea_query::{Expr, Func, Query},
};

use crate::{
    clock::Time,
    config::Editing,
    database::pool::Database,
    http::{authorization::not_own, conditional::IfMatch, problem::Problem},
    id::Id,
    identity::Caller,
    wiki::{
        editing::{Owner, Writer},
        posts::{Column, Entity, Post, unknown},
        subjects::{no_user_yet, user_of},
    },
};

/// How often a change is tried when others keep changing the post.
const TRIES: usize = 3;

/// What distinguishes a state of a post from all others, even from those that a restore has undone, whose
/// revision numbers are used again.
#[derive(Clone, Copy)]
pub struct State {
    revision: i64,
    user_id: Id,
    /// When the post got its text.
    time: Time,
}

impl State {
    pub fn of(post: &Post) -> Self {
        let time = post.edited_time.unwrap_or(post.created_time);
        Self { revision: post.revision, user_id: post.user_id, time }
    }

    /// The entity tag: it changes whenever any field of the post does.
    pub fn tag(self) -> String {
        format!("\"{}.{}.{}\"", self.revision, self.user_id, self.time.micros())
    }

    /// The state that [`tag`](Self::tag) has made this from; `None` for any other tag.
    fn read(tag: &str) -> Option<Self> {
        let mut numbers = tag.trim_matches('"').split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (revision, user_id, micros) = (next()?, Id(next()?), next()?);
        let state = Self { revision, user_id, time: Time::from_micros(micros)? };
        (state.tag() == tag).then_some(state)
    }

    /// Whether a row is in this state; its `time` is compared with `is`.
    fn holds(self, time: Expr, is: Expr) -> Condition {
        Condition::all()
            .add(Column::Revision.eq(self.revision))
            .add(Column::UserId.eq(self.user_id))
            .add(time.eq(is))
    }
}

/// When a row got its text.
fn time() -> Expr {
    Func::coalesce([Column::EditedTime.into_expr(), Column::CreatedTime.into_expr()]).into()
}

/// The same as the database's own text: rows that others have written may have times in forms that we read
/// but do not write.
fn written_time() -> Expr {
    time().cast_as("text")
}

/// A change to a post.
pub struct Change {
    id: Id,
    if_match: IfMatch,
    caller: Option<Arc<Caller>>,
    /// Whether only the author may make it.
    is_own: bool,
    /// The new text; `None` deletes the post.
    content: Option<String>,
}

/// The result of a change.
pub enum Made {
    Written(QueryResult),
    /// The post had this text already.
    Before(Post),
}

/// A post that was not changed.
struct Seen {
    post: Post,
    written_time: String,
    /// The caller's own user.
    user: Option<Id>,
}

impl Change {
    pub fn edit(id: Id, content: String, writer: Writer, if_match: IfMatch) -> Self {
        let Writer { editing, caller } = writer;
        let is_own = editing == Editing::Author;
        Self { id, if_match, caller, is_own, content: Some(content) }
    }

    pub fn deletion(id: Id, Owner(caller): Owner, if_match: IfMatch) -> Self {
        let is_own = !caller.is_admin;
        Self { id, if_match, caller: Some(caller), is_own, content: None }
    }

    pub async fn make(self, database: &Database) -> Result<Made, Problem> {
        let mut seen = None;
        for _ in 0..TRIES {
            if let Some(condition) = self.condition(seen.as_ref())
                && let Some(row) = self.write(condition, database).await?
            {
                return Ok(Made::Written(row));
            }
            let Some(found) = self.look(database).await? else {
                if self.content.is_none() {
                    database.confirm().await?;
                }
                return Err(unknown(self.id));
            };
            self.check(&found)?;
            if self.content.as_ref().is_some_and(|content| *content == found.post.content) {
                database.confirm().await?;
                return Ok(Made::Before(found.post));
            }
            seen = Some(found);
        }
        let busy = format!("others keep changing post {}", self.id);
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy))
    }

    /// The condition on the row to change; `None` if it is already clear that no row can match.
    fn condition(&self, seen: Option<&Seen>) -> Option<Condition> {
        let mut all = Condition::all().add(Column::PostId.eq(self.id));
        if let Some(caller) = &self.caller {
            let user = user_of(caller);
            match self.is_own {
                true => all = all.add(Column::UserId.in_subquery(user)),
                false if self.content.is_some() => all = all.add(Expr::exists(user)),
                false => {}
            }
        }
        let tags = match &self.if_match {
            IfMatch::Missing if self.content.is_some() => return None,
            IfMatch::Missing | IfMatch::Any => return Some(all),
            IfMatch::Tags(tags) => tags,
        };
        let states = match seen {
            Some(Seen { post, written_time: is, .. }) => {
                Condition::any().add(State::of(post).holds(written_time(), Expr::val(is)))
            }
            None => {
                let states = tags.iter().filter_map(|tag| State::read(tag));
                states.fold(Condition::any(), |any, state| {
                    any.add(state.holds(time(), Expr::val(state.time)))
                })
            }
        };
        // An empty condition would match every state.
        (!states.is_empty()).then(|| all.add(states))
    }

    async fn write(
        &self,
        condition: Condition,
        database: &Database,
    ) -> Result<Option<QueryResult>, DbErr> {
        let backend = database.get_database_backend();
        let Some(content) = &self.content else {
            let mut delete = Query::delete();
            delete.from_table(Entity).cond_where(condition).returning_col(Column::PostId);
            return database.query_one(&delete).await;
        };
        let editor = self.caller.as_deref().map(user_of);
        let editor = editor.map_or(Expr::val(None::<i64>), Expr::from);
        let mut update = Query::update();
        update
            .table(Entity)
            .value(Column::Content, content.as_str())
            .value(Column::Revision, Expr::col(Column::Revision).add(1))
            .value(EDITOR, editor)
            .value(Column::EditedTime, Time::now())
            .cond_where(condition)
            .and_where(Expr::cust_with_values(differs(backend), [content.as_str()]))
            .returning(
                Query::returning().exprs(
                    Column::iter().map(|column| column.into_expr()).chain([Expr::col(EDITOR)]),
                ),
            );
        match database.query_one(&update).await {
            // The editor's user was deleted meanwhile.
            Err(error)
                if matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))) =>
            {
                Ok(None)
            }
            updated => updated,
        }
    }

    async fn look(&self, database: &Database) -> Result<Option<Seen>, Problem> {
        let mut select = Query::select();
        select
            .columns(Column::iter())
            .expr_as(written_time(), "written_time")
            .from(Entity)
            .and_where(Column::PostId.eq(self.id));
        let caller = self.caller.as_deref();
        if let Some(user) = caller.map(user_of) {
            select.expr_as(Expr::from(user), "caller_user_id");
        }
        let Some(row) = database.query_one(&select).await? else { return Ok(None) };
        let user = caller.map(|_| row.try_get::<Option<Id>>("", "caller_user_id")).transpose()?;
        Ok(Some(Seen {
            post: Post::from_query_result(&row, "")?,
            written_time: row.try_get("", "written_time")?,
            user: user.flatten(),
        }))
    }

    /// Why the change must not be made; `Ok` if it may be tried again.
    fn check(&self, Seen { post, user, .. }: &Seen) -> Result<(), Problem> {
        let is_edit = self.content.is_some();
        if self.caller.is_some() {
            if is_edit && user.is_none() {
                return Err(no_user_yet());
            }
            if self.is_own && *user != Some(post.user_id) {
                let what = if is_edit { "edit" } else { "delete" };
                return Err(not_own(format!("post {} is not yours to {what}", post.post_id)));
            }
        }
        let tag = State::of(post).tag();
        if is_edit { self.if_match.require(&tag) } else { self.if_match.check(&tag) }
    }
}

/// A column of the posts that their entity does not have.
const EDITOR: &str = "editor_id";

/// Whether a text differs in its bytes, whatever the column's collation considers equal.
fn differs(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => r#"content::text COLLATE "C" <> $1"#,
        _ => "content COLLATE BINARY <> $1",
    }
}
