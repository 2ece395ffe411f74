//! The history of posts: how often one was edited, by whom and when last, and its previous texts, which
//! triggers keep, whoever edits it. Existing rows are at their first revision.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

#[derive(DeriveMigrationName)]
pub struct Migration;

// A text is different if its bytes are, whatever the column's collation considers equal. If an edit by hand
// does not count up the revision, the trigger does.
const POSTGRESQL: &str = r#"
ALTER TABLE posts
    ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS editor_id bigint,
    ADD COLUMN IF NOT EXISTS edited_time timestamp;
DO $$
BEGIN
    -- No row has an editor yet: there is nothing to look for.
    IF NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = 'posts'::regclass AND conname = 'posts_editor_id_fkey'
    ) THEN
        ALTER TABLE posts ADD CONSTRAINT posts_editor_id_fkey
            FOREIGN KEY (editor_id) REFERENCES users (id) ON DELETE SET NULL NOT VALID;
    END IF;
END
$$;
CREATE TABLE IF NOT EXISTS post_revisions (
    post_id bigint NOT NULL REFERENCES posts (post_id) ON DELETE CASCADE,
    revision bigint NOT NULL,
    content text NOT NULL,
    editor_id bigint REFERENCES users (id) ON DELETE SET NULL,
    created_time timestamp NOT NULL,
    PRIMARY KEY (post_id, revision)
);
CREATE INDEX IF NOT EXISTS post_revisions_editor_id ON post_revisions (editor_id)
    WHERE editor_id IS NOT NULL;
CREATE OR REPLACE FUNCTION save_post_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision = OLD.revision THEN
        NEW.revision := OLD.revision + 1;
        NEW.editor_id := NULL;
        NEW.edited_time := clock_timestamp() AT TIME ZONE 'UTC';
    END IF;
    INSERT INTO post_revisions (post_id, revision, content, editor_id, created_time)
    VALUES (
        OLD.post_id, OLD.revision, OLD.content, OLD.editor_id,
        coalesce(OLD.edited_time, OLD.created_time)
    );
    RETURN NEW;
END
$$;
DROP TRIGGER IF EXISTS save_post_revision ON posts;
CREATE TRIGGER save_post_revision BEFORE UPDATE ON posts FOR EACH ROW
    WHEN (OLD.content::text COLLATE "C" <> NEW.content::text COLLATE "C")
    EXECUTE FUNCTION save_post_revision();"#;

const COLUMNS: [(&str, &str); 3] = [
    ("revision", "INTEGER NOT NULL DEFAULT 1"),
    ("editor_id", "INTEGER REFERENCES users (id) ON DELETE SET NULL"),
    ("edited_time", "TEXT"),
];

// Times are kept as they were, and need not be texts.
const SQLITE: &str = "
CREATE TABLE IF NOT EXISTS post_revisions (
    post_id INTEGER NOT NULL REFERENCES posts (post_id) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    content TEXT NOT NULL,
    editor_id INTEGER REFERENCES users (id) ON DELETE SET NULL,
    created_time NOT NULL,
    PRIMARY KEY (post_id, revision)
);
CREATE INDEX IF NOT EXISTS post_revisions_editor_id ON post_revisions (editor_id)
    WHERE editor_id IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS save_post_revision AFTER UPDATE OF content ON posts
WHEN old.content COLLATE BINARY <> new.content
BEGIN
    INSERT INTO post_revisions (post_id, revision, content, editor_id, created_time)
    VALUES (
        old.post_id, old.revision, old.content, old.editor_id,
        coalesce(old.edited_time, old.created_time)
    );
    UPDATE posts
    SET revision = old.revision + 1, editor_id = NULL,
        edited_time = strftime('%Y-%m-%d %H:%M:%f', 'now')
    WHERE post_id = new.post_id AND revision = old.revision;
END;";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        if manager.get_database_backend() == DbBackend::Postgres {
            return connection.execute_unprepared(POSTGRESQL).await.map(drop);
        }
        // On SQLite a migration is not a transaction: an earlier attempt may have been cut off.
        for (column, definition) in COLUMNS {
            if !manager.has_column("posts", column).await? {
                let alter = format!("ALTER TABLE posts ADD COLUMN {column} {definition}");
                connection.execute_unprepared(&alter).await?;
            }
        }
        connection.execute_unprepared(SQLITE).await.map(drop)
    }
}
