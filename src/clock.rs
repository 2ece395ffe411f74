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
    time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}
