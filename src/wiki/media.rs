//! What pictures and attachments have in common: bytes in a row, identified by their hash.

use std::sync::Arc;

use prometheus::IntCounter;
use ring::digest::{SHA256, digest};
use sea_orm::{
    ConnectionTrait, DbErr,
    sea_query::{DeleteStatement, Expr, SelectStatement},
};

use crate::{
    app::App,
    database::pool::Database,
    digits,
    http::{
        blob::{Blob, tag},
        problem::Problem,
        range::Asked,
    },
    request::to_the_end,
};

/// The service, and how many bytes it has stored since the start.
#[derive(Clone)]
pub struct Media {
    pub app: Arc<App>,
    pub bytes: IntCounter,
}

impl Media {
    pub fn new(app: &Arc<App>) -> Self {
        let help = "Bytes of pictures and attachments stored since the start";
        Self { app: app.clone(), bytes: app.metrics.counter("media_bytes_total", help) }
    }
}

/// The hash of the bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    let words = hash.as_ref().chunks_exact(8).map(|word| word.try_into().expect("eight bytes"));
    digits::hex(&words.map(u64::from_be_bytes).collect::<Vec<_>>())
}

/// The columns of bytes with this hash, for an insert.
pub fn columns(sha256: &str, bytes: &[u8]) -> [(&'static str, Expr); 2] {
    [("sha256", Expr::val(sha256)), ("bytes", Expr::val(bytes))]
}

/// Reads what is `asked` for of the one row that is `found`.
pub async fn read(
    database: &Database,
    found: SelectStatement,
    asked: &Asked,
) -> Result<Option<Blob>, Problem> {
    // A client that already has the bytes must not cause them to be read.
    if asked.known.is_given() {
        match select(database, found.clone(), Expr::cust("NULL")).await? {
            Some(blob) if !asked.known.has(&tag(&blob.sha256)) => {}
            known => return Ok(known),
        }
    }
    let Some(mut blob) = select(database, found, asked.select()).await? else { return Ok(None) };
    blob.part = asked.of(&blob.sha256, blob.size)?;
    Ok(Some(blob))
}

async fn select(
    database: &Database,
    mut found: SelectStatement,
    bytes: Expr,
) -> Result<Option<Blob>, DbErr> {
    let size = Expr::cust("CAST(length(bytes) AS bigint)");
    found.columns(["media_type", "sha256"]).expr_as(size, "size").expr_as(bytes, "part");
    let Some(row) = database.query_one(&found).await? else { return Ok(None) };
    Ok(Some(Blob {
        bytes: row.try_get::<Option<Vec<u8>>>("", "part")?.unwrap_or_default(),
        media_type: row.try_get("", "media_type")?,
        filename: row.try_get("", "filename")?,
        sha256: row.try_get("", "sha256")?,
        size: row.try_get::<i64>("", "size")? as u64,
        part: None,
    }))
}

/// Deletes a row, and counts it; false if there is none. The 404 that follows confirms an earlier deletion,
/// so that waits for a synchronous standby.
pub async fn delete(
    database: &Database,
    delete: DeleteStatement,
    deleted: &IntCounter,
) -> Result<bool, Problem> {
    let (database, deleted) = (database.clone(), deleted.clone());
    let done = to_the_end(async move {
        let done = database.execute(&delete).await?.rows_affected() > 0;
        deleted.inc_by(done.into());
        if !done {
            database.confirm().await?;
        }
        Ok::<_, DbErr>(done)
    });
    Ok(done.await?)
}
