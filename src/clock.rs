//! Points in time, as the API shows them: UTC, without a zone, to the microsecond.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, SubsecRound, Timelike, Utc};
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ToJSON, Type as OpenApiType},
};
use sea_orm::{
    ColIdx, ColumnType, DbErr, QueryResult, RuntimeErr, TryGetError, TryGetable, Value,
    sea_query::{ArrayType, Nullable, ValueType, ValueTypeErr},
    sqlx::{
        Decode, Postgres, Row, Type, error::BoxDynError, postgres::PgTypeInfo, postgres::PgValueRef,
    },
};
use serde::{Serialize, Serializer};

use crate::digits;

/// An example, as the API shows it.
pub const EXAMPLE: &str = "2024-12-14T10:30:00.123456";

const MIN: NaiveDateTime = NaiveDateTime::new(date(1, 1, 1), NaiveTime::MIN);
const MAX: NaiveDateTime = match NaiveTime::from_hms_micro_opt(23, 59, 59, 999_999) {
    Some(time) => NaiveDateTime::new(date(9999, 12, 31), time),
    None => panic!(),
};

const fn date(year: i32, month: u32, day: u32) -> NaiveDate {
    match NaiveDate::from_ymd_opt(year, month, day) {
        Some(date) => date,
        None => panic!(),
    }
}

/// A time in the database. Times outside the years 1 to 9999, PostgreSQL's `infinity` above all, are clamped
/// to the first or last microsecond of that range, which is that of Python's `datetime`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time(NaiveDateTime);

impl Time {
    /// To the microsecond: PostgreSQL stores no more, SQLite would.
    pub fn now() -> Self {
        Self(Utc::now().naive_utc().trunc_subsecs(6))
    }

    /// Always six digits after the second, as in [`EXAMPLE`].
    pub fn format(self) -> String {
        let mut text = EXAMPLE.as_bytes().to_vec();
        let mut put = |place, number: u32| digits::write::<10>(&mut text[place], number.into());
        let time = self.0;
        put(0..4, time.year() as u32);
        put(5..7, time.month());
        put(8..10, time.day());
        put(11..13, time.hour());
        put(14..16, time.minute());
        put(17..19, time.second());
        put(20..26, time.nanosecond() / 1000);
        String::from_utf8(text).expect("ASCII")
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0.and_utc().timestamp_micros()
    }

    pub fn from_micros(micros: i64) -> Option<Self> {
        DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc().into())
    }

    pub fn example() -> Self {
        EXAMPLE.parse().map(Self).expect("a time")
    }
}

impl From<NaiveDateTime> for Time {
    fn from(time: NaiveDateTime) -> Self {
        Self(time.clamp(MIN, MAX))
    }
}

/// PostgreSQL's `timestamp`, whose range is larger than chrono's: microseconds since 2000, with the two
/// infinities at the ends (`src/include/datatype/timestamp.h`).
struct Timestamp(i64);

const MICROSECONDS_TO_2000: i64 = 946_684_800_000_000;

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <NaiveDateTime as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <i64 as Decode<Postgres>>::decode(value).map(Self)
    }
}

impl From<Timestamp> for Time {
    fn from(Timestamp(microseconds): Timestamp) -> Self {
        let since_1970 = microseconds.saturating_add(MICROSECONDS_TO_2000);
        match DateTime::from_timestamp_micros(since_1970) {
            Some(time) => time.naive_utc().into(),
            None if microseconds < 0 => Self(MIN),
            None => Self(MAX),
        }
    }
}

impl TryGetable for Time {
    fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
        let Some(row) = row.try_as_pg_row() else {
            return NaiveDateTime::try_get_by(row, index).map(Self::from);
        };
        match row.try_get::<Option<Timestamp>, _>(index.as_sqlx_postgres_index()) {
            Ok(Some(time)) => Ok(time.into()),
            Ok(None) => Err(TryGetError::Null(format!("{index:?}"))),
            Err(error) => Err(DbErr::Query(RuntimeErr::SqlxError(Arc::new(error))).into()),
        }
    }
}

impl From<Time> for Value {
    fn from(time: Time) -> Self {
        time.0.into()
    }
}

impl ValueType for Time {
    fn try_from(value: Value) -> Result<Self, ValueTypeErr> {
        <NaiveDateTime as ValueType>::try_from(value).map(Self)
    }

    fn type_name() -> String {
        NaiveDateTime::type_name()
    }

    fn array_type() -> ArrayType {
        NaiveDateTime::array_type()
    }

    fn column_type() -> ColumnType {
        NaiveDateTime::column_type()
    }
}

impl Nullable for Time {
    fn null() -> Value {
        NaiveDateTime::null()
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.format())
    }
}

impl OpenApiType for Time {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "string".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            pattern: Some(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$".into()),
            ..MetaSchema::new("string")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for Time {
    fn to_json(&self) -> Option<serde_json::Value> {
        Some(self.format().into())
    }
}
