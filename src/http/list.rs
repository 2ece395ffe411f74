//! Lists, newest first and a page at a time. A page starts below the last id of the one before (keyset
//! pagination): rows added meanwhile shift nothing, and the last page costs no more than the first.

use std::{fmt::Display, str::FromStr};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use poem_openapi::{
    ApiResponse,
    registry::{MetaSchema, MetaSchemaRef},
    types::{ToJSON, Type},
};
use sea_orm::{IntoSimpleExpr, QueryFilter, QueryOrder, QuerySelect, sea_query::ExprTrait};
use serde::Serialize;

use crate::{
    http::{
        conditional::{self, NO_CACHE},
        json::Rendered,
        parameter::{InPath, InQuery, Query},
    },
    id::Id,
};

/// How many entries a page has at most: 1 to 100, 30 by default.
#[derive(Clone, Copy)]
pub struct Limit(u64);

const RANGE: std::ops::RangeInclusive<u64> = 1..=100;
const DEFAULT: u64 = 30;

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(limit) if RANGE.contains(&limit) && !text.starts_with('+') => Ok(Self(limit)),
            _ => Err("a whole number from 1 to 100"),
        }
    }
}

impl InQuery for Limit {
    fn schema() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            minimum: Some(*RANGE.start() as f64),
            maximum: Some(*RANGE.end() as f64),
            default: Some(DEFAULT.into()),
            ..MetaSchema::new("integer")
        }))
    }
}

impl InQuery for Id {
    fn schema() -> MetaSchemaRef {
        Self::schema_ref()
    }
}

impl InPath for Id {
    const NAME: &str = "id";
}

/// The page of a list that is asked for.
pub struct Page {
    limit: u64,
    before: Option<Id>,
    /// Other parameters for the next page's link: `q=…&`.
    kept: String,
}

impl Page {
    pub fn new(limit: Query<Limit>, before: Query<Id>) -> Self {
        Self {
            limit: limit.0.map_or(DEFAULT, |limit| limit.0),
            before: before.0,
            kept: String::new(),
        }
    }

    /// Keeps another parameter in the link to the next page.
    pub fn keeping(self, name: &str, value: impl Display) -> Self {
        let value = value.to_string();
        Self { kept: format!("{name}={}&", utf8_percent_encode(&value, NON_ALPHANUMERIC)), ..self }
    }

    /// How many rows to fetch: one more than are shown, to see whether there is a next page.
    pub fn rows(&self) -> u64 {
        self.limit + 1
    }

    /// The largest id that may be on it.
    pub fn upto(&self) -> i64 {
        self.before.map_or(i64::MAX, |before| before.0 - 1)
    }

    /// The rows of this page by their `key`, and one more if there is another page.
    pub fn of<Q: QueryFilter + QueryOrder + QuerySelect>(
        &self,
        select: Q,
        key: impl IntoSimpleExpr,
    ) -> Q {
        let key = key.into_simple_expr();
        let select = select.order_by_desc(key.clone()).limit(self.rows());
        match self.before {
            Some(before) => select.filter(key.lt(before)),
            None => select,
        }
    }

    /// The answer with these `rows`, fetched for this page; `key` gives a row's id.
    pub fn answer<T: Type + Serialize + ToJSON>(
        self,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> Id,
    ) -> Listed<T> {
        let is_last = rows.len() as u64 <= self.limit;
        rows.truncate(self.limit as usize);
        let next = rows.last().filter(|_| !is_last).map(|last| {
            let (kept, before, limit) = (&self.kept, key(last), self.limit);
            format!("<?{kept}before={before}&limit={limit}>; rel=\"next\"")
        });
        let body = Rendered::new(&rows);
        let etag = format!("W/{}", conditional::tag(&body));
        Listed::Page(body, next, etag, NO_CACHE.into())
    }
}

/// A page of a list.
#[derive(ApiResponse)]
pub enum Listed<T: Type + Serialize + ToJSON> {
    /// Newest first.
    #[oai(status = 200)]
    Page(
        Rendered<Vec<T>>,
        /// Where the next page is, if there is one: a relative reference with `rel="next"` (RFC 8288).
        #[oai(header = "Link")]
        Option<String>,
        /// Changes with what the page holds (RFC 9110, section 8.8.3).
        #[oai(header = "ETag")]
        String,
        /// `no-cache`: revalidate each time, with `If-None-Match`.
        #[oai(header = "Cache-Control")]
        String,
    ),
}
