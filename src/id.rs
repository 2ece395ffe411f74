//! The ids of users and posts.

use std::{borrow::Cow, fmt, str::FromStr};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use sea_orm::DeriveValueType;
use serde::Serialize;
use serde_json::Value;

/// A whole number from 0 to 2^63 - 1.
#[derive(Clone, Copy, Debug, Default, DeriveValueType, Eq, Hash, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Id(pub i64);

impl Id {
    pub const RANGE: &str = "a whole number from 0 to 9223372036854775807";

    /// From a valid JSON value. `1.0` is an integer, as in JSON Schema; but from 2^53 on, a float may not
    /// be the number that was meant.
    pub fn from_json(json: &str) -> Option<Self> {
        const INTEGERS: f64 = (1_u64 << 53) as f64;
        let id = json.parse().ok().or_else(|| {
            let whole = |float: &f64| *float < INTEGERS && is_whole(json);
            json.parse().ok().filter(whole).map(|float| float as i64)
        })?;
        (id >= 0).then_some(Self(id))
    }
}

/// Whether a JSON number is an integer, with its exponent applied. Looks at the digits, since a float
/// would be rounded.
fn is_whole(json: &str) -> bool {
    let (digits, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    let (before, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let behind = behind.trim_end_matches('0');
    let zeros = before.len() - before.trim_end_matches('0').len();
    match exponent.parse::<i64>() {
        _ if before.trim_start_matches('-') == "0" && behind.is_empty() => true,
        Ok(exponent @ 0..) => behind.len() as i64 <= exponent,
        Ok(exponent) => behind.is_empty() && zeros as i64 >= -exponent,
        Err(_) => false,
    }
}

impl Type for Id {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "integer_int64".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            minimum: Some(0.0),
            maximum: Some(i64::MAX as f64),
            ..MetaSchema::new_with_format("integer", "int64")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id @ 0..) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(id)),
            _ => Err(Self::RANGE),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ParseFromJSON for Id {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let id = value.and_then(|value| Self::from_json(&value.to_string()));
        id.ok_or_else(|| ParseError::custom(Self::RANGE))
    }
}

impl ToJSON for Id {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.into())
    }
}
