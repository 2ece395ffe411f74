//! Texts that clients send.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use sea_orm::{ColIdx, QueryResult, TryGetError, TryGetable};
use serde::Serialize;
use serde_json::Value;

/// A text of 1 to `MAX` characters without NUL, which PostgreSQL cannot store. It is not blank unless it
/// `MAY_BE_BLANK`.
#[derive(Clone, Serialize)]
pub struct Text<const MAX: usize, const MAY_BE_BLANK: bool = false>(pub String);

pub const WITHOUT_NUL: &str = "^[^\\x00]*$";
/// Not all of it white space (Unicode's property, as Rust has it), and none of it NUL.
const NOT_BLANK: &str = "^[^\\x00]*[^\\x00\\x09-\\x0d\\x20\\x85\\xa0\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
    \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}][^\\x00]*$";

impl<const MAX: usize, const MAY_BE_BLANK: bool> Text<MAX, MAY_BE_BLANK> {
    pub fn wanted() -> String {
        format!("give a text of 1 to {MAX} characters")
    }

    /// The error says what is wrong, to follow the field's name.
    pub fn new(text: String) -> Result<Self, String> {
        let length = text.chars().count();
        if length > MAX {
            Err(format!("has {length} characters: at most {MAX} are allowed"))
        } else if text.contains('\0') {
            Err("contains the character NUL (U+0000), which is not allowed".into())
        } else if text.is_empty() || !MAY_BE_BLANK && text.trim().is_empty() {
            Err(format!("is blank: {}", Self::wanted()))
        } else {
            Ok(Self(text))
        }
    }
}

impl<const MAX: usize, const MAY_BE_BLANK: bool> Type for Text<MAX, MAY_BE_BLANK> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "string".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            min_length: Some(1),
            max_length: Some(MAX),
            pattern: Some(if MAY_BE_BLANK { WITHOUT_NUL } else { NOT_BLANK }.into()),
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

impl<const MAX: usize, const MAY_BE_BLANK: bool> ParseFromJSON for Text<MAX, MAY_BE_BLANK> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let text = value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        Self::new(text).map_err(ParseError::custom)
    }
}

impl<const MAX: usize, const MAY_BE_BLANK: bool> ToJSON for Text<MAX, MAY_BE_BLANK> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.as_str().into())
    }
}

/// A value or `null`; unlike an optional field, it must not be missing.
#[derive(Default, Serialize)]
pub struct OrNull<T>(pub Option<T>);

impl<T: TryGetable> TryGetable for OrNull<T> {
    fn try_get_by<I: ColIdx>(row: &QueryResult, index: I) -> Result<Self, TryGetError> {
        Option::try_get_by(row, index).map(Self)
    }
}

impl<T: Type> Type for OrNull<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        format!("nullable_{}", T::name()).into()
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref().merge(MetaSchema { nullable: true, ..MetaSchema::ANY })
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: ParseFromJSON> ParseFromJSON for OrNull<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        Option::parse_from_json(value).map(Self).map_err(ParseError::propagate)
    }
}

impl<T: ToJSON> ToJSON for OrNull<T> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.to_json().unwrap_or_default())
    }
}
