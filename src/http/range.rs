//! Byte ranges (RFC 9110, section 14). The database reads only the bytes of the range.

use std::ops;

use poem::http::{HeaderMap, HeaderValue, header};
use sea_orm::sea_query::{CaseStatement, Expr, ExprTrait, Func};

use crate::http::{conditional::IfNoneMatch, parameter::InHead, problem::Problem};

/// The header `Range`, if it asks for one range of bytes. Several ranges may be answered with the whole, and
/// an invalid header is ignored (section 14.2). `headers::Range` drops a suffix that is longer than the
/// whole, and accepts a last byte that comes before the first.
#[derive(Clone, Copy)]
pub struct Range(Option<Bounds>);

#[derive(Clone, Copy)]
enum Bounds {
    /// From the first byte to the last, inclusive.
    Between(u64, u64),
    /// This many bytes at the end.
    Last(u64),
}

/// The header `If-Range`: the hash in the entity tag of the bytes that the range is of. Anything else is an
/// empty hash, which matches nothing.
pub struct IfRange(Option<String>);

/// What a request asks for of a file.
pub struct Asked {
    range: Range,
    if_range: IfRange,
    pub known: IfNoneMatch,
}

/// At least what PostgreSQL's bytea and SQLite's blobs can hold, and twice it still fits an `integer`.
const LARGEST: u64 = (1 << 30) - 1;

impl InHead for Range {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        Ok(Self(range.and_then(parse)))
    }
}

impl InHead for IfRange {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let hash = |value: &HeaderValue| {
            let tag = value.to_str().ok()?;
            tag.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)
        };
        Ok(Self(headers.get(header::IF_RANGE).map(|value| hash(value).unwrap_or_default())))
    }
}

fn parse(range: &str) -> Option<Bounds> {
    let (unit, ranges) = range.split_once('=')?;
    let mut ranges = ranges.split(',').map(str::trim).filter(|range| !range.is_empty());
    let (first, last) = ranges.next()?.split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.next().is_some() {
        return None;
    }
    match (first, last) {
        ("", last) => Some(Bounds::Last(number(last)?)),
        (first, "") => Some(Bounds::Between(number(first)?, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Bounds::Between(first, last))
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

impl Asked {
    pub fn new(range: Range, if_range: IfRange, headers: &HeaderMap) -> Self {
        Self { range, if_range, known: IfNoneMatch::of_read(headers) }
    }

    /// Selects what was asked for from the column `bytes`, whose hash is the column `sha256`.
    pub fn select(&self) -> Expr {
        let Some(bounds) = self.range.0 else { return Expr::col("bytes") };
        let part = bounds.select();
        let Some(if_range) = &self.if_range.0 else { return part };
        let is_same = Expr::col("sha256").eq(if_range);
        CaseStatement::new().case(is_same, part).finally(Expr::col("bytes")).into()
    }

    /// Which part of `size` bytes with this hash `select` has read; `None` is the whole. An error means that
    /// the range cannot be satisfied.
    pub fn of(&self, sha256: &str, size: u64) -> Result<Option<ops::Range<u64>>, Problem> {
        let differs = self.if_range.0.as_ref().is_some_and(|known| known != sha256);
        match self.range.0.filter(|_| !differs) {
            Some(bounds) => bounds.of(size).map(Some).ok_or_else(|| Problem::no_range(size)),
            None => Ok(None),
        }
    }
}

impl Bounds {
    fn select(self) -> Expr {
        let at_most = |number: u64| Ord::min(number, LARGEST) as i32;
        let substr = || Func::cust("substr").arg(Expr::col("bytes"));
        match self {
            Self::Between(first, last) => {
                let length = at_most((last - first).saturating_add(1));
                substr().arg(at_most(first) + 1).arg(length).into()
            }
            // The databases disagree on a start before the first byte.
            Self::Last(length) => {
                let size = || Expr::cust("length(bytes)");
                let part = substr().arg(size().sub(at_most(length)).add(1));
                let is_part = size().gt(at_most(length));
                CaseStatement::new().case(is_part, part).finally(Expr::col("bytes")).into()
            }
        }
    }

    fn of(self, size: u64) -> Option<ops::Range<u64>> {
        match self {
            Self::Between(first, last) => {
                (first < size).then(|| first..Ord::min(size, last.saturating_add(1)))
            }
            Self::Last(length) => (length > 0).then(|| size.saturating_sub(length)..size),
        }
    }
}
