//! Points in time, as the API has them: UTC, without a zone, to the microsecond.

use chrono::{NaiveDateTime, SubsecRound, Utc};

/// An example, as the API shows it.
pub const EXAMPLE: &str = "2024-12-14T10:30:00.123456";

/// Now, to the microsecond: PostgreSQL keeps no more, SQLite would.
pub fn now() -> NaiveDateTime {
    Utc::now().naive_utc().trunc_subsecs(6)
}

/// Always six digits after the second, as in [`EXAMPLE`].
pub fn format(time: NaiveDateTime) -> String {
    // Debug is ISO 8601, and without its fraction a fifth of the work of a format that is parsed.
    let (second, fraction) = (time.trunc_subsecs(0), time.and_utc().timestamp_subsec_micros());
    format!("{second:?}.{fraction:06}")
}
