//! Full-text search over posts. A word is a run of letters and decimal digits (the categories L* and
//! Nd), on both databases, whatever the case.

use std::ops::RangeInclusive;

use crate::indexes::Index;

/// The words of a text, for PostgreSQL, in lower case and separated by blanks. The parser behind
/// `to_tsvector` would treat addresses and signed numbers specially; and by the database's own collation,
/// which may be C, only ASCII letters might count.
macro_rules! words {
    ($text:literal) => {
        concat!(
            "lower(regexp_replace(",
            $text,
            " COLLATE \"und-x-icu\", '[^[:alnum:]]+', ' ', 'g'))"
        )
    };
}

/// What is indexed: a tsvector is limited to 1 MB, and an adopted post may be longer.
macro_rules! indexed {
    () => {
        concat!("to_tsvector('simple', ", words!("left(content, 100000)"), ")")
    };
}

/// On PostgreSQL. Its list of pending entries (`fastupdate`, on by default) makes an insert of fifty words ten
/// times cheaper, at the price of one insert in some hundreds that has to flush the list.
pub const INDEX: Index = Index {
    name: "posts_search",
    table: "posts",
    unique: false,
    on: concat!("USING gin (", indexed!(), ")"),
};

/// Whether a post has all words of a text.
pub const POSTGRESQL: &str =
    concat!(indexed!(), " @@ plainto_tsquery('simple', ", words!("$1::text"), ")");

/// Fails if the server cannot split texts into words as above.
pub const CHECK: &str = concat!("SELECT ", words!("'É-1'"));

/// On SQLite, an index that triggers maintain, so that older versions do, too. It has no copy of the text.
const TABLE: &str = "posts_search";

/// The posts that have all words of an FTS5 query, newest first: at most so many, from an id downwards.
pub const SQLITE: &str = "post_id IN (SELECT rowid FROM posts_search \
     WHERE posts_search MATCH ? AND rowid <= ? ORDER BY rowid DESC LIMIT ?)";

/// Indexes so many of the posts that are older than the triggers, and returns the id up to which posts are
/// left; no row if none are.
pub const FILL: &str = "UPDATE posts_search_left SET upto = coalesce(\
         (SELECT post_id FROM posts WHERE post_id <= upto ORDER BY post_id DESC LIMIT 1 OFFSET ?), 0) \
     WHERE upto > 0 RETURNING upto";

/// How many of the tables and triggers below exist.
pub const COUNT: &str = "SELECT count(*) FROM sqlite_schema WHERE name IN \
     ('posts_search', 'posts_search_left', 'posts_search_insert', 'posts_search_delete', \
     'posts_search_update', 'posts_search_fill')";
pub const ALL: i64 = 6;

pub const DROP: &str = "
DROP TRIGGER IF EXISTS posts_search_insert;
DROP TRIGGER IF EXISTS posts_search_delete;
DROP TRIGGER IF EXISTS posts_search_update;
DROP TABLE IF EXISTS posts_search_left;
DROP TABLE IF EXISTS posts_search;";

/// What FTS5 takes for letters, since its tables are those of Unicode 7: currency signs, marks, punctuation,
/// pictographs.
const SEPARATORS: &[RangeInclusive<char>] = &[
    '\u{61c}'..='\u{61c}',
    '\u{898}'..='\u{89f}',
    '\u{8ca}'..='\u{8e3}',
    '\u{1ab0}'..='\u{1aff}',
    '\u{1dc0}'..='\u{1dff}',
    '\u{2066}'..='\u{2069}',
    '\u{20ba}'..='\u{20cf}',
    '\u{218a}'..='\u{218b}',
    '\u{23f4}'..='\u{23ff}',
    '\u{2b4d}'..='\u{2bff}',
    '\u{2e3c}'..='\u{2e7f}',
    '\u{fe20}'..='\u{fe2f}',
    '\u{1f000}'..='\u{1faff}',
];

/// Marks that FTS5 keeps within a word whatever its options, so we replace them. (See its function
/// `sqlite3Fts5UnicodeIsdiacritic`.)
const DIACRITICS: &[RangeInclusive<char>] = &[
    '\u{300}'..='\u{304}',
    '\u{306}'..='\u{30c}',
    '\u{30f}'..='\u{30f}',
    '\u{311}'..='\u{311}',
    '\u{31b}'..='\u{31b}',
    '\u{323}'..='\u{328}',
    '\u{32d}'..='\u{32e}',
    '\u{330}'..='\u{331}',
];

/// A column's text without the diacritics. Calls are nested only a few deep, since before version 3.46
/// SQLite's parser has a stack of 100 entries, and every program that opens the file parses this.
fn plain(column: &str) -> String {
    let diacritics: Vec<char> = DIACRITICS.iter().cloned().flatten().collect();
    let text = format!("SELECT substr({column}, 1, 100000) AS text");
    let plain = diacritics.chunks(9).fold(text, |from, marks| {
        let replaced = marks.iter().fold("text".to_owned(), |text, mark| {
            format!("replace({text}, char({}), ' ')", *mark as u32)
        });
        format!("SELECT {replaced} AS text FROM ({from})")
    });
    format!(
        "CASE WHEN {column} GLOB '*[\u{300}-\u{331}]*' THEN ({plain}) \
         ELSE substr({column}, 1, 100000) END"
    )
}

/// The index, still empty, and the triggers. A row is removed only if it was indexed: deleting an entry that
/// does not exist would corrupt the FTS5 index.
pub fn create() -> String {
    let separators: String = SEPARATORS.iter().cloned().flatten().collect();
    let (new, old, content) = (plain("new.content"), plain("old.content"), plain("content"));
    let remove = format!(
        "INSERT INTO {TABLE} ({TABLE}, rowid, content) SELECT 'delete', old.post_id, {old}
        WHERE EXISTS (SELECT 1 FROM {TABLE}_docsize WHERE id = old.post_id);"
    );
    let add = format!("INSERT INTO {TABLE} (rowid, content) VALUES (new.post_id, {new});");
    format!(
        "{DROP}
CREATE VIRTUAL TABLE {TABLE} USING fts5(content, content = '', detail = none,
    tokenize = \"unicode61 remove_diacritics 0 categories 'L* Nd' separators '{separators}'\");
CREATE TABLE {TABLE}_left (upto INTEGER NOT NULL);
INSERT INTO {TABLE}_left SELECT coalesce(max(post_id), 0) FROM posts;
CREATE TRIGGER {TABLE}_insert AFTER INSERT ON posts BEGIN {add} END;
CREATE TRIGGER {TABLE}_delete AFTER DELETE ON posts BEGIN {remove} END;
CREATE TRIGGER {TABLE}_update AFTER UPDATE OF post_id, content ON posts BEGIN {remove} {add} END;
CREATE TRIGGER {TABLE}_fill AFTER UPDATE ON {TABLE}_left BEGIN
    INSERT INTO {TABLE} (rowid, content) SELECT post_id, {content} FROM posts
        WHERE post_id > new.upto AND post_id <= old.upto
            AND NOT EXISTS (SELECT 1 FROM {TABLE}_docsize WHERE id = post_id);
END;"
    )
}
