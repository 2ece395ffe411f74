//! Full-text search. A word is a run of letters and digits; the databases split texts by the same rule.

use std::{collections::BTreeSet, fmt, str::FromStr};

use migration::search::{INDEX, POSTGRESQL, SQLITE};
use poem::http::StatusCode;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use sea_orm::{
    ColumnTrait, DbBackend, DbErr, QueryFilter, QueryOrder, QuerySelect, Value,
    sea_query::{Expr, ExprTrait},
};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::{
    app::App,
    database::{error::is_overtime, pool::Database},
    http::{
        list::Page,
        parameter::InQuery,
        problem::{Invalid, Problem},
        text::WITHOUT_NUL,
    },
};

const MAX_CHARACTERS: usize = 1000;
/// PostgreSQL ignores longer words, in texts and in queries.
const MAX_WORD_BYTES: usize = 2046;

/// The database, if posts can be searched.
pub fn database(app: &App) -> Result<&Database, Problem> {
    if !app.database()?.indexes.has_search() {
        return Err(Problem::invalid(vec![Invalid {
            pointer: "#/query/q".into(),
            detail: "q is for the search, which this service has only with SEARCH=true".into(),
        }]));
    }
    app.database_with(&INDEX)
}

/// The problem of a failed search.
pub fn problem(error: DbErr) -> Problem {
    match is_overtime(&error) {
        true => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "so many posts have these words that sorting them took too long: add a rarer word",
        ),
        false => error.into(),
    }
}

/// The words to search for: a text with at least one word.
pub struct Search(String);

impl FromStr for Search {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let search = Self(text.to_owned());
        let fits = text.chars().count() <= MAX_CHARACTERS && !text.contains('\0');
        match fits && search.words().next().is_some() {
            true => Ok(search),
            false => {
                Err("a text of 1 to 1,000 characters with at least one word, of letters or digits")
            }
        }
    }
}

impl InQuery for Search {
    fn schema() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            min_length: Some(1),
            max_length: Some(MAX_CHARACTERS),
            // No pattern that all regex dialects understand can say that it must contain a word.
            pattern: Some(WITHOUT_NUL.into()),
            ..MetaSchema::new("string")
        }))
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Search {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(|c| !is_of_word(c)).filter(|word| !word.is_empty())
    }

    /// The page of those `posts` that have all of the words, by their `key`.
    pub fn of<Q: QueryFilter + QueryOrder + QuerySelect>(
        &self,
        page: &Page,
        posts: Q,
        key: impl ColumnTrait,
        backend: DbBackend,
    ) -> Q {
        if self.words().any(|word| word.len() > MAX_WORD_BYTES) {
            return page.of(posts.filter(Expr::val(false)), key);
        }
        match backend {
            DbBackend::Postgres => {
                let words = Expr::cust_with_values(POSTGRESQL, [&self.0]);
                // As an expression, since for a bare key the planner would rather walk the posts in its
                // order until it has found enough that match.
                page.of(posts.filter(words), key.into_expr().add(0))
            }
            _ => {
                // Each quoted, since AND and NEAR are plain words here.
                let words: BTreeSet<_> = self.words().map(|word| format!("\"{word}\"")).collect();
                let words = words.into_iter().collect::<Vec<_>>().join(" ");
                let (upto, rows) = (page.upto(), page.rows());
                let words = Expr::cust_with_values::<_, Value, _>(
                    SQLITE,
                    [words.into(), upto.into(), rows.into()],
                );
                page.of(posts.filter(words), key)
            }
        }
    }
}

/// The same as PostgreSQL's `[:alnum:]` with ICU, and as the categories that FTS5 is given.
fn is_of_word(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Letter
        || c.general_category() == GeneralCategory::DecimalNumber
}
