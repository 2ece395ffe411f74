//! Files attached to posts, at most ten for each.

use poem::http::HeaderMap;
use poem_openapi::{Object, OpenApi, types::Example};
use prometheus::IntCounter;
use sea_orm::{
    ActiveValue::NotSet,
    ColumnTrait, DerivePartialModel, EntityTrait, QueryFilter, QuerySelect, Set, SqlErr,
    sea_query::{Expr, ExprTrait, Query},
};
use serde::Serialize;

use crate::{
    clock::Time,
    database::insert::Inserted,
    http::{
        authorization::{By, not_own},
        blob::Blob,
        disposition::Filename,
        list::{Limit, Listed, Page},
        operation::{Created, Done, Failure},
        parameter::{Header, Path, Query as InQuery},
        problem::Problem,
        range::{Asked, IfRange, Range},
        text::OrNull,
        upload::{ANY, File},
    },
    id::Id,
    request::note_user,
    wiki::{
        Tag,
        editing::{Owner, Writer},
        failure::{ChangeFailure, ReadFailure, ReadMediaFailure, WriteAttachmentFailure},
        media::{self, Media},
        slots::{
            self,
            entity::{ActiveModel, Column, Entity},
        },
        subjects::user_of,
    },
};

/// A file that is attached to a post.
#[derive(DerivePartialModel, Object, Serialize)]
#[oai(example, read_only_all)]
#[sea_orm(entity = "Entity")]
struct Attachment {
    /// The attachment's id.
    attachment_id: Id,
    /// The id of the post that it is attached to.
    post_id: Id,
    /// What the file is called.
    filename: String,
    /// `image/gif`, `image/jpeg`, `image/png` or `image/webp`, by its first bytes; otherwise
    /// `application/octet-stream`.
    media_type: String,
    /// How many bytes it has.
    #[sea_orm(from_expr = "size()")]
    size: i32,
    /// The id of the user who added it; `null` if that is not known, or no longer.
    owner_id: OrNull<Id>,
    /// When it was added: UTC, without a zone, to the microsecond.
    created_time: Time,
}

fn size() -> Expr {
    Expr::cust("length(bytes)")
}

impl Example for Attachment {
    fn example() -> Self {
        Self {
            attachment_id: Id(1),
            post_id: Id(1),
            filename: "report.pdf".into(),
            media_type: ANY.into(),
            size: 48_213,
            owner_id: OrNull(Some(Id(1))),
            created_time: Time::example(),
        }
    }
}

/// The name of a file that is sent without one.
const UNNAMED: &str = "attachment";

#[derive(Clone)]
pub struct Attachments {
    media: Media,
    created: IntCounter,
    deleted: IntCounter,
}

impl Attachments {
    pub fn new(media: &Media) -> Self {
        let counter = |name, help| media.app.metrics.counter(name, help);
        Self {
            media: media.clone(),
            created: counter("attachments_created_total", "Attachments added since the start"),
            deleted: counter("attachments_deleted_total", "Attachments deleted since the start"),
        }
    }
}

