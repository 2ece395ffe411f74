//! JSON in and out. Bodies are read field by field, so that an answer can name all that is wrong.

use poem::{IntoResponse, Request, RequestBody, Response, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    error::ContentTypeError,
    payload::Payload,
    registry::{MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    http::problem::{Invalid, Problem},
    id::Id,
};

const CONTENT_TYPE: &str = "application/json";

/// A body: `application/json`.
pub struct Json<T>(pub T);

/// A request's body, read from the fields of a JSON object.
pub trait FromFields: Type + Sized {
    /// `None` if a field is not valid; the fields remember why.
    fn from_fields(fields: &mut Fields) -> Option<Self>;
}

/// The fields of a JSON object, and what has been found wrong with them so far.
pub struct Fields {
    values: Map<String, Value>,
    errors: Vec<Invalid>,
}

impl Fields {
    /// A text of 1 to `max` characters that is not blank and holds no NUL, which PostgreSQL cannot
    /// store.
    pub fn text(&mut self, name: &'static str, max: usize) -> Option<String> {
        let wrong = match self.values.remove(name) {
            None => format!("{name} is missing: give a text of 1 to {max} characters"),
            Some(Value::String(text)) => {
                let length = text.chars().count();
                if length > max {
                    format!("{name} has {length} characters: at most {max} are allowed")
                } else if text.contains('\0') {
                    format!("{name} contains the character NUL (U+0000), which is not allowed")
                } else if text.trim().is_empty() {
                    format!("{name} is blank: give a text of 1 to {max} characters")
                } else {
                    return Some(text);
                }
            }
            Some(other) => {
                format!("{name} is {}: give a text of 1 to {max} characters", kind(&other))
            }
        };
        self.refuse(name, wrong)
    }

    pub fn id(&mut self, name: &'static str) -> Option<Id> {
        let wrong = match self.values.remove(name) {
            None => format!("{name} is missing: give {}", Id::RANGE),
            Some(Value::Number(number)) => match Id::from_number(&number) {
                Some(id) => return Some(id),
                None => format!("{name} is {number}: give {}", Id::RANGE),
            },
            Some(other) => format!("{name} is {}: give {}", kind(&other), Id::RANGE),
        };
        self.refuse(name, wrong)
    }

    fn refuse<T>(&mut self, name: &'static str, detail: String) -> Option<T> {
        self.errors.push(Invalid { pointer: format!("#/{name}"), detail });
        None
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn parse<T: FromFields>(body: &[u8]) -> Result<T, Problem> {
    let refuse = |detail: String| Problem::invalid(vec![Invalid { pointer: "#".into(), detail }]);
    let values = match serde_json::from_slice(body) {
        Ok(Value::Object(values)) => values,
        Ok(other) => {
            return Err(refuse(format!("the body must be a JSON object, but is {}", kind(&other))));
        }
        Err(_) if body.is_empty() => {
            return Err(refuse("the body is empty: send a JSON object".into()));
        }
        Err(error) => return Err(refuse(format!("the body is not valid JSON: {error}"))),
    };
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

    /// A body without a content type is taken as JSON, as the predecessor does.
    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> Result<Self> {
        let content_type = request.content_type().unwrap_or(CONTENT_TYPE);
        if content_type != CONTENT_TYPE
            && !<poem_openapi::payload::Json<T> as Payload>::check_content_type(content_type)
        {
            let content_type = content_type.to_owned();
            return Err(ContentTypeError::NotSupported { content_type }.into());
        }
        Ok(Self(parse(&body.take()?.into_bytes().await?)?))
    }
}

impl<T: Serialize + Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).expect("serializable");
        Response::builder().header(header::CONTENT_TYPE, CONTENT_TYPE).body(body)
    }
}

impl<T: Type + Serialize> Payload for Json<T> {
    const CONTENT_TYPE: &'static str = CONTENT_TYPE;

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Type + Serialize> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        let response = MetaResponse {
            description: "It was found.",
            status: Some(200),
            status_range: None,
            content: media_types::<T>(),
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

fn media_types<T: Type>() -> Vec<MetaMediaType> {
    vec![MetaMediaType { content_type: CONTENT_TYPE, schema: T::schema_ref() }]
}
