//! Indexes on tables that may have grown large. A transaction that builds one would hold up whoever
//! writes, so they are no migrations: on PostgreSQL they are built beside the requests.

use crate::search;

/// An index. A definition that changes is another index, by another name.
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

/// By which an `Idempotency-Key` writes once.
pub const USERS_KEY: Index = of_key("users_idempotency_key", "users");
const POSTS_KEY: Index = of_key("posts_idempotency_key", "posts");

const fn of_key(name: &'static str, table: &'static str) -> Index {
    let on = "(idempotency_key) WHERE idempotency_key IS NOT NULL";
    Index { name, table, unique: true, on }
}

/// By which each subject of an issuer of tokens has one user. It holds no user of nobody's, so that it
/// costs nothing where there is no issuer.
pub const USERS_SUBJECT: Index = Index {
    name: "users_subject",
    table: "users",
    unique: true,
    on: "(issuer, subject) WHERE subject IS NOT NULL",
};

/// For the posts that a user who is deleted was the last to edit.
const POSTS_EDITOR: Index = Index {
    name: "posts_editor_id",
    table: "posts",
    unique: false,
    on: "(editor_id) WHERE editor_id IS NOT NULL",
};

/// Those of both databases.
pub const INDEXES: &[Index] = &[POSTS_OF_USER, USERS_KEY, POSTS_KEY, USERS_SUBJECT, POSTS_EDITOR];

impl Index {
    /// All of them; `search` is whether that of the search is one.
    pub fn wanted(search: bool) -> Vec<Index> {
        INDEXES.iter().copied().chain(search.then_some(search::INDEX)).collect()
    }

    /// Builds it, on PostgreSQL and outside of any transaction, while others write.
    pub fn create_concurrently(&self) -> String {
        self.create("CONCURRENTLY")
    }

    /// Builds it, unless it is there; meanwhile nobody writes.
    pub fn create_at_once(&self) -> String {
        self.create("IF NOT EXISTS")
    }

    /// Builds it on PostgreSQL, if there is nothing to be built: in a new database it need not be
    /// waited for.
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