#[OpenApi(tag = "Tag::Posts")]
impl Attachments {
    /// Add an attachment to a post
    ///
    /// A post has at most ten. The file's declared media type does not matter.
    #[oai(path = "/posts/:id/attachments", method = "post", operation_id = "create_attachment")]
    async fn create(
        &self,
        By(by): By<Writer>,
        /// The post's id.
        id: Path<Id>,
        /// The file's name in at most 255 characters: `attachment; filename="NAME"`, or for characters
        /// other than ASCII `filename*=UTF-8''NAME` (RFC 6266). Of a path, the last segment is used.
        #[oai(name = "Content-Disposition")]
        filename: Header<Filename>,
        file: File,
    ) -> Result<Created<Attachment>, Failure<WriteAttachmentFailure>> {
        let (post, created_time) = (id.0, Time::now());
        let filename = filename.0.0.unwrap_or_else(|| UNNAMED.into());
        let sha256 = media::sha256(&file.bytes);
        let database = self.media.app.database()?;
        // Each conflict means that somebody else has taken the slot.
        for _ in 0..slots::COUNT {
            let mut terms = slots::terms(&by, post);
            terms.beside.extend(media::columns(&sha256, &file.bytes));
            let row = ActiveModel {
                attachment_id: NotSet,
                post_id: Set(post),
                filename: Set(filename.clone()),
                media_type: Set(file.media_type.to_owned()),
                owner_id: NotSet,
                created_time: Set(created_time),
            };
            let (created, bytes) = (self.created.clone(), self.media.bytes.clone());
            let size = file.bytes.len();
            let count = move |_: &_| {
                created.inc();
                bytes.inc_by(size as u64);
            };
            let row = match database.insert_on(terms, row, None, count).await {
                Ok(Inserted::Row(row)) => row,
                Ok(_) => break,
                Err(error) => match error.sql_err() {
                    Some(SqlErr::UniqueConstraintViolation(_)) => continue,
                    Some(SqlErr::ForeignKeyConstraintViolation(_)) => break,
                    _ => return Err(error.into()),
                },
            };
            if let Some(owner) = row.owner_id {
                note_user(owner.0);
            }
            let attachment = Attachment {
                attachment_id: row.attachment_id,
                post_id: row.post_id,
                filename: row.filename,
                media_type: row.media_type,
                size: size as i32,
                owner_id: OrNull(row.owner_id),
                created_time: row.created_time,
            };
            let location = format!("../../attachments/{}", attachment.attachment_id);
            return Ok(Created::at(location, &attachment));
        }
        Err(slots::refusal(database, &by, post).await?.into())
    }

    /// List a post's attachments
    ///
    /// The newest first.
    #[oai(path = "/posts/:id/attachments", method = "get", operation_id = "list_attachments")]
    async fn list(
        &self,
        /// The post's id.
        id: Path<Id>,
        /// How many attachments at most.
        limit: InQuery<Limit>,
        /// Only attachments with a lower id.
        before: InQuery<Id>,
    ) -> Result<Listed<Attachment>, Failure<ReadFailure>> {
        let page = Page::new(limit, before);
        let database = self.media.app.database()?;
        let attachments = Entity::find().filter(Column::PostId.eq(id.0));
        let attachments = page.of(attachments, Column::AttachmentId).into_partial_model();
        let attachments: Vec<Attachment> = attachments.all(database).await?;
        if attachments.is_empty() {
            slots::author(database, id.0).await?;
        }
        Ok(page.answer(attachments, |attachment| attachment.attachment_id))
    }

    /// Read an attachment
    #[oai(path = "/attachments/:id", method = "get", operation_id = "read_attachment")]
    async fn read(
        &self,
        /// The attachment's id.
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
            .column(Column::Filename)
            .from(Entity)
            .and_where(Expr::col(Column::AttachmentId).eq(id.0))
            .to_owned();
        let attachment = media::read(self.media.app.database()?, found, &asked).await?;
        Ok(attachment.ok_or_else(|| not_there(id.0))?)
    }

    /// Delete an attachment
    ///
    /// One's own, or with the scope `wiki:admin` anybody's.
    #[oai(path = "/attachments/:id", method = "delete", operation_id = "delete_attachment")]
    async fn delete(
        &self,
        By(owner): By<Owner>,
        /// The attachment's id.
        id: Path<Id>,
    ) -> Result<Done, Failure<ChangeFailure>> {
        let caller = owner.0;
        let mut delete = Query::delete().from_table(Entity).to_owned();
        delete.and_where(Expr::col(Column::AttachmentId).eq(id.0));
        if !caller.is_admin {
            delete.and_where(Expr::col(Column::OwnerId).in_subquery(user_of(&caller)));
        }
        let database = self.media.app.database()?;
        if media::delete(database, delete, &self.deleted).await? {
            return Ok(Done::Done);
        }
        let ids = Entity::find_by_id(id.0).select_only().column(Column::AttachmentId);
        let is_there: Option<Id> = ids.into_tuple().one(database).await?;
        Err(match is_there {
            Some(id) if !caller.is_admin => not_own(format!("attachment {id} is not yours")),
            _ => not_there(id.0),
        }
        .into())
    }
}

fn not_there(id: Id) -> Problem {
    Problem::not_found(format!("there is no attachment {id}"))
}
