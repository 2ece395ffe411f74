//! Users' pictures.

use poem::http::HeaderMap;
use poem_openapi::{ApiResponse, OpenApi};
use prometheus::IntCounter;
use sea_orm::{
    Set, SqlErr,
    sea_query::{Expr, ExprTrait, OnConflict, Query},
};

use crate::{
    database::insert::{Inserted, Made},
    http::{
        authorization::{By, not_own},
        blob::{Blob, tag},
        operation::{Done, Failure},
        parameter::{Header, Path},
        problem::Problem,
        range::{Asked, IfRange, Range},
        upload::Image,
    },
    id::Id,
    identity::Caller,
    request::{note_repeatable, note_user},
    wiki::{
        Tag,
        editing::{Owner, Writer},
        failure::{ChangeFailure, ReadMediaFailure, WritePictureFailure},
        media::{self, Media},
        subjects::{is_own_of, no_user_yet, own_user, user_of},
        users,
    },
};

/// A picture without its bytes, which are read separately.
mod entity {
    use sea_orm::entity::prelude::*;

    use crate::id::Id;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "pictures")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub user_id: Id,
        /// How often it was set.
        pub version: i64,
        pub media_type: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

use entity::{ActiveModel, Column, Entity};

const MAX_BYTES: usize = 256 << 10;

#[derive(Clone)]
pub struct Pictures {
    media: Media,
    set: IntCounter,
    deleted: IntCounter,
}

impl Pictures {
    pub fn new(media: &Media) -> Self {
        let counter = |name, help| media.app.metrics.counter(name, help);
        Self {
            media: media.clone(),
            set: counter("pictures_set_total", "Pictures of users set since the start"),
            deleted: counter("pictures_deleted_total", "Pictures deleted since the start"),
        }
    }

    /// Why a caller has not changed the picture of this user.
    async fn refusal(&self, caller: &Caller, user: Id) -> Result<Problem, Problem> {
        users::find(&self.media.app, user).await?;
        if !caller.is_admin {
            let own = own_user(self.media.app.database()?, caller).await?;
            if own.ok_or_else(no_user_yet)? != user {
                return Ok(not_own(format!("the picture of user {user} is not yours")));
            }
        }
        Ok(no_picture(user))
    }
}

fn no_picture(user: Id) -> Problem {
    Problem::not_found(format!("there is no picture of user {user}"))
}

#[derive(ApiResponse)]
enum Put {
    /// There was none before.
    #[oai(status = 201)]
    New(
        /// Of the picture.
        #[oai(header = "ETag")]
        String,
    ),
    /// It has replaced another one, or was there already.
    #[oai(status = 204)]
    Replaced(
        /// Of the picture.
        #[oai(header = "ETag")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Users")]
impl Pictures {
    /// Set a user's picture
    ///
    /// A GIF, JPEG, PNG or WebP image of at most 256 KiB, recognized by its first bytes. With tokens, one's
    /// own user's, or with the scope `wiki:admin` anybody's.
    #[oai(path = "/users/:id/picture", method = "put", operation_id = "set_picture")]
    async fn put(
        &self,
        by: By<Writer>,
        /// The user's id.
        id: Path<Id>,
        image: Image<MAX_BYTES>,
    ) -> Result<Put, Failure<WritePictureFailure>> {
        // Idempotent: setting it again sets the same.
        note_repeatable();
        let user = id.0;
        let caller = by.0.caller.filter(|caller| !caller.is_admin);
        let sha256 = media::sha256(&image.bytes);
        let (beside, etag) = (media::columns(&sha256, &image.bytes), tag(&sha256));
        let again = Expr::col((Entity, Column::Version)).add(1);
        let replace = OnConflict::column(Column::UserId)
            .update_columns(["media_type", "sha256", "bytes"])
            .value(Column::Version, again)
            .to_owned();
        let condition = caller.as_deref().map(|caller| is_own_of(caller, user));
        let terms = Made { beside: beside.into(), condition, unique: Some(replace) };
        let picture = ActiveModel {
            user_id: Set(user),
            version: Set(1),
            media_type: Set(image.media_type.to_owned()),
        };
        let (set, bytes, length) =
            (self.set.clone(), self.media.bytes.clone(), image.bytes.len() as u64);
        let count = move |_: &_| {
            set.inc();
            bytes.inc_by(length);
        };
        let database = self.media.app.database()?;
        let inserted = database.insert_on(terms, picture, None, count).await;
        let inserted = inserted.map_err(|error| match error.sql_err() {
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => users::unknown(user),
            _ => error.into(),
        })?;
        match (inserted, caller) {
            (Inserted::Row(picture), caller) => {
                if caller.is_some() {
                    note_user(user.0);
                }
                Ok(if picture.version == 1 { Put::New(etag) } else { Put::Replaced(etag) })
            }
            (_, Some(caller)) => Err(self.refusal(&caller, user).await?.into()),
            (_, None) => Err(Problem::internal().into()),
        }
    }

    /// Read a user's picture
    #[oai(path = "/users/:id/picture", method = "get", operation_id = "read_picture")]
    async fn read(
        &self,
        /// The user's id.
        id: Path<Id>,
        /// One range of bytes, such as `bytes=0-99` or `bytes=-100`; for several, everything is sent.
        #[oai(name = "Range")]
        range: Header<Range>,
        /// The `ETag` that the range is of; if it is another one now, everything is sent.
        #[oai(name = "If-Range")]
        if_range: Header<IfRange>,
        headers: &HeaderMap,
    ) -> Result<Blob, Failure<ReadMediaFailure>> {
        let asked = Asked::new(range.0, if_range.0, headers);
        let found = Query::select()
            .expr_as(Expr::cust("NULL"), "filename")
            .from(Entity)
            .and_where(Expr::col(Column::UserId).eq(id.0))
            .to_owned();
        let picture = media::read(self.media.app.database()?, found, &asked).await?;
        Ok(picture.ok_or_else(|| no_picture(id.0))?)
    }

    /// Delete a user's picture
    ///
    /// One's own user's, or with the scope `wiki:admin` anybody's.
    #[oai(path = "/users/:id/picture", method = "delete", operation_id = "delete_picture")]
    async fn delete(
        &self,
        By(owner): By<Owner>,
        /// The user's id.
        id: Path<Id>,
    ) -> Result<Done, Failure<ChangeFailure>> {
        let (user, caller) = (id.0, owner.0);
        let mut delete = Query::delete().from_table(Entity).to_owned();
        delete.and_where(Expr::col(Column::UserId).eq(user));
        if !caller.is_admin {
            delete.and_where(Expr::col(Column::UserId).in_subquery(user_of(&caller)));
        }
        match media::delete(self.media.app.database()?, delete, &self.deleted).await? {
            true => Ok(Done::Done),
            false => Err(self.refusal(&caller, user).await?.into()),
        }
    }
}
