//! Indexes on tables that may have grown large. A transaction that builds one would block writers, so they
//! are not migrations: on PostgreSQL they are built while requests are served.

use crate::search;

/// An index. A changed definition needs a new name.
#[derive(Clone, Copy)]
pub struct Index {
    pub name: &'static str,
    pub table: &'static str,
    pub unique: bool,
    /// What follows the table's name: `(column) WHERE …`, or on PostgreSQL `USING …`.
    pub on: &'static str,
}

/// For the posts of a user, newest first.
pub const POSTS_OF_USER: Index = Index {
    name: "posts_user_id_post_id",
    table: "posts",
    unique: false,
    on: "(user_id, post_id)",
};

/// Keeps an `Idempotency-Key` from writing twice.
pub const USERS_KEY: Index = of_key("users_idempotency_key", "users");
const POSTS_KEY: Index = of_key("posts_idempotency_key", "posts");

const fn of_key(name: &'static str, table: &'static str) -> Index {
    let on = "(idempotency_key) WHERE idempotency_key IS NOT NULL";
    Index { name, table, unique: true, on }
}

/// Keeps a subject of an issuer of tokens from having two users. Users without a subject are not in it, so
/// it costs nothing without an issuer.
pub const USERS_SUBJECT: Index = Index {
    name: "users_subject",
    table: "users",
    unique: true,
    on: "(issuer, subject) WHERE subject IS NOT NULL",
};

/// For the posts that a deleted user was the last to edit.
const POSTS_EDITOR: Index = Index {
    name: "posts_editor_id",
    table: "posts",
    unique: false,
    on: "(editor_id) WHERE editor_id IS NOT NULL",
};

/// The indexes of both databases.
pub const INDEXES: &[Index] = &[POSTS_OF_USER, USERS_KEY, POSTS_KEY, USERS_SUBJECT, POSTS_EDITOR];

impl Index {
    /// All wanted indexes; `search` adds that of the search.
    pub fn wanted(search: bool) -> Vec<Index> {
        INDEXES.iter().copied().chain(search.then_some(search::INDEX)).collect()
    }

    /// Builds it while others write: on PostgreSQL, outside a transaction.
    pub fn create_concurrently(&self) -> String {
        self.create("CONCURRENTLY")
    }

    /// Builds it unless it exists, and blocks writers meanwhile.
    pub fn create_at_once(&self) -> String {
        self.create("IF NOT EXISTS")
    }

    /// Builds it on PostgreSQL if its table is empty, so that a new database has it at once.
    pub fn create_if_empty(&self) -> String {
        let (table, create) = (self.table, self.create_at_once());
        format!("DO $$ BEGIN IF NOT EXISTS (SELECT FROM {table}) THEN {create}; END IF; END $$")
    }

    fn create(&self, how: &str) -> String {
        let Self { name, table, unique, on } = self;
        let unique = if *unique { "UNIQUE " } else { "" };
        format!("CREATE {unique}INDEX {how} {name} ON {table} {on}")
    }
}
