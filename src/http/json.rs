//! JSON in and out. Bodies are read field by field, so that an answer can name everything that is wrong.

use std::{collections::BTreeMap, marker::PhantomData};

use hyper::body::Bytes;
use poem::{IntoResponse, Request, RequestBody, Response, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    http::{
        problem::{Invalid, Problem},
        text::{OrNull, Text},
        upload::refuse_coded,
    },
    id::Id,
};

const CONTENT_TYPE: &str = "application/json";

/// A request body, `application/json`.
pub struct Json<T>(pub T);

/// A request's body, read from the fields of a JSON object.
pub trait FromFields: Type + Sized {
    /// `None` if a field is not valid; the fields remember why.
    fn from_fields(fields: &mut Fields<'_>) -> Option<Self>;
}

/// The fields of a JSON object, and what was found wrong with them so far. A value is parsed only when
/// it is asked for, so that a number nobody asks for may have any size (RFC 8259, section 6).
pub struct Fields<'a> {
    values: BTreeMap<String, &'a RawValue>,
    errors: Vec<Invalid>,
}

impl Fields<'_> {
    pub fn text<const MAX: usize, const MAY_BE_BLANK: bool>(
        &mut self,
        name: &'static str,
    ) -> Option<Text<MAX, MAY_BE_BLANK>> {
        let wanted = Text::<MAX, MAY_BE_BLANK>::wanted();
        let wrong = match self.values.remove(name).map(RawValue::get) {
            None => format!("is missing: {wanted}"),
            Some(json) if json.starts_with('"') => match serde_json::from_str(json) {
                Ok(text) => match Text::new(text) {
                    Ok(text) => return Some(text),
                    Err(wrong) => wrong,
                },
                // Anything else wrong with a string was already found when the body was parsed.
                Err(_) => "contains half of a surrogate pair, which is no character".into(),
            },
            Some(json) => format!("is {}: {wanted}", kind(json)),
        };
        self.refuse(name, format!("{name} {wrong}"))
    }

    /// A text, or `null`.
    pub fn nullable_text<const MAX: usize, const MAY_BE_BLANK: bool>(
        &mut self,
        name: &'static str,
    ) -> Option<OrNull<Text<MAX, MAY_BE_BLANK>>> {
        match self.values.get(name).map(|value| value.get()) {
            Some("null") => Some(OrNull(None)),
            _ => self.text(name).map(|text| OrNull(Some(text))),
        }
    }

    /// A text, or nothing at all.
    pub fn optional_text<const MAX: usize, const MAY_BE_BLANK: bool>(
        &mut self,
        name: &'static str,
    ) -> Option<Option<Text<MAX, MAY_BE_BLANK>>> {
        match self.values.contains_key(name) {
            true => self.text(name).map(Some),
            false => Some(None),
        }
    }

    pub fn id(&mut self, name: &'static str) -> Option<Id> {
        let wrong = match self.values.remove(name).map(RawValue::get) {
            None => format!("{name} is missing: give {}", Id::RANGE),
            Some(json) => match Id::from_json(json) {
                Some(id) => return Some(id),
                None if kind(json) != NUMBER => {
                    format!("{name} is {}: give {}", kind(json), Id::RANGE)
                }
                None => {
                    let json = json.get(..40).unwrap_or(json);
                    format!("{name} is {json}: give {}, as digits alone", Id::RANGE)
                }
            },
        };
        self.refuse(name, wrong)
    }

    fn refuse<T>(&mut self, name: &'static str, detail: String) -> Option<T> {
        self.errors.push(Invalid { pointer: format!("#/{name}"), detail });
        None
    }
}

const NUMBER: &str = "a number";

/// The type of a valid JSON value.
fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "a text",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        _ => NUMBER,
    }
}

fn parse<T: FromFields>(body: &[u8]) -> Result<T, Problem> {
    let refuse = |detail: String| Problem::invalid(vec![Invalid { pointer: "#".into(), detail }]);
    if body.is_empty() {
        return Err(refuse("the body is empty: send a JSON object".into()));
    }
    let Ok(json) = str::from_utf8(body) else {
        return Err(refuse("the body is not UTF-8, as JSON has to be (RFC 8259)".into()));
    };
    // A byte order mark may be ignored (RFC 8259, section 8.1).
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    let values = serde_json::from_str(json).map_err(|error| {
        refuse(match serde_json::from_str::<&RawValue>(json) {
            Ok(object) if object.get().starts_with('{') => {
                "a field's name contains half of a surrogate pair, which is no character".into()
            }
            Ok(other) => {
                format!("the body must be a JSON object, but is {}", kind(other.get()))
            }
            Err(_) => format!("the body is not valid JSON: {error}"),
        })
    })?;
    let mut fields = Fields { values, errors: Vec::new() };
    T::from_fields(&mut fields).ok_or_else(|| Problem::invalid(fields.errors))
}

impl<'a, T: FromFields> ApiExtractor<'a> for Json<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Some(MetaRequest { description: None, content: media_types::<T>(), required: true })
    }

    /// A body without a content type is taken as JSON, as FastAPI did for years.
    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        refuse_coded(request.headers())?;
        let content_type = request.content_type().unwrap_or(CONTENT_TYPE);
        if content_type != CONTENT_TYPE
            && !<poem_openapi::payload::Json<T> as Payload>::check_content_type(content_type)
        {
            let detail = format!("send the body as {CONTENT_TYPE}, not as {content_type}");
            return Err(Problem::unsupported(detail, &("accept", CONTENT_TYPE)).into());
        }
        Ok(Self(parse(&body.take()?.into_bytes().await?)?))
    }
}

/// A response body, `application/json`.
pub struct Rendered<T>(Bytes, PhantomData<fn() -> T>);

impl<T: Serialize> Rendered<T> {
    pub fn new(body: &T) -> Self {
        // Enough for most, which would otherwise be reallocated twice.
        let mut bytes = Vec::with_capacity(512);
        serde_json::to_writer(&mut bytes, body).expect("serializable");
        Self(bytes.into(), PhantomData)
    }
}

impl<T: Serialize> From<&T> for Rendered<T> {
    fn from(body: &T) -> Self {
        Self::new(body)
    }
}

impl<T> From<Bytes> for Rendered<T> {
    fn from(bytes: Bytes) -> Self {
        Self(bytes, PhantomData)
    }
}

impl<T> Rendered<T> {
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl<T> IntoResponse for Rendered<T> {
    fn into_response(self) -> Response {
        Response::builder().header(header::CONTENT_TYPE, CONTENT_TYPE).body(self.0)
    }
}

impl<T: Type> Payload for Rendered<T> {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

fn media_types<T: Type>() -> Vec<MetaMediaType> {
    vec![MetaMediaType { content_type: CONTENT_TYPE, schema: T::schema_ref() }]
}
