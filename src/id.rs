//! The ids of users and posts.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde::Serialize;
use serde_json::Value;

/// A whole number from 0 to 2^63 - 1.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(transparent)]
pub struct Id(pub i64);

impl Id {
    pub const RANGE: &str = "a whole number from 0 to 9223372036854775807";

    /// From a JSON number. `1.0` is whole, as in JSON Schema.
    pub fn from_number(number: &serde_json::Number) -> Option<Self> {
        // 2^63 is the first float that is too large.
        let whole = |float: &f64| float.fract() == 0.0 && *float < i64::MAX as f64;
        let id = number.as_i64().or_else(|| number.as_f64().filter(whole).map(|f| f as i64))?;
        (id >= 0).then_some(Self(id))
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
            exclusive_maximum: Some(true),
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

impl ParseFromParameter for Id {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        match value.parse() {
            Ok(id @ 0..) if value.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(id)),
            _ => Err(ParseError::custom(Self::RANGE)),
        }
    }
}

impl ParseFromJSON for Id {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let id = value.as_ref().and_then(Value::as_number).and_then(Self::from_number);
        id.ok_or_else(|| ParseError::custom(Self::RANGE))
    }
}

impl ToJSON for Id {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.into())
    }
}
