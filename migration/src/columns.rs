//! Checks that the columns can hold what the service writes, in types that it can read. Tables that others
//! have made are adopted, and an unreadable column would be noticed only in the answer to an insert, when
//! the row is already written.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, Statement},
};

/// What is wrong with the columns on PostgreSQL, a row for each. A domain counts as its base type.
macro_rules! postgresql {
    () => {
        "
SELECT format(
    CASE WHEN attnum IS NULL THEN 'the table %s has no column %I, which must be %s'
        ELSE 'the column %s.%I must be %s, and not %s: ALTER TABLE %1$s ALTER %2$I TYPE %3$s' END,
    relation, name, needed[1], format_type(atttypid, atttypmod))
FROM (VALUES
    ('users', 'id', '{bigint}'::text[]), ('users', 'name', '{text,varchar,citext}'),
    ('users', 'created_time', '{timestamp}'), ('posts', 'post_id', '{bigint}'),
    ('posts', 'content', '{text,varchar,citext}'), ('posts', 'user_id', '{bigint}'),
    ('posts', 'created_time', '{timestamp}')
) AS wanted (relation, name, needed)
LEFT JOIN pg_attribute
    ON attrelid = to_regclass(relation) AND attname = name AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_type AS type ON type.oid = atttypid
WHERE attnum IS NULL OR coalesce(nullif(typbasetype, 0), atttypid) <> ALL (
    SELECT to_regtype(needed_type) FROM unnest(needed) AS needed_type
    WHERE to_regtype(needed_type) IS NOT NULL)"
    };
}
pub(crate) use postgresql;

/// The same on SQLite, where a column's affinity (datatype3.html, section 3.1) decides the type in which a
/// value is stored, and only an INTEGER PRIMARY KEY numbers its rows.
const SQLITE: &str = "
WITH found AS (
    SELECT relation, needed, name, upper(type) AS type, pk
    FROM (SELECT 'users' AS relation, 'id' AS needed, 'key' AS kind
        UNION ALL VALUES ('users', 'name', 'text'), ('users', 'created_time', 'time'),
            ('posts', 'post_id', 'key'), ('posts', 'content', 'text'),
            ('posts', 'user_id', 'number'), ('posts', 'created_time', 'time')) AS wanted
    LEFT JOIN pragma_table_info(relation) AS info ON info.name = needed
    WHERE CASE
        WHEN name IS NULL THEN 1
        WHEN kind = 'key' THEN NOT (upper(type) = 'INTEGER' AND pk = 1)
        WHEN kind = 'text' THEN upper(type) LIKE '%INT%'
            OR NOT (upper(type) GLOB '*CHAR*' OR upper(type) GLOB '*CLOB*'
                OR upper(type) GLOB '*TEXT*' OR upper(type) GLOB '*BLOB*' OR type = '')
        WHEN kind = 'number' THEN upper(type) NOT LIKE '%INT%'
            AND (upper(type) GLOB '*CHAR*' OR upper(type) GLOB '*CLOB*' OR upper(type) GLOB '*TEXT*'
                OR upper(type) GLOB '*REAL*' OR upper(type) GLOB '*FLOA*'
                OR upper(type) GLOB '*DOUB*')
    END
)
SELECT CASE WHEN name IS NULL
    THEN 'the table ' || relation || ' has no column ' || needed
    ELSE 'the column ' || relation || '.' || needed || ' must be '
        || CASE needed WHEN 'id' THEN 'INTEGER PRIMARY KEY' WHEN 'post_id' THEN 'INTEGER PRIMARY KEY'
            WHEN 'user_id' THEN 'INTEGER' ELSE 'TEXT' END
        || ', and not ' || type
    END
FROM found";

/// Fails with the names of the columns that the service could not read.
pub async fn check_columns(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    let backend = db.get_database_backend();
    let sql = if backend == DbBackend::Postgres { postgresql!() } else { SQLITE };
    // Trimmed, since the pool takes only statements that begin with SELECT for reads.
    let rows = db.query_all_raw(Statement::from_string(backend, sql.trim_start())).await?;
    let complaints: Result<Vec<String>, _> =
        rows.iter().map(|row| row.try_get_by_index(0)).collect();
    match complaints?.join("; ") {
        none if none.is_empty() => Ok(()),
        complaints => Err(DbErr::Custom(complaints)),
    }
}
