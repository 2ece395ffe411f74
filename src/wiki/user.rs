//! One user: reads and deletes it.

use std::sync::Arc;

use migration::POSTS_OF_USER;
use poem::http::StatusCode;
use poem_openapi::OpenApi;
use prometheus::IntCounter;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    SqlErr,
    sea_query::{Expr, Query},
};

use crate::{
    app::App,
    http::{
        authorization::{By, not_own},
        cache::Fresh,
        conditional::Found,
        operation::{Done, Failure},
        parameter::{Header, Path},
        problem::Problem,
    },
    id::Id,
    identity::Caller,
    request::to_the_end,
    wiki::{
        Tag,
        editing::Owner,
        failure::{DeleteUserFailure, ReadFailure},
        posts,
        subjects::{own_user, user_of},
        users::{Column, Entity, User, find, key, unknown},
    },
};

/// How many of the posts that prevent a deletion are named.
const NAMED: u64 = 3;

/// The operations on a user.
#[derive(Clone)]
pub struct OneUser {
    app: Arc<App>,
    deleted: IntCounter,
}

impl OneUser {
    pub fn new(app: &Arc<App>) -> Self {
        let help = "Users deleted since the start";
        Self { app: app.clone(), deleted: app.metrics.counter("users_deleted_total", help) }
    }

    /// Deletes the user; false if it does not exist, has posts, or is not this caller's to delete.
    async fn delete_for(&self, caller: &Caller, id: Id) -> Result<bool, Problem> {
        let posts = Query::select()
            .expr(Expr::val(1))
            .from(posts::Entity)
            .and_where(posts::Column::UserId.eq(id))
            .to_owned();
        let mut delete = Query::delete();
        delete.from_table(Entity).and_where(Column::Id.eq(id)).and_where(Expr::exists(posts).not());
        if !caller.is_admin {
            delete.and_where(Column::Id.in_subquery(user_of(caller)));
        }
        match self.app.database_with(&POSTS_OF_USER)?.execute(&delete).await {
            Ok(done) => Ok(done.rows_affected() > 0),
            // A post was written meanwhile.
            Err(error)
                if matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why it was not deleted.
    async fn refusal(&self, caller: &Caller, id: Id) -> Result<Problem, Problem> {
        let database = self.app.database()?;
        if database.find::<Entity>(id).await?.is_none() {
            database.confirm().await?;
            return Ok(unknown(id));
        }
        if !caller.is_admin && own_user(database, caller).await? != Some(id) {
            return Ok(not_own(format!("user {id} is not yours to delete")));
        }
        let posts: Vec<Id> = posts::Entity::find()
            .select_only()
            .column(posts::Column::PostId)
            .filter(posts::Column::UserId.eq(id))
            .order_by_desc(posts::Column::PostId)
            .limit(NAMED)
            .into_tuple()
            .all(database)
            .await?;
        if posts.is_empty() {
            let detail = format!("something other than a post referred to user {id}: try again");
            return Ok(Problem::new(StatusCode::CONFLICT, detail));
        }
        let named: Vec<_> = posts.iter().map(|post| format!("DELETE /posts/{post}")).collect();
        let detail = format!(
            "user {id} has posts: first {}, and what else GET /users/{id}/posts lists",
            named.join(", ")
        );
        Ok(Problem::new(StatusCode::CONFLICT, detail)
            .with_header("location", format!("{id}/posts")))
    }
}

#[OpenApi(tag = "Tag::Users")]
impl OneUser {
    /// Read a user
    ///
    /// The same as `/user/{id}`.
    #[oai(path = "/users/:id", method = "get", operation_id = "read_user")]
    async fn read(
        &self,
        /// The user's id.
        id: Path<Id>,
        /// `no-cache` or `max-age`, where `CACHE_SECONDS` is set: how old the answer may be at most.
        #[oai(name = "Cache-Control")]
        fresh: Header<Fresh>,
    ) -> Result<Found<User>, Failure<ReadFailure>> {
        let read = async { Ok(Found::new(&find(&self.app, id.0).await?)) };
        Ok(self.app.cache.find(key(id.0), fresh.0, read).await?)
    }

    /// Delete a user
    ///
    /// For good, and only if there are no posts: one's own user, or with the scope `wiki:admin` anybody.
    /// What the user has edited is kept, without an editor.
    #[oai(path = "/users/:id", method = "delete", operation_id = "delete_user")]
    async fn delete(
        &self,
        By(owner): By<Owner>,
        /// The user's id.
        id: Path<Id>,
    ) -> Result<Done, Failure<DeleteUserFailure>> {
        let (this, Owner(caller), id) = (self.clone(), owner, id.0);
        let deleted = to_the_end(async move {
            if !this.delete_for(&caller, id).await? {
                return Err(this.refusal(&caller, id).await?);
            }
            this.deleted.inc();
            this.app.cache.forget(&key(id));
            Ok(())
        });
        deleted.await?;
        Ok(Done::Done)
    }

    /// Read a user, by the predecessor's path
    ///
    /// The same as `/users/{id}`.
    #[oai(path = "/user/:id", method = "get", operation_id = "read_user_alias")]
    async fn read_alias(
        &self,
        /// The user's id.
        id: Path<Id>,
        /// `no-cache` or `max-age`, where `CACHE_SECONDS` is set: how old the answer may be at most.
        #[oai(name = "Cache-Control")]
        fresh: Header<Fresh>,
    ) -> Result<Found<User>, Failure<ReadFailure>> {
        self.read(id, fresh).await
    }
}
