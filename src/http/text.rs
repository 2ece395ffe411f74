//! Texts that clients send.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::Serialize;
use serde_json::Value;

/// A text of 1 to `MAX` characters that is not blank and holds no NUL, which PostgreSQL cannot store.
#[derive(Serialize)]
pub struct Text<const MAX: usize>(pub String);

/// Not all of it white space (Unicode's property, as Rust has it), and none of it NUL.
const PATTERN: &str = "^[^\\x00]*[^\\x00\\x09-\\x0d\\x20\\x85\\xa0\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
    \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}][^\\x00]*$";

impl<const MAX: usize> Text<MAX> {
    pub fn wanted() -> String {
        format!("give a text of 1 to {MAX} characters")
    }

    /// Or what is wrong with it, for behind its name.
    pub fn new(text: String) -> Result<Self, String> {
        let length = text.chars().count();
        if length > MAX {
            Err(format!("has {length} characters: at most {MAX} are allowed"))
        } else if text.contains('\0') {
            Err("contains the character NUL (U+0000), which is not allowed".into())
        } else if text.trim().is_empty() {
            Err(format!("is blank: {}", Self::wanted()))
        } else {
            Ok(Self(text))
        }
    }
}

impl<const MAX: usize> Type for Text<MAX> {
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
            pattern: Some(PATTERN.into()),
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

impl<const MAX: usize> ParseFromJSON for Text<MAX> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let text = value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
        Self::new(text).map_err(ParseError::custom)
    }
}

impl<const MAX: usize> ToJSON for Text<MAX> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.as_str().into())
    }
}
